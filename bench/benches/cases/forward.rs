//! The packet logic by itself: parsing, cutting, building trains, joining.

use std::hint::black_box;

use weft_forward::checksum::{self, Sum};
use weft_forward::coalesce::{Coalescer, Group, Limits, SEGMENTS_MAX, Sink};
use weft_forward::packet::{self, Layout};
use weft_forward::segment::{HEADER_MAX, Plan};
use weft_forward::virtio::{Gso, Header};
use weft_sys::frame::{Frame, FramePool, PoolShape};
use weft_sys::gather::Gather;
use weft_sys::region::Region;

use super::harness::Harness;

const IPV4_LENGTH: usize = 20;
/// A TCP header with the timestamps that nearly every stream carries.
const TCP_LENGTH: usize = 32;
const UDP_LENGTH: usize = 8;
/// Payloads up to this length are copied into a train, as the worker does it.
const COPY_MAX: usize = 256;

/// One super-packet as the device gives it: kind, payload of a wire packet, and of the whole.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    gso: Gso,
    segment: u16,
    payload: usize,
}

/// A full stream, a short answer, and small datagrams, for an inner MTU of 1,472 bytes.
const SHAPES: [Shape; 3] = [
    Shape { name: "tcp-64KiB", gso: Gso::TcpV4, segment: 1420, payload: 65_400 },
    Shape { name: "tcp-8", gso: Gso::TcpV4, segment: 1420, payload: 8 * 1420 },
    Shape { name: "udp-64B-64", gso: Gso::Udp, segment: 64, payload: 64 * 64 },
];

/// Every case. An element is a wire packet.
pub(crate) fn all(harness: &mut impl Harness) {
    parse(harness);
    segment(harness);
    train(harness);
    coalesce(harness);
}

struct Super {
    packet: Vec<u8>,
    layout: Layout,
    header: Header,
}

/// IPv4 (RFC 791) and TCP (RFC 9293) or UDP (RFC 768) before `shape.payload` bytes.
fn super_packet(shape: Shape) -> Super {
    let transport_length = if shape.gso == Gso::Udp { UDP_LENGTH } else { TCP_LENGTH };
    let header_length = IPV4_LENGTH + transport_length;
    let mut packet = vec![0; header_length];
    let total = u16::try_from(header_length + shape.payload).expect("fits an IPv4 length");
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6] = 0x40; // DF
    packet[8] = 63;
    packet[12..16].copy_from_slice(&[10, 244, 1, 2]);
    packet[16..20].copy_from_slice(&[10, 244, 2, 2]);
    packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
    if shape.gso == Gso::Udp {
        packet[9] = 17;
        packet[24..26].copy_from_slice(&(total - IPV4_LENGTH as u16).to_be_bytes());
    } else {
        packet[9] = 6;
        packet[32..34].copy_from_slice(&[0x80, 0x10]); // eight words, ACK
        packet[40..44].copy_from_slice(&[1, 1, 8, 10]); // two fillers, timestamps
    }
    let sum = !checksum::portable(&packet[..IPV4_LENGTH]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend((0..shape.payload).map(|index| (index * 31 + 7) as u8));
    let layout = packet::parse(&packet).expect("the packet is well formed");
    let checksum_offset = if shape.gso == Gso::Udp { 6 } else { 16 };
    let header = Header {
        gso: shape.gso,
        needs_checksum: true,
        header_length: header_length as u16,
        segment_size: shape.segment,
        checksum_start: IPV4_LENGTH as u16,
        checksum_offset,
        ..Header::NONE
    };
    Super { packet, layout, header }
}

fn plan(whole: &Super) -> Plan {
    Plan::new(&whole.packet, &whole.layout, &whole.header).expect("header and packet agree")
}

/// The wire packets that a super-packet becomes.
fn wire_packets(whole: &Super, sum: Sum) -> Vec<Vec<u8>> {
    let plan = plan(whole);
    let packet = |index| {
        let mut packet = vec![0; plan.header_len()];
        plan.write_header(&whole.packet, index, &mut packet, sum);
        packet.extend_from_slice(&whole.packet[plan.payload(index)]);
        packet
    };
    (0..plan.count()).map(packet).collect()
}

fn segment(harness: &mut impl Harness) {
    let (sum, _) = weft_sys::checksum::select();
    for shape in SHAPES {
        let whole = super_packet(shape);
        let mut out = [0; HEADER_MAX];
        harness.case("segment", shape.name, plan(&whole).count(), || {
            let plan = plan(black_box(&whole));
            for index in 0..plan.count() {
                plan.write_header(&whole.packet, index, &mut out, sum);
                black_box(&mut out);
            }
        });
    }
}

/// Takes what comes out and only counts it.
#[derive(Default)]
struct Counted {
    groups: usize,
    alone: usize,
}

impl Sink<usize> for Counted {
    fn group(&mut self, group: &Group<usize>) {
        self.groups += black_box(group).segments().min(1);
    }

    fn alone(&mut self, _place: usize, _length: usize) {
        self.alone += 1;
    }
}

/// Parsing, both checksums and joining: everything that an arriving packet costs but the system calls.
fn coalesce(harness: &mut impl Harness) {
    let (sum, _) = weft_sys::checksum::select();
    let limits =
        Limits { udp: true, tcp: true, ecn: true, segments_max: SEGMENTS_MAX, bytes_max: 65_535 };
    for shape in SHAPES {
        let packets = wire_packets(&super_packet(shape), sum);
        let mut coalescer = Coalescer::new(limits, sum);
        harness.case("coalesce", shape.name, packets.len(), || {
            let mut counted = Counted::default();
            for packet in black_box(&packets) {
                let layout = packet::parse(packet).expect("it was cut by us");
                assert!(packet::header_checksum_ok(packet, &layout));
                coalescer.push(packet, &layout, 0, |place, by| place + by, &mut counted);
            }
            coalescer.flush(&mut counted);
            assert_eq!((counted.groups, counted.alone), (1, 0));
        });
    }
}

/// Reading a wire packet's headers, which every packet of either direction pays for.
fn parse(harness: &mut impl Harness) {
    let (sum, _) = weft_sys::checksum::select();
    for shape in [SHAPES[0], SHAPES[2]] {
        let packets = wire_packets(&super_packet(shape), sum);
        let name = if shape.gso == Gso::Udp { "udp" } else { "tcp" };
        harness.case("parse", name, 1, || {
            packet::parse(black_box(&packets[0])).expect("it was cut by us")
        });
    }
}

/// From a super-packet as the device gives it to a train that is ready to be sent: parsing, cutting,
/// and the list of pieces. Only the machines around it, which need a device, are missing.
fn train(harness: &mut impl Harness) {
    let (sum, _) = weft_sys::checksum::select();
    let shape = PoolShape { frames: 1, capacity: 65_535, stride: 64 * 1024 };
    let region =
        Region::map(shape.footprint() + 2 * weft_sys::gather::ARENA).expect("memory is there");
    let pool = FramePool::new(&region, shape, 0);
    let mut gather = Gather::new(&region, 0);
    for shape in SHAPES {
        let whole = super_packet(shape);
        let mut frame = pool.free_frame().expect("nobody holds a frame");
        frame.narrow(0..whole.packet.len());
        frame.bytes_mut().expect("the only handle").copy_from_slice(&whole.packet);
        harness.case("train", shape.name, plan(&whole).count(), || {
            build_train(black_box(&frame), &whole.header, &mut gather, sum);
            black_box(&mut gather).reset();
        });
    }
}

/// As the plain framer does it: short payloads are copied, long ones stay where they are.
fn build_train(frame: &Frame, header: &Header, train: &mut Gather, sum: Sum) {
    let packet = frame.bytes();
    let layout = packet::parse(packet).expect("the packet is well formed");
    let plan = Plan::new(packet, &layout, header).expect("header and packet agree");
    for index in 0..plan.count() {
        plan.write_header(packet, index, train.push_space(plan.header_len()), sum);
        let payload = plan.payload(index);
        if payload.len() <= COPY_MAX {
            train.push_copy(&packet[payload]);
        } else {
            train.push_frame(frame, payload);
        }
    }
}
