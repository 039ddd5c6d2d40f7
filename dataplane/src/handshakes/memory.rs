//! What must not be forgotten between two starts: without it, a peer would refuse our handshakes after
//! our clock was set back, and we would take a peer's old ones.

use std::{collections::BTreeMap, io};

use weft_forward::table::PEERS_MAX;
use weft_seal::{keys::PublicKey, timestamp::Timestamp};

/// Stores a memory so that a crash at any moment leaves this one or the one before.
pub type Keep = Box<dyn FnMut(&Memory) -> io::Result<()> + Send>;

/// Time stamps are promised that far ahead, so that a handshake seldom waits for the disk. In seconds.
const MARGIN: u64 = 16;

/// Time stamps of us and of others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// None above this was sent.
    pub sent: Timestamp,
    /// The greatest of each peer, whoever is one now.
    pub seen: BTreeMap<PublicKey, Timestamp>,
}

impl Memory {
    /// Makes room for `sent`, if there is none, and returns whether the memory has to be kept before
    /// the stamp may be used.
    pub(super) fn promise(&mut self, sent: Timestamp) -> bool {
        let is_due = sent > self.sent;
        if is_due {
            self.sent = ahead(sent);
        }
        is_due
    }

    /// Takes note of a peer's greatest stamp, and returns whether that is news. Of more peers than there
    /// can be at once, those that are none now are forgotten.
    pub(super) fn see(&mut self, peer: PublicKey, greatest: Option<Timestamp>) -> bool {
        let Some(greatest) = greatest else { return false };
        let known = self.seen.get(&peer).is_some_and(|known| *known >= greatest);
        if !known {
            self.seen.insert(peer, greatest);
        }
        !known
    }

    /// Whether there are more than can be peers at once.
    pub(super) fn is_full(&self) -> bool {
        self.seen.len() > 2 * PEERS_MAX
    }
}

/// The stamp some seconds later.
fn ahead(stamp: Timestamp) -> Timestamp {
    let mut bytes = *stamp.bytes();
    let (seconds, _) = bytes.split_first_chunk_mut().expect("a stamp begins with its seconds");
    *seconds = u64::from_be_bytes(*seconds).saturating_add(MARGIN).to_be_bytes();
    Timestamp::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stamp(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    #[test]
    fn stamps_are_promised_ahead_and_seldom() {
        let mut memory = Memory::default();
        assert!(memory.promise(stamp(100)));
        assert_eq!(memory.sent, stamp(100 + MARGIN));
        assert!(!memory.promise(stamp(100 + MARGIN)));
        assert!(memory.promise(stamp(100 + MARGIN).next()));
        assert!(memory.sent > stamp(100 + 2 * MARGIN));
    }

    #[test]
    fn a_peers_stamp_never_goes_back() {
        let mut memory = Memory::default();
        let peer = PublicKey::new([1; 32]);
        assert!(!memory.see(peer, None));
        assert!(memory.see(peer, Some(stamp(5))));
        assert!(!memory.see(peer, Some(stamp(4))));
        assert_eq!(memory.seen.get(&peer), Some(&stamp(5)));
    }
}
