//! Clamping the maximum segment size of TCP handshakes (RFC 9293 section 3.7.1) to the path.

use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::packet::{Family, Layout};
use crate::{checksum, ipv4, ipv6, tcp};

#[cfg(test)]
mod tests;

/// TCP option kinds (RFC 9293 section 3.1).
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MSS: u8 = 2;
/// Length of the MSS option in bytes, and of a value with its kind and length.
const OPTION_MSS_LENGTH: usize = 4;

/// Lowers the MSS option of a SYN so that segments without options fit `mtu` bytes, in place, and says
/// whether it did. A missing option is left missing. With `partial` the checksum field holds the pseudo
/// header's sum only and stays as it is.
#[inline]
#[must_use]
pub fn clamp(packet: &mut [u8], layout: &Layout, mtu: usize, partial: bool) -> bool {
    if layout.protocol() != tcp::PROTOCOL || layout.is_later_fragment() {
        return false;
    }
    let network = match layout.family() {
        Family::V4 => ipv4::LENGTH,
        Family::V6 => ipv6::LENGTH,
    };
    // What does not fit the field (a path of 64 KiB) need not be clamped to.
    let Some(Ok(largest)) = mtu.checked_sub(network + tcp::LENGTH).map(u16::try_from) else {
        return false;
    };
    let transport = packet.get_mut(layout.transport_offset()..).unwrap_or_default();
    clamp_header(transport, largest, partial).is_some()
}

/// `None` if there was nothing to lower.
fn clamp_header(transport: &mut [u8], largest: u16, partial: bool) -> Option<()> {
    let (header, options) = tcp::Header::mut_from_prefix(transport).ok()?;
    if header.flags & tcp::SYN == 0 {
        return None;
    }
    let options = options.get_mut(..header.length().checked_sub(tcp::LENGTH)?)?;
    let start = find_mss(options)?;
    let (value, _) = U16::mut_from_prefix(options.get_mut(start..)?).ok()?;
    let old = value.get();
    if old <= largest {
        return None;
    }
    value.set(largest);
    if !partial {
        // At an odd place the value's bytes are the other way round in the words that were summed.
        let swap = |value: u16| if start % 2 == 0 { value } else { value.swap_bytes() };
        let checksum = checksum::replace(header.checksum.get(), swap(old), swap(largest));
        header.checksum.set(checksum);
    }
    Some(())
}

/// Where the value of the MSS option starts. The list ends at the first malformed option.
fn find_mss(options: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(kind) = options.get(start) {
        let length = match *kind {
            OPTION_END => return None,
            OPTION_NOTHING => 1,
            _ => usize::from(*options.get(start + 1)?),
        };
        let end = start + length;
        if end > options.len() || (*kind != OPTION_NOTHING && length < 2) {
            return None;
        }
        if *kind == OPTION_MSS && length == OPTION_MSS_LENGTH {
            return Some(start + 2);
        }
        start = end;
    }
    None
}
