//! What is in a probe.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0–3 | `weft` |
//! | 4 | version, 1 |
//! | 5 | 1 request, 2 reply |
//! | 6 | path: 0 `udp`, 1 `vxlan`, 2 `host-gw` |
//! | 7 | a bit for each path that the sender would use towards the receiver |
//! | 8–11 | random number of the sender's start |
//! | 12–15 | the sender's count of messages to the receiver on this path |
//! | 16–23 | random number of the request, repeated in the reply |
//! | 24–27 | random number of the receiver's start, as far as the sender knows |
//! | 28–39 | for each path the highest count that came from the receiver |
//! | 40–47 | keyed hash of everything else |
//! | 48– | zeros, as many as the packet is to be large |
//!
//! Numbers have the network's byte order. A reply is never padded, so it is never longer than the
//! request. The hash is keyed with the identities of both nodes, the sender's first. Everybody who
//! may read leases knows these, so it keeps strangers and accidents out and is no more than hygiene.

use blake2::Blake2sMac;
use blake2::digest::consts::U8;
use blake2::digest::{FixedOutput, KeyInit, Update};

use crate::config::PathKind;
use crate::identity::Identity;

/// Bytes of a message without padding.
pub const LENGTH: usize = 48;

/// Where the hash begins.
const TAG_AT: usize = 40;
const MAGIC: &[u8; 4] = b"weft";
const VERSION: u8 = 1;

/// Whether an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is.
    Request,
    /// This is the answer.
    Reply,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether an answer is wanted.
    pub kind: Kind,
    /// The path that it travels on.
    pub path: PathKind,
    /// The paths that the sender would use towards the receiver, by their numbers.
    pub usable: [bool; PathKind::COUNT],
    /// Random number of the sender's start.
    pub session: u32,
    /// How many messages the sender has sent to the receiver on this path since then.
    pub sequence: u32,
    /// Random number of the request.
    pub nonce: u64,
    /// What came from the receiver.
    pub heard: Heard,
}

/// What a node has heard from another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Random number of the other's start; 0 if nothing was heard.
    pub session: u32,
    /// The highest sequence on each path, by the paths' numbers; 0 is none.
    pub sequences: [u32; PathKind::COUNT],
}

/// What the hash is keyed with, for messages in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// For messages of `sender` to `receiver`.
    #[must_use]
    pub fn new(sender: Identity, receiver: Identity) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&sender.to_bytes());
        key[16..].copy_from_slice(&receiver.to_bytes());
        Self(key)
    }

    /// Of everything but the hash itself. Padding is zeros, so its length stands for it.
    fn tag(&self, head: &[u8], length: usize) -> [u8; LENGTH - TAG_AT] {
        let mut state = <Blake2sMac<U8> as KeyInit>::new_from_slice(&self.0)
            .expect("BLAKE2s takes keys of 32 bytes (RFC 7693)");
        Update::update(&mut state, head);
        Update::update(&mut state, &(length as u64).to_be_bytes());
        state.finalize_fixed().into()
    }
}

impl Message {
    /// The bytes, padded to `length` if that is longer.
    #[must_use]
    pub fn emit(&self, key: &Key, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.max(LENGTH));
        bytes.extend_from_slice(MAGIC);
        let kind = if self.kind == Kind::Request { 1 } else { 2 };
        bytes.extend_from_slice(&[VERSION, kind, self.path.number(), self.usable_bits()]);
        bytes.extend_from_slice(&self.session.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.nonce.to_be_bytes());
        bytes.extend_from_slice(&self.heard.session.to_be_bytes());
        for sequence in self.heard.sequences {
            bytes.extend_from_slice(&sequence.to_be_bytes());
        }
        debug_assert_eq!(bytes.len(), TAG_AT);
        let tag = key.tag(&bytes, length.max(LENGTH));
        bytes.extend_from_slice(&tag);
        bytes.resize(length.max(LENGTH), 0);
        bytes
    }

    /// Reads exactly what [`Message::emit`] writes with the same key. Everything else is `None`.
    #[must_use]
    pub fn parse(bytes: &[u8], key: &Key) -> Option<Self> {
        let (head, padding) = bytes.split_first_chunk::<LENGTH>()?;
        let [b'w', b'e', b'f', b't', VERSION, kind, path, usable, ..] = head else { return None };
        let kind = match kind {
            1 => Kind::Request,
            2 if padding.is_empty() => Kind::Reply,
            _ => return None,
        };
        let path = PathKind::from_number(*path)?;
        if *usable >> PathKind::COUNT != 0 || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        if key.tag(&head[..TAG_AT], bytes.len()) != head[TAG_AT..] {
            return None;
        }
        Some(Self {
            kind,
            path,
            usable: std::array::from_fn(|number| usable & (1 << number) != 0),
            session: number(head, 8),
            sequence: number(head, 12),
            nonce: u64::from(number(head, 16)) << 32 | u64::from(number(head, 20)),
            heard: Heard {
                session: number(head, 24),
                sequences: std::array::from_fn(|path| number(head, 28 + 4 * path)),
            },
        })
    }

    fn usable_bits(&self) -> u8 {
        let bits = self.usable.iter().enumerate();
        bits.fold(0, |all, (number, usable)| all | u8::from(*usable) << number)
    }
}

fn number(head: &[u8; LENGTH], at: usize) -> u32 {
    let bytes = head[at..].first_chunk().expect("every number is inside of the head");
    u32::from_be_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (Key, Key) {
        let [one, other] = [1, 2].map(|last| format!("{last:032x}").parse().unwrap());
        (Key::new(one, other), Key::new(other, one))
    }

    fn message() -> Message {
        Message {
            kind: Kind::Request,
            path: PathKind::Vxlan,
            usable: [true, false, true],
            session: 0x0102_0304,
            sequence: 5,
            nonce: 0x1112_1314_1516_1718,
            heard: Heard { session: 0x2122_2324, sequences: [1, 2, 0xffff_ffff] },
        }
    }

    #[test]
    fn it_has_these_bytes_and_is_read_back() {
        let (key, _) = keys();
        let bytes = message().emit(&key, 0);
        let head = [
            b'w', b'e', b'f', b't', 1, 1, 1, 0b101, 1, 2, 3, 4, 0, 0, 0, 5, 0x11, 0x12, 0x13, 0x14,
            0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff,
            0xff, 0xff,
        ];
        assert_eq!(bytes[..TAG_AT], head);
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(Message::parse(&bytes, &key), Some(message()));
        let long = message().emit(&key, 1000);
        assert_eq!(long.len(), 1000);
        assert_eq!(Message::parse(&long, &key), Some(message()));
        let reply = Message { kind: Kind::Reply, ..message() };
        assert_eq!(Message::parse(&reply.emit(&key, 0), &key), Some(reply));
        assert_eq!(Message::parse(&reply.emit(&key, 49), &key), None, "a reply is never padded");
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let (key, back) = keys();
        let bytes = message().emit(&key, 60);
        assert_eq!(Message::parse(&bytes, &back), None, "what comes back is not believed");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(Message::parse(&changed, &key), None, "byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..length], &key), None, "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Message::parse(&longer, &key), None);
    }
}
