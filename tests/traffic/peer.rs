//! weft with a peer that was written apart from it: Python, one packet a call, no offloads.

use std::time::Duration;

use weft_bench::lab::{LabOptions, Process, Side};

use crate::cluster::{Cluster, config};
use crate::load::Flows;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/flannel_peer.py");

/// Longest wait for the peer to be up, and for weft to notice it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The peer on host 2, with a lease as flanneld's UDP mode writes it.
pub(crate) struct PythonPeer(Process);

impl PythonPeer {
    /// Starts it and publishes its lease under `leaf`. A weft must have been started before.
    pub(crate) fn start(cluster: &Cluster, leaf: &str) -> Self {
        let own = Side::Two;
        let (local, subnet) = (own.underlay_address().to_string(), own.subnet());
        let route = format!("{}={}", Side::One.subnet(), Side::One.underlay_address());
        #[rustfmt::skip]
        let command = ["python3", PROGRAM, "--local", &local, "--subnet", &subnet,
            "--route", &route];
        let mut process = cluster.lab.host(own).spawn(&command).unwrap();
        process.wait_for_output("ready", PATIENCE).unwrap();
        let subnets = cluster.node(Side::One).lease_directory().join("subnets");
        std::fs::create_dir_all(&subnets).unwrap();
        let value = format!(r#"{{"PublicIP":"{local}","PublicIPv6":null}}"#);
        // Leases appear under their names only when they are complete.
        std::fs::write(subnets.join(".new"), value).unwrap();
        std::fs::rename(subnets.join(".new"), subnets.join(leaf)).unwrap();
        Self(process)
    }

    pub(crate) fn stop(mut self) {
        assert!(self.0.stop().unwrap().success(), "{}", self.0.complaint());
    }
}

#[test]
fn weft_and_a_simple_peer_exchange_everything() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    cluster.start_weft(Side::One, &config(false));
    let peer = PythonPeer::start(&cluster, "10.244.2.0-24");
    let pod = Side::Two.pod_address().into();
    cluster.lab.wait_for_reply(Side::One, pod, PATIENCE, || Ok(())).unwrap();
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.ping(20, &[]);
        between.ping(3, &["-M", "do", "-s", "1444"]);
        between.ping(5, &["-s", "3000"]);
        assert_eq!(between.tcp(1, 16 << 20), side.pod_address().to_string());
        between.tcp(4, 16 << 20);
        between.echo(0, 1444);
        let flows = Flows { flows: 4, count: 500, burst: 5, pause: 0.01, ..Flows::default() };
        let sizes = [64, 64, 1444, 600];
        let received = between.datagrams(Flows { sizes: &sizes, ..flows });
        received.assert_intact();
        assert_eq!(received.received, flows.flows * flows.count, "{received:?}");
    }
    peer.stop();
    cluster.finish();
}
