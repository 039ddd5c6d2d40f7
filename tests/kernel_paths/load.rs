//! What probing 2,000 peers costs on real sockets. One host has the daemon; everything else is one
//! network namespace that has the addresses of all peers and answers for each of them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use weft_ctrl::config::PathKind;
use weft_ctrl::health::{Datagram, PROBES_PER_SECOND, Prober, TICK, Target, port};
use weft_ctrl::identity::Identity;

use crate::host::{Daemon, Host, Leases, Pair, can_run};

const PEERS: u16 = 2000;

/// Beyond what a budget is for, what it lets through at once.
const BURST: f64 = 200.0;

/// How long is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the machine is fast enough, all paths are known to be good by then. What is asserted holds in
/// any case.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// Bytes of the largest packet of pods: 28 are the engine's.
const FULL_SIZE: usize = 1472;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 168, 0, 2);

const ENGINE_PORT: u16 = 8285;

const PATHS: [PathKind; 2] = [PathKind::HostGw, PathKind::Udp];

const CONFIG: &str = r#"{"Network":"10.64.0.0/11","SubnetMin":"10.80.0.0","SubnetMax":"10.90.0.0",
    "Backend":{"Type":"udp","Paths":["host-gw","udp"]}}"#;

/// The first address of a peer's subnet, its host, and its identity.
fn peer(number: u16) -> (Ipv4Addr, Ipv4Addr, Identity) {
    let [high, low] = number.to_be_bytes();
    let identity = format!("{:032x}", u32::from(number) + 1).parse().unwrap();
    (Ipv4Addr::new(10, 64 + high, low, 0), Ipv4Addr::new(10, 168, 16 + high, low), identity)
}

fn write_leases(leases: &Leases) {
    for number in 0..PEERS {
        let (subnet, public, identity) = peer(number);
        let weft = format!(r#"{{"v":1,"id":"{identity}","paths":["host-gw","udp"]}}"#);
        let lease = format!(r#"{{"PublicIP":"{public}","Weft":{weft}}}"#);
        leases.put(&format!("{subnet}-24"), &lease);
    }
}

/// The peers' hosts are on the link of the left one, and their packets come to the right one.
fn connect(pair: &Pair) {
    let mac = pair.right.run(&["cat", "/sys/class/net/u2/address"]);
    pair.left.run(&["ip", "address", "add", &format!("{HOST}/16"), "dev", "u1"]);
    // More than the kernel has room for otherwise.
    let neighbours: String = (0..PEERS)
        .map(|number| {
            let (public, mac) = (peer(number).1, mac.trim());
            format!("neigh add {public} lladdr {mac} dev u1 nud permanent\n")
        })
        .collect();
    let mut batch =
        pair.left.command(&["ip", "-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    batch.stdin.take().unwrap().write_all(neighbours.as_bytes()).unwrap();
    assert!(batch.wait().unwrap().success());
    for local in ["10.64.0.0/12", "10.168.16.0/20"] {
        pair.right.run(&["ip", "route", "add", "local", local, "dev", "lo"]);
    }
}

/// All peers. To them, time passes so slowly that together they send as many requests as peers with as
/// many peers of their own do.
struct Peers {
    own: Ipv4Addr,
    probers: Vec<Prober>,
    began: Instant,
    slowness: f64,
}

impl Peers {
    fn new(own: IpNet, identity: Identity) -> Self {
        let began = Instant::now();
        let target = || Target { subnet: own, identity, paths: PATHS.to_vec() };
        let prober = |number| {
            let mut prober = Prober::new(peer(number).2, 1 + u32::from(number), FULL_SIZE, began);
            prober.set_targets(vec![target()], began, &mut rand::random);
            prober
        };
        let probers: Vec<Prober> = (0..PEERS).map(prober).collect();
        let mut busy = Prober::new(identity, 1, FULL_SIZE, began);
        let all = (0..PEERS).map(|number| {
            let (subnet, _, identity) = peer(number);
            Target {
                subnet: IpNet::new(subnet.into(), 24).unwrap(),
                identity,
                paths: PATHS.to_vec(),
            }
        });
        busy.set_targets(all.collect(), began, &mut rand::random);
        let slowness =
            busy.pace().interval.as_secs_f64() / probers[0].pace().interval.as_secs_f64();
        let IpAddr::V4(own) = own.network() else { panic!("{own}") };
        Self { own, probers, began, slowness }
    }

    fn now(&self) -> Instant {
        self.began + self.began.elapsed().div_f64(self.slowness)
    }

    /// The packets that the peers send by themselves.
    fn due(&mut self) -> Vec<Vec<u8>> {
        let (now, own) = (self.now(), self.own);
        let probers = self.probers.iter_mut().zip(0..);
        let due = probers.flat_map(|(prober, number)| {
            let requests = prober.handle_time(now, &mut rand::random);
            requests.into_iter().map(move |request| wrap(number, own, &request))
        });
        due.collect()
    }

    /// What the peer whom a packet is for answers.
    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (_, to, at, payload) = parse(packet)?;
        let (path, (from, to, at, payload)) = match at {
            ENGINE_PORT => (PathKind::Udp, parse(payload)?),
            _ => (PathKind::HostGw, parse(packet).filter(|_| to != HOST)?),
        };
        let [_, high, low, _] = to.octets();
        let number = u16::from_be_bytes([high.checked_sub(64)?, low]);
        let now = self.now();
        let prober = self.probers.get_mut(usize::from(number)).filter(|_| at == port(path))?;
        let reply = prober.handle_datagram(now, path, from.into(), payload)?;
        Some(wrap(number, self.own, &reply))
    }
}

/// Source, destination, destination port and payload of a UDP packet.
fn parse(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u16, &[u8])> {
    let packet = SlicedPacket::from_ip(packet).ok()?;
    let (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) = (packet.net?, packet.transport?) else {
        return None;
    };
    let header = ip.header();
    Some((header.source_addr(), header.destination_addr(), udp.destination_port(), udp.payload()))
}

/// The packet on the link with what a peer sends.
fn wrap(number: u16, own: Ipv4Addr, datagram: &Datagram) -> Vec<u8> {
    let (subnet, public, _) = peer(number);
    let packet = |from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]| {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(port, port);
        builder.write(&mut bytes, payload).unwrap();
        bytes
    };
    let inner = packet(subnet, own, port(datagram.path), &datagram.bytes);
    match datagram.path {
        PathKind::Udp => packet(public, HOST, ENGINE_PORT, &inner),
        _ => inner,
    }
}

/// Answers for all peers until it is over.
fn answer(namespace: &str, mut peers: Peers, over: &AtomicBool) {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    // Somebody is there, so that the kernel does not say the opposite.
    let ports = [ENGINE_PORT, port(PathKind::HostGw)];
    let _there = ports.map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let all = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
    all.set_header_included_v4(true).unwrap();
    all.set_recv_buffer_size(8 << 20).unwrap();
    all.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let send = |packet: Vec<u8>| {
        let to = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap());
        // A full buffer is one more loss.
        let _ = all.send_to(&packet, &SocketAddrV4::new(to, 0).into());
    };
    let (mut buffer, mut tick) = ([0; 1 << 12], Instant::now());
    while !over.load(Ordering::Relaxed) {
        if let Ok(length) = (&all).read(&mut buffer) {
            peers.answer(&buffer[..length]).into_iter().for_each(send);
        }
        if tick.elapsed() >= TICK {
            tick = Instant::now();
            peers.due().into_iter().for_each(send);
        }
    }
}

/// The counters of [`COUNTERS`]: requests and replies of the host, requests and replies of its peers.
const COUNTED: [&str; 4] = ["requests", "replies", "asked", "answers"];

/// Packets and bytes of probes that the host has sent and received. Replies never have padding, and
/// requests have none only as long as nothing is known of a path.
const COUNTERS: &str = "table inet load {
    counter requests { }
    counter replies { }
    counter asked { }
    counter answers { }
    chain sent {
        type filter hook output priority 0;
        udp sport { 18285, 18287 } meta length > 76 counter name requests
        udp sport { 18285, 18287 } meta length <= 76 counter name replies
    }
    chain received {
        type filter hook input priority 0;
        udp dport { 18285, 18287 } meta length > 76 counter name asked
        udp dport { 18285, 18287 } meta length <= 76 counter name answers
    }
}";

/// Packets and bytes under each name, and ticks of a hundredth of a second of the control side.
fn count(host: &Host, daemon: &Daemon<'_>) -> ([[f64; 2]; 4], f64) {
    let listed = host.run(&["nft", "-j", "list", "counters", "table", "inet", "load"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let counter = |name: &str| {
        let all = listed["nftables"].as_array().unwrap().iter().map(|one| &one["counter"]);
        let found = all.clone().find(|one| one["name"] == name).unwrap();
        ["packets", "bytes"].map(|unit| found[unit].as_f64().unwrap())
    };
    let counters = COUNTED.map(counter);
    let main = format!("/proc/{0}/task/{0}/stat", daemon.pid());
    let stat = fs::read_to_string(main).unwrap();
    // Fields 14 and 15 of proc_pid_stat(5); the second ends with a bracket.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    (counters, fields.map(|field| field.parse::<f64>().unwrap()).sum())
}

#[test]
fn two_thousand_peers_are_probed_within_the_budget() {
    if !can_run() {
        return;
    }
    let leases = Leases::new(CONFIG);
    write_leases(&leases);
    let pair = Pair::new(&leases);
    connect(&pair);
    pair.left.run(&["nft", COUNTERS]);
    let mut daemon = pair.left.start(&["--iface=u1"]);
    let own: IpNet = daemon.ask("status")["lease"]["subnet"].as_str().unwrap().parse().unwrap();
    pair.right.run(&["ip", "route", "add", &own.to_string(), "via", &HOST.to_string()]);
    let identity = fs::read_to_string(pair.left.file("state/id")).unwrap();
    let peers = Peers::new(own, identity.trim().parse().unwrap());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&pair.right.namespace, peers, &over));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let begun = Instant::now();
            let mut good = 0;
            while good < usize::from(PEERS) && begun.elapsed() < SETTLED_WITHIN {
                std::thread::sleep(Duration::from_secs(1));
                good = count_good(&daemon);
            }
            println!("{good} peers with two good paths after {:.1?}", begun.elapsed());
            while count(&pair.left, &daemon).0.iter().any(|[packets, _]| *packets < 1000.0) {
                assert!(begun.elapsed() < PATIENCE && !answering.is_finished(), "{}", daemon.log());
                std::thread::sleep(Duration::from_millis(100));
            }
            measure(&pair.left, &daemon);
        }));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    daemon.check_accounting();
}

/// How many peers have two paths that both ends find good.
fn count_good(daemon: &Daemon<'_>) -> usize {
    let answer = daemon.ask("peers");
    let is_good = |peer: &&Value| {
        let mut paths = peer["paths"].as_array().into_iter().flatten();
        peer["path"] == "host-gw" && paths.all(|path| path["fault"] == "none")
    };
    answer["peers"].as_array().into_iter().flatten().filter(is_good).count()
}

fn measure(host: &Host, daemon: &Daemon<'_>) {
    let (start, before) = (Instant::now(), count(host, daemon));
    std::thread::sleep(WINDOW);
    let (after, seconds) = (count(host, daemon), start.elapsed().as_secs_f64());
    for (name, (before, after)) in COUNTED.iter().zip(before.0.iter().zip(&after.0)) {
        let [packets, bytes] = [0, 1].map(|unit| (after[unit] - before[unit]) / seconds);
        println!("{name}: {packets:.0} a second, {:.2} MB/s", bytes / 1e6);
    }
    println!("control side: {:.1} % of a processor", (after.1 - before.1) / seconds);
    let [requests, replies, asked] = [0, 1, 2].map(|at| after.0[at][0] - before.0[at][0]);
    let most = |per_second: u32| f64::from(per_second) * seconds + BURST;
    assert!(requests > 0.0 && requests <= most(PROBES_PER_SECOND), "{requests}");
    // Peers that lose answers ask more often, each with a budget of its own.
    let asked_or_budget = (asked + BURST).min(most(2 * PROBES_PER_SECOND));
    assert!(replies > 0.0 && replies <= asked_or_budget, "{replies} of {asked}");
}
