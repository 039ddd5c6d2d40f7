//! Leases: the name that carries the subnet and the JSON value that says how to reach it, exactly
//! as flanneld reads and writes them.
//!
//! ```text
//! 10.5.34.0-24                      {"PublicIP":"192.168.1.5","PublicIPv6":null}
//! 10.12.13.0-24&fd00:12:13::-56     {"PublicIP":"192.168.1.5","PublicIPv6":"2001:db8::5"}
//! ```
//!
//! Our own facts follow flannel's keys as one more top-level key, [`Weft`], which flanneld skips.

mod check;
mod value;
pub mod vtep;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use regex::Regex;

pub use check::{Limits, Rejection};
pub(crate) use value::shortened;
pub use value::{Attributes, VALUE_BYTES_MAX, ValueError, WEFT_VERSION, Weft};

/// Longest IPv4 and IPv6 prefix lengths of a lease's name; a single address is not a subnet.
const LENGTH_MAX_V4: u8 = 31;
const LENGTH_MAX_V6: u8 = 127;

/// flanneld matches at the end of a key, wherever it starts.
static LEAF: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)-([0-9]+)(?:&([a-f0-9:]+)-([0-9]+))?$")
        .expect("the pattern is a constant")
});

/// The name of a lease: the subnet of each family. One name holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leaf {
    /// IPv4 subnet; `None` is written as `0.0.0.0-0`.
    pub v4: Option<Ipv4Net>,
    /// IPv6 subnet.
    pub v6: Option<Ipv6Net>,
}

/// The text does not name a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The name is not that of a lease, like 10.5.34.0-24 or 10.5.34.0-24&fd00:5:34::-64")]
pub struct LeafError;

impl Leaf {
    /// The subnets of the families that the lease has, IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.v4.map(IpNet::V4).into_iter().chain(self.v6.map(IpNet::V6))
    }

    /// Whether both have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.subnets().any(|own| {
            other.subnets().any(|net| own.contains(&net.addr()) || net.contains(&own.addr()))
        })
    }
}

impl FromStr for Leaf {
    type Err = LeafError;

    fn from_str(name: &str) -> Result<Self, LeafError> {
        let found = LEAF.captures(name).ok_or(LeafError)?;
        let text = |group| found.get(group).map(|part| part.as_str());
        let length = |group, max: u8| {
            let length = text(group).and_then(|text| text.parse().ok());
            length.filter(|length| *length <= max).ok_or(LeafError)
        };
        let address: Ipv4Addr = text(1).and_then(|text| text.parse().ok()).ok_or(LeafError)?;
        let v4 = Ipv4Net::new(address, length(2, LENGTH_MAX_V4)?).map_err(|_| LeafError)?;
        let v4 = Some(v4).filter(|net| !(address.is_unspecified() && net.prefix_len() == 0));
        let v6 = match text(3) {
            None => None,
            Some(text) => {
                let address: Ipv6Addr = text.parse().map_err(|_| LeafError)?;
                // Written again it would have dots, and its end would read as an IPv4 subnet.
                if address.to_ipv4_mapped().is_some() {
                    return Err(LeafError);
                }
                let length = length(4, LENGTH_MAX_V6)?;
                Some(Ipv6Net::new(address, length).map_err(|_| LeafError)?)
            }
        };
        Ok(Self { v4, v6 })
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v4 {
            Some(net) => write!(formatter, "{}-{}", net.addr(), net.prefix_len())?,
            None => formatter.write_str("0.0.0.0-0")?,
        }
        match self.v6 {
            Some(net) => write!(formatter, "&{}-{}", net.addr(), net.prefix_len()),
            None => Ok(()),
        }
    }
}

/// A lease that could be read. It is not yet believed; see [`Limits::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Its subnets.
    pub leaf: Leaf,
    /// What its owner wrote.
    pub attributes: Attributes,
}

impl Lease {
    /// Reads a name and a value.
    ///
    /// # Errors
    /// [`Rejection::Name`] or [`Rejection::Value`].
    pub fn read(name: &str, value: &[u8]) -> Result<Self, Rejection> {
        let leaf = name.parse().map_err(|_| Rejection::Name)?;
        let attributes = Attributes::parse(value).map_err(Rejection::Value)?;
        Ok(Self { leaf, attributes })
    }
}

#[cfg(test)]
mod tests;
