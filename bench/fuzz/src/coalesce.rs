//! Joining trains of arbitrary datagrams: cutting what was joined gives the datagrams back.

use weft_forward::checksum::portable;
use weft_forward::coalesce::{Coalescer, Group, Limits, Sink};
use weft_forward::packet::{self, Layout};
use weft_forward::segment::{self, Plan};
use weft_forward::virtio::Gso;
use weft_forward::{ipv4, tcp};

use crate::input::Input;
use crate::packets::{Flow, LENGTHS, MEND_ALL, mend, pattern, transport_checksum_ok};

/// Datagrams in one input: more than are joined, and few enough to compare each with each.
const DATAGRAMS_MAX: usize = 160;
const FLOWS: usize = 4;

/// A train. The first bytes are the device's limits, the rest says what the datagrams are: see
/// [`next_datagram`].
pub fn coalesce(data: &[u8]) {
    let mut input = Input::new(data);
    let switches = input.u8();
    let limits = Limits {
        udp: switches & 1 == 0,
        tcp: switches & 2 == 0,
        ecn: switches & 4 == 0,
        segments_max: if switches & 8 == 0 { 128 } else { usize::from(input.u8()) },
        bytes_max: if switches & 16 == 0 { 65_535 } else { usize::from(input.u16()) },
    };
    let mut flows: [Vec<u8>; FLOWS] = Default::default();
    let mut packets = Vec::new();
    while !input.is_empty() && packets.len() < DATAGRAMS_MAX {
        packets.extend(next_datagram(&mut input, &mut flows, packets.len() as u8));
    }
    check_train(limits, &packets);
}

/// What gets as far as the coalescer.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) layout: Layout,
}

impl Received {
    pub(crate) fn new(bytes: Vec<u8>) -> Option<Self> {
        let layout = packet::parse(&bytes).ok()?;
        packet::header_checksum_ok(&bytes, &layout).then_some(Self { bytes, layout })
    }
}

/// Either a datagram from the input as it is, or one that goes on where the last one of its flow ended,
/// with some bytes of its header changed. The low bits say which flow, the high ones what is mended.
fn next_datagram(
    input: &mut Input<'_>,
    flows: &mut [Vec<u8>; FLOWS],
    seed: u8,
) -> Option<Received> {
    let choice = input.u8();
    let flow = &mut flows[usize::from(choice) % FLOWS];
    let mend_what = if choice & 0x80 == 0 { MEND_ALL } else { input.u8() };
    if choice & 4 != 0 || flow.is_empty() {
        let length = usize::from(input.u8()) * 4;
        *flow = input.take(length).to_vec();
    } else {
        go_on(flow, usize::from(input.u8()) * 8 + usize::from(choice >> 6 & 1), seed);
        for _ in 0..choice >> 3 & 3 {
            let (at, value) = (usize::from(input.u8()), input.u8());
            if let Some(byte) = flow.get_mut(at) {
                *byte = value;
            }
        }
    }
    mend(flow, mend_what);
    Received::new(flow.clone())
}

/// Makes the packet that follows `packet` in its flow.
fn go_on(packet: &mut Vec<u8>, length: usize, seed: u8) {
    let Ok(layout) = packet::parse(packet) else { return };
    let header = layout.transport_offset();
    let is_tcp = layout.protocol() == tcp::PROTOCOL;
    let transport = match packet.get(header + 12) {
        Some(words) if is_tcp => usize::from(words >> 4) * 4,
        _ => 8,
    };
    let payload = packet.len().saturating_sub(header + transport) as u32;
    if packet[0] >> 4 == 4 {
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
    }
    if let Some(sequence) = packet.get_mut(header + 4..header + 8).filter(|_| is_tcp) {
        let old = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
        sequence.copy_from_slice(&old.wrapping_add(payload).to_be_bytes());
    }
    packet.truncate(header + transport);
    packet.extend(pattern(length, seed));
    mend(packet, LENGTHS);
}

/// A device that remembers which datagrams it was given in which order.
struct Device<'a> {
    packets: &'a [Received],
    limits: Limits,
    order: Vec<usize>,
}

/// Joins the datagrams and checks everything about what comes out.
pub(crate) fn check_train(limits: Limits, packets: &[Received]) {
    let mut coalescer = Coalescer::new(limits, portable);
    let mut device = Device { packets, limits, order: Vec::with_capacity(packets.len()) };
    for (number, packet) in packets.iter().enumerate() {
        let place = (number, 0);
        let at = |(number, at): (usize, usize), more: usize| (number, at + more);
        coalescer.push(&packet.bytes, &packet.layout, place, at, &mut device);
    }
    coalescer.flush(&mut device);
    check_order(packets, &device.order);
}

/// Everything comes out once, and tied packets in their order.
fn check_order(packets: &[Received], order: &[usize]) {
    let mut seen = vec![false; packets.len()];
    for number in order {
        assert!(!std::mem::replace(&mut seen[*number], true), "datagram {number} came twice");
    }
    assert!(seen.iter().all(|seen| *seen), "a datagram was lost");
    let flows: Vec<Flow> =
        packets.iter().map(|packet| Flow::of(&packet.bytes, &packet.layout)).collect();
    for (index, later) in order.iter().enumerate() {
        for earlier in &order[..index] {
            let passed = later < earlier && flows[*later].is_tied_to(&flows[*earlier]);
            assert!(!passed, "datagram {earlier} passed {later}");
        }
    }
}

impl Sink<(usize, usize)> for Device<'_> {
    fn group(&mut self, group: &Group<(usize, usize)>) {
        let numbers: Vec<usize> = group.pieces().iter().map(|piece| piece.place.0).collect();
        let mut bytes = group.header().to_vec();
        for piece in group.pieces() {
            let (number, offset) = piece.place;
            let end = offset + usize::from(piece.length);
            bytes.extend_from_slice(&self.packets[number].bytes[offset..end]);
            assert_eq!(end, self.packets[number].bytes.len(), "all of the payload");
        }
        assert_eq!(bytes.len(), group.length());
        assert_eq!(group.segments(), numbers.len());
        self.check_virtio(group, &bytes);
        let layout = packet::parse(&bytes).expect("a joined packet is a packet");
        assert!(packet::header_checksum_ok(&bytes, &layout));
        let plan = Plan::new(&bytes, &layout, &group.virtio()).expect("it can be cut");
        assert_eq!(plan.count(), numbers.len());
        for (index, number) in numbers.iter().enumerate() {
            let mut out = [0; segment::HEADER_MAX];
            plan.write_header(&bytes, index, &mut out, portable);
            let back = [&out[..plan.header_len()], &bytes[plan.payload(index)]].concat();
            assert_same(&back, &self.packets[*number]);
        }
        self.order.extend(numbers);
    }

    fn alone(&mut self, (number, offset): (usize, usize), length: usize) {
        assert_eq!((offset, length), (0, self.packets[number].bytes.len()));
        self.order.push(number);
    }
}

impl Device<'_> {
    fn check_virtio(&self, group: &Group<(usize, usize)>, bytes: &[u8]) {
        let (header, limits) = (group.virtio(), self.limits);
        let allowed = match header.gso {
            Gso::None => group.segments() == 1,
            Gso::Udp => limits.udp,
            Gso::TcpV4 | Gso::TcpV6 => limits.tcp,
        };
        assert!(allowed && (limits.ecn || !header.ecn));
        if group.segments() > 1 {
            assert!(bytes.len() <= limits.bytes_max && group.segments() <= limits.segments_max);
            assert_eq!(usize::from(header.header_length), group.header().len());
            assert_eq!(header.segment_size, group.pieces()[0].length);
        }
    }
}

/// To the byte, except for the id of packets with DF, which has no meaning.
fn assert_same(back: &[u8], before: &Received) {
    let mut back = back.to_vec();
    let bytes = &before.bytes;
    let is_v4 = bytes[0] >> 4 == 4;
    if is_v4 && before.layout.dont_fragment() {
        assert!(packet::header_checksum_ok(&back, &before.layout));
        back[4..6].copy_from_slice(&bytes[4..6]);
        back[10..ipv4::LENGTH - 8].copy_from_slice(&bytes[10..12]);
    }
    assert_eq!(&back, bytes);
    let is_open = !transport_checksum_ok(&back, &before.layout);
    assert!(!is_open, "only packets with a right checksum are put into a group");
}
