//! Keys as leases and the network config have them: 32 bytes in base64, as `wg` writes them.
//!
//! Whether somebody has the private key of a public key shows only in a handshake. What can be told
//! from the key alone is told here: some keys make every secret the same, whoever has them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

/// Length of every key in bytes.
pub const LENGTH: usize = 32;

/// Points of low order of Curve25519 and its twist, whose agreement with any key is zero, in all the
/// ways to write them: 0, 1, the two of order 8, and p - 1, p and p + 1 (RFC 7748 section 6.1).
const LOW_ORDER: [[u8; LENGTH]; 7] = [
    [0; LENGTH],
    with_ends(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    with_ends(0xec, 0xff, 0x7f),
    with_ends(0xed, 0xff, 0x7f),
    with_ends(0xee, 0xff, 0x7f),
];

const fn with_ends(first: u8, between: u8, last: u8) -> [u8; LENGTH] {
    let mut bytes = [between; LENGTH];
    bytes[0] = first;
    bytes[LENGTH - 1] = last;
    bytes
}

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A key is 32 bytes in base64, as `wg genkey` and `wg genpsk` write them")]
pub struct ParseKeyError;

/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they stand in messages.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// Everybody knows what anybody agrees on with this key. The highest bit does not count
    /// (RFC 7748 section 5).
    #[must_use]
    pub fn is_weak(&self) -> bool {
        let mut bytes = self.0;
        bytes[LENGTH - 1] &= 0x7f;
        LOW_ORDER.contains(&bytes)
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text).map(|bytes| Self(*bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A secret that all nodes have beside their keys. Never shown, overwritten on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; LENGTH]>);

impl PresharedKey {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl FromStr for PresharedKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PresharedKey(..)")
    }
}

/// Reads a key from its text. What was decoded on the way is overwritten.
///
/// # Errors
/// [`ParseKeyError`], which has nothing of the text.
pub fn decode(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, ParseKeyError> {
    // One more than a key needs, so that longer texts are refused and not cut.
    let mut buffer = [0; LENGTH + 1];
    let length = STANDARD.decode_slice(text.trim_end(), &mut buffer);
    let key = buffer.first_chunk().filter(|_| length == Ok(LENGTH)).copied().map(Zeroizing::new);
    buffer.zeroize();
    key.ok_or(ParseKeyError)
}

/// The text of a key.
#[must_use]
pub fn encode(bytes: &[u8; LENGTH]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `wg pubkey`.
    const TEXT: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn a_key_is_written_as_it_was_read() {
        let key: PublicKey = TEXT.parse().unwrap();
        assert_eq!(key.to_string(), TEXT);
        assert_eq!(format!("{TEXT}\n").parse(), Ok(key), "as files have it");
        assert_eq!(serde_json::to_string(&key).unwrap(), format!("{TEXT:?}"));
        assert_eq!(*encode(key.bytes()), TEXT);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "=",
            &TEXT[1..],
            &TEXT[..43],
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykwA",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykwAAAA=",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8yk!=",
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(ParseKeyError), "{text}");
            assert_eq!(text.parse::<PresharedKey>(), Err(ParseKeyError), "{text}");
        }
    }

    #[test]
    fn keys_of_low_order_are_weak_with_either_highest_bit() {
        for mut bytes in LOW_ORDER {
            assert!(PublicKey(bytes).is_weak());
            bytes[31] |= 0x80;
            assert!(PublicKey(bytes).is_weak());
            bytes[15] ^= 1;
            assert!(!PublicKey(bytes).is_weak());
        }
        assert!(!TEXT.parse::<PublicKey>().unwrap().is_weak());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let key: PresharedKey = TEXT.parse().unwrap();
        assert_eq!(format!("{key:?}"), "PresharedKey(..)");
    }
}
