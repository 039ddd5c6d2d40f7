//! What a daemon needs to seal its traffic: its key, what must not be forgotten of handshakes, and the
//! thread that makes them.

mod key_file;
mod memory_file;
pub(super) mod show;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::Receiver;
use tracing::info;
use weft_ctrl::config::Sealing as SealingConfig;
use weft_ctrl::controller;
use weft_ctrl::key;
use weft_dataplane::handshakes::{self, Handshakes, HandshakesOptions, Report, SealedPeer};
use weft_dataplane::sealing::{Cipher, News, PeerName, Sealing};
use weft_seal::keys::{PrivateKey, PublicKey, Secret};
use weft_sys::udp::UdpSocket;

pub(super) use key_file::KeyError;

/// The node's key and secret, before there is a thread that has them.
#[derive(Debug)]
pub(super) struct Keys {
    private: PrivateKey,
    preshared: Secret,
    directory: PathBuf,
}

/// What makes the thread: everything but a socket.
#[derive(Debug)]
pub(super) struct Beginnings {
    keys: Keys,
    workers: u8,
    inner_mtu: u16,
    news: Receiver<News>,
}

impl Keys {
    /// Reads the node's key from the state directory, or makes one.
    pub(super) fn load(config: &SealingConfig, directory: &Path) -> Result<Self, KeyError> {
        let private = key_file::load_or_create(directory)?;
        let preshared = config.preshared.as_ref().map(|key| Secret::new(*key.bytes()));
        Ok(Self { private, preshared: preshared.unwrap_or_default(), directory: directory.into() })
    }

    /// What others seal with.
    pub(super) fn public(&self) -> key::PublicKey {
        told(self.private.public())
    }
}

impl Beginnings {
    /// With what the workers get.
    pub(super) fn new(keys: Keys, workers: u16, inner_mtu: u16) -> (Self, Arc<Sealing<Cipher>>) {
        let (sealing, news) = Sealing::new();
        let workers = u8::try_from(workers).expect("there are at most 64 workers");
        (Self { keys, workers, inner_mtu, news }, sealing)
    }

    /// Starts the thread. It sends from the port of `socket`, whose worker runs already.
    pub(super) fn start(
        self,
        sealing: Arc<Sealing<Cipher>>,
        socket: std::net::UdpSocket,
        died: impl FnOnce(String) + Send + 'static,
    ) -> Result<Sealer> {
        let Keys { private, preshared, directory } = self.keys;
        let place = directory.clone();
        info!(key = %told(private.public()), "traffic is sealed, and nothing else is taken");
        let options = HandshakesOptions {
            private,
            preshared,
            workers: self.workers,
            inner_mtu: self.inner_mtu,
            socket,
            sealing,
            news: self.news,
            memory: memory_file::load(&directory),
            keep: Box::new(move |memory| memory_file::write(&directory, memory)),
        };
        let handshakes = handshakes::spawn(options, died);
        let handshakes = handshakes.context("could not start the thread of handshakes")?;
        Ok(Sealer { handshakes, directory: place })
    }
}

/// The thread that makes sessions, and the place of the key it has.
#[derive(Debug)]
pub(super) struct Sealer {
    handshakes: Handshakes,
    directory: PathBuf,
}

impl Sealer {
    /// See [`Handshakes::set_peers`].
    pub(super) fn set_peers(&self, peers: &[controller::SealedPeer]) {
        self.handshakes.set_peers(peers.iter().map(peer).collect());
    }

    /// See [`Handshakes::set_socket`].
    pub(super) fn set_socket(&self, socket: std::net::UdpSocket) {
        self.handshakes.set_socket(socket);
    }

    /// See [`Handshakes::report`].
    pub(super) fn report(&self) -> Arc<Report> {
        self.handshakes.report()
    }

    /// Makes another key, which is used from then on, and gives its public part. Blocks.
    pub(super) fn rotate(&self) -> Result<key::PublicKey, KeyError> {
        let private = key_file::replace(&self.directory)?;
        let public = told(private.public());
        self.handshakes.set_key(private);
        info!(key = %public, "the key is another one");
        Ok(public)
    }

    /// See [`Handshakes::stop`].
    pub(super) fn stop(self, patience: Duration) -> bool {
        self.handshakes.stop(patience)
    }
}

/// A second descriptor of a worker's socket.
pub(super) fn second(socket: &UdpSocket) -> Result<std::net::UdpSocket> {
    socket.as_std().try_clone().context("could not share a socket with the thread of handshakes")
}

/// A peer as the thread knows it.
fn peer(peer: &controller::SealedPeer) -> SealedPeer {
    SealedPeer {
        name: PeerName { slot: peer.slot, generation: peer.generation },
        key: PublicKey::new(*peer.key.bytes()),
        endpoint: peer.outer,
        ports: peer.ports,
    }
}

/// A key as people are told.
pub(super) fn told(public: PublicKey) -> key::PublicKey {
    key::PublicKey::new(*public.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of weak keys is the control loop's, the arithmetic that of the handshake.
    #[test]
    fn keys_that_are_called_weak_make_no_secret() {
        let private = PrivateKey::take(&mut [7; 32]);
        let texts = [
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
            "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
            "7P///////////////////////////////////////38=",
            "7f///////////////////////////////////////38=",
            "7v///////////////////////////////////////38=",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
        ];
        let [weak @ .., fine] = texts.map(|text| text.parse::<key::PublicKey>().unwrap());
        for key in weak {
            assert!(key.is_weak() && private.agree(&PublicKey::new(*key.bytes())).is_none());
        }
        assert!(!fine.is_weak() && private.agree(&PublicKey::new(*fine.bytes())).is_some());
    }
}
