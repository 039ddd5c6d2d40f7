//! What both sides have sent and agreed so far, boiled down to two hashes (Noise, revision 34, section
//! 5.2; the WireGuard paper, section 5.4).

use crate::hash::{HASH_LENGTH, derive, hash};
use crate::keys::{PublicKey, Secret};
use crate::rejected::Rejected;

/// Above 32 bytes, so Noise hashes it.
const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Noise calls it the prologue.
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

#[derive(Clone)]
pub(super) struct Transcript {
    /// The chaining key.
    chain: Secret,
    /// The hash of all messages. It goes over the wire in no form, but is no secret either.
    hash: [u8; HASH_LENGTH],
}

impl Transcript {
    /// Before the first message to the owner of `responder`.
    pub(super) fn new(responder: &PublicKey) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let mut transcript = Self { chain: Secret::new(chain), hash: chain };
        transcript.mix_hash(IDENTIFIER);
        transcript.mix_hash(responder.bytes());
        transcript
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    /// Takes in an ephemeral public key, which with a preshared key goes into the chain too.
    pub(super) fn mix_ephemeral(&mut self, ephemeral: &[u8]) {
        self.mix_hash(ephemeral);
        [self.chain] = derive(&self.chain, ephemeral);
    }

    /// Takes in an agreed secret that no message follows.
    pub(super) fn mix_agreed(&mut self, agreed: &Secret) {
        [self.chain] = derive(&self.chain, agreed.bytes());
    }

    /// Takes in an agreed secret and returns the key of what follows.
    pub(super) fn mix_key(&mut self, agreed: &Secret) -> Secret {
        let [chain, key] = derive(&self.chain, agreed.bytes());
        self.chain = chain;
        key
    }

    /// Takes in the preshared key and returns the key of what follows.
    pub(super) fn mix_preshared(&mut self, preshared: &Secret) -> Secret {
        let [chain, mixed, key] = derive(&self.chain, preshared.bytes());
        self.chain = chain;
        self.mix_hash(mixed.bytes());
        key
    }

    /// Seals `bytes` but the last sixteen, which become the tag.
    pub(super) fn seal(&mut self, key: &Secret, bytes: &mut [u8]) {
        super::seal(key, &self.hash, bytes);
        self.mix_hash(bytes);
    }

    /// Opens `bytes`, which end with a tag. After an error the transcript is of no use.
    pub(super) fn open(&mut self, key: &Secret, bytes: &mut [u8]) -> Result<(), Rejected> {
        let before = self.hash;
        self.mix_hash(bytes);
        super::open(key, &before, bytes)
    }

    /// The keys of the session: the initiator's for sending, then the responder's.
    pub(super) fn split(&self) -> [Secret; 2] {
        derive(&self.chain, &[])
    }
}
