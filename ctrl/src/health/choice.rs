//! Which of the paths to a peer packets take.

use std::fmt;

use super::path::{Assessment, Direction, Verdict};
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
        .map(|one| format!("{}: {}", one.path, in_words(objection(one.standing))))
        .collect();
    let mut reason = match (candidates.len(), better.is_empty()) {
        (1, _) => "it is the only path that both nodes have".to_owned(),
        (_, true) => "it is the first path that both nodes have".to_owned(),
        (_, false) => format!("better ones do not work: {}", better.join("; ")),
    };
    if rank(chosen) != Rank::Good && candidates.len() > 1 {
        reason = format!("{reason}; of it: {}", in_words(objection(chosen.standing)));
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

/// What keeps a path from being chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objection {
    /// It cannot be used now, for this reason.
    Closed(&'static str),
    /// Nothing is known of it yet.
    Unknown,
    /// Nothing gets through.
    Dead(Direction),
    /// It works again, but not for long enough.
    Proving,
    /// It is not known yet to take large packets.
    Untried,
    /// It takes no packets above so many bytes.
    Narrow(usize),
    /// It loses this part of the packets.
    Lossy(f64),
    /// The peer does not find it good.
    Peer,
}

impl Objection {
    /// One word for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Unknown | Self::Untried => "unknown",
            Self::Dead(_) => "dead",
            Self::Proving => "proving",
            Self::Narrow(_) => "narrow",
            Self::Lossy(_) => "lossy",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => formatter.write_str(reason),
            Self::Unknown => formatter.write_str("not known yet"),
            Self::Dead(direction) => direction.fmt(formatter),
            Self::Proving => formatter.write_str("works again, but not for long enough"),
            Self::Untried => formatter.write_str("not known yet to take large packets"),
            Self::Narrow(mtu) => write!(formatter, "takes no packets above {mtu} bytes"),
            Self::Lossy(loss) => write!(formatter, "loses {:.0} %", loss * 100.0),
            Self::Peer => formatter.write_str("the peer does not find it good"),
        }
    }
}

/// What keeps a path from being chosen, if anything does.
#[must_use]
pub fn objection(standing: Standing) -> Option<Objection> {
    let assessment = match standing {
        Standing::Closed(reason) => return Some(Objection::Closed(reason)),
        Standing::Alone => return None,
        Standing::Probed(assessment) => assessment,
    };
    match (assessment.verdict, assessment.mtu) {
        (Verdict::Unknown, _) => Some(Objection::Unknown),
        (Verdict::Down(direction), _) => Some(Objection::Dead(direction)),
        (Verdict::Proving, _) => Some(Objection::Proving),
        (_, None) => Some(Objection::Untried),
        (_, Some(mtu)) if !assessment.is_full => Some(Objection::Narrow(mtu)),
        _ if assessment.is_lossy => Some(Objection::Lossy(assessment.loss)),
        _ if !assessment.peer_uses => Some(Objection::Peer),
        _ => None,
    }
}

/// The same in words, or `nothing`.
#[must_use]
pub fn in_words(objection: Option<Objection>) -> String {
    objection.map_or_else(|| "nothing".to_owned(), |one| one.to_string())
}
