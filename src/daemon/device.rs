//! The device and the sockets, each taken for us alone. What belongs to somebody else for good is
//! reported with that owner's name.

use std::net::SocketAddr;

use anyhow::{Error, Result};
use tracing::warn;
use weft_ctrl::controller::DEVICE_NAME;
use weft_sys::tun::{Tun, TunError, TunOptions};
use weft_sys::udp::{SocketError, SocketOptions, UdpSocket};

use super::owner;
use super::patience::patiently;
use crate::options::Without;

/// Packets that wait in the device for the worker. The kernel drops the newest without
/// back-pressure when they are too many, so this has to carry a burst of small packets over the
/// worker's longest absence, some 20 ms on a busy processor.
const DEVICE_QUEUE: u32 = 4096;

/// Bytes of each socket buffer, before the kernel's doubling. The usual default of 208 KiB holds
/// three trains of 64 KiB; this holds what 10 Gbit/s bring in 3 ms, the worker's usual absence when
/// others want its processor.
const SOCKET_BUFFER: usize = 4 << 20;

/// Opens the device for us alone. It is left down and without address.
pub(super) async fn open_device(without: Without) -> Result<Tun> {
    let options =
        TunOptions { name: DEVICE_NAME, queue_length: DEVICE_QUEUE, without: without.tun };
    let is_taken = |error: &TunError| matches!(error, TunError::Taken { .. });
    let error = match patiently("device", || Tun::open(&options), is_taken).await {
        Ok(tun) => return Ok(tun),
        Err(error) => error,
    };
    Err(match owner::of_device(DEVICE_NAME).filter(|_| is_taken(&error)) {
        Some(owner) => Error::new(error).context(format!("{DEVICE_NAME} belongs to {owner}")),
        None => error.into(),
    })
}

/// Opens a socket on each address for us alone: without `SO_REUSEPORT`, so that a second daemon
/// cannot silently take a part of the flows.
pub(super) async fn open_sockets(
    addresses: &[SocketAddr],
    without: Without,
) -> Result<Vec<UdpSocket>> {
    let mut sockets = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let socket = open_socket(address, without).await?;
        warn_about_buffers(&socket);
        sockets.push(socket);
    }
    Ok(sockets)
}

async fn open_socket(address: SocketAddr, without: Without) -> Result<UdpSocket> {
    let options = SocketOptions {
        receive_buffer: SOCKET_BUFFER,
        send_buffer: SOCKET_BUFFER,
        gro: !without.udp_gro,
        gso: !without.udp_gso,
        reuse_port: false,
    };
    let is_taken = |error: &SocketError| matches!(error, SocketError::Taken { .. });
    let error = match patiently("port", || UdpSocket::bind(address, &options), is_taken).await {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    Err(match owner::of_udp_port(address).filter(|_| is_taken(&error)) {
        Some(owner) => Error::new(error).context(format!("{address} belongs to {owner}")),
        None => error.into(),
    })
}

fn warn_about_buffers(socket: &UdpSocket) {
    let reached = socket.buffers();
    if reached.receive < SOCKET_BUFFER || reached.send < SOCKET_BUFFER {
        warn!(
            receive = reached.receive,
            send = reached.send,
            wanted = SOCKET_BUFFER,
            "socket buffers are smaller than wanted; bursts may be lost"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_owner() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = open_sockets(&[address], Without::default()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&format!("{address} belongs to ")), "{text}");
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    }
}
