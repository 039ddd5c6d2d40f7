//! A datagram every millisecond from pod 1 to pod 2 and back, with a number and the time of each
//! reply: shows for how long nothing got through.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::{Lab, Side};

/// From one datagram to the next.
const PERIOD: Duration = Duration::from_millis(1);

/// How often a thread that waits for a datagram looks whether it shall end.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Each datagram is its number and padding to a common size of small messages.
const DATAGRAM_BYTES: usize = 64;

/// A running train. Dropping it ends the train.
pub struct Train {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    sent: AtomicU64,
    replies: Mutex<Replies>,
}

#[derive(Default)]
struct Replies {
    times: Vec<Instant>,
    highest: Option<u64>,
    /// Replies that came a second time or after a later one.
    disordered: u64,
}

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Datagrams sent.
    pub sent: u64,
    /// Replies received.
    pub received: u64,
    /// Replies that came a second time or after a later one.
    pub disordered: u64,
}

impl Train {
    /// Starts to send.
    pub fn start(lab: &Lab) -> Result<Train> {
        let open = |side: Side| lab.pod(side).udp_socket(side.pod_address().into());
        let (near, far) = (open(Side::One)?, open(Side::Two)?);
        let target = far.local_addr().context("A socket has no address")?;
        let back = near.try_clone().context("Cannot share a socket")?;
        for socket in [&back, &far] {
            socket.set_read_timeout(Some(LOOK_PERIOD)).context("Cannot set a time limit")?;
        }
        let shared = Arc::new(Shared::default());
        let mut train = Train { shared, threads: Vec::new() };
        train.spawn(move |shared| send(&near, target, shared))?;
        train.spawn(move |shared| echo(&far, shared))?;
        train.spawn(move |shared| receive(&back, shared))?;
        Ok(train)
    }

    fn spawn(&mut self, work: impl FnOnce(&Shared) + Send + 'static) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("train".to_owned());
        let thread = thread.spawn(move || work(&shared)).context("Cannot start a thread")?;
        self.threads.push(thread);
        Ok(())
    }

    /// When the first reply after `moment` came, if one has.
    pub fn first_reply_after(&self, moment: Instant) -> Option<Instant> {
        let replies = self.shared.replies();
        let index = replies.times.partition_point(|time| *time <= moment);
        replies.times.get(index).copied()
    }

    /// The longest time from one reply to the next, of the replies after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let replies = self.shared.replies();
        let first = replies.times.partition_point(|time| *time <= since);
        longest_gap(&replies.times[first..])
    }

    /// What became of it so far.
    pub fn fate(&self) -> Fate {
        let replies = self.shared.replies();
        Fate {
            sent: self.shared.sent.load(Ordering::Relaxed),
            received: replies.times.len() as u64,
            disordered: replies.disordered,
        }
    }
}

impl Drop for Train {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has already said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn replies(&self) -> MutexGuard<'_, Replies> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl Replies {
    fn handle(&mut self, number: u64, now: Instant) {
        if self.highest.is_some_and(|highest| number <= highest) {
            self.disordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        self.times.push(now);
    }
}

fn longest_gap(times: &[Instant]) -> Duration {
    let gaps = times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0]));
    gaps.max().unwrap_or_default()
}

/// Sends by the clock: a wake-up that comes late does not delay those after it. What was missed is
/// not made up for, since a burst would not be a train.
fn send(socket: &UdpSocket, target: SocketAddr, shared: &Shared) {
    let mut next = Instant::now();
    let mut number = 0_u64;
    while !shared.is_stopping() {
        let mut datagram = [0; DATAGRAM_BYTES];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        // While a path is away the kernel may refuse; such a datagram is lost as others are.
        let _ = socket.send_to(&datagram, target);
        number += 1;
        shared.sent.store(number, Ordering::Relaxed);
        let now = Instant::now();
        next = (next + PERIOD).max(now);
        std::thread::sleep(next - now);
    }
}

fn echo(socket: &UdpSocket, shared: &Shared) {
    let mut datagram = [0; DATAGRAM_BYTES];
    while !shared.is_stopping() {
        if let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], from);
        }
    }
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    let mut datagram = [0; DATAGRAM_BYTES];
    while !shared.is_stopping() {
        let Ok(length) = socket.recv(&mut datagram) else { continue };
        if let Some(number) = datagram[..length].first_chunk() {
            shared.replies().handle(u64::from_be_bytes(*number), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found() {
        let start = Instant::now();
        let times = [0, 1, 2, 300, 301].map(|ms| start + Duration::from_millis(ms));
        assert_eq!(longest_gap(&times), Duration::from_millis(298));
        assert_eq!(longest_gap(&times[..1]), Duration::ZERO);
    }

    #[test]
    fn late_and_double_replies_are_counted() {
        let mut replies = Replies::default();
        for number in [0, 1, 3, 2, 3, 4] {
            replies.handle(number, Instant::now());
        }
        assert_eq!((replies.disordered, replies.times.len()), (2, 6));
    }
}
