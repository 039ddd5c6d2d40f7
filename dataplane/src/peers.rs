//! What a worker knows of each peer beyond the table: where it sends, and what the path takes.

mod segmentation;

use std::net::{IpAddr, SocketAddr};

use weft_forward::table::{Peer, Table};
use weft_sys::udp::SockAddr;

pub(crate) use segmentation::Segmentation;

/// How long a lowered path MTU is believed, in milliseconds (RFC 1191 section 6.3).
const PATH_MTU_LIFETIME_MS: u64 = 10 * 60 * 1000;

/// Smallest path MTU believed, in inner bytes. A forged ICMP error makes the kernel believe no less
/// than 552 bytes (`net.ipv4.route.min_pmtu`) with the outer headers; were this floor above what the
/// kernel lets pass, one such error would end every connection.
const FLOOR: u16 = 552 - 28;

/// Smallest MTU that a peer can announce: every IPv4 host takes 576-byte packets (RFC 791).
const ANNOUNCED_MIN: u16 = 576;

/// What every IPv6 link takes (RFC 8200).
const FLOOR_V6: u16 = 1280;

/// A worker's state for one peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerState {
    /// The peer that this state belongs to, among those that had the slot.
    pub generation: u32,
    /// Where its datagrams go, for humans and for path look-ups.
    pub outer: SocketAddr,
    /// The same in kernel form.
    pub name: SockAddr,
    /// Where its lease says that it is.
    announced: SocketAddr,
    /// Whether it takes datagrams from a source port of this worker's own.
    pub source_ports: bool,
    /// Whether the kernel may cut trains to this peer.
    pub segmentation: Segmentation,
    /// The train of this turn that still takes segments.
    pub open: Option<u16>,
    /// Inner bytes that the path takes now.
    path_mtu: u16,
    /// Inner bytes that both devices take: the path MTU when nothing else is known.
    path_mtu_max: u16,
    path_mtu_expires_ms: u64,
}

impl PeerState {
    pub(crate) fn new(peer: &Peer, inner_mtu: u16) -> PeerState {
        let path_mtu_max =
            peer.mtu.map_or(inner_mtu, |mtu| mtu.clamp(ANNOUNCED_MIN.min(inner_mtu), inner_mtu));
        PeerState {
            generation: peer.generation,
            outer: peer.outer,
            name: SockAddr::from(peer.outer),
            announced: peer.outer,
            source_ports: peer.source_ports,
            segmentation: Segmentation::default(),
            open: None,
            path_mtu: path_mtu_max,
            path_mtu_max,
            path_mtu_expires_ms: u64::MAX,
        }
    }

    /// The peer is reached at `outer` now.
    #[inline]
    pub(crate) fn move_to(&mut self, outer: SocketAddr) {
        if self.outer != outer {
            self.outer = outer;
            self.name = SockAddr::from(outer);
            // What goes there is not cut to the old path, and what is open is not mixed with it.
            self.open = None;
        }
    }

    /// Inner bytes that one datagram to this peer can carry.
    #[inline]
    pub(crate) fn path_mtu(&mut self, now_ms: u64) -> usize {
        if now_ms >= self.path_mtu_expires_ms {
            self.path_mtu = self.path_mtu_max;
            self.path_mtu_expires_ms = u64::MAX;
        }
        usize::from(self.path_mtu)
    }

    /// Takes note that the path refused a packet of `refused` inner bytes; `known` is what the
    /// kernel believes that it takes. If that does not explain the refusal, half of the way to the
    /// floor is tried next. Returns the new path MTU.
    pub(crate) fn lower_path_mtu(
        &mut self,
        refused: usize,
        known: Option<usize>,
        now_ms: u64,
    ) -> u16 {
        let floor = FLOOR.min(self.path_mtu_max);
        let half_way = refused.saturating_sub(usize::from(floor)) / 2 + usize::from(floor);
        let inner = known.filter(|known| *known < refused).unwrap_or(half_way.min(refused - 1));
        let inner = u16::try_from(inner).unwrap_or(u16::MAX);
        self.path_mtu = inner.clamp(floor, self.path_mtu_max);
        self.path_mtu_expires_ms = now_ms.saturating_add(PATH_MTU_LIFETIME_MS);
        self.path_mtu
    }

    /// The peer's device takes another size than it did.
    fn limit_path_mtu(&mut self, max: u16) {
        let lowered = self.path_mtu < self.path_mtu_max;
        self.path_mtu = if lowered { self.path_mtu.min(max) } else { max };
        self.path_mtu_max = max;
    }

    /// The number of the socket to send from, where `locals` are the addresses of all sockets, with
    /// those of the worker's own source port last. The peer keeps together what comes from one port. Where
    /// it is heard elsewhere than its lease says, addresses are translated on the way, by somebody who
    /// lets in only what comes from the port that the peer itself sends to.
    #[inline]
    pub(crate) fn socket(&self, locals: &[IpAddr]) -> Option<usize> {
        let same_family = |local: &IpAddr| local.is_ipv4() == self.outer.is_ipv4();
        if self.source_ports && self.outer == self.announced {
            locals.iter().rposition(same_family)
        } else {
            locals.iter().position(same_family)
        }
    }

    /// Bytes of the outer headers in front of a datagram to this peer.
    pub(crate) fn outer_headers(&self) -> usize {
        if self.outer.is_ipv4() { 28 } else { 48 }
    }
}

/// The MTU to name in an ICMP error about a packet of `family`: IPv6 must not hear less than
/// its minimum.
pub(crate) fn advertised_mtu(source: IpAddr, path_mtu: usize) -> u16 {
    let mtu = u16::try_from(path_mtu).unwrap_or(u16::MAX);
    if source.is_ipv6() { mtu.max(FLOOR_V6) } else { mtu }
}

/// The states of all slots of a table, made by the control side.
#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<Option<PeerState>>);

impl Peers {
    /// Fresh states for every peer of `table`.
    pub(crate) fn new(table: &Table, inner_mtu: u16) -> Peers {
        let mut states = vec![None; table.slots()];
        for peer in table.peers() {
            states[usize::from(peer.slot)] = Some(PeerState::new(peer, inner_mtu));
        }
        Peers(states)
    }

    /// Takes over what `old` had learned of the peers that are still the same.
    pub(crate) fn inherit(&mut self, old: &mut Peers) {
        for (new, old) in self.0.iter_mut().zip(&mut old.0) {
            if let (Some(new), Some(old)) = (new, old)
                && new.generation == old.generation
                && new.announced == old.announced
            {
                std::mem::swap(new, old);
                new.limit_path_mtu(old.path_mtu_max);
                new.source_ports = old.source_ports;
            }
        }
    }

    /// The state in `slot`.
    #[inline]
    pub(crate) fn state(&mut self, slot: u16) -> Option<&mut PeerState> {
        self.0.get_mut(usize::from(slot))?.as_mut()
    }

    /// The state in `slot` if the peer is still that of `generation`.
    pub(crate) fn same(&mut self, slot: u16, generation: u32) -> Option<&mut PeerState> {
        self.state(slot).filter(|state| state.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use weft_forward::table::TableInput;

    use super::*;

    fn peers(mtu: u16) -> Peers {
        let peer = Peer {
            slot: 0,
            generation: 1,
            outer: ([192, 0, 2, 1], 8285).into(),
            subnet_v4: Some("10.5.2.0/24".parse().unwrap()),
            subnet_v6: None,
            addresses: vec![],
            inner_v6: false,
            source_ports: false,
            shortcut: false,
            mtu: Some(mtu),
        };
        let input = TableInput {
            network_v4: Some("10.5.0.0/16".parse().unwrap()),
            peers: vec![peer],
            ..TableInput::default()
        };
        Peers::new(&Table::new(input).unwrap(), 1472)
    }

    #[test]
    fn a_peer_that_is_elsewhere_hears_one_port_only() {
        let mut peers = peers(1472);
        let state = peers.state(0).unwrap();
        let locals = ["192.0.2.9", "2001:db8::9", "192.0.2.9"].map(|one| one.parse().unwrap());
        let lease = state.outer;
        for (source_ports, outer, socket) in [
            (false, lease, 0),
            (true, lease, 2),
            (true, ([192, 0, 2, 1], 31000).into(), 0),
            (true, "[2001:db8::1]:8285".parse().unwrap(), 1),
            (true, lease, 2),
        ] {
            state.source_ports = source_ports;
            state.move_to(outer);
            assert_eq!(state.socket(&locals), Some(socket), "{source_ports} {outer}");
        }
    }

    /// The path MTU after the peer's device changed its own, with what was learned before.
    fn path_mtu(before: u16, learned: Option<usize>, after: u16) -> [usize; 2] {
        let (mut old, mut new) = (peers(before), peers(after));
        if let Some(learned) = learned {
            old.state(0).unwrap().lower_path_mtu(learned + 1, Some(learned), 0);
        }
        new.inherit(&mut old);
        let state = new.state(0).unwrap();
        [state.path_mtu(1), state.path_mtu(PATH_MTU_LIFETIME_MS)]
    }

    #[test]
    fn what_was_learned_of_a_peer_that_is_elsewhere_outlives_a_table() {
        let (mut old, mut new) = (peers(1472), peers(1472));
        let state = old.state(0).unwrap();
        state.move_to(([192, 0, 2, 1], 31000).into());
        state.lower_path_mtu(1201, Some(1200), 0);
        let place = state.outer;
        new.inherit(&mut old);
        let state = new.state(0).unwrap();
        assert_eq!((state.outer, state.path_mtu(1)), (place, 1200));
    }

    #[test]
    fn a_peer_that_stays_may_change_its_mtu() {
        assert_eq!(path_mtu(1472, None, 1472), [1472, 1472]);
        assert_eq!(path_mtu(1472, None, 1300), [1300, 1300]);
        assert_eq!(path_mtu(1300, None, 1472), [1472, 1472]);
        assert_eq!(path_mtu(1472, Some(1200), 1300), [1200, 1300], "what was learned holds on");
        assert_eq!(path_mtu(1472, Some(1400), 1300), [1300, 1300]);
        assert_eq!(path_mtu(1300, Some(1200), 1472), [1200, 1472]);
    }
}
