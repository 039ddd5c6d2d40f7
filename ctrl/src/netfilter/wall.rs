//! Where traffic is sealed: nothing of the network comes in past the tunnel, and nothing leaves past it.
//!
//! In: a chain in a table of our own drops what arrives with an address of the network, except from the
//! tunnel, from this host itself, and from our own pods by the interface that leads to them. It sees
//! packets before connection tracking, so that all are judged by their addresses on the wire. Out: while
//! there is no tunnel, the last of all routes to the network says that it is unreachable.
//!
//! Both stay when the daemon ends in any way. They are removed when a config no longer seals, and by
//! [`uninstall`](super::uninstall).

use std::fmt::Write;

use ipnet::IpNet;
use tracing::info;

use super::command::CommandError;
use super::keep::unless_missing;
use super::nft::OwnChain;
use super::refusal::Refusal;
use super::{Family, Overlay, Wanted};
use crate::controller::DEVICE_NAME;
use crate::interface::reader::Netlink;

const CHAIN: OwnChain =
    OwnChain { name: "wall", hook: "type filter hook prerouting priority raw; policy accept;" };

const REFUSAL: Refusal = Refusal::NoTunnel;

/// Why nothing can be sealed on this host.
#[derive(Debug, thiserror::Error)]
pub enum WallError {
    /// The chain is not there.
    #[error(
        "The network config demands that traffic is sealed, but packets past the tunnel cannot be \
         dropped: {0}. Install nftables, and run as root or with CAP_NET_ADMIN on a kernel with \
         nf_tables and its fib expression"
    )]
    Chain(#[source] CommandError),
    /// The route is not there.
    #[error(
        "The network config demands that traffic is sealed, but the route that keeps it from leaving \
         past the tunnel cannot be made: {0}"
    )]
    Route(String),
}

/// Puts up what keeps unsealed packets out and in before anything else of this host is touched. Which
/// pods are its own is not known yet, so there are none; but what an earlier daemon has put up for the
/// same networks stays, because of the pods that it has left.
///
/// # Errors
/// It cannot be had.
pub(crate) async fn raise(networks: &[IpNet]) -> Result<(), WallError> {
    keep_routes(networks).await.map_err(WallError::Route)?;
    let there = CHAIN.rules().await.map_err(WallError::Chain)?;
    let is_there =
        |rules: &Vec<String>| networks.iter().flat_map(drops).all(|rule| rules.contains(&rule));
    if there.as_ref().is_some_and(is_there) {
        return Ok(());
    }
    let rules: Vec<String> = ways_in().chain(networks.iter().flat_map(drops)).collect();
    CHAIN.fill(&rules).await.map_err(WallError::Chain)
}

/// How many packets were dropped since the chain was filled last. `None` if there is no chain.
pub(super) async fn dropped() -> Option<u64> {
    CHAIN.counts().await.ok()
}

/// Puts up what keeps unsealed packets out and in.
///
/// # Errors
/// It cannot be had.
pub(crate) async fn establish(wanted: &Wanted) -> Result<(), WallError> {
    keep(wanted).await.map(drop)
}

/// Brings everything into order, and returns whether something had to be changed.
pub(super) async fn keep(wanted: &Wanted) -> Result<bool, WallError> {
    if !wanted.sealed {
        return remove().await;
    }
    let networks: Vec<IpNet> = wanted.overlays.iter().map(|overlay| overlay.network).collect();
    let routed = keep_routes(&networks).await.map_err(WallError::Route)?;
    let chain = CHAIN.keep(Some(&rules(&wanted.overlays))).await.map_err(WallError::Chain)?;
    Ok(routed || chain)
}

/// Takes both down; returns whether one was there.
pub(super) async fn remove() -> Result<bool, WallError> {
    let chain = unless_missing(CHAIN.keep(None).await).map_err(WallError::Chain)? == Some(true);
    let routes = keep_routes(&[]).await.map_err(WallError::Route)?;
    if chain || routes {
        info!("traffic is not sealed any more; what kept unsealed packets out is removed");
    }
    Ok(chain || routes)
}

/// The lines that [`keep`] would give to `nft`.
pub(super) async fn preview(wanted: &Wanted) -> Result<Vec<String>, CommandError> {
    if wanted.sealed {
        return CHAIN.preview(Some(&rules(&wanted.overlays))).await;
    }
    Ok(unless_missing(CHAIN.preview(None).await)?.unwrap_or_default())
}

/// As `nft` lists them.
fn rules(overlays: &[Overlay]) -> Vec<String> {
    let own = |overlay: &Overlay| {
        let Overlay { network, subnet, .. } = overlay;
        let accept =
            format!("{} saddr {subnet} fib saddr . iif oif != 0 accept", Family::of(network).nft());
        [accept].into_iter().chain(drops(network))
    };
    ways_in().chain(overlays.iter().flat_map(own)).collect()
}

fn ways_in() -> impl Iterator<Item = String> {
    [DEVICE_NAME, "lo"].into_iter().map(|name| format!("iifname \"{name}\" accept"))
}

fn drops(network: &IpNet) -> impl Iterator<Item = String> + use<> {
    let (family, network) = (Family::of(network).nft(), *network);
    ["saddr", "daddr"]
        .into_iter()
        .map(move |side| format!("{family} {side} {network} counter drop"))
}

/// Adds the routes that are missing and removes those of ours to other networks; returns whether there
/// was anything to do.
async fn keep_routes(wanted: &[IpNet]) -> Result<bool, String> {
    let sentence = |error: &dyn std::error::Error| error.to_string();
    let netlink = Netlink::open().map_err(|error| sentence(&error))?;
    let routes = netlink.routes().await.map_err(|error| sentence(&error))?;
    let there: Vec<IpNet> = routes
        .iter()
        .filter(|route| REFUSAL.has_made(route))
        .map(|route| route.destination)
        .collect();
    let mut problems = String::new();
    for network in wanted.iter().filter(|network| !there.contains(network)) {
        if let Err(error) = netlink.handle().route().add(REFUSAL.message(*network)).execute().await
        {
            write!(problems, "{network}: {error} ").expect("memory takes all writes");
        }
    }
    for network in there.iter().filter(|network| !wanted.contains(network)) {
        if let Err(error) = netlink.handle().route().del(REFUSAL.message(*network)).execute().await
        {
            write!(problems, "{network}: {error} ").expect("memory takes all writes");
        }
    }
    if problems.is_empty() { Ok(there != wanted) } else { Err(problems.trim_end().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_pods_may_come_in_beside_the_tunnel() {
        let overlay = |network: &str, subnet: &str| Overlay {
            network: network.parse().unwrap(),
            subnet: subnet.parse().unwrap(),
            fixed_source: false,
        };
        let overlays =
            [overlay("10.5.0.0/16", "10.5.1.0/24"), overlay("fd00::/48", "fd00:0:0:1::/64")];
        assert_eq!(
            rules(&overlays),
            [
                r#"iifname "flannel0" accept"#,
                r#"iifname "lo" accept"#,
                "ip saddr 10.5.1.0/24 fib saddr . iif oif != 0 accept",
                "ip saddr 10.5.0.0/16 counter drop",
                "ip daddr 10.5.0.0/16 counter drop",
                "ip6 saddr fd00:0:0:1::/64 fib saddr . iif oif != 0 accept",
                "ip6 saddr fd00::/48 counter drop",
                "ip6 daddr fd00::/48 counter drop",
            ]
        );
    }
}
