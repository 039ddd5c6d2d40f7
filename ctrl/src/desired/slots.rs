//! Stable numbers for peers, so that a worker can keep what it learnt about one in an array.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use weft_forward::table::PEERS_MAX;

use crate::identity::Identity;
use crate::lease::Leaf;

/// What makes a peer the same peer: a subnet with another owner is another one.
type Key = (Leaf, Option<Identity>);

/// What a peer may change without being another one: where it is, and whether it has a key. Either makes
/// a new generation, since what was learnt about the old path does not hold for the new, and what waits
/// for a peer without a key must not leave once it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) outer: SocketAddr,
    pub(super) has_key: bool,
}

/// A number and the count of its uses. Together they are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u16,
    pub(super) generation: u32,
}

/// Hands out slots. The lowest free one first, because workers have arrays as long as the highest.
#[derive(Debug, Default)]
pub struct Slots {
    held: HashMap<Key, (Slot, Place)>,
    free: BTreeSet<u16>,
    /// Last generation of every number ever used.
    generations: Vec<u32>,
    /// Leases that have said a key, by their names in the source.
    keyed: HashSet<String>,
}

impl Slots {
    /// The slot of a peer: the one it has, or a free one, or the same with a new generation if it is in
    /// another [`Place`]. `None` if a table could not hold another one.
    pub(super) fn slot(&mut self, key: Key, place: Place) -> Option<Slot> {
        if let Some((slot, known)) = self.held.get_mut(&key) {
            if *known != place {
                *known = place;
                *slot = next_generation(&mut self.generations, slot.number);
            }
            return Some(*slot);
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.generations.len() < PEERS_MAX => {
                self.generations.push(0);
                u16::try_from(self.generations.len() - 1).expect("PEERS_MAX fits 16 bits")
            }
            None => return None,
        };
        let slot = next_generation(&mut self.generations, number);
        self.held.insert(key, (slot, place));
        Some(slot)
    }

    /// Takes note that the lease of this name says a key.
    pub(super) fn note_key(&mut self, name: &str) {
        if !self.keyed.contains(name) {
            self.keyed.insert(name.to_owned());
        }
    }

    /// Whether the lease of this name has ever said a key.
    pub(super) fn had_key(&self, name: &str) -> bool {
        self.keyed.contains(name)
    }

    /// Forgets the keys of leases that are no more.
    pub(super) fn forget_keys(&mut self, is_there: impl Fn(&str) -> bool) {
        self.keyed.retain(|name| is_there(name));
    }

    /// Frees the slots of all peers but these.
    pub(super) fn keep_only(&mut self, keys: &HashSet<Key>) {
        let free = &mut self.free;
        self.held.retain(|key, (slot, _)| {
            let stays = keys.contains(key);
            if !stays {
                free.insert(slot.number);
            }
            stays
        });
    }
}

fn next_generation(generations: &mut [u32], number: u16) -> Slot {
    let generation = &mut generations[usize::from(number)];
    *generation = generation.wrapping_add(1);
    Slot { number, generation: *generation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(subnet: u8) -> Key {
        (format!("10.5.{subnet}.0-24").parse().unwrap(), None)
    }

    fn outer(last: u8) -> Place {
        Place { outer: ([192, 0, 2, last], 8285).into(), has_key: false }
    }

    #[test]
    fn a_peer_keeps_its_slot_and_a_reused_slot_is_told_apart() {
        let mut slots = Slots::default();
        let first = slots.slot(key(1), outer(1)).unwrap();
        let second = slots.slot(key(2), outer(2)).unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        slots.keep_only(&HashSet::from([key(2)]));
        assert_eq!(slots.slot(key(2), outer(2)), Some(second));
        let third = slots.slot(key(3), outer(3)).unwrap();
        assert_eq!(third.number, first.number);
        assert!(third.generation > first.generation);
    }

    #[test]
    fn another_owner_or_address_is_not_the_same() {
        let mut slots = Slots::default();
        let first = slots.slot(key(1), outer(1)).unwrap();
        let moved = slots.slot(key(1), outer(2)).unwrap();
        assert_eq!(moved.number, first.number);
        assert!(moved.generation > first.generation);
        let keyed = slots.slot(key(1), Place { has_key: true, ..outer(2) }).unwrap();
        assert_eq!(keyed.number, first.number);
        assert!(keyed.generation > moved.generation);
        let owned = (key(1).0, Some(Identity::random()));
        assert_ne!(slots.slot(owned, outer(2)).unwrap().number, first.number);
    }

    #[test]
    fn slots_run_out_and_come_back() {
        let mut slots = Slots::default();
        let key = |number: u32| {
            let net = ipnet::Ipv4Net::new((number << 8).into(), 24).unwrap();
            (Leaf { v4: Some(net), v6: None }, None)
        };
        let most = u32::try_from(PEERS_MAX).unwrap();
        for number in 0..most {
            assert!(slots.slot(key(number + 1), outer(1)).is_some());
        }
        assert_eq!(slots.slot(key(most + 1), outer(1)), None);
        slots.keep_only(&(2..=most).map(key).collect());
        assert_eq!(slots.slot(key(most + 1), outer(1)).unwrap().number, 0);
    }
}
