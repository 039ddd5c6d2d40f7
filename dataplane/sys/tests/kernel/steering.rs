//! What several workers divide among themselves, and how: datagrams by their source port, packets
//! from the device by their flow.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;

use rustix::thread::CapabilitySet;
use weft_sys::tun::{
    Steering, SteeringError, Tun, TunOptions, VNET_HEADER_LENGTH, WithoutOffloads,
};
use weft_sys::udp::{SOURCE_PORTS_MAX, SocketError, SocketOptions, UdpSocket};

use crate::namespace::{give_up, in_new_namespace, in_new_namespace_with_tun, ip};

const PORT: u16 = 8285;

const SOCKET: SocketOptions = SocketOptions {
    receive_buffer: 1 << 20,
    send_buffer: 1 << 20,
    gro: true,
    gso: true,
    reuse_port: false,
};

const DEVICE: TunOptions<'static> = TunOptions {
    name: "flannel0",
    queue_length: 2000,
    without: WithoutOffloads { checksum: false, tso: false, uso: false },
};

fn group(address: SocketAddr, count: u16) -> Vec<UdpSocket> {
    UdpSocket::bind_group(address, &SOCKET, count).unwrap()
}

/// Which of the sockets have received something, with every datagram taken out.
fn receivers(group: &[UdpSocket]) -> Vec<usize> {
    let mut receivers = Vec::new();
    for (number, socket) in group.iter().enumerate() {
        while socket.as_std().recv_from(&mut [0; 64]).is_ok() {
            receivers.push(number);
        }
    }
    receivers
}

#[test]
fn the_worker_of_the_same_number_receives() {
    in_new_namespace("the_worker_of_the_same_number_receives", || {
        ip("link set lo up");
        for text in ["127.0.0.1", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            for count in [1, 2, 3, 8] {
                let group = group((ip, PORT).into(), count);
                let from = |port: u16| {
                    let sender = StdSocket::bind((ip, port)).unwrap();
                    sender.send_to(b"weft", (ip, PORT)).unwrap();
                    receivers(&group)
                };
                for number in 1..SOURCE_PORTS_MAX {
                    assert_eq!(from(PORT + number), [usize::from(number % count)], "{text}");
                }
                // Strangers to the range, below and above, and one whose difference wraps.
                for port in [PORT - 1, PORT + SOURCE_PORTS_MAX, 1024, 65_535] {
                    assert_eq!(from(port), [0], "{text} from {port}");
                }
            }
        }
    });
}

/// A peer that sends from one port only, the one that we receive on.
#[test]
fn one_port_is_for_the_first_worker() {
    in_new_namespace("one_port_is_for_the_first_worker", || {
        ip("link set lo up");
        let group = group(SocketAddr::from(([127, 0, 0, 1], PORT)), 4);
        let sender = StdSocket::bind(("127.0.0.2", PORT)).unwrap();
        for _ in 0..20 {
            sender.send_to(b"weft", ("127.0.0.1", PORT)).unwrap();
        }
        assert_eq!(receivers(&group), [0; 20]);
    });
}

#[test]
fn nobody_else_gets_into_a_group() {
    in_new_namespace("nobody_else_gets_into_a_group", || {
        ip("link set lo up");
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let ours = group(address, 2);
        for count in [1, 2] {
            let error = UdpSocket::bind_group(address, &SOCKET, count).unwrap_err();
            assert!(matches!(error, SocketError::Taken { .. }), "{error:?}");
        }
        drop(ours);
        let single = group(address, 1);
        let error = UdpSocket::bind_group(address, &SOCKET, 2).unwrap_err();
        assert!(matches!(error, SocketError::Taken { .. }), "{error:?}");
        drop(single);
        group(address, 2);
    });
}

#[test]
fn a_sender_receives_nothing() {
    in_new_namespace("a_sender_receives_nothing", || {
        ip("link set lo up");
        let address = SocketAddr::from(([127, 0, 0, 1], PORT + 1));
        let sender = UdpSocket::bind_sender(address, &SOCKET).unwrap();
        let other = StdSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(b"weft", address).unwrap();
        assert_eq!(receivers(std::slice::from_ref(&sender)), [0_usize; 0]);
        sender.as_std().send_to(b"weft", other.local_addr().unwrap()).unwrap();
        assert_eq!(other.recv_from(&mut [0; 8]).unwrap(), (4, address));
    });
}

/// A device with several queues, up, and nothing but what the test sends on its way.
struct Device {
    queues: Vec<Tun>,
}

impl Device {
    fn new(count: usize) -> Device {
        let queues = Tun::open_queues(&DEVICE, count, &Steering::load().unwrap()).unwrap();
        ip("link set flannel0 addrgenmode none");
        ip("link set flannel0 up");
        Device { queues }
    }

    /// The queues that packets of ours are in; all queues are empty then.
    fn drain(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (number, queue) in self.queues.iter().enumerate() {
            let mut file = File::from(queue.as_fd().try_clone_to_owned().unwrap());
            let mut packet = vec![0; 66_000];
            while let Ok(length) = file.read(&mut packet) {
                let packet = &packet[VNET_HEADER_LENGTH..length];
                // The kernel also announces itself on a new device.
                let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
                if protocol != 58 && protocol != 0 {
                    found.push(number);
                }
            }
        }
        found
    }

    /// The one queue that takes all of `datagrams` from one port to another.
    fn queue_of(&self, from: (IpAddr, u16), to: (IpAddr, u16), datagrams: &[usize]) -> usize {
        let socket = StdSocket::bind(from).unwrap();
        for bytes in datagrams {
            socket.send_to(&vec![7; *bytes], to).unwrap();
        }
        let queues = self.drain();
        assert!(queues.len() >= datagrams.len(), "{queues:?}");
        let different: HashSet<usize> = queues.into_iter().collect();
        assert_eq!(different.len(), 1, "{from:?} to {to:?}: {different:?}");
        different.into_iter().next().unwrap()
    }
}

/// The addresses of two pods in one family, and the network of both.
const PODS: [[&str; 3]; 2] =
    [["10.244.1.2", "10.244.2.3", "10.244.0.0/16"], ["fd00:1::2", "fd00:2::3", "fd00::/16"]];

/// Takes the address of a pod, whose packets to the other one go to the device then.
fn be(pod: &str, network: &str) {
    for family in ["-4", "-6"] {
        ip(&format!("{family} address flush dev flannel0 scope global"));
    }
    let v6 = pod.contains(':');
    let (length, more) = if v6 { (128, " nodad") } else { (32, "") };
    ip(&format!("address add {pod}/{length} dev flannel0{more}"));
    ip(&format!("route replace {network} dev flannel0"));
}

#[test]
fn a_flow_stays_on_one_queue() {
    in_new_namespace_with_tun("a_flow_stays_on_one_queue", || {
        for count in [2, 3] {
            let device = Device::new(count);
            for [near, far, network] in PODS {
                let addresses: [IpAddr; 2] = [near, far].map(|text| text.parse().unwrap());
                let flows = || (0..40).map(|number| (20_000 + number, 5201 + number % 3));
                be(near, network);
                let mut forth = HashMap::new();
                for (from, to) in flows() {
                    let ends = ((addresses[0], from), (addresses[1], to));
                    let queue = device.queue_of(ends.0, ends.1, &[1, 1000, 20, 300]);
                    assert_eq!(device.queue_of(ends.0, ends.1, &[1]), queue);
                    forth.insert((from, to), queue);
                }
                let used: HashSet<usize> = forth.values().copied().collect();
                assert_eq!(used.len(), count, "every queue is used: {forth:?}");

                be(far, network);
                for (from, to) in flows() {
                    let back = device.queue_of((addresses[1], to), (addresses[0], from), &[1]);
                    assert_eq!(back, forth[&(from, to)], "both directions have one queue");
                }
            }
        }
    });
}

/// Only the first fragment of a packet has ports.
#[test]
fn the_fragments_of_a_packet_stay_together() {
    in_new_namespace_with_tun("the_fragments_of_a_packet_stay_together", || {
        let device = Device::new(2);
        for [near, far, network] in PODS {
            be(near, network);
            let [near, far] = [near, far].map(|text| text.parse::<IpAddr>().unwrap());
            for port in 20_000..20_010 {
                device.queue_of((near, port), (far, 5201), &[5000, 5000]);
            }
        }
    });
}

#[test]
fn a_queue_that_is_closed_takes_nothing_more() {
    in_new_namespace_with_tun("a_queue_that_is_closed_takes_nothing_more", || {
        let [near, far, network] = PODS[0];
        let mut device = Device::new(2);
        be(near, network);
        let [near, far] = [near, far].map(|text| text.parse::<IpAddr>().unwrap());
        for closed in [0, 1] {
            if closed == 1 {
                drop(device);
                device = Device::new(2);
                be(PODS[0][0], network);
            }
            device.queues.remove(closed);
            for port in 20_000..20_020 {
                assert_eq!(device.queue_of((near, port), (far, 5201), &[10, 10]), 0);
            }
        }
        drop(device);
        assert!(!ip("link show").contains("flannel0"), "the last queue takes the device along");
    });
}

#[test]
fn queues_are_exclusive_like_a_device() {
    in_new_namespace_with_tun("queues_are_exclusive_like_a_device", || {
        let steering = Steering::load().unwrap();
        let queues = Tun::open_queues(&DEVICE, 3, &steering).unwrap();
        let link = ip("-details link show flannel0");
        assert!(link.contains("multi_queue numqueues 3"), "{link}");
        let index = queues[0].index();
        assert!(queues.iter().all(|queue| queue.index() == index));
        Tun::open_queues(&DEVICE, 2, &steering).unwrap_err();
        Tun::open(&DEVICE).unwrap_err();
    });
}

#[test]
fn a_missing_capability_is_named() {
    in_new_namespace("a_missing_capability_is_named", || {
        give_up(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN);
        let unprivileged = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
        match Steering::load() {
            Err(error @ SteeringError::Forbidden(_)) => {
                assert!(error.to_string().contains("CAP_BPF"), "{error}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => assert_eq!(unprivileged.unwrap().trim(), "0", "everybody may load programs"),
        }
    });
}
