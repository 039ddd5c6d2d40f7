//! TAI64N, the time stamp in an initiation: it only has to grow with every handshake of a peer.

use std::time::Duration;

/// The label of the first second of 1970, as libtai defines it.
const TAI64_EPOCH: u64 = (1 << 62) + 10;

/// Time stamps are rounded down to this, so that they do not tell how a machine's clock runs. In
/// nanoseconds; a peer's handshakes are seconds apart.
const GRAIN_NS: u64 = 1 << 24;

/// A TAI64N label in its external format. Later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp([u8; Timestamp::LENGTH]);

impl Timestamp {
    /// Length in bytes.
    pub const LENGTH: usize = 12;

    /// The stamp of a wall clock that shows `since_1970`.
    #[must_use]
    pub fn from_unix(since_1970: Duration) -> Self {
        let nanoseconds = u64::from(since_1970.subsec_nanos()) / GRAIN_NS * GRAIN_NS;
        Self::from_parts(since_1970.as_secs().saturating_add(TAI64_EPOCH), nanoseconds)
    }

    /// The bytes of a message or file.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes for a message or file.
    #[must_use]
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// A stamp above this one. Only the greatest there is has none, and is its own.
    #[must_use]
    pub fn next(self) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3] = self.0;
        let seconds = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let nanoseconds = u64::from(u32::from_be_bytes([n0, n1, n2, n3])) + GRAIN_NS;
        if nanoseconds < 1_000_000_000 {
            return Self::from_parts(seconds, nanoseconds);
        }
        seconds
            .checked_add(1)
            .map_or(Self([u8::MAX; Self::LENGTH]), |next| Self::from_parts(next, 0))
    }

    fn from_parts(seconds: u64, nanoseconds: u64) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&(nanoseconds as u32).to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of libtai's page on TAI64N, less the 27 leap seconds that WireGuard ignores too.
    #[test]
    fn has_the_external_format() {
        let stamp = Timestamp::from_unix(Duration::new(0x2a2b_2c2d, 0x1234_5678));
        assert_eq!(stamp.bytes(), &[0x40, 0, 0, 0, 0x2a, 0x2b, 0x2c, 0x37, 0x12, 0, 0, 0]);
        assert_eq!(Timestamp::from_bytes(*stamp.bytes()), stamp);
    }

    #[test]
    fn the_next_one_is_greater() {
        let mut stamp = Timestamp::from_unix(Duration::new(1, 0));
        for _ in 0..200 {
            let next = stamp.next();
            assert!(next > stamp, "{next:?} {stamp:?}");
            stamp = next;
        }
        assert!(stamp > Timestamp::from_unix(Duration::new(4, 0)));
        assert!(stamp < Timestamp::from_unix(Duration::new(5, 0)));
        let last = Timestamp([u8::MAX; Timestamp::LENGTH]);
        assert_eq!(last.next(), last);
    }

    #[test]
    fn later_is_greater() {
        let early = Timestamp::from_unix(Duration::new(10, 900_000_000));
        assert!(Timestamp::from_unix(Duration::new(11, 0)) > early);
        assert!(Timestamp::from_unix(Duration::MAX) > early);
    }
}
