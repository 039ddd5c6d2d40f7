//! Stable numbers for peers, so that a worker can keep what it learnt about one in an array.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use weft_forward::table::PEERS_MAX;

use crate::identity::Identity;
use crate::lease::Leaf;

/// What makes a peer the same peer: a subnet with another owner is another one.
type Key = (Leaf, Option<Identity>);

/// A number and the count of its uses. Together they are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u16,
    pub(super) generation: u32,
}

/// Hands out slots. The lowest free one first, because workers have arrays as long as the highest.
#[derive(Debug, Default)]
pub struct Slots {
    held: HashMap<Key, (Slot, SocketAddr)>,
    free: BTreeSet<u16>,
    /// Last generation of every number ever used.
    generations: Vec<u32>,
}

impl Slots {
    /// The slot of a peer: the one it has, or a free one. A peer that moved to another outer address
    /// gets a new generation, because what was learnt about the old path does not hold for the new.
    /// `None` if a table could not hold another one.
    pub(super) fn slot(&mut self, key: Key, outer: SocketAddr) -> Option<Slot> {
        if let Some((slot, known)) = self.held.get_mut(&key) {
            if *known != outer {
                *known = outer;
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
        self.held.insert(key, (slot, outer));
        Some(slot)
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

    fn outer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 8285).into()
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
