//! How handshakes go, for people.

use std::{net::SocketAddr, time::Duration};

use weft_seal::{
    device::PeerStatus,
    keys::PublicKey,
    rejected::{Rejected, Rejections},
};

use crate::sealing::PeerName;

/// Everything at one moment. Numbers count from the start of the thread.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The node's public key. `None`: the thread has only just started.
    pub key: Option<PublicKey>,
    /// Sessions that were made and used.
    pub handshakes: u64,
    /// Handshakes that were given up without an answer.
    pub given_up: u64,
    /// Packets that waited for a session and were dropped.
    pub packets_dropped: u64,
    /// Datagrams that the kernel refused to send.
    pub sends_failed: u64,
    /// Messages that were not accepted, by reason.
    pub rejected: [u64; Rejected::COUNT],
    /// Sessions that may receive.
    pub sessions: usize,
    /// The peers, by slot.
    pub peers: Vec<PeerReport>,
}

/// A peer at that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerReport {
    /// The peer.
    pub name: PeerName,
    /// Its public key.
    pub key: PublicKey,
    /// Where it was last heard, or where its lease says that it is.
    pub endpoint: Option<SocketAddr>,
    /// How old the session is that is sent with. `None`: there is none.
    pub session_age: Option<Duration>,
    /// Sessions that were made and used.
    pub handshakes: u64,
    /// Handshakes that were given up without an answer.
    pub given_up: u64,
    /// Packets that waited for a session and were dropped.
    pub packets_dropped: u64,
}

impl Report {
    /// Counts what a peer that is no more has done.
    pub(super) fn add_peer(&mut self, status: &PeerStatus) {
        self.handshakes += status.handshakes;
        self.given_up += status.given_up;
        self.packets_dropped += status.dropped;
    }

    /// Counts what a device has refused.
    pub(super) fn add_rejections(&mut self, rejections: &Rejections) {
        for reason in Rejected::ALL {
            self.rejected[reason as usize] += rejections.of(reason);
        }
    }

    /// A peer that is there.
    pub(super) fn show_peer(&mut self, name: PeerName, status: &PeerStatus, now: Duration) {
        self.add_peer(status);
        self.peers.push(PeerReport {
            name,
            key: status.public,
            endpoint: status.endpoint,
            session_age: status.session_made.map(|made| now.saturating_sub(made)),
            handshakes: status.handshakes,
            given_up: status.given_up,
            packets_dropped: status.dropped,
        });
    }

    /// How many messages were not accepted, by the names of the reasons.
    pub fn rejections(&self) -> impl Iterator<Item = (Rejected, u64)> + '_ {
        Rejected::ALL.into_iter().map(|reason| (reason, self.rejected[reason as usize]))
    }
}
