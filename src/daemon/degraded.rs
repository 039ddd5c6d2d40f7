//! What the kernel could do for us and does not: each said once in the log, and shown in `status`.
//! Packets flow all the same. What is refused later, to one peer, is an event of the worker.

use tracing::{info, warn};
use weft_dataplane::WorkerInfo;

use crate::options::Without;

/// A help of the kernel that is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Degraded {
    /// Its name, as `--without` knows it.
    pub(super) name: &'static str,
    /// What comes of it.
    consequence: &'static str,
}

/// Everything that is missing.
pub(super) fn degraded(info: &WorkerInfo) -> Vec<Degraded> {
    let joins = info.joins_datagrams.iter().all(|joins| *joins);
    let all = [
        (info.offloads.checksum, "tun-csum", "the kernel finishes every checksum"),
        (info.offloads.tso, "tun-tso", "the kernel cuts TCP into small packets before the device"),
        (info.offloads.uso, "tun-uso", "the kernel cuts UDP into small packets before the device"),
        (info.segments_max > 1, "udp-gso", "every datagram is sent by itself"),
        (joins, "udp-gro", "every datagram is received by itself"),
    ];
    let missing = all.into_iter().filter(|(is_there, ..)| !is_there);
    missing.map(|(_, name, consequence)| Degraded { name, consequence }).collect()
}

/// One line for each that is missing; a warning unless it was asked for.
pub(super) fn log(info: &WorkerInfo, without: Without) {
    for Degraded { name, consequence } in degraded(info) {
        if is_asked_for(name, without) {
            info!(feature = name, "not used, as asked: {consequence}");
        } else {
            warn!(feature = name, "the kernel does not have it, which costs speed: {consequence}");
        }
    }
}

fn is_asked_for(name: &str, without: Without) -> bool {
    match name {
        "tun-csum" => without.tun.checksum,
        "tun-tso" => without.tun.checksum || without.tun.tso,
        "tun-uso" => without.tun.checksum || without.tun.uso,
        "udp-gso" => without.udp_gso,
        _ => without.udp_gro,
    }
}
