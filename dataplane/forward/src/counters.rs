//! What a worker counts. One set a worker, written by that worker alone; anybody may read a snapshot.
//!
//! The unit is the inner wire packet (a *segment*): a super-packet from the device counts as what it
//! is cut into. In each direction `segments_in == segments_out + drops`, except for what is in a buffer
//! at the moment of reading.

mod histogram;

use core::sync::atomic::{AtomicU64, Ordering};

pub use self::histogram::{BOUNDS, Histogram, HistogramSnapshot};
use crate::drops::DropReason;

/// A number that one thread adds to and any thread reads. Nothing is ordered by it.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds `amount`. Only the thread that owns the counter may call it: a load and a store are
    /// cheaper than a locked addition and lose nothing as long as there is one writer.
    #[inline]
    pub fn add(&self, amount: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that one thread sets and any thread reads. Nothing is ordered by it.
#[derive(Default, Debug)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buffers that the worker holds when a turn ends. The others are free, or the kernel's to receive
/// into.
#[derive(Default, Debug)]
pub struct Buffers {
    /// Frames with packets from the device.
    pub tun_frames: Gauge,
    /// Frames with datagrams.
    pub udp_frames: Gauge,
    /// Trains that are open, on their way, or wait to go again.
    pub trains: Gauge,
    /// Writes that are on their way into the device.
    pub writes: Gauge,
}

/// [`Buffers`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BuffersSnapshot {
    /// Frames with packets from the device.
    pub tun_frames: u64,
    /// Frames with datagrams.
    pub udp_frames: u64,
    /// Trains that are open, on their way, or wait to go again.
    pub trains: u64,
    /// Writes that are on their way into the device.
    pub writes: u64,
}

impl Buffers {
    fn snapshot(&self) -> BuffersSnapshot {
        BuffersSnapshot {
            tun_frames: self.tun_frames.value(),
            udp_frames: self.udp_frames.value(),
            trains: self.trains.value(),
            writes: self.writes.value(),
        }
    }
}

impl BuffersSnapshot {
    fn merge(&mut self, other: &Self) {
        self.tun_frames += other.tun_frames;
        self.udp_frames += other.udp_frames;
        self.trains += other.trains;
        self.writes += other.writes;
    }
}

/// One counter for each drop reason, in segments.
#[derive(Debug)]
pub struct Drops([Counter; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { Counter::new() }; DropReason::COUNT])
    }
}

impl Drops {
    /// Counts `segments` dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: DropReason, segments: u64) {
        self.0[reason as usize].add(segments);
    }

    /// How many segments were dropped for `reason`.
    #[must_use]
    pub fn value(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].value()
    }

    fn snapshot(&self) -> DropsSnapshot {
        DropsSnapshot(DropReason::ALL.map(|reason| self.value(reason)))
    }
}

/// The drops at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropsSnapshot([u64; DropReason::COUNT]);

impl Default for DropsSnapshot {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropsSnapshot {
    /// How many segments were dropped for `reason`.
    #[must_use]
    pub const fn value(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many segments were dropped in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its number, in the order of [`DropReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// Declares a group of counters and its snapshot with the same field names. The fields after the
/// semicolon are groups themselves. A group shares no cache lines (they are fetched in pairs) with
/// other memory, since another worker may write there.
macro_rules! counters {
    (
        $(#[$doc:meta])* $live:ident, $(#[$snapshot_doc:meta])* $snapshot:ident {
            $($(#[$field_doc:meta])* $field:ident,)*
            ;
            $($(#[$group_doc:meta])* $group:ident: $group_live:ident, $group_snapshot:ident,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Default, Debug)]
        #[repr(align(128))]
        pub struct $live {
            $($(#[$field_doc])* pub $field: Counter,)*
            $($(#[$group_doc])* pub $group: $group_live,)*
        }

        impl $live {
            /// The values now. Fields are read one after the other while the worker goes on.
            #[must_use]
            pub fn snapshot(&self) -> $snapshot {
                $snapshot {
                    $($field: self.$field.value(),)*
                    $($group: self.$group.snapshot(),)*
                }
            }
        }

        $(#[$snapshot_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $snapshot {
            $($(#[$field_doc])* pub $field: u64,)*
            $($(#[$group_doc])* pub $group: $group_snapshot,)*
        }

        impl $snapshot {
            /// Adds the numbers of another worker.
            pub fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                $(self.$group.merge(&other.$group);)*
            }

            /// The plain numbers with their names, in snake case; groups are not descended into.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// From the TUN device to the peers.
    Outbound,
    /// [`Outbound`] at one moment.
    OutboundSnapshot {
        /// Segments read from the device.
        segments_in,
        /// Segments the kernel took for sending.
        segments_out,
        /// Of these, those that were not sealed though sealing is offered.
        plain_segments,
        /// Inner bytes the kernel took for sending.
        bytes_out,
        /// Packets with a segmentation type read from the device.
        super_packets_in,
        /// Sends, each of one or more segments.
        trains_out,
        ;
        /// Segments dropped.
        drops: Drops, DropsSnapshot,
        /// Segments of each send.
        train_segments: Histogram, HistogramSnapshot,
        /// Packets from the device that one turn handled, super-packets as one.
        batches: Histogram, HistogramSnapshot,
    }
}

counters! {
    /// From the peers to the TUN device.
    Inbound,
    /// [`Inbound`] at one moment.
    InboundSnapshot {
        /// Segments received from the sockets.
        segments_in,
        /// Segments the device took.
        segments_out,
        /// Segments that were taken without a seal though sealing is offered.
        plain_segments,
        /// Inner bytes received from the sockets.
        bytes_in,
        /// Receives, each of one or more segments.
        trains_in,
        /// Writes to the device, each of one or more segments.
        writes_out,
        ;
        /// Segments dropped.
        drops: Drops, DropsSnapshot,
        /// Segments of each receive.
        train_segments: Histogram, HistogramSnapshot,
        /// Receives that one turn handled.
        batches: Histogram, HistogramSnapshot,
    }
}

counters! {
    /// Everything one worker counts.
    Counters,
    /// [`Counters`] at one moment; several workers are merged into one.
    Snapshot {
        /// ICMP errors written into the device.
        icmp_sent,
        /// TCP handshakes whose maximum segment size was lowered.
        mss_clamped,
        /// IPv4 fragments made out of packets that did not fit a path.
        fragments_made,
        /// Peers for which segmentation by the kernel was switched off.
        segmentation_off,
        /// Times a peer's path MTU was lowered.
        path_mtu_lowered,
        /// Sends repeated because the socket's buffer was full.
        send_retries,
        /// Times reading from the device paused because every buffer was in use.
        buffers_exhausted_tun,
        /// Times receiving from a socket paused because every buffer was in use.
        buffers_exhausted_udp,
        /// Datagrams the kernel dropped because a socket's receive queue was full (`SO_RXQ_OVFL`).
        receive_overflow,
        /// Turns of the worker.
        turns,
        /// System calls that the worker made to move packets, to wait and to be woken.
        syscalls,
        /// Nanoseconds in which the worker did not sleep in the kernel.
        busy_ns,
        /// Events for the control loop that found the ring full.
        events_lost,
        ;
        /// From the TUN device to the peers.
        outbound: Outbound, OutboundSnapshot,
        /// From the peers to the TUN device.
        inbound: Inbound, InboundSnapshot,
        /// Buffers in use.
        buffers: Buffers, BuffersSnapshot,
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn exactly_what_was_added_has_moved() {
        let counters = Counters::default();
        counters.outbound.segments_in.add(5);
        counters.outbound.segments_in.add(2);
        counters.outbound.drops.add(DropReason::NoRoute, 3);
        counters.inbound.drops.add(DropReason::Stopped, 1);
        counters.turns.add(9);
        let snapshot = counters.snapshot();
        let moved = |fields: Vec<(&'static str, u64)>| {
            fields.into_iter().filter(|(_, value)| *value != 0).collect::<Vec<_>>()
        };
        assert_eq!(moved(snapshot.fields().collect()), [("turns", 9)]);
        assert_eq!(moved(snapshot.outbound.fields().collect()), [("segments_in", 7)]);
        assert_eq!(moved(snapshot.inbound.fields().collect()), []);
        let drops = |drops: DropsSnapshot| {
            drops.iter().filter(|(_, count)| *count != 0).collect::<Vec<_>>()
        };
        assert_eq!(drops(snapshot.outbound.drops), [(DropReason::NoRoute, 3)]);
        assert_eq!(drops(snapshot.inbound.drops), [(DropReason::Stopped, 1)]);
    }

    #[test]
    fn workers_are_merged() {
        let counters = Counters::default();
        counters.inbound.bytes_in.add(u64::from(u32::MAX) + 1);
        counters.inbound.drops.add(DropReason::Truncated, 4);
        let mut total = counters.snapshot();
        total.merge(&counters.snapshot());
        assert_eq!(total.inbound.bytes_in, 1 << 33);
        assert_eq!(total.inbound.drops.value(DropReason::Truncated), 8);
        assert_eq!(total.inbound.drops.total(), 8);
    }
}
