//! Somebody sends what nobody should to the port of the daemon on host 1. Whatever it is, it is counted
//! under the right reason, nothing reaches a pod that should not, nothing is answered, and the
//! daemon goes on.

mod cases;
mod inside;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::PacketBuilder;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use weft_bench::lab::{LabOptions, Memory, Side, Underlay, wait_until};

use crate::cluster::Cluster;
use cases::{Case, Cases, Fate, LENGTH};
pub(crate) use inside::inside;
use inside::{Attacker, Watch, send_forged};

/// Longest wait for the daemon to have counted what was sent.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must come for everything to have come.
const QUIET: Duration = Duration::from_millis(300);

/// Datagrams sent before waiting for them to be counted: few enough for the socket's buffer.
const BURST: usize = 500;

/// Segments of a train, below what any kernel cuts and joins.
const TRAIN: usize = 60;

/// Trains sent before a look at what became of them.
const TRAINS_AT_ONCE: usize = 10;

/// How much memory may grow while a flood goes on, in KiB.
const GROWTH_MAX: u64 = 1024;

/// An address on the link between the hosts that is no peer's.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 168, 0, 99);

/// What the kernels around see: ICMP on the way from host 1, whatever it is about.
const REFLECTIONS: &str = "table inet hostile {
    counter reflected { }
    chain arrivals {
        type filter hook prerouting priority raw; policy accept;
        iifname \"u2\" ip protocol icmp counter name \"reflected\"
        iifname \"u2\" icmpv6 type { 1, 2, 3, 4 } counter name \"reflected\"
    }
}";

/// The pod does not answer what is handed on to it.
const SILENCE: &str = "table inet hostile {
    chain arrivals {
        type filter hook prerouting priority raw; policy accept;
        udp dport 7777 drop
        ip protocol udp ip frag-off & 0x3fff != 0 drop
        ip6 nexthdr { 0, 44, 60 } drop
        meta l4proto udp ip saddr != 10.244.0.0/16 drop
    }
}";

/// Host 1 under attack from host 2 or from a stranger beside it.
struct Scene {
    cluster: Cluster,
    peer: Attacker,
    stranger: Attacker,
    watch: Watch,
}

impl Scene {
    fn new(underlay: Underlay) -> Option<Self> {
        let options = LabOptions { underlay, ..crate::ipv6::options() };
        let cluster = crate::ipv6::start_with(options)?;
        let host = cluster.lab.host(Side::Two);
        host.ip(&["address", "add", &format!("{STRANGER}/24"), "dev", "u2"]).unwrap();
        host.run(&["nft", REFLECTIONS]).unwrap();
        cluster.lab.pod(Side::One).run(&["nft", SILENCE]).unwrap();
        let peer = Attacker::new(host, Side::Two.underlay_address().into());
        let stranger = Attacker::new(host, STRANGER.into());
        let watch = Watch::new(cluster.lab.pod(Side::One));
        let scene = Self { cluster, peer, stranger, watch };
        scene.watch.frames(QUIET);
        Some(scene)
    }

    fn inbound(&self, name: &str) -> u64 {
        self.cluster.counter(Side::One, "inbound", name)
    }

    fn drops(&self) -> BTreeMap<String, u64> {
        let drops = self.cluster.ask(Side::One, "drops");
        let lines = drops["inbound"].as_array().unwrap().iter();
        lines
            .map(|line| {
                (line["reason"].as_str().unwrap().to_owned(), line["count"].as_u64().unwrap())
            })
            .collect()
    }

    /// Calls `send`, which sends `count` datagrams, and waits until they are handed on or dropped.
    /// Gives what was dropped meanwhile, by reason, and how many were handed on.
    fn counted(&self, count: usize, send: impl FnOnce()) -> (BTreeMap<String, u64>, u64) {
        let (taken, passed, before) =
            (self.inbound("segments_in"), self.inbound("segments_out"), self.drops());
        send();
        wait_until("the datagrams to be counted", PATIENCE, || {
            let over = self.inbound("segments_out") + self.inbound("drops")
                - passed
                - before.values().sum::<u64>();
            Ok((self.inbound("segments_in") - taken == over && over >= count as u64).then_some(()))
        })
        .unwrap_or_else(|error| {
            panic!("{error}: {count} sent, {}", self.cluster.ask(Side::One, "status")["traffic"])
        });
        let mut dropped = self.drops();
        for (reason, count) in before {
            *dropped.get_mut(&reason).unwrap() -= count;
        }
        dropped.retain(|_, count| *count > 0);
        (dropped, self.inbound("segments_out") - passed)
    }

    /// How often each case has reached the pod; nothing else has.
    fn arrived(&self, cases: &[Case]) -> BTreeMap<u32, usize> {
        let mut arrived = BTreeMap::new();
        for frame in self.watch.frames(QUIET) {
            if is_of_the_pod_itself(&frame) {
                continue;
            }
            let numbers = cases::numbers_in(&frame);
            let known = |case: &&Case| {
                case.fate == Fate::Arrives && frame.ends_with(&case.packet[cases::V4_HEADER..])
            };
            assert!(!numbers.is_empty() || cases.iter().any(|case| known(&case)), "{frame:02x?}");
            for number in numbers {
                *arrived.entry(number).or_default() += 1;
            }
        }
        arrived
    }

    /// Checks what has reached the pod of `cases`, each of which was sent `times` times.
    fn check_arrivals(&self, cases: &[Case], times: usize) {
        let mut arrived = self.arrived(cases);
        for (number, case) in (0..).zip(cases) {
            let count = arrived.remove(&number).unwrap_or(0);
            match case.fate {
                Fate::Arrives if !cases::numbers_in(&case.packet).is_empty() => {
                    assert_eq!(count, times, "{case:?}");
                }
                Fate::Arrives => {}
                Fate::Passes => assert!(count <= times, "{case:?}"),
                Fate::Dropped(_) => assert_eq!(count, 0, "{case:?}"),
            }
        }
        assert!(arrived.is_empty(), "{arrived:?}");
    }

    fn resident_kib(&self) -> u64 {
        Memory::read(self.cluster.node(Side::One).process().id()).unwrap().resident_kib
    }

    /// Nothing was answered, and the two sides get on as ever.
    fn finish(self) {
        let text = self.cluster.lab.host(Side::Two).run(&["nft", "list", "counters"]).unwrap();
        assert!(text.contains("packets 0 bytes 0"), "an attack was answered: {text}");
        assert_eq!(self.cluster.counter(Side::One, "other", "icmp_sent"), 0);
        self.cluster.pods_from(Side::One).tcp(1, 16 << 20);
        self.cluster.pods_from_v6(Side::Two).tcp(1, 16 << 20);
        self.cluster.finish();
    }
}

/// The pod's own packets, and what its kernel and its neighbour's say about addresses.
fn is_of_the_pod_itself(frame: &[u8]) -> bool {
    let Some((ethernet, packet)) = frame.split_at_checked(14) else { return true };
    match ethernet[12..14] {
        [0x08, 0x00] => packet.get(12..16) == Some(&Side::One.pod_address().octets()),
        [0x86, 0xdd] => packet.get(8..24).is_some_and(|source| {
            let link_local = source.starts_with(&[0xfe, 0x80]);
            let own = source == Side::One.pod_address_v6().octets();
            let neighbour = packet[6] == 58 && (133..=137).contains(&packet[40]);
            own || link_local || source == [0; 16] || neighbour
        }),
        _ => true,
    }
}

/// The drops that `cases` must cause, and how many packets are handed on.
fn fates(cases: &[&Case]) -> (BTreeMap<String, u64>, u64) {
    let (mut dropped, mut passed) = (BTreeMap::new(), 0);
    for case in cases {
        match case.fate {
            Fate::Dropped(reason) => *dropped.entry(reason.to_owned()).or_default() += 1,
            Fate::Arrives | Fate::Passes => passed += 1,
        }
    }
    (dropped, passed)
}

fn every_packet_meets_its_fate(cases: &[Case]) {
    let Some(scene) = Scene::new(Underlay::Wire) else { return };
    let mut by_fate: BTreeMap<Fate, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        by_fate.entry(case.fate).or_default().push(case);
    }
    for (fate, group) in &by_fate {
        let packets = || group.iter().map(|case| case.packet.as_slice());
        let found = scene.counted(group.len(), || scene.peer.send(packets()));
        let names: Vec<&String> = group.iter().map(|case| &case.name).collect();
        assert_eq!(found, fates(group), "{fate:?}: {names:?}");
    }
    scene.check_arrivals(cases, 1);

    // Whoever is no peer gets nowhere with any of it.
    let packets = || cases.iter().map(|case| case.packet.as_slice());
    let found = scene.counted(cases.len(), || scene.stranger.send(packets()));
    assert_eq!(found, ([("unknown_sender".to_owned(), cases.len() as u64)].into(), 0));
    assert_eq!(scene.arrived(&[]), BTreeMap::new());
    scene.finish();
}

#[test]
fn every_packet_of_ipv4_meets_its_fate() {
    every_packet_meets_its_fate(&Cases::v4());
}

#[test]
fn every_packet_of_ipv6_meets_its_fate() {
    every_packet_meets_its_fate(&Cases::v6());
}

/// What the kernel has joined is taken apart again, and each packet meets the fate that it would have
/// met alone, also between the packets of a good flow that are joined anew.
#[test]
fn trains_of_all_of_it_are_taken_apart() {
    let Some(scene) = Scene::new(Underlay::Super) else { return };
    let mut cases = Cases::v4();
    let first_v6 = u32::try_from(cases.len()).unwrap();
    cases.extend(Cases::v6().into_iter().enumerate().map(|(place, case)| Case {
        packet: cases::renumbered(&case.packet, first_v6 + u32::try_from(place).unwrap()),
        ..case
    }));
    let good = Case { name: "good".into(), packet: cases::v4(u32::MAX), fate: Fate::Arrives };
    // Only the last one of a train can be shorter than the others.
    let (whole, shorter): (Vec<&Case>, Vec<&Case>) = cases
        .iter()
        .filter(|case| (1..=LENGTH).contains(&case.packet.len()))
        .partition(|case| case.packet.len() == LENGTH);
    let trains_before = scene.inbound("trains_in");
    assert!(shorter.len() * TRAIN / 2 > whole.len(), "some case is in no train");
    let trains: Vec<Vec<&Case>> = (0..)
        .zip(&shorter)
        .map(|(place, last)| {
            let others = whole.iter().cycle().skip(place * TRAIN / 2).take(TRAIN / 2);
            others.flat_map(|case| [&good, case]).chain([*last]).collect()
        })
        .collect();
    for some in trains.chunks(TRAINS_AT_ONCE) {
        let datagrams = some.concat();
        let found = scene.counted(datagrams.len(), || {
            for train in some {
                let bytes: Vec<u8> = train.iter().flat_map(|case| case.packet.clone()).collect();
                scene.peer.send_train(&bytes, LENGTH);
            }
        });
        let lasts: Vec<&Case> = some.iter().filter_map(|train| train.last().copied()).collect();
        assert_eq!(found, fates(&datagrams), "{lasts:?}");
        let arrived = scene.arrived(&cases);
        assert_eq!(arrived.get(&u32::MAX), Some(&(some.len() * TRAIN / 2)), "{lasts:?}");
        for (number, count) in arrived.into_iter().filter(|(number, _)| *number != u32::MAX) {
            let case = &cases[number as usize];
            assert!(!matches!(case.fate, Fate::Dropped(_)), "{count} times {case:?}");
        }
    }
    let received = scene.inbound("trains_in") - trains_before;
    assert!(received <= 2 * trains.len() as u64, "{received}: the kernel has joined nothing");
    scene.finish();
}

/// The outer source is as easily forged as anything else; what the kernel lets through is a stranger.
#[test]
fn forged_outer_sources_get_nowhere() {
    let Some(scene) = Scene::new(Underlay::Wire) else { return };
    let host = scene.cluster.lab.host(Side::Two);
    let forged = |source: [u8; 4]| {
        let target = Side::One.underlay_address().octets();
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(source, target, 64).udp(8285, 8285);
        builder.write(&mut packet, &cases::v4(0)).unwrap();
        send_forged(host, &packet);
    };
    let strangers = [[10, 168, 0, 77], [192, 0, 2, 1], [10, 244, 2, 2], [10, 244, 1, 2]];
    let found = scene.counted(strangers.len(), || strangers.into_iter().for_each(forged));
    assert_eq!(found, ([("unknown_sender".to_owned(), 4)].into(), 0));
    // The kernel itself lets none of these in: its own address, loopback, nobody's, a group's.
    for source in [Side::One.underlay_address().octets(), [127, 0, 0, 1], [224, 0, 0, 1]] {
        forged(source);
    }
    // The one that does come shows that the others would have.
    let found = scene.counted(1, || scene.stranger.send([cases::v4(0).as_slice()]));
    assert_eq!(found, ([("unknown_sender".to_owned(), 1)].into(), 0));
    assert_eq!(scene.arrived(&[]), BTreeMap::new());
    scene.finish();
}

/// Errors about datagrams that the daemon has sent, or may have sent, are as easily forged. That the
/// path is smaller the kernel believes, down to its own limit; nothing more comes of them.
#[test]
fn forged_errors_end_nothing() {
    let Some(scene) = Scene::new(Underlay::Wire) else { return };
    let host = scene.cluster.lab.host(Side::Two);
    let [victim, peer] = Side::BOTH.map(|side| side.underlay_address().octets());
    let mut quoted = Vec::new();
    let datagram = PacketBuilder::ipv4(victim, peer, 64).udp(8285, 8285);
    datagram.write(&mut quoted, &cases::v4(0)).unwrap();
    // Type and code of RFC 792 and 1191, and the word behind the checksum.
    for (kind, code, word) in [
        (3, 3, 0),
        (3, 1, 0),
        (3, 13, 0),
        (3, 4, 68),
        (3, 4, 0),
        (3, 4, 1400),
        (11, 0, 0),
        (12, 0, 0),
    ] {
        let mut error = Vec::new();
        let [.., high, low] = u32::to_be_bytes(word);
        let builder =
            PacketBuilder::ipv4(peer, victim, 64).icmpv4_raw(kind, code, [0, 0, high, low]);
        builder.write(&mut error, &quoted).unwrap();
        // More in a row than a source may fail.
        for _ in 0..1_500 {
            send_forged(host, &error);
        }
        scene.cluster.pods_from(Side::One).tcp(1, 1 << 20);
    }
    assert_eq!(scene.drops(), BTreeMap::new());
    // The pod was told, and lives with smaller packets.
    assert!(scene.cluster.counter(Side::One, "other", "path_mtu_lowered") > 0);
    scene.cluster.finish();
}

/// Noise, and good packets with a few bytes changed. The same ones in every run.
#[test]
fn random_bytes_harm_nobody() {
    let Some(scene) = Scene::new(Underlay::Wire) else { return };
    let mut random = SmallRng::seed_from_u64(8285);
    for _ in 0..20 {
        let noise: Vec<Vec<u8>> = (0..BURST)
            .map(|_| {
                let length = random.random_range(0..1400);
                (0..length).map(|_| random.random()).collect()
            })
            .collect();
        let send = || scene.peer.send(noise.iter().map(Vec::as_slice));
        let (dropped, passed) = scene.counted(BURST, send);
        assert_eq!((dropped.values().sum(), passed), (BURST as u64, 0), "{dropped:?}");
    }
    assert_eq!(scene.arrived(&[]), BTreeMap::new());
    for round in 0..20 {
        let changed: Vec<Vec<u8>> = (0..BURST)
            .map(|place| {
                let mut packet = if place % 2 == 0 { cases::v4(0) } else { cases::v6(0) };
                for _ in 0..=round % 4 {
                    let place = random.random_range(0..packet.len());
                    packet[place] = random.random();
                }
                packet
            })
            .collect();
        let send = || scene.peer.send(changed.iter().map(Vec::as_slice));
        let (dropped, passed) = scene.counted(BURST, send);
        assert_eq!(dropped.values().sum::<u64>() + passed, BURST as u64, "{dropped:?}");
    }
    for frame in scene.watch.frames(QUIET).iter().filter(|frame| !is_of_the_pod_itself(frame)) {
        check_addresses(&frame[14..]);
    }
    scene.finish();
}

/// Nothing that reaches the pod is for somebody else, or says that it comes from this side.
fn check_addresses(packet: &[u8]) {
    if packet[0] >> 4 == 4 {
        assert_eq!(packet[16..20], Side::One.pod_address().octets(), "{packet:02x?}");
        assert_ne!(packet[12..15], [10, 244, 1], "{packet:02x?}");
    } else {
        assert_eq!(packet[24..40], Side::One.pod_address_v6().octets(), "{packet:02x?}");
        assert_ne!(packet[8..16], Side::One.pod_address_v6().octets()[..8], "{packet:02x?}");
    }
}

/// Datagrams of one byte as fast as one sender can, and joined to trains of them. What fits nowhere the
/// kernel drops before us; the stream beside it arrives, and memory does not grow.
#[test]
fn a_flood_of_single_bytes_harms_nobody() {
    let Some(scene) = Scene::new(Underlay::Super) else { return };
    let train = vec![4 << 4 | 5; TRAIN];
    let flood = |attacker: &Attacker, bytes: &[u8], reason: &str| {
        let before = scene.drops().get(reason).copied().unwrap_or(0);
        let over = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sender = scope.spawn(|| attacker.flood(bytes, 1, &over));
            let between = scene.cluster.pods_from(Side::Two);
            between.tcp(2, 64 << 20);
            between.echo(0, 50);
            over.store(true, Ordering::Relaxed);
            sender.join().unwrap()
        });
        let counted = || scene.drops().get(reason).copied().unwrap_or(0) - before;
        assert!(counted() > 1000 && counted() <= sent, "{} of {sent} are {reason}", counted());
        scene.resident_kib()
    };
    // Buffers are made when they are first used, so the first flood of each kind may take some.
    let mut resident = Vec::new();
    for _ in 0..3 {
        for bytes in [&train[..1], &train] {
            flood(&scene.peer, bytes, "too_short");
            resident.push(flood(&scene.stranger, bytes, "unknown_sender"));
        }
    }
    let growth = resident[5].saturating_sub(resident[1]);
    assert!(growth <= GROWTH_MAX, "{resident:?} KiB");
    scene.finish();
}
