//! Finding a peer by an address: a direct index where the subnets allow it, else the longest prefix.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::{BitAnd, Shr, Sub};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Peer, Route};

/// Entries of a direct index: 2 MiB. Those of 65,536 subnets next to each other take 512 KiB, which
/// stays in a second-level cache.
const INDEX_MAX: usize = 1 << 18;

// One read finds the peer and says all that the way out needs.
const _: () = assert!(size_of::<Option<Route>>() == 8, "an entry is one word");

/// An address as a number.
pub(super) trait Word:
    Copy + Ord + BitAnd<Output = Self> + Sub<Output = Self> + Shr<u32, Output = Self>
{
    /// As an index, or `None` if it is too large for one.
    fn index(self) -> Option<usize>;
}

impl Word for u32 {
    #[inline]
    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl Word for u128 {
    #[inline]
    fn index(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

/// A subnet, ready to be compared with: `address & mask == base`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Prefix<W> {
    mask: W,
    base: W,
    /// Bits of the address behind the prefix.
    host_bits: u32,
}

impl<W: Word> Prefix<W> {
    /// Whether the address is in the subnet.
    #[inline]
    pub(super) fn contains(&self, address: W) -> bool {
        address & self.mask == self.base
    }
}

impl Prefix<u32> {
    /// A prefix that has no address.
    pub(super) const EMPTY_V4: Self = Self { mask: 0, base: 1, host_bits: 0 };
}

impl Prefix<u128> {
    /// A prefix that has no address.
    pub(super) const EMPTY_V6: Self = Self { mask: 0, base: 1, host_bits: 0 };
}

impl From<Ipv4Net> for Prefix<u32> {
    fn from(net: Ipv4Net) -> Self {
        let host_bits = 32 - u32::from(net.prefix_len());
        Self { mask: net.netmask().to_bits(), base: net.network().to_bits(), host_bits }
    }
}

impl From<Ipv6Net> for Prefix<u128> {
    fn from(net: Ipv6Net) -> Self {
        let host_bits = 128 - u32::from(net.prefix_len());
        Self { mask: net.netmask().to_bits(), base: net.network().to_bits(), host_bits }
    }
}

/// From an address to the peer that has it.
#[derive(Debug)]
pub(super) enum Lookup<W> {
    /// All subnets have one length and lie close together.
    Direct {
        /// The lowest subnet.
        base: W,
        /// Bits behind the prefix; less than the width of `W`.
        shift: u32,
        /// The peer, if the subnet is anybody's.
        entries: Vec<Option<Route>>,
    },
    /// Sorted by mask, longest first, then by base.
    Longest(Vec<(Prefix<W>, Route)>),
}

impl<W: Word> Lookup<W> {
    /// Builds the better of the two. If two subnets are the same, the error is one of their peers.
    pub(super) fn new(mut subnets: Vec<(Prefix<W>, Route)>) -> Result<Self, Route> {
        subnets.sort_unstable_by(|a, b| b.0.mask.cmp(&a.0.mask).then(a.0.base.cmp(&b.0.base)));
        if let Some(pair) = subnets.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(pair[1].1);
        }
        Ok(Self::direct(&subnets).unwrap_or(Self::Longest(subnets)))
    }

    /// The direct index for sorted subnets, if there can be one.
    fn direct(subnets: &[(Prefix<W>, Route)]) -> Option<Self> {
        let ((first, _), (last, _)) = (subnets.first()?, subnets.last()?);
        // Sorted by mask first: if the ends agree, all do.
        if first.mask != last.mask || first.host_bits as usize >= size_of::<W>() * 8 {
            return None;
        }
        let (base, shift) = (first.base, first.host_bits);
        let length = ((last.base - base) >> shift).index()?.checked_add(1)?;
        if length > INDEX_MAX {
            return None;
        }
        let mut entries = vec![None; length];
        for (prefix, route) in subnets {
            let index = ((prefix.base - base) >> shift).index()?;
            *entries.get_mut(index)? = Some(*route);
        }
        Some(Self::Direct { base, shift, entries })
    }

    /// The peer that has the address.
    #[inline]
    pub(super) fn find(&self, address: W) -> Option<Route> {
        match self {
            Self::Direct { base, shift, entries } => {
                if address < *base {
                    return None;
                }
                let index = ((address - *base) >> *shift).index()?;
                entries.get(index).copied().flatten()
            }
            Self::Longest(subnets) => longest(subnets, address),
        }
    }
}

/// One binary search for each prefix length, longest first.
fn longest<W: Word>(mut subnets: &[(Prefix<W>, Route)], address: W) -> Option<Route> {
    while let Some((first, _)) = subnets.first() {
        let end = subnets.partition_point(|(prefix, _)| prefix.mask >= first.mask);
        let (group, shorter) = subnets.split_at(end);
        let base = address & first.mask;
        if let Ok(found) = group.binary_search_by(|(prefix, _)| prefix.base.cmp(&base)) {
            return group.get(found).map(|(_, route)| *route);
        }
        subnets = shorter;
    }
    None
}

/// A set of single addresses.
#[derive(Debug)]
pub(super) struct Hosts {
    v4: Vec<u32>,
    v6: Vec<u128>,
}

impl Hosts {
    pub(super) fn new(addresses: &[IpAddr]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address.to_canonical() {
                IpAddr::V4(address) => v4.push(address.to_bits()),
                IpAddr::V6(address) => v6.push(address.to_bits()),
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4, v6 }
    }

    #[inline]
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.binary_search(&address.to_bits()).is_ok(),
            IpAddr::V6(address) => self.v6.binary_search(&address.to_bits()).is_ok(),
        }
    }
}

/// From an outer source address to the position of the peer that may send from it.
#[derive(Debug)]
pub(super) struct Senders {
    v4: Vec<(u32, u16)>,
    v6: Vec<(u128, u16)>,
}

impl Senders {
    pub(super) fn new(peers: &[Peer]) -> Self {
        let mut claims = Vec::new();
        for (position, peer) in (0..u16::MAX).zip(peers) {
            claims.push((peer.outer.ip().to_canonical(), false, position));
            let announced = peer.addresses.iter();
            claims.extend(announced.map(|address| (address.to_canonical(), true, position)));
        }
        // Announcing an address must not take it from the peer that is reached there.
        claims.sort_unstable();
        claims.dedup_by_key(|claim| claim.0);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, _, position) in claims {
            match address {
                IpAddr::V4(address) => v4.push((address.to_bits(), position)),
                IpAddr::V6(address) => v6.push((address.to_bits(), position)),
            }
        }
        Self { v4, v6 }
    }

    #[inline]
    pub(super) fn find(&self, address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(address) => find_sorted(&self.v4, address.to_bits()),
            IpAddr::V6(address) => find_sorted(&self.v6, address.to_bits()),
        }
    }
}

#[inline]
fn find_sorted<W: Ord + Copy>(sorted: &[(W, u16)], wanted: W) -> Option<u16> {
    let found = sorted.binary_search_by(|(address, _)| address.cmp(&wanted)).ok()?;
    sorted.get(found).map(|(_, position)| *position)
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn prefix(net: &str) -> Prefix<u32> {
        Prefix::from(net.parse::<Ipv4Net>().unwrap())
    }

    fn routes() -> impl Iterator<Item = Route> {
        (0..).map(|slot| Route { generation: 1, slot, inner_v6: false })
    }

    fn is_direct(nets: &[&str]) -> bool {
        let subnets = nets.iter().map(|net| prefix(net)).zip(routes()).collect();
        matches!(Lookup::new(subnets).unwrap(), Lookup::Direct { .. })
    }

    #[test]
    fn the_index_is_used_where_it_is_small() {
        assert!(is_direct(&["10.0.0.0/24", "10.255.255.0/24"]));
        assert!(is_direct(&["10.0.0.0/24", "13.255.255.0/24"]));
        assert!(!is_direct(&["10.0.0.0/24", "14.0.0.0/24"]));
        assert!(!is_direct(&["10.0.0.0/24", "10.0.1.0/25"]));
        assert!(!is_direct(&["0.0.0.0/0"]));
        assert!(is_direct(&["10.0.0.1/32"]));
        assert!(!is_direct(&[]));
    }

    proptest! {
        #[test]
        fn index_and_prefix_agree(bases in btree_set(0u32..1000, 1..50), probes: [u32; 32]) {
            let net = |index: u32| prefix(&std::format!("10.{}.{}.0/24", index >> 8, index & 255));
            let mut subnets: Vec<_> = bases.iter().map(|index| net(*index)).zip(routes()).collect();
            let direct = Lookup::new(subnets.clone()).unwrap();
            let is_direct = matches!(direct, Lookup::Direct { .. });
            prop_assert!(is_direct);
            subnets.sort_unstable_by_key(|(prefix, _)| prefix.base);
            let by_prefix = Lookup::Longest(subnets);
            for probe in probes {
                let address = 0x0a00_0000 + (probe & 0x7_ffff) - 0x1000;
                prop_assert_eq!(direct.find(address), by_prefix.find(address));
                prop_assert_eq!(direct.find(probe), by_prefix.find(probe));
            }
        }
    }
}
