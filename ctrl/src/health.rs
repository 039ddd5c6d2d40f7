//! Which way to a peer works: probes, what follows from them, and the choice. Pure: time and chance
//! are arguments, and datagrams are what is put in and what comes out.
//!
//! Every path between two nodes of ours carries small datagrams of its own, from the first address
//! of one subnet to the first address of the other, so that they meet what packets of pods meet.
//!
//! - [`message`]: what is in a datagram.
//! - [`path`]: what is known about one path to one peer.
//! - [`Prober`]: when to send what, over all peers and paths.
//! - [`choice`]: which path packets take.

pub mod choice;
pub mod message;
pub mod path;
mod prober;
#[cfg(test)]
mod tests;

pub use choice::{Candidate, Choice, Standing, choose};
pub use path::{Assessment, Direction, Verdict};
pub use prober::{Datagram, PROBES_PER_SECOND, Prober, TICK, Target};

use crate::config::PathKind;

/// The UDP ports, source and destination alike, that probes of each path have. By the source port
/// the kernel finds the table with the path's routes, on both sides; since both ports are one, so it
/// does when it looks for the way back of what arrived (`rp_filter`).
#[must_use]
pub fn port(path: PathKind) -> u16 {
    match path {
        PathKind::Udp => 18_285,
        PathKind::Vxlan => 18_286,
        PathKind::HostGw => 18_287,
    }
}
