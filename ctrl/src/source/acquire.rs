//! Taking a lease: which subnet, and how it is made ours.
//!
//! Order: our own lease if there is one, then the subnet that this host had before, then any free
//! one. Every write is refused by the source if somebody was faster, and then everything is looked at
//! again.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::sleep;
use tracing::{debug, info};

use super::{Record, Source, SourceError};
use crate::config::{NetworkConfig, SubnetRange, Subnets};
use crate::lease::{Attributes, Leaf, Lease};

use ipnet::IpNet;

/// Each lost claim is a claim won by somebody else, so this bounds how many nodes may start at once on
/// a network that has hardly more subnets.
const TRIES_MAX: u32 = 1000;

/// The longest pause after the first lost claim; it grows by itself with each one.
const RACE_PAUSE_MAX: Duration = Duration::from_millis(5);

/// The pause does not grow beyond so many times the first.
const RACE_GROWTH_MAX: u32 = 20;

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
    /// The source could not be asked; it was ours when it was seen last.
    Unconfirmed,
}

/// A lease that is ours now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// Its subnets.
    pub leaf: Leaf,
    /// As it is in the source. Its name mostly is that of `leaf`; a foreign program may have written
    /// another.
    pub record: Record,
    /// How it came to be ours.
    pub origin: Origin,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The source cannot be used.
    #[error("Could not take a lease")]
    Source(#[from] SourceError),
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
    /// The subnet that the node was given is none for this network.
    #[error(
        "This node was given {given}, which the network config does not allow. Network (and \
         IPv6Network, with EnableIPv6) must be what nodes get their pod CIDRs from: --cluster-cidr of \
         the controller manager, podSubnet of kubeadm"
    )]
    GivenElsewhere {
        /// The subnets.
        given: String,
    },
    /// Every claim was lost.
    #[error("{TRIES_MAX} claims were lost to others. Is another program filling the store?")]
    AlwaysLost,
}

/// Takes a lease. Lost races are run again, after pauses that grow a little and differ between nodes.
///
/// # Errors
/// If there is no free subnet, or the source cannot be used.
pub async fn acquire(source: &dyn Source, request: &Request<'_>) -> Result<Acquired, AcquireError> {
    let value = request.attributes.to_json();
    if source.subnets() == Subnets::Given {
        return accept(source, request, &value).await;
    }
    for tries in 0..TRIES_MAX {
        let choice = choose(&source.list().await?, request, &mut rand::rng())?;
        for record in &choice.remove {
            info!(lease = record.name, "an own lease that the config no longer allows is deleted");
            source.remove(record).await?;
        }
        let written = match &choice.seen {
            Some(seen) => source.replace(seen, &value).await?,
            None => source.create(&choice.leaf.to_string(), &value).await?,
        };
        if let Some(record) = written {
            return Ok(Acquired { leaf: choice.leaf, record, origin: choice.origin });
        }
        debug!(lease = %choice.leaf, "another node was faster");
        let most = RACE_PAUSE_MAX * (tries + 1).min(RACE_GROWTH_MAX);
        sleep(most.mul_f64(rand::rng().random())).await;
    }
    Err(AcquireError::AlwaysLost)
}

/// Writes the lease of the subnets that this node was given.
async fn accept(
    source: &dyn Source,
    request: &Request<'_>,
    value: &[u8],
) -> Result<Acquired, AcquireError> {
    for _ in 0..TRIES_MAX {
        let given = source.given().await?.expect("a source that gives subnets gives one");
        let leaf = request.part_of(&given)?;
        let written = match source.replace(&given, value).await? {
            Some(record) => Some(record),
            None => source.create(&given.name, value).await?,
        };
        if let Some(record) = written {
            return Ok(Acquired { leaf, record, origin: Origin::Own });
        }
    }
    Err(AcquireError::AlwaysLost)
}

impl Request<'_> {
    /// What of the subnets that were given this node uses.
    pub(crate) fn part_of(&self, given: &Record) -> Result<Leaf, AcquireError> {
        let leaf = given.name.parse().ok().map(|leaf| self.config.part_of(leaf));
        let elsewhere = || AcquireError::GivenElsewhere { given: given.name.clone() };
        leaf.filter(|leaf| self.is_compatible(leaf)).ok_or_else(elsewhere)
    }

    /// Whether the config in force would hand out these subnets.
    pub(crate) fn is_compatible(&self, leaf: &Leaf) -> bool {
        self.config.would_give(leaf)
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

/// What is to be taken.
pub(crate) struct Choice {
    pub(crate) leaf: Leaf,
    /// The lease of ours that is to be kept, if there is one.
    seen: Option<Record>,
    pub(crate) origin: Origin,
    /// Leases of ours that the config no longer allows.
    pub(crate) remove: Vec<Record>,
}

pub(crate) fn choose(
    records: &[Record],
    request: &Request<'_>,
    rng: &mut impl Rng,
) -> Result<Choice, AcquireError> {
    let read = |record| Some((record, read_lease(record)?));
    let leases: Vec<(&Record, Lease)> = records.iter().filter_map(read).collect();
    let (mut own, others): (Vec<_>, Vec<_>) =
        leases.into_iter().partition(|(_, lease)| belongs(request.attributes, &lease.attributes));
    // A lease with our identity is surer than one that merely has our address.
    own.sort_by_key(|(_, lease)| lease.attributes.identity().is_none());
    let (mut keep, remove): (Vec<_>, Vec<_>) =
        own.into_iter().partition(|(_, lease)| request.is_compatible(&lease.leaf));
    let remove: Vec<Record> = remove.into_iter().map(|(record, _)| record.clone()).collect();
    if !keep.is_empty() {
        let (record, lease) = keep.swap_remove(0);
        let seen = Some(record.clone());
        return Ok(Choice { leaf: lease.leaf, seen, origin: Origin::Own, remove });
    }
    // Names of unreadable leases are taken all the same: somebody may be using them.
    let taken: Vec<Leaf> = records
        .iter()
        .filter(|record| !remove.contains(record))
        .filter_map(|record| record.name.parse().ok())
        .chain(others.into_iter().map(|(_, lease)| lease.leaf))
        .collect();
    let free = |leaf: &Leaf| !taken.iter().any(|other| other.overlaps(leaf));
    let previous = request.previous.filter(|leaf| request.is_compatible(leaf) && free(leaf));
    let (leaf, origin) = match previous {
        Some(leaf) => (leaf, Origin::Previous),
        None => (any_free(request.config, &taken, rng)?, Origin::New),
    };
    Ok(Choice { leaf, seen: None, origin, remove })
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
