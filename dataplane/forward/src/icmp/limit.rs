//! How many errors may be sent.

/// Thousandths of a token: what flows into the bucket in a millisecond at one token a second.
const TOKEN: u64 = 1000;

/// A token bucket. Time is an argument, in milliseconds from any start.
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_second: u64,
    capacity: u64,
    /// In thousandths of a token.
    level: u64,
    last_ms: u64,
}

impl RateLimit {
    /// A full bucket of `burst` tokens, which `per_second` tokens flow into.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let capacity = u64::from(burst) * TOKEN;
        Self { per_second: u64::from(per_second), capacity, level: capacity, last_ms: 0 }
    }

    /// Takes a token if there is one. Time going backwards adds none.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms = self.last_ms.max(now_ms);
        let added = elapsed_ms.saturating_mul(self.per_second);
        self.level = self.level.saturating_add(added).min(self.capacity);
        let allowed = self.level >= TOKEN;
        if allowed {
            self.level -= TOKEN;
        }
        allowed
    }
}
