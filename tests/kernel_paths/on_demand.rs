//! `"OnDemand": true`: what the kernel needs for a peer is made when it asks for it.

use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use crate::flannel::{set_up_device, set_up_peer};
use crate::host::{Daemon, Host};
use crate::stream::Stream;
use crate::world::{
    Families, World, answers, entries, join, link, mac, neighbours, ping, pod, pods, routes,
};

const ON_DEMAND: &str = r#"{"Type":"vxlan","OnDemand":true}"#;

/// Every echo must come back, the first one included.
fn ping_without_loss(from: &Host, near: IpAddr, far: IpAddr) {
    let (near, far) = (near.to_string(), far.to_string());
    // Once there was a reply, ping waits for the last one no longer than an interval.
    let said = from.run(&["ping", "-n", "-c", "3", "-i", "0.5", "-W", "5", "-I", &near, &far]);
    assert!(said.contains(" 0% packet loss"), "{said}");
}

fn counted(daemon: &Daemon<'_>, what: &str) -> u64 {
    daemon.ask("status")["on_demand"][what].as_u64().unwrap()
}

#[test]
fn entries_are_made_when_they_are_needed_and_go_when_they_are_not() {
    let Some(world) = World::new(Families::Both, ON_DEMAND) else { return };
    let (mut left, mut right) = world.start();
    let (near, far) = (pods(&world.left, &left), pods(&world.right, &right));
    for host in [&world.left, &world.right] {
        assert_eq!((entries(host, "flannel.1"), neighbours(host, "flannel.1")), (vec![], vec![]));
        assert_eq!(routes(host, "-4", "proto 82").len(), 1, "for the whole network");
    }
    let network = ["10.244.0.0/16 dev flannel.1 proto 82"];
    assert_eq!(routes(&world.left, "-4", "10.244.0.0/16"), network);
    let data = link(&world.left, "flannel.1")["linkinfo"]["info_data"].clone();
    for flag in ["proxy", "l2miss", "l3miss"] {
        assert_eq!(data[flag], true, "{data}");
    }

    for (near, far) in near.iter().zip(&far) {
        ping_without_loss(&world.left, *near, *far);
        ping(&world.right, *far, *near);
        Stream::from_to((&world.left, *near), (&world.right, *far)).end();
    }
    for (device, far, host) in
        [("flannel.1", far[0], "10.168.0.3"), ("flannel-v6.1", far[1], "fd10:168::3")]
    {
        let mac = mac(&world.right, device);
        assert_eq!(neighbours(&world.left, device), [format!("{far} lladdr {mac}")]);
        assert_eq!(entries(&world.left, device), [format!("{mac} dst {host}")]);
    }
    assert_eq!((counted(&left, "answered"), counted(&left, "addresses")), (2, 2));
    assert_eq!(left.ask("status")["problems"], serde_json::json!([]));

    // What nobody has a lease for is counted, and nothing is made.
    let nobody = "10.244.99.7".parse().unwrap();
    assert!(!answers(&world.left, near[0], nobody));
    left.wait_until("counted", |left| counted(left, "unknown") > 0);
    assert_eq!(neighbours(&world.left, "flannel.1").len(), 1);

    // A start changes nothing that is in use.
    let before = world.left.run(&["ip", "neigh", "show", "nud", "permanent"]);
    left.signal("TERM");
    assert_eq!(left.end().0, Some(0));
    ping(&world.left, near[0], far[0]);
    let mut left = world.left.start(&["--iface=u1"]);
    join(&mut left, 1);
    assert_eq!(world.left.run(&["ip", "neigh", "show", "nud", "permanent"]), before);
    ping_without_loss(&world.left, near[0], far[0]);

    // Deleted by hand.
    world.left.run(&["ip", "neigh", "flush", "dev", "flannel.1", "nud", "permanent"]);
    left.wait_until("repaired", |_| neighbours(&world.left, "flannel.1").len() == 1);

    let_everything_age(&world, [&mut left, &mut right]);
    for (near, far) in near.iter().zip(&far) {
        ping_without_loss(&world.left, *near, *far);
    }
}

const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

fn let_everything_age(world: &World, daemons: [&mut Daemon<'_>; 2]) {
    let hosts = [&world.left, &world.right];
    for (host, device) in hosts.into_iter().flat_map(|host| DEVICES.map(|device| (host, device))) {
        host.run(&["ip", "link", "set", device, "type", "vxlan", "ageing", "1"]);
    }
    for (host, daemon) in hosts.into_iter().zip(daemons) {
        let is_empty =
            |device| entries(host, device).is_empty() && neighbours(host, device).is_empty();
        daemon.wait_until("unused", |_| DEVICES.into_iter().all(is_empty));
    }
}

#[test]
fn a_flannel_node_by_hand_is_none_the_wiser() {
    let Some(world) = World::new(Families::V4, ON_DEMAND) else { return };
    let mut left = world.left.start(&["--iface=u1"]);
    let near = pods(&world.left, &left)[0];
    let far_mac = "5a:5a:7b:f6:cb:4d";
    set_up_device(&world.right, "flannel.1", far_mac, "10.168.0.3", "10.244.200.0/32");
    let subnet = left.ask("status")["lease"]["subnet"].as_str().unwrap().to_owned();
    let near_mac = mac(&world.left, "flannel.1");
    set_up_peer(&world.right, "flannel.1", &subnet, &near_mac, "10.168.0.2");
    let value = format!(
        r#"{{"PublicIP":"10.168.0.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{far_mac}"}}}}"#
    );
    world.leases.put("10.244.200.0-24", &value);
    join(&mut left, 1);
    let far = pod(&world.right, "10.244.200.0/24");
    // The other side begins, and our answers make the kernel ask.
    ping(&world.right, far, near);
    ping_without_loss(&world.left, near, far);
    Stream::from_to((&world.left, near), (&world.right, far)).end();
    assert_eq!(entries(&world.left, "flannel.1"), [format!("{far_mac} dst 10.168.0.3")]);
}

#[test]
fn of_two_thousand_peers_only_those_that_are_asked_for_cost_anything() {
    let Some(world) = World::new(Families::V4, ON_DEMAND) else { return };
    let config =
        r#"{"Network":"10.240.0.0/12","SubnetLen":24,"Backend":{"Type":"vxlan","OnDemand":true}}"#;
    world.leases.write_config(config);
    let mut left = world.left.start(&["--iface=u1"]);
    for number in 0..2000_u16 {
        let [high, low] = number.to_be_bytes();
        let value = format!(
            r#"{{"PublicIP":"10.168.{}.{low}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:00:{high:02x}:{low:02x}"}}}}"#,
            100 + high
        );
        world.leases.put(&format!("10.{}.{low}.0-24", 247 + high), &value);
    }
    left.wait_until("joined", |left| left.ask("status")["peers"] == 2000);
    let asked_for = ["10.247.5.1", "10.249.7.1", "10.253.9.1"];
    for address in asked_for {
        world.left.command(&["ping", "-n", "-c", "1", "-W", "1", address]).output().unwrap();
    }
    left.wait_until("made", |_| entries(&world.left, "flannel.1").len() == 3);
    let there = neighbours(&world.left, "flannel.1");
    assert_eq!(there.len(), 3, "{there:?}");
    assert!(asked_for.iter().all(|one| there.iter().any(|line| line.starts_with(one))));
    assert_eq!(routes(&world.left, "-4", "proto 82").len(), 1);
    assert_eq!(counted(&left, "answered"), 3);
}

/// A container at the host's bridge, to which the VXLAN devices belong, too.
struct Container {
    namespace: String,
    /// IPv4, and IPv6.
    addresses: [IpAddr; 2],
}

impl Container {
    fn new(host: &Host, daemon: &Daemon<'_>) -> Self {
        let namespace = format!("{}-container", host.namespace);
        let lease = daemon.ask("status")["lease"].clone();
        let first =
            |family: &str| lease[family].as_str().unwrap().split_once('/').unwrap().0.to_owned();
        let v4 = first("subnet").strip_suffix('0').unwrap().to_owned();
        let v6 = first("ipv6_subnet");
        assert!(Command::new("ip").args(["netns", "add", &namespace]).status().unwrap().success());
        let peer = ["type", "veth", "peer", "eth0", "netns", &namespace];
        let own = host.underlay().replace('u', "02:00:00:00:00:0");
        for words in [
            &["address", "flush", "dev", "c1"][..],
            // It would take that of one device, and be mistaken for it behind the other one.
            &["link", "add", "br0", "address", &own, "type", "bridge"],
            &["link", "set", "flannel.1", "master", "br0"],
            &["link", "set", "flannel-v6.1", "master", "br0"],
            &["address", "add", &format!("{v4}1/16"), "dev", "br0"],
            &["address", "add", &format!("{v6}1/48"), "dev", "br0", "nodad"],
            &["link", "set", "br0", "up"],
            &[&["link", "add", "v0", "master", "br0"][..], &peer].concat(),
            &["link", "set", "v0", "up"],
            &["-n", &namespace, "address", "add", &format!("{v4}5/16"), "dev", "eth0"],
            &["-n", &namespace, "address", "add", &format!("{v6}5/48"), "dev", "eth0", "nodad"],
            &["-n", &namespace, "link", "set", "eth0", "up"],
        ] {
            host.run(&[&["ip"], words].concat());
        }
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            host.run(&["sysctl", "-qw", setting]);
        }
        let address = |first: &str| format!("{first}5").parse().unwrap();
        Self { namespace, addresses: [address(&v4), address(&v6)] }
    }

    fn reaches(&self, address: IpAddr) -> bool {
        let words = ["netns", "exec", &self.namespace, "ping", "-n", "-c", "1", "-W", "5"];
        let mut command = Command::new("ip");
        command.args(words).arg(address.to_string()).output().unwrap().status.success()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

/// The old form, in which all containers are in one layer 2.
#[test]
fn containers_at_a_bridge_with_the_device_find_each_other() {
    let Some(world) = World::new(Families::Both, ON_DEMAND) else { return };
    let (mut left, mut right) = world.start();
    let (near, far) = (Container::new(&world.left, &left), Container::new(&world.right, &right));
    for (host, daemon) in [(&world.left, &mut left), (&world.right, &mut right)] {
        daemon.wait_until("left to the bridge", |_| {
            let of_network = [("-4", "10.244.0.0/16"), ("-6", "fd44::/48")];
            let mut lines =
                of_network.into_iter().flat_map(|(family, net)| routes(host, family, net));
            lines.all(|line| line.contains("dev br0"))
        });
    }
    for (address, device, host) in [
        (far.addresses[0], "flannel.1", "10.168.0.3"),
        (far.addresses[1], "flannel-v6.1", "fd10:168::3"),
    ] {
        left.wait_until("reached", |_| near.reaches(address));
        let mac = mac(&world.right, device);
        let there = neighbours(&world.left, device);
        assert!(there.contains(&format!("{address} lladdr {mac}")), "{there:?}");
        assert_eq!(entries(&world.left, device), [format!("{mac} dst {host}")]);
    }
    for address in near.addresses {
        // The first packet may be lost in this form.
        right.wait_until("reached from the other side", |_| far.reaches(address));
    }
    assert_eq!(left.ask("status")["problems"], Value::Array(Vec::new()));
    forget_an_entry(&world, &mut left, &near, far.addresses[0]);
}

/// The container remembers the hardware address longer than the device is told where that is.
fn forget_an_entry(world: &World, left: &mut Daemon<'_>, near: &Container, far: IpAddr) {
    let set_ageing = |seconds: &str| {
        world.left.run(&["ip", "link", "set", "flannel.1", "type", "vxlan", "ageing", seconds]);
    };
    set_ageing("1");
    left.wait_until("unused", |_| entries(&world.left, "flannel.1").is_empty());
    set_ageing("300");
    let (mac, far_text) = (mac(&world.right, "flannel.1"), far.to_string());
    let remember = ["neigh", "replace", &far_text, "lladdr", &mac, "dev", "eth0"];
    world.left.run(&[&["ip", "-n", &near.namespace][..], &remember].concat());
    left.wait_until("reached again", |_| near.reaches(far));
    assert_eq!(entries(&world.left, "flannel.1"), [format!("{mac} dst 10.168.0.3")]);
}
