//! A host that was set up by hand, with flannel's commands, as the peer.

use std::fs;
use std::net::IpAddr;

use crate::host::Host;
use crate::stream::Stream;
use crate::world::{Families, World, entries, join, mac, neighbours, ping, pod, pods, routes};

const FAR_MAC: &str = "5a:5a:7b:f6:cb:4d";
const FAR_MAC_V6: &str = "5a:5a:7b:f6:cb:4e";

/// What a flanneld of the type `vxlan` has on its host for itself.
pub(crate) fn set_up_device(host: &Host, device: &str, mac: &str, local: &str, address: &str) {
    let under = host.underlay();
    let parameters = ["type", "vxlan", "id", "1", "dev", &under, "local", local, "dstport", "8472"];
    let words = ["ip", "link", "add", device, "address", mac, "mtu", "1450"];
    host.run(&[&words, &parameters[..], &["nolearning"]].concat());
    host.run(&["ip", "address", "add", address, "dev", device]);
    host.run(&["ip", "link", "set", device, "up"]);
}

/// What it has for a peer.
pub(crate) fn set_up_peer(host: &Host, device: &str, subnet: &str, mac: &str, far: &str) {
    let first = subnet.split_once('/').unwrap().0;
    for words in [
        &["ip", "neigh", "replace", first, "lladdr", mac, "dev", device, "nud", "permanent"][..],
        &["bridge", "fdb", "replace", mac, "dst", far, "dev", device, "self", "permanent"],
        &["ip", "route", "replace", subnet, "via", first, "dev", device, "onlink"],
    ] {
        host.run(words);
    }
}

fn vxlan_lease(mac: &str, mac_v6: &str) -> String {
    format!(
        r#"{{"PublicIP":"10.168.0.3","PublicIPv6":"fd10:168::3","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{mac_v6}"}}}}"#
    )
}

#[test]
fn a_flannel_node_of_vxlan_by_hand() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"vxlan"}"#) else { return };
    let mut left = world.left.start(&["--iface=u1"]);
    let near = pods(&world.left, &left);
    let (local, right) = (world.left.underlay(), &world.right);
    assert_eq!(local, "u1");
    set_up_device(right, "flannel.1", FAR_MAC, "10.168.0.3", "10.244.200.0/32");
    set_up_device(right, "flannel-v6.1", FAR_MAC_V6, "fd10:168::3", "fd44:0:0:200::/128");
    let lease = left.ask("status")["lease"].clone();
    let text = |key: &str| lease[key].as_str().unwrap().to_owned();
    let near_mac = |device: &str| mac(&world.left, device);
    set_up_peer(right, "flannel.1", &text("subnet"), &near_mac("flannel.1"), "10.168.0.2");
    set_up_peer(
        right,
        "flannel-v6.1",
        &text("ipv6_subnet"),
        &near_mac("flannel-v6.1"),
        "fd10:168::2",
    );
    world.leases.put("10.244.200.0-24&fd44:0:0:200::-64", &vxlan_lease(FAR_MAC, FAR_MAC_V6));
    join(&mut left, 1);
    let far: Vec<IpAddr> =
        ["10.244.200.0/24", "fd44:0:0:200::/64"].map(|subnet| pod(right, subnet)).into();
    for (near, far) in near.iter().zip(&far) {
        ping(&world.left, *near, *far);
        ping(right, *far, *near);
        Stream::from_to((&world.left, *near), (right, *far)).end();
    }

    // Its device is made anew, with another address: the entry of the old one goes.
    let another = "5a:5a:7b:f6:cb:5f";
    right.run(&["ip", "link", "set", "flannel.1", "address", another]);
    set_up_peer(right, "flannel.1", &text("subnet"), &near_mac("flannel.1"), "10.168.0.2");
    world.leases.put("10.244.200.0-24&fd44:0:0:200::-64", &vxlan_lease(another, FAR_MAC_V6));
    left.wait_until("the new MAC address in force", |_| {
        entries(&world.left, "flannel.1") == [format!("{another} dst 10.168.0.3")]
    });
    let known = neighbours(&world.left, "flannel.1");
    assert_eq!(known, [format!("10.244.200.0 lladdr {another}")]);
    ping(&world.left, near[0], far[0]);

    // It leaves.
    fs::remove_file(world.leases.path().join("subnets/10.244.200.0-24&fd44:0:0:200::-64")).unwrap();
    left.wait_until("nothing of it left", |_| {
        let none = |family| routes(&world.left, family, "proto 82").is_empty();
        none("-4") && none("-6") && entries(&world.left, "flannel.1").is_empty()
    });
    assert!(neighbours(&world.left, "flannel-v6.1").is_empty());
}

#[test]
fn a_flannel_node_of_host_gw_by_hand() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"host-gw"}"#) else { return };
    let mut left = world.left.start(&["--iface=u1"]);
    let near = pods(&world.left, &left);
    let lease = left.ask("status")["lease"].clone();
    for (family, via) in [("subnet", "10.168.0.2"), ("ipv6_subnet", "fd10:168::2")] {
        let subnet = lease[family].as_str().unwrap();
        world.right.run(&["ip", "route", "add", subnet, "via", via, "dev", "u2"]);
    }
    let value = r#"{"PublicIP":"10.168.0.3","PublicIPv6":"fd10:168::3","BackendType":"host-gw"}"#;
    world.leases.put("10.244.200.0-24&fd44:0:0:200::-64", value);
    join(&mut left, 1);
    for (near, subnet) in near.into_iter().zip(["10.244.200.0/24", "fd44:0:0:200::/64"]) {
        let far = pod(&world.right, subnet);
        ping(&world.left, near, far);
        ping(&world.right, far, near);
        Stream::from_to((&world.left, near), (&world.right, far)).end();
    }
}
