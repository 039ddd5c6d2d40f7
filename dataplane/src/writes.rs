//! Packets on their way into the TUN device.

use weft_forward::virtio;
use weft_sys::gather::Gather;

use crate::memory::{TRAINS, WRITES};

/// What a write counts as when it is done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteMeta {
    /// Inbound segments; 0 for a packet of our own.
    pub segments: u16,
}

/// The gathers for writes: free, or ready for the engine.
#[derive(Debug)]
pub(crate) struct Writes {
    free: Vec<Gather>,
    ready: Vec<Gather>,
    meta: Vec<WriteMeta>,
}

impl Writes {
    /// `gathers` are those whose numbers start at [`TRAINS`].
    pub(crate) fn new(gathers: Vec<Gather>) -> Writes {
        assert_eq!(gathers.len(), usize::from(WRITES), "all gathers for writes are here");
        Writes {
            free: gathers,
            ready: Vec::with_capacity(usize::from(WRITES)),
            meta: vec![WriteMeta::default(); usize::from(WRITES)],
        }
    }

    /// Gathers that are free.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Gathers that are not free: filled, ready or in the kernel.
    pub(crate) fn in_use(&self) -> usize {
        usize::from(WRITES) - self.free.len()
    }

    /// An empty gather, if one is free.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Gather> {
        self.free.pop()
    }

    /// Queues a filled gather that counts as `segments`.
    #[inline]
    pub(crate) fn push(&mut self, gather: Gather, segments: usize) {
        let segments = u16::try_from(segments).expect("a joined packet has few segments");
        self.meta[usize::from(gather.number() - TRAINS)] = WriteMeta { segments };
        self.ready.push(gather);
    }

    /// Queues one packet of our own. False if no gather is free.
    pub(crate) fn packet(&mut self, packet: &[u8]) -> bool {
        let Some(mut gather) = self.take() else { return false };
        let header = gather.push_space(virtio::LENGTH);
        virtio::Header::NONE.write(header.try_into().expect("the space is as long as asked"));
        gather.push_copy(packet);
        self.push(gather, 0);
        true
    }

    /// What is ready, in order.
    #[inline]
    pub(crate) fn drain(&mut self) -> std::vec::Drain<'_, Gather> {
        self.ready.drain(..)
    }

    /// What was never handed to the engine.
    pub(crate) fn drain_all(&mut self) -> Vec<Gather> {
        std::mem::take(&mut self.ready)
    }

    /// Takes a gather back and says what it counted as.
    #[inline]
    pub(crate) fn finished(&mut self, mut gather: Gather) -> WriteMeta {
        let meta = self.meta[usize::from(gather.number() - TRAINS)];
        gather.reset();
        self.free.push(gather);
        meta
    }
}
