//! Sealing is offered where there are several paths: those that the kernel carries are for hosts without
//! a key, and a connection outlives the change.

use std::time::Duration;

use crate::host::{Daemon, Host};
use crate::paths::{path, wait_for};
use crate::stream::Stream;
use crate::world::{Families, World, join, pods, routes};

const PLAIN: &str = r#"{"Type":"udp","Paths":["vxlan","udp"]}"#;
const OFFERED: &str = r#"{"Type":"udp","Paths":["vxlan","udp"],"Encryption":"wireguard",
    "EncryptionMode":"offer"}"#;

/// Until a path is taken, with much room for a busy machine.
const CHANGED_WITHIN: Duration = Duration::from_secs(30);

fn restart<'a>(host: &'a Host, daemon: Daemon<'_>) -> Daemon<'a> {
    daemon.signal("TERM");
    daemon.end();
    let mut daemon = host.start(&[&format!("--iface={}", host.underlay())]);
    join(&mut daemon, 1);
    daemon
}

/// Counts what carries packets of pods on the link in clear: VXLAN, and anything that is routed plainly.
fn count_clear(host: &Host) {
    host.run(&["nft", "add", "table", "inet", "seen"]);
    let hook = "{ type filter hook prerouting priority -400; }";
    host.run(&["nft", "add", "chain", "inet", "seen", "in", hook]);
    for rule in
        [r#"iifname "u2" udp dport 8472 counter"#, r#"iifname "u2" ip saddr 10.244.0.0/16 counter"#]
    {
        host.run(&["nft", "add", "rule", "inet", "seen", "in", rule]);
    }
}

#[test]
fn a_host_with_a_key_is_not_reached_by_a_path_of_the_kernel() {
    let Some(world) = World::new(Families::V4, PLAIN) else { return };
    let (left, right) = world.start();
    wait_for([&left, &right], "vxlan", CHANGED_WITHIN);
    let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    world.leases.write_config(&Families::V4.config(OFFERED));
    let right = restart(&world.right, right);
    wait_for([&left, &right], "vxlan", CHANGED_WITHIN);
    assert_eq!(right.ask("status")["sealing"]["plain_peers"], 1);
    stream.check("one host that offers sealing");

    let left = restart(&world.left, left);
    let mut right = right;
    right.wait_until("sealed", |daemon| path(daemon) == "udp");
    for daemon in [&left, &right] {
        let peer = daemon.ask("peers")["peers"][0].clone();
        assert_eq!(peer["path"], "udp", "{peer}");
        assert_eq!(daemon.ask("status")["sealing"]["plain_peers"], 0);
    }
    for (host, subnet) in [(&world.left, "10.244.2.0/24"), (&world.right, "10.244.1.0/24")] {
        assert_eq!(routes(host, "-4", subnet), [""; 0]);
    }
    stream.check("two hosts that offer sealing");
    count_clear(&world.right);
    stream.check("the count of what is in clear");
    let counted = world.right.run(&["nft", "list", "chain", "inet", "seen", "in"]);
    assert_eq!(counted.matches("counter packets 0 ").count(), 2, "{counted}");
    stream.end();
}
