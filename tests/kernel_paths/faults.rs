//! What happens to the kernel's state when something goes wrong, or just on.

use std::fs;

use serde_json::Value;

use crate::host::Host;
use crate::stream::Stream;
use crate::world::{
    Families, World, answers, entries, join, link, mac, neighbours, ping, pods, routes,
};

/// Everything of a host that carries packets of the network.
fn kernel_state(host: &Host) -> Vec<Vec<String>> {
    let index = |device: &str| vec![link(host, device)["ifindex"].to_string(), mac(host, device)];
    vec![
        index("flannel.1"),
        routes(host, "-4", "10.244."),
        neighbours(host, "flannel.1"),
        entries(host, "flannel.1"),
    ]
}

#[test]
fn a_restart_loses_neither_state_nor_packets() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let (left, right) = world.start();
    let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    let before = kernel_state(&world.left);
    left.signal("TERM");
    assert_eq!(left.end().0, Some(0));
    assert_eq!(kernel_state(&world.left), before, "a stop leaves everything");
    ping(&world.left, near, far);
    let mut left = world.left.start(&["--iface=u1"]);
    join(&mut left, 1);
    assert_eq!(kernel_state(&world.left), before);
    left.signal("KILL");
    left.end();
    let mut left = world.left.start(&["--iface=u1"]);
    join(&mut left, 1);
    assert_eq!(kernel_state(&world.left), before);
    stream.check("two restarts");
    stream.end();
    drop(right);
}

#[test]
fn what_changed_while_it_was_away_is_made_good() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let (left, _right) = world.start();
    left.signal("KILL");
    left.end();
    let stale = ["10.244.77.0/24", "via", "10.244.77.0", "dev", "flannel.1", "onlink"];
    world.left.run(&[&["ip", "route", "add"], &stale[..], &["proto", "82"]].concat());
    let neighbour = ["10.244.77.0", "lladdr", "0a:00:00:00:00:77", "dev", "flannel.1"];
    world.left.run(&[&["ip", "neigh", "add"], &neighbour[..], &["nud", "permanent"]].concat());
    world.left.run(&["ip", "route", "delete", "10.244.2.0/24"]);
    let foreign = ["10.99.0.0/16", "via", "10.168.0.1"];
    world.left.run(&[&["ip", "route", "add"], &foreign[..]].concat());
    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("in order", |_| {
        routes(&world.left, "-4", "10.244.77.0").is_empty()
            && neighbours(&world.left, "flannel.1").len() == 1
            && routes(&world.left, "-4", "10.244.2.0/24").len() == 1
    });
    assert_eq!(routes(&world.left, "-4", "10.99.0.0/16").len(), 1, "it is somebody else's");
}

/// The device comes back with the same address, and with everything on it.
#[test]
fn a_deleted_device_comes_back_with_all_peers() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"vxlan"}"#) else { return };
    let (mut left, right) = world.start();
    let (near, far) = (pods(&world.left, &left), pods(&world.right, &right));
    let before = [mac(&world.left, "flannel.1"), mac(&world.left, "flannel-v6.1")];
    for device in ["flannel.1", "flannel-v6.1"] {
        world.left.run(&["ip", "link", "delete", device]);
    }
    left.wait_until("back", |_| {
        near.iter().zip(&far).all(|(near, far)| answers(&world.left, *near, *far))
    });
    assert_eq!([mac(&world.left, "flannel.1"), mac(&world.left, "flannel-v6.1")], before);
    for words in [
        &["ip", "route", "delete", "10.244.0.0/16", "dev", "flannel.1"][..],
        &["bridge", "fdb", "flush", "dev", "flannel.1"],
        &["ip", "neigh", "flush", "dev", "flannel.1", "nud", "permanent"],
        &["ip", "link", "set", "flannel.1", "down"],
    ] {
        // Some of them have nothing to do, which is fine.
        let _ = world.left.command(words).output().unwrap();
        left.wait_until("back", |_| answers(&world.left, near[0], far[0]));
    }
}

/// The store is away at the start: what it said last is in force at once.
#[test]
fn a_start_without_the_store_programs_what_was_known() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let (mut left, right) = world.start();
    let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
    let saved = world.left.file("state/leases");
    left.wait_until("saved", |_| {
        fs::read_to_string(&saved).is_ok_and(|text| text.contains("10.244.2.0-24"))
    });
    left.signal("KILL");
    left.end();
    world.left.run(&["ip", "link", "delete", "flannel.1"]);
    let away = world.leases.path().with_extension("away");
    fs::rename(world.leases.path(), &away).unwrap();
    let mut left = world.left.spawn(&["--iface=u1"]);
    left.wait_until("forwarding", |_| answers(&world.left, near, far));
    assert_eq!(left.ask("status")["ready"], false);
    fs::rename(&away, world.leases.path()).unwrap();
    join(&mut left, 1);
}

/// flanneld leaves a device as it is; here a restart applies what can be applied.
#[test]
fn a_changed_mtu_reaches_the_device_that_is_there() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let (mut left, _right) = world.start();
    let index = link(&world.left, "flannel.1")["ifindex"].clone();
    let config = Families::V4.config(r#"{"Type":"vxlan","MTU":1400,"Learning":true}"#);
    world.leases.write_config(&config);
    left.wait_until("told", |daemon| {
        daemon.ask("status")["config_change"].as_str().is_some_and(|note| note.contains("MTU"))
    });
    assert_eq!(link(&world.left, "flannel.1")["mtu"], 1450);
    left.signal("TERM");
    left.end();
    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("applied", |_| link(&world.left, "flannel.1")["mtu"] == 1350);
    let device = link(&world.left, "flannel.1");
    assert_eq!((&device["ifindex"], learns(&device)), (&index, true));
    let env = fs::read_to_string(world.left.subnet_file()).unwrap();
    assert!(env.contains("FLANNEL_MTU=1350\n"), "{env}");

    // What a device can change is applied at once.
    world.leases.write_config(&Families::V4.config(r#"{"Type":"vxlan","MTU":1400}"#));
    left.wait_until("applied", |_| !learns(&link(&world.left, "flannel.1")));
    assert_eq!(left.ask("status")["config_change"], Value::Null);
}

fn learns(device: &Value) -> bool {
    device["linkinfo"]["info_data"]["learning"] == true
}

/// The address of the interface changes under a running node, and so does that of the device.
#[test]
fn a_changed_address_of_the_underlay_is_followed() {
    for kind in ["vxlan", "host-gw"] {
        let Some(world) = World::new(Families::V4, &format!(r#"{{"Type":"{kind}"}}"#)) else {
            return;
        };
        let (mut left, right) = world.start();
        let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
        world.left.run(&["ip", "address", "delete", "10.168.0.2/24", "dev", "u1"]);
        world.left.run(&["ip", "address", "add", "10.168.0.22/24", "dev", "u1"]);
        left.wait_until("told to others", |_| {
            world.leases.all().iter().any(|(_, value)| value["PublicIP"] == "10.168.0.22")
        });
        left.wait_until("reached", |_| answers(&world.left, near, far));
    }
}
