//! WireGuard's constants: the times of the paper's section 6.1 and the counts of section 6.

use std::time::Duration;

/// An initiator makes a new session when the current one is that old.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session that old neither seals nor opens.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// An initiation without an answer is made again after this, and none follows another earlier.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake without an answer is given up after this.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// What was received is acknowledged with an empty message after this, if nothing else was sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys without a successor are forgotten after this.
pub const ERASE_AFTER_TIME: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());
/// Random delays that keep peers from acting in step are below this.
pub const JITTER: Duration = Duration::from_millis(334);
/// A session that has sealed that many messages is replaced.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session seals and opens no counter from here on.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
