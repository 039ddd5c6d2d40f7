//! Cutting an IPv4 packet into fragments (RFC 791 section 3.2) when the path does not take it whole.

use zerocopy::FromBytes;

use crate::checksum;
use crate::drops::DropReason;
use crate::ipv4;
use crate::packet::{self, Family, Layout};

#[cfg(test)]
mod tests;

/// The unit of fragment offsets in bytes.
pub const UNIT: usize = 8;

/// Option types (RFC 791 section 3.1): end of list, no operation, and the bit of those that every
/// fragment carries.
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_COPIED: u8 = 0x80;

/// The fragments of one packet, made one by one. Every fragment but the last fills the path as far as
/// the unit of eight bytes allows.
#[derive(Clone, Debug)]
pub struct Fragments {
    mtu: usize,
    /// Header of the packet itself, which the first fragment has too.
    first_header: usize,
    /// Header of the later fragments: only the copied options.
    later_header: usize,
    /// Payload bytes written, and in all.
    done: usize,
    payload: usize,
    /// Flags and offset of the packet itself, which may be a fragment already.
    fragment: u16,
    finished: bool,
}

/// Plans the fragments of at most `mtu` bytes. The transport checksum must be complete.
///
/// # Errors
/// [`DropReason::FragmentFailed`] if the packet is IPv6 or must not be fragmented, if not even eight
/// bytes fit behind the header, or if the offsets would not fit their field.
pub fn fragments(packet: &[u8], layout: &Layout, mtu: usize) -> Result<Fragments, DropReason> {
    let header_length = layout.transport_offset();
    if layout.family() != Family::V4 || layout.dont_fragment() || mtu < header_length + UNIT {
        return Err(DropReason::FragmentFailed);
    }
    let fragment = packet::header_v4(packet).fragment.get();
    let payload = layout.len() - header_length;
    let last_unit = usize::from(fragment & ipv4::OFFSET_MASK) + payload / UNIT;
    if last_unit > usize::from(ipv4::OFFSET_MASK) {
        return Err(DropReason::FragmentFailed);
    }
    let options = packet.get(ipv4::LENGTH..header_length).unwrap_or_default();
    let mut copied = [0; ipv4::LENGTH_MAX - ipv4::LENGTH];
    Ok(Fragments {
        mtu,
        first_header: header_length,
        later_header: ipv4::LENGTH + copy_options(options, &mut copied),
        done: 0,
        payload,
        fragment,
        finished: false,
    })
}

impl Fragments {
    /// Writes the next fragment of the same packet into the start of `out` and says how long it is.
    /// `None` after the last.
    ///
    /// # Panics
    /// If `packet` is not the one that was planned, or `out` is shorter than the planned `mtu` and the
    /// fragment does not fit.
    pub fn next(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.finished {
            return None;
        }
        let header = if self.done == 0 { self.first_header } else { self.later_header };
        let left = self.payload - self.done;
        self.finished = header + left <= self.mtu;
        let taken = if self.finished { left } else { (self.mtu - header) / UNIT * UNIT };
        let length = header + taken;
        let out = &mut out[..length];
        self.write_header(packet, header, out);
        let start = self.first_header + self.done;
        out[header..].copy_from_slice(&packet[start..start + taken]);
        self.done += taken;
        Some(length)
    }

    fn write_header(&self, packet: &[u8], header_length: usize, out: &mut [u8]) {
        out[..ipv4::LENGTH].copy_from_slice(&packet[..ipv4::LENGTH]);
        let options = &packet[ipv4::LENGTH..self.first_header];
        let room = &mut out[ipv4::LENGTH..header_length];
        if self.done == 0 {
            room.copy_from_slice(options);
        } else {
            copy_options(options, room);
        }
        let more = if self.finished { 0 } else { ipv4::MORE_FRAGMENTS };
        let length = out.len() as u16;
        let (header, _) = ipv4::Header::mut_from_prefix(out).expect("a fragment has a header");
        header.version_length = 0x40 | (header_length / 4) as u8;
        header.total_length.set(length);
        // A piece of a fragment that is not the last has more fragments behind it whatever happens here,
        // and the offset cannot run into the flags: that was checked.
        header.fragment.set((self.fragment | more) + (self.done / UNIT) as u16);
        header.checksum.set(0);
        let sum = checksum::portable(&out[..header_length]);
        let (header, _) = ipv4::Header::mut_from_prefix(out).expect("a fragment has a header");
        header.checksum.set(!sum);
    }
}

/// Writes the options that later fragments carry into the start of `out`, padded with end-of-list to
/// whole words, and says how long that is. A malformed option ends the list.
fn copy_options(mut options: &[u8], out: &mut [u8]) -> usize {
    let mut length = 0;
    while let [kind, rest @ ..] = options {
        let size = match (*kind, rest.first()) {
            (OPTION_END, _) => break,
            (OPTION_NOTHING, _) => 1,
            (_, Some(size)) => usize::from(*size),
            (_, None) => break,
        };
        let whole = *kind == OPTION_NOTHING || size >= 2;
        let Some((option, after)) = options.split_at_checked(size).filter(|_| whole) else {
            break;
        };
        if kind & OPTION_COPIED != 0 {
            out[length..length + size].copy_from_slice(option);
            length += size;
        }
        options = after;
    }
    let padded = length.next_multiple_of(4);
    out[length..padded].fill(OPTION_END);
    padded
}
