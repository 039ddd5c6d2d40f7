//! The IPv4 header (RFC 791) without its options.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options in bytes.
pub const LENGTH: usize = 20;
/// Longest header, options included, in bytes.
pub const LENGTH_MAX: usize = 60;

/// Flag in [`Header::fragment`]: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Flag in [`Header::fragment`]: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset in [`Header::fragment`], in units of eight bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (4) and header length in words of four bytes.
    pub version_length: u8,
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Length of header and payload in bytes.
    pub total_length: U16,
    /// Identification.
    pub id: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Hops left.
    pub hop_limit: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Checksum over the header and its options.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

const _: () = assert!(size_of::<Header>() == LENGTH);
