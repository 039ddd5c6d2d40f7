//! flannel's own packets: `tests/data/README.md` says what they are.

use std::vec::Vec;

use crate::testing::{ALL, checksums_ok, join, split};
use crate::virtio::Gso;
use crate::{checksum, packet, tcp, udp};

const CAPTURE: &[u8] = include_bytes!("../../tests/data/flanneld-0.20.2-udp.pcap");
/// Classic pcap, little endian, microseconds, Ethernet.
const MAGIC: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET_HEADER: usize = 14;
const PORT: [u8; 2] = 8285u16.to_be_bytes();

/// The inner packets in the order of the wire. The outer datagrams must not be fragmented: flanneld
/// lowers the MTU of its device so that none has to be, and this recording has none.
fn inner_packets() -> Vec<&'static [u8]> {
    assert_eq!(CAPTURE[..4], MAGIC);
    let mut rest = &CAPTURE[FILE_HEADER..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let frame = &rest[RECORD_HEADER..RECORD_HEADER + length];
        rest = &rest[RECORD_HEADER + length..];
        let outer_length = u16::from_be_bytes([frame[16], frame[17]]);
        let outer = &frame[ETHERNET_HEADER..ETHERNET_HEADER + usize::from(outer_length)];
        let layout = packet::parse(outer).unwrap();
        assert!(!layout.is_fragment());
        assert_eq!(layout.protocol(), udp::PROTOCOL);
        let datagram = &outer[layout.transport_offset()..];
        assert_eq!(datagram[2..4], PORT);
        packets.push(&datagram[udp::LENGTH..]);
    }
    packets
}

#[test]
fn flannels_packets_parse_and_their_checksums_are_right() {
    let packets = inner_packets();
    assert_eq!(packets.len(), 109);
    let mut seen = [0; 3];
    for bytes in packets {
        let layout = packet::parse(bytes).unwrap();
        assert!(packet::header_checksum_ok(bytes, &layout));
        let transport = &bytes[layout.transport_offset()..];
        match layout.protocol() {
            _ if layout.is_fragment() => seen[0] += 1,
            tcp::PROTOCOL => {
                assert!(checksums_ok(bytes));
                seen[1] += 1;
            }
            1 => {
                assert_eq!(checksum::portable(transport), 0xffff);
                seen[2] += 1;
            }
            other => panic!("protocol {other}"),
        }
    }
    // Fragments of the large ping, TCP, pings.
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn flannels_tcp_is_joined_and_cut_back_to_the_byte() {
    let of_tcp = |bytes: &&[u8]| packet::parse(bytes).unwrap().protocol() == tcp::PROTOCOL;
    let all: Vec<Vec<u8>> =
        inner_packets().into_iter().filter(of_tcp).map(<[u8]>::to_vec).collect();
    let source = |bytes: &Vec<u8>| packet::source(bytes, &packet::parse(bytes).unwrap());
    let sources = [source(&all[0]), source(&all[1])];
    assert_ne!(sources[0], sources[1]);
    let mut joined = 0;
    for one_way in sources {
        let packets: Vec<_> =
            all.iter().filter(|bytes| source(bytes) == one_way).cloned().collect();
        let written = join(ALL, &packets);
        joined += written.iter().filter(|(header, _)| header.gso != Gso::None).count();
        let back: Vec<_> =
            written.iter().flat_map(|(header, bytes)| split(header, bytes)).collect();
        assert_eq!(back, packets);
    }
    assert!(joined > 0);
}
