//! Which subnets of a network may be leased, with flannel's defaults and limits.
//!
//! Both families share one arithmetic on `u128`; an IPv4 address is its low 32 bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The subnets of one family that a node may take: equal lengths, from `first` to `last`.
///
/// Only validation makes one, so `first <= last`, both are aligned to the length and inside the
/// network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetRange {
    network: IpNet,
    length: u8,
    first: IpAddr,
    last: IpAddr,
    given: bool,
}

impl SubnetRange {
    /// Whether somebody else gives the subnets. Then any length may be, and the bounds are those of the
    /// network.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// The whole network, host bits cleared.
    #[must_use]
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// Prefix length of every lease.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Address of the first subnet that may be leased.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Address of the last subnet that may be leased.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether `subnet` may be leased under this config: its length, alignment and place are right.
    #[must_use]
    pub fn allows(&self, subnet: IpNet) -> bool {
        let address = number(subnet.network());
        subnet.max_prefix_len() == self.network.max_prefix_len()
            && self.allows_length(subnet)
            && subnet.addr() == subnet.network()
            && (number(self.first)..=number(self.last)).contains(&address)
    }

    /// Whether a subnet may have this length. One that is given may be as large as the network.
    #[must_use]
    pub fn allows_length(&self, subnet: IpNet) -> bool {
        match self.given {
            true => subnet.prefix_len() >= self.network.prefix_len(),
            false => subnet.prefix_len() == self.length,
        }
    }

    /// How many subnets there are.
    #[must_use]
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)) / self.size() + 1
    }

    /// The subnet at `index`, counted from `first`; `None` beyond the last.
    #[must_use]
    pub fn nth(&self, index: u128) -> Option<IpNet> {
        if index >= self.count() {
            return None;
        }
        let address = address_like(self.network, number(self.first) + index * self.size());
        Some(IpNet::new(address, self.length).expect("the length was checked against the family"))
    }

    /// The indexes of the subnets that `net` overlaps, as (first, last); `None` if it overlaps none.
    #[must_use]
    pub fn overlapped(&self, net: IpNet) -> Option<(u128, u128)> {
        if net.max_prefix_len() != self.network.max_prefix_len() {
            return None;
        }
        let start = number(net.network()).max(number(self.first));
        let end = number(net.broadcast()).min(number(self.last) + (self.size() - 1));
        if start > end {
            return None;
        }
        let index = |address: u128| (address - number(self.first)) / self.size();
        Some((index(start), index(end)))
    }

    fn size(&self) -> u128 {
        size(self.network, self.length)
    }

    fn given(network: IpNet) -> Self {
        let (first, last) = (network.network(), network.broadcast());
        Self { network, length: network.max_prefix_len(), first, last, given: true }
    }
}

/// What the document says about one family, before the rules are applied.
pub(super) struct Wish {
    pub(super) on: bool,
    /// Key names for messages: network, length, min, max.
    pub(super) names: [&'static str; 4],
    pub(super) network: Option<IpNet>,
    /// 0 = compute.
    pub(super) length: u64,
    pub(super) min: Option<IpAddr>,
    pub(super) max: Option<IpAddr>,
    /// Somebody else gives the subnets, so length and bounds say nothing.
    pub(super) given: bool,
    /// The network key is there but unreadable; that was reported.
    pub(super) broken: bool,
}

impl Wish {
    /// Applies defaults and limits; `None` if the family is off or a mistake was added.
    pub(super) fn resolve(&self, mistakes: &mut Vec<String>) -> Option<SubnetRange> {
        if !self.on {
            return None;
        }
        let [network_name, ..] = self.names;
        let Some(network) = self.network else {
            if !self.broken {
                mistakes.push(format!("{network_name} must be set"));
            }
            return None;
        };
        if self.given {
            return Some(SubnetRange::given(network));
        }
        let length = match self.subnet_length(network) {
            Ok(length) => length,
            Err(mistake) => {
                mistakes.push(mistake);
                return None;
            }
        };
        self.bounds(network, length, mistakes)
    }

    /// The default leaves room for four subnets at least and prefers flannel's /24 and /64.
    fn subnet_length(&self, network: IpNet) -> Result<u8, String> {
        let [network_name, length_name, ..] = self.names;
        let (usual, longest) = if network.max_prefix_len() == 32 { (24, 30) } else { (64, 126) };
        let prefix = network.prefix_len();
        if self.length == 0 {
            return match prefix {
                _ if prefix > longest - 2 => Err(format!(
                    "{network_name} {network} is too small: its length must be at most {}",
                    longest - 2
                )),
                _ if prefix <= usual - 2 => Ok(usual),
                _ => Ok(prefix + 2),
            };
        }
        match u8::try_from(self.length) {
            Ok(length) if length > longest => {
                Err(format!("{length_name} {length} must be at most {longest}"))
            }
            Ok(length) if length < prefix + 2 => Err(format!(
                "{length_name} {length} must be at least {} for the network {network}, so that it \
                 holds four subnets",
                prefix + 2
            )),
            Ok(length) => Ok(length),
            Err(_) => Err(format!("{length_name} {} must be at most {longest}", self.length)),
        }
    }

    fn bounds(
        &self,
        network: IpNet,
        length: u8,
        mistakes: &mut Vec<String>,
    ) -> Option<SubnetRange> {
        let [_, _, min_name, max_name] = self.names;
        let size = size(network, length);
        let before = mistakes.len();
        let first =
            self.min.unwrap_or_else(|| address_like(network, number(network.network()) + size));
        let last = self
            .max
            .unwrap_or_else(|| address_like(network, number(network.broadcast()) & !(size - 1)));
        for (name, address) in [(min_name, first), (max_name, last)] {
            if !network.contains(&address) {
                mistakes.push(format!("{name} {address} is not inside the network {network}"));
            } else if !number(address).is_multiple_of(size) {
                mistakes.push(format!("{name} {address} is not on a /{length} boundary"));
            }
        }
        if mistakes.len() == before && number(first) > number(last) {
            mistakes.push(format!("{min_name} {first} is above {max_name} {last}"));
        }
        let range = SubnetRange { network, length, first, last, given: false };
        (mistakes.len() == before).then_some(range)
    }
}

/// Addresses in one subnet. The length is at least 2, so the shift stays below 128.
fn size(network: IpNet, length: u8) -> u128 {
    1 << (network.max_prefix_len() - length)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address_like(network: IpNet, number: u128) -> IpAddr {
    match network {
        IpNet::V4(_) => {
            let low = u32::try_from(number).expect("arithmetic stays inside the IPv4 network");
            Ipv4Addr::from_bits(low).into()
        }
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
