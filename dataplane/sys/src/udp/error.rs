//! Why a UDP socket could not be had.

use std::io;
use std::net::SocketAddr;

/// Why [`UdpSocket::bind`](super::UdpSocket::bind) failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another socket has the address and port.
    #[error(
        "The UDP address {address} is in use. Another flanneld or weft may be running on this \
         host: stop it (`ss --udp --listening --processes` shows the owner), or set another port"
    )]
    Taken {
        /// The address asked for.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error(
        "The address {} does not belong to this host, or is not ready yet. Check the interface \
         and public IP that were chosen (`ip address`)",
        .address.ip()
    )]
    AddressNotAvailable {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The port is privileged, or a security policy forbids it.
    #[error(
        "No permission to use the UDP address {address}. Ports below \
         net.ipv4.ip_unprivileged_port_start need the capability CAP_NET_BIND_SERVICE: add it, or \
         set another port"
    )]
    PermissionDenied {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other refused system call.
    #[error("Could not {context} on the UDP socket for {address}")]
    Io {
        /// The address asked for.
        address: SocketAddr,
        /// What was being done, as in the sentence "Could not … on the UDP socket".
        context: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
