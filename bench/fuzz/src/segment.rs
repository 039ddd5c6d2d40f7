//! Virtio headers, and the cutting of super-packets.

use weft_forward::checksum::portable;
use weft_forward::packet::{self, Family};
use weft_forward::segment::{self, Plan};
use weft_forward::virtio::{self, Gso};
use weft_forward::{tcp, udp};

use crate::input::Input;
use crate::packets::{
    checksum_offset, leave_checksum_open, mend, pattern, payload_length, transport_checksum_ok,
};

/// Segments at the start and at the end of a packet that are checked whole.
const CHECKED: usize = 32;

/// What the device gives. The first byte says what is mended, the second how much payload is added;
/// then a virtio header and a packet follow.
pub fn segment(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, longer) = (input.u8(), payload_length(input.u8()));
    let header_bytes = input.take(virtio::LENGTH);
    let mut bytes = input.rest().to_vec();
    bytes.extend(pattern(longer, what));
    bytes.truncate(usize::from(u16::MAX));
    mend(&mut bytes, what);
    let Ok(mut header) = virtio::Header::parse(header_bytes) else { return };
    round_trip(&header);
    let Ok(layout) = packet::parse(&bytes) else { return };
    if what & 8 != 0 {
        leave_checksum_open(&mut bytes);
        agree(&mut header, &layout);
    }
    completed(&bytes, &header);
    if let Ok(plan) = Plan::new(&bytes, &layout, &header) {
        check_cut(&bytes, &header, &plan);
    }
}

/// Makes the virtio header say what the kernel would say of the packet.
pub(crate) fn agree(header: &mut virtio::Header, layout: &packet::Layout) {
    header.needs_checksum = true;
    header.checksum_start = layout.transport_offset() as u16;
    header.checksum_offset = checksum_offset(layout.protocol()) as u16;
    header.gso = match (layout.protocol(), layout.family()) {
        (tcp::PROTOCOL, Family::V4) => Gso::TcpV4,
        (tcp::PROTOCOL, Family::V6) => Gso::TcpV6,
        _ => Gso::Udp,
    };
}

/// Writing and parsing undo each other.
fn round_trip(header: &virtio::Header) {
    let mut out = [0xa5; virtio::LENGTH];
    header.write(&mut out);
    assert_eq!(virtio::Header::parse(&out), Ok(*header));
}

/// A refused completion changes nothing, a made one at most two bytes.
fn completed(bytes: &[u8], header: &virtio::Header) {
    let mut out = bytes.to_vec();
    let result = segment::complete_checksum(&mut out, header, portable);
    let differs = out.iter().zip(bytes).filter(|(after, before)| after != before).count();
    assert!(differs <= if result.is_ok() && header.needs_checksum { 2 } else { 0 });
}

/// Every byte of payload leaves once and in order, behind headers that are right.
pub(crate) fn check_cut(bytes: &[u8], header: &virtio::Header, plan: &Plan) {
    let mut out = [0xa5; segment::HEADER_MAX];
    let mut at = plan.header_len();
    for index in 0..plan.count() {
        let payload = plan.payload(index);
        assert_eq!(payload.start, at);
        at = payload.end;
        let length = plan.header_len() + payload.len();
        let is_last = index + 1 == plan.count();
        assert_eq!(length, if is_last { plan.last_len() } else { plan.segment_len() });
        assert!(is_last || payload.len() == usize::from(header.segment_size));
        assert!(length <= plan.segment_len());
        plan.write_header(bytes, index, &mut out, portable);
        assert!(out[plan.header_len()..].iter().all(|byte| *byte == 0xa5), "beyond the header");
        // Thousands of segments in the middle tell no more than some.
        let is_looked_at = index < CHECKED || index + CHECKED >= plan.count();
        if header.gso != Gso::None && is_looked_at {
            let segment = [&out[..plan.header_len()], &bytes[payload]].concat();
            check_segment(&segment, bytes, plan, index);
        }
    }
    assert_eq!(at, bytes.len());
    assert!(plan.payload(plan.count()).is_empty());
}

fn check_segment(segment: &[u8], whole: &[u8], plan: &Plan, index: usize) {
    let layout = packet::parse(segment).expect("a segment is a packet");
    assert!(transport_checksum_ok(segment, &layout));
    // What was wrong in the rest of the header of the whole is not put right.
    let whole_layout = packet::parse(whole).expect("it was parsed before");
    assert!(packet::header_checksum_ok(segment, &layout));
    assert_eq!(layout.transport_offset(), whole_layout.transport_offset());
    assert_eq!(layout.protocol(), whole_layout.protocol());
    assert_eq!(packet::source(segment, &layout), packet::source(whole, &layout));
    let transport = &segment[layout.transport_offset()..];
    let before = &whole[layout.transport_offset()..];
    assert_eq!(transport[..4], before[..4], "the ports");
    if layout.protocol() == udp::PROTOCOL {
        let length = u16::from_be_bytes([transport[4], transport[5]]);
        assert_eq!(usize::from(length), transport.len());
        return;
    }
    let sequence = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let offset = (plan.payload(index).start - plan.header_len()) as u32;
    assert_eq!(sequence(transport), sequence(before).wrapping_add(offset));
    let (is_first, is_last) = (index == 0, index + 1 == plan.count());
    let expected = |flag: u8, kept: bool| if kept { before[13] & flag } else { 0 };
    assert_eq!(transport[13] & tcp::CWR, expected(tcp::CWR, is_first));
    let last = tcp::FIN | tcp::PSH;
    assert_eq!(transport[13] & last, expected(last, is_last));
    assert_eq!(transport[13] | last | tcp::CWR, before[13] | last | tcp::CWR);
}
