//! How many handshake messages one address may send, in memory that does not grow with their number.

use std::net::IpAddr;
use std::time::Duration;

use crate::context::Context;
use crate::hash::mac;
use crate::keys::Secret;

/// Handshake messages a second from one address, and how many of them at once. Those of the kernel's
/// WireGuard (`drivers/net/wireguard/ratelimiter.c`).
const PER_SECOND: u32 = 20;
const BURST: u32 = 5;

/// Addresses that hash to the same bucket share it. Only senders who have proved their address get
/// here, so a flood from forged ones does not fill the buckets of others: 32 KiB are enough.
const BUCKETS: usize = 4096;

/// What one message costs, in milliseconds of what flows in.
const COST_MS: u32 = 1000 / PER_SECOND;

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// When the bucket was last looked at, in milliseconds. 0: never.
    seen_ms: u32,
    /// What is used up, in milliseconds.
    used_ms: u32,
}

/// A token bucket for each address, some of them shared.
pub(crate) struct SourceLimit {
    /// Nobody can choose addresses that share a bucket with another's.
    secret: Option<Secret>,
    buckets: Box<[Bucket]>,
}

impl SourceLimit {
    pub(crate) fn new() -> Self {
        Self { secret: None, buckets: vec![Bucket::default(); BUCKETS].into_boxed_slice() }
    }

    /// Takes a token of `from` if there is one. An IPv6 host has a whole /64.
    pub(crate) fn allow(&mut self, context: &mut Context<'_>, from: IpAddr) -> bool {
        let secret = self.secret.get_or_insert_with(|| Secret::take(&mut context.bytes()));
        let hash = match from {
            IpAddr::V4(address) => mac(secret.bytes(), &[&address.octets()]),
            IpAddr::V6(address) => mac(secret.bytes(), &[&address.octets()[..8]]),
        };
        let bucket = usize::from(u16::from_le_bytes([hash[0], hash[1]])) % BUCKETS;
        self.buckets[bucket].allow(context.now)
    }
}

impl Bucket {
    fn allow(&mut self, now: Duration) -> bool {
        // Wraps after 49 days, when a bucket that was full once may look full for a moment more.
        let now_ms = now.as_millis() as u32;
        self.used_ms = self.used_ms.saturating_sub(now_ms.wrapping_sub(self.seen_ms));
        self.seen_ms = now_ms;
        let allowed = self.used_ms + COST_MS <= BURST * COST_MS;
        if allowed {
            self.used_ms += COST_MS;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(limit: &mut SourceLimit, now_ms: u64, from: &str, tries: u32) -> u32 {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5a);
        let mut context = Context {
            now: Duration::from_millis(now_ms),
            since_1970: Duration::ZERO,
            random: &mut random,
        };
        let from = from.parse().unwrap();
        (0..tries).map(|_| u32::from(limit.allow(&mut context, from))).sum()
    }

    #[test]
    fn an_address_has_a_burst_and_a_rate() {
        let mut limit = SourceLimit::new();
        assert_eq!(count(&mut limit, 5000, "192.0.2.1", 100), BURST);
        assert_eq!(count(&mut limit, 5049, "192.0.2.1", 100), 0);
        assert_eq!(count(&mut limit, 5050, "192.0.2.1", 100), 1);
        assert_eq!(count(&mut limit, 5051, "192.0.2.2", 100), BURST);
        assert_eq!(count(&mut limit, 9000, "192.0.2.1", 100), BURST);
        let second: u32 = (0..1000).map(|ms| count(&mut limit, 20_000 + ms, "192.0.2.1", 10)).sum();
        assert!((PER_SECOND..=PER_SECOND + BURST).contains(&second), "{second}");
    }

    #[test]
    fn an_ipv6_host_is_its_subnet() {
        let mut limit = SourceLimit::new();
        assert_eq!(count(&mut limit, 1000, "2001:db8::1", 100), BURST);
        assert_eq!(count(&mut limit, 1000, "2001:db8::2", 100), 0);
        assert_eq!(count(&mut limit, 1000, "2001:db8:0:1::1", 100), BURST);
    }

    #[test]
    fn many_addresses_take_no_memory() {
        let mut limit = SourceLimit::new();
        for index in 0..20_000_u32 {
            let from = std::net::Ipv4Addr::from(index).to_string();
            count(&mut limit, 1000, &from, 1);
        }
        assert_eq!(limit.buckets.len(), BUCKETS);
    }
}
