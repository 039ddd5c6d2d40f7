//! One session: its two keys, its counter, its replay window.
//!
//! All methods take `&self`, so that any number of packet workers share a session. On the way out they
//! meet in one `fetch_add` a train. On the way in every message is authenticated without a word to the
//! others; then one lock a train covers the replay window, a test and a bit for each message. The lock
//! is free unless two workers receive from one peer at the same moment, and nothing slow happens under
//! it. A window for each worker would need every message of a peer to reach one worker, whatever port
//! or path it came by; an atomic bitmap cannot clear blocks and test bits in one step.
//!
//! The handshake thread learns when a session was used from four times that workers store.

mod counter;
mod data;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::aead::Aead;
use crate::handshake::Keys;
use crate::limits::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES};
use crate::message::{DATA_HEADER_LENGTH, Message};
use crate::rejected::Rejected;
use crate::window::Window;

pub use counter::{Counter, Counters, TRAIN_MAX, WORKERS_MAX};
pub use data::{inner_packet, padded_length, sealed_length};

/// A session seals no more: it is too old, or has sealed all the messages it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("The session is too old, or has sealed all the messages it may.")]
pub struct Ended;

/// What a message carries, which decides what timers it moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// A packet.
    Packet,
    /// Nothing: the message only says that we are there.
    Nothing,
}

/// A message that the peer has sealed, maybe received before. Only [`Session::admit`] tells.
#[derive(Debug)]
#[must_use = "what has not been admitted may be a replay"]
pub struct Authentic {
    counter: u64,
    /// Of the padded packet in the datagram.
    range: Range<usize>,
}

/// When a session was last used for each purpose. `None`: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    /// A packet was sealed.
    pub packet_sent: Option<Duration>,
    /// A packet or nothing was sealed.
    pub sent: Option<Duration>,
    /// A packet was admitted.
    pub packet_received: Option<Duration>,
    /// A packet or nothing was admitted.
    pub received: Option<Duration>,
}

struct Outgoing {
    /// The next counter.
    next: AtomicU64,
    packet_sent: Moment,
    sent: Moment,
}

struct Incoming {
    window: Mutex<Window>,
    packet_received: Moment,
    received: Moment,
    /// Something was admitted, which proves to the responder that the initiator has the keys.
    is_confirmed: AtomicBool,
}

/// The keys of a peer for some minutes, shared by all threads.
pub struct Session<A> {
    local: u32,
    remote: u32,
    is_initiator: bool,
    made: Duration,
    sending: A,
    receiving: A,
    // Sending and receiving workers write on lines of their own.
    outgoing: CachePadded<Outgoing>,
    incoming: CachePadded<Incoming>,
}

impl<A: Aead> Session<A> {
    /// The session that a handshake made at `now`. The initiator's is confirmed by the response.
    #[must_use]
    pub fn new(keys: &Keys, now: Duration) -> Self {
        Self {
            local: keys.local,
            remote: keys.remote,
            is_initiator: keys.is_initiator,
            made: now,
            sending: A::new(keys.sending.bytes()),
            receiving: A::new(keys.receiving.bytes()),
            outgoing: CachePadded::new(Outgoing {
                next: AtomicU64::new(0),
                packet_sent: Moment::default(),
                sent: Moment::default(),
            }),
            incoming: CachePadded::new(Incoming {
                window: Mutex::new(Window::new()),
                packet_received: Moment::default(),
                received: Moment::default(),
                is_confirmed: AtomicBool::new(keys.is_initiator),
            }),
        }
    }

    /// Our index, which stands in the peer's messages.
    #[must_use]
    pub fn local(&self) -> u32 {
        self.local
    }

    /// We sent the initiation, so a successor is ours to begin.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.is_initiator
    }

    /// When the session was made.
    #[must_use]
    pub fn made(&self) -> Duration {
        self.made
    }

    /// The peer is known to have the keys, so the session may be sent with.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.incoming.is_confirmed.load(Ordering::Relaxed)
    }

    /// The session is too old to seal or to open.
    #[must_use]
    pub fn has_expired(&self, now: Duration) -> bool {
        now.saturating_sub(self.made) >= REJECT_AFTER_TIME
    }

    /// The session has sealed so many messages that a successor is due.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.outgoing.next.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
    }

    /// As if so many messages had been sealed.
    #[cfg(test)]
    pub(crate) fn wear(&self, messages: u64) {
        self.outgoing.next.store(messages, Ordering::Relaxed);
    }

    /// When the session was last used.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity {
            packet_sent: self.outgoing.packet_sent.load(),
            sent: self.outgoing.sent.load(),
            packet_received: self.incoming.packet_received.load(),
            received: self.incoming.received.load(),
        }
    }

    /// Takes the counters of a train of up to [`TRAIN_MAX`] messages. Those that are not used are
    /// lost, which harms nobody.
    ///
    /// # Errors
    /// [`Ended`]: nothing may be sent with this session any more.
    pub fn reserve(&self, count: usize, load: Load, now: Duration) -> Result<Counters, Ended> {
        if self.has_expired(now) {
            return Err(Ended);
        }
        let counters = counter::reserve(&self.outgoing.next, count)?;
        self.outgoing.sent.store(now);
        if load == Load::Packet {
            self.outgoing.packet_sent.store(now);
        }
        Ok(counters)
    }

    /// Seals the inner packet of `length` bytes that lies in `datagram` behind the room for the
    /// header. The message with header, padding up to `mtu` and tag then fills the first bytes of
    /// `datagram`, whose number is returned: [`sealed_length`].
    ///
    /// # Panics
    /// If `datagram` is shorter than that.
    #[inline]
    pub fn seal_in_place(
        &self,
        counter: Counter,
        datagram: &mut [u8],
        length: usize,
        mtu: usize,
    ) -> usize {
        data::seal(&self.sending, (self.remote, counter), datagram, (length, mtu))
    }

    /// Copies the inner packet, which lies in `pieces`, into `datagram` and seals it there while it is
    /// in the first-level cache. Otherwise as [`Session::seal_in_place`].
    ///
    /// # Panics
    /// If `datagram` is shorter than the message.
    #[inline]
    pub fn seal(
        &self,
        counter: Counter,
        pieces: &[&[u8]],
        datagram: &mut [u8],
        mtu: usize,
    ) -> usize {
        let mut end = DATA_HEADER_LENGTH;
        for piece in pieces {
            datagram[end..end + piece.len()].copy_from_slice(piece);
            end += piece.len();
        }
        self.seal_in_place(counter, datagram, end - DATA_HEADER_LENGTH, mtu)
    }

    /// Opens `datagram`, a data message for this session, in place. What it holds after an error is of
    /// no use.
    ///
    /// # Errors
    /// [`Rejected::UnknownIndex`] if the message is for another session, [`Rejected::Expired`],
    /// [`Rejected::BadTag`], [`Rejected::Malformed`].
    #[inline]
    pub fn authenticate(&self, datagram: &mut [u8], now: Duration) -> Result<Authentic, Rejected> {
        let Message::Data { receiver, counter } = Message::parse(datagram)? else {
            return Err(Rejected::Malformed);
        };
        if receiver != self.local {
            return Err(Rejected::UnknownIndex);
        }
        if counter >= REJECT_AFTER_MESSAGES || self.has_expired(now) {
            return Err(Rejected::Expired);
        }
        let sealed = &mut datagram[DATA_HEADER_LENGTH..];
        let length = self.receiving.open(counter, &[], sealed).map_err(|_| Rejected::BadTag)?;
        Ok(Authentic { counter, range: DATA_HEADER_LENGTH..DATA_HEADER_LENGTH + length })
    }

    /// Opens, in place, a message that this session has sealed and that did not leave: the range of its
    /// padded packet. `None` if another session sealed it.
    pub fn reopen(&self, datagram: &mut [u8]) -> Option<Range<usize>> {
        let Ok(Message::Data { receiver, counter }) = Message::parse(datagram) else { return None };
        if receiver != self.remote {
            return None;
        }
        let sealed = datagram.get_mut(DATA_HEADER_LENGTH..)?;
        let length = self.sending.open(counter, &[], sealed).ok()?;
        Some(DATA_HEADER_LENGTH..DATA_HEADER_LENGTH + length)
    }

    /// Tells of each message of a train, in order, whether it is admitted for the first time: `each` gets
    /// the range of its padded packet in the datagram, which [`inner_packet`] cuts, or why not. All
    /// under one lock, so `each` should only take notes.
    pub fn admit(
        &self,
        train: &[Authentic],
        now: Duration,
        mut each: impl FnMut(Result<Range<usize>, Rejected>),
    ) {
        let (mut is_used, mut has_packet) = (false, false);
        {
            // A panic in `each` leaves a window that is as good as before.
            let window = self.incoming.window.lock();
            let mut window = window.unwrap_or_else(PoisonError::into_inner);
            for Authentic { counter, range } in train {
                let admitted = window.accept(*counter);
                is_used |= admitted.is_ok();
                has_packet |= admitted.is_ok() && !range.is_empty();
                each(admitted.map(|()| range.clone()));
            }
        }
        if is_used {
            self.incoming.received.store(now);
            self.incoming.is_confirmed.store(true, Ordering::Relaxed);
        }
        if has_packet {
            self.incoming.packet_received.store(now);
        }
    }

    /// Opens one message and admits it: the range of its padded packet in `datagram`.
    ///
    /// # Errors
    /// As [`Session::authenticate`], and [`Rejected::Replayed`] and [`Rejected::BelowWindow`].
    pub fn open(&self, datagram: &mut [u8], now: Duration) -> Result<Range<usize>, Rejected> {
        let authentic = self.authenticate(datagram, now)?;
        let mut opened = Err(Rejected::Replayed);
        self.admit(&[authentic], now, |admitted| opened = admitted);
        opened
    }
}

impl<A> fmt::Debug for Session<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("is_initiator", &self.is_initiator)
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

/// A time that any thread stores, in nanoseconds plus one; 0 is never. It only decides about timers, so
/// it orders nothing else.
#[derive(Default)]
struct Moment(AtomicU64);

impl Moment {
    fn store(&self, now: Duration) {
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1);
        self.0.store(nanoseconds + 1, Ordering::Relaxed);
    }

    fn load(&self) -> Option<Duration> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests;
