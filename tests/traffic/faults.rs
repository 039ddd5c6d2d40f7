//! What goes wrong while packets flow: it is said and counted, the daemon does not hang, and what can
//! go on does.

use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_bench::lab::{LabOptions, Memory, Side, wait_until};

use crate::cluster::{Cluster, config};
use crate::load::{Between, Flows, Received};

/// Longest wait for what a daemon does by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a socket is kept full.
const FULL_TIME: Duration = Duration::from_secs(10);

/// Datagrams at a pace that every queue on the way takes, so that none may be missing.
const STEADY: Flows<'_> = Flows {
    flows: 4,
    count: 1_000,
    sizes: &[64, 1200, 300],
    run: 5,
    burst: 2,
    pause: 0.004,
    fragment: false,
    source: None,
};

fn assert_all_arrived(received: &Received, flows: &Flows<'_>) {
    received.assert_intact();
    assert_eq!(received.received, flows.flows * flows.count, "{received:?}");
}

/// Everything works in both directions, as if nothing had been.
fn check_recovered(cluster: &Cluster) {
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        let flows = Flows { count: 200, ..STEADY };
        assert_all_arrived(&between.datagrams(flows), &flows);
        between.tcp(2, 16 << 20);
    }
}

fn wait_for_growth(cluster: &Cluster, part: &str, name: &str, before: u64) {
    wait_until(&format!("{name} to grow"), PATIENCE, || {
        Ok((cluster.counter(Side::One, part, name) > before).then_some(()))
    })
    .unwrap();
}

/// A lease as flanneld's UDP mode writes it, complete from the moment it appears.
fn write_lease(directory: &Path, leaf: &str, address: Ipv4Addr) {
    let hidden = directory.join(format!(".{leaf}"));
    let mut file = std::fs::File::create(&hidden).unwrap();
    write!(file, r#"{{"PublicIP":"{address}","PublicIPv6":null}}"#).unwrap();
    std::fs::rename(hidden, directory.join(leaf)).unwrap();
}

/// Leases of others come and go up to a thousand times a second. Changes that come together make one
/// table; that each of a thousand tables a second loses nothing is shown by the worker's own tests.
#[test]
fn nothing_is_lost_while_leases_come_and_go() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let subnets = cluster.node(Side::One).lease_directory().join("subnets");
    let epoch = |side| cluster.ask(side, "status")["epoch"].as_u64().unwrap();
    let before = epoch(Side::One);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut changes: u64 = 0;
            while !over.load(Ordering::Relaxed) {
                let (leaf, number) = ("10.244.77.0-24", changes % 200 + 10);
                write_lease(&subnets, leaf, Ipv4Addr::new(10, 168, 0, number as u8));
                changes += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            changes
        });
        let forth = scope.spawn(|| cluster.pods_from(Side::One).datagrams(STEADY));
        let back = scope.spawn(|| cluster.pods_from(Side::Two).datagrams(STEADY));
        let received = [forth.join().unwrap(), back.join().unwrap()];
        over.store(true, Ordering::Relaxed);
        assert!(churn.join().unwrap() > 500, "leases have changed slowly");
        received.iter().for_each(|received| assert_all_arrived(received, &STEADY));
    });
    let tables = epoch(Side::One) - before;
    assert!(tables > 50, "only {tables} tables");
    for part in ["outbound", "inbound"] {
        assert_eq!(cluster.counter(Side::One, part, "drops"), 0, "{part}");
    }
    cluster.finish();
}

/// The direction that is full waits without losing its order, the other one loses nothing, and both
/// are as before once there is room.
#[test]
fn a_send_buffer_that_stays_full_holds_up_one_direction_only() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    cluster.keep_kernel_in_order();
    cluster.lab.limit_departures(Side::One, "20mbit").unwrap();
    let retries = || cluster.counter(Side::One, "other", "send_retries");
    let flood = Flows { flows: 8, count: 40_000, sizes: &[1200], pause: 0.002, ..STEADY };
    std::thread::scope(|scope| {
        let start = Instant::now();
        let full = scope.spawn(|| cluster.pods_from(Side::One).datagrams(flood));
        wait_for_growth(&cluster, "other", "send_retries", retries());
        let back = cluster.pods_from(Side::Two).datagrams(STEADY);
        assert_all_arrived(&back, &STEADY);
        while start.elapsed() < FULL_TIME {
            wait_for_growth(&cluster, "other", "send_retries", retries());
        }
        cluster.lab.host(Side::One).tc(&["qdisc", "delete", "dev", "u1", "root"]).unwrap();
        full.join().unwrap().assert_intact();
    });
    // Packets from the device had to wait meanwhile, in every buffer there is.
    assert!(cluster.counter(Side::One, "other", "buffers_exhausted_tun") > 0);
    check_recovered(&cluster);
    cluster.finish();
}

/// A daemon that does not run for a while finds more than it has buffers for, in both directions.
#[test]
fn a_daemon_that_was_away_takes_up_what_it_finds() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let process = Pid::from_raw(cluster.node(Side::One).process().id().cast_signed());
    let flows = Flows { flows: 8, sizes: &[1200, 300], run: 1, burst: 5, pause: 0.002, ..STEADY };
    std::thread::scope(|scope| {
        let forth = scope.spawn(|| cluster.pods_from(Side::One).datagrams(flows));
        let back = scope.spawn(|| cluster.pods_from(Side::Two).datagrams(flows));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(200));
            kill(process, Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            kill(process, Signal::SIGCONT).unwrap();
        }
        for received in [forth.join().unwrap(), back.join().unwrap()] {
            received.assert_intact();
            assert!(received.received > flows.count, "{received:?}");
        }
    });
    for name in ["buffers_exhausted_tun", "buffers_exhausted_udp"] {
        assert!(cluster.counter(Side::One, "other", name) > 0, "{name}");
    }
    check_recovered(&cluster);
    cluster.finish();
}

#[test]
fn a_device_deleted_under_traffic_ends_the_daemon_with_a_sentence() {
    let Some(mut cluster) = Cluster::start(LabOptions::default()) else { return };
    let flows = Flows { flows: 8, burst: 20, ..STEADY };
    std::thread::scope(|scope| {
        let forth = scope.spawn(|| cluster.pods_from(Side::One).datagrams(flows));
        let back = scope.spawn(|| cluster.pods_from(Side::Two).datagrams(flows));
        wait_for_growth(&cluster, "inbound", "segments_out", 100);
        cluster.lab.host(Side::One).ip(&["link", "delete", "flannel0"]).unwrap();
        for received in [forth.join().unwrap(), back.join().unwrap()] {
            received.assert_intact();
        }
    });
    let (code, log) = cluster.wait_for_end(Side::One);
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("ERROR") && last.contains("flannel0"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    // Whoever supervises it starts it again.
    cluster.start_weft(Side::One, &config(false));
    cluster.wait_for_traffic();
    check_recovered(&cluster);
    cluster.finish();
}

/// What cannot be sent while the address is away is counted; then the daemon moves to the new one and
/// tells the other host, and back again.
#[test]
fn a_changed_address_of_the_underlay_is_followed() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let host = cluster.lab.host(Side::One);
    let flows = Flows { flows: 8, burst: 5, ..STEADY };
    let uses = |address: &str| {
        let said = || {
            Ok(cluster.ask(Side::One, "status")["interface"]
                .to_string()
                .contains(address)
                .then_some(()))
        };
        wait_until(&format!("the daemon to use {address}"), PATIENCE, said).unwrap();
        cluster.wait_for_traffic();
    };
    std::thread::scope(|scope| {
        let forth = scope.spawn(|| cluster.pods_from(Side::One).datagrams(flows));
        wait_for_growth(&cluster, "outbound", "segments_out", 100);
        let dropped = cluster.counter(Side::One, "outbound", "drops");
        host.ip(&["address", "delete", "10.168.0.2/24", "dev", "u1"]).unwrap();
        wait_for_growth(&cluster, "outbound", "drops", dropped);
        host.ip(&["address", "add", "10.168.0.9/24", "dev", "u1"]).unwrap();
        forth.join().unwrap().assert_intact();
    });
    uses("10.168.0.9");
    host.ip(&["address", "delete", "10.168.0.9/24", "dev", "u1"]).unwrap();
    host.ip(&["address", "add", "10.168.0.2/24", "dev", "u1"]).unwrap();
    uses("10.168.0.2");
    check_recovered(&cluster);
    let problems = || cluster.ask(Side::One, "status")["problems"].to_string();
    let over = || Ok((problems() == "[]").then_some(()));
    wait_until("no problem to be left", PATIENCE, over).unwrap();
    cluster.finish();
}

#[test]
fn traffic_goes_on_after_the_interface_was_down() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let host = cluster.lab.host(Side::One);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let streams = [Side::One, Side::Two].map(|side| {
                let between = cluster.pods_from(side);
                scope.spawn(move || between.datagrams(Flows { burst: 5, ..STEADY }))
            });
            let before = cluster.counter(Side::One, "outbound", "segments_out");
            wait_for_growth(&cluster, "outbound", "segments_out", before + 100);
            host.ip(&["link", "set", "u1", "down"]).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            host.ip(&["link", "set", "u1", "up"]).unwrap();
            streams
                .into_iter()
                .for_each(|stream| stream.join().unwrap().assert_intact_but_for_order());
        });
        cluster.wait_for_traffic();
    }
    check_recovered(&cluster);
    cluster.finish();
}

/// The largest network that holds the pods' subnets and not the addresses of the underlay.
const WIDE_CONFIG: &str = r#"{"Network":"10.192.0.0/10","SubnetLen":24,"Backend":{"Type":"udp"}}"#;

/// Peers besides the two hosts: 40 times 250.
const PEERS: usize = 10_000;

/// Memory of a daemon that knows them all, in KiB.
const RESIDENT_MAX: u64 = 96 << 10;

/// The last of them is one that this test itself plays.
#[test]
fn ten_thousand_peers_are_served_to_the_last() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    let subnets = cluster.lab.directory().join("leases/subnets");
    std::fs::create_dir_all(&subnets).unwrap();
    for peer in 0..PEERS - 1 {
        let [high, low] = [(peer / 250) as u8, (peer % 250) as u8];
        let address = Ipv4Addr::new(172, 16, high, low + 1);
        write_lease(&subnets, &format!("10.{}.{low}.0-24", 192 + high), address);
    }
    let last = Ipv4Addr::new(10, 168, 0, 50);
    write_lease(&subnets, "10.255.254.0-24", last);
    let host = cluster.lab.host(Side::Two);
    host.ip(&["address", "add", &format!("{last}/32"), "dev", "u2"]).unwrap();

    let start = Instant::now();
    for side in Side::BOTH {
        cluster.start_weft(side, WIDE_CONFIG);
    }
    cluster.wait_for_traffic();
    let took = start.elapsed();
    assert_eq!(cluster.ask(Side::One, "status")["peers"], PEERS + 1);
    let memory = Memory::read(cluster.node(Side::One).process().id()).unwrap();
    println!("{PEERS} peers: both daemons carry packets after {took:?}; {memory:?}");
    assert!(memory.resident_kib < RESIDENT_MAX, "{memory:?}");

    let peer = crate::hostile::inside(cluster.lab.host(Side::Two), || {
        UdpSocket::bind((last, 8285)).unwrap()
    });
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let pod = cluster.lab.pod(Side::One);
    let target = Ipv4Addr::new(10, 255, 254, 7);
    let to_last = Between { from: pod, to: pod, address: target.into() };
    // UDP to port 7 with 8 bytes of payload; the kernel fills in the sums and the source.
    to_last.raw("4500002400010000401100000af401020afffe0700070007001000000102030405060708", "");
    let mut buffer = [0; 2000];
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(from, (Side::One.underlay_address(), 8285).into());
    assert_eq!((length, &buffer[16..20]), (36, &target.octets()[..]));
    check_recovered(&cluster);
    cluster.finish();
}
