use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::thread::CapabilitySet;
use weft_sys::frame::PoolShape;
use weft_sys::ring::{Datagram, Errno};
use weft_sys::udp::{
    RECEIVE_BATCH, Received, SEGMENTS_MAX_UNKNOWN, SEND_BATCH, SockAddr, SocketError,
    SocketOptions, UdpSocket, path_mtu, probe_segments_max,
};

use crate::buffers::{Buffers, receive, send};
use crate::namespace::{give_up, in_new_namespace, ip, skip};

const MIB: usize = 1 << 20;

const OPTIONS: SocketOptions = SocketOptions {
    receive_buffer: 8 * MIB,
    send_buffer: 8 * MIB,
    gro: true,
    gso: true,
    reuse_port: false,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn bind(text: &str) -> UdpSocket {
    UdpSocket::bind(address(text), &OPTIONS).unwrap()
}

/// A device with an address, and a link that leads out.
fn add_underlay() {
    ip("link add under type veth peer name beyond");
    // Nothing but what we send shall move the counters.
    ip("link set under addrgenmode none");
    ip("link set beyond addrgenmode none");
    ip("address add 192.0.2.7/24 dev under");
    ip("link set beyond up");
    ip("link set under up");
}

#[test]
fn finds_a_second_daemon() {
    in_new_namespace("finds_a_second_daemon", || {
        ip("link set lo up");
        for text in ["127.0.0.1:8285", "[::1]:8285"] {
            let first = bind(text);
            assert_eq!(first.local(), address(text));
            let error = UdpSocket::bind(address(text), &OPTIONS).unwrap_err();
            assert!(matches!(error, SocketError::Taken { .. }), "{error:?}");
            assert!(error.to_string().contains(text), "{error}");
            drop(first);
            bind(text);
        }
    });
}

/// The first without `SO_REUSEPORT` keeps out a second with it.
#[test]
fn shares_a_port_only_if_both_want_it() {
    in_new_namespace("shares_a_port_only_if_both_want_it", || {
        ip("link set lo up");
        let shared = SocketOptions { reuse_port: true, ..OPTIONS };
        let first = bind("127.0.0.1:8285");
        let error = UdpSocket::bind(address("127.0.0.1:8285"), &shared).unwrap_err();
        assert!(matches!(error, SocketError::Taken { .. }), "{error:?}");
        drop(first);
        let _one = UdpSocket::bind(address("127.0.0.1:8285"), &shared).unwrap();
        let _two = UdpSocket::bind(address("127.0.0.1:8285"), &shared).unwrap();
    });
}

#[test]
fn names_an_address_that_is_not_ours() {
    in_new_namespace("names_an_address_that_is_not_ours", || {
        // A namespace without any address lets everything be bound.
        ip("link set lo up");
        let error = UdpSocket::bind(address("192.0.2.1:8285"), &OPTIONS).unwrap_err();
        assert!(matches!(error, SocketError::AddressNotAvailable { .. }), "{error:?}");
        assert!(error.to_string().contains("192.0.2.1 "), "{error}");
    });
}

#[test]
fn has_both_families_on_one_port() {
    in_new_namespace("has_both_families_on_one_port", || {
        ip("link set lo up");
        let (four, six) = (bind("0.0.0.0:8285"), bind("[::]:8285"));
        assert!(four.is_ipv4() && !six.is_ipv4());
    });
}

/// Past the limit of the host, which a new namespace has at its default.
#[test]
fn forces_the_buffer_sizes() {
    in_new_namespace("forces_the_buffer_sizes", || {
        let options = SocketOptions { receive_buffer: 32 * MIB, send_buffer: 16 * MIB, ..OPTIONS };
        let buffers = UdpSocket::bind(address("0.0.0.0:0"), &options).unwrap().buffers();
        assert_eq!((buffers.receive, buffers.send), (32 * MIB, 16 * MIB));
    });
}

/// Then the host's limit is what is left, and it is not an error.
#[test]
fn takes_smaller_buffers_without_permission() {
    // Older kernels show the limits in the host's own namespace only.
    let limit = |name: &str| -> Option<usize> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}_max")).ok()?;
        Some(text.trim().parse().unwrap())
    };
    let (Some(receive), Some(send)) = (limit("rmem"), limit("wmem")) else {
        return skip("takes_smaller_buffers_without_permission", "the limits cannot be read");
    };
    in_new_namespace("takes_smaller_buffers_without_permission", move || {
        let options = SocketOptions { receive_buffer: 1 << 29, send_buffer: 1 << 29, ..OPTIONS };
        give_up(CapabilitySet::NET_ADMIN);
        let buffers = UdpSocket::bind(address("0.0.0.0:0"), &options).unwrap().buffers();
        assert_eq!((buffers.receive, buffers.send), (receive, send));
    });
}

#[test]
fn names_a_privileged_port() {
    in_new_namespace("names_a_privileged_port", || {
        ip("link set lo up");
        give_up(CapabilitySet::NET_BIND_SERVICE);
        let error = UdpSocket::bind(address("127.0.0.1:500"), &OPTIONS).unwrap_err();
        assert!(matches!(error, SocketError::PermissionDenied { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:500") && text.contains("NET_BIND_SERVICE"), "{text}");
    });
}

#[test]
fn carries_a_train_in_one_piece() {
    in_new_namespace("carries_a_train_in_one_piece", || {
        ip("link set lo up");
        for text in ["127.0.0.1:8285", "[::1]:8285"] {
            let receiver = bind(text);
            assert!(receiver.gro() && receiver.segments_max() >= 64);
            let sender = bind(&text.replace("8285", "0"));
            let payload: Vec<u8> = (0..10 * 1400 - 100).map(|index| (index % 251) as u8).collect();
            let to = SockAddr::from(receiver.local());
            assert_eq!(send(&sender, &to, &payload, Some(1400)), Ok(1));

            let datagram = receive(&receiver, &Buffers::new());
            assert_eq!(datagram.sender, Some(sender.local()));
            let control = Received { segment_size: Some(1400), overflow: None };
            assert_eq!((datagram.control, datagram.truncated), (control, false));
            assert_eq!(datagram.payload.bytes(), payload);
        }
    });
}

#[test]
fn takes_a_train_apart_without_gro() {
    in_new_namespace("takes_a_train_apart_without_gro", || {
        ip("link set lo up");
        let options = SocketOptions { gro: false, gso: false, ..OPTIONS };
        let receiver = UdpSocket::bind(address("127.0.0.1:8285"), &options).unwrap();
        assert!(!receiver.gro());
        assert_eq!(receiver.segments_max(), 1);
        let payload = [7; 2500];
        let to = SockAddr::from(receiver.local());
        send(&bind("127.0.0.1:0"), &to, &payload, Some(1000)).unwrap();
        let buffers = Buffers::new();
        let mut datagrams = Vec::new();
        let more = receiver.receive_trains(&buffers.pool, |datagram| datagrams.push(datagram));
        assert_eq!(more, Ok(false));
        let lengths: Vec<_> = datagrams.iter().map(|datagram| datagram.payload.len()).collect();
        assert_eq!(lengths, [1000, 1000, 500]);
        assert!(datagrams.iter().all(|datagram| datagram.control.segment_size.is_none()));
    });
}

#[test]
fn counts_what_a_full_buffer_drops() {
    in_new_namespace("counts_what_a_full_buffer_drops", || {
        ip("link set lo up");
        let options = SocketOptions { receive_buffer: 4096, gro: false, ..OPTIONS };
        let receiver = UdpSocket::bind(address("127.0.0.1:8285"), &options).unwrap();
        let sender = bind("127.0.0.1:0");
        let to = SockAddr::from(receiver.local());
        let sent = 40;
        for _ in 0..sent {
            send(&sender, &to, &[0; 1000], None).unwrap();
        }
        let (mut arrived, buffers) = (0, Buffers::new());
        while receiver.receive_trains(&buffers.pool, |_| arrived += 1).is_ok() {}
        assert!(arrived < sent, "the buffer was meant to overflow");
        // The next one to arrive tells.
        send(&sender, &to, &[0; 10], None).unwrap();
        let datagram = receive(&receiver, &buffers);
        assert_eq!(datagram.control.overflow, Some(sent - arrived));
    });
}

#[test]
fn says_when_the_buffer_was_too_small() {
    in_new_namespace("says_when_the_buffer_was_too_small", || {
        ip("link set lo up");
        let receiver = bind("127.0.0.1:8285");
        let to = SockAddr::from(receiver.local());
        send(&bind("127.0.0.1:0"), &to, &[0; 100], None).unwrap();
        let capacity = Datagram::OVERHEAD + 60;
        let buffers = Buffers::with(PoolShape { frames: 1, capacity, stride: 192 });
        let datagram = receive(&receiver, &buffers);
        assert!(datagram.truncated);
        assert_eq!(datagram.payload.len(), 60);
    });
}

/// A call stops at the first train that is refused; what was behind it was not tried.
#[test]
fn sends_trains_in_order_up_to_the_first_refused() {
    in_new_namespace("sends_trains_in_order_up_to_the_first_refused", || {
        ip("link set lo mtu 1500 up");
        let receiver = bind("127.0.0.1:8285");
        let (to, sender) = (SockAddr::from(receiver.local()), bind("127.0.0.1:0"));
        let buffers = Buffers::new();
        let sizes = [10, 300, 1473, 20];
        let mut trains: Vec<_> =
            sizes.iter().map(|size| buffers.train(&to, &vec![7; *size])).collect();
        let cut = [None, Some(100), None, None];
        for (done, outcome) in [(0, Ok(2)), (2, Err(Errno::MSGSIZE)), (3, Ok(1))] {
            let left = trains.iter_mut().zip(cut).skip(done);
            assert_eq!(sender.send_trains(left), outcome);
        }
        let mut arrived = Vec::new();
        let take = |datagram: Datagram| {
            arrived.push((datagram.payload.len(), datagram.control.segment_size));
        };
        assert_eq!(receiver.receive_trains(&buffers.pool, take), Ok(false));
        assert_eq!(arrived, [(10, None), (300, Some(100)), (20, None)]);
    });
}

#[test]
fn sends_and_receives_batches() {
    in_new_namespace("sends_and_receives_batches", || {
        ip("link set lo up");
        let receiver = bind("127.0.0.1:8285");
        let (to, sender) = (SockAddr::from(receiver.local()), bind("127.0.0.1:0"));
        let shape = PoolShape { frames: 64, capacity: 2000, stride: 2048 };
        let buffers = Buffers::with(shape);
        let mut trains: Vec<_> =
            (0..=SEND_BATCH).map(|number| buffers.train(&to, &[number as u8])).collect();
        let sent = sender.send_trains(trains.iter_mut().map(|train| (train, None)));
        assert_eq!(sent, Ok(SEND_BATCH), "one more waits");
        let mut arrived = Vec::<u8>::new();
        let mut held = Vec::new();
        for more in [true, true] {
            let take = |datagram: Datagram| {
                arrived.extend(datagram.payload.bytes());
                held.push(datagram);
            };
            assert_eq!(receiver.receive_trains(&buffers.pool, take), Ok(more));
        }
        assert_eq!(arrived.len(), 2 * RECEIVE_BATCH);
        assert!(arrived.iter().zip(0..).all(|(byte, number)| *byte == number));
        let nobody = |_: Datagram| panic!("there is no frame");
        assert_eq!(receiver.receive_trains(&buffers.pool, nobody), Err(Errno::NOBUFS));
        held.clear();
        assert_eq!(receiver.receive_trains(&buffers.pool, nobody), Err(Errno::AGAIN));
        assert_eq!(buffers.pool.held(), 0, "frames that were not filled go back");
    });
}

/// The limit is right: so many go, one more does not.
#[test]
fn probes_the_segment_limit() {
    in_new_namespace("probes_the_segment_limit", || {
        ip("link set lo up");
        let limit = probe_segments_max(LOOPBACK);
        assert_eq!(limit, bind("127.0.0.1:0").segments_max());
        assert_eq!(limit, probe_segments_max(address("[::1]:0").ip()));
        let socket = bind("127.0.0.1:8285");
        let to = SockAddr::from(socket.local());
        let attempt = |segments: u16| send(&socket, &to, &vec![0; usize::from(segments)], Some(1));
        assert_eq!(attempt(limit), Ok(1));
        assert_eq!(attempt(limit + 1), Err(Errno::INVAL));
    });
}

/// A container may have its loopback device down; then the address of another device serves. The
/// device's own counters say that nothing left the machine.
#[test]
fn probes_without_a_loopback_device() {
    in_new_namespace("probes_without_a_loopback_device", || {
        let nowhere = probe_segments_max(LOOPBACK);
        assert_eq!(nowhere, SEGMENTS_MAX_UNKNOWN);

        add_underlay();
        let limit = probe_segments_max(address("192.0.2.7:0").ip());
        ip("link set lo up");
        assert_eq!(limit, probe_segments_max(LOOPBACK));
    });
}

/// `ip_nonlocal_bind` lets a socket have any address; the probe must not send there.
#[test]
fn probes_without_sending_to_others() {
    in_new_namespace("probes_without_sending_to_others", || {
        add_underlay();
        ip("-6 address add 2001:db8::7/64 dev under nodad");
        for (version, gateway, stranger) in
            [(4, "192.0.2.1", "198.51.100.9:0"), (6, "2001:db8::1", "[2001:db8:1::9]:0")]
        {
            ip(&format!("-{version} route add default via {gateway}"));
            ip(&format!("neighbour add {gateway} lladdr 02:00:00:00:00:01 dev under"));
            let sysctl = format!("/proc/sys/net/ipv{version}/ip_nonlocal_bind");
            std::fs::write(sysctl, "1").unwrap();
            let before = datagrams_sent();
            let limit = probe_segments_max(address(stranger).ip());
            assert_eq!(limit, SEGMENTS_MAX_UNKNOWN);
            assert_eq!(datagrams_sent(), before);
        }
    });
}

/// UDP datagrams sent by this namespace, IPv4 and IPv6.
fn datagrams_sent() -> [String; 2] {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let (four, six) = (read("snmp"), read("snmp6"));
    let four: Vec<_> = four.lines().filter_map(|line| line.strip_prefix("Udp: ")).collect();
    let column = four[0].split(' ').position(|name| name == "OutDatagrams").unwrap();
    let six = six.lines().find_map(|line| line.strip_prefix("Udp6OutDatagrams")).unwrap();
    [four[1].split(' ').nth(column).unwrap().to_owned(), six.trim().to_owned()]
}

#[test]
fn refuses_a_segment_beyond_the_path() {
    in_new_namespace("refuses_a_segment_beyond_the_path", || {
        ip("link set lo mtu 1500 up");
        let receiver = bind("127.0.0.1:8285");
        let to = SockAddr::from(receiver.local());
        let sender = bind("127.0.0.1:0");
        let payload = [0; 1473];
        assert_eq!(send(&sender, &to, &payload[..1472], None), Ok(1));
        assert_eq!(send(&sender, &to, &payload, None), Err(Errno::MSGSIZE));
    });
}

#[test]
fn reads_the_path_mtu() {
    in_new_namespace("reads_the_path_mtu", || {
        ip("link set lo mtu 1500 up");
        ip("-6 address add 2001:db8::1/128 dev lo");
        ip("route add local 192.0.2.9/32 dev lo mtu 1400");
        let mtu = |local: &str, peer: &str| path_mtu(local.parse().unwrap(), address(peer));
        assert_eq!(mtu("127.0.0.1", "127.0.0.1:8285").unwrap(), 1500);
        assert_eq!(mtu("0.0.0.0", "127.0.0.1:8285").unwrap(), 1500);
        assert_eq!(mtu("127.0.0.1", "192.0.2.9:8285").unwrap(), 1400);
        assert_eq!(mtu("::1", "[2001:db8::1]:8285").unwrap(), 1500);
        let error = mtu("127.0.0.1", "203.0.113.1:8285").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
    });
}
