//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors about packets that could not be carried.

use core::net::IpAddr;

use crate::checksum::Sum;
use crate::packet::Layout;

/// Longest error in bytes: the minimum IPv6 MTU (RFC 4443 section 3.1).
pub const LENGTH_MAX: usize = 1280;

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Nobody has the destination.
    NetworkUnreachable,
    /// The packet must not be fragmented and does not fit; IPv6: Packet Too Big.
    FragmentationNeeded {
        /// The largest packet that fits, in bytes.
        mtu: u16,
    },
}

/// Writes an error about `offender` into the start of `out` and says how long it is.
#[expect(
    clippy::too_many_arguments,
    reason = "an offender, a reason, two addresses, and where to write"
)]
#[must_use]
pub fn error(
    _offender: &[u8],
    _layout: &Layout,
    _problem: Problem,
    _from: IpAddr,
    _out: &mut [u8],
    _sum: Sum,
) -> Option<usize> {
    None
}

/// A token bucket. Time is an argument, in milliseconds from any start.
#[derive(Clone, Debug)]
pub struct RateLimit {
    per_second: u64,
    capacity: u64,
    /// Thousandths of a token.
    tokens: u64,
    last_ms: u64,
}

impl RateLimit {
    /// A full bucket of `burst` tokens that `per_second` tokens flow into.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let capacity = u64::from(burst) * 1000;
        Self { per_second: u64::from(per_second), capacity, tokens: capacity, last_ms: 0 }
    }

    /// Takes a token if there is one. Time going backwards adds none.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let elapsed = now_ms.saturating_sub(self.last_ms);
        self.last_ms = self.last_ms.max(now_ms);
        let added = elapsed.saturating_mul(self.per_second);
        self.tokens = self.tokens.saturating_add(added).min(self.capacity);
        let allowed = self.tokens >= 1000;
        if allowed {
            self.tokens -= 1000;
        }
        allowed
    }
}
