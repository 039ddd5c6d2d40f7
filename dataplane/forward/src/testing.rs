//! Packets for tests, built by another implementation, and a device that takes what the coalescer emits.

use std::vec;
use std::vec::Vec;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use crate::checksum;
use crate::coalesce::{Coalescer, Group, Limits, Sink};
use crate::packet::{self, Family, Layout};
use crate::segment::{self, Plan};
use crate::virtio::{self, Gso};
use crate::{ipv4, ipv6, tcp, udp};

/// Everything that can differ between two TCP or UDP packets in these tests.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) family: Family,
    pub(crate) protocol: u8,
    /// Last byte of source and destination address.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn tcp(family: Family, payload: &[u8]) -> Self {
        Self {
            family,
            protocol: tcp::PROTOCOL,
            hosts: (2, 3),
            ports: (40_000, 5201),
            id: 0x1234,
            dont_fragment: true,
            hop_limit: 63,
            traffic_class: 0,
            flow_label: 0xabcde,
            sequence: 0x1000_0000,
            acknowledgement: 0x2000_0000,
            window: 501,
            flags: tcp::ACK,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn udp(family: Family, payload: &[u8]) -> Self {
        Self { protocol: udp::PROTOCOL, ..Self::tcp(family, payload) }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The packet that follows this one in its flow.
    pub(crate) fn next(&self, payload: &[u8]) -> Self {
        Self {
            id: self.id.wrapping_add(1),
            sequence: self.sequence.wrapping_add(self.payload.len() as u32),
            payload: payload.to_vec(),
            ..self.clone()
        }
    }

    pub(crate) fn header_length(&self) -> usize {
        let network = match self.family {
            Family::V4 => ipv4::LENGTH,
            Family::V6 => ipv6::LENGTH,
        };
        let is_tcp = self.protocol == tcp::PROTOCOL;
        network + if is_tcp { tcp::LENGTH + self.options.len() } else { udp::LENGTH }
    }

    /// The whole packet with right checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let length = (self.header_length() + self.payload.len()) as u16;
        let mut bytes = Vec::new();
        match self.family {
            Family::V4 => {
                let header = self.header_v4(length);
                bytes.extend_from_slice(&header.to_bytes());
                bytes.extend(self.transport(
                    |tcp| tcp.calc_checksum_ipv4(&header, &self.payload).unwrap(),
                    |udp| udp.calc_checksum_ipv4(&header, &self.payload).unwrap(),
                ));
            }
            Family::V6 => {
                let header = self.header_v6(length - ipv6::LENGTH as u16);
                bytes.extend_from_slice(&header.to_bytes());
                bytes.extend(self.transport(
                    |tcp| tcp.calc_checksum_ipv6(&header, &self.payload).unwrap(),
                    |udp| udp.calc_checksum_ipv6(&header, &self.payload).unwrap(),
                ));
            }
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The packet as the device gives it: to be cut into `size` bytes each, the pseudo header's sum in
    /// the place of the checksum.
    pub(crate) fn build_super(&self, size: u16) -> (virtio::Header, Vec<u8>) {
        let mut bytes = self.build();
        let (gso, offset) = match (self.protocol, self.family) {
            (tcp::PROTOCOL, Family::V4) => (Gso::TcpV4, tcp::CHECKSUM_OFFSET),
            (tcp::PROTOCOL, Family::V6) => (Gso::TcpV6, tcp::CHECKSUM_OFFSET),
            _ => (Gso::Udp, udp::CHECKSUM_OFFSET),
        };
        let layout = packet::parse(&bytes).unwrap();
        let start = layout.transport_offset();
        let partial = pseudo(&bytes, &layout);
        bytes[start + offset..start + offset + 2].copy_from_slice(&partial.to_be_bytes());
        let header = virtio::Header {
            gso,
            ecn: self.protocol == tcp::PROTOCOL && self.flags & tcp::CWR != 0,
            needs_checksum: true,
            checksum_valid: false,
            header_length: self.header_length() as u16,
            segment_size: size,
            checksum_start: start as u16,
            checksum_offset: offset as u16,
        };
        (header, bytes)
    }

    fn header_v4(&self, length: u16) -> Ipv4Header {
        let (source, destination) = ([10, 244, 1, self.hosts.0], [10, 244, 2, self.hosts.1]);
        let mut header = Ipv4Header::new(
            length - ipv4::LENGTH as u16,
            self.hop_limit,
            IpNumber(self.protocol),
            source,
            destination,
        )
        .unwrap();
        header.dscp = (self.traffic_class >> 2).try_into().unwrap();
        header.ecn = (self.traffic_class & 3).try_into().unwrap();
        header.identification = self.id;
        header.dont_fragment = self.dont_fragment;
        header.header_checksum = header.calc_header_checksum();
        header
    }

    fn header_v6(&self, payload_length: u16) -> Ipv6Header {
        let (mut source, mut destination) = ([0xfd; 16], [0xfd; 16]);
        source[15] = self.hosts.0;
        destination[15] = self.hosts.1;
        Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
            payload_length,
            next_header: IpNumber(self.protocol),
            hop_limit: self.hop_limit,
            source,
            destination,
        }
    }

    fn transport(
        &self,
        tcp_checksum: impl Fn(&TcpHeader) -> u16,
        udp_checksum: impl Fn(&UdpHeader) -> u16,
    ) -> Vec<u8> {
        if self.protocol == udp::PROTOCOL {
            let mut header = UdpHeader {
                source_port: self.ports.0,
                destination_port: self.ports.1,
                length: (udp::LENGTH + self.payload.len()) as u16,
                checksum: 0,
            };
            header.checksum = udp_checksum(&header);
            return header.to_bytes().to_vec();
        }
        let mut header = TcpHeader::new(self.ports.0, self.ports.1, self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgement;
        header.fin = self.flags & tcp::FIN != 0;
        header.syn = self.flags & tcp::SYN != 0;
        header.rst = self.flags & tcp::RST != 0;
        header.psh = self.flags & tcp::PSH != 0;
        header.ack = self.flags & tcp::ACK != 0;
        header.urg = self.flags & tcp::URG != 0;
        header.ece = self.flags & tcp::ECE != 0;
        header.cwr = self.flags & tcp::CWR != 0;
        header.set_options_raw(&self.options).unwrap();
        header.checksum = tcp_checksum(&header);
        header.to_bytes().to_vec()
    }
}

/// `length` bytes that repeat late and differ from place to place.
pub(crate) fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    };
    (0..length).scan(seed, |state, _| step(state)).collect()
}

/// The pseudo header's sum of any packet.
pub(crate) fn pseudo(bytes: &[u8], layout: &Layout) -> u16 {
    let length = layout.len() - layout.transport_offset();
    let protocol = layout.protocol();
    match layout.family() {
        Family::V4 => {
            let header = packet::header_v4(bytes);
            checksum::pseudo_v4(header.source, header.destination, protocol, length as u16)
        }
        Family::V6 => {
            let header = packet::header_v6(bytes);
            checksum::pseudo_v6(header.source, header.destination, protocol, length as u32)
        }
    }
}

/// Whether IP and transport checksum are right.
pub(crate) fn checksums_ok(bytes: &[u8]) -> bool {
    let layout = packet::parse(bytes).unwrap();
    let transport = checksum::naive(&bytes[layout.transport_offset()..]);
    packet::header_checksum_ok(bytes, &layout)
        && checksum::add(pseudo(bytes, &layout), transport) == 0xffff
}

/// The wire packets that a packet from the device becomes. Headers are written into dirty buffers.
pub(crate) fn split(header: &virtio::Header, bytes: &[u8]) -> Vec<Vec<u8>> {
    let layout = packet::parse(bytes).unwrap();
    let plan = Plan::new(bytes, &layout, header).unwrap();
    let segment = |index: usize| {
        let mut out = vec![0xa5; segment::HEADER_MAX];
        plan.write_header(bytes, index, &mut out, checksum::portable);
        assert!(out[plan.header_len()..].iter().all(|byte| *byte == 0xa5));
        out.truncate(plan.header_len());
        out.extend_from_slice(&bytes[plan.payload(index)]);
        let last = index + 1 == plan.count();
        assert_eq!(out.len(), if last { plan.last_len() } else { plan.segment_len() });
        out
    };
    (0..plan.count()).map(segment).collect()
}

/// What was written into the device: a virtio header and the bytes behind it.
pub(crate) type Written = (virtio::Header, Vec<u8>);

/// A device. A place is the number of a packet and an offset in it.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) written: Vec<Written>,
}

impl Sink<(usize, usize)> for Device {
    fn group(&mut self, group: &Group<(usize, usize)>) {
        let mut bytes = group.header().to_vec();
        for piece in group.pieces() {
            let (packet, offset) = piece.place;
            let end = offset + usize::from(piece.length);
            bytes.extend_from_slice(&self.packets[packet][offset..end]);
        }
        assert_eq!(bytes.len(), group.length());
        assert_eq!(group.segments(), group.pieces().len());
        self.written.push((group.virtio(), bytes));
    }

    fn alone(&mut self, (packet, offset): (usize, usize), length: usize) {
        let bytes = self.packets[packet][offset..offset + length].to_vec();
        self.written.push((virtio::Header::NONE, bytes));
    }
}

impl Device {
    /// Pushes one packet that parses.
    pub(crate) fn push(&mut self, coalescer: &mut Coalescer<(usize, usize)>, bytes: &[u8]) {
        let layout = packet::parse(bytes).unwrap();
        self.packets.push(bytes.to_vec());
        let place = (self.packets.len() - 1, 0);
        coalescer.push(bytes, &layout, place, |(packet, at), more| (packet, at + more), self);
    }
}

/// Limits of a device that takes everything.
pub(crate) const ALL: Limits =
    Limits { udp: true, tcp: true, ecn: true, segments_max: 128, bytes_max: 65_535 };

/// What is written when these packets arrive in one batch.
pub(crate) fn join(limits: Limits, packets: &[Vec<u8>]) -> Vec<Written> {
    let mut coalescer = Coalescer::new(limits, checksum::portable);
    let mut device = Device::default();
    for bytes in packets {
        device.push(&mut coalescer, bytes);
    }
    coalescer.flush(&mut device);
    device.written
}
