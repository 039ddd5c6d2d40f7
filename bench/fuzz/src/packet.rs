//! The parser of inner packets.

use etherparse::IpSlice;
use weft_forward::packet::{self, Family};

use crate::input::Input;
use crate::packets::{LENGTHS, NETWORK_CHECKSUM, mend};

/// One packet. The first byte says what is mended; the rest is the packet.
pub fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8() & (LENGTHS | NETWORK_CHECKSUM);
    let mut bytes = input.rest().to_vec();
    mend(&mut bytes, what);
    let Ok(layout) = packet::parse(&bytes) else { return };
    assert_eq!(layout.len(), bytes.len());
    assert!(layout.transport_offset() <= bytes.len());
    assert!(!layout.is_later_fragment() || layout.is_fragment());
    let is_v4 = layout.family() == Family::V4;
    assert_eq!(bytes[0] >> 4, if is_v4 { 4 } else { 6 });
    assert_eq!(layout.has_options(), layout.transport_offset() > if is_v4 { 20 } else { 40 });
    let header_ok = packet::header_checksum_ok(&bytes, &layout);
    if is_v4 {
        let sum = weft_forward::checksum::naive(&bytes[..layout.transport_offset()]);
        assert_eq!(header_ok, sum == 0xffff);
    }
    assert_eq!(packet::source(&bytes, &layout).is_ipv4(), is_v4);
    assert_eq!(packet::destination(&bytes, &layout).is_ipv4(), is_v4);
    agrees_with_etherparse(&bytes, &layout);
}

/// What we take, the other parser takes too, and finds the same fields in.
fn agrees_with_etherparse(bytes: &[u8], layout: &packet::Layout) {
    match layout.family() {
        Family::V4 => {
            let theirs = etherparse::Ipv4HeaderSlice::from_slice(bytes).expect("we took it");
            assert_eq!(theirs.slice().len(), layout.transport_offset());
            assert_eq!(usize::from(theirs.total_len()), bytes.len());
            assert_eq!(theirs.protocol().0, layout.protocol());
            assert_eq!(theirs.dont_fragment(), layout.dont_fragment());
            assert_eq!(theirs.is_fragmenting_payload(), layout.is_fragment());
            assert_eq!(theirs.fragments_offset().value() > 0, layout.is_later_fragment());
            let source = packet::source(bytes, layout);
            assert_eq!(std::net::IpAddr::from(theirs.source()), source);
            let destination = packet::destination(bytes, layout);
            assert_eq!(std::net::IpAddr::from(theirs.destination()), destination);
        }
        Family::V6 => {
            let theirs = etherparse::Ipv6HeaderSlice::from_slice(bytes).expect("we took it");
            let source = packet::source(bytes, layout);
            assert_eq!(std::net::IpAddr::from(theirs.source()), source);
            let destination = packet::destination(bytes, layout);
            assert_eq!(std::net::IpAddr::from(theirs.destination()), destination);
            // It also walks headers that we leave to the receiver (authentication, mobility, HIP).
            let ours = [0, 43, 44, 60];
            if let Ok(IpSlice::Ipv6(theirs)) = IpSlice::from_slice(bytes)
                && theirs.extensions().clone().into_iter().all(|header| {
                    use etherparse::Ipv6ExtensionSlice as E;
                    !matches!(header, E::Authentication(_))
                })
            {
                let payload = theirs.payload();
                assert_eq!(payload.fragmented, layout.is_fragment());
                if !layout.is_fragment() && !ours.contains(&payload.ip_number.0) {
                    assert_eq!(payload.ip_number.0, layout.protocol());
                    assert_eq!(bytes.len() - payload.payload.len(), layout.transport_offset());
                }
            }
        }
    }
}
