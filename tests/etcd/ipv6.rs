//! IPv6 inside, with IPv4 or IPv6 outside.

use std::net::IpAddr;

use super::World;
use super::host::{Daemon, Host};
use super::stream::Stream;

/// Both hosts with an address outside, and their daemons joined.
fn start(world: &World) -> [Daemon<'_>; 2] {
    for (host, number) in [(&world.left, 2), (&world.right, 3)] {
        let address = format!("fd10:168::{number}/64");
        host.run(&["ip", "address", "add", &address, "dev", &host.underlay(), "nodad"]);
    }
    let (left, right) = world.start();
    [left, right]
}

/// Gives the host's pod the first address of its subnet of one family.
fn pod(host: &Host, daemon: &Daemon<'_>, family: &str) -> IpAddr {
    let lease = daemon.ask("status")["lease"].clone();
    let (first, length) = lease[family].as_str().unwrap().split_once('/').unwrap();
    let address = match first.strip_suffix(".0") {
        Some(v4) => format!("{v4}.1"),
        None => format!("{first}1"),
    };
    let net = format!("{address}/{length}");
    let nodad: &[&str] = if family == "subnet" { &[] } else { &["nodad"] };
    host.run(&[&["ip", "address", "replace", &net, "dev", "c1"], nodad].concat());
    address.parse().unwrap()
}

fn leaves(world: &World) -> Vec<(String, String)> {
    let keys = world.etcd[0].keys(&super::key(""));
    let value = |key: &String| world.etcd[0].value(key).unwrap();
    keys.iter().map(|key| (key.rsplit_once('/').unwrap().1.to_owned(), value(key))).collect()
}

#[test]
fn both_families_share_one_key() {
    let Some(world) = World::new() else { return };
    world.put_config(
        r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"udp"}}"#,
    );
    let [left, right] = start(&world);
    let subnets = |daemon: &Daemon<'_>| {
        let lease = daemon.ask("status")["lease"].clone();
        let text = |key: &str| lease[key].as_str().unwrap().replace('/', "-");
        format!("{}&{}", text("subnet"), text("ipv6_subnet"))
    };
    let stored = leaves(&world);
    let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
    // The subnets are drawn, so either may come first.
    let mut expected = [subnets(&left), subnets(&right)];
    expected.sort();
    assert_eq!(names, expected);
    let own = stored.iter().find(|(name, _)| *name == subnets(&left)).unwrap();
    assert!(
        own.1.starts_with(r#"{"PublicIP":"10.168.0.2","PublicIPv6":"fd10:168::2","Weft""#),
        "{own:?}"
    );
    let file = std::fs::read_to_string(world.left.subnet_file()).unwrap();
    assert!(file.contains("FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:"), "{file}");

    let (near, far) =
        (pod(&world.left, &left, "ipv6_subnet"), pod(&world.right, &right, "ipv6_subnet"));
    let v6 = Stream::from_to((&world.left, near), (&world.right, far));
    let (near_v4, far_v4) =
        (pod(&world.left, &left, "subnet"), pod(&world.right, &right, "subnet"));
    let v4 = Stream::from_to((&world.left, near_v4), (&world.right, far_v4));
    let ping = [
        "ping",
        "-6",
        "-c",
        "3",
        "-i",
        "0.05",
        "-W",
        "2",
        "-I",
        &near.to_string(),
        &far.to_string(),
    ];
    world.left.run(&ping);
    assert_eq!(left.ask("peers")["peers"][0]["outer"], "10.168.0.3:8285");
    v6.check("IPv6 inside");
    v6.end();
    v4.end();
}

#[test]
fn ipv6_alone_inside_and_outside() {
    let Some(world) = World::new() else { return };
    world.put_config(
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"udp"}}"#,
    );
    let [left, right] = start(&world);
    for (name, value) in leaves(&world) {
        assert!(name.starts_with("0.0.0.0-0&fd44:") && name.ends_with("::-64"), "{name}");
        assert!(value.starts_with(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd10:168::"#), "{value}");
    }
    assert_eq!(left.ask("peers")["peers"][0]["outer"], "[fd10:168::3]:8285");
    assert_eq!(left.ask("status")["device"]["mtu"], 1452);
    let file = std::fs::read_to_string(world.left.subnet_file()).unwrap();
    assert!(!file.contains("FLANNEL_NETWORK") && file.contains("FLANNEL_MTU=1452"), "{file}");
    let (near, far) =
        (pod(&world.left, &left, "ipv6_subnet"), pod(&world.right, &right, "ipv6_subnet"));
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    world.etcd[0].signal("STOP");
    stream.check("a silent store");
    world.etcd[0].signal("CONT");
    stream.end();
}
