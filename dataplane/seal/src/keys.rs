//! Keys: what is secret is overwritten on drop, compared in constant time and never shown.

use std::fmt;

use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of every key in bytes.
pub const LENGTH: usize = 32;

/// Thirty-two secret bytes: a preshared key, a chaining key, a shared secret. All zero by default,
/// which is how WireGuard says that there is no preshared key.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; LENGTH]);

impl Secret {
    /// Takes the bytes; the caller's copy stays and is the caller's to overwrite.
    #[must_use]
    pub fn new(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// Takes the bytes and overwrites the place they were in.
    #[must_use]
    pub fn take(bytes: &mut [u8; LENGTH]) -> Self {
        let secret = Self(*bytes);
        bytes.zeroize();
        secret
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// A Curve25519 public key. Everybody may know it: it is compared and sorted like any bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The key with these bytes. Whether it is any good shows when it is used.
    #[must_use]
    pub const fn new(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they stand in messages.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.0;
        write!(formatter, "PublicKey({first:02x}{second:02x}{third:02x}{fourth:02x}..)")
    }
}

/// A Curve25519 private key and its public key.
pub struct PrivateKey {
    secret: StaticSecret,
    public: PublicKey,
}

impl PrivateKey {
    /// The key with these bytes, which are clamped (RFC 7748 section 5) when they are used. The place
    /// they were in is overwritten.
    #[must_use]
    pub fn take(bytes: &mut [u8; LENGTH]) -> Self {
        let secret = StaticSecret::from(*bytes);
        bytes.zeroize();
        let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The secret shared with the owner of `other`. `None` if it would be zero whatever our key is:
    /// `other` is then a point of low order, and everybody would know the secret.
    #[must_use]
    pub fn agree(&self, other: &PublicKey) -> Option<Secret> {
        let shared = self.secret.diffie_hellman(&x25519_dalek::PublicKey::from(other.0));
        shared.was_contributory().then(|| Secret(shared.to_bytes()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PrivateKey(.., {:?})", self.public)
    }
}

#[cfg(test)]
mod tests;
