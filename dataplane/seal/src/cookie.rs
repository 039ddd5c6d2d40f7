//! The two keyed hashes at the end of a handshake message (sections 5.3 and 5.4.4 of the paper): mac1
//! proves that the sender knows our public key, mac2 that it receives at the address it sends from.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::context::Context;
use crate::hash::{hash, mac};
use crate::keys::{PublicKey, Secret};
use crate::message::{CookieReply, Guarded, MAC_LENGTH};
use crate::rejected::Rejected;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// A responder's secret, and a cookie made with it, last that long.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// An initiator stops using a cookie this much earlier, so that none expires on its way.
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

/// The keys that follow from a public key: whoever knows it can make and check mac1 and open cookies.
#[derive(Clone)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    /// Those of the node that handshake messages are sent to.
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self {
            mac1: hash(&[LABEL_MAC1, public.bytes()]),
            cookie: hash(&[LABEL_COOKIE, public.bytes()]),
        }
    }

    /// # Errors
    /// [`Rejected::BadMac1`].
    pub(crate) fn check(&self, message: &impl Guarded) -> Result<(), Rejected> {
        let expected = mac(&self.mac1, &[message.before_mac1()]);
        if bool::from(expected.ct_eq(message.mac1())) { Ok(()) } else { Err(Rejected::BadMac1) }
    }
}

type Cookie = [u8; MAC_LENGTH];

/// The responder's side: gives cookies and knows them again, without keeping any.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Checker {
    secret: Secret,
    #[zeroize(skip)]
    made: Option<Duration>,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self { secret: Secret::default(), made: None }
    }

    /// The cookie of an address and port under the present secret, which is renewed in time.
    fn cookie(&mut self, context: &mut Context<'_>, from: SocketAddr) -> Cookie {
        let age = self.made.map(|made| context.now.saturating_sub(made));
        if age.is_none_or(|age| age >= SECRET_LIFETIME) {
            self.secret = Secret::take(&mut context.bytes());
            self.made = Some(context.now);
        }
        let port = from.port().to_be_bytes();
        match from.ip() {
            IpAddr::V4(address) => mac(self.secret.bytes(), &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(self.secret.bytes(), &[&address.octets(), &port]),
        }
    }

    /// Whether the sender has a cookie, so it receives what is sent to `from`.
    pub(crate) fn has_cookie(
        &mut self,
        context: &mut Context<'_>,
        message: &impl Guarded,
        from: SocketAddr,
    ) -> bool {
        let cookie = self.cookie(context, from);
        let expected = mac(&cookie, &[message.before_mac2()]);
        expected.ct_eq(message.mac2()).into()
    }

    /// The answer with the sender's cookie, for everybody who knows our public key and sees `message`.
    pub(crate) fn reply(
        &mut self,
        context: &mut Context<'_>,
        keys: &MacKeys,
        message: &impl Guarded,
        from: SocketAddr,
    ) -> CookieReply {
        let mut reply = CookieReply::empty(message.sender());
        reply.nonce = context.bytes();
        let mut cookie = self.cookie(context, from);
        let tag = XChaCha20Poly1305::new(&keys.cookie.into())
            .encrypt_inout_detached(
                &reply.nonce.into(),
                message.mac1(),
                InOutBuf::from(&mut cookie[..]),
            )
            .expect("a cookie is far below the length limit of RFC 8439");
        reply.sealed_cookie[..MAC_LENGTH].copy_from_slice(&cookie);
        reply.sealed_cookie[MAC_LENGTH..].copy_from_slice(&tag);
        reply
    }
}

/// The initiator's side, one for each peer: makes both hashes and keeps the cookie the peer gave.
pub(crate) struct Stamper {
    keys: MacKeys,
    /// Of the last message, which a cookie reply has to answer.
    last_mac1: Option<[u8; MAC_LENGTH]>,
    cookie: Option<(Cookie, Duration)>,
}

impl Stamper {
    /// For handshake messages to the owner of `peer`.
    pub(crate) fn new(peer: &PublicKey) -> Self {
        Self { keys: MacKeys::new(peer), last_mac1: None, cookie: None }
    }

    /// One that was given `cookie` at the start of time.
    #[cfg(test)]
    pub(crate) fn with_cookie(peer: &PublicKey, cookie: Cookie) -> Self {
        Self { cookie: Some((cookie, Duration::ZERO)), ..Self::new(peer) }
    }

    /// Completes a message. mac2 stays zero without a fresh cookie.
    pub(crate) fn stamp(&mut self, message: &mut impl Guarded, now: Duration) {
        let mac1 = mac(&self.keys.mac1, &[message.before_mac1()]);
        *message.macs().0 = mac1;
        self.last_mac1 = Some(mac1);
        let fresh = SECRET_LIFETIME - COOKIE_LATENCY;
        self.cookie = self.cookie.take().filter(|(_, got)| now.saturating_sub(*got) < fresh);
        if let Some((cookie, _)) = self.cookie {
            let mac2 = mac(&cookie, &[message.before_mac2()]);
            *message.macs().1 = mac2;
        }
    }

    /// Keeps the cookie of a reply to the last message. One message gets one cookie.
    ///
    /// # Errors
    /// [`Rejected::BadCookie`].
    pub(crate) fn keep(&mut self, reply: &CookieReply, now: Duration) -> Result<(), Rejected> {
        let mac1 = self.last_mac1.ok_or(Rejected::BadCookie)?;
        let (sealed, tag) = reply
            .sealed_cookie
            .split_first_chunk()
            .expect("a cookie is shorter than its sealed form");
        let mut cookie: Cookie = *sealed;
        let tag: &[u8; 16] = tag.first_chunk().expect("the tag is the rest");
        XChaCha20Poly1305::new(&self.keys.cookie.into())
            .decrypt_inout_detached(
                &reply.nonce.into(),
                &mac1,
                InOutBuf::from(&mut cookie[..]),
                &Tag::from(*tag),
            )
            .map_err(|_| Rejected::BadCookie)?;
        self.cookie = Some((cookie, now));
        self.last_mac1 = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
