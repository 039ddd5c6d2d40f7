//! The device and the sockets, each taken for us alone. What belongs to somebody else for good is
//! reported with that owner's name.

use std::net::SocketAddr;

use anyhow::{Context, Error, Result};
use tracing::warn;
use weft_ctrl::controller::DEVICE_NAME;
use weft_sys::tun::{Tun, TunError, TunOptions};
use weft_sys::udp::{SocketError, SocketOptions, UdpSocket};

use super::owner;
use super::patience::patiently;
use super::workers::{Crew, WorkerSockets, sender_address};
use crate::options::Without;

/// Packets that wait in the device for the worker. The kernel drops the newest without
/// back-pressure when they are too many, so this has to carry a burst of small packets over the
/// worker's longest absence, some 20 ms on a busy processor.
const DEVICE_QUEUE: u32 = 4096;

/// Bytes of each socket buffer, before the kernel's doubling. The usual default of 208 KiB holds
/// three trains of 64 KiB; this holds what 10 Gbit/s bring in 3 ms, the worker's usual absence when
/// others want its processor.
const SOCKET_BUFFER: usize = 4 << 20;

/// Opens the device for us alone, with a queue for each worker. It is left down and without address.
pub(super) async fn open_device(crew: &mut Crew, without: Without) -> Result<Vec<Tun>> {
    let options =
        TunOptions { name: DEVICE_NAME, queue_length: DEVICE_QUEUE, without: without.tun };
    if let Some(steering) = crew.steering() {
        let count = usize::from(crew.count);
        match open_patiently(|| Tun::open_queues(&options, count, &steering)).await {
            Err(TunError::Steering(error)) => crew.shrink_to_one(error.to_string()),
            outcome => return outcome.map_err(with_owner),
        }
    }
    let tun = open_patiently(|| Tun::open(&options)).await;
    tun.map(|tun| vec![tun]).map_err(with_owner)
}

async fn open_patiently<T>(open: impl FnMut() -> Result<T, TunError>) -> Result<T, TunError> {
    patiently("device", open, |error| matches!(error, TunError::Taken { .. })).await
}

fn with_owner(error: TunError) -> Error {
    let is_taken = matches!(error, TunError::Taken { .. });
    match owner::of_device(DEVICE_NAME).filter(|_| is_taken) {
        Some(owner) => Error::new(error).context(format!("{DEVICE_NAME} belongs to {owner}")),
        None => error.into(),
    }
}

/// Opens the sockets of all workers, on each address one that receives for each worker, and for each
/// but the first one that sends from a port of its own. All are for us alone, so that a second daemon
/// cannot silently take a part of the flows.
pub(super) async fn open_sockets(
    addresses: &[SocketAddr],
    workers: u16,
    without: Without,
) -> Result<Vec<WorkerSockets>> {
    let mut all: Vec<WorkerSockets> = (0..workers).map(|_| WorkerSockets::default()).collect();
    for &address in addresses {
        let bind = |options: &SocketOptions| UdpSocket::bind_group(address, options, workers);
        let group = open_socket(address, without, bind).await?;
        for (number, (worker, socket)) in (0..).zip(all.iter_mut().zip(group)) {
            warn_about_buffers(&socket);
            worker.receivers.push(socket);
            if number > 0 {
                worker.senders.push(open_sender(address, number, without).await?);
            }
        }
    }
    Ok(all)
}

async fn open_sender(address: SocketAddr, worker: u16, without: Without) -> Result<UdpSocket> {
    let address = sender_address(address, worker);
    let bind = |options: &SocketOptions| UdpSocket::bind_sender(address, options);
    let needed = || {
        format!(
            "Worker {worker} needs {address} to send from. Free it, start fewer --workers, or \
             choose another Backend.Port for all hosts"
        )
    };
    open_socket(address, without, bind).await.with_context(needed)
}

async fn open_socket<T>(
    address: SocketAddr,
    without: Without,
    bind: impl Fn(&SocketOptions) -> Result<T, SocketError>,
) -> Result<T> {
    let options = SocketOptions {
        receive_buffer: SOCKET_BUFFER,
        send_buffer: SOCKET_BUFFER,
        gro: !without.udp_gro,
        gso: !without.udp_gso,
        reuse_port: false,
    };
    let is_taken = |error: &SocketError| matches!(error, SocketError::Taken { .. });
    let error = match patiently("port", || bind(&options), is_taken).await {
        Ok(opened) => return Ok(opened),
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
        for workers in [1, 2] {
            let opened = open_sockets(&[address], workers, Without::default()).await;
            let text = format!("{:#}", opened.unwrap_err());
            assert!(text.contains(&format!("{address} belongs to ")), "{text}");
            assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        }
    }

    #[tokio::test]
    async fn a_taken_source_port_names_its_worker_and_what_to_do() {
        let address: SocketAddr = "127.94.1.1:8285".parse().unwrap();
        let taken = std::net::UdpSocket::bind("127.94.1.1:8287").unwrap();
        let opened = open_sockets(&[address], 3, Without::default()).await;
        let text = format!("{:#}", opened.unwrap_err());
        assert!(text.contains("Worker 2 needs 127.94.1.1:8287"), "{text}");
        assert!(text.contains("--workers") && text.contains("Backend.Port"), "{text}");
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        drop(taken);
    }

    #[tokio::test]
    async fn every_worker_receives_at_one_port_and_sends_from_its_own() {
        let address: SocketAddr = "127.94.1.2:8285".parse().unwrap();
        let all = open_sockets(&[address], 3, Without::default()).await.unwrap();
        let ports = |sockets: &[UdpSocket]| -> Vec<u16> {
            sockets.iter().map(|socket| socket.local().port()).collect()
        };
        let all: Vec<_> =
            all.iter().map(|worker| (ports(&worker.receivers), ports(&worker.senders))).collect();
        let expected = [vec![], vec![8286], vec![8287]].map(|senders| (vec![8285], senders));
        assert_eq!(all, expected);
    }
}
