//! The alarm while sealing is offered and somebody has no key.

use tracing::{info, warn};

use crate::config::{NetworkConfig, SealingMode};
use crate::desired::Accepted;
use crate::status::{Concern, Status};

/// Hosts that are named. All are in the list of peers.
const NAMED_MAX: usize = 3;

/// Raises the alarm, or ends it.
pub(super) fn tell(status: &mut Status, config: &NetworkConfig, peers: &[Accepted]) {
    let problem = problem(config, peers);
    let before = status.concern(Concern::Unsealed);
    match (before, &problem) {
        (before, Some(now)) if before != Some(now) => warn!("{now}"),
        (Some(_), None) => info!("all hosts have keys; EncryptionMode may be set to require"),
        _ => {}
    }
    status.set(Concern::Unsealed, problem.as_slice());
}

fn problem(config: &NetworkConfig, peers: &[Accepted]) -> Option<String> {
    config.backend.sealing().filter(|sealing| sealing.mode == SealingMode::Offer)?;
    let without = || peers.iter().filter(|peer| peer.lease.attributes.key().is_none());
    let count = without().count();
    if count == 0 {
        return None;
    }
    let named: Vec<String> = without().take(NAMED_MAX).map(|peer| peer.leaf.to_string()).collect();
    let more = if count > NAMED_MAX { " and others" } else { "" };
    Some(format!(
        "Traffic with {count} of {} hosts is not sealed, because their leases ({}{more}) say no key. \
         Restart weft there with the present network config, and when all have keys, set \
         EncryptionMode to \"require\"",
        peers.len(),
        named.join(", ")
    ))
}
