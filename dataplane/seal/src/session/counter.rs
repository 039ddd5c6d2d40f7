//! Counters that cannot be used twice: they are taken from the session in runs, and used up one by one.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ended;
use crate::limits::REJECT_AFTER_MESSAGES;

/// Messages in one train at most; the kernel's own limit for `UDP_SEGMENT`.
pub const TRAIN_MAX: usize = 128;

/// Threads that may take counters from one session.
pub const WORKERS_MAX: usize = 64;

// A thread looks at the counter before it adds, so each passes the limit by at most one train. All of
// them together must not reach the end of the number range, where counters would begin anew.
const _: () = assert!((TRAIN_MAX * WORKERS_MAX) as u64 <= u64::MAX - REJECT_AFTER_MESSAGES);

/// The number of one message of a session. Sealing uses it up.
#[derive(PartialEq, Eq, Debug)]
pub struct Counter(u64);

impl Counter {
    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// The counters of a train, in order.
#[derive(Debug)]
pub struct Counters(Range<u64>);

impl Iterator for Counters {
    type Item = Counter;

    #[inline]
    fn next(&mut self) -> Option<Counter> {
        self.0.next().map(Counter)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Takes `count` counters with one `fetch_add`, whose result no other thread gets.
pub(super) fn reserve(next: &AtomicU64, count: usize) -> Result<Counters, Ended> {
    assert!(count <= TRAIN_MAX, "a train has at most {TRAIN_MAX} messages");
    let count = count as u64;
    if next.load(Ordering::Relaxed) > REJECT_AFTER_MESSAGES - count {
        return Err(Ended);
    }
    let first = next.fetch_add(count, Ordering::Relaxed);
    if first > REJECT_AFTER_MESSAGES - count {
        return Err(Ended);
    }
    Ok(Counters(first..first + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reached_and_never_passed() {
        let next = AtomicU64::new(REJECT_AFTER_MESSAGES - 130);
        let counters: Vec<Counter> = reserve(&next, 128).unwrap().collect();
        assert_eq!(counters.len(), 128);
        assert_eq!(counters[127], Counter(REJECT_AFTER_MESSAGES - 3));
        for _ in 0..1000 {
            assert!(reserve(&next, 128).is_err());
        }
        assert_eq!(reserve(&next, 2).unwrap().last(), Some(Counter(REJECT_AFTER_MESSAGES - 1)));
        for _ in 0..100_000 {
            assert!(reserve(&next, 1).is_err());
        }
        assert_eq!(next.load(Ordering::Relaxed), REJECT_AFTER_MESSAGES);
    }

    #[test]
    fn threads_never_get_the_same_counter() {
        let next = AtomicU64::new(REJECT_AFTER_MESSAGES - 3_000_000);
        let take = || -> Vec<u64> {
            let mut taken = Vec::new();
            for count in (1..=TRAIN_MAX).cycle() {
                let Ok(counters) = reserve(&next, count) else { break };
                taken.extend(counters.map(|counter| counter.value()));
            }
            taken
        };
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(taken.len() > 2_900_000);
        assert!(taken.iter().all(|counter| *counter < REJECT_AFTER_MESSAGES));
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
