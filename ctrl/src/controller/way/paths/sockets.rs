//! The sockets of the probes: one for each path and family, at the first address of our subnet.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::config::PathKind;
use crate::health::{Datagram, port};
use crate::lease::Leaf;

/// Probes that wait for the loop. What does not find room is lost, as it may be on the way.
const WAITING_MAX: usize = 1024;

/// Bytes of the longest datagram.
const LENGTH_MAX: usize = 65_535;

/// Pause before a socket that could not be opened is tried again. An IPv6 address needs a moment
/// before it can be used.
const OPEN_PAUSE: Duration = Duration::from_secs(1);

/// A probe that has come.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) path: PathKind,
    pub(super) from: IpAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) at: std::time::Instant,
}

/// What probes are sent from and received at.
pub(super) struct Sockets {
    own: Leaf,
    paths: Vec<PathKind>,
    open: HashMap<(PathKind, bool), Open>,
    retry_at: Instant,
    /// The sockets could not be opened, which has been logged.
    told: bool,
    sender: mpsc::Sender<Arrival>,
    arrivals: mpsc::Receiver<Arrival>,
}

/// One of them. What receives ends with it.
struct Open {
    socket: UdpSocket,
    receiving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Sockets {
    pub(super) fn new(own: Leaf, paths: &[PathKind]) -> Self {
        let (sender, arrivals) = mpsc::channel(WAITING_MAX);
        Self {
            own,
            paths: paths.to_vec(),
            open: HashMap::new(),
            retry_at: Instant::now(),
            told: false,
            sender,
            arrivals,
        }
    }

    pub(super) fn paths(&self) -> &[PathKind] {
        &self.paths
    }

    /// Opens what is not open yet.
    pub(super) fn keep_open(&mut self) {
        let wanted = self.own.subnets().count() * self.paths.len();
        if self.open.len() == wanted || Instant::now() < self.retry_at {
            return;
        }
        self.retry_at = Instant::now() + OPEN_PAUSE;
        for address in self.own.subnets().map(|subnet| subnet.network()) {
            for path in self.paths.clone() {
                let key = (path, address.is_ipv6());
                if self.open.contains_key(&key) {
                    continue;
                }
                match open(address, path, &self.sender) {
                    Ok(open) => drop(self.open.insert(key, open)),
                    Err(error) if self.told => {
                        debug!(%address, %path, %error, "no socket for probes");
                    }
                    Err(error) => {
                        self.told = true;
                        warn!(%address, %path, %error, "no socket for probes yet; it is tried again");
                    }
                }
            }
        }
    }

    /// What the kernel does not take is lost, as it may be on the way: there is a next one.
    pub(super) fn send(&self, datagram: &Datagram) {
        let Datagram { path, to, bytes } = datagram;
        if let Some(open) = self.open.get(&(*path, to.is_ipv6()))
            && let Err(error) = open.socket.send_to(bytes, SocketAddr::new(*to, port(*path)))
        {
            debug!(%to, %path, %error, "a probe was not sent");
        }
    }

    /// The next probe that comes.
    pub(super) async fn arrival(&mut self) -> Arrival {
        self.arrivals.recv().await.expect("a sender is kept")
    }
}

fn open(address: IpAddr, path: PathKind, sender: &mpsc::Sender<Arrival>) -> io::Result<Open> {
    let socket = UdpSocket::bind((address, port(path)))?;
    socket.set_nonblocking(true)?;
    // Large probes have to find out what fits, whatever the kernel believes.
    match address {
        IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
        IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    let receiver = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
    let receiving = tokio::spawn(receive(receiver, path, sender.clone()));
    Ok(Open { socket, receiving })
}

/// Errors tell of probes that were sent, and concern no other.
async fn receive(socket: tokio::net::UdpSocket, path: PathKind, sender: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; LENGTH_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) if from.port() == port(path) => {
                let (at, bytes) = (std::time::Instant::now(), buffer[..length].to_vec());
                let _ = sender.try_send(Arrival { path, from: from.ip(), bytes, at });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%path, %error, "a probe did not get through");
                tokio::task::yield_now().await;
            }
        }
    }
}
