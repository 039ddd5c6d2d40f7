//! Authenticated encryption in place, behind one small trait: which implementation is fastest on a
//! processor is for a bench to say, and a session does not care.

mod portable;
mod rings;

pub use portable::Portable;
pub use rings::Ring;

/// Length of a key in bytes.
pub const KEY_LENGTH: usize = 32;
/// Length of the tag behind every sealed text, in bytes.
pub const TAG_LENGTH: usize = 16;

/// The text is not what was sealed: another key, nonce or associated data, or changed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forged;

/// A key of an AEAD with nonces made of a 64-bit counter, which never repeats under one key. What
/// holds the key is overwritten on drop.
///
/// The sessions' is ChaCha20-Poly1305 (RFC 8439) with a nonce of four zero bytes and the counter in
/// little-endian order, as WireGuard has it.
pub trait Aead: Send + Sync + Sized {
    /// The implementation's name in reports.
    const NAME: &'static str;

    /// Prepares a key.
    fn new(key: &[u8; KEY_LENGTH]) -> Self;

    /// Encrypts `text` in place and returns its tag.
    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_LENGTH];

    /// Decrypts `sealed`, a text and its tag, in place and returns the length of the text at its
    /// start.
    ///
    /// # Errors
    /// [`Forged`]. What `sealed` holds then is of no use.
    fn open(&self, counter: u64, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Forged>;
}

/// RFC 8439 section 2.3 with WireGuard's nonce.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests;
