//! The comparator: a forwarder that moves one packet a system call, as flannel's UDP mode does.
//!
//! One thread polls a TUN without offloads and one UDP socket, and while either direction makes
//! progress carries one packet each way. The payload of a datagram is the raw inner IPv4 packet; the
//! TTL is lowered on both ways; routes are searched one by one and the hit moves to the front. It is
//! deliberately no better than that: it stands for what weft replaces.
//!
//! flanneld's loop is C code inside a Go process that opened the socket with `net.ListenUDP`. Go's
//! network poller keeps such a socket in its epoll set, edge-triggered and for both directions, and
//! the loop works on a duplicate of the descriptor, which does not take it out. So every datagram that
//! comes, and every one that leaves the send buffer, also wakes a thread of the Go runtime, which
//! finds that nobody waits. That halves what the loop alone carries, so it is part of the comparator;
//! `--bare` leaves it out. Go's thread looks for other work before it sleeps again, ours does not.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::str::FromStr;
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ipnet::Ipv4Net;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, sendto};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Bytes of the IPv4 and the UDP header around each inner packet.
const OVERHEAD: u16 = 28;
/// Bytes of an IPv4 header without options; anything shorter is ignored.
pub(crate) const HEADER_MIN: usize = 20;
/// Bytes of an ICMP unreachable message about a packet with the longest header it is sent for.
const UNREACHABLE_MAX: usize = 20 + 8 + 60 + 8;
/// TTL of the ICMP messages, as flanneld has it.
const UNREACHABLE_TTL: u8 = 8;
/// IP protocol number of ICMP (RFC 792).
const ICMP: u8 = 1;

/// What a forwarder needs to know.
#[derive(Args, Clone, Debug)]
pub struct ForwarderOptions {
    /// Name of the TUN device to make
    #[arg(long, default_value = "flannel0")]
    pub tun: String,
    /// Our address on the underlay; datagrams are sent from and received on it
    #[arg(long, value_name = "ADDRESS")]
    pub local: Ipv4Addr,
    /// UDP port of all hosts
    #[arg(long, default_value_t = 8285)]
    pub port: u16,
    /// Our own subnet
    #[arg(long, value_name = "SUBNET")]
    pub own: Ipv4Net,
    /// The network that holds all subnets; routed to the device
    #[arg(long, default_value = crate::lab::NETWORK)]
    pub network: Ipv4Net,
    /// A peer's subnet and underlay address; may be given more than once
    #[arg(long = "peer", value_name = "SUBNET=ADDRESS")]
    pub peers: Vec<PeerRoute>,
    /// MTU of the underlay in bytes; the device gets 28 less
    #[arg(long, default_value_t = 1500)]
    pub underlay_mtu: u16,
}

/// What this forwarder needs to know.
#[derive(Args, Clone, Debug)]
pub struct PerPacketOptions {
    #[command(flatten)]
    forwarder: ForwarderOptions,
    /// The loop alone, without the runtime around it that is woken for each datagram
    #[arg(long)]
    bare: bool,
}

/// One entry of the route table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRoute {
    /// Destinations that go to this peer.
    pub subnet: Ipv4Net,
    /// The peer's underlay address.
    pub address: Ipv4Addr,
}

impl FromStr for PeerRoute {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<PeerRoute> {
        let (subnet, address) = text.split_once('=').context("Write SUBNET=ADDRESS")?;
        Ok(PeerRoute { subnet: subnet.parse()?, address: address.parse()? })
    }
}

impl ForwarderOptions {
    /// The MTU of the device: what the headers leave.
    pub(crate) fn mtu(&self) -> Result<u16> {
        let left = self.underlay_mtu.checked_sub(OVERHEAD).filter(|mtu| *mtu > 0);
        left.context("The underlay's MTU is smaller than the headers")
    }

    /// Makes the device and the route, and binds the socket. Both block.
    pub(crate) fn open(&self) -> Result<(SyncDevice, UdpSocket)> {
        let mtu = self.mtu()?.to_string();
        let tun = DeviceBuilder::new().name(&self.tun).inherit_enable_state().build_sync();
        let tun = tun.with_context(|| format!("Cannot make the TUN device {}", self.tun))?;
        ip(&["address", "add", &format!("{}/32", self.own.network()), "dev", &self.tun])?;
        ip(&["link", "set", &self.tun, "mtu", &mtu, "up"])?;
        ip(&["route", "add", &self.network.to_string(), "dev", &self.tun])?;
        let address = SocketAddrV4::new(self.local, self.port);
        let socket = UdpSocket::bind(address).with_context(|| format!("Cannot bind {address}"))?;
        Ok((tun, socket))
    }
}

/// Says that packets can come.
pub(crate) fn print_ready() -> Result<()> {
    println!("ready");
    io::stdout().flush().context("Cannot print")
}

/// Makes the device and the route, prints `ready`, and forwards until the process is ended.
pub fn run(options: PerPacketOptions) -> Result<()> {
    let PerPacketOptions { forwarder: options, bare } = options;
    let (tun, socket) = options.open()?;
    tun.set_nonblocking(true).context("Cannot make the TUN device non-blocking")?;
    if !bare {
        let poll = watch_as_a_runtime(&socket)?;
        thread::spawn(move || poll_as_a_runtime(poll));
    }
    let (own, port) = (options.own.network(), options.port);
    let buffer = vec![0; usize::from(options.mtu()?)];
    let routes = Routes(options.peers);
    print_ready()?;
    Forwarder { tun, socket, routes, own, port, buffer }.forward()
}

/// An epoll set with the socket in it, as Go's network poller has.
fn watch_as_a_runtime(socket: &UdpSocket) -> Result<Poll> {
    let poll = Poll::new().context("Cannot make an epoll set")?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    let watched = poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(0), interest);
    watched.context("Cannot watch the socket")?;
    Ok(poll)
}

/// Waits for events that nobody wants.
fn poll_as_a_runtime(mut poll: Poll) {
    let mut events = Events::with_capacity(128);
    loop {
        // An interrupted wait is as good as a wait that found nothing.
        let _ = poll.poll(&mut events, None);
    }
}

struct Forwarder {
    tun: SyncDevice,
    socket: UdpSocket,
    routes: Routes,
    own: Ipv4Addr,
    port: u16,
    /// One packet of either direction; longer datagrams are cut to it.
    buffer: Vec<u8>,
}

impl Forwarder {
    fn forward(mut self) -> Result<()> {
        loop {
            let mut watched =
                [PollFd::new(&self.tun, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            poll(&mut watched, None).context("Cannot poll")?;
            loop {
                let sent = self.outbound()?;
                let received = self.inbound()?;
                if !sent && !received {
                    break;
                }
            }
        }
    }

    /// One packet from the TUN to a peer. False when there was none.
    fn outbound(&mut self) -> Result<bool> {
        let length = match self.tun.recv(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("Cannot read the TUN device"),
        };
        let packet = &mut self.buffer[..length];
        if length < HEADER_MIN {
            return Ok(true);
        }
        let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        let Some(peer) = self.routes.find(destination) else {
            if let Some((message, length)) = net_unreachable(packet, self.own) {
                write(&self.tun, &message[..length]);
            }
            return Ok(true);
        };
        if lower_ttl(packet) {
            // A full send buffer blocks here; any error loses this packet only.
            let address = SocketAddrV4::new(peer, self.port);
            let _ = sendto(&self.socket, packet, SendFlags::empty(), &address);
        }
        Ok(true)
    }

    /// One packet from a peer to the TUN. False when there was none.
    fn inbound(&mut self) -> Result<bool> {
        let Ok((length, _)) = recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) else {
            return Ok(false);
        };
        let packet = &mut self.buffer[..length];
        if length >= HEADER_MIN && lower_ttl(packet) {
            write(&self.tun, packet);
        }
        Ok(true)
    }
}

/// Writes one packet. A full device is tried again at once; a packet that it refuses is lost.
fn write(tun: &SyncDevice, packet: &[u8]) {
    while tun.send(packet).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {}
}

/// The linear route table.
pub(crate) struct Routes(pub(crate) Vec<PeerRoute>);

impl Routes {
    /// The first entry that holds the address wins and moves to the front.
    pub(crate) fn find(&mut self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        let hit = self.0.iter().position(|route| route.subnet.contains(&destination))?;
        self.0.swap(0, hit);
        Some(self.0[0].address)
    }
}

/// Lowers the TTL and patches the header checksum (RFC 1624). False when the packet has reached its
/// end and is to be dropped.
pub(crate) fn lower_ttl(packet: &mut [u8]) -> bool {
    packet[8] = packet[8].wrapping_sub(1);
    // The TTL is the high byte of its word, so the checksum grows by 0x0100, with end-around carry.
    let checksum = u16::from_be_bytes([packet[10], packet[11]]);
    let (sum, carry) = checksum.overflowing_add(0x0100);
    packet[10..12].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    packet[8] != 0
}

/// ICMP "network unreachable" (RFC 792) about `offender`, or `None` where none may be sent.
fn net_unreachable(offender: &[u8], from: Ipv4Addr) -> Option<([u8; UNREACHABLE_MAX], usize)> {
    let header_length = usize::from(offender[0] & 0x0f) * 4;
    let later_fragment = u16::from_be_bytes([offender[6], offender[7]]) & 0x1fff != 0;
    if header_length >= 60 || later_fragment || offender[9] == ICMP {
        return None;
    }
    let quoted = offender.get(..(header_length + 8).min(offender.len()))?;
    let length = 28 + quoted.len();
    let mut message = [0; UNREACHABLE_MAX];
    message[0] = 0x45;
    message[2..4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    message[8] = UNREACHABLE_TTL;
    message[9] = ICMP;
    message[12..16].copy_from_slice(&from.octets());
    message[16..20].copy_from_slice(&offender[12..16]);
    let sum = checksum(&message[..20]);
    message[10..12].copy_from_slice(&sum.to_be_bytes());
    message[20] = 3; // type: destination unreachable; the code, 0, is "network"
    message[28..length].copy_from_slice(quoted);
    let sum = checksum(&message[20..length]);
    message[22..24].copy_from_slice(&sum.to_be_bytes());
    Some((message, length))
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("two folds leave 16 bits")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("Cannot run ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}` failed: {}", arguments.join(" "), complaint.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);

    /// A UDP packet of 36 bytes from 10.244.1.2 to 10.244.9.9 with TTL 64.
    fn packet() -> Vec<u8> {
        let mut packet =
            vec![0x45, 0, 0, 36, 0, 7, 0, 0, 64, 17, 0, 0, 10, 244, 1, 2, 10, 244, 9, 9];
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(0..16);
        packet
    }

    #[test]
    fn a_lowered_ttl_keeps_the_checksum_right() {
        let mut packet = packet();
        for ttl in (1..64).rev() {
            assert!(lower_ttl(&mut packet));
            assert_eq!(packet[8], ttl);
            assert_eq!(checksum(&packet[..20]), 0);
        }
        assert!(!lower_ttl(&mut packet));
    }

    #[test]
    fn a_checksum_that_overflows_carries_around() {
        let mut packet = packet();
        packet[10..12].copy_from_slice(&[0xff, 0x12]);
        lower_ttl(&mut packet);
        assert_eq!(packet[10..12], [0x00, 0x13]);
    }

    #[test]
    fn the_first_route_that_matches_wins_and_moves_to_the_front() {
        let parse = |text: &str| text.parse::<PeerRoute>().unwrap();
        let (wide, narrow) = (parse("10.244.0.0/16=1.1.1.1"), parse("10.244.2.0/24=2.2.2.2"));
        let other = parse("10.245.0.0/16=3.3.3.3");
        let mut routes = Routes(vec![other, wide, narrow]);
        assert_eq!(routes.find(Ipv4Addr::new(10, 244, 2, 2)), Some(wide.address));
        assert_eq!(routes.0, [wide, other, narrow]);
        assert_eq!(routes.find(Ipv4Addr::new(10, 9, 0, 1)), None);
    }

    #[test]
    fn unreachable_quotes_the_header_and_eight_bytes() {
        let offender = packet();
        let (message, length) = net_unreachable(&offender, US).unwrap();
        assert_eq!(length, 56);
        assert_eq!(message[..12], [0x45, 0, 0, 56, 0, 0, 0, 0, 8, 1, message[10], message[11]]);
        assert_eq!(message[12..16], US.octets());
        assert_eq!(message[16..20], [10, 244, 1, 2]);
        assert_eq!(message[20..22], [3, 0]);
        assert_eq!(message[28..56], offender[..28]);
        assert_eq!(checksum(&message[..20]), 0);
        assert_eq!(checksum(&message[20..length]), 0);
    }

    #[test]
    fn unreachable_is_not_sent_about_icmp_or_later_fragments_or_full_headers() {
        for (index, value) in [(9, ICMP), (7, 1), (0, 0x4f)] {
            let mut offender = packet();
            offender.resize(80, 0);
            offender[index] = value;
            assert!(net_unreachable(&offender, US).is_none());
        }
    }

    #[test]
    fn a_cut_offender_is_quoted_as_far_as_it_goes() {
        let offender = packet();
        for length in HEADER_MIN..28 {
            let (_, message_length) = net_unreachable(&offender[..length], US).unwrap();
            assert_eq!(message_length, 28 + length);
        }
    }
}
