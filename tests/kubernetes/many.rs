//! A large cluster, seen by one daemon.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster::{self, Cluster};
use super::host::Daemon;
use super::{World, peers, start};

const NODES: usize = 5000;

/// Bounds the wait for all of them, on a busy machine with few processors.
const PATIENCE: Duration = Duration::from_secs(120);

/// More than what one node needs in every build; a node's own object has several times that.
const BYTES_MAX: u64 = 16 << 10;

fn resident_bytes(daemon: &Daemon<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

#[test]
fn five_thousand_nodes_cost_little_memory() {
    let Some(world) = World::new(r#"{"Network":"100.64.0.0/10","Backend":{"Type":"udp"}}"#) else {
        return;
    };
    world.server.make_again("left", &["100.127.0.0/26"]);
    let left = start(&world.left, "left");
    let before = resident_bytes(&left);
    let prefix = "flannel.alpha.coreos.com/";
    let images: Vec<_> =
        (0..20).map(|number| json!({"names": ["x".repeat(200)], "sizeBytes": number})).collect();
    for number in 0..NODES {
        let (high, middle, low) = (number >> 10, number >> 2 & 255, (number & 3) << 6);
        world.server.add(
            cluster::NODES,
            json!({
                "metadata": {"name": format!("node-{number}"), "annotations": {
                    format!("{prefix}kube-subnet-manager"): "true",
                    format!("{prefix}backend-type"): "",
                    format!("{prefix}backend-data"): "null",
                    format!("{prefix}public-ip"): format!("192.0.{}.{}", number >> 8, number & 255),
                }},
                "spec": {"podCIDR": format!("100.{}.{middle}.{low}/26", 64 + high)},
                "status": {"images": images},
            }),
        );
    }
    let end = Instant::now() + PATIENCE;
    while peers(&left) < NODES as u64 {
        assert!(Instant::now() < end, "{} peers: {}", peers(&left), left.log());
        sleep(Duration::from_millis(200));
    }
    let each = resident_bytes(&left).saturating_sub(before) / NODES as u64;
    println!("{each} bytes of memory for each node");
    assert!(each < BYTES_MAX, "{each} bytes for each node");
}
