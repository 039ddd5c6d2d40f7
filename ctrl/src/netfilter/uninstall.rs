//! Takes everything away.

use super::command::CommandError;
use super::iptables::{self, Iptables};
use super::keep::unless_missing;
use super::rules::Family;
use super::{blackhole, nft, wall};

/// Removes every rule of flannel's chains and tables, whatever network it is for, with what leads into
/// them, and the blackhole routes. Returns what was there and is gone, and a sentence for each
/// failure. A program that is missing has left nothing.
pub async fn uninstall() -> (Vec<String>, Vec<String>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    let mut note = |what: &str, outcome: Result<bool, CommandError>| match outcome {
        Ok(true) => removed.push(what.to_owned()),
        Ok(false) => {}
        Err(error) => failures.push(format!("{what} could not be removed: {error}")),
    };
    for (family, what) in [
        (Family::V4, "flannel's chains of iptables"),
        (Family::V6, "flannel's chains of ip6tables"),
    ] {
        note(what, remove_chains(family).await);
    }
    let tables = unless_missing(nft::remove(&Family::ALL).await);
    note("flannel's tables of nft", tables.map(|one| one == Some(true)));
    match wall::remove().await {
        Ok(true) => removed.push("what kept unsealed packets out".to_owned()),
        Ok(false) => {}
        Err(error) => failures.push(error.to_string()),
    }
    match unless_missing(nft::remove_own().await) {
        Ok(Some(true)) => removed.push("weft's table of nft".to_owned()),
        Ok(_) => {}
        Err(error) => failures.push(format!("weft's table of nft could not be removed: {error}")),
    }
    match blackhole::remove_all().await {
        Ok(subnets) => {
            removed.extend(subnets.iter().map(|subnet| format!("the blackhole route to {subnet}")));
        }
        Err(problem) => failures.push(problem),
    }
    (removed, failures)
}

async fn remove_chains(family: Family) -> Result<bool, CommandError> {
    let wanted = iptables::Wanted {
        overlay: None,
        places: &[],
        fully_random: false,
        ours: &[],
        keeps_others: false,
    };
    let Some(outcome) = unless_missing(Iptables::new(family).apply(&wanted).await)? else {
        return Ok(false);
    };
    let [masquerade, forward] = outcome;
    Ok(masquerade? | forward?)
}
