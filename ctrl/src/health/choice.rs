//! Which of the paths to a peer packets take.

use super::path::{Assessment, Verdict};
use crate::config::PathKind;

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// It cannot be used now, for this reason.
    Closed(&'static str),
    /// It is not probed, since there is no other.
    Alone,
    /// It is probed.
    Probed(Assessment),
}

/// A path that both nodes have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which one.
    pub path: PathKind,
    /// How it stands.
    pub standing: Standing,
}

/// What is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The path that packets take.
    pub path: PathKind,
    /// Why this one, in words.
    pub reason: String,
}

/// The smaller, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Both nodes find it good.
    Good,
    /// Small and large packets get through, with losses, or the peer does not find it good.
    Poor,
    /// Only small packets get through the engine, which tells senders so.
    NarrowEngine,
    NarrowKernel,
    /// Nothing is known for or against the engine, or nothing gets through anywhere.
    Engine,
    Dead,
    Closed,
}

/// Chooses among the paths that both nodes have, in the config's order. `None` if there are none.
#[must_use]
pub fn choose(candidates: &[Candidate]) -> Option<Choice> {
    let at = (0..candidates.len()).min_by_key(|at| (rank(candidates[*at]), *at))?;
    let chosen = candidates[at];
    let better: Vec<String> = (candidates[..at].iter())
        .map(|one| format!("{}: {}", one.path, objection(one.standing)))
        .collect();
    let mut reason = match (candidates.len(), better.is_empty()) {
        (1, _) => "it is the only path that both nodes have".to_owned(),
        (_, true) => "it is the first path that both nodes have".to_owned(),
        (_, false) => format!("better ones do not work: {}", better.join("; ")),
    };
    if rank(chosen) != Rank::Good && candidates.len() > 1 {
        reason = format!("{reason}; of it: {}", objection(chosen.standing));
    }
    Some(Choice { path: chosen.path, reason })
}

fn rank(candidate: Candidate) -> Rank {
    let is_engine = candidate.path == PathKind::Udp;
    let assessment = match candidate.standing {
        Standing::Closed(_) => return Rank::Closed,
        Standing::Alone => return Rank::Good,
        Standing::Probed(assessment) => assessment,
    };
    match assessment {
        one if one.is_good() && one.peer_uses => Rank::Good,
        one if one.is_up() && one.is_full => Rank::Poor,
        one if one.is_up() && one.mtu.is_some() && is_engine => Rank::NarrowEngine,
        one if one.is_up() && one.mtu.is_some() => Rank::NarrowKernel,
        _ if is_engine => Rank::Engine,
        _ => Rank::Dead,
    }
}

/// What keeps a path from being chosen, in words.
#[must_use]
pub fn objection(standing: Standing) -> String {
    let assessment = match standing {
        Standing::Closed(reason) => return reason.to_owned(),
        Standing::Alone => return "nothing".to_owned(),
        Standing::Probed(assessment) => assessment,
    };
    match assessment.verdict {
        Verdict::Unknown => "not known yet".to_owned(),
        Verdict::Down(direction) => direction.to_string(),
        Verdict::Proving => "works again, but not for long enough".to_owned(),
        _ if assessment.mtu.is_none() => "not known yet to take large packets".to_owned(),
        _ if !assessment.is_full => {
            format!("takes no packets above {} bytes", assessment.mtu.unwrap_or(0))
        }
        _ if assessment.is_lossy => format!("loses {:.0} %", assessment.loss * 100.0),
        _ if !assessment.peer_uses => "the peer does not find it good".to_owned(),
        _ => "nothing".to_owned(),
    }
}
