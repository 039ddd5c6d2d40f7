//! Cutting a super-packet into wire packets: headers only, the payload stays where it is.

use core::ops::Range;

use crate::checksum::Sum;
use crate::drops::DropReason;
use crate::packet::Layout;
use crate::virtio;

/// Longest header that [`Plan::write_header`] writes, in bytes: IPv4 and TCP with all options.
pub const HEADER_MAX: usize = 120;

/// How one packet read from the device leaves as wire packets.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    length: u32,
}

impl Plan {
    /// Plans the packet behind a virtio header.
    ///
    /// # Errors
    /// The reason under which to drop the packet.
    pub fn new(
        _packet: &[u8],
        layout: &Layout,
        _header: &virtio::Header,
    ) -> Result<Self, DropReason> {
        Ok(Self { length: layout.len() as u32 })
    }

    /// How many wire packets there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        1
    }

    /// Length of the header that [`Plan::write_header`] writes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        0
    }

    /// Inner length of every wire packet but the last in bytes.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.length as usize
    }

    /// Inner length of the last wire packet in bytes.
    #[must_use]
    pub fn last_len(&self) -> usize {
        self.length as usize
    }

    /// Where the payload of wire packet `index` is in the packet.
    #[must_use]
    pub fn payload(&self, _index: usize) -> Range<usize> {
        0..self.length as usize
    }

    /// Writes the header of wire packet `index` into the start of `out`.
    pub fn write_header(&self, _packet: &[u8], _index: usize, _out: &mut [u8], _sum: Sum) {}
}

/// Completes the checksum of a packet that is not to be segmented, in place.
///
/// # Errors
/// [`DropReason::BadVirtioHeader`] if the checksum lies outside the packet.
pub fn complete_checksum(
    packet: &mut [u8],
    header: &virtio::Header,
    sum: Sum,
) -> Result<(), DropReason> {
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    let bytes = packet.get(start..).ok_or(DropReason::BadVirtioHeader)?;
    let value = match !sum(bytes) {
        0 => 0xffff,
        value => value,
    };
    let stored = packet.get_mut(field..field + 2).ok_or(DropReason::BadVirtioHeader)?;
    stored.copy_from_slice(&value.to_be_bytes());
    Ok(())
}
