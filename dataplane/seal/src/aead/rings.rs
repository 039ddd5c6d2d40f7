//! ring's implementation: assembly with AVX2, both passes in one.

use std::hint::black_box;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{Aead, Forged, KEY_LENGTH, TAG_LENGTH, nonce};

/// ChaCha20-Poly1305 by ring.
pub struct Ring(LessSafeKey);

impl Ring {
    /// ring does not overwrite keys itself, and holds them in place. Another key takes the place of
    /// this one; the compiler may not leave the write out, as it must assume that it is read.
    fn wipe(&mut self) {
        self.0 = prepare(&[0; KEY_LENGTH]);
        black_box(&self.0);
    }
}

fn prepare(key: &[u8; KEY_LENGTH]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the right length");
    LessSafeKey::new(key)
}

impl Aead for Ring {
    const NAME: &'static str = "ring";

    fn new(key: &[u8; KEY_LENGTH]) -> Self {
        Self(prepare(key))
    }

    #[inline]
    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_LENGTH] {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated), text);
        let tag = tag.expect("a datagram is far below the length limit of RFC 8439");
        *tag.as_ref().first_chunk().expect("a tag has 16 bytes")
    }

    #[inline]
    fn open(&self, counter: u64, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        match self.0.open_in_place(nonce, Aad::from(associated), sealed) {
            Ok(text) => Ok(text.len()),
            Err(_) => Err(Forged),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_key_is_another_one() {
        let mut key = Ring::new(&[7; KEY_LENGTH]);
        let mut before = *b"text";
        key.seal(0, &[], &mut before);
        key.wipe();
        let mut after = *b"text";
        key.seal(0, &[], &mut after);
        let mut zero = *b"text";
        Ring::new(&[0; KEY_LENGTH]).seal(0, &[], &mut zero);
        assert_ne!(before, after);
        assert_eq!(after, zero);
    }
}
