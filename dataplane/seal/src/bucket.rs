//! A rate: so many a second, so many at once.

use std::time::Duration;

/// A token bucket that begins full.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// What one token costs.
    cost: Duration,
    /// What a burst costs.
    depth: Duration,
    /// What has been used up and has not yet flowed in again.
    used: Duration,
    seen: Duration,
}

impl Bucket {
    /// Above 0 `per_second`.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1) / per_second;
        Self { cost, depth: cost * burst, used: Duration::ZERO, seen: Duration::ZERO }
    }

    /// Takes a token if there is one. Time going back adds none.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.used = self.used.saturating_sub(now.saturating_sub(self.seen));
        self.seen = self.seen.max(now);
        let has_token = self.used + self.cost <= self.depth;
        if has_token {
            self.used += self.cost;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_burst_and_a_rate() {
        let mut bucket = Bucket::new(10, 3);
        let mut taken = |now_ms, tries| {
            (0..tries).filter(|_| bucket.take(Duration::from_millis(now_ms))).count()
        };
        assert_eq!(taken(50, 10), 3);
        assert_eq!(taken(149, 10), 0);
        assert_eq!(taken(150, 10), 1);
        assert_eq!(taken(100, 10), 0, "time going back");
        assert_eq!(taken(10_000, 10), 3);
        let second: usize = (0..1000).map(|ms| taken(20_000 + ms, 2)).sum();
        assert_eq!(second, 3 + 9);
    }
}
