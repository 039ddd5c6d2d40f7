//! Strict parsing of one IP packet: the only place that decides where its parts are.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::FromBytes;

use crate::drops::DropReason;
use crate::{checksum, ipv4, ipv6};

#[cfg(test)]
mod tests;

/// Extension headers walked before a packet is refused: RFC 8200 section 4.1 lists each of the four we
/// walk once, and destination options twice.
const EXTENSION_HEADERS_MAX: usize = 5;

/// The IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where the parts of a packet are. Only [`parse`] makes one, so it cannot be wrong for the bytes it
/// was parsed from; using it with other bytes is a defect of the caller and may panic.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    family: Family,
    protocol: u8,
    fragment: bool,
    later_fragment: bool,
    dont_fragment: bool,
    options: bool,
    routing: bool,
    transport_offset: u32,
    length: u32,
}

impl Layout {
    /// The IP version.
    #[inline]
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Length of the whole packet in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a parsed packet is never empty")]
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Where the transport header starts: after IPv4 options and IPv6 extension headers. At most
    /// [`Layout::len`]; whether a transport header fits behind it has not been checked.
    #[inline]
    #[must_use]
    pub const fn transport_offset(&self) -> usize {
        self.transport_offset as usize
    }

    /// The transport protocol. In a later IPv6 fragment, the protocol its fragment header names.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The packet is a piece of a larger one, the first included.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// The packet is a piece of a larger one and has no transport header.
    #[inline]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.later_fragment
    }

    /// Routers must not fragment the packet. True for every IPv6 packet.
    #[inline]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        self.dont_fragment
    }

    /// There are IPv4 options or IPv6 extension headers.
    #[inline]
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.options
    }

    /// There is an IPv6 routing header, so the destination in the IPv6 header need not be the one in
    /// the pseudo header (RFC 8200 section 8.1).
    #[inline]
    #[must_use]
    pub(crate) const fn has_routing_header(&self) -> bool {
        self.routing
    }
}

/// Parses one complete IP packet. The length field must say exactly `bytes.len()`. IPv6 hop-by-hop,
/// routing, destination and fragment headers are walked. The IPv4 header checksum is not verified here:
/// see [`header_checksum_ok`].
///
/// # Errors
/// The reason under which to drop the packet.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Layout, DropReason> {
    match bytes.first() {
        None => Err(DropReason::TooShort),
        Some(first) if first >> 4 == 4 => parse_v4(bytes),
        Some(first) if first >> 4 == 6 => parse_v6(bytes),
        Some(_) => Err(DropReason::BadVersion),
    }
}

/// Whether the IPv4 header checksum is right. IPv6 has none, so it always is.
///
/// # Panics
/// If `layout` was not parsed from `bytes`.
#[inline]
#[must_use]
pub fn header_checksum_ok(bytes: &[u8], layout: &Layout) -> bool {
    match layout.family {
        // The usual header has a fixed length, which is summed without a loop.
        Family::V4 if !layout.options => {
            bytes.first_chunk::<{ ipv4::LENGTH }>().is_some_and(|header| {
                let (words, _) = header.as_chunks::<4>();
                let sum = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
                checksum::fold(sum) == 0xffff
            })
        }
        Family::V4 => checksum::portable(&bytes[..layout.transport_offset()]) == 0xffff,
        Family::V6 => true,
    }
}

/// The source address.
///
/// # Panics
/// If `layout` was not parsed from `bytes`.
#[inline]
#[must_use]
pub fn source(bytes: &[u8], layout: &Layout) -> IpAddr {
    match layout.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(header_v4(bytes).source)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(header_v6(bytes).source)),
    }
}

/// The destination address.
///
/// # Panics
/// If `layout` was not parsed from `bytes`.
#[inline]
#[must_use]
pub fn destination(bytes: &[u8], layout: &Layout) -> IpAddr {
    match layout.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(header_v4(bytes).destination)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(header_v6(bytes).destination)),
    }
}

/// The fixed header of a packet that was parsed as IPv4.
#[inline]
pub(crate) fn header_v4(bytes: &[u8]) -> &ipv4::Header {
    let (header, _) =
        ipv4::Header::ref_from_prefix(bytes).expect("the layout was parsed from these bytes");
    header
}

/// The fixed header of a packet that was parsed as IPv6.
#[inline]
pub(crate) fn header_v6(bytes: &[u8]) -> &ipv6::Header {
    let (header, _) =
        ipv6::Header::ref_from_prefix(bytes).expect("the layout was parsed from these bytes");
    header
}

#[inline]
fn parse_v4(bytes: &[u8]) -> Result<Layout, DropReason> {
    let Ok((header, _)) = ipv4::Header::ref_from_prefix(bytes) else {
        return Err(DropReason::TooShort);
    };
    let header_length = usize::from(header.version_length & 0x0f) * 4;
    if header_length < ipv4::LENGTH {
        return Err(DropReason::BadHeaderLength);
    }
    if header_length > bytes.len() {
        return Err(DropReason::TooShort);
    }
    if usize::from(header.total_length.get()) != bytes.len() {
        return Err(DropReason::LengthMismatch);
    }
    if header.hop_limit == 0 {
        return Err(DropReason::HopLimitZero);
    }
    let fragment = header.fragment.get();
    Ok(Layout {
        family: Family::V4,
        protocol: header.protocol,
        fragment: fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0,
        later_fragment: fragment & ipv4::OFFSET_MASK != 0,
        dont_fragment: fragment & ipv4::DONT_FRAGMENT != 0,
        options: header_length > ipv4::LENGTH,
        routing: false,
        transport_offset: header_length as u32,
        length: bytes.len() as u32,
    })
}

#[inline]
fn parse_v6(bytes: &[u8]) -> Result<Layout, DropReason> {
    let Ok((header, _)) = ipv6::Header::ref_from_prefix(bytes) else {
        return Err(DropReason::TooShort);
    };
    // A jumbogram (RFC 2675) has length zero here and is refused with the rest.
    if usize::from(header.payload_length.get()) + ipv6::LENGTH != bytes.len() {
        return Err(DropReason::LengthMismatch);
    }
    if header.hop_limit == 0 {
        return Err(DropReason::HopLimitZero);
    }
    let layout = Layout {
        family: Family::V6,
        protocol: header.next_header,
        fragment: false,
        later_fragment: false,
        dont_fragment: true,
        options: false,
        routing: false,
        transport_offset: ipv6::LENGTH as u32,
        length: bytes.len() as u32,
    };
    if is_extension(header.next_header) { walk_extensions(bytes, layout) } else { Ok(layout) }
}

const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::DESTINATION)
}

/// Moves the transport offset behind the extension headers.
fn walk_extensions(bytes: &[u8], mut layout: Layout) -> Result<Layout, DropReason> {
    layout.options = true;
    for index in 0..EXTENSION_HEADERS_MAX {
        let kind = layout.protocol;
        if kind == ipv6::HOP_BY_HOP && index > 0 {
            return Err(DropReason::ExtensionHeaders);
        }
        let offset = layout.transport_offset();
        let rest = bytes.get(offset..).ok_or(DropReason::ExtensionHeaders)?;
        let Some(&[next, units, high, low, ..]) = rest.first_chunk::<8>() else {
            return Err(DropReason::ExtensionHeaders);
        };
        // The fragment header has no length field; the others count units of eight bytes after the first.
        let length = if kind == ipv6::FRAGMENT { 8 } else { (usize::from(units) + 1) * 8 };
        if length > rest.len() {
            return Err(DropReason::ExtensionHeaders);
        }
        layout.protocol = next;
        layout.transport_offset = (offset + length) as u32;
        layout.routing |= kind == ipv6::ROUTING;
        if kind == ipv6::FRAGMENT {
            let word = u16::from_be_bytes([high, low]);
            layout.later_fragment = word >> 3 != 0;
            // Of two fragment headers, which nobody sends, either one makes it a piece.
            layout.fragment |= layout.later_fragment || word & 1 != 0;
        }
        if layout.later_fragment || !is_extension(next) {
            return Ok(layout);
        }
    }
    Err(DropReason::ExtensionHeaders)
}
