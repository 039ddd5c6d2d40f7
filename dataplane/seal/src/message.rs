//! The four messages on the wire, as the WireGuard paper has them in section 5.4: little-endian, three
//! reserved zero bytes behind the type.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::aead::TAG_LENGTH;
use crate::rejected::Rejected;
use crate::timestamp::Timestamp;

const KIND_INITIATION: u32 = 1;
const KIND_RESPONSE: u32 = 2;
const KIND_COOKIE_REPLY: u32 = 3;
const KIND_DATA: u32 = 4;

/// Length of mac1 and of mac2 in bytes.
pub(crate) const MAC_LENGTH: usize = 16;
const KEY_LENGTH: usize = 32;

/// Bytes in front of the sealed packet of a data message.
pub const DATA_HEADER_LENGTH: usize = size_of::<DataHeader>();

/// Bytes that a data message has besides its packet and the padding.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LENGTH + TAG_LENGTH;

/// The longest message of a handshake, in bytes.
pub const HANDSHAKE_LENGTH_MAX: usize = size_of::<Initiation>();

/// The first message of a handshake.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Initiation {
    kind: U32,
    pub(crate) sender: U32,
    pub(crate) ephemeral: [u8; KEY_LENGTH],
    pub(crate) sealed_static: [u8; KEY_LENGTH + TAG_LENGTH],
    pub(crate) sealed_timestamp: [u8; Timestamp::LENGTH + TAG_LENGTH],
    pub(crate) mac1: [u8; MAC_LENGTH],
    pub(crate) mac2: [u8; MAC_LENGTH],
}

/// The answer to an initiation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Response {
    kind: U32,
    pub(crate) sender: U32,
    pub(crate) receiver: U32,
    pub(crate) ephemeral: [u8; KEY_LENGTH],
    pub(crate) sealed_nothing: [u8; TAG_LENGTH],
    pub(crate) mac1: [u8; MAC_LENGTH],
    pub(crate) mac2: [u8; MAC_LENGTH],
}

/// The answer to a handshake message of a sender who is to prove its address first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CookieReply {
    kind: U32,
    pub(crate) receiver: U32,
    pub(crate) nonce: [u8; CookieReply::NONCE_LENGTH],
    pub(crate) sealed_cookie: [u8; MAC_LENGTH + TAG_LENGTH],
}

/// What stands in front of a sealed packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DataHeader {
    kind: U32,
    pub(crate) receiver: U32,
    pub(crate) counter: U64,
}

const _: () = assert!(size_of::<Initiation>() == 148);
const _: () = assert!(size_of::<Response>() == 92);
const _: () = assert!(size_of::<CookieReply>() == 64);
const _: () = assert!(size_of::<DataHeader>() == 16);

impl Initiation {
    /// An initiation with every other field zero.
    pub(crate) fn empty(sender: u32) -> Self {
        let mut message = Self::new_zeroed();
        message.kind = KIND_INITIATION.into();
        message.sender = sender.into();
        message
    }
}

impl Response {
    /// A response with every other field zero.
    pub(crate) fn empty(sender: u32, receiver: u32) -> Self {
        let mut message = Self::new_zeroed();
        message.kind = KIND_RESPONSE.into();
        message.sender = sender.into();
        message.receiver = receiver.into();
        message
    }
}

impl CookieReply {
    /// Length of the nonce (XChaCha20-Poly1305) in bytes.
    pub(crate) const NONCE_LENGTH: usize = 24;

    /// A cookie reply with every other field zero.
    pub(crate) fn empty(receiver: u32) -> Self {
        let mut message = Self::new_zeroed();
        message.kind = KIND_COOKIE_REPLY.into();
        message.receiver = receiver.into();
        message
    }
}

impl DataHeader {
    pub(crate) fn new(receiver: u32, counter: u64) -> Self {
        Self { kind: KIND_DATA.into(), receiver: receiver.into(), counter: counter.into() }
    }
}

/// A handshake message, which ends with two keyed hashes: mac1 of everything before it, and mac2 of
/// everything before that.
pub(crate) trait Guarded: IntoBytes + Immutable {
    /// The index that the sender gave itself.
    fn sender(&self) -> u32;
    fn macs(&mut self) -> (&mut [u8; MAC_LENGTH], &mut [u8; MAC_LENGTH]);

    /// What mac1 is made of.
    fn before_mac1(&self) -> &[u8] {
        let bytes = self.as_bytes();
        &bytes[..bytes.len() - 2 * MAC_LENGTH]
    }

    /// What mac2 is made of.
    fn before_mac2(&self) -> &[u8] {
        let bytes = self.as_bytes();
        &bytes[..bytes.len() - MAC_LENGTH]
    }

    fn mac1(&self) -> &[u8; MAC_LENGTH] {
        self.before_mac2().last_chunk().expect("a handshake message is longer than its macs")
    }

    fn mac2(&self) -> &[u8; MAC_LENGTH] {
        self.as_bytes().last_chunk().expect("a handshake message is longer than its macs")
    }
}

impl Guarded for Initiation {
    fn sender(&self) -> u32 {
        self.sender.get()
    }

    fn macs(&mut self) -> (&mut [u8; MAC_LENGTH], &mut [u8; MAC_LENGTH]) {
        (&mut self.mac1, &mut self.mac2)
    }
}

impl Guarded for Response {
    fn sender(&self) -> u32 {
        self.sender.get()
    }

    fn macs(&mut self) -> (&mut [u8; MAC_LENGTH], &mut [u8; MAC_LENGTH]) {
        (&mut self.mac1, &mut self.mac2)
    }
}

/// A datagram that has the form of a message. Nothing in it has been proved.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Type 1.
    Initiation(&'a Initiation),
    /// Type 2.
    Response(&'a Response),
    /// Type 3.
    CookieReply(&'a CookieReply),
    /// Type 4: the index of a session of ours, and the counter.
    Data {
        /// The index that the receiver gave its session.
        receiver: u32,
        /// The number of the message in its session.
        counter: u64,
    },
}

impl<'a> Message<'a> {
    /// Reads type and length, which have to fit to the byte; so do the reserved zeros.
    ///
    /// # Errors
    /// [`Rejected::Malformed`].
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Rejected> {
        let kind = datagram.first_chunk().map(|kind| u32::from_le_bytes(*kind));
        let message = match kind {
            Some(KIND_DATA) if datagram.len() >= DATA_OVERHEAD => {
                DataHeader::ref_from_prefix(datagram).ok().map(|(header, _)| Message::Data {
                    receiver: header.receiver.get(),
                    counter: header.counter.get(),
                })
            }
            Some(KIND_INITIATION) => {
                Initiation::ref_from_bytes(datagram).ok().map(Message::Initiation)
            }
            Some(KIND_RESPONSE) => Response::ref_from_bytes(datagram).ok().map(Message::Response),
            Some(KIND_COOKIE_REPLY) => {
                CookieReply::ref_from_bytes(datagram).ok().map(Message::CookieReply)
            }
            _ => None,
        };
        message.ok_or(Rejected::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(datagram: &[u8]) -> Option<u32> {
        match Message::parse(datagram) {
            Ok(Message::Initiation(_)) => Some(1),
            Ok(Message::Response(_)) => Some(2),
            Ok(Message::CookieReply(_)) => Some(3),
            Ok(Message::Data { .. }) => Some(4),
            Err(reason) => {
                assert_eq!(reason, Rejected::Malformed);
                None
            }
        }
    }

    #[test]
    fn every_length_of_every_type() {
        for kind in 0..=5_u8 {
            for length in 0..=200 {
                let mut datagram = vec![0xee; length];
                let prefix = length.min(4);
                datagram[..prefix].copy_from_slice(&[kind, 0, 0, 0][..prefix]);
                let is_message = match kind {
                    1 => length == 148,
                    2 => length == 92,
                    3 => length == 64,
                    4 => length >= 32,
                    _ => false,
                };
                assert_eq!(
                    parsed(&datagram),
                    is_message.then_some(u32::from(kind)),
                    "{kind} {length}"
                );
            }
        }
    }

    #[test]
    fn reserved_bytes_are_zero() {
        for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 48)] {
            for reserved in 1..4 {
                let mut datagram = vec![0; length];
                datagram[0] = kind;
                assert_eq!(parsed(&datagram), Some(u32::from(kind)));
                datagram[reserved] = 1;
                assert_eq!(parsed(&datagram), None);
            }
        }
    }

    /// Every field at the offset that the paper gives it.
    #[test]
    fn fields_lie_where_the_paper_has_them() {
        let mut initiation = Initiation::empty(0x0403_0201);
        initiation.ephemeral[0] = 8;
        initiation.sealed_static[0] = 40;
        initiation.sealed_timestamp[0] = 88;
        initiation.mac1[0] = 116;
        initiation.mac2[0] = 132;
        let bytes = initiation.as_bytes();
        assert_eq!(bytes[..8], [1, 0, 0, 0, 1, 2, 3, 4]);
        for offset in [8, 40, 88, 116, 132] {
            assert_eq!(usize::from(bytes[offset]), offset);
        }
        assert_eq!(initiation.before_mac1(), &bytes[..116]);
        assert_eq!(initiation.before_mac2(), &bytes[..132]);

        let mut response = Response::empty(0x0403_0201, 0x0807_0605);
        response.ephemeral[0] = 12;
        response.sealed_nothing[0] = 44;
        response.mac1[0] = 60;
        response.mac2[0] = 76;
        let bytes = response.as_bytes();
        assert_eq!(bytes[..12], [2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for offset in [12, 44, 60, 76] {
            assert_eq!(usize::from(bytes[offset]), offset);
        }

        let mut reply = CookieReply::empty(0x0403_0201);
        reply.nonce[0] = 8;
        reply.sealed_cookie[0] = 32;
        let bytes = reply.as_bytes();
        assert_eq!(bytes[..9], [3, 0, 0, 0, 1, 2, 3, 4, 8]);
        assert_eq!(bytes[32], 32);

        let header = DataHeader::new(0x0403_0201, 0x0c0b_0a09_0807_0605);
        assert_eq!(header.as_bytes(), &[4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }
}
