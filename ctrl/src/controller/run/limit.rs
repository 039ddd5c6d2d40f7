//! Lines of the log that strangers can cause.

use std::time::Duration;

use tokio::time::Instant;

/// So many lines in this time tell what there is to know; whoever may write leases could fill a disk
/// with more.
const LINES_MAX: u64 = 20;
const PERIOD: Duration = Duration::from_secs(60);

/// Counts lines of one sort.
#[derive(Debug)]
pub(super) struct Lines {
    began: Instant,
    asked: u64,
}

impl Lines {
    /// None were written.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, asked: 0 }
    }

    /// Whether one more may be written, and then how many were left out before.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        let mut left_out = 0;
        if now.duration_since(self.began) >= PERIOD {
            left_out = self.asked.saturating_sub(LINES_MAX);
            *self = Self::new(now);
        }
        self.asked += 1;
        (self.asked <= LINES_MAX).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_left_out_are_told() {
        let start = Instant::now();
        let mut lines = Lines::new(start);
        let written = |lines: &mut Lines, now| (0..1000).filter_map(|_| lines.next(now)).count();
        assert_eq!(written(&mut lines, start), 20);
        assert_eq!(written(&mut lines, start + PERIOD - Duration::from_secs(1)), 0);
        let later = start + PERIOD;
        assert_eq!(lines.next(later), Some(1980));
        assert_eq!(lines.next(later), Some(0));
        assert_eq!(written(&mut lines, later), 18);
    }
}
