//! The packet logic by itself: cutting, joining, looking up. Figures are for each wire packet.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::Ipv4Net;
use weft_forward::checksum::{self, Sum};
use weft_forward::coalesce::{Coalescer, Group, Limits, SEGMENTS_MAX, Sink};
use weft_forward::packet::{self, Layout};
use weft_forward::segment::{HEADER_MAX, Plan};
use weft_forward::table::{Peer, Table, TableInput};
use weft_forward::virtio::{Gso, Header};

const IPV4_LENGTH: usize = 20;
/// A TCP header with the timestamps that nearly every stream carries.
const TCP_LENGTH: usize = 32;
const UDP_LENGTH: usize = 8;

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

fn segment(criterion: &mut Criterion) {
    let (sum, _) = weft_sys::checksum::select();
    let mut group = criterion.benchmark_group("segment");
    for shape in SHAPES {
        let whole = super_packet(shape);
        let mut out = [0; HEADER_MAX];
        group.throughput(Throughput::Elements(plan(&whole).count() as u64));
        group.bench_function(BenchmarkId::from_parameter(shape.name), |bencher| {
            bencher.iter(|| {
                let plan = plan(black_box(&whole));
                for index in 0..plan.count() {
                    plan.write_header(&whole.packet, index, &mut out, sum);
                    black_box(&mut out);
                }
            });
        });
    }
    group.finish();
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
fn coalesce(criterion: &mut Criterion) {
    let (sum, _) = weft_sys::checksum::select();
    let limits =
        Limits { udp: true, tcp: true, ecn: true, segments_max: SEGMENTS_MAX, bytes_max: 65_535 };
    let mut group = criterion.benchmark_group("coalesce");
    for shape in SHAPES {
        let packets = wire_packets(&super_packet(shape), sum);
        let mut coalescer = Coalescer::new(limits, sum);
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(shape.name), |bencher| {
            bencher.iter(|| {
                let mut counted = Counted::default();
                for packet in black_box(&packets) {
                    let layout = packet::parse(packet).expect("it was cut by us");
                    assert!(packet::header_checksum_ok(packet, &layout));
                    coalescer.push(packet, &layout, 0, |place, by| place + by, &mut counted);
                }
                coalescer.flush(&mut counted);
                assert_eq!((counted.groups, counted.alone), (1, 0));
            });
        });
    }
    group.finish();
}

/// A network of 65,536 subnets of which the first is ours and the next `peers` are others'.
fn table(peers: u16) -> Table {
    let subnet = |number: u32| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 | number << 8);
        Ipv4Net::new(address, 24).expect("24 is a prefix length")
    };
    let peer = |slot: u16| {
        let outer = IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 | (u32::from(slot) + 1)));
        Peer {
            slot,
            generation: 1,
            outer: SocketAddr::new(outer, 8285),
            subnet_v4: Some(subnet(u32::from(slot) + 1)),
            subnet_v6: None,
            addresses: vec![outer],
            inner_v6: false,
            mtu: None,
        }
    };
    let input = TableInput {
        epoch: 1,
        network_v4: Some("10.0.0.0/8".parse().expect("it is a network")),
        own_v4: Some(subnet(0)),
        peers: (0..peers).map(peer).collect(),
        ..TableInput::default()
    };
    Table::new(input).expect("no two peers are alike")
}

/// Destinations in no order, so that large tables cannot stay in the nearest cache.
fn lookup(criterion: &mut Criterion) {
    const LOOKUPS: u32 = 1024;
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(u64::from(LOOKUPS)));
    for peers in [10, 1_000, u16::MAX] {
        let table = table(peers);
        let destination = |index: u32| {
            let number = index.wrapping_mul(0x9e37_79b1) % u32::from(peers) + 1;
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0002 | number << 8))
        };
        let destinations: Vec<IpAddr> = (0..LOOKUPS).map(destination).collect();
        group.bench_function(BenchmarkId::from_parameter(peers), |bencher| {
            bencher.iter(|| {
                let found = destinations.iter().filter_map(|&to| table.peer_for(black_box(to)));
                assert_eq!(found.map(black_box).count(), destinations.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, segment, coalesce, lookup);
criterion_main!(benches);
