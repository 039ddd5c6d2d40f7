//! How long to wait before the next try.

use std::time::Duration;

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double up to five seconds. Half of each is random, so that nodes that lost the same
/// server do not all come back to it at once.
#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl BackOff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The wait before the next try.
    pub(super) fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = (2 * whole).min(LONGEST);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// It worked.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_stay_bounded_and_begin_again() {
        let mut back_off = BackOff::new();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000] {
            let wait = back_off.wait();
            let whole = Duration::from_millis(expected);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        back_off.reset();
        assert!(back_off.wait() <= FIRST);
    }

    #[test]
    fn two_nodes_do_not_wait_equally() {
        let waits: Vec<_> = (0..10).map(|_| BackOff::new().wait()).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
