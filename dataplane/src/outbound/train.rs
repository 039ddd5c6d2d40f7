//! Trains: datagrams of one size to one peer, sent with one system call (`UDP_SEGMENT`).

use std::collections::VecDeque;

use weft_sys::gather::{Gather, SEGMENTS_MAX};

use crate::{framer::Room, memory::TRAINS, peers::Peers, shared::Shared};

/// Bytes of one train at most. The kernel wants payload and headers of the whole train below
/// 65,536 (`gso_max_size`), else it cuts in software before the device.
pub(crate) const BYTES_MAX: usize = 65_400;

/// Trains that packets from the device leave free: what comes back may have to be taken apart into
/// more trains than it was, while everything else waits behind it.
const RESERVE: usize = 8;

/// One datagram that wants to board a train.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// The peer.
    pub slot: u16,
    /// What it takes of the train.
    pub room: Room,
    /// Whether it stands for an inner segment. Of the fragments of one packet only the first
    /// does.
    pub counted: bool,
    /// Whether it may take one of the last free trains.
    pub urgent: bool,
}

/// What is known of a train beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meta {
    pub slot: u16,
    pub generation: u32,
    pub socket: usize,
    /// Payload bytes of every datagram but the last.
    pub length: usize,
    /// Datagrams.
    pub datagrams: usize,
    /// Which of the datagrams stand for inner segments.
    pub counted: u128,
    /// Datagrams that have been sent on one by one.
    pub redone: usize,
    sequence: u64,
}

impl Meta {
    /// Inner segments that the train carries.
    pub(super) fn segments(&self) -> usize {
        self.counted.count_ones() as usize
    }

    /// Of these, those that have not been sent on one by one.
    pub(super) fn segments_left(&self) -> usize {
        self.counted.checked_shr(self.redone as u32).unwrap_or(0).count_ones() as usize
    }
}

const _: () = assert!(SEGMENTS_MAX <= u128::BITS as usize);

/// One train as it goes to the engine.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Its bytes and destination.
    pub gather: Gather,
    /// The number of the socket.
    pub socket: usize,
    /// The size to cut it to, if it has more than one datagram.
    pub segment: Option<u16>,
    /// Whether the next train must wait for this one to succeed.
    pub linked: bool,
}

/// All trains of a worker: each is free, of this turn, in the kernel, or waiting to go again.
#[derive(Debug)]
pub(super) struct Trains {
    gathers: Vec<Option<Gather>>,
    meta: Vec<Meta>,
    free: Vec<u16>,
    turn: Vec<u16>,
    /// Trains in the kernel.
    away: usize,
    /// Trains that came back in this turn to go again: older than those in `retries`.
    returned: Vec<u16>,
    retries: VecDeque<u16>,
    segments_max: usize,
    sequence: u64,
}

impl Trains {
    pub(super) fn new(gathers: Vec<Gather>, segments_max: u16) -> Trains {
        let count = usize::from(TRAINS);
        assert_eq!(gathers.len(), count, "all gathers for trains are here");
        Trains {
            gathers: gathers.into_iter().map(Some).collect(),
            meta: vec![Meta::default(); count],
            free: (0..TRAINS).rev().collect(),
            turn: Vec::with_capacity(count),
            away: 0,
            returned: Vec::with_capacity(count),
            retries: VecDeque::with_capacity(count),
            segments_max: usize::from(segments_max).clamp(1, SEGMENTS_MAX),
            sequence: 0,
        }
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn in_use(&self) -> usize {
        usize::from(TRAINS) - self.free.len()
    }

    pub(super) fn has_retries(&self) -> bool {
        !self.retries.is_empty() || !self.returned.is_empty()
    }

    /// Whether the kernel still has trains. Sends never wait, so it gives them back at once.
    pub(super) fn are_away(&self) -> bool {
        self.away > 0
    }

    /// Whether no train is going to become free by itself.
    pub(super) fn are_stuck(&self) -> bool {
        self.away == 0 && self.turn.is_empty()
    }

    /// The train that takes `load`: the peer's open one, or a new one. `None` if none is free.
    /// Whoever fills it calls `boarded`.
    #[inline]
    pub(super) fn board(&mut self, load: &Load, shared: &mut Shared) -> Option<&mut Gather> {
        let state = shared.peers.state(load.slot)?;
        if let Some(number) = state.open {
            let meta = &self.meta[usize::from(number)];
            let train = self.gathers[usize::from(number)].as_ref().expect("an open train is here");
            let fits = load.room.length <= meta.length
                && train.len() + load.room.length <= BYTES_MAX
                && train.has_room(load.room.written, load.room.copy);
            if fits {
                return self.gathers[usize::from(number)].as_mut();
            }
        }
        let socket = state.socket(&shared.locals)?;
        if self.free.len() <= RESERVE && !load.urgent {
            return None;
        }
        let number = self.free.pop()?;
        state.open = Some(number);
        self.turn.push(number);
        self.sequence += 1;
        self.meta[usize::from(number)] = Meta {
            slot: load.slot,
            generation: state.generation,
            socket,
            length: load.room.length,
            sequence: self.sequence,
            ..Meta::default()
        };
        let train = self.gathers[usize::from(number)].as_mut().expect("a free train is here");
        train.set_name(state.name);
        Some(train)
    }

    /// Takes note that `load` has boarded the peer's open train, and closes the train if nothing
    /// more can follow.
    #[inline]
    pub(super) fn boarded(&mut self, load: &Load, shared: &mut Shared) {
        let state = shared.peers.state(load.slot).expect("the peer was there to board");
        let number = state.open.expect("a train was boarded");
        let meta = &mut self.meta[usize::from(number)];
        meta.counted |= u128::from(load.counted) << meta.datagrams;
        meta.datagrams += 1;
        let limit = if state.segmentation.is_on(shared.now_ms) { self.segments_max } else { 1 };
        if load.room.length < meta.length || meta.datagrams >= limit {
            state.open = None;
        }
    }

    /// Closes the trains of this turn and brings those of one peer behind each other.
    pub(super) fn close_all(&mut self, peers: &mut Peers) {
        for number in &self.turn {
            if let Some(state) = peers.state(self.meta[usize::from(*number)].slot) {
                state.open = None;
            }
        }
        let meta = &self.meta;
        self.turn.sort_unstable_by_key(|number| {
            let meta = &meta[usize::from(*number)];
            (meta.slot, meta.sequence)
        });
    }

    pub(super) fn depart(&mut self, mut depart: impl FnMut(Departure)) {
        let mut turn = self.turn.iter().peekable();
        while let Some(number) = turn.next() {
            let meta = &self.meta[usize::from(*number)];
            let next = turn.peek().map(|next| &self.meta[usize::from(**next)]);
            let linked = next.is_some_and(|next| next.slot == meta.slot);
            let gather = self.gathers[usize::from(*number)].take().expect("a train leaves once");
            let segment = (meta.datagrams > 1)
                .then(|| u16::try_from(meta.length).expect("a segment is below 64 KiB"));
            depart(Departure { gather, socket: meta.socket, segment, linked });
        }
        self.away += self.turn.len();
        self.turn.clear();
    }

    /// Takes back a train that was with the engine. It is neither free nor waiting yet.
    pub(super) fn arrive(&mut self, gather: Gather) -> u16 {
        let number = gather.number();
        self.gathers[usize::from(number)] = Some(gather);
        self.away -= 1;
        number
    }

    pub(super) fn meta(&mut self, number: u16) -> &mut Meta {
        &mut self.meta[usize::from(number)]
    }

    pub(super) fn gather(&self, number: u16) -> &Gather {
        self.gathers[usize::from(number)].as_ref().expect("the train is not in the kernel")
    }

    /// Empties a train for its next use.
    pub(super) fn release(&mut self, number: u16) {
        let gather = self.gathers[usize::from(number)].as_mut();
        gather.expect("the train is not in the kernel").reset();
        self.free.push(number);
    }

    /// Lets a train that came back wait to go again.
    pub(super) fn wait(&mut self, number: u16) {
        self.returned.push(number);
    }

    /// Puts what came back, in the order in which it left, in front of what had not left again.
    pub(super) fn queue_returned(&mut self) {
        let meta = &self.meta;
        self.returned.sort_unstable_by_key(|number| meta[usize::from(*number)].sequence);
        for number in self.returned.drain(..).rev() {
            self.retries.push_front(number);
        }
    }

    pub(super) fn first_retry(&self) -> Option<u16> {
        self.retries.front().copied()
    }

    /// The first waiting train is dealt with.
    pub(super) fn retried(&mut self) {
        self.retries.pop_front();
    }

    /// Lets the first waiting train go again as it is.
    pub(super) fn retry_whole(&mut self) {
        if let Some(number) = self.retries.pop_front() {
            self.sequence += 1;
            self.meta[usize::from(number)].sequence = self.sequence;
            self.turn.push(number);
        }
    }

    pub(super) fn counted_in_retries(&self) -> usize {
        let left = |number: &u16| self.meta[usize::from(*number)].segments_left();
        self.retries.iter().chain(&self.returned).map(left).sum()
    }
}
