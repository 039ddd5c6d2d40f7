//! Taking a lease: which subnet, and how it is made ours.
//!
//! Order: our own lease if there is one, then the subnet that this host had before, then any free
//! one. Everything from listing to writing happens under the directory's lock; a claim is lost only
//! to programs that do not use it, and then tried again.

use rand::{Rng, RngExt};

use super::Record;
use super::directory::{Changed, Claim, Directory, DirectoryError};
use crate::config::{NetworkConfig, SubnetRange};
use crate::lease::{Attributes, Leaf, Lease};

use ipnet::IpNet;

/// A claim is lost only to a foreign program's claim of the same subnet in the same moment.
const TRIES_MAX: usize = 100;

/// What a node asks for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The config in force.
    pub config: &'a NetworkConfig,
    /// What the lease is to say, which includes who asks.
    pub attributes: &'a Attributes,
    /// The subnets that this host had before, from its subnet file.
    pub previous: Option<Leaf>,
}

/// How the lease came to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was ours already.
    Own,
    /// The subnet that this host had before was free.
    Previous,
    /// A free one.
    New,
}

/// A lease that is ours now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// Its subnets.
    pub leaf: Leaf,
    /// Its name in the source. Mostly that of `leaf`; a foreign program may have written another.
    pub name: String,
    /// How it came to be ours.
    pub origin: Origin,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The directory cannot be used.
    #[error("Could not take a lease")]
    Directory(#[from] DirectoryError),
    /// No subnet is left.
    #[error(
        "Out of subnets: no free /{length} is left from {first} to {last}. Remove leases of nodes \
         that are gone, or widen the range in the network config"
    )]
    OutOfSubnets {
        /// The configured length.
        length: u8,
        /// SubnetMin.
        first: std::net::IpAddr,
        /// SubnetMax.
        last: std::net::IpAddr,
    },
    /// Every claim was lost.
    #[error("{TRIES_MAX} claims were lost to others. Is another program filling the directory?")]
    AlwaysLost,
}

/// Takes a lease. Blocks for a few file operations.
///
/// # Errors
/// If there is no free subnet, or the directory cannot be used.
pub fn acquire(
    directory: &Directory,
    request: &Request<'_>,
    rng: &mut impl Rng,
) -> Result<Acquired, AcquireError> {
    let value = request.attributes.to_json();
    for _ in 0..TRIES_MAX {
        let lock = directory.lock()?;
        let choice = choose(&directory.list()?, request, rng)?;
        for name in &choice.remove {
            directory.remove(&lock, name, |value| request.owns(value))?;
        }
        let done = match choice.origin {
            Origin::Own => {
                let ours = |value: &[u8]| request.owns(value);
                directory.update(&lock, &choice.name, &value, ours)? == Changed::Done
            }
            _ => directory.claim(&choice.name, &value)? == Claim::Won,
        };
        if done {
            return Ok(Acquired { leaf: choice.leaf, name: choice.name, origin: choice.origin });
        }
    }
    Err(AcquireError::AlwaysLost)
}

impl Request<'_> {
    fn owns(&self, value: &[u8]) -> bool {
        is_owned(self.attributes, value)
    }

    /// Whether the config in force would hand out these subnets.
    fn is_compatible(&self, leaf: &Leaf) -> bool {
        let fits = |range: &Option<SubnetRange>, net: Option<IpNet>| match (range, net) {
            (Some(range), Some(net)) => range.allows(net),
            (None, None) => true,
            _ => false,
        };
        fits(&self.config.v4, leaf.v4.map(IpNet::V4))
            && fits(&self.config.v6, leaf.v6.map(IpNet::V6))
    }
}

/// Whether a stored value is that of the node which writes `own`. A lease belongs to whose identity it
/// carries; one without any, to who has its public address.
#[must_use]
pub fn is_owned(own: &Attributes, value: &[u8]) -> bool {
    Attributes::parse(value).is_ok_and(|attributes| belongs(own, &attributes))
}

fn belongs(own: &Attributes, stored: &Attributes) -> bool {
    match stored.identity() {
        Some(identity) => Some(identity) == own.identity(),
        None if own.public_ip.is_unspecified() => {
            own.public_ipv6.is_some() && stored.public_ipv6 == own.public_ipv6
        }
        None => stored.public_ip == own.public_ip,
    }
}

struct Choice {
    leaf: Leaf,
    /// The name in the source, which need not be the canonical one if a foreign program wrote it.
    name: String,
    origin: Origin,
    /// Leases of ours that the config no longer allows.
    remove: Vec<String>,
}

fn choose(
    records: &[Record],
    request: &Request<'_>,
    rng: &mut impl Rng,
) -> Result<Choice, AcquireError> {
    let read = |record: &Record| Some((record.name.clone(), read_lease(record)?));
    let leases: Vec<(String, Lease)> = records.iter().filter_map(read).collect();
    let (mut own, others): (Vec<_>, Vec<_>) =
        leases.into_iter().partition(|(_, lease)| belongs(request.attributes, &lease.attributes));
    // A lease with our identity is surer than one that merely has our address.
    own.sort_by_key(|(_, lease)| lease.attributes.identity().is_none());
    let (mut keep, remove): (Vec<_>, Vec<_>) =
        own.into_iter().partition(|(_, lease)| request.is_compatible(&lease.leaf));
    let remove: Vec<String> = remove.into_iter().map(|(name, _)| name).collect();
    if !keep.is_empty() {
        let (name, lease) = keep.swap_remove(0);
        return Ok(Choice { leaf: lease.leaf, name, origin: Origin::Own, remove });
    }
    // Names of unreadable leases are taken all the same: somebody may be using them.
    let taken: Vec<Leaf> = records
        .iter()
        .filter(|record| !remove.contains(&record.name))
        .filter_map(|record| record.name.parse().ok())
        .chain(others.into_iter().map(|(_, lease)| lease.leaf))
        .collect();
    let free = |leaf: &Leaf| !taken.iter().any(|other| other.overlaps(leaf));
    let previous = request.previous.filter(|leaf| request.is_compatible(leaf) && free(leaf));
    let (leaf, origin) = match previous {
        Some(leaf) => (leaf, Origin::Previous),
        None => (any_free(request.config, &taken, rng)?, Origin::New),
    };
    Ok(Choice { leaf, name: leaf.to_string(), origin, remove })
}

fn read_lease(record: &Record) -> Option<Lease> {
    Lease::read(&record.name, &record.value).ok()
}

fn any_free(
    config: &NetworkConfig,
    taken: &[Leaf],
    rng: &mut impl Rng,
) -> Result<Leaf, AcquireError> {
    let mut pick = |range: &Option<SubnetRange>| {
        let Some(range) = range else { return Ok(None) };
        let index = free_index(range, taken, rng).ok_or(AcquireError::OutOfSubnets {
            length: range.length(),
            first: range.first(),
            last: range.last(),
        })?;
        Ok::<_, AcquireError>(range.nth(index))
    };
    let v4 = pick(&config.v4)?.and_then(|net| match net {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    });
    let v6 = pick(&config.v6)?.and_then(|net| match net {
        IpNet::V6(net) => Some(net),
        IpNet::V4(_) => None,
    });
    Ok(Leaf { v4, v6 })
}

/// A uniformly chosen index among those that no lease overlaps. Only the leases are walked, because
/// an IPv6 network has more subnets than could be.
fn free_index(range: &SubnetRange, taken: &[Leaf], rng: &mut impl Rng) -> Option<u128> {
    let mut used: Vec<(u128, u128)> =
        taken.iter().flat_map(Leaf::subnets).filter_map(|net| range.overlapped(net)).collect();
    used.sort_unstable();
    used.dedup_by(|next, kept| {
        let joined = next.0 <= kept.1;
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
    let used_count: u128 = used.iter().map(|(first, last)| last - first + 1).sum();
    let free_count = range.count() - used_count;
    if free_count == 0 {
        return None;
    }
    let mut index = rng.random_range(0..free_count);
    for (first, last) in used {
        if index < first {
            break;
        }
        index += last - first + 1;
    }
    Some(index)
}

#[cfg(test)]
mod tests;
