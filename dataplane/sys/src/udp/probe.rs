//! What the kernel and the path allow, found by trying.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use super::address::SockAddr;
use super::control::SegmentControl;
use super::{message, option};

/// `UDP_MAX_SEGMENTS` of `include/linux/udp.h` since Linux 6.9.
const SEGMENTS_NEW: u16 = 128;

/// `UDP_MAX_SEGMENTS` before, since Linux 4.18. Every kernel that segments takes so many.
const SEGMENTS_OLD: u16 = 64;

/// What [`probe_segments_max`] says if the kernel segments, and nothing could be tried.
pub const SEGMENTS_MAX_UNKNOWN: u16 = SEGMENTS_OLD;

/// How many datagrams one send may carry on this kernel: 128, 64, or 1 if it cannot segment.
///
/// The limit is the same for both families, so it is found with IPv4: by sending trains of single
/// bytes from a socket to itself, first on the loopback address, then (a namespace may have its
/// loopback device down) on `local`. [`SEGMENTS_MAX_UNKNOWN`] if neither can be tried.
///
/// Nothing leaves the machine: an IPv4 packet with a source that is not an address of this host
/// finds no route (`ip_route_output_key_hash_rcu` of `net/ipv4/route.c`), even where
/// `ip_nonlocal_bind` lets a socket have it, and what has the same address as destination is local.
/// IPv6 has no such rule.
#[must_use]
pub fn probe_segments_max(local: IpAddr) -> u16 {
    let tried = segments_max_at(Ipv4Addr::LOCALHOST).or_else(|| match local {
        IpAddr::V4(local) => segments_max_at(local),
        IpAddr::V6(_) => None,
    });
    tried.unwrap_or(SEGMENTS_MAX_UNKNOWN)
}

/// The MTU of the path from `local` to `peer`, in bytes including the outer IP header: that of the
/// route and its device, or less if an ICMP error said so.
///
/// Opens a socket for the purpose, connects it, which sends nothing, and closes it again.
///
/// # Errors
///
/// What the kernel says, such as `NetworkUnreachable`.
pub fn path_mtu(local: IpAddr, peer: SocketAddr) -> io::Result<u32> {
    let scope = match peer {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(peer) => peer.scope_id(),
    };
    let socket = option::open(local)?;
    option::set_path_mtu_discovery(socket.as_fd(), local)?;
    option::bind(socket.as_fd(), any_port(local, scope))?;
    socket.connect(peer)?;
    option::mtu(socket.as_fd(), local)
}

/// `None`: it could not be tried with this address.
fn segments_max_at(ip: Ipv4Addr) -> Option<u16> {
    if ip.is_unspecified() {
        return None;
    }
    let socket = option::open(ip.into()).ok()?;
    // A kernel without segmentation ignores the control message and would send one datagram.
    if !option::has_segmentation(socket.as_fd()) {
        return Some(1);
    }
    option::bind(socket.as_fd(), SocketAddr::from((ip, 0))).ok()?;
    let to = SockAddr::from(socket.local_addr().ok()?);
    let attempt = |segments: u16| {
        let payload = [0; SEGMENTS_NEW as usize];
        let parts = [IoSlice::new(&payload[..usize::from(segments)])];
        message::send(socket.as_fd(), &to, &parts, Some(&SegmentControl::new(1)))
    };
    match attempt(SEGMENTS_NEW) {
        Ok(_) => Some(SEGMENTS_NEW),
        // `udp_send_skb` of `net/ipv4/udp.c`: too many segments, decided before anything is sent.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            attempt(SEGMENTS_OLD).ok().map(|_| SEGMENTS_OLD)
        }
        Err(_) => None,
    }
}

/// The address of `ip` with any free port. `scope` counts for link-local IPv6 addresses only.
fn any_port(ip: IpAddr, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, scope).into(),
        ip => SocketAddr::new(ip, 0),
    }
}
