//! A TCP connection between two pods that has to live through everything.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, SockAddr, Socket, Type};

use super::host::Host;

const PORT: u16 = 7000;

/// Bytes that go there and back before the next ones do.
const CHUNK: usize = 8192;

/// Between two chunks: traffic all the time, and most of the processor for the others.
const PAUSE: Duration = Duration::from_millis(2);

/// Longest wait for a chunk. TCP tries again with growing pauses, so it is longer than every outage of
/// packets in a test, by far.
const PATIENCE: Duration = Duration::from_secs(60);

/// Chunks that have to come back before the stream counts as alive.
const ALIVE: u64 = 20;

/// One connection, never made anew. What comes back is compared with what was sent.
pub(crate) struct Stream {
    chunks: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    client: JoinHandle<Result<(), String>>,
    server: JoinHandle<()>,
}

impl Stream {
    /// From a pod of one host to one of another.
    pub(crate) fn between(from: &Host, to: &Host) -> Self {
        Self::from_to((from, from.pod()), (to, to.pod()))
    }

    pub(crate) fn from_to((from, near): (&Host, IpAddr), (to, far): (&Host, IpAddr)) -> Self {
        Self::across((&from.namespace, near), (&to.namespace, far))
    }

    /// From an address in one network namespace to an address in another.
    pub(crate) fn across((from, near): (&str, IpAddr), (to, far): (&str, IpAddr)) -> Self {
        let (chunks, ending) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let address = SocketAddr::new(far, PORT);
        let listener = within(to, move || TcpListener::bind(address).unwrap()).join().unwrap();
        let server = std::thread::spawn(move || echo(&listener.accept().unwrap().0));
        let counted = (Arc::clone(&chunks), Arc::clone(&ending));
        let client = within(from, move || {
            let error = |error: std::io::Error| error.to_string();
            let connection = connect(near, address).map_err(error)?;
            exchange(connection, &counted.0, &counted.1).map_err(error)
        });
        let stream = Self { chunks, ending, client, server };
        stream.check("the start");
        stream
    }

    /// Waits until bytes have gone there and back again.
    pub(crate) fn check(&self, after: &str) {
        let goal = self.chunks.load(Ordering::Relaxed) + ALIVE;
        let end = Instant::now() + PATIENCE;
        while self.chunks.load(Ordering::Relaxed) < goal {
            let alive = !self.client.is_finished() && Instant::now() < end;
            assert!(alive, "the stream has not outlived {after}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Everything came back as it was sent, over one connection.
    pub(crate) fn end(self) {
        self.ending.store(true, Ordering::Relaxed);
        assert_eq!(self.client.join().unwrap(), Ok(()));
        self.server.join().unwrap();
    }
}

/// Runs on a thread within a network namespace.
fn within<T: Send + 'static>(
    namespace: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        body()
    })
}

fn connect(near: IpAddr, far: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(far), Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddr::new(near, 0)))?;
    socket.connect(&SockAddr::from(far))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn exchange(
    mut connection: TcpStream,
    chunks: &AtomicU64,
    ending: &AtomicBool,
) -> std::io::Result<()> {
    let mut back = vec![0; CHUNK];
    for number in 0_u64.. {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        let chunk = number.to_be_bytes().repeat(CHUNK / size_of::<u64>());
        connection.write_all(&chunk)?;
        connection.read_exact(&mut back)?;
        if back != chunk {
            return Err(std::io::Error::other("what came back is not what was sent"));
        }
        chunks.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE);
    }
    Ok(())
}

fn echo(mut connection: &TcpStream) {
    connection.set_nodelay(true).unwrap();
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
