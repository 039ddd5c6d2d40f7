use std::net::UdpSocket as StdSocket;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Probe, opcode};
use weft_sys::checksum;
use weft_sys::frame::{FramePool, PoolShape};
use weft_sys::gather::Gather;
use weft_sys::region::{PAGE, Region};
use weft_sys::ring::{Completion, Datagram, Errno, Files, Pools, Ring, SetupError, Without};
use weft_sys::tun::{Tun, TunOptions, VNET_HEADER_LENGTH, WithoutOffloads};
use weft_sys::udp::{SockAddr, SocketOptions, UdpSocket};
use weft_sys::wake::{self, Waker, wake_pair};

use crate::buffers;
use crate::namespace::{in_new_namespace_with_tun, ip, skip};

const SHAPE: PoolShape = PoolShape { frames: 4, capacity: 65_700, stride: 65_728 };
const GATHERS: u16 = 64;

/// What the kernel is given for all that should happen here.
const PATIENCE: Duration = Duration::from_secs(5);

/// A ring on `flannel0`, which has 10.244.1.1/16, and on a socket.
#[derive(Debug)]
struct Rig {
    ring: Ring,
    gathers: Vec<Gather>,
    waker: Waker,
    local: SocketAddr,
}

impl Rig {
    fn new() -> Rig {
        ip("link set lo up");
        Rig::on("127.0.0.1:0", 1 << 20)
    }

    fn on(local: &str, send_buffer: usize) -> Rig {
        Rig::open(local, send_buffer, Without::default()).unwrap()
    }

    fn open(
        local: &str,
        send_buffer: usize,
        without: Without,
    ) -> Result<Rig, Box<(SetupError, Files)>> {
        let options =
            TunOptions { name: "flannel0", queue_length: 100, without: WithoutOffloads::default() };
        let tun = Tun::open(&options).unwrap();
        // Nothing but what a test sends shall come out of it.
        ip("link set flannel0 addrgenmode none mtu 1472");
        ip("link set flannel0 up");
        ip("address add 10.244.1.1/16 dev flannel0");
        let options = SocketOptions {
            receive_buffer: 1 << 20,
            send_buffer,
            gro: true,
            gso: true,
            reuse_port: false,
        };
        let socket = UdpSocket::bind(local.parse().unwrap(), &options).unwrap();
        let local = socket.local();
        let arenas = usize::from(GATHERS) * (weft_sys::gather::ARENA + 64);
        let region = Region::map(2 * SHAPE.footprint() + arenas + PAGE).unwrap();
        let pools = Pools {
            tun: FramePool::new(&region, SHAPE, 0),
            udp: FramePool::new(&region, SHAPE, 1),
        };
        let gathers = (0..GATHERS).map(|number| Gather::new(&region, number)).collect();
        let (waker, wake) = wake_pair().unwrap();
        let files = Files { tun, sockets: vec![socket], wake };
        let ring = Ring::new(files, pools, GATHERS, without)?;
        Ok(Rig { ring, gathers, waker, local })
    }

    /// Enters the kernel until `count` completions have come.
    fn completions(&mut self, count: usize) -> Vec<Completion> {
        let start = Instant::now();
        let mut completions = Vec::new();
        while completions.len() < count {
            let missing = count - completions.len();
            assert!(start.elapsed() < PATIENCE, "{missing} of {count} completions did not come");
            self.ring.enter(false).unwrap();
            let before = completions.len();
            completions.extend(std::iter::from_fn(|| self.ring.completion()));
            if completions.len() == before {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(completions.len(), count, "{completions:?}");
        completions
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8], segment: Option<u16>, linked: bool) {
        let mut gather = self.gathers.pop().unwrap();
        gather.set_name(SockAddr::from(to));
        gather.push_copy(bytes);
        self.ring.send(gather, 0, segment, linked);
    }

    /// What became of `count` sends, by the numbers of their gathers.
    fn sent(&mut self, count: usize) -> Vec<(u16, Result<u32, Errno>)> {
        let sent = |completion: Completion| match completion {
            Completion::Sent { gather, result } => (gather.number(), result),
            other => panic!("{other:?}"),
        };
        self.completions(count).into_iter().map(sent).collect()
    }
}

fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    match lacking() {
        Some(reason) => skip(name, &reason),
        None => in_new_namespace_with_tun(name, test),
    }
}

/// Why this kernel can have no ring of ours, found out without any code of ours.
fn lacking() -> Option<String> {
    let mut probe = Probe::new();
    let answer = IoUring::new(1).and_then(|ring| ring.submitter().register_probe(&mut probe));
    match answer {
        Err(error) => Some(format!("the kernel gives no ring: {error}")),
        // The youngest of what a ring needs.
        Ok(()) if !probe.is_supported(opcode::ReadMulti::CODE) => {
            Some("the kernel has no multishot reads".to_owned())
        }
        Ok(()) => None,
    }
}

/// A socket of the stack, on an address of the device.
fn pod() -> StdSocket {
    let socket = StdSocket::bind("10.244.1.1:7000").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn listener(address: &str) -> StdSocket {
    let socket = StdSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn packet(completion: Completion) -> (weft_sys::frame::Frame, bool) {
    match completion {
        Completion::Packet { result, more } => (result.unwrap(), more),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_packets_of_the_stack() {
    in_namespace("reads_packets_of_the_stack", || {
        let mut rig = Rig::new();
        rig.ring.arm_tun();
        let pod = pod();
        pod.send_to(b"first", "10.244.2.7:7001").unwrap();
        pod.send_to(b"second", "10.244.2.8:7001").unwrap();
        let read = rig.completions(2);
        assert_eq!(rig.ring.pools().tun.held(), 2);
        let mut packets = read.into_iter().map(packet);
        for (payload, host) in [(&b"first"[..], 7), (b"second", 8)] {
            let (frame, more) = packets.next().unwrap();
            assert!(more);
            let (header, packet) = frame.bytes().split_at(VNET_HEADER_LENGTH);
            assert_eq!(header[0], 1, "the checksum is left to us");
            assert_eq!(packet.len(), 28 + payload.len());
            assert_eq!(packet[12..20], [10, 244, 1, 1, 10, 244, 2, host]);
            assert_eq!(packet[28..], *payload);
        }
        drop(packets);
        assert_eq!(rig.ring.pools().tun.held(), 0);
    });
}

/// Reading pauses while all frames are held, and nothing is lost meanwhile.
#[test]
fn pauses_without_frames() {
    in_namespace("pauses_without_frames", || {
        let mut rig = Rig::new();
        rig.ring.arm_tun();
        let pod = pod();
        let count = usize::from(SHAPE.frames);
        for number in 0..=count {
            pod.send_to(&[number as u8], "10.244.2.7:7001").unwrap();
        }
        let mut read = rig.completions(count + 1);
        let end = read.pop().unwrap();
        assert!(
            matches!(end, Completion::Packet { result: Err(Errno::NOBUFS), more: false }),
            "{end:?}"
        );
        assert_eq!(usize::from(rig.ring.pools().tun.held()), count);
        let frames: Vec<_> = read.into_iter().map(|completion| packet(completion).0).collect();
        let numbers: Vec<u8> = frames.iter().map(|frame| *frame.bytes().last().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        drop(frames);
        rig.ring.arm_tun();
        let (last, _) = packet(rig.completions(1).remove(0));
        assert_eq!(*last.bytes().last().unwrap(), count as u8);
    });
}

#[test]
fn receives_datagrams_and_trains() {
    in_namespace("receives_datagrams_and_trains", || {
        let mut rig = Rig::new();
        rig.ring.arm_socket(0);
        let peer = listener("127.0.0.2:8285");
        peer.send_to(b"hello", rig.local).unwrap();
        let local = rig.local;
        let datagram = |rig: &mut Rig| -> (Datagram, bool) {
            let received = |completion: Completion| match completion {
                Completion::Datagram { socket: 0, result, more } => (result.unwrap(), more),
                other => panic!("{other:?}"),
            };
            received(rig.completions(1).remove(0))
        };
        let (single, more) = datagram(&mut rig);
        assert!(more);
        assert_eq!(single.payload.bytes(), b"hello");
        assert_eq!(single.sender, Some("127.0.0.2:8285".parse().unwrap()));
        assert_eq!((single.control.segment_size, single.truncated), (None, false));
        drop(single);

        // To the ring an empty datagram is the end of something.
        peer.send_to(&[], local).unwrap();
        let (empty, more) = datagram(&mut rig);
        assert!(empty.payload.is_empty());
        if !more {
            rig.ring.arm_socket(0);
        }

        // Over loopback a train stays in one piece.
        let options = SocketOptions {
            receive_buffer: 1 << 20,
            send_buffer: 1 << 20,
            gro: true,
            gso: true,
            reuse_port: false,
        };
        let sender = UdpSocket::bind("127.0.0.3:8285".parse().unwrap(), &options).unwrap();
        let bytes: Vec<u8> = (0..2500).map(|place| place as u8).collect();
        buffers::send(&sender, &SockAddr::from(local), &bytes, Some(1000)).unwrap();
        let (train, _) = datagram(&mut rig);
        assert_eq!(train.payload.bytes(), bytes);
        assert_eq!(train.control.segment_size, Some(1000));
    });
}

#[test]
fn sends_trains() {
    in_namespace("sends_trains", || {
        let mut rig = Rig::new();
        let peer = listener("127.0.0.2:8285");
        let bytes: Vec<u8> = (0..340).map(|place| place as u8).collect();
        rig.send("127.0.0.2:8285".parse().unwrap(), &bytes, Some(100), false);
        assert_eq!(rig.sent(1)[0].1, Ok(340));
        let mut buffer = [0; 2000];
        for expected in bytes.chunks(100) {
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (expected, rig.local));
        }
    });
}

/// One entry into the kernel is enough for a whole chain, even one that does not wait.
#[test]
fn a_chain_arrives_in_order() {
    in_namespace("a_chain_arrives_in_order", || {
        let mut rig = Rig::new();
        let peer = listener("127.0.0.2:8285");
        let count = 40_u8;
        for number in 0..count {
            let last = number + 1 == count;
            rig.send("127.0.0.2:8285".parse().unwrap(), &[number], None, !last);
        }
        rig.ring.enter(false).unwrap();
        let sent = |completion: Completion| match completion {
            Completion::Sent { gather, result } => (gather.number(), result),
            other => panic!("{other:?}"),
        };
        let sent: Vec<_> = std::iter::from_fn(|| rig.ring.completion()).map(sent).collect();
        assert!(sent.iter().all(|(_, result)| *result == Ok(1)), "{sent:?}");
        // Gathers are taken from the end.
        let numbers: Vec<u16> = sent.iter().map(|(number, _)| GATHERS - 1 - number).collect();
        assert_eq!(numbers, (0..u16::from(count)).collect::<Vec<_>>());
        let mut buffer = [0; 10];
        for number in 0..count {
            assert_eq!(peer.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], number);
        }
    });
}

#[test]
fn a_failure_cancels_the_rest_of_its_chain_only() {
    in_namespace("a_failure_cancels_the_rest_of_its_chain_only", || {
        let mut rig = Rig::new();
        let peer = listener("127.0.0.2:8285");
        let good: SocketAddr = "127.0.0.2:8285".parse().unwrap();
        let nowhere: SocketAddr = "203.0.113.1:8285".parse().unwrap();
        rig.send(good, b"a", None, true);
        rig.send(nowhere, b"b", None, true);
        rig.send(good, b"c", None, true);
        rig.send(good, b"d", None, false);
        rig.send(good, b"e", None, false);
        let mut sent = rig.sent(5);
        // Another chain may overtake this one, but within it the order holds.
        let other = sent.iter().position(|(number, _)| *number == GATHERS - 5).unwrap();
        assert_eq!(sent.remove(other).1, Ok(1));
        let results: Vec<_> = sent.iter().map(|(_, result)| *result).collect();
        let cancelled = Err(Errno::CANCELED);
        assert_eq!(results, [Ok(1), Err(Errno::NETUNREACH), cancelled, cancelled]);
        let numbers: Vec<_> = sent.iter().map(|(number, _)| GATHERS - number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let mut arrived = [[0; 1]; 2];
        for byte in &mut arrived {
            peer.recv(byte).unwrap();
        }
        arrived.sort_unstable();
        assert_eq!(arrived, [*b"a", *b"e"]);
    });
}

/// A slow link fills the send buffer: the chain stops where it does, and the ring says when there
/// is room again.
#[test]
fn a_full_socket_stops_the_chain_until_it_is_writable() {
    in_namespace("a_full_socket_stops_the_chain_until_it_is_writable", || {
        ip("link add under type veth peer name beyond");
        ip("address add 192.0.2.7/24 dev under");
        ip("link set beyond up");
        ip("link set under up");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev under");
        let words = "qdisc add dev under root tbf rate 20mbit burst 10k limit 1000000";
        let limited = Command::new("tc").args(words.split(' ')).status();
        if !limited.is_ok_and(|status| status.success()) {
            skip("a_full_socket_stops_the_chain", "there is no tbf");
            return;
        }
        let mut rig = Rig::on("192.0.2.7:8285", 20_000);
        let to = "192.0.2.9:8285".parse().unwrap();
        let count = 60;
        for number in 0..count {
            rig.send(to, &[7; 1400], None, number + 1 < count);
        }
        let results: Vec<_> = rig.sent(count).into_iter().map(|(_, result)| result).collect();
        let full = results.iter().position(Result::is_err).expect("20,000 bytes are less");
        assert!(full > 1, "{results:?}");
        assert!(results[..full].iter().all(|result| *result == Ok(1400)), "{results:?}");
        assert_eq!(results[full], Err(Errno::AGAIN));
        let rest = &results[full + 1..];
        assert!(rest.iter().all(|result| *result == Err(Errno::CANCELED)), "{results:?}");
        rig.ring.arm_writable(0);
        let writable = rig.completions(1).remove(0);
        assert!(matches!(writable, Completion::Writable { socket: 0 }), "{writable:?}");
        rig.send(to, &[7; 1400], None, false);
        assert_eq!(rig.sent(1)[0].1, Ok(1400));
    });
}

/// A UDP packet, checksum left out, behind a virtio-net header of zeros.
fn datagram_from_afar(payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 244, 2, 7, 10, 244, 1, 1]);
    let (sum, _) = checksum::select();
    let header = !sum(&packet);
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet.extend(7001_u16.to_be_bytes());
    packet.extend(7000_u16.to_be_bytes());
    packet.extend((total - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    [vec![0; VNET_HEADER_LENGTH], packet].concat()
}

#[test]
fn writes_reach_a_socket_in_order() {
    in_namespace("writes_reach_a_socket_in_order", || {
        let mut rig = Rig::new();
        let pod = pod();
        for number in 0..40 {
            let mut gather = rig.gathers.pop().unwrap();
            gather.push_copy(&datagram_from_afar(&[number, 1, 2]));
            rig.ring.write(gather);
        }
        for completion in rig.completions(40) {
            let Completion::Written { result, .. } = completion else { panic!("{completion:?}") };
            assert_eq!(result, Ok(41));
        }
        let mut buffer = [0; 10];
        for number in 0..40 {
            let (length, from) = pod.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [number, 1, 2]);
            assert_eq!(from, SocketAddr::from((Ipv4Addr::new(10, 244, 2, 7), 7001)));
        }
    });
}

#[test]
fn another_thread_wakes_the_owner() {
    in_namespace("another_thread_wakes_the_owner", || {
        let mut rig = Rig::new();
        rig.ring.arm_wake();
        let waker = rig.waker;
        let pause = Duration::from_millis(50);
        let other = thread::spawn(move || {
            for _ in 0..2 {
                thread::sleep(pause);
                waker.wake();
            }
        });
        for _ in 0..2 {
            let start = Instant::now();
            rig.ring.enter(true).unwrap();
            assert!(start.elapsed() > pause / 2, "it did not sleep");
            let woken = rig.ring.completion();
            assert!(matches!(woken, Some(Completion::Woken { more: true })), "{woken:?}");
            wake::clear(&rig.ring.files().wake);
            assert!(rig.ring.completion().is_none());
        }
        other.join().unwrap();
    });
}

/// The ring of a stopped worker: everything armed, sends pending and not even submitted, frames
/// and gathers still in use. Device and port must be free at once for whoever comes next.
#[test]
fn dropping_gives_everything_back_at_once() {
    in_namespace("dropping_gives_everything_back_at_once", || {
        for _ in 0..10 {
            let mut rig = Rig::new();
            let local = rig.local;
            rig.ring.arm_tun();
            rig.ring.arm_socket(0);
            rig.ring.arm_wake();
            pod().send_to(b"held", "10.244.2.7:7001").unwrap();
            let (frame, _) = packet(rig.completions(1).remove(0));
            rig.ring.arm_writable(0);
            rig.send("127.0.0.2:8285".parse().unwrap(), b"late", None, false);
            let start = Instant::now();
            drop(rig.ring);
            assert!(start.elapsed() < Duration::from_millis(900), "it waited in vain");
            assert!(frame.bytes().ends_with(b"held"), "frames outlive the ring");
            assert!(!is_there(), "the device is still there");
            drop(StdSocket::bind(local).unwrap());
        }
    });
}

/// The files are for the other engine then.
#[test]
fn what_is_withheld_is_missing_and_the_files_come_back() {
    in_namespace("what_is_withheld_is_missing_and_the_files_come_back", || {
        ip("link set lo up");
        for (without, feature) in [
            (Without { io_uring: true, multishot: false }, "without io_uring"),
            (Without { io_uring: false, multishot: true }, "without multishot reads in io_uring"),
        ] {
            let (error, files) = *Rig::open("127.0.0.1:0", 1 << 20, without).unwrap_err();
            assert!(error.to_string().ends_with(feature), "{error}");
            assert_eq!((files.sockets.len(), is_there()), (1, true));
            drop(files);
            assert!(!is_there(), "nothing of the attempt holds the device");
        }
    });
}

/// Whether this thread's namespace has the device.
fn is_there() -> bool {
    let words = ["link", "show", "flannel0"];
    Command::new("ip").args(words).output().unwrap().status.success()
}

#[test]
fn cancelling_hands_out_what_still_comes() {
    in_namespace("cancelling_hands_out_what_still_comes", || {
        let mut rig = Rig::new();
        rig.ring.arm_tun();
        rig.ring.arm_socket(0);
        rig.ring.arm_wake();
        rig.ring.enter(false).unwrap();
        rig.send("127.0.0.2:8285".parse().unwrap(), b"late", None, false);
        let mut sent = Vec::new();
        let idle = rig.ring.cancel_all(PATIENCE, |completion| {
            if let Completion::Sent { result, .. } = completion {
                sent.push(result);
            }
        });
        assert!(idle);
        assert_eq!(sent, [Ok(4)]);
    });
}
