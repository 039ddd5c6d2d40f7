//! What happens to packets that do not fit: fragments, ICMP errors, clamped handshakes.

use weft_forward::checksum::{add, portable, pseudo_v6};
use weft_forward::icmp::{self, Problem};
use weft_forward::packet::{self, Family, Layout};
use weft_forward::{fragment as cut, mss as handshake, tcp};

use crate::input::Input;
use crate::packets::{mend, pattern, payload_length, transport_checksum_ok};

/// A packet behind two bytes of MTU, a byte that says what is mended and one of added payload.
struct Offender {
    mtu: u16,
    what: u8,
    bytes: Vec<u8>,
    layout: Layout,
}

fn offender(data: &[u8]) -> Option<Offender> {
    let mut input = Input::new(data);
    let (mtu, what, longer) = (input.u16(), input.u8(), payload_length(input.u8()));
    let mut bytes = input.rest().to_vec();
    bytes.extend(pattern(longer, what));
    bytes.truncate(usize::from(u16::MAX));
    mend(&mut bytes, what);
    let layout = packet::parse(&bytes).ok()?;
    Some(Offender { mtu, what, bytes, layout })
}

/// Cutting an IPv4 packet into fragments, and putting it together again.
pub fn fragment(data: &[u8]) {
    let Some(Offender { mtu, bytes, layout, .. }) = offender(data) else { return };
    check_fragments(&bytes, &layout, usize::from(mtu));
}

/// The fragments of a packet hold all of it. How many there are; none if it is refused.
pub(crate) fn check_fragments(bytes: &[u8], layout: &Layout, mtu: usize) -> usize {
    let Ok(mut fragments) = cut::fragments(bytes, layout, mtu) else { return 0 };
    assert!(layout.family() == Family::V4 && !layout.dont_fragment());
    let field = |bytes: &[u8]| u16::from_be_bytes([bytes[6], bytes[7]]);
    let (first_offset, more_behind) = (field(bytes) & 0x1fff, field(bytes) & 0x2000 != 0);
    let payload = &bytes[layout.transport_offset()..];
    let (mut done, mut count, mut has_more) = (0, 0, true);
    let mut out = vec![0xa5; mtu];
    while let Some(length) = fragments.next(bytes, &mut out) {
        assert!(has_more && length <= mtu, "something comes behind the last");
        let fragment = &out[..length];
        let piece = packet::parse(fragment).expect("a fragment is a packet");
        assert!(packet::header_checksum_ok(fragment, &piece));
        assert!(piece.transport_offset() <= layout.transport_offset());
        assert_eq!(usize::from(field(fragment) & 0x1fff), usize::from(first_offset) + done / 8);
        assert_eq!((fragment[1], &fragment[4..6]), (bytes[1], &bytes[4..6]));
        assert_eq!(fragment[8..10], bytes[8..10]);
        assert_eq!(fragment[12..20], bytes[12..20]);
        let part = &fragment[piece.transport_offset()..];
        assert_eq!(part, &payload[done..done + part.len()]);
        done += part.len();
        count += 1;
        has_more = done < payload.len();
        assert_eq!(field(fragment) & 0x2000 != 0, has_more || more_behind);
        assert!(!has_more || part.len().is_multiple_of(8));
    }
    assert_eq!(done, payload.len());
    count
}

/// Answering a packet with an ICMP error.
pub fn icmp(data: &[u8]) {
    let Some(Offender { mtu, what, bytes, layout }) = offender(data) else { return };
    let problem = match what & 16 {
        0 => Problem::NetworkUnreachable,
        _ => Problem::FragmentationNeeded { mtu },
    };
    let room = if what & 32 == 0 { icmp::LENGTH_MAX } else { usize::from(mtu) % 1500 };
    check_error(&bytes, &layout, problem, room);
}

/// An error is a right packet that quotes its cause; nothing forbidden is answered.
pub(crate) fn check_error(bytes: &[u8], layout: &Layout, problem: Problem, room: usize) -> bool {
    let from = packet::destination(bytes, layout);
    let mut out = vec![0xa5; room + 1];
    let sent = icmp::error(bytes, layout, problem, from, &mut out[..room], portable);
    assert_eq!(out[room], 0xa5);
    let Some(length) = sent else { return false };
    let (is_v4, error) = (layout.family() == Family::V4, &out[..length]);
    assert!(length <= if is_v4 { 576 } else { icmp::LENGTH_MAX });
    let parsed = packet::parse(error).expect("an error is a packet");
    assert!(packet::header_checksum_ok(error, &parsed));
    assert_eq!(parsed.protocol(), if is_v4 { 1 } else { 58 });
    assert_eq!(packet::destination(error, &parsed), packet::source(bytes, layout));
    assert_eq!(packet::source(error, &parsed), from);
    let to = packet::destination(error, &parsed);
    assert!(!to.is_multicast() && !to.is_unspecified() && !to.is_loopback());
    assert!(!layout.is_later_fragment() && !from.is_multicast());
    let message = &error[parsed.transport_offset()..];
    let address = |start: usize| *error[start..].first_chunk().expect("it was parsed");
    let pseudo =
        if is_v4 { 0 } else { pseudo_v6(address(8), address(24), 58, message.len() as u32) };
    assert_eq!(add(pseudo, portable(message)), 0xffff);
    assert!(bytes.starts_with(&message[8..]));
    // An error about an error never ends.
    let again = icmp::error(error, &parsed, problem, to, &mut [0; 1500], portable);
    assert_eq!(again, None);
    true
}

/// Clamping the segment size of a handshake.
pub fn mss(data: &[u8]) {
    let Some(Offender { mtu, what, bytes, layout }) = offender(data) else { return };
    let is_partial = what & 16 != 0;
    let mut after = bytes.clone();
    let changed = handshake::clamp(&mut after, &layout, usize::from(mtu), is_partial);
    assert_eq!(changed, after != bytes);
    if !changed {
        return;
    }
    let differing: Vec<usize> = (0..bytes.len()).filter(|at| after[*at] != bytes[*at]).collect();
    let start = layout.transport_offset();
    let options = start + tcp::LENGTH..start + tcp::LENGTH_MAX;
    let checksum = start + tcp::CHECKSUM_OFFSET..start + tcp::CHECKSUM_OFFSET + 2;
    let allowed = |at: &usize| options.contains(at) || (!is_partial && checksum.contains(at));
    assert!(differing.iter().all(allowed));
    if !is_partial && !layout.is_fragment() {
        let (right, still) =
            (transport_checksum_ok(&bytes, &layout), transport_checksum_ok(&after, &layout));
        assert_eq!(right, still, "what was right stays right, what was wrong stays wrong");
    }
    let again = handshake::clamp(&mut after, &layout, usize::from(mtu), is_partial);
    // A second option of the kind would be the sender's mistake, and the first one counts.
    assert!(!again);
}
