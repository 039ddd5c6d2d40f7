//! `DirectRouting` with a peer on the same link and one behind a router.

use crate::host::{Daemon, Host};
use crate::world::{Families, World, entries, join, ping, pods, routes};

/// A third host, in a subnet of its own behind the switch, which is a router then.
fn routed_host(world: &World) -> Host {
    let host = Host::at(&world.switch, &world.leases, 3);
    let switch = world.switch.namespace.as_str();
    let run = |words: &[&str]| {
        let output =
            std::process::Command::new("ip").args(["-n", switch]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    run(&["link", "set", "p3", "nomaster"]);
    run(&["address", "add", "10.169.0.1/24", "dev", "p3"]);
    let forward = ["netns", "exec", switch, "sysctl", "-qw", "net.ipv4.ip_forward=1"];
    assert!(std::process::Command::new("ip").args(forward).status().unwrap().success());
    host.run(&["ip", "address", "flush", "dev", "u3"]);
    host.run(&["ip", "address", "add", "10.169.0.4/24", "dev", "u3"]);
    host.run(&["ip", "route", "replace", "default", "via", "10.169.0.1", "dev", "u3"]);
    host
}

fn path_to(daemon: &Daemon<'_>, subnet: &str) -> (String, String) {
    let peers = daemon.ask("peers");
    let all = peers["peers"].as_array().unwrap();
    let peer = all.iter().find(|peer| peer["subnet"] == subnet).unwrap();
    let text = |key: &str| peer[key].as_str().unwrap().to_owned();
    (text("path"), text("reason"))
}

#[test]
fn a_peer_on_the_link_is_routed_to_and_another_one_is_tunnelled_to() {
    // The spelling is that of a published deployment.
    let Some(world) = World::new(Families::V4, r#"{"Type":"VxLAN","Directrouting":true}"#) else {
        return;
    };
    let third = routed_host(&world);
    let mut left = world.left.start(&["--iface=u1"]);
    let mut right = world.right.start(&["--iface=u2"]);
    let mut far = third.start(&["--iface=u3"]);
    for daemon in [&mut left, &mut right, &mut far] {
        join(daemon, 2);
    }
    assert_eq!(
        routes(&world.left, "-4", "10.244.2.0/24"),
        ["10.244.2.0/24 via 10.168.0.3 dev u1 proto 82"]
    );
    assert_eq!(
        routes(&world.left, "-4", "10.244.3.0/24"),
        ["10.244.3.0/24 via 10.244.3.0 dev flannel.1 proto 82 onlink"]
    );
    assert_eq!(entries(&world.left, "flannel.1").len(), 1);
    assert_eq!(entries(&third, "flannel.1").len(), 2);
    let (path, reason) = path_to(&left, "10.244.2.0/24");
    assert!(path == "direct" && reason.contains("on a link"), "{path}: {reason}");
    let (path, reason) = path_to(&left, "10.244.3.0/24");
    assert!(path == "vxlan" && reason.contains("gateway"), "{path}: {reason}");
    let pods = [
        (&world.left, pods(&world.left, &left)[0]),
        (&world.right, pods(&world.right, &right)[0]),
        (&third, pods(&third, &far)[0]),
    ];
    for (host, near) in &pods {
        for (_, far) in pods.iter().filter(|(_, far)| far != near) {
            ping(host, *near, *far);
        }
    }

    // Without it everything goes through the tunnel, and back: packets flow all the time.
    world.leases.write_config(&Families::V4.config(r#"{"Type":"vxlan"}"#));
    left.wait_until("tunnelled", |_| {
        routes(&world.left, "-4", "10.244.2.0/24")
            == ["10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 82 onlink"]
    });
    ping(&world.left, pods[0].1, pods[1].1);
    world.leases.write_config(&Families::V4.config(r#"{"Type":"vxlan","DirectRouting":true}"#));
    left.wait_until("direct again, and nothing of the tunnel left", |_| {
        entries(&world.left, "flannel.1").len() == 1
    });
    ping(&world.left, pods[0].1, pods[1].1);
}
