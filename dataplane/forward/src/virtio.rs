//! The header in front of every packet on the TUN device: `struct virtio_net_hdr` of
//! `include/uapi/linux/virtio_net.h`, in native byte order, which is what a device has unless told
//! otherwise (`TUNSETVNETLE`, `TUNSETVNETBE`).

use crate::drops::DropReason;

/// Length of the header in bytes.
pub const LENGTH: usize = 10;

const FLAG_NEEDS_CHECKSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The type is a bit field: this bit says that the first segment may carry CWR.
const GSO_ECN: u8 = 0x80;

/// What the packet is to be cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gso {
    /// Nothing: it is one packet.
    None,
    /// TCP segments in IPv4.
    TcpV4,
    /// TCP segments in IPv6.
    TcpV6,
    /// UDP datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`), not IP fragments.
    Udp,
}

/// The decoded header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the packet is to be cut into.
    pub gso: Gso,
    /// The first TCP segment may carry CWR; the others must not.
    pub ecn: bool,
    /// The checksum field holds the pseudo header's sum only.
    pub needs_checksum: bool,
    /// The writer vouches for the checksum.
    pub checksum_valid: bool,
    /// Length of IP and transport header in bytes; a hint.
    pub header_length: u16,
    /// Payload bytes of every segment but the last.
    pub segment_size: u16,
    /// Where the summed bytes start, in bytes from the start of the packet.
    pub checksum_start: u16,
    /// Where the checksum is stored, in bytes from `checksum_start`.
    pub checksum_offset: u16,
}

impl Header {
    /// One complete packet that needs nothing.
    pub const NONE: Self = Self {
        gso: Gso::None,
        ecn: false,
        needs_checksum: false,
        checksum_valid: false,
        header_length: 0,
        segment_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Decodes the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`DropReason::BadVirtioHeader`] if `bytes` is too short or names a segmentation that we did not
    /// ask the device for.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let Some(&[flags, kind, rest @ ..]) = bytes.first_chunk::<LENGTH>() else {
            return Err(DropReason::BadVirtioHeader);
        };
        let gso = match kind & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP_V4 => Gso::TcpV4,
            GSO_TCP_V6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return Err(DropReason::BadVirtioHeader),
        };
        let [h0, h1, s0, s1, c0, c1, o0, o1] = rest;
        Ok(Self {
            gso,
            ecn: kind & GSO_ECN != 0,
            needs_checksum: flags & FLAG_NEEDS_CHECKSUM != 0,
            checksum_valid: flags & FLAG_DATA_VALID != 0,
            header_length: u16::from_ne_bytes([h0, h1]),
            segment_size: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// Encodes the header over all of `out`.
    #[inline]
    pub fn write(&self, out: &mut [u8; LENGTH]) {
        let needs = if self.needs_checksum { FLAG_NEEDS_CHECKSUM } else { 0 };
        let valid = if self.checksum_valid { FLAG_DATA_VALID } else { 0 };
        let ecn = if self.ecn { GSO_ECN } else { 0 };
        let kind = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCP_V4,
            Gso::TcpV6 => GSO_TCP_V6,
            Gso::Udp => GSO_UDP_L4,
        };
        let [h0, h1] = self.header_length.to_ne_bytes();
        let [s0, s1] = self.segment_size.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        *out = [needs | valid, kind | ecn, h0, h1, s0, s1, c0, c1, o0, o1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        gso: Gso::TcpV6,
        ecn: true,
        needs_checksum: true,
        checksum_valid: false,
        header_length: 0x0102,
        segment_size: 0x0304,
        checksum_start: 0x0506,
        checksum_offset: 0x0708,
    };
    const BYTES: [u8; LENGTH] = [1, 0x84, 2, 1, 4, 3, 6, 5, 8, 7];

    #[test]
    fn golden_bytes() {
        let mut out = [0xa5; LENGTH];
        HEADER.write(&mut out);
        assert_eq!(out, BYTES);
        assert_eq!(Header::parse(&BYTES), Ok(HEADER));
        Header::NONE.write(&mut out);
        assert_eq!(out, [0; LENGTH]);
        assert_eq!(Header::parse(&out), Ok(Header::NONE));
    }

    #[test]
    fn every_truncation() {
        for length in 0..LENGTH {
            assert_eq!(Header::parse(&BYTES[..length]), Err(DropReason::BadVirtioHeader));
        }
    }

    #[test]
    fn every_kind() {
        for kind in 0..=255 {
            let known = [
                (GSO_NONE, Gso::None),
                (GSO_TCP_V4, Gso::TcpV4),
                (GSO_TCP_V6, Gso::TcpV6),
                (GSO_UDP_L4, Gso::Udp),
            ];
            let expected = known.iter().find(|(value, _)| *value == kind & !GSO_ECN);
            let parsed = Header::parse(&[2, kind, 0, 0, 0, 0, 0, 0, 0, 0]);
            match expected {
                None => assert_eq!(parsed, Err(DropReason::BadVirtioHeader)),
                Some((_, gso)) => {
                    let ecn = kind & GSO_ECN != 0;
                    assert_eq!(
                        parsed,
                        Ok(Header { gso: *gso, ecn, checksum_valid: true, ..Header::NONE })
                    );
                }
            }
        }
    }
}
