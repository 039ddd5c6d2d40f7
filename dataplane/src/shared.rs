//! What both directions of a worker use.

use std::{net::IpAddr, sync::Arc};

use crossbeam_channel::Sender;
use weft_forward::{
    checksum::Sum,
    counters::Counters,
    drops::DropReason,
    icmp::{self, Problem, RateLimit},
    packet::{self, Layout},
    table::Table,
};
use weft_sys::ring::Pools;

use crate::{peers::Peers, progress::Progress, worker::Event, writes::Writes};

/// ICMP errors a second, and at once. A sender needs one; more help nobody.
const ICMP_PER_SECOND: u32 = 200;
const ICMP_BURST: u32 = 50;

/// The state that outbound and inbound share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub table: Arc<Table>,
    pub peers: Peers,
    pub counters: Arc<Counters>,
    pub events: Sender<Event>,
    pub writes: Writes,
    pub sum: Sum,
    pub inner_mtu: u16,
    /// Addresses of our sockets, in the order of the sockets: first those that receive, then those
    /// with a source port of this worker's own.
    pub locals: Vec<IpAddr>,
    /// Milliseconds since the worker started, read once a turn.
    pub now_ms: u64,
    pub progress: Progress,
    pub icmp_limits: IcmpLimits,
}

/// The limits of ICMP errors. What a connection cannot do without has one of its own, so that
/// packets to nowhere cannot use it up.
#[derive(Debug)]
pub(crate) struct IcmpLimits {
    unreachable: RateLimit,
    too_big: RateLimit,
}

impl IcmpLimits {
    pub(crate) fn new() -> IcmpLimits {
        let limit = || RateLimit::new(ICMP_PER_SECOND, ICMP_BURST);
        IcmpLimits { unreachable: limit(), too_big: limit() }
    }

    fn allow(&mut self, problem: Problem, now_ms: u64) -> bool {
        match problem {
            Problem::NetworkUnreachable => self.unreachable.allow(now_ms),
            Problem::FragmentationNeeded { .. } => self.too_big.allow(now_ms),
        }
    }
}

impl Shared {
    /// A turn begins, and with it the time that the turn goes by.
    pub(crate) fn begin_turn(&mut self) {
        self.now_ms = self.progress.begin_turn(&self.counters);
    }

    /// A turn ends: says which buffers are in use.
    pub(crate) fn count_buffers(&self, pools: &Pools, trains: usize) {
        let buffers = &self.counters.buffers;
        buffers.tun_frames.set(u64::from(pools.tun.held()));
        buffers.udp_frames.set(u64::from(pools.udp.held()));
        buffers.trains.set(trains as u64);
        buffers.writes.set(self.writes.in_use() as u64);
    }

    pub(crate) fn drop_outbound(&self, reason: DropReason, segments: usize) {
        self.counters.outbound.drops.add(reason, segments as u64);
    }

    pub(crate) fn drop_inbound(&self, reason: DropReason, segments: usize) {
        self.counters.inbound.drops.add(reason, segments as u64);
    }

    /// Tells the control side, unless its queue is full.
    pub(crate) fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.counters.events_lost.add(1);
        }
    }

    /// Answers `offender`, read from the device, with an ICMP error, if the rules and the limit
    /// allow one. Its source is the offender's destination: the kernel would drop an error that
    /// claims to come from an address of this host.
    pub(crate) fn answer(&mut self, offender: &[u8], layout: &Layout, problem: Problem) {
        let from = packet::destination(offender, layout);
        let mut error = [0; icmp::LENGTH_MAX];
        let Some(length) = icmp::error(offender, layout, problem, from, &mut error, self.sum)
        else {
            return;
        };
        if self.icmp_limits.allow(problem, self.now_ms) && self.writes.packet(&error[..length]) {
            self.counters.icmp_sent.add(1);
        }
    }
}
