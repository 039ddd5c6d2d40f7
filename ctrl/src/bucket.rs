//! A rate: so many a second, and so many at once.

use std::time::Instant;

/// A token bucket that begins full.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, left: burst, at: now }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.left, self.at) = ((self.left + gained).min(self.burst), now);
        let is_there = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_there));
        is_there
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_has_a_burst_and_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        let mut taken = |milliseconds: u64| {
            let now = start + Duration::from_millis(milliseconds);
            (0..10).filter(|_| bucket.take(now)).count()
        };
        assert_eq!([0, 50, 150, 10_000].map(&mut taken), [3, 0, 1, 3]);
    }
}
