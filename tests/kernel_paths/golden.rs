//! What the tools show as JSON, beside what flannel's own commands make on another host.

use serde_json::{Value, json};

use crate::flannel::{set_up_device, set_up_peer};
use crate::host::{Daemon, Host, Leases};
use crate::world::{Families, World, json as shown, link, mac};

const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

/// Without the kernel's numbers, what marks objects as ours, and the addresses of links, which ours
/// have none of.
fn bare(mut value: Value) -> Value {
    let objects = value.as_array_mut().unwrap();
    objects.retain(|one| !one["dst"].as_str().is_some_and(|dst| dst.starts_with("fe80")));
    for object in objects {
        for key in ["ifindex", "link_index", "ifalias", "inet6_addr_gen_mode", "protocol"] {
            object.as_object_mut().unwrap().remove(key);
        }
    }
    value
}

fn everything(host: &Host) -> Value {
    let of_device = |device: &str| {
        let family = if device.contains("v6") { "-6" } else { "-4" };
        json!({
            "link": bare(json!([link(host, device)])),
            "routes": bare(shown(host, &["ip", "-j", family, "route", "show", "dev", device])),
            "neighbours": bare(shown(host, &["ip", "-j", family, "neigh", "show", "dev", device])),
            "entries": bare(shown(host, &["bridge", "-j", "fdb", "show", "dev", device])),
        })
    };
    DEVICES.map(of_device).into()
}

#[test]
fn vxlan_is_what_flannels_commands_make() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"vxlan"}"#) else { return };
    let (left, right) = world.start();
    let by_hand = Host::alone(&Leases::new("{}"));
    by_hand.run(&["ip", "address", "add", "fd10:168::2/64", "dev", "u1", "nodad"]);
    let subnet = |daemon: &Daemon<'_>, family: &str| {
        daemon.ask("status")["lease"][family].as_str().unwrap().to_owned()
    };
    for (device, family, length, near, far) in [
        ("flannel.1", "subnet", "/32", "10.168.0.2", "10.168.0.3"),
        ("flannel-v6.1", "ipv6_subnet", "/128", "fd10:168::2", "fd10:168::3"),
    ] {
        let own = subnet(&left, family);
        let address = own.split_once('/').unwrap().0.to_owned() + length;
        set_up_device(&by_hand, device, &mac(&world.left, device), near, &address);
        by_hand.run(&["ip", "link", "set", device, "txqueuelen", "0"]);
        let far_mac = mac(&world.right, device);
        set_up_peer(&by_hand, device, &subnet(&right, family), &far_mac, far);
    }
    let (ours, theirs) = (everything(&world.left), everything(&by_hand));
    for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        for part in ["link", "routes", "neighbours", "entries"] {
            assert_eq!(ours[part], theirs[part], "{part}");
        }
    }
}

#[test]
fn host_gw_is_what_flannels_commands_make() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"host-gw"}"#) else { return };
    let (_left, _right) = world.start();
    let by_hand = Host::alone(&Leases::new("{}"));
    by_hand.run(&["ip", "route", "add", "10.244.2.0/24", "via", "10.168.0.3", "dev", "u1"]);
    let routes = |host: &Host| bare(shown(host, &["ip", "-j", "route", "show", "10.244.2.0/24"]));
    assert_eq!(routes(&world.left), routes(&by_hand));
    assert_eq!(routes(&by_hand)[0]["gateway"], "10.168.0.3");
}
