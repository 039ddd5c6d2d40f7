//! Sockets of this process within a namespace of the lab: who attacks, and who watches.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use weft_bench::lab::{Namespace, Side};

/// The port under attack.
const PORT: u16 = 8285;

/// `ETH_P_ALL` of linux/if_ether.h.
const EVERYTHING: u16 = 3;

/// `IPPROTO_RAW`: the sender writes the IP header, its source included.
const RAW: i32 = 255;

/// Room for what arrives between two looks.
const WATCH_BUFFER: usize = 64 << 20;

/// Makes a socket within a namespace. Being inside is a property of a thread, so one of its own does
/// it.
pub(crate) fn inside<T: Send>(namespace: &Namespace, make: impl FnOnce() -> T + Send) -> T {
    let name = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
    let enter_and_make = || {
        setns(&name, CloneFlags::CLONE_NEWNET).unwrap();
        make()
    };
    std::thread::scope(|scope| scope.spawn(enter_and_make).join()).unwrap()
}

/// Sends to the daemon of host 1.
pub(crate) struct Attacker(UdpSocket);

impl Attacker {
    /// Sends from `source`, which is an address of the namespace.
    pub(crate) fn new(namespace: &Namespace, source: IpAddr) -> Self {
        let socket = inside(namespace, || UdpSocket::bind((source, 0)).unwrap());
        socket.connect((Side::One.underlay_address(), PORT)).unwrap();
        Self(socket)
    }

    /// Sends each packet as a datagram of its own.
    pub(crate) fn send<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>) {
        for packet in packets {
            self.0.send(packet).unwrap();
        }
    }

    /// Sends `bytes` with one call that is cut to datagrams of `size`.
    pub(crate) fn send_train(&self, bytes: &[u8], size: usize) {
        self.cut_to(size);
        self.0.send(bytes).unwrap();
        self.cut_to(0);
    }

    /// Sends `bytes`, cut to datagrams of `size`, again and again; the number of datagrams sent.
    pub(crate) fn flood(&self, bytes: &[u8], size: usize, over: &AtomicBool) -> u64 {
        self.cut_to(if size < bytes.len() { size } else { 0 });
        let mut sent = 0;
        while !over.load(Ordering::Relaxed) {
            match self.0.send(bytes) {
                Ok(_) => sent += bytes.len().div_ceil(size.max(1)).max(1) as u64,
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.cut_to(0);
        sent
    }

    fn cut_to(&self, size: usize) {
        setsockopt(&self.0, sockopt::UdpGsoSegment, &i32::try_from(size).unwrap()).unwrap();
    }
}

/// Sends a datagram whose outer header is forged as well: `packet` begins with it.
pub(crate) fn send_forged(namespace: &Namespace, packet: &[u8]) {
    let protocol = Some(Protocol::from(RAW));
    let socket = inside(namespace, || Socket::new(Domain::IPV4, Type::RAW, protocol).unwrap());
    let target: SocketAddr = SocketAddrV4::new(Side::One.underlay_address(), 0).into();
    socket.send_to(packet, &target.into()).unwrap();
}

/// Sees every frame that passes the devices of a namespace, in either direction.
pub(crate) struct Watch(Socket);

impl Watch {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let protocol = Some(Protocol::from(i32::from(EVERYTHING.to_be())));
        let socket =
            inside(namespace, || Socket::new(Domain::PACKET, Type::RAW, protocol).unwrap());
        setsockopt(&socket, sockopt::RcvBufForce, &WATCH_BUFFER).unwrap();
        Self(socket)
    }

    /// All frames, until none has come for `quiet`.
    pub(crate) fn frames(&self, quiet: Duration) -> Vec<Vec<u8>> {
        self.0.set_read_timeout(Some(quiet)).unwrap();
        let (mut frames, mut buffer) = (Vec::new(), vec![0; 1 << 17]);
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            match (&self.0).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return frames,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the namespace does not become quiet");
    }
}
