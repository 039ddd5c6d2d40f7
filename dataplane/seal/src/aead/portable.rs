//! RustCrypto's implementation: all in Rust, with AVX2 where the processor has it.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Tag};

use super::{Aead, Forged, KEY_LENGTH, TAG_LENGTH, nonce};

/// ChaCha20-Poly1305 by RustCrypto. Handshakes use it: its key is overwritten on drop by itself.
pub struct Portable(ChaCha20Poly1305);

impl Aead for Portable {
    const NAME: &'static str = "rustcrypto";

    fn new(key: &[u8; KEY_LENGTH]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_LENGTH] {
        let sealed =
            self.0.encrypt_inout_detached(&nonce(counter).into(), associated, InOutBuf::from(text));
        sealed.expect("a datagram is far below the length limit of RFC 8439").into()
    }

    fn open(&self, counter: u64, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>().ok_or(Forged)?;
        let length = text.len();
        let tag = Tag::from(*tag);
        self.0
            .decrypt_inout_detached(&nonce(counter).into(), associated, InOutBuf::from(text), &tag)
            .map_err(|_| Forged)?;
        Ok(length)
    }
}
