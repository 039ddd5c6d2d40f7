//! The data message (section 5.4.6 of the paper): header, packet, zeros, tag.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::Counter;
use crate::aead::{Aead, TAG_LENGTH};
use crate::message::{DATA_HEADER_LENGTH, DATA_OVERHEAD, DataHeader};
use crate::rejected::Rejected;

/// Packets are filled up to a multiple of this, so that their length says less.
const PADDING: usize = 16;

/// Bytes of an inner packet of `length` bytes with its padding, which does not go beyond `mtu`.
#[must_use]
#[inline]
pub fn padded_length(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(PADDING).min(mtu.max(length))
}

/// Bytes of the message that carries an inner packet of `length` bytes.
#[must_use]
#[inline]
pub fn sealed_length(length: usize, mtu: usize) -> usize {
    padded_length(length, mtu) + DATA_OVERHEAD
}

/// Makes the message around the packet in `datagram`. `to` is the peer's index and the counter, `size`
/// the length of the packet and the MTU.
#[inline]
pub(super) fn seal<A: Aead>(
    aead: &A,
    to: (u32, Counter),
    datagram: &mut [u8],
    size: (usize, usize),
) -> usize {
    let (remote, counter) = to;
    let (length, mtu) = size;
    let counter = counter.value();
    let end = DATA_HEADER_LENGTH + padded_length(length, mtu);
    let (text, rest) = datagram.split_at_mut(end);
    let (header, text) = text.split_at_mut(DATA_HEADER_LENGTH);
    header.copy_from_slice(DataHeader::new(remote, counter).as_bytes());
    text[length..].fill(0);
    let tag = aead.seal(counter, &[], text);
    rest[..TAG_LENGTH].copy_from_slice(&tag);
    end + TAG_LENGTH
}

/// The inner packet without its padding. `None` for a message that carries nothing. Whether it is a
/// proper packet is for others to check; what is behind its own length is not part of it.
///
/// # Errors
/// [`Rejected::BadInnerLength`] if it is no IP packet, or is cut off.
#[inline]
pub fn inner_packet(
    datagram: &[u8],
    padded: Range<usize>,
) -> Result<Option<Range<usize>>, Rejected> {
    let packet = &datagram[padded.clone()];
    let length = match packet {
        [] => return Ok(None),
        [0x40..=0x4f, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        // RFC 8200: the length field does not count the header of 40 bytes.
        [0x60..=0x6f, _, _, _, high, low, ..] => {
            40 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => return Err(Rejected::BadInnerLength),
    };
    if length == 0 || length > packet.len() {
        return Err(Rejected::BadInnerLength);
    }
    Ok(Some(padded.start..padded.start + length))
}
