//! The UDP header (RFC 768).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header in bytes.
pub const LENGTH: usize = 8;
/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Length of header and payload in bytes.
    pub length: U16,
    /// Checksum over pseudo header, header and payload; zero: none.
    pub checksum: U16,
}

const _: () = assert!(size_of::<Header>() == LENGTH);
