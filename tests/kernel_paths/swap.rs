//! weft in the place of a flanneld, and back: what flanneld leaves in the kernel is imitated by its
//! commands.

use std::net::IpAddr;
use std::process::{Child, Stdio};

use crate::flannel::{set_up_device, set_up_peer};
use crate::host::Host;
use crate::stream::Stream;
use crate::world::{Families, World, entries, link, mac, neighbours, pod, routes};

/// How many make four seconds, which is longer than there and back takes.
const COUNT: u32 = 400;

/// Echo requests all the time, of which none may be lost.
struct Echoes(Child);

impl Echoes {
    fn start(from: &Host, near: IpAddr, far: IpAddr) -> Self {
        let (near, far) = (near.to_string(), far.to_string());
        let count = COUNT.to_string();
        let words = ["ping", "-n", "-c", &count, "-i", "0.01", "-W", "10", "-I", &near, &far];
        Self(from.command(&words).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn end(self) {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // Ping waits for the last reply no longer than an interval.
        let wanted = COUNT - u32::from(!text.contains(&format!("icmp_seq={COUNT} ")));
        assert!(text.contains(&format!(" {wanted} received")), "{text}");
    }
}

const NEAR_MAC: &str = "5a:5a:7b:f6:cb:01";

#[test]
fn flannelds_vxlan_is_taken_over_and_given_back() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    set_up_device(&world.left, "flannel.1", NEAR_MAC, "10.168.0.2", "10.244.1.0/32");
    let mut right = world.right.start(&["--iface=u2"]);
    let far_mac = mac(&world.right, "flannel.1");
    set_up_peer(&world.left, "flannel.1", "10.244.2.0/24", &far_mac, "10.168.0.3");
    // A peer that left while nobody looked.
    set_up_peer(&world.left, "flannel.1", "10.244.9.0/24", "5a:5a:7b:f6:cb:09", "10.168.0.9");
    let index = link(&world.left, "flannel.1")["ifindex"].clone();
    let lease = format!(
        r#"{{"PublicIP":"10.168.0.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{NEAR_MAC}"}}}}"#
    );
    std::fs::write(world.leases.path().join("subnets/10.244.1.0-24"), lease).unwrap();
    right.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    let near = pod(&world.left, "10.244.1.0/24");
    let far = pod(&world.right, "10.244.2.0/24");
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    let echoes = Echoes::start(&world.right, far, near);

    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("in order", |_| entries(&world.left, "flannel.1").len() == 1);
    assert_eq!(link(&world.left, "flannel.1")["ifindex"], index, "the device is adopted");
    assert_eq!(mac(&world.left, "flannel.1"), NEAR_MAC);
    assert_eq!(
        routes(&world.left, "-4", "10.244."),
        [
            "10.244.1.0/24 dev c1 proto kernel scope link src 10.244.1.1",
            "10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 82 onlink",
        ]
    );
    stream.check("the take-over");
    left.signal("TERM");
    assert_eq!(left.end().0, Some(0));

    // flanneld's own commands over what is there.
    set_up_peer(&world.left, "flannel.1", "10.244.2.0/24", &far_mac, "10.168.0.3");
    assert_eq!(neighbours(&world.left, "flannel.1"), [format!("10.244.2.0 lladdr {far_mac}")]);
    stream.check("the way back");
    stream.end();
    echoes.end();
    drop(right);
}

#[test]
fn flannelds_host_gw_is_taken_over_and_given_back() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"host-gw"}"#) else { return };
    let route = ["10.244.2.0/24", "via", "10.168.0.3", "dev", "u1"];
    let add = [&["ip", "route", "add"], &route[..]].concat();
    world.left.run(&add);
    let by_hand = ["10.244.77.0/24", "via", "10.168.0.77", "dev", "u1", "proto", "static"];
    world.left.run(&[&["ip", "route", "add"], &by_hand[..]].concat());
    world.right.run(&["ip", "route", "add", "10.244.1.0/24", "via", "10.168.0.2", "dev", "u2"]);
    let echoes = Echoes::start(&world.right, world.right.pod(), world.left.pod());
    let (left, right) = world.start();
    let (near, far) = (pod(&world.left, "10.244.1.0/24"), pod(&world.right, "10.244.2.0/24"));
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    assert_eq!(routes(&world.left, "-4", "10.244.2.0/24").len(), 1);
    let static_ones = routes(&world.left, "-4", "10.244.77.0/24");
    assert_eq!(static_ones, ["10.244.77.0/24 via 10.168.0.77 dev u1 proto static"]);
    left.signal("TERM");
    assert_eq!(left.end().0, Some(0));
    // flanneld looks for a route of this kind and leaves it alone, whoever made it.
    let left_behind = routes(&world.left, "-4", "10.244.2.0/24");
    assert_eq!(left_behind.len(), 1);
    assert!(left_behind[0].starts_with("10.244.2.0/24 via 10.168.0.3 dev u1"), "{left_behind:?}");
    stream.check("the end of weft");
    stream.end();
    echoes.end();
    drop(right);
}

/// The old type's state goes away by itself when the new type starts.
#[test]
fn another_type_clears_up_behind_the_one_before() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    for kind in ["vxlan", "host-gw", "vxlan", "udp"] {
        world.leases.write_config(&Families::V4.config(&format!(r#"{{"Type":"{kind}"}}"#)));
        let (mut left, right) = world.start();
        let (near, far) = (pod(&world.left, "10.244.1.0/24"), pod(&world.right, "10.244.2.0/24"));
        let has_device = || {
            let words = ["ip", "link", "show", "flannel.1"];
            world.left.command(&words).output().unwrap().status.success()
        };
        left.wait_until("only one device", |_| has_device() == (kind == "vxlan"));
        left.wait_until("only one route", |_| {
            routes(&world.left, "-4", "10.244.2.0").len() == usize::from(kind != "udp")
        });
        crate::world::ping(&world.left, near, far);
        for daemon in [left, right] {
            daemon.signal("TERM");
            assert_eq!(daemon.end().0, Some(0), "{kind}");
        }
    }
}
