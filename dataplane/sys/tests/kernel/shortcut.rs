//! Two hosts: one has a shortcut, the other plain sockets, so that every byte on the wire is looked at.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, gettid};
use weft_sys::netlink::{Way, Ways, outbound_policies};
use weft_sys::shortcut::{
    Device, Habits, Shortcut, ShortcutCounts, ShortcutError, ShortcutOptions, ShortcutPeer,
};
use weft_sys::tun::{Tun, TunOptions, VNET_HEADER_LENGTH, WithoutOffloads};

use crate::namespace::{give_up, in_new_namespace_with_tun, ip, skip};

const PORT: u16 = 8285;
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// A pod of ours and one of the peer's.
const POD: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 9);
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 7);

/// Bytes of the headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// Longer than a packet takes.
const MOMENT: Duration = Duration::from_millis(20);

/// Long beside what a busy machine keeps a test waiting.
const HABITS: Habits = Habits {
    burst: 5,
    hold: Duration::from_millis(1000),
    gap: Duration::from_millis(500),
    leave: Duration::from_millis(1900),
};

/// A host of its own on the other end of the link, which runs what it is told to.
struct Neighbour(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Neighbour {
    fn new() -> Neighbour {
        let (sender, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid().as_raw_nonzero().get()).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        ip("link add u1 type veth peer name u2");
        ip(&format!("link set u2 netns {}", told.recv().unwrap()));
        let neighbour = Neighbour(sender);
        neighbour.run(|| {
            ip("address add 192.0.2.2/24 dev u2");
            ip("link set u2 up");
            ip("link set lo up");
        });
        neighbour
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.0.send(Box::new(move || sender.send(job()).unwrap())).unwrap();
        receiver.recv().unwrap()
    }

    /// Sends a UDP header and what follows it, both as given: the kernel does not look at them.
    fn send(&self, datagram: Vec<u8>) {
        self.run(move || {
            let to = SockaddrIn::from(SocketAddrV4::new(HERE, 0));
            sendto(raw_socket().as_raw_fd(), &datagram, &to, MsgFlags::empty()).unwrap();
        });
    }
}

/// For datagrams with their headers: of IPv4 only when received.
fn raw_socket() -> OwnedFd {
    let (family, kind) = (AddressFamily::Inet, SockType::Raw);
    socket(family, kind, SockFlag::SOCK_NONBLOCK, SockProtocol::Udp).unwrap()
}

/// The tunnel device with a shortcut to one peer.
struct Host {
    tun: Tun,
    shortcut: Shortcut,
    neighbour: Neighbour,
}

impl Host {
    fn new() -> Host {
        // Without it the kernel finishes all checksums, and the tests can look at them.
        let without = WithoutOffloads { checksum: true, ..WithoutOffloads::default() };
        let options = TunOptions { name: "flannel0", queue_length: 4096, without };
        let tun = Tun::open(&options).unwrap();
        let neighbour = Neighbour::new();
        for words in [
            "link set lo up",
            "address add 10.5.1.9/32 dev lo",
            "address add 10.5.1.0/32 dev flannel0",
            "link set flannel0 mtu 1472 up",
            "route add 10.5.0.0/16 dev flannel0 src 10.5.1.9",
            "address add 192.0.2.1/24 dev u1",
            "link set u1 up",
        ] {
            ip(words);
        }
        let mut shortcut = Shortcut::attach(options_between(&tun)).unwrap();
        shortcut.set_peers(&[peer()]).unwrap();
        Host { tun, shortcut, neighbour }
    }

    fn counts(&self) -> ShortcutCounts {
        self.shortcut.counts().unwrap()
    }

    /// Inner packets that were left to the workers, until none comes any more.
    fn left_to_workers(&self) -> Vec<Vec<u8>> {
        self.left_of(17)
    }

    /// Of one protocol: the kernel sends others by itself.
    fn left_of(&self, protocol: u8) -> Vec<Vec<u8>> {
        let mut device = File::from(self.tun.as_fd().try_clone_to_owned().unwrap());
        let mut packets = Vec::new();
        while is_readable(&device, MOMENT) {
            let mut packet = vec![0; 65_600];
            let length = device.read(&mut packet).unwrap();
            packet.truncate(length);
            packets.push(packet.split_off(VNET_HEADER_LENGTH));
        }
        packets.retain(|packet| packet[0] == 0x45 && packet[9] == protocol);
        packets
    }
}

fn is_readable(file: &impl AsFd, wait: Duration) -> bool {
    let mut wanted = [PollFd::new(file, PollFlags::IN)];
    poll(&mut wanted, Some(&Timespec::try_from(wait).unwrap())).unwrap() > 0
}

fn options_between(tun: &Tun) -> ShortcutOptions {
    ShortcutOptions {
        device: tun.index(),
        underlay: Device::named("u1").unwrap().index,
        local: SocketAddrV4::new(HERE, PORT),
        own: Ipv4Addr::new(10, 5, 1, 0),
        prefix: 24,
        habits: HABITS,
    }
}

fn peer() -> ShortcutPeer {
    ShortcutPeer {
        subnet: Ipv4Addr::new(10, 5, 2, 0),
        outer: Some(SocketAddrV4::new(THERE, PORT)),
        sources: vec![THERE],
    }
}

/// Runs a test unless the kernel has no place for such programs.
fn with_host(name: &'static str, test: impl FnOnce(Host) + Send + 'static) {
    in_new_namespace_with_tun(name, move || {
        let release = nix::sys::utsname::uname().unwrap();
        let release = release.release().to_str().unwrap().to_owned();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        if version < (6, 6) {
            return skip(name, &format!("Linux {release} has no tcx; 6.6 is the first"));
        }
        test(Host::new());
    });
}

fn words_sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0x12, 0x34, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = !words_sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Without checksum.
fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram: Vec<u8> =
        [ports[0], ports[1], length, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend(payload);
    datagram
}

#[test]
fn a_single_packet_is_on_the_wire_as_flannel_has_it() {
    with_host("a_single_packet_is_on_the_wire_as_flannel_has_it", |host| {
        // Whose kernel takes the datagram in the end.
        let receiver = host.neighbour.run(|| UdpSocket::bind((THERE, PORT)).unwrap());
        let wire = host.neighbour.run(raw_socket);
        let sender = UdpSocket::bind((POD, 4000)).unwrap();
        for length in [0, 1, 17, 64, 511 - HEADERS, 512 - HEADERS] {
            let payload: Vec<u8> = (0..length).map(|place| place as u8).collect();
            sleep(MOMENT);
            sender.send_to(&payload, (OTHER_POD, 5000)).unwrap();
            let mut packet = vec![0; 2000];
            assert!(is_readable(&wire, Duration::from_secs(5)), "{length}: nothing came");
            let got = recv(wire.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
            packet.truncate(got);

            let (outer, datagram) = packet.split_at(20);
            let (header, inner) = datagram.split_at(8);
            let whole = u16::try_from(2 * HEADERS + length).unwrap();
            assert_eq!(
                outer[..10],
                [&[0x45, 0], &whole.to_be_bytes()[..], &[0, 0, 0x40, 0, 64, 17]].concat()
            );
            assert_eq!(outer[12..], [HERE.octets(), THERE.octets()].concat());
            assert_eq!(words_sum(outer), 0xffff, "the outer checksum");
            let of_udp = [PORT, PORT, whole - 20, 0].map(u16::to_be_bytes).concat();
            assert_eq!(header, of_udp);

            assert_eq!(words_sum(&inner[..20]), 0xffff, "the inner checksum");
            assert_eq!(inner[12..20], [POD.octets(), OTHER_POD.octets()].concat());
            assert_eq!(inner[HEADERS..], payload);
            let mut pseudo = [POD.octets(), OTHER_POD.octets()].concat();
            pseudo.extend([0, 17, inner[24], inner[25]]);
            pseudo.extend(&inner[20..]);
            assert_eq!(words_sum(&pseudo), 0xffff, "the checksum of the payload");

            let mut taken = vec![0; 2000];
            let (got, from) = receiver.recv_from(&mut taken).unwrap();
            assert_eq!((&taken[..got], from), (inner, SocketAddrV4::new(HERE, PORT).into()));
        }
        assert_eq!(host.left_to_workers(), Vec::<Vec<u8>>::new());
        let counts = host.counts();
        let bytes = 6 * HEADERS as u64 + (1 + 17 + 64 + 483 + 484);
        assert_eq!((counts.packets_out, counts.bytes_out, counts.packets_in), (6, bytes, 0));
    });
}

#[test]
fn what_is_large_strange_or_for_others_is_left_to_workers() {
    with_host("what_is_large_strange_or_for_others_is_left_to_workers", |host| {
        ip("address add 10.5.3.3/32 dev lo");
        let from = |address: Ipv4Addr| UdpSocket::bind((address, 0)).unwrap();
        let stranger = Ipv4Addr::new(10, 5, 4, 1);
        let own_zero = Ipv4Addr::new(10, 5, 1, 0);
        let elsewhere = Ipv4Addr::new(10, 5, 3, 3);
        for (source, destination, length, why) in [
            (POD, OTHER_POD, 513 - HEADERS, "too long"),
            (POD, OTHER_POD, 1472 - HEADERS, "as long as the device takes"),
            (POD, OTHER_POD, 3000, "fragments"),
            (POD, stranger, 64, "no such peer"),
            (own_zero, OTHER_POD, 64, "the control loop tries the workers"),
            (elsewhere, OTHER_POD, 64, "no pod of ours"),
            (HERE, OTHER_POD, 64, "the host itself"),
        ] {
            from(source).send_to(&vec![7; length], (destination, 5000)).unwrap();
            assert!(!host.left_to_workers().is_empty(), "{why}");
        }
        // TCP begins with a packet whose MSS workers look at.
        let begins = TcpStream::connect_timeout(&(OTHER_POD, 5000).into(), MOMENT);
        assert_eq!(begins.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(host.left_of(6).len(), 1);
        assert_eq!(host.counts(), ShortcutCounts::default());
        // The same without anything strange.
        from(POD).send_to(&[7; 64], (OTHER_POD, 5000)).unwrap();
        assert_eq!((host.left_to_workers().len(), host.counts().packets_out), (0, 1));
    });
}

#[test]
fn a_flow_that_sends_much_belongs_to_workers_until_it_is_quiet() {
    const COUNT: usize = 1000;
    with_host("a_flow_that_sends_much_belongs_to_workers_until_it_is_quiet", |host| {
        let sender = UdpSocket::bind((POD, 4000)).unwrap();
        sender.connect((OTHER_POD, 5000)).unwrap();
        let mut sent: u64 = 0;
        for round in 0..2 {
            for _ in 0..COUNT {
                sender.send(&[7; 64]).unwrap();
            }
            let left = host.left_to_workers().len() as u64;
            let taken = host.counts().packets_out - sent;
            assert_eq!(left + taken, COUNT as u64, "none is lost");
            let burst = u64::from(HABITS.burst);
            assert!(taken >= burst && left > 0, "round {round}: {taken} and {left}");
            sent += taken;

            // A single one goes with the others, another flow does not.
            sender.send(&[7; 64]).unwrap();
            assert_eq!(host.left_to_workers().len(), 1, "round {round}");
            let other = UdpSocket::bind((POD, 0)).unwrap();
            other.send_to(&[7; 64], (OTHER_POD, 5001)).unwrap();
            assert_eq!(host.left_to_workers().len(), 0, "round {round}");
            sleep(HABITS.leave + HABITS.gap);
            sender.send(&[7; 64]).unwrap();
            assert_eq!(host.left_to_workers().len(), 0, "round {round}: quiet");
            sent += 2;
            assert_eq!(host.counts().packets_out, sent);
            // The next round begins as the first one.
            sleep(HABITS.gap);
        }
    });
}

#[test]
fn a_packet_follows_the_one_before_it() {
    with_host("a_packet_follows_the_one_before_it", |host| {
        let sender = UdpSocket::bind((POD, 4000)).unwrap();
        sender.connect((OTHER_POD, 5000)).unwrap();
        let follows = || {
            let before = host.counts().packets_out;
            sender.send(&[8; 10]).unwrap();
            let left = host.left_to_workers();
            let is_left = left.last().is_some_and(|packet| packet.ends_with(&[8; 10]));
            assert_eq!(host.counts().packets_out - before, u64::from(!is_left));
            is_left
        };
        assert!(!follows());
        // A super-packet: five segments at once. The flow is the workers' for a while.
        setsockopt(&sender, sockopt::UdpGsoSegment, &100).unwrap();
        sender.send(&[7; 500]).unwrap();
        setsockopt(&sender, sockopt::UdpGsoSegment, &0).unwrap();
        assert!(follows());
        sleep(HABITS.leave + HABITS.gap);
        assert!(!follows());
        // So it is with a long one. Those that follow keep others with them after that.
        sender.send(&[9; 1000]).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < HABITS.hold + HABITS.gap / 2 {
            assert!(follows(), "after {:?}", begun.elapsed());
        }
        // Even if they never pause, not for ever.
        while follows() {
            assert!(begun.elapsed() < HABITS.leave + HABITS.gap);
        }
    });
}

/// What a plain socket at our port got, or `None`.
fn datagram(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut datagram = vec![0; 2000];
    let length = socket.recv(&mut datagram).ok()?;
    datagram.truncate(length);
    Some(datagram)
}

#[test]
fn a_datagram_of_a_peer_comes_in_by_the_device() {
    with_host("a_datagram_of_a_peer_comes_in_by_the_device", |host| {
        ip("route add default dev flannel0");
        let pod = UdpSocket::bind((POD, 5000)).unwrap();
        pod.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for length in [0, 1, 64, 484, 1400] {
            let payload: Vec<u8> = (0..length).map(|place| place as u8).collect();
            let inner = ipv4(OTHER_POD, POD, &udp([4000, 5000], &payload));
            host.neighbour.send(udp([PORT, PORT], &inner));
            let mut got = vec![0; 2000];
            let (length, from) = pod.recv_from(&mut got).unwrap();
            assert_eq!(
                (&got[..length], from),
                (&payload[..], SocketAddrV4::new(OTHER_POD, 4000).into())
            );
        }
        let counts = host.counts();
        assert_eq!((counts.packets_in, counts.bytes_in), (5, 5 * 28 + 1949));
    });
}

#[test]
fn everything_else_is_left_to_the_socket() {
    with_host("everything_else_is_left_to_the_socket", |host| {
        ip("address add 192.0.2.9/32 dev u1");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let right = || ipv4(OTHER_POD, POD, &udp([4000, 5000], b"weft"));
        let changed = |place: usize, value: u8| {
            let mut inner = right();
            inner[place] = value;
            udp([PORT, PORT], &inner)
        };
        let with_checksum = {
            let mut datagram = udp([PORT, PORT], &right());
            let mut pseudo = [THERE.octets(), HERE.octets()].concat();
            pseudo.extend([0, 17, datagram[4], datagram[5]]);
            pseudo.extend(&datagram);
            let sum = !words_sum(&pseudo);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            datagram
        };
        let from = |source: Ipv4Addr, destination: Ipv4Addr| {
            udp([PORT, PORT], &ipv4(source, destination, &udp([4000, 5000], b"weft")))
        };
        let cases = [
            (with_checksum, "of a worker"),
            (from(Ipv4Addr::new(10, 5, 3, 7), POD), "another's pod"),
            (from(Ipv4Addr::new(10, 5, 1, 7), POD), "a pod of ours"),
            (from(Ipv4Addr::new(203, 0, 113, 7), POD), "from outside of the network"),
            (from(OTHER_POD, Ipv4Addr::new(10, 5, 3, 1)), "for another host"),
            (from(OTHER_POD, Ipv4Addr::new(127, 0, 0, 1)), "for the host itself"),
            (changed(0, 0x46), "options"),
            (changed(0, 0x65), "not IPv4"),
            (changed(3, 31), "shorter than the datagram"),
            (changed(3, 33), "longer than the datagram"),
            (udp([PORT, PORT], &right()[..19]), "cut in the header"),
            (udp([PORT, PORT], &[]), "empty"),
            (udp([PORT, PORT], &[0x60; 64]), "IPv6"),
        ];
        for (sent, why) in cases {
            host.neighbour.send(sent.clone());
            assert_eq!(datagram(&socket).as_deref(), Some(&sent[8..]), "{why}");
        }
        // A fragment of a datagram has no right end, and is put together before the socket sees it.
        let long = ipv4(OTHER_POD, POD, &udp([4000, 5000], &[7; 1960]));
        host.neighbour.send(udp([PORT, PORT], &long));
        let mut whole = vec![0; 4000];
        assert_eq!(socket.recv(&mut whole).unwrap(), long.len());
        // To another of our addresses, or from an address that no peer has.
        host.neighbour.run({
            let datagram = udp([PORT, PORT], &right());
            move || {
                ip("address add 192.0.2.77/24 dev u2");
                let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 0));
                sendto(raw_socket().as_raw_fd(), &datagram, &to, MsgFlags::empty()).unwrap();
                let socket = raw_socket();
                let source = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 0));
                nix::sys::socket::bind(socket.as_raw_fd(), &source).unwrap();
                let to = SockaddrIn::from(SocketAddrV4::new(HERE, 0));
                sendto(socket.as_raw_fd(), &datagram, &to, MsgFlags::empty()).unwrap();
            }
        });
        assert_eq!(datagram(&socket), Some(right()));
        assert_eq!(datagram(&socket), Some(right()));
        assert_eq!(host.counts(), ShortcutCounts::default());
        // The same without anything strange.
        host.neighbour.send(udp([PORT, PORT], &right()));
        sleep(MOMENT);
        assert_eq!(host.counts().packets_in, 1);
    });
}

#[test]
fn peers_come_and_go() {
    with_host("peers_come_and_go", |mut host| {
        let sender = UdpSocket::bind((POD, 0)).unwrap();
        let takes = |host: &Host| {
            let before = host.counts().packets_out;
            sender.send_to(&[7; 64], (OTHER_POD, 5000)).unwrap();
            let (left, taken) = (host.left_to_workers().len(), host.counts().packets_out - before);
            assert_eq!(left as u64 + taken, 1);
            taken == 1
        };
        assert!(takes(&host));
        host.shortcut.set_peers(&[]).unwrap();
        assert!(!takes(&host));
        let elsewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 3), PORT);
        host.shortcut.set_peers(&[ShortcutPeer { outer: Some(elsewhere), ..peer() }]).unwrap();
        assert!(takes(&host));
        host.shortcut.set_peers(&[ShortcutPeer { outer: None, ..peer() }]).unwrap();
        assert!(!takes(&host), "it is only heard");
        host.shortcut.set_peers(&[peer()]).unwrap();
        host.shortcut.set_peers(&[peer()]).unwrap();
        assert!(takes(&host));
        let Host { tun, shortcut, neighbour } = host;
        drop(shortcut);
        // Both programs are gone with it.
        let again = Shortcut::attach(options_between(&tun)).unwrap();
        let host = Host { tun, shortcut: again, neighbour };
        assert!(!takes(&host), "it has no peers yet");
    });
}

#[test]
fn many_peers_are_too_many_at_some_time() {
    with_host("many_peers_are_too_many_at_some_time", |mut host| {
        let all: Vec<ShortcutPeer> = (0..20_000_u32)
            .map(|number| ShortcutPeer {
                subnet: Ipv4Addr::from_bits((10 << 24) + (number << 8)),
                outer: Some(SocketAddrV4::new(Ipv4Addr::from_bits(number), PORT)),
                sources: vec![Ipv4Addr::from_bits(number)],
            })
            .collect();
        host.shortcut.set_peers(&all[..10_000]).unwrap();
        let error = host.shortcut.set_peers(&all).unwrap_err();
        assert!(matches!(error, ShortcutError::Full), "{error:?}");
        host.shortcut.set_peers(&all[10_000..]).unwrap();
        host.shortcut.set_peers(&[peer()]).unwrap();
    });
}

#[test]
fn says_what_is_missing() {
    with_host("says_what_is_missing", |host| {
        let options = options_between(&host.tun);
        let nowhere = ShortcutOptions { underlay: 4711, ..options };
        let error = Shortcut::attach(nowhere).unwrap_err();
        assert!(matches!(error, ShortcutError::Missing(_)), "{error:?}");
        give_up(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN);
        let error = Shortcut::attach(options).unwrap_err();
        assert!(matches!(error, ShortcutError::Forbidden(_)), "{error:?}");
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    });
}

#[test]
fn policies_of_ipsec_are_counted() {
    in_new_namespace_with_tun("policies_of_ipsec_are_counted", || {
        assert_eq!(outbound_policies().unwrap(), 0);
        let count = Command::new("ip").args(["xfrm", "policy", "count"]).output().unwrap();
        if !count.status.success() {
            return skip("policies_of_ipsec_are_counted", "the kernel has no IPsec");
        }
        ip("xfrm policy add dst 192.0.2.0/24 proto udp dport 8285 dir out action block");
        assert_eq!(outbound_policies().unwrap(), 1);
        ip("xfrm policy add dst 192.0.2.0/24 dir in action block");
        assert_eq!(outbound_policies().unwrap(), 1, "only what leaves is asked for");
        ip("xfrm policy flush");
        assert_eq!(outbound_policies().unwrap(), 0);
        give_up(CapabilitySet::NET_ADMIN);
        assert!(outbound_policies().is_err());
    });
}

#[test]
fn ways_are_those_of_the_kernel() {
    in_new_namespace_with_tun("ways_are_those_of_the_kernel", || {
        let mut ways = Ways::new().unwrap();
        let mut find = |host: &str| ways.find(host.parse().unwrap()).unwrap();
        assert_eq!(find("192.0.2.2"), None, "nothing is up");
        ip("link add u1 type veth peer name u2");
        for words in ["address add 192.0.2.1/24 dev u1", "link set u1 up", "link set u2 up"] {
            ip(words);
        }
        let [one, two] = ["u1", "u2"].map(|name| Device::named(name).unwrap().index);
        assert_eq!(find("192.0.2.2"), Some(Way { device: one, source: HERE }));
        assert_eq!(find("192.0.2.1"), None, "this host");
        assert_eq!(find("198.51.100.1"), None, "no route");
        ip("route add 198.51.100.0/24 via 192.0.2.7");
        assert_eq!(find("198.51.100.1"), Some(Way { device: one, source: HERE }));
        // Elsewhere, with the same source.
        ip("route add 192.0.2.2/32 dev u2 src 192.0.2.1");
        assert_eq!(find("192.0.2.2"), Some(Way { device: two, source: HERE }));
        ip("route add unreachable 192.0.2.3/32");
        assert_eq!(find("192.0.2.3"), None);
    });
}

#[test]
fn devices_say_what_they_are() {
    in_new_namespace_with_tun("devices_say_what_they_are", || {
        let options =
            TunOptions { name: "flannel0", queue_length: 10, without: WithoutOffloads::default() };
        let tun = Tun::open(&options).unwrap();
        ip("link add u1 type veth peer name u2");
        let device = Device::named("flannel0").unwrap();
        assert_eq!((device.index, device.is_ethernet), (tun.index(), false));
        assert!(Device::named("u1").unwrap().is_ethernet);
        assert_eq!(Device::numbered(tun.index()).unwrap(), device);
        assert!(Device::numbered(4711).is_err());
        assert!(Device::named("u3").is_err() && Device::named("no/name").is_err());
    });
}
