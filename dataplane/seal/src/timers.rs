//! When to do what without being asked: section 6 of the paper as a machine of five deadlines.
//!
//! Events go in as they happen, and [`Timers::poll`] says what is due. It is to be called until it says
//! nothing more. Jitter is an argument, so that the machine itself is a function of its inputs.

use std::time::Duration;

use crate::limits::{ERASE_AFTER_TIME, KEEPALIVE_TIMEOUT, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};

/// Initiations in a row, besides the first, that may stay without an answer.
pub const RETRIES_MAX: u64 = REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs();

/// What happened to a peer's messages. Everything received here was authentic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A data message with a packet was sent.
    PacketSent,
    /// A data message with a packet was received.
    PacketReceived,
    /// Any message was sent, also one of the above.
    Sent,
    /// Any message was received, also one of the above.
    Received,
    /// An initiation was sent.
    InitiationSent,
    /// There are new keys, maybe not yet confirmed.
    SessionMade,
    /// New keys are confirmed.
    HandshakeDone,
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send an initiation.
    Initiate,
    /// Send an empty data message.
    Keepalive,
    /// No answer came to any initiation: what waits to be sent is dropped.
    GiveUp,
    /// Forget all keys.
    Erase,
}

/// The timers of one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Say that we are there if nothing else was sent for that long.
    interval: Option<Duration>,
    /// An initiation had no answer.
    retry_at: Option<Duration>,
    /// Packets were received, and nothing was sent.
    keepalive_at: Option<Duration>,
    /// More packets were received since `keepalive_at` was set.
    needs_another: bool,
    /// Packets were sent, and nothing was received.
    silence_at: Option<Duration>,
    /// Nothing was sent or received for the interval.
    persistent_at: Option<Duration>,
    /// The newest keys have had no successor.
    erase_at: Option<Duration>,
    retries: u64,
    initiated: Option<Duration>,
}

impl Timers {
    /// The timers of a new peer. `interval`: send something that often in any case.
    #[must_use]
    pub fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            retry_at: None,
            keepalive_at: None,
            needs_another: false,
            silence_at: None,
            persistent_at: None,
            erase_at: None,
            retries: 0,
            initiated: None,
        }
    }

    /// Takes in an event that happened at `now`.
    pub fn handle(&mut self, event: Event, now: Duration, jitter: Duration) {
        match event {
            Event::PacketSent => {
                let silence = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter;
                self.silence_at.get_or_insert(now + silence);
            }
            Event::PacketReceived if self.keepalive_at.is_some() => self.needs_another = true,
            Event::PacketReceived => self.keepalive_at = Some(now + KEEPALIVE_TIMEOUT),
            Event::Sent => {
                self.keepalive_at = None;
                self.needs_another = false;
                self.persistent_at = self.interval.map(|interval| now + interval);
            }
            Event::Received => {
                self.silence_at = None;
                self.persistent_at = self.interval.map(|interval| now + interval);
            }
            Event::InitiationSent => {
                self.initiated = Some(now);
                self.retry_at = Some(now + REKEY_TIMEOUT + jitter);
            }
            Event::SessionMade => self.erase_at = Some(now + ERASE_AFTER_TIME),
            Event::HandshakeDone => {
                self.retry_at = None;
                self.retries = 0;
            }
        }
    }

    /// A new session is wanted because there is something to send. True if an initiation may be sent
    /// at once; if not, one is under way.
    pub fn want(&mut self, now: Duration) -> bool {
        self.retries = 0;
        self.may_initiate(now)
    }

    /// Whether the last initiation is long enough ago.
    #[must_use]
    pub fn may_initiate(&self, now: Duration) -> bool {
        self.initiated.is_none_or(|initiated| now.saturating_sub(initiated) >= REKEY_TIMEOUT)
    }

    /// Something that is due at `now`, or nothing. What is returned counts as done.
    pub fn poll(&mut self, now: Duration, jitter: Duration) -> Option<Action> {
        if take_due(&mut self.retry_at, now) {
            return Some(self.retry(now, jitter));
        }
        if take_due(&mut self.silence_at, now) {
            return Some(Action::Initiate);
        }
        if take_due(&mut self.keepalive_at, now) {
            if self.needs_another {
                self.needs_another = false;
                self.keepalive_at = Some(now + KEEPALIVE_TIMEOUT);
            }
            return Some(Action::Keepalive);
        }
        if take_due(&mut self.persistent_at, now) {
            // Also if it cannot be sent: the next try is an interval away.
            self.persistent_at = self.interval.map(|interval| now + interval);
            return Some(Action::Keepalive);
        }
        take_due(&mut self.erase_at, now).then_some(Action::Erase)
    }

    fn retry(&mut self, now: Duration, jitter: Duration) -> Action {
        if self.retries < RETRIES_MAX {
            self.retries += 1;
            // Also if it cannot be sent.
            self.retry_at = Some(now + REKEY_TIMEOUT + jitter);
            return Action::Initiate;
        }
        self.keepalive_at = None;
        self.needs_another = false;
        self.erase_at.get_or_insert(now + ERASE_AFTER_TIME);
        Action::GiveUp
    }

    /// When something is due next.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        [self.retry_at, self.silence_at, self.keepalive_at, self.persistent_at, self.erase_at]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Clears a deadline that has been reached.
fn take_due(deadline: &mut Option<Duration>, now: Duration) -> bool {
    deadline.take_if(|deadline| *deadline <= now).is_some()
}

#[cfg(test)]
mod tests;
