//! The network config: flannel's JSON, its decoding rules, defaults and validation.
//!
//! ```json
//! {"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"udp","Port":8285}}
//! ```
//!
//! Everything that is wrong is reported at once. Which mistakes are worth waiting for and which end
//! the start follows flanneld: an invalid document may still be corrected by an operator, so the
//! caller retries; a backend type that this program does not have ends it
//! ([`ConfigError::is_fatal`]).

mod backend;
mod paths;
mod range;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::json::{self, Fields, Object, Value};
use crate::lease::Leaf;

pub use backend::{
    Backend, PORT_DEFAULT, SOURCE_PORTS_MAX, Sealing, SealingMode, UdpBackend, VXLAN_PORT_DEFAULT,
    VxlanBackend,
};
pub use paths::PathKind;
pub use range::SubnetRange;

use range::Wish;

/// A network config that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// IPv4 subnets, when `EnableIPv4`.
    pub v4: Option<SubnetRange>,
    /// IPv6 subnets, when `EnableIPv6`.
    pub v6: Option<SubnetRange>,
    /// `EnableNFTables`.
    pub nftables: bool,
    /// `Backend`: how packets travel between the nodes.
    pub backend: Backend,
}

/// Why a network config cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The document breaks one or more rules; every one is listed. Worth retrying.
    #[error("The network config is invalid: {}", .mistakes.join("; "))]
    Invalid {
        /// One sentence part each.
        mistakes: Vec<String>,
    },
    /// Neither address family is on.
    #[error(
        "The network config turns off both IPv4 and IPv6. Set EnableIPv4 or EnableIPv6 to true"
    )]
    NoFamily,
    /// `Backend` is there but names no type.
    #[error(
        "The network config has a Backend without a Type. Add \"Type\": \"udp\", \"vxlan\" or \
         \"host-gw\", or leave Backend out, which means udp"
    )]
    BackendTypeMissing,
    /// A backend that flannel has and this program has not.
    #[error("weft does not have flannel's backend type {kind:?}. {instead}")]
    BackendNotHere {
        /// The type, in lower case.
        kind: String,
        /// The way out.
        instead: &'static str,
    },
    /// A backend that nobody has.
    #[error("The backend type {kind:?} is unknown. Use \"udp\", \"vxlan\" or \"host-gw\"")]
    BackendUnknown {
        /// The type, in lower case.
        kind: String,
    },
}

impl ConfigError {
    /// Whether the start ends with this, instead of waiting for a corrected config.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Invalid { .. })
    }
}

/// Who decides which subnet a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subnets {
    /// Nodes take them, of one length and within bounds.
    Taken,
    /// Somebody else gives them; `SubnetLen` and its kin say nothing, as with flanneld's Kubernetes
    /// source.
    Given,
}

impl NetworkConfig {
    /// Parses and checks a document for nodes that take their subnets.
    ///
    /// # Errors
    /// Every mistake at once in [`ConfigError::Invalid`]; only a document without such mistakes is
    /// looked at for the fatal kinds.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_for(document, Subnets::Taken)
    }

    /// Parses and checks a document.
    ///
    /// # Errors
    /// As with [`NetworkConfig::parse`].
    pub fn parse_for(document: &[u8], subnets: Subnets) -> Result<Self, ConfigError> {
        let mut mistakes = Vec::new();
        let object = top_level(document)?;
        let general = General::read(&object, subnets, &mut mistakes);
        let v4 = general.v4.resolve(&mut mistakes);
        let v6 = general.v6.resolve(&mut mistakes);
        let backend = backend::read(object.last("Backend"), &mut mistakes);
        if !mistakes.is_empty() {
            return Err(ConfigError::Invalid { mistakes });
        }
        if v4.is_none() && v6.is_none() {
            return Err(ConfigError::NoFamily);
        }
        Ok(Self { v4, v6, nftables: general.nftables, backend: backend? })
    }

    /// Who decides which subnet a node has.
    #[must_use]
    pub fn subnets(&self) -> Subnets {
        match [&self.v4, &self.v6].into_iter().flatten().any(SubnetRange::is_given) {
            true => Subnets::Given,
            false => Subnets::Taken,
        }
    }

    /// The IPv4 network, if IPv4 is on.
    #[must_use]
    pub fn network_v4(&self) -> Option<Ipv4Net> {
        match self.v4.as_ref().map(SubnetRange::network) {
            Some(IpNet::V4(network)) => Some(network),
            _ => None,
        }
    }

    /// The IPv6 network, if IPv6 is on.
    #[must_use]
    pub fn network_v6(&self) -> Option<Ipv6Net> {
        match self.v6.as_ref().map(SubnetRange::network) {
            Some(IpNet::V6(network)) => Some(network),
            _ => None,
        }
    }

    /// Whether these subnets are among those that are given out.
    pub(crate) fn would_give(&self, leaf: &Leaf) -> bool {
        let fits = |range: &Option<SubnetRange>, net: Option<IpNet>| match (range, net) {
            (Some(range), Some(net)) => range.allows(net),
            (None, None) => true,
            _ => false,
        };
        fits(&self.v4, leaf.v4.map(IpNet::V4)) && fits(&self.v6, leaf.v6.map(IpNet::V6))
    }

    /// What of these subnets this network is for. A node may be given one of a family that is off here.
    pub(crate) fn part_of(&self, leaf: Leaf) -> Leaf {
        match self.subnets() {
            Subnets::Taken => leaf,
            Subnets::Given => {
                Leaf { v4: self.v4.as_ref().and(leaf.v4), v6: self.v6.as_ref().and(leaf.v6) }
            }
        }
    }

    /// The networks of the families that are on, IPv4 first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        [&self.v4, &self.v6].into_iter().flatten().map(SubnetRange::network)
    }
}

fn top_level(document: &[u8]) -> Result<Object, ConfigError> {
    let invalid = |text: String| ConfigError::Invalid { mistakes: vec![text] };
    match json::parse(document) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Ok(Object::default()),
        Ok(other) => Err(invalid(format!("it is {}, expected a JSON object", other.kind()))),
        Err(error) => Err(invalid(format!("it is not JSON ({error})"))),
    }
}

/// The keys outside `Backend`, decoded but not yet checked against each other.
struct General {
    v4: Wish,
    v6: Wish,
    nftables: bool,
}

impl General {
    fn read(object: &Object, subnets: Subnets, mistakes: &mut Vec<String>) -> Self {
        let given = subnets == Subnets::Given;
        let v4 = Wish {
            on: Fields::new(object, "", mistakes).boolean("EnableIPv4").unwrap_or(true),
            names: ["Network", "SubnetLen", "SubnetMin", "SubnetMax"],
            network: network(object, "Network", parse_network_v4, mistakes),
            length: Fields::new(object, "", mistakes).unsigned("SubnetLen").unwrap_or(0),
            min: address(object, "SubnetMin", parse_address_v4, mistakes),
            max: address(object, "SubnetMax", parse_address_v4, mistakes),
            given,
            broken: false,
        };
        let v6 = Wish {
            on: Fields::new(object, "", mistakes).boolean("EnableIPv6").unwrap_or(false),
            names: ["IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax"],
            network: network(object, "IPv6Network", parse_network_v6, mistakes),
            length: Fields::new(object, "", mistakes).unsigned("IPv6SubnetLen").unwrap_or(0),
            min: address(object, "IPv6SubnetMin", parse_address_v6, mistakes),
            max: address(object, "IPv6SubnetMax", parse_address_v6, mistakes),
            given,
            broken: false,
        };
        let nftables = Fields::new(object, "", mistakes).boolean("EnableNFTables").unwrap_or(false);
        // A key that is there but unreadable has been reported already; "must be set" would mislead.
        let broken = |wish: &Wish| wish.network.is_none() && object.last(wish.names[0]).is_some();
        let (v4, v6) = (Wish { broken: broken(&v4), ..v4 }, Wish { broken: broken(&v6), ..v6 });
        Self { v4, v6, nftables }
    }
}

fn parse_network_v4(text: &str) -> Result<IpNet, &'static str> {
    let net: Ipv4Net = text.parse().map_err(|_| "is not an IPv4 network like 10.5.0.0/16")?;
    Ok(net.trunc().into())
}

fn parse_network_v6(text: &str) -> Result<IpNet, &'static str> {
    let net: Ipv6Net = text.parse().map_err(|_| "is not an IPv6 network like fc00::/48")?;
    Ok(net.trunc().into())
}

fn parse_address_v4(text: &str) -> Result<IpAddr, &'static str> {
    let address: Ipv4Addr = text.parse().map_err(|_| "is not an IPv4 address like 10.5.1.0")?;
    Ok(address.into())
}

fn parse_address_v6(text: &str) -> Result<IpAddr, &'static str> {
    let address: Ipv6Addr = text.parse().map_err(|_| "is not an IPv6 address like fc00:0:0:1::")?;
    Ok(address.into())
}

/// `null` is a mistake here, unlike in the other fields: flanneld's network type parses it as text.
fn network(
    object: &Object,
    key: &'static str,
    parse: fn(&str) -> Result<IpNet, &'static str>,
    mistakes: &mut Vec<String>,
) -> Option<IpNet> {
    if object.all(key).any(|value| *value == Value::Null) {
        mistakes.push(format!("{key} is null, expected a network"));
    }
    convert(object, key, parse, mistakes)
}

fn address(
    object: &Object,
    key: &'static str,
    parse: fn(&str) -> Result<IpAddr, &'static str>,
    mistakes: &mut Vec<String>,
) -> Option<IpAddr> {
    convert(object, key, parse, mistakes)
}

fn convert<T>(
    object: &Object,
    key: &'static str,
    parse: fn(&str) -> Result<T, &'static str>,
    mistakes: &mut Vec<String>,
) -> Option<T> {
    let mut fields = Fields::new(object, "", mistakes);
    let text = fields.text(key)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(reason) => {
            fields.mistake(key, &format!("{text:?} {reason}"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
