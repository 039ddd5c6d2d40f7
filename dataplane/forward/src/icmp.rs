//! ICMP (RFC 792, RFC 1812 section 4.3.2) and ICMPv6 (RFC 4443) errors about packets that could not be
//! carried.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Sum};
use crate::packet::{self, Family, Layout};
use crate::{ipv4, ipv6};

mod limit;
#[cfg(test)]
mod tests;

pub use limit::RateLimit;

/// Longest error in bytes: the minimum IPv6 MTU (RFC 4443 section 2.4 c).
pub const LENGTH_MAX: usize = 1280;
/// Longest IPv4 error in bytes (RFC 1812 section 4.3.2.3).
const LENGTH_MAX_V4: usize = 576;
/// IP protocol numbers.
const PROTOCOL_V4: u8 = 1;
const PROTOCOL_V6: u8 = 58;
/// What Linux gives its own errors: internetwork control (RFC 791 section 3.1).
const TRAFFIC_CLASS_V4: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;

/// ICMP: destination unreachable, and its codes.
const UNREACHABLE_V4: u8 = 3;
const NETWORK_V4: u8 = 0;
const FRAGMENTATION_NEEDED_V4: u8 = 4;
/// ICMPv6: destination unreachable with its code, and packet too big.
const UNREACHABLE_V6: u8 = 1;
const NO_ROUTE_V6: u8 = 0;
const TOO_BIG_V6: u8 = 2;
/// The first ICMPv6 type that is not an error, and the redirect, which counts as one.
const INFORMATIONAL_V6: u8 = 128;
const REDIRECT_V6: u8 = 137;

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Nobody has the destination. IPv6: no route to destination.
    NetworkUnreachable,
    /// The packet must not be fragmented and does not fit. IPv6: packet too big.
    FragmentationNeeded {
        /// Length of the largest packet that fits, in bytes.
        mtu: u16,
    },
}

/// The header of both protocols' errors.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    checksum: U16,
    /// IPv4 (RFC 1191): 16 unused bits and the MTU. IPv6: the MTU. Else zero.
    value: U32,
}

const HEADER_LENGTH: usize = size_of::<Header>();
const _: () = assert!(HEADER_LENGTH == 8);

/// Writes an error about `offender` into the start of `out` and says how long it is. The source is
/// `from`, which must be of the offender's family and must not be an address of this host, since the
/// kernel would drop the error. As much of the offender is quoted as the standards and `out` allow.
///
/// `None` where no error may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e): about ICMP errors,
/// later fragments, multicast and broadcast, and to a source that is not one host. Also if `out` does not
/// even hold the headers.
#[expect(
    clippy::too_many_arguments,
    reason = "an offender, a problem, an address, and where to write"
)]
#[must_use]
pub fn error(
    offender: &[u8],
    layout: &Layout,
    problem: Problem,
    from: IpAddr,
    out: &mut [u8],
    sum: Sum,
) -> Option<usize> {
    if layout.is_later_fragment() || is_error(offender, layout) {
        return None;
    }
    let destination = packet::destination(offender, layout);
    match (packet::source(offender, layout), from, destination) {
        (IpAddr::V4(to), IpAddr::V4(from), IpAddr::V4(destination)) => {
            let silent = !is_host_v4(to) || !is_answered_v4(destination);
            if silent { None } else { error_v4(offender, problem, from, to, out, sum) }
        }
        (IpAddr::V6(to), IpAddr::V6(from), IpAddr::V6(destination)) => {
            let silent = !is_host_v6(to) || destination.is_multicast();
            if silent { None } else { error_v6(offender, problem, from, to, out, sum) }
        }
        _ => None,
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the same as the public function, with typed addresses"
)]
fn error_v4(
    offender: &[u8],
    problem: Problem,
    from: Ipv4Addr,
    to: Ipv4Addr,
    out: &mut [u8],
    sum: Sum,
) -> Option<usize> {
    let room = out.len().min(LENGTH_MAX_V4);
    let (network, message) = out.get_mut(..room)?.split_at_mut_checked(ipv4::LENGTH)?;
    let (code, value) = match problem {
        Problem::NetworkUnreachable => (NETWORK_V4, 0),
        Problem::FragmentationNeeded { mtu } => (FRAGMENTATION_NEEDED_V4, u32::from(mtu)),
    };
    let message = write_message(message, UNREACHABLE_V4, code, value, offender)?;
    finish_message(message, 0, sum);
    let length = ipv4::LENGTH + message.len();
    let mut header = ipv4::Header {
        version_length: 0x45,
        traffic_class: TRAFFIC_CLASS_V4,
        total_length: U16::new(length as u16),
        id: U16::ZERO,
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        hop_limit: HOP_LIMIT,
        protocol: PROTOCOL_V4,
        checksum: U16::ZERO,
        source: from.octets(),
        destination: to.octets(),
    };
    header.checksum.set(!checksum::portable(header.as_bytes()));
    network.copy_from_slice(header.as_bytes());
    Some(length)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the same as the public function, with typed addresses"
)]
fn error_v6(
    offender: &[u8],
    problem: Problem,
    from: Ipv6Addr,
    to: Ipv6Addr,
    out: &mut [u8],
    sum: Sum,
) -> Option<usize> {
    let room = out.len().min(LENGTH_MAX);
    let (network, message) = out.get_mut(..room)?.split_at_mut_checked(ipv6::LENGTH)?;
    let (kind, code, value) = match problem {
        Problem::NetworkUnreachable => (UNREACHABLE_V6, NO_ROUTE_V6, 0),
        Problem::FragmentationNeeded { mtu } => (TOO_BIG_V6, 0, u32::from(mtu)),
    };
    let message = write_message(message, kind, code, value, offender)?;
    let (source, destination) = (from.octets(), to.octets());
    let length = message.len();
    let pseudo = checksum::pseudo_v6(source, destination, PROTOCOL_V6, length as u32);
    finish_message(message, pseudo, sum);
    let header = ipv6::Header {
        version_class_flow: U32::new(6 << 28),
        payload_length: U16::new(length as u16),
        next_header: PROTOCOL_V6,
        hop_limit: HOP_LIMIT,
        source,
        destination,
    };
    network.copy_from_slice(header.as_bytes());
    Some(ipv6::LENGTH + length)
}

/// Writes the message into the start of `room`, with a zero checksum, and cuts it off behind the quote.
fn write_message<'a>(
    room: &'a mut [u8],
    kind: u8,
    code: u8,
    value: u32,
    offender: &[u8],
) -> Option<&'a mut [u8]> {
    let quoted = offender.len().min(room.len().checked_sub(HEADER_LENGTH)?);
    let message = room.get_mut(..HEADER_LENGTH + quoted)?;
    let (header, quote) = message.split_at_mut(HEADER_LENGTH);
    let filled = Header { kind, code, checksum: U16::ZERO, value: U32::new(value) };
    header.copy_from_slice(filled.as_bytes());
    quote.copy_from_slice(&offender[..quoted]);
    Some(message)
}

fn finish_message(message: &mut [u8], pseudo: u16, sum: Sum) {
    let checksum = !checksum::add(pseudo, sum(message));
    let (header, _) = Header::mut_from_prefix(message).expect("a message starts with its header");
    header.checksum.set(checksum);
}

/// Whether the packet is itself an ICMP error, or one that is cut off before it says so.
fn is_error(packet: &[u8], layout: &Layout) -> bool {
    let kind = packet.get(layout.transport_offset());
    match (layout.family(), layout.protocol()) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Family::V4, PROTOCOL_V4) => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        (Family::V6, PROTOCOL_V6) => {
            kind.is_none_or(|kind| *kind < INFORMATIONAL_V6 || *kind == REDIRECT_V6)
        }
        _ => false,
    }
}

/// Whether an error may be sent to this address: not 0/8, loopback, multicast, class E or broadcast.
fn is_host_v4(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..=255)
}

/// Whether errors may be sent about packets to this address: not multicast or limited broadcast.
fn is_answered_v4(address: Ipv4Addr) -> bool {
    !address.is_multicast() && !address.is_broadcast()
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}
