//! With several paths: TCP handshakes name no larger segments than the path takes that the kernel
//! carries them on. On its own path the engine does so.
//!
//! Pods that have the MTU of the subnet file need none of this, so a host without `nft` goes without.

use tracing::{debug, info};

use super::command::CommandError;
use super::keep::unless_missing;
use super::nft::OwnChain;
use super::{Overlay, Wanted};

const CHAIN: OwnChain =
    OwnChain { name: "mss", hook: "type filter hook forward priority mangle; policy accept;" };

/// Brings the chain into order, or takes it away if it is not wanted.
pub(super) async fn keep(wanted: &Wanted) {
    let outcome = match wanted_rules(wanted) {
        Some(rules) => CHAIN.keep(Some(&rules)).await,
        None => unless_missing(CHAIN.keep(None).await).map(|done| done == Some(true)),
    };
    match outcome {
        Ok(true) => info!(wanted = wanted.is_clamped(), "the chain that clamps TCP has changed"),
        Ok(false) => {}
        Err(error) => debug!(%error, "TCP handshakes are not clamped on the kernel's paths"),
    }
}

/// The lines that [`keep`] would give to `nft`.
pub(super) async fn preview(wanted: &Wanted) -> Result<Vec<String>, CommandError> {
    let lines = unless_missing(CHAIN.preview(wanted_rules(wanted).as_deref()).await)?;
    Ok(lines.unwrap_or_default())
}

fn wanted_rules(wanted: &Wanted) -> Option<Vec<String>> {
    wanted.is_clamped().then(|| rules(&wanted.overlays))
}

/// As `nft` lists them. `rt mtu` is the smaller one of both ways, and never raises anything.
fn rules(overlays: &[Overlay]) -> Vec<String> {
    let both = |overlay: &Overlay| {
        let (family, network) = (overlay.family().nft(), overlay.network);
        ["saddr", "daddr"].map(|side| {
            format!("{family} {side} {network} tcp flags syn tcp option maxseg size set rt mtu")
        })
    };
    overlays.iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_clamped_in_both_directions() {
        let overlay = |network: &str, subnet: &str| {
            let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
            Overlay { network, subnet, fixed_source: true }
        };
        let overlays =
            [overlay("10.5.0.0/16", "10.5.1.0/24"), overlay("fd00::/48", "fd00:0:0:1::/64")];
        assert_eq!(
            rules(&overlays),
            [
                "ip saddr 10.5.0.0/16 tcp flags syn tcp option maxseg size set rt mtu",
                "ip daddr 10.5.0.0/16 tcp flags syn tcp option maxseg size set rt mtu",
                "ip6 saddr fd00::/48 tcp flags syn tcp option maxseg size set rt mtu",
                "ip6 daddr fd00::/48 tcp flags syn tcp option maxseg size set rt mtu",
            ]
        );
    }
}
