//! Chains of other programs that drop forwarded packets, where accepting them in ours is of no help:
//! a packet has to pass every chain at its hook.

use super::Wanted;
use super::iptables::{Iptables, Place, legacy_filters};
use super::nft;
use super::rules::Overlay;

/// A sentence for each such chain.
pub(super) async fn find(wanted: &Wanted) -> Vec<String> {
    let mut sentences = Vec::new();
    for overlay in &wanted.overlays {
        sentences.extend(of_nft(overlay).await);
        sentences.extend(of_legacy(overlay).await);
    }
    sentences
}

/// Without nft, what it would show is not there, or cannot be known.
async fn of_nft(overlay: &Overlay) -> Vec<String> {
    let Ok(chains) = nft::chains().await else { return Vec::new() };
    let (family, network) = (overlay.family(), overlay.network);
    let mut sentences = Vec::new();
    for chain in chains.dropping(family, "forward", Place::Forward.chain()) {
        if nft::accepts(&chain.family, &chain.table, network).await.unwrap_or(false) {
            continue;
        }
        let name = format!("{} {} {}", chain.family, chain.table, chain.name);
        let remedy = if chain.name == Place::Forward.hook() {
            by_iptables(overlay)
        } else {
            let address = family.nft();
            format!("nft insert rule {name} {address} saddr {network} accept; and with daddr")
        };
        sentences.push(sentence(overlay, &format!("of nft \"{name}\""), &remedy));
    }
    sentences
}

async fn of_legacy(overlay: &Overlay) -> Option<String> {
    if !legacy_filters(overlay.family()) {
        return None;
    }
    let drops = Iptables::new(overlay.family()).drops(overlay.network).await;
    let is_dropped = drops.unwrap_or(false);
    is_dropped.then(|| sentence(overlay, "FORWARD of iptables", &by_iptables(overlay)))
}

fn by_iptables(overlay: &Overlay) -> String {
    let program = overlay.family().iptables();
    format!("{program} -I FORWARD -s {} -j ACCEPT; and with -d", overlay.network)
}

fn sentence(overlay: &Overlay, chain: &str, remedy: &str) -> String {
    format!(
        "Forwarded packets of {} may be dropped: the chain {chain} has the policy to drop, and \
         accepting them elsewhere does not help. Accept them there: {remedy}",
        overlay.network
    )
}
