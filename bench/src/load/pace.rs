//! When to send how much.

use std::time::Duration;

/// A steady rate, made from bursts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Datagrams a second.
    rate: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send that many.
    Send(usize),
    /// Nothing is due before that time has passed.
    Wait(Duration),
}

impl Pace {
    /// A rate of at least one datagram a second.
    pub(super) fn new(rate: u32) -> Pace {
        Pace { rate: rate.max(1) }
    }

    /// What to do `elapsed` after the start, when `sent` are out. Of what is due, at most `burst` go
    /// at once, and nothing is sent before half a burst is due: one system call a datagram would
    /// cost more than the path that is measured.
    pub(super) fn next(self, elapsed: Duration, sent: u64, burst: usize) -> Next {
        let rate = f64::from(self.rate);
        let due = (elapsed.as_secs_f64() * rate) as u64;
        let least =
            (burst as u64 / 2).clamp(1, (u64::from(self.rate) / SHORTEST_PER_SECOND).max(1));
        if due >= sent + least {
            return Next::Send(usize::try_from(due - sent).unwrap_or(burst).min(burst));
        }
        let time = Duration::from_secs_f64((sent + least) as f64 / rate);
        Next::Wait(time.saturating_sub(elapsed))
    }
}

/// Bursts a second that even a slow rate is cut into: a sleep shorter than 100 us is not to be had.
const SHORTEST_PER_SECOND: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_goes_in_bursts() {
        let pace = Pace::new(100_000);
        assert_eq!(pace.next(Duration::from_millis(1), 0, 64), Next::Send(64));
        assert_eq!(pace.next(Duration::from_millis(1), 64, 64), Next::Send(36));
        let next = pace.next(Duration::from_millis(1), 100, 64);
        assert_eq!(next, Next::Wait(Duration::from_micros(100)));
    }

    #[test]
    fn a_slow_rate_sends_one_at_a_time() {
        let pace = Pace::new(10);
        assert_eq!(pace.next(Duration::ZERO, 0, 64), Next::Wait(Duration::from_millis(100)));
        assert_eq!(pace.next(Duration::from_millis(100), 0, 64), Next::Send(1));
    }

    #[test]
    fn a_fast_rate_waits_for_half_a_burst() {
        let pace = Pace::new(1_000_000);
        assert!(matches!(pace.next(Duration::from_micros(31), 0, 64), Next::Wait(_)));
        assert_eq!(pace.next(Duration::from_micros(33), 0, 64), Next::Send(33));
    }
}
