//! Sealed hosts that see each other only through a relay that loses, doubles and reorders datagrams, the
//! same ones in every run.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use weft_bench::lab::{LabOptions, Side, wait_until};

use crate::cluster::Cluster;
use crate::interop::{Other, Seat, make_keys, own_key, write_lease};
use crate::load::Flows;
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port of weft, and of the relay where all is weft.
const PORT: u16 = 8285;

/// The relay's port where another program has the other one at all addresses.
const OTHER_PORT: u16 = 8290;

/// What decides about the datagrams of a direction.
const SEEDS: [u64; 2] = [8285, 5828];

/// Of so many datagrams one is lost, one is doubled, and one waits until later ones have passed it.
const LOST_OF: u64 = 100;
const DOUBLED_OF: u64 = 50;
const LATE_OF: u64 = 25;

/// So many later ones at most.
const LATE_BY_MAX: u64 = 8;

/// Without later ones it waits so long.
const LATE_MAX: Duration = Duration::from_millis(20);

/// Datagrams of one direction: what became of them.
#[derive(Default)]
struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    late: AtomicU64,
}

/// Where a host is reached through the relay: at an address of its name space that is the relay's.
pub(crate) fn relayed_address(side: Side) -> Ipv4Addr {
    Ipv4Addr::new(10, 168, 0, 100 + side.number())
}

pub(crate) struct Relay {
    ending: Arc<AtomicBool>,
    directions: Vec<(JoinHandle<()>, Arc<Counts>)>,
}

impl Relay {
    /// Two sockets, one beside each host. What one receives, the other sends to the host that it is
    /// beside, so that either host sees the other at [`relayed_address`].
    pub(crate) fn start(cluster: &Cluster, port: u16) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let sockets = Side::BOTH.map(|side| {
            let address = relayed_address(side);
            let there = cluster.lab.host(side);
            let text = format!("{address}/24");
            let device = side.underlay_device();
            there.ip(&["address", "add", &text, "dev", device]).unwrap();
            let socket = there.udp_socket_at((address, port).into()).unwrap();
            socket.set_read_timeout(Some(LATE_MAX)).unwrap();
            Arc::new(socket)
        });
        let directions = Side::BOTH.map(|to| {
            // Who wants to reach this host sends to the socket beside it.
            let index = usize::from(to.number() - 1);
            let (near, far) = (Arc::clone(&sockets[index]), Arc::clone(&sockets[1 - index]));
            let (ending, counts) = (Arc::clone(&ending), Arc::new(Counts::default()));
            let target = (to.underlay_address(), PORT).into();
            let counted = Arc::clone(&counts);
            let carry = move || carry(&near, (&far, target), SEEDS[index], (&ending, &counted));
            (std::thread::spawn(carry), counts)
        });
        Self { ending, directions: directions.into() }
    }

    /// Ends it, after it has done in both directions what it is for.
    pub(crate) fn finish(self) {
        self.ending.store(true, Ordering::Relaxed);
        for (thread, counts) in self.directions {
            thread.join().unwrap();
            let counts = [&counts.passed, &counts.lost, &counts.doubled, &counts.late]
                .map(|count| count.load(Ordering::Relaxed));
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
    }
}

/// A generator of the same numbers in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn carry(
    from: &UdpSocket,
    (by, to): (&UdpSocket, SocketAddr),
    seed: u64,
    (ending, counts): (&AtomicBool, &Counts),
) {
    let mut dice = Dice(seed);
    let mut late: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 1 << 16];
    // A full buffer or a host that is away is one more loss.
    let send = |datagram: &[u8]| drop(by.send_to(datagram, to));
    while !ending.load(Ordering::Relaxed) {
        let length = match from.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                late.drain(..).for_each(|(_, datagram)| send(&datagram));
                continue;
            }
            // The answer of a host that is away.
            Err(_) => continue,
        };
        let datagram = &buffer[..length];
        let [lost, doubled, waits] = [LOST_OF, DOUBLED_OF, LATE_OF].map(|of| dice.roll(of) == 0);
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        if lost {
            count(&counts.lost);
        } else if waits {
            count(&counts.late);
            late.push_back((1 + dice.roll(LATE_BY_MAX), datagram.to_vec()));
            continue;
        } else {
            count(&counts.passed);
            send(datagram);
            if doubled {
                count(&counts.doubled);
                send(datagram);
            }
        }
        for (left, _) in &mut late {
            *left -= 1;
        }
        late.retain(|(left, datagram)| {
            if *left == 0 {
                send(datagram);
            }
            *left > 0
        });
    }
}

/// Streams arrive whole, and no datagram arrives twice or changed.
fn exchange(cluster: &Cluster) {
    let target = Side::Two.pod_address().into();
    cluster.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(2, 4 << 20);
        let flows = Flows { count: 1000, sizes: &[10, 700, 1392, 64], ..Flows::default() };
        let received = between.datagrams(flows);
        received.assert_intact_but_for_order();
        assert!(received.received > flows.count / 2, "{received:?}");
    }
    let doubled = || Ok((cluster.dropped(Side::One, "inbound", "replayed") > 0).then_some(()));
    wait_until("doubled datagrams to be refused", PATIENCE, doubled).unwrap();
}

fn options() -> LabOptions {
    LabOptions { pod_mtu: 1420, ..LabOptions::default() }
}

fn start_weft(cluster: &mut Cluster, side: Side) {
    let address = relayed_address(side).to_string();
    cluster.start_weft_with(side, &sealed::config(), &["--public-ip", &address]);
}

#[test]
fn two_hosts_talk_through_a_bad_relay() {
    let Some(mut cluster) = Cluster::bare(options()) else { return };
    let relay = Relay::start(&cluster, PORT);
    for side in Side::BOTH {
        start_weft(&mut cluster, side);
    }
    exchange(&cluster);
    for side in Side::BOTH {
        let endpoint = cluster.ask(side, "peers")["peers"][0]["sealing"]["endpoint"].take();
        assert_eq!(endpoint, format!("{}:{PORT}", relayed_address(side.other())));
    }
    // Handshakes get through as well.
    drop(cluster.kill_weft(Side::Two));
    start_weft(&mut cluster, Side::Two);
    exchange(&cluster);
    relay.finish();
    cluster.finish();
}

fn talks_with_through_a_bad_relay(name: &str) {
    let Some(program) = crate::interop::installed(name) else { return };
    let Some(mut cluster) = Cluster::bare(options()) else { return };
    let relay = Relay::start(&cluster, OTHER_PORT);
    start_weft(&mut cluster, Side::One);
    let at = |side| SocketAddr::from((relayed_address(side), OTHER_PORT));
    let seat = Seat { number: 2, weft_at: at(Side::One) };
    let key = make_keys(&cluster, seat);
    let other = Other::start(&cluster, &program, (&own_key(&cluster), seat));
    write_lease(&cluster, (&key, &seat.subnet()), at(Side::Two));
    exchange(&cluster);
    drop(other);
    relay.finish();
    cluster.finish();
}

#[test]
fn weft_and_wireguard_go_talk_through_a_bad_relay() {
    talks_with_through_a_bad_relay("wireguard-go");
}

#[test]
fn weft_and_boringtun_talk_through_a_bad_relay() {
    talks_with_through_a_bad_relay("boringtun-cli");
}
