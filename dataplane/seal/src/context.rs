//! What a pure machine cannot know by itself: the time, and what nobody can guess.

use std::fmt;
use std::time::Duration;

use crate::limits::JITTER;

/// The time and the randomness of one call.
pub struct Context<'a> {
    /// Since a start of the caller's choice, by a clock that never goes back.
    pub now: Duration,
    /// Since 1970 by the wall clock, which may jump. Only time stamps come from it.
    pub since_1970: Duration,
    /// Fills a buffer with bytes that nobody can guess.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

impl Context<'_> {
    /// Random bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// A random delay below [`JITTER`].
    pub(crate) fn jitter(&mut self) -> Duration {
        let random = u64::from(u32::from_le_bytes(self.bytes()));
        let nanoseconds = JITTER.as_nanos() as u64;
        Duration::from_nanos((random * nanoseconds) >> u32::BITS)
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("now", &self.now)
            .field("since_1970", &self.since_1970)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_bounded_and_uses_its_range() {
        for (byte, low, high) in [(0, 0, 0), (0x80, 166, 168), (0xff, 333, 333)] {
            let mut random = |buffer: &mut [u8]| buffer.fill(byte);
            let mut context =
                Context { now: Duration::ZERO, since_1970: Duration::ZERO, random: &mut random };
            let jitter = context.jitter();
            assert!(jitter < JITTER);
            assert!((low..=high).contains(&jitter.as_millis()), "{jitter:?}");
        }
    }
}
