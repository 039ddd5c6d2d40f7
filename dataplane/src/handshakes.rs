//! The thread that makes handshakes, as its control side sees it: started, told who the peers are,
//! looked at and stopped.
//!
//! Packet workers never wait for it: they put what concerns it into a bounded queue, and take the
//! sessions that it publishes ([`Sealing`]). It sends from the workers' port and receives nothing
//! itself.

mod life;
mod memory;
mod report;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    fmt, io,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use weft_seal::keys::{PrivateKey, PublicKey, Secret};

use crate::sealing::{Cipher, News, PeerName, Sealing};

use life::Life;
pub use memory::{Keep, Memory};
pub use report::{PeerReport, Report};

/// What the thread is made of.
pub struct HandshakesOptions {
    /// The node's key.
    pub private: PrivateKey,
    /// What all nodes know beside their keys; zero for nothing.
    pub preshared: Secret,
    /// Packet workers, over which sessions are spread.
    pub workers: u8,
    /// MTU of the device in bytes, up to which packets are padded.
    pub inner_mtu: u16,
    /// A second descriptor of a socket that a worker receives at, so that what the thread sends comes
    /// from there. It keeps the port taken until the thread gets another one or stops.
    pub socket: UdpSocket,
    /// Where sessions are published.
    pub sealing: Arc<Sealing<Cipher>>,
    /// What workers have to say.
    pub news: Receiver<News>,
    /// What must not be forgotten, from the last time.
    pub memory: Memory,
    /// Keeps it.
    pub keep: Keep,
}

impl fmt::Debug for HandshakesOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HandshakesOptions").finish_non_exhaustive()
    }
}

/// A peer, as its lease tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedPeer {
    /// Its place in the table.
    pub name: PeerName,
    /// Its public key.
    pub key: PublicKey,
    /// Where it is, until it shows that it is elsewhere.
    pub endpoint: SocketAddr,
    /// It sends from several ports, of which that of the endpoint receives.
    pub has_several_ports: bool,
}

/// What the thread has not yet taken notice of. Only the newest counts.
#[derive(Default)]
struct Wishes {
    peers: Option<Vec<SealedPeer>>,
    socket: Option<UdpSocket>,
    private: Option<PrivateKey>,
    stop: bool,
}

/// What both sides have.
struct Desk {
    wishes: Mutex<Wishes>,
    report: ArcSwap<Report>,
}

impl Desk {
    /// Nothing panics while it holds the lock.
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running thread. Dropping it tells the thread to stop but does not wait.
pub struct Handshakes {
    desk: Arc<Desk>,
    waker: Sender<()>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

/// Starts the thread. If it ends without being told to, `died` gets the reason: sessions then run out
/// and none follow, so the caller has to end as well.
///
/// # Errors
/// The kernel refused a thread.
pub fn spawn(
    options: HandshakesOptions,
    died: impl FnOnce(String) + Send + 'static,
) -> io::Result<Handshakes> {
    let (waker, wake) = bounded(1);
    let (end, ended) = bounded(1);
    let desk = Arc::new(Desk { wishes: Mutex::default(), report: ArcSwap::default() });
    let life = Life::new(options, Arc::clone(&desk), wake);
    let body = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| life.run())) {
            died(format!("panic: {}", panic_text(&*panic)));
        }
        let _ = end.send(());
    };
    let thread = thread::Builder::new().name("weft-handshakes".to_owned()).spawn(body)?;
    Ok(Handshakes { desk, waker, ended, thread: Some(thread) })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl Handshakes {
    /// These are the peers, and no others. Sessions of those that are gone end.
    pub fn set_peers(&self, peers: Vec<SealedPeer>) {
        self.wish(|wishes| wishes.peers = Some(peers));
    }

    /// Sends from this socket, the second descriptor of a worker's, from now on.
    pub fn set_socket(&self, socket: UdpSocket) {
        self.wish(|wishes| wishes.socket = Some(socket));
    }

    /// The node has another key. All sessions end; those with the new key begin at once where a peer
    /// knows it.
    pub fn set_key(&self, private: PrivateKey) {
        self.wish(|wishes| wishes.private = Some(private));
    }

    /// How everything is, at most some ticks ago.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        self.desk.report.load_full()
    }

    /// Stops the thread and waits for `patience`. Returns whether it ended in time.
    pub fn stop(mut self, patience: Duration) -> bool {
        self.wish(|wishes| wishes.stop = true);
        let in_time = self.ended.recv_timeout(patience).is_ok();
        if in_time && let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        in_time
    }

    fn wish(&self, make: impl FnOnce(&mut Wishes)) {
        make(&mut self.desk.wishes());
        // If it is full, the thread is about to look.
        let _ = self.waker.try_send(());
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.wish(|wishes| wishes.stop = true);
    }
}
