//! What would be changed, changing nothing.

use super::command::CommandError;
use super::iptables::{self, Iptables};
use super::keep::unless_missing;
use super::nft::Nft;
use super::rules::{Family, Overlay};
use super::{Options, Wanted, clamp, wall};

/// The lines that a start would give to `iptables-restore` or `nft` for what is wanted: flannel's rules,
/// and the table that is only weft's. Rules of the other kind, which it takes away afterwards, are not
/// looked for. `past` is what rules of an earlier process were made from.
///
/// # Errors
/// The rules cannot be read.
pub(crate) async fn preview(
    options: &Options,
    wanted: &Wanted,
    past: &[Overlay],
) -> Result<Vec<String>, CommandError> {
    let mut lines = preview_own(wanted).await?;
    lines.extend(if wanted.nftables {
        preview_nft(options, wanted).await?
    } else {
        preview_iptables(options, wanted, past).await?
    });
    Ok(lines)
}

async fn preview_own(wanted: &Wanted) -> Result<Vec<String>, CommandError> {
    let (wall, clamp) = (wall::preview(wanted).await?, clamp::preview(wanted).await?);
    // The last chain takes the table along, so what goes stands before what comes.
    Ok(if wanted.sealed { [clamp, wall].concat() } else { [wall, clamp].concat() })
}

async fn preview_nft(options: &Options, wanted: &Wanted) -> Result<Vec<String>, CommandError> {
    let (places, mut nft, mut lines) = (options.places(), Nft::default(), Vec::new());
    for overlay in wanted.overlays.iter().filter(|_| !places.is_empty()) {
        lines.extend(nft.preview(overlay, &places, options.fully_random).await?);
    }
    Ok(lines)
}

async fn preview_iptables(
    options: &Options,
    wanted: &Wanted,
    past: &[Overlay],
) -> Result<Vec<String>, CommandError> {
    let (places, mut lines) = (options.places(), Vec::new());
    for family in Family::ALL {
        let all = wanted.overlays.iter().chain(past).copied();
        let ours: Vec<Overlay> = all.filter(|overlay| overlay.family() == family).collect();
        if ours.is_empty() {
            continue;
        }
        let overlay = wanted.overlay(family);
        let is_needed = overlay.is_some() && !places.is_empty();
        let wish = iptables::Wanted {
            overlay,
            places: &places,
            fully_random: options.fully_random,
            ours: &ours,
            keeps_others: true,
        };
        let outcome = Iptables::new(family).preview(&wish).await;
        // Where nothing is wanted, a missing program cannot have left anything either.
        lines.extend(if is_needed {
            outcome?
        } else {
            unless_missing(outcome)?.unwrap_or_default()
        });
    }
    Ok(lines)
}
