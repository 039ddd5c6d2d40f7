//! The handshake Noise_IKpsk2 as both sides see it. An [`Initiator`] waits for the response; what
//! arrives as an initiation is first a [`Claimed`] key, which costs one agreement, then [`Verified`].
//!
//! Agreements are made by the parts and not by a Noise library, for three reasons: a key that belongs
//! to no peer is refused before the second agreement, the agreement of the two static keys is made once
//! a peer, and every secret is overwritten on drop.

mod transcript;

use std::fmt;

use crate::aead::{Aead, Portable};
use crate::keys::{LENGTH, PrivateKey, PublicKey, Secret};
use crate::message::{Initiation, Response};
use crate::rejected::Rejected;
use crate::timestamp::Timestamp;
use transcript::Transcript;

/// Why a key cannot be a peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyRefused {
    /// The peer's key is our own.
    #[error(
        "The peer's public key is this node's own: two nodes share a private key, or a lease is wrong."
    )]
    Own,
    /// The key is zero or another point of low order.
    #[error("The peer's public key is zero or another key that makes every shared secret zero.")]
    LowOrder,
    /// Another peer has the key.
    #[error("Another peer has the same public key.")]
    Duplicate,
}

/// What is known of a peer before any message: its keys, and what follows from them.
pub struct Remote {
    public: PublicKey,
    /// The agreement of both static keys.
    agreed: Secret,
    preshared: Secret,
}

impl Remote {
    /// The peer with the key `public`. A `preshared` key of zeros is none.
    ///
    /// # Errors
    /// Why `public` cannot be a peer's key.
    pub fn new(own: &PrivateKey, public: PublicKey, preshared: Secret) -> Result<Self, KeyRefused> {
        if public == own.public() {
            return Err(KeyRefused::Own);
        }
        let agreed = own.agree(&public).ok_or(KeyRefused::LowOrder)?;
        Ok(Self { public, agreed, preshared })
    }

    /// The peer's public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Remote").field("public", &self.public).finish_non_exhaustive()
    }
}

/// What a handshake ends with.
#[derive(Debug)]
pub struct Keys {
    /// Seals what we send.
    pub sending: Secret,
    /// Opens what the peer sends.
    pub receiving: Secret,
    /// Our index of the session, which stands in the peer's messages.
    pub local: u32,
    /// The peer's index, which stands in ours.
    pub remote: u32,
    /// We sent the initiation.
    pub is_initiator: bool,
}

/// A handshake that waits for its response.
pub struct Initiator {
    local: u32,
    ephemeral: PrivateKey,
    transcript: Transcript,
}

impl Initiator {
    /// Begins a handshake under our index `local`, with 32 random bytes that are used nowhere else.
    /// The message's macs are still zero.
    #[must_use]
    pub fn begin(
        own: &PrivateKey,
        remote: &Remote,
        stamp: Timestamp,
        local: u32,
        mut random: [u8; LENGTH],
    ) -> (Self, Initiation) {
        let ephemeral = PrivateKey::take(&mut random);
        let mut transcript = Transcript::new(&remote.public);
        let mut message = Initiation::empty(local);
        message.ephemeral = *ephemeral.public().bytes();
        transcript.mix_ephemeral(&message.ephemeral);
        let agreed = ephemeral.agree(&remote.public).expect("a peer's key is of no low order");
        let key = transcript.mix_key(&agreed);
        message.sealed_static[..LENGTH].copy_from_slice(own.public().bytes());
        transcript.seal(&key, &mut message.sealed_static);
        let key = transcript.mix_key(&remote.agreed);
        message.sealed_timestamp[..Timestamp::LENGTH].copy_from_slice(stamp.bytes());
        transcript.seal(&key, &mut message.sealed_timestamp);
        (Self { local, ephemeral, transcript }, message)
    }

    /// Our index, which the response names.
    #[must_use]
    pub fn local(&self) -> u32 {
        self.local
    }

    /// Ends the handshake with the peer's response. After an error nothing has changed: another
    /// response may still be the right one.
    ///
    /// # Errors
    /// [`Rejected::WeakKey`], or [`Rejected::BadHandshake`] if the response is not the peer's answer
    /// to this initiation.
    pub fn finish(
        &self,
        own: &PrivateKey,
        remote: &Remote,
        response: &Response,
    ) -> Result<Keys, Rejected> {
        let their_ephemeral = PublicKey::new(response.ephemeral);
        let mut transcript = self.transcript.clone();
        transcript.mix_ephemeral(&response.ephemeral);
        let both = self.ephemeral.agree(&their_ephemeral).ok_or(Rejected::WeakKey)?;
        transcript.mix_agreed(&both);
        let ours = own.agree(&their_ephemeral).ok_or(Rejected::WeakKey)?;
        transcript.mix_agreed(&ours);
        let key = transcript.mix_preshared(&remote.preshared);
        let mut sealed = response.sealed_nothing;
        transcript.open(&key, &mut sealed)?;
        let [sending, receiving] = transcript.split();
        let remote = response.sender.get();
        Ok(Keys { sending, receiving, local: self.local, remote, is_initiator: true })
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Initiator").field("local", &self.local).finish_non_exhaustive()
    }
}

/// An initiation that was made with our public key, and the key its sender claims to have.
pub struct Claimed<'a> {
    message: &'a Initiation,
    transcript: Transcript,
    public: PublicKey,
}

impl<'a> Claimed<'a> {
    /// Reads whom an initiation claims to come from.
    ///
    /// # Errors
    /// [`Rejected::WeakKey`], or [`Rejected::BadHandshake`] if it was not made with our public key.
    pub fn read(own: &PrivateKey, message: &'a Initiation) -> Result<Self, Rejected> {
        let mut transcript = Transcript::new(&own.public());
        transcript.mix_ephemeral(&message.ephemeral);
        let their_ephemeral = PublicKey::new(message.ephemeral);
        let agreed = own.agree(&their_ephemeral).ok_or(Rejected::WeakKey)?;
        let key = transcript.mix_key(&agreed);
        let mut sealed = message.sealed_static;
        transcript.open(&key, &mut sealed)?;
        let public = sealed.first_chunk().expect("a sealed key is longer than the key");
        let public = PublicKey::new(*public);
        Ok(Self { message, transcript, public })
    }

    /// The claimed key. Anybody can claim any.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Checks that the sender has the private key of `remote`, which is the peer it claims to be.
    ///
    /// # Errors
    /// [`Rejected::BadHandshake`] if it does not.
    pub fn verify(mut self, remote: &Remote) -> Result<Verified, Rejected> {
        let key = self.transcript.mix_key(&remote.agreed);
        let mut sealed = self.message.sealed_timestamp;
        self.transcript.open(&key, &mut sealed)?;
        let stamp = sealed.first_chunk().expect("a sealed stamp is longer than the stamp");
        Ok(Verified {
            stamp: Timestamp::from_bytes(*stamp),
            transcript: self.transcript,
            remote_index: self.message.sender.get(),
            static_key: self.public,
            ephemeral: PublicKey::new(self.message.ephemeral),
        })
    }
}

/// An initiation that a peer has made, now or earlier: it may still be a replay, which its time stamp
/// tells.
pub struct Verified {
    stamp: Timestamp,
    transcript: Transcript,
    remote_index: u32,
    static_key: PublicKey,
    ephemeral: PublicKey,
}

impl Verified {
    /// When the peer says that it made the initiation.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// Answers under our index `local`, with 32 random bytes that are used nowhere else. The
    /// message's macs are still zero.
    ///
    /// # Errors
    /// [`Rejected::WeakKey`].
    pub fn respond(
        mut self,
        remote: &Remote,
        local: u32,
        mut random: [u8; LENGTH],
    ) -> Result<(Response, Keys), Rejected> {
        let ephemeral = PrivateKey::take(&mut random);
        let mut message = Response::empty(local, self.remote_index);
        message.ephemeral = *ephemeral.public().bytes();
        let transcript = &mut self.transcript;
        transcript.mix_ephemeral(&message.ephemeral);
        transcript.mix_agreed(&ephemeral.agree(&self.ephemeral).ok_or(Rejected::WeakKey)?);
        transcript.mix_agreed(&ephemeral.agree(&self.static_key).ok_or(Rejected::WeakKey)?);
        let key = transcript.mix_preshared(&remote.preshared);
        transcript.seal(&key, &mut message.sealed_nothing);
        let [receiving, sending] = transcript.split();
        let remote = self.remote_index;
        Ok((message, Keys { sending, receiving, local, remote, is_initiator: false }))
    }
}

/// Seals `bytes` but the last sixteen, which become the tag.
fn seal(key: &Secret, associated: &[u8], bytes: &mut [u8]) {
    let (text, tag) = bytes.split_last_chunk_mut().expect("there is room for the tag");
    *tag = Portable::new(key.bytes()).seal(0, associated, text);
}

/// Opens `bytes`, which end with a tag.
fn open(key: &Secret, associated: &[u8], bytes: &mut [u8]) -> Result<(), Rejected> {
    match Portable::new(key.bytes()).open(0, associated, bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Rejected::BadHandshake),
    }
}

#[cfg(test)]
mod tests;
