//! By which device the kernel reaches peers. The programs of the shortcut always send by the one that they
//! were made for, so a peer that is reached elsewhere is sent nothing on it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use weft_sys::netlink::{Way, Ways};

/// What is known of peers, by where they are.
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: HashMap<Ipv4Addr, Option<Way>>,
    /// Where the next look begins among all.
    next: usize,
}

impl Routes {
    /// Whether a peer was found to be reached by that device, with that source.
    pub(super) fn lead_to(&self, peer: SocketAddrV4, by: Way) -> bool {
        self.known.get(peer.ip()) == Some(&Some(by))
    }

    /// The device that peers are reached by with that source: `before` as long as it is one.
    pub(super) fn device(&self, source: Ipv4Addr, before: u32) -> u32 {
        let ways = self.known.values().flatten().filter(|way| way.source == source);
        let devices: HashSet<u32> = ways.map(|way| way.device).collect();
        let other = devices.iter().min().copied();
        if devices.contains(&before) { before } else { other.unwrap_or(before) }
    }

    /// Looks at all of whom nothing is known, and at `most` others, those first that were looked at last.
    /// Forgets those that are no more.
    pub(super) fn look(&mut self, peers: &[Ipv4Addr], most: usize) -> io::Result<()> {
        let all: HashSet<&Ipv4Addr> = peers.iter().collect();
        self.known.retain(|peer, _| all.contains(peer));
        let mut ways = Ways::new()?;
        for peer in peers {
            if !self.known.contains_key(peer) {
                self.known.insert(*peer, ways.find(*peer)?);
            }
        }
        let from = self.next.checked_rem(peers.len()).unwrap_or(0);
        let again = most.min(peers.len());
        for peer in peers.iter().cycle().skip(from).take(again) {
            self.known.insert(*peer, ways.find(*peer)?);
        }
        self.next = from + again;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn peer(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, host)
    }

    fn way(device: u32) -> Way {
        Way { device, source: LOCAL }
    }

    fn routes(known: &[(u8, Option<Way>)]) -> Routes {
        let known = known.iter().map(|(host, way)| (peer(*host), *way)).collect();
        Routes { known, next: 0 }
    }

    #[test]
    fn only_by_this_device_with_this_source_is_a_peer_reached() {
        let other = Way { device: 3, source: peer(9) };
        let routes = routes(&[(2, Some(way(3))), (3, Some(way(4))), (4, None), (5, Some(other))]);
        let leads = |host| routes.lead_to(SocketAddrV4::new(peer(host), 8285), way(3));
        assert_eq!([2, 3, 4, 5, 6].map(leads), [true, false, false, false, false]);
    }

    #[test]
    fn the_device_stays_as_long_as_a_peer_is_reached_by_it() {
        let moved = routes(&[(2, Some(way(7))), (3, Some(way(5))), (4, None)]);
        assert_eq!([5, 7, 3].map(|before| moved.device(LOCAL, before)), [5, 7, 5]);
        assert_eq!(moved.device(peer(9), 3), 3, "nobody is reached with that source");
        assert_eq!(Routes::default().device(LOCAL, 3), 3);
    }

    #[test]
    fn all_are_looked_at_in_turn_and_those_gone_are_forgotten() {
        let mut found = routes(&[]);
        let peers: Vec<_> = (1..=5).map(peer).collect();
        found.look(&peers, 0).unwrap();
        assert_eq!(found.known.len(), 5, "all new ones at once");
        // No such device: whoever was looked at has another way, or none.
        let wrong = Some(way(4_000_000));
        let after: [Vec<bool>; 2] = [3, 3].map(|most| {
            found.known.extend(peers.iter().map(|peer| (*peer, wrong)));
            found.look(&peers, most).unwrap();
            peers.iter().map(|peer| found.known[peer] != wrong).collect()
        });
        assert_eq!(after[0], [true, true, true, false, false]);
        assert_eq!(after[1], [true, false, false, true, true], "those that come next");
        found.look(&peers[..2], 0).unwrap();
        assert_eq!(found.known.len(), 2);
    }
}
