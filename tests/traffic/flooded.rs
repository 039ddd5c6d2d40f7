//! Handshakes of strangers by the ten thousand.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_bench::flood::{flood, initiations};
use weft_bench::lab::{LabOptions, Side, memory_rollup, wait_until};

use crate::cluster::Cluster;
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Initiations a second, and how many of them have to be refused.
const RATE: u32 = 10_000;
const REFUSED: u64 = 20_000;

/// What the daemon may grow by, in KiB: its queue for handshakes and what the allocator keeps.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

/// Length of the answer that wants a proof of the sender's address (section 5.4.7 of the paper).
const COOKIE_REPLY_LENGTH: usize = 64;

/// Counts the messages with a cookie that arrive at the daemon's own port. The other host's initiations do
/// not, so that it cannot begin instead.
const COOKIES: &str = "table inet flooded {
    counter cookies { }
    chain arrivals {
        type filter hook prerouting priority raw;
        udp dport 8285 udp length 72 counter name cookies
        udp dport 8285 udp length 156 drop
    }
}";

/// A peer has lost its sessions while strangers flood the other host. It is asked to prove its address
/// like everybody, and does.
fn begin_anew(cluster: &mut Cluster) {
    cluster.lab.host(Side::One).run(&["nft", COOKIES]).unwrap();
    drop(cluster.kill_weft(Side::One));
    cluster.start_weft(Side::One, &sealed::config());
    let target = Side::Two.pod_address().into();
    cluster.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
    let list = ["nft", "list", "counter", "inet", "flooded", "cookies"];
    let counted = cluster.lab.host(Side::One).run(&list).unwrap();
    assert!(!counted.contains("packets 0 "), "the peer was not asked: {counted}");
    cluster.pods_from(Side::One).tcp(1, 4 << 20);
}

/// Each initiation knows the host's key, so it is looked at until there are too many: then senders have
/// to prove their address. A stream between peers goes on, and memory does not grow.
#[test]
fn a_flood_of_handshakes_costs_strangers_a_cookie_and_peers_nothing() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.start_weft(side, &sealed::config());
    }
    cluster.wait_for_traffic();
    cluster.pods_from(Side::One).tcp(2, 16 << 20);
    let status = cluster.ask(Side::Two, "status");
    let datagrams = initiations(status["sealing"]["key"].as_str().unwrap(), 64).unwrap();
    let resident =
        |cluster: &Cluster| memory_rollup(cluster.node(Side::Two).process().id()).unwrap()["Rss"];
    let before = resident(&cluster);
    let socket = cluster.lab.host(Side::One).udp_socket(Side::One.underlay_address().into());
    let socket = socket.unwrap();
    socket.set_nonblocking(true).unwrap();
    let over = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&socket, 8285, (&datagrams, RATE), &over).unwrap());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.pods_from(Side::One).tcp(2, 64 << 20);
            cluster.pods_from(Side::Two).tcp(1, 16 << 20);
            let (mut answers, mut buffer) = (0, [0; 256]);
            let refused = || {
                loop {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, _)) => answers += u64::from(length == COOKIE_REPLY_LENGTH),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                let status = cluster.ask(Side::Two, "status");
                let wanted = status["sealing"]["rejected"]["cookie_wanted"].as_u64().unwrap_or(0);
                let busy = cluster.dropped(Side::Two, "inbound", "handshakes_busy");
                Ok((wanted > 0 && wanted + busy >= REFUSED).then_some(()))
            };
            wait_until("initiations to be refused", PATIENCE, refused).unwrap();
            begin_anew(&mut cluster);
            answers
        }));
        over.store(true, Ordering::Relaxed);
        assert!(flooding.join().unwrap() >= REFUSED);
        outcome.unwrap()
    });
    assert!(answers > 0, "nobody was told how to prove its address");
    let grown = resident(&cluster).saturating_sub(before);
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
    let sealing = &cluster.ask(Side::Two, "peers")["peers"][0]["sealing"];
    assert!(sealing["session_age_seconds"].is_u64(), "{sealing}");
    cluster.pods_from(Side::One).ping(10, &[]);
    cluster.finish();
}
