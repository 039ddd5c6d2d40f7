//! Inner packets, with headers and checksums by `etherparse`.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, TcpOptionElement, UdpHeader};
use weft_forward::virtio::{self, Gso};

/// What is behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp {
        sequence: u32,
        push: bool,
    },
    /// A handshake with this maximum segment size.
    Syn {
        mss: u16,
    },
}

/// Everything in which the packets of these tests differ.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub dont_fragment: bool,
    pub id: u16,
    pub hop_limit: u8,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

impl Inner {
    pub(crate) fn udp(source: &str, destination: &str, length: usize) -> Inner {
        Inner {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40_000,
            dont_fragment: true,
            id: 0x1234,
            hop_limit: 63,
            transport: Transport::Udp,
            payload: (0..length).map(|place| (place % 251) as u8).collect(),
        }
    }

    pub(crate) fn tcp(source: &str, destination: &str, length: usize) -> Inner {
        let transport = Transport::Tcp { sequence: 0x1000_0000, push: false };
        Inner { transport, ..Inner::udp(source, destination, length) }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Inner)) -> Inner {
        change(&mut self);
        self
    }

    /// The wire packets that the kernel would cut this one into.
    pub(crate) fn cut(&self, size: usize) -> Vec<Inner> {
        let pieces = self.payload.chunks(size);
        let count = pieces.len();
        let piece = |(index, payload): (usize, &[u8])| {
            let transport = match self.transport {
                Transport::Tcp { sequence, push } => Transport::Tcp {
                    sequence: sequence.wrapping_add((index * size) as u32),
                    push: push && index + 1 == count,
                },
                other => other,
            };
            let id = self.id.wrapping_add(index as u16);
            Inner { transport, id, payload: payload.to_vec(), ..self.clone() }
        };
        pieces.enumerate().map(piece).collect()
    }

    fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    fn ip_length(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    /// The whole packet with right checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut transport = match self.transport {
            Transport::Udp => self.udp_header(),
            Transport::Tcp { .. } | Transport::Syn { .. } => self.tcp_header(),
        };
        let mut bytes = self.ip_header(transport.len() + self.payload.len());
        bytes.append(&mut transport);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// As the device gives it when the checksum is left to us, to be cut into `size` bytes each
    /// unless that is 0: virtio header, then the packet with the pseudo header's sum only.
    pub(crate) fn build_partial(&self, size: u16) -> (virtio::Header, Vec<u8>) {
        let mut bytes = self.build();
        let start = self.ip_length();
        let (gso, offset) = match (self.transport, self.is_v4()) {
            (Transport::Udp, _) => (Gso::Udp, 6),
            (_, true) => (Gso::TcpV4, 16),
            (_, false) => (Gso::TcpV6, 16),
        };
        let length = (bytes.len() - start) as u32;
        let protocol = if self.transport == Transport::Udp { 17 } else { 6 };
        let partial = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => weft_forward::checksum::pseudo_v4(
                source.octets(),
                destination.octets(),
                protocol,
                length as u16,
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => weft_forward::checksum::pseudo_v6(
                source.octets(),
                destination.octets(),
                protocol,
                length,
            ),
            _ => unreachable!("both addresses are of one family"),
        };
        bytes[start + offset..start + offset + 2].copy_from_slice(&partial.to_be_bytes());
        let header = virtio::Header {
            gso: if size == 0 { Gso::None } else { gso },
            needs_checksum: true,
            segment_size: size,
            header_length: (bytes.len() - self.payload.len()) as u16,
            checksum_start: start as u16,
            checksum_offset: offset as u16,
            ..virtio::Header::NONE
        };
        (header, bytes)
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        let protocol = if self.transport == Transport::Udp { IpNumber::UDP } else { IpNumber::TCP };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header =
                    Ipv4Header::new(payload as u16, self.hop_limit, protocol, source, destination)
                        .unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    payload_length: payload as u16,
                    next_header: protocol,
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                header.to_bytes().to_vec()
            }
            _ => unreachable!("both addresses are of one family"),
        }
    }

    fn udp_header(&self) -> Vec<u8> {
        let payload = &self.payload;
        let header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let ip = Ipv4Header::new(0, 1, IpNumber::UDP, source, destination).unwrap();
                UdpHeader::with_ipv4_checksum(self.source_port, 5201, &ip, payload).unwrap()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let ip = Ipv6Header { source, destination, ..Ipv6Header::default() };
                UdpHeader::with_ipv6_checksum(self.source_port, 5201, &ip, payload).unwrap()
            }
            _ => unreachable!("both addresses are of one family"),
        };
        header.to_bytes().to_vec()
    }

    fn tcp_header(&self) -> Vec<u8> {
        let mut header = TcpHeader::new(self.source_port, 5201, 0, 501);
        match self.transport {
            Transport::Tcp { sequence, push } => {
                header.sequence_number = sequence;
                header.acknowledgment_number = 77;
                (header.ack, header.psh) = (true, push);
            }
            Transport::Syn { mss } => {
                header.syn = true;
                header.set_options(&[TcpOptionElement::MaximumSegmentSize(mss)]).unwrap();
            }
            Transport::Udp => unreachable!("UDP has another header"),
        }
        let payload = &self.payload;
        header.checksum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                header.calc_checksum_ipv4_raw(source, destination, payload).unwrap()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                header.calc_checksum_ipv6_raw(source, destination, payload).unwrap()
            }
            _ => unreachable!("both addresses are of one family"),
        };
        header.to_bytes().to_vec()
    }
}
