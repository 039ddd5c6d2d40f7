//! Every type in both families: what nodes say to the byte, that their pods reach each other, and that
//! connections outlive a rolling update.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::host::{Daemon, Host};
use super::stream::Stream;
use super::{RealWorld, World, WorldWith, annotations_of_left, is_ready, peers, spawn, start};

/// The MAC addresses of a node's devices, one for each family.
type Macs = [String; 2];

/// Two hosts with addresses and pods of both families.
fn world<S: Cluster>(backend: &str) -> Option<WorldWith<S>> {
    let config = json!({
        "Network": "10.244.0.0/16",
        "EnableIPv6": true,
        "IPv6Network": "fd44::/48",
        "Backend": {"Type": backend},
    });
    let world = WorldWith::<S>::new(&config.to_string())?;
    for (host, node, number) in [(&world.left, "left", 1), (&world.right, "right", 2)] {
        let (outer, pod) = (format!("fd10:168::{}/64", number + 1), format!("{}/64", v6(number)));
        let device = host.underlay();
        host.run(&["ip", "address", "add", &outer, "dev", &device, "nodad"]);
        host.run(&["ip", "address", "add", &pod, "dev", "c1", "nodad"]);
        let pod_cidrs = [format!("10.244.{number}.0/24"), format!("fd44:0:0:{number}::/64")];
        world.server.make_again(node, &pod_cidrs.each_ref().map(String::as_str));
    }
    Some(world)
}

fn v4(number: u8) -> IpAddr {
    Ipv4Addr::from([10, 244, number, 1]).into()
}

fn v6(number: u8) -> IpAddr {
    Ipv6Addr::from([0xfd44, 0, 0, number.into(), 0, 0, 0, 1]).into()
}

fn streams<S: Cluster>(world: &WorldWith<S>) -> [Stream; 2] {
    [v4, v6].map(|pod| Stream::from_to((&world.left, pod(1)), (&world.right, pod(2))))
}

/// What flanneld would have written on the left node, and our part, of which `weft` are the middle keys.
fn annotations<S: Cluster>(
    world: &WorldWith<S>,
    backend: &str,
    data: [&str; 2],
    weft: &str,
) -> Value {
    let id = fs::read_to_string(world.left.file("state/id")).unwrap();
    json!({
        "node.alpha.kubernetes.io/ttl": "0",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/backend-type": backend,
        "flannel.alpha.coreos.com/backend-data": data[0],
        "flannel.alpha.coreos.com/public-ip": "10.168.0.2",
        "flannel.alpha.coreos.com/backend-v6-data": data[1],
        "flannel.alpha.coreos.com/public-ipv6": "fd10:168::2",
        "flannel.alpha.coreos.com/weft":
            format!(r#"{{"v":1,"id":"{}",{weft},"v6":true}}"#, id.trim_end()),
    })
}

/// One node after the other, as a DaemonSet does it: stopped, started, and waited for.
fn update_all<'a, S: Cluster>(
    world: &'a WorldWith<S>,
    daemons: [Daemon<'a>; 2],
    streams: &[Stream; 2],
) -> Vec<Daemon<'a>> {
    let nodes = [(&world.left, "left"), (&world.right, "right")];
    let mut updated = Vec::new();
    for (daemon, (host, node)) in daemons.into_iter().zip(nodes) {
        daemon.signal("TERM");
        daemon.end();
        let mut daemon = spawn(host, node);
        daemon.wait_until("joined again", |daemon| is_ready(daemon) && peers(daemon) == 1);
        updated.push(daemon);
        streams.iter().for_each(|stream| stream.check("the update of a node"));
    }
    updated
}

#[test]
fn udp_in_both_families() {
    let Some(world): Option<World> = world("udp") else { return };
    let (left, right) = world.start();
    let weft = r#""paths":["udp"],"port":8285,"ports":1,"mtu":1472"#;
    assert_eq!(annotations_of_left(&world), annotations(&world, "", ["null", "null"], weft));
    let streams = streams(&world);
    let _updated = update_all(&world, [left, right], &streams);
    streams.into_iter().for_each(Stream::end);
}

#[test]
fn host_gw_in_both_families() {
    let Some(world): Option<World> = world("host-gw") else { return };
    let (left, right) = world.start();
    let weft = r#""paths":["host-gw"],"mtu":1500"#;
    assert_eq!(annotations_of_left(&world), annotations(&world, "host-gw", ["null", "null"], weft));
    let streams = streams(&world);
    for (family, route) in [
        ("-4", "10.244.2.0/24 via 10.168.0.3 dev u1"),
        ("-6", "fd44:0:0:2::/64 via fd10:168::3 dev u1"),
    ] {
        let routes = world.left.run(&["ip", family, "route"]);
        assert!(routes.contains(route), "{routes}");
    }
    let _updated = update_all(&world, [left, right], &streams);
    streams.into_iter().for_each(Stream::end);
}

fn macs(host: &Host) -> Macs {
    ["flannel.1", "flannel-v6.1"].map(|device| {
        let text = host.run(&["ip", "-json", "link", "show", "dev", device]);
        let links: Value = serde_json::from_str(&text).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    })
}

fn data(mac: &str) -> String {
    format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)
}

/// What the node tells is that of its devices.
fn check_vxlan<S: Cluster>(world: &WorldWith<S>, macs: &Macs) {
    let [v4, v6] = macs;
    let weft = r#""paths":["vxlan"],"mtu":1430"#;
    let expected = annotations(world, "vxlan", [&data(v4), &data(v6)], weft);
    assert_eq!(annotations_of_left(world), expected);
}

fn run_vxlan<S: Cluster>(world: &WorldWith<S>) {
    let (left, right) = world.start();
    check_vxlan(world, &macs(&world.left));
    let streams = streams(world);
    let _updated = update_all(world, [left, right], &streams);
    streams.into_iter().for_each(Stream::end);
}

#[test]
fn vxlan_in_both_families() {
    let Some(world): Option<World> = world("vxlan") else { return };
    run_vxlan(&world);
}

#[test]
fn vxlan_in_both_families_with_a_real_server() {
    let Some(world): Option<RealWorld> = world("vxlan") else { return };
    run_vxlan(&world);
}

/// The device has gone with the last boot, and the state directory with the last pod, or there was none
/// because a flanneld was here. All other nodes know the address.
#[test]
fn a_new_device_has_the_mac_address_that_the_node_tells() {
    let Some(world): Option<World> = world("vxlan") else { return };
    let flannelds = ["12:c6:65:89:b4:e3", "5a:11:20:0c:7e:01"].map(str::to_owned);
    let prefix = "flannel.alpha.coreos.com/";
    world.server.annotate(
        "left",
        &json!({
            format!("{prefix}kube-subnet-manager"): "true",
            format!("{prefix}backend-type"): "vxlan",
            format!("{prefix}backend-data"): data(&flannelds[0]),
            format!("{prefix}backend-v6-data"): data(&flannelds[1]),
            format!("{prefix}public-ip"): "10.168.0.2",
            format!("{prefix}public-ipv6"): "fd10:168::2",
        }),
    );
    let left = start(&world.left, "left");
    assert_eq!(macs(&world.left), flannelds);
    check_vxlan(&world, &flannelds);
    left.signal("TERM");
    left.end();
    for device in ["flannel.1", "flannel-v6.1"] {
        world.left.run(&["ip", "link", "delete", device]);
    }
    fs::remove_dir_all(world.left.file("state")).unwrap();
    let _left = start(&world.left, "left");
    assert_eq!(macs(&world.left), flannelds);
    check_vxlan(&world, &flannelds);
}
