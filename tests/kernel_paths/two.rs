//! Two daemons on one host, each with leases, a subnet file and a network of its own.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, Leases};
use crate::world::{Families, World, ping, pods, routes};

/// A second daemon on a host, ended when this is dropped.
struct Second(Child);

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Places that follow from the subnet file's name are below `/run` and `/var/lib`, which belong to the
/// machine, so the test names them.
fn start_second(host: &Host, leases: &Leases) -> Second {
    let file = |name: &str| host.file(name);
    let arguments = [
        format!("--lease-dir={}", leases.path().display()),
        format!("--subnet-file={}", file("second.env")),
        format!("--state-dir={}", file("second")),
        format!("--admin-socket={}", file("second.sock")),
        format!("--iface={}", host.underlay()),
    ];
    let words: Vec<&str> = [env!("CARGO_BIN_EXE_weft"), "daemon"]
        .into_iter()
        .chain(arguments.iter().map(String::as_str))
        .collect();
    let second =
        Second(host.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(file("second.env")).is_ok_and(|text| text.contains("_MTU")) {
        assert!(Instant::now() < end, "the second daemon does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    second
}

#[test]
fn two_networks_on_the_same_hosts_live_side_by_side() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let other = Leases::new(r#"{"Network":"10.99.0.0/16","Backend":{"Type":"host-gw"}}"#);
    let (mut left, right) = world.start();
    let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
    let _second = [&world.left, &world.right].map(|host| start_second(host, &other));
    left.wait_until("the second network routed", |_| {
        routes(&world.left, "-4", "10.99.")
            .iter()
            .any(|line| line.contains("via 10.168.0.3 dev u1"))
    });
    assert_eq!(routes(&world.left, "-4", "flannel.1").len(), 1, "and the first one as it was");
    ping(&world.left, near, far);
    // Both look after their own again and again and leave the other's alone.
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(routes(&world.left, "-4", "10.99.").len(), 1);
    assert_eq!(routes(&world.left, "-4", "flannel.1").len(), 1);
    ping(&world.left, near, far);
}
