//! The TCP header (RFC 9293 section 3.1) without its options.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Length of a header without options in bytes.
pub const LENGTH: usize = 20;
/// Longest header, options included, in bytes.
pub const LENGTH_MAX: usize = 60;
/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// Flag: the sender has no more data.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset.
pub const RST: u8 = 0x04;
/// Flag: deliver without waiting.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// Flag: the urgent pointer counts.
pub const URG: u8 = 0x20;
/// Flag: congestion experienced, echoed (RFC 3168).
pub const ECE: u8 = 0x40;
/// Flag: congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Number of the first payload byte.
    pub sequence: U32,
    /// Next byte expected from the other side.
    pub acknowledgement: U32,
    /// Header length in words of four bytes (high four bits) and reserved bits.
    pub offset_reserved: u8,
    /// Flags.
    pub flags: u8,
    /// Receive window.
    pub window: U16,
    /// Checksum over pseudo header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

const _: () = assert!(size_of::<Header>() == LENGTH);

impl Header {
    /// Length of the header with its options in bytes, as the header says; below [`LENGTH`] it is wrong.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> usize {
        ((self.offset_reserved >> 4) as usize) * 4
    }
}
