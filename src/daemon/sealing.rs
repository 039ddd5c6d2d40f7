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
use weft_ctrl::config::{Sealing as SealingConfig, SealingMode};
use weft_ctrl::controller;
use weft_ctrl::key;
use weft_dataplane::handshakes::{self, Handshakes, HandshakesOptions, Report, SealedPeer};
use weft_dataplane::sealing::{Cipher, Mode, News, PeerName, Sealing};
use weft_seal::keys::{PrivateKey, PublicKey, Secret};
use weft_sys::udp::UdpSocket;

pub(super) use key_file::KeyError;

/// The node's key and secret, before there is a thread that has them.
#[derive(Debug)]
pub(super) struct Keys {
    private: PrivateKey,
    preshared: Secret,
    mode: Mode,
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
        let preshared = preshared.unwrap_or_default();
        let mode = match config.mode {
            SealingMode::Require => Mode::Require,
            SealingMode::Offer => Mode::Offer,
        };
        Ok(Self { private, preshared, mode, directory: directory.into() })
    }

    /// What others seal with.
    pub(super) fn public(&self) -> key::PublicKey {
        told(self.private.public())
    }
}

impl Beginnings {
    /// With what the workers get.
    pub(super) fn new(keys: Keys, workers: u16, inner_mtu: u16) -> (Self, Arc<Sealing<Cipher>>) {
        let (sealing, news) = Sealing::new(keys.mode);
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
        let Keys { private, preshared, mode, directory } = self.keys;
        let place = directory.clone();
        let key = told(private.public());
        match mode {
            Mode::Require => info!(%key, "traffic is sealed, and nothing else is taken"),
            Mode::Offer => info!(%key, "traffic is sealed with hosts that have a key"),
        }
        let shared = Arc::clone(&sealing);
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
        Ok(Sealer { handshakes, sealing: shared, directory: place })
    }
}

/// How sealing goes at one moment.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// What becomes of traffic with peers that have no key.
    pub(super) mode: Mode,
    /// How many those are.
    pub(super) plain_peers: usize,
    /// How handshakes go.
    pub(super) report: Arc<Report>,
}

/// The thread that makes sessions, and the place of the key it has.
#[derive(Debug)]
pub(super) struct Sealer {
    handshakes: Handshakes,
    sealing: Arc<Sealing<Cipher>>,
    directory: PathBuf,
}

impl Sealer {
    /// Who has a key and who has none, in time for the table that says the same.
    pub(super) fn set_peers(&self, peers: &controller::PeerKeys) {
        let without = peers.without.iter();
        let without = without.map(|peer| name(peer.slot, peer.generation)).collect::<Vec<_>>();
        self.sealing.set_plain(&without);
        self.handshakes.set_peers(peers.with.iter().map(peer).collect());
    }

    /// See [`Handshakes::set_socket`].
    pub(super) fn set_socket(&self, socket: std::net::UdpSocket) {
        self.handshakes.set_socket(socket);
    }

    /// How it goes.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            mode: self.sealing.mode(),
            plain_peers: self.sealing.plain_peers(),
            report: self.handshakes.report(),
        }
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

fn name(slot: u16, generation: u32) -> PeerName {
    PeerName { slot, generation }
}

/// A peer as the thread knows it.
fn peer(peer: &controller::SealedPeer) -> SealedPeer {
    SealedPeer {
        name: name(peer.slot, peer.generation),
        key: PublicKey::new(*peer.key.bytes()),
        endpoint: peer.outer,
        has_several_ports: peer.has_several_ports,
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
