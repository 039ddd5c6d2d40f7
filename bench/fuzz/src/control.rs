//! What the kernel writes beside a datagram.

use weft_sys::udp::{SegmentControl, SockAddr, parse_control};

/// Control messages of a received datagram.
pub fn control(data: &[u8]) {
    let received = parse_control(data);
    assert_ne!(received.segment_size, Some(0));
    if let Some((size, more)) = data.split_first_chunk::<2>() {
        let sent = SegmentControl::new(u16::from_ne_bytes(*size));
        // Our own message is not one that is received, and does not hide the next.
        let joined = [sent.as_bytes(), more].concat();
        assert_eq!(parse_control(&joined), parse_control(more));
    }
}

/// The address of a sender.
pub fn address(data: &[u8]) {
    let Some(address) = SockAddr::parse(data) else { return };
    let kernel = SockAddr::from(address);
    assert_eq!(kernel.to_socket_addr(), Some(address));
    let bytes = kernel.as_bytes();
    assert!(data.len() >= bytes.len());
    // The eight bytes of padding of an IPv4 address have no meaning.
    let length = if address.is_ipv4() { 8 } else { bytes.len() };
    assert_eq!(bytes[..length], data[..length]);
}
