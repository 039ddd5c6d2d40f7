//! Looking once more before sleeping.
//!
//! Waking a thread that sleeps in the kernel costs more than a packet does, above all in a
//! virtual machine, and a reply often follows within microseconds. So an idle worker asks a few
//! times before it sleeps, and offers the processor to others between two looks. Where others
//! take it, they need it more: then the worker sleeps at once for a while, so that its next
//! packet wakes it with the priority that sleepers have.

use std::time::{Duration, Instant};

/// How long an idle worker looks. Round trips between two workers take about twice this.
const PATIENCE: Duration = Duration::from_micros(20);

/// Time away from the processor after one look that shows that others need it.
const CROWDED: Duration = Duration::from_micros(100);

/// How long nobody looks after that.
const PAUSE: Duration = Duration::from_millis(10);

/// Decides whether to look once more.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Whether it ever looks.
    wanted: bool,
    since: Option<Instant>,
    last: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Spin {
    /// One that looks, if it is `wanted`.
    pub(crate) fn new(wanted: bool) -> Spin {
        Spin { wanted, since: None, last: None, paused_until: None }
    }

    /// The worker has become idle, or is still: whether to look once more, at `now`.
    pub(crate) fn again(&mut self, now: Instant) -> bool {
        if !self.wanted || self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        let away = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        if away.is_some_and(|away| away > CROWDED) {
            self.paused_until = Some(now + PAUSE);
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) < PATIENCE
    }

    /// Something came from outside, or the worker goes to sleep.
    pub(crate) fn rest(&mut self) {
        self.since = None;
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_for_a_while_and_then_sleeps() {
        let mut spin = Spin::new(true);
        let start = Instant::now();
        assert!(spin.again(start));
        assert!(spin.again(start + PATIENCE / 2));
        assert!(!spin.again(start + PATIENCE));
        spin.rest();
        assert!(spin.again(start + Duration::from_secs(1)));
    }

    #[test]
    fn pauses_where_others_need_the_processor() {
        let mut spin = Spin::new(true);
        let start = Instant::now();
        assert!(spin.again(start));
        let back = start + CROWDED * 2;
        assert!(!spin.again(back));
        spin.rest();
        assert!(!spin.again(back + PAUSE / 2));
        assert!(spin.again(back + PAUSE));
    }

    #[test]
    fn never_looks_if_not_wanted() {
        assert!(!Spin::new(false).again(Instant::now()));
    }
}
