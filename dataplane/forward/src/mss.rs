//! Clamping the maximum segment size of TCP handshakes (RFC 9293 section 3.7.1) to the path.

use crate::packet::Layout;

/// Lowers the MSS option of a SYN so that segments fit `mtu`, in place; says whether it did.
pub fn clamp(_packet: &mut [u8], _layout: &Layout, _mtu: usize, _partial: bool) -> bool {
    false
}
