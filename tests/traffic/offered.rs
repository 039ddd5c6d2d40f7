//! Sealing that is offered: rolled out under traffic, and never taken back by who is not asked.

use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{LabOptions, NETWORK, Side, wait_until};

use crate::cluster::{self, Cluster};
use crate::load::{Capture, Flows};
use crate::peer::PythonPeer;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bytes of every ping, and what they are as text.
const PATTERN: [&str; 2] = ["736563726574776f7264736f6674776f", "secretwordsoftwo"];

fn config(mode: &str) -> String {
    let backend = format!(r#"{{"Type":"udp","Encryption":"wireguard","EncryptionMode":"{mode}"}}"#);
    format!(r#"{{"Network":"{NETWORK}","SubnetLen":24,"Backend":{backend}}}"#)
}

fn write_config(cluster: &Cluster, config: &str) {
    let path = cluster.lab.directory().join("leases/config");
    std::fs::write(path.with_extension("new"), config).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

/// Kills a daemon and starts it with what the store says now.
fn restart(cluster: &mut Cluster, side: Side) {
    drop(cluster.kill_weft(side));
    cluster.start_weft(side, "");
}

fn sealing(cluster: &Cluster, side: Side) -> Value {
    cluster.ask(side, "status")["sealing"].take()
}

/// Waits until a host says so many hosts without a key, and has traffic.
fn wait_for_keyless(cluster: &Cluster, side: Side, count: u64) {
    let is_so = || {
        let sealing = sealing(cluster, side);
        Ok((sealing["mode"] == "offer" && sealing["plain_peers"] == count).then_some(()))
    };
    wait_until("the number of hosts without a key", PATIENCE, is_so).unwrap();
    cluster.wait_for_traffic();
}

/// Messages and other datagrams on the wire while pods talk.
fn wire(cluster: &Cluster) -> (u64, u64) {
    let host = cluster.lab.host(Side::One);
    let capture = Capture::start(host, Side::One.underlay_device(), PATTERN[1]);
    let between = cluster.pods_from(Side::One);
    between.ping(10, &["-s", "500", "-p", PATTERN[0]]);
    let seen = capture.finish();
    assert_eq!(seen.clear > 0, seen.others > 0, "{seen:?}");
    (seen.messages, seen.others)
}

#[test]
fn sealing_is_rolled_out_under_a_running_stream() {
    let Some(mut cluster) = Cluster::start(LabOptions::default()) else { return };
    let stream = cluster.pods_from(Side::One).start_lasting_tcp();
    write_config(&cluster, &config("offer"));
    restart(&mut cluster, Side::One);
    wait_for_keyless(&cluster, Side::One, 1);
    let status = cluster.ask(Side::One, "status");
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.contains("10.244.2.0-24") && problem.contains("require"), "{problem}");
    assert_eq!(status["ready"], true);
    assert!(cluster.ask(Side::One, "peers")["peers"][0]["sealing"].is_null());
    let (_, others) = wire(&cluster);
    assert!(others > 0, "who has no key is talked with in flannel's format");
    assert!(cluster.counter(Side::One, "outbound", "plain_segments") > 0);
    assert!(cluster.counter(Side::One, "inbound", "plain_segments") > 0);
    restart(&mut cluster, Side::Two);
    for side in Side::BOTH {
        wait_for_keyless(&cluster, side, 0);
        assert_eq!(cluster.ask(side, "status")["problems"], Value::Array(vec![]));
    }
    let (messages, others) = wire(&cluster);
    assert!(messages > 0 && others == 0, "{messages} {others}");
    write_config(&cluster, &config("require"));
    restart(&mut cluster, Side::Two);
    cluster.wait_for_traffic();
    assert_eq!(sealing(&cluster, Side::Two)["mode"], "require");
    restart(&mut cluster, Side::One);
    cluster.wait_for_traffic();
    let (messages, others) = wire(&cluster);
    assert!(messages > 0 && others == 0, "{messages} {others}");
    stream.finish();
    cluster.finish();
}

/// A host with a key is sent nothing in clear, whatever becomes of its datagrams, its daemon and its
/// lease, and nothing in clear is taken from its address.
#[test]
fn nobody_is_talked_back_into_clear_packets() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.start_weft(side, &config("offer"));
    }
    for side in Side::BOTH {
        wait_for_keyless(&cluster, side, 0);
    }
    let between = cluster.pods_from(Side::Two);
    between.tcp(2, 16 << 20);
    between.datagrams(Flows::default()).assert_intact();
    inject(&cluster);

    let capture =
        Capture::start(cluster.lab.host(Side::One), Side::One.underlay_device(), PATTERN[1]);
    let lose = |cluster: &Cluster| {
        let between = cluster.pods_from(Side::One);
        let loss = between.burst_loss(5, &["-s", "500", "-p", PATTERN[0]]);
        assert_eq!(loss, 100.0);
    };
    drop(cluster.kill_weft(Side::Two));
    lose(&cluster);
    let path = cluster.node(Side::One).lease_directory().join("subnets/10.244.2.0-24");
    let lease = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, lease.replace("\"key\"", "\"kez\"")).unwrap();
    let rejected = || {
        let status = cluster.ask(Side::One, "status");
        Ok((status["rejected"][0]["reason"] == "key_lost").then_some(()))
    };
    wait_until("the lease to be rejected", PATIENCE, rejected).unwrap();
    lose(&cluster);
    // With its state, the host has its key still.
    cluster.start_weft(Side::Two, "");
    for side in Side::BOTH {
        wait_for_keyless(&cluster, side, 0);
    }
    let seen = capture.finish();
    assert!(seen.clear == 0 && seen.others == 0 && seen.messages > 0, "{seen:?}");
    cluster.finish();
}

/// Packets in flannel's format from the address of a host that has a key.
fn inject(cluster: &Cluster) {
    let socket = cluster.lab.host(Side::One).udp_socket(Side::One.underlay_address().into());
    let socket = socket.unwrap();
    let before = cluster.dropped(Side::Two, "inbound", "not_sealed");
    for source in [Side::One.pod_address().octets(), [192, 0, 2, 1]] {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend(source.iter().chain(&Side::Two.pod_address().octets()));
        packet.extend([0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0]);
        let sum = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = sum.sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        for _ in 0..5 {
            socket.send_to(&packet, (Side::Two.underlay_address(), 8285)).unwrap();
        }
    }
    let counted =
        || Ok((cluster.dropped(Side::Two, "inbound", "not_sealed") - before >= 10).then_some(()));
    wait_until("the drops to be counted", PATIENCE, counted).unwrap();
    assert_eq!(cluster.counter(Side::Two, "inbound", "plain_segments"), 0);
}

#[test]
fn a_flannel_host_is_talked_with_as_long_as_it_has_no_key() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    cluster.start_weft(Side::One, &config("offer"));
    let peer = PythonPeer::start(&cluster, "10.244.2.0-24");
    wait_for_keyless(&cluster, Side::One, 1);
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(2, 8 << 20);
        between.echo(0, 1392);
        between.echo_in_fragments(1440, 1480);
    }
    peer.stop();
    cluster.finish();
}

/// It listens at an address that it says in its lease, so a stranger cannot be taken for it.
#[test]
fn an_offering_host_and_one_that_requires_are_sealed_to_each_other() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    cluster.start_weft(Side::One, &config("offer"));
    write_config(&cluster, &config("require"));
    cluster.start_weft(Side::Two, "");
    wait_for_keyless(&cluster, Side::One, 0);
    let (messages, others) = wire(&cluster);
    assert!(messages > 0 && others == 0);
    // One that does not seal at all is refused by the one and talked with by the other.
    write_config(&cluster, &cluster::config(false));
    restart(&mut cluster, Side::One);
    let refused = || {
        let status = cluster.ask(Side::Two, "status");
        Ok((status["rejected"][0]["reason"] == "key_missing").then_some(()))
    };
    wait_until("the lease without a key to be refused", PATIENCE, refused).unwrap();
    cluster.finish();
}
