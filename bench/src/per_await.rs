//! A comparator: a forwarder that awaits one packet at a time, on tokio-uring.
//!
//! It shows what `io_uring` gives when it is used like any asynchronous interface: two tasks, one for
//! each direction, each with one buffer and one operation in the ring. tokio-uring has one-shot
//! operations only, and one entry into the kernel for whatever is ready then. The wire format, the TTL
//! and the route table are those of [`crate::per_packet`]; unlike it, this forwarder answers nothing.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;

use anyhow::{Context, Result};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UdpSocket;

use crate::per_packet::{ForwarderOptions, HEADER_MIN, Routes, lower_ttl, print_ready};

/// The device, as the file that it is.
type Tun = tokio_uring::fs::File;

/// Makes the device and the route, prints `ready`, and forwards until the process is ended.
pub fn run(options: ForwarderOptions) -> Result<()> {
    let (tun, socket) = options.open()?;
    let tun = tun.as_fd().try_clone_to_owned().context("Cannot duplicate a descriptor")?;
    let (mtu, port) = (usize::from(options.mtu()?), options.port);
    let routes = Routes(options.peers);
    tokio_uring::start(async move {
        let tun = Rc::new(Tun::from_std(File::from(tun)));
        let socket = Rc::new(UdpSocket::from_std(socket));
        let inbound = inbound(Rc::clone(&tun), Rc::clone(&socket), vec![0; mtu]);
        let inbound = tokio_uring::spawn(inbound);
        print_ready()?;
        outbound(&tun, &socket, Way { routes, port }, vec![0; mtu]).await?;
        inbound.await.context("The inbound task ended")?
    })
}

/// Where packets go.
struct Way {
    routes: Routes,
    port: u16,
}

impl Way {
    /// The address to send a packet to, if it can go on.
    fn of(&mut self, packet: &mut [u8]) -> Option<SocketAddr> {
        let address = packet.get(..HEADER_MIN)?[16..].first_chunk::<4>()?;
        let peer = self.routes.find(Ipv4Addr::from(*address))?;
        lower_ttl(packet).then_some(SocketAddr::new(IpAddr::V4(peer), self.port))
    }
}

/// From the device to the peers.
async fn outbound(tun: &Tun, socket: &UdpSocket, mut way: Way, mut buffer: Vec<u8>) -> Result<()> {
    loop {
        // A device has no positions; the 0 means nothing.
        let (read, returned) = tun.read_at(buffer, 0).await;
        buffer = returned;
        let length = read.context("Cannot read the TUN device")?;
        let Some(address) = way.of(&mut buffer[..length]) else { continue };
        // An error loses this packet only.
        let (_, sent) = socket.send_to(buffer.slice(..length), address).await;
        buffer = sent.into_inner();
    }
}

/// From the peers to the device.
async fn inbound(tun: Rc<Tun>, socket: Rc<UdpSocket>, mut buffer: Vec<u8>) -> Result<()> {
    loop {
        let (received, returned) = socket.recv_from(buffer).await;
        buffer = returned;
        // An ICMP error that came back for an earlier datagram is no reason to end.
        let Ok((length, _)) = received else { continue };
        if length < HEADER_MIN || !lower_ttl(&mut buffer[..length]) {
            continue;
        }
        let (_, written) = tun.write_at(buffer.slice(..length), 0).submit().await;
        buffer = written.into_inner();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_to_its_peer_while_its_ttl_lasts() {
        let mut way =
            Way { routes: Routes(vec!["10.244.2.0/24=10.0.0.2".parse().unwrap()]), port: 9 };
        let mut packet = [0; HEADER_MIN];
        packet[8] = 2;
        packet[16..].copy_from_slice(&[10, 244, 2, 7]);
        assert_eq!(way.of(&mut packet), Some("10.0.0.2:9".parse().unwrap()));
        assert_eq!((packet[8], way.of(&mut packet)), (1, None));
        packet[8] = 2;
        packet[18] = 3;
        assert_eq!(way.of(&mut packet), None);
        assert_eq!(way.of(&mut packet[..19]), None);
    }
}
