//! What a device is made of, and what comes out of it.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::keys::PrivateKey;
use crate::session::Session;
use crate::timestamp::Timestamp;

/// What a node is.
pub struct DeviceConfig {
    /// The private key.
    pub private: PrivateKey,
    /// Threads that have a range of indices each, 1 to [`WORKERS_MAX`](crate::session::WORKERS_MAX): sessions are spread over them.
    pub workers: u8,
    /// The inner MTU, up to which packets are padded, in bytes.
    pub mtu: usize,
    /// The greatest time stamp that was ever sent with this key, as kept from
    /// [`Device::greatest_sent`](super::Device::greatest_sent). All zero if there was none.
    pub greatest_sent: Timestamp,
}

/// What the device wants done.
#[derive(Debug)]
pub enum Output<A> {
    /// A datagram is to be sent.
    Send {
        /// Where.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// A session receives from now on, under [`Session::local`].
    Install {
        /// The peer.
        slot: u16,
        /// The session.
        session: Arc<Session<A>>,
    },
    /// What is sent to a peer is sealed with this session from now on, or cannot be sent.
    Publish {
        /// The peer.
        slot: u16,
        /// The session, which is installed already.
        session: Option<Arc<Session<A>>>,
    },
    /// The session with this index of ours receives no more.
    Retire {
        /// The index.
        local: u32,
    },
    /// A peer has proved that it is elsewhere.
    Roamed {
        /// The peer.
        slot: u16,
        /// Where it is.
        to: SocketAddr,
    },
}

/// What a datagram was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message of a handshake.
    Handshake,
    /// A message that only says that the peer is there.
    Keepalive {
        /// The peer.
        slot: u16,
    },
    /// A packet.
    Packet {
        /// The peer who sealed it.
        slot: u16,
        /// Where it lies in the datagram.
        range: Range<usize>,
    },
}
