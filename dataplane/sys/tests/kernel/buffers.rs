//! Gathers and frames, as a worker has them, for tests that send and receive.

use std::thread::sleep;
use std::time::{Duration, Instant};

use weft_sys::frame::{FramePool, PoolShape};
use weft_sys::gather::Gather;
use weft_sys::region::{PAGE, Region};
use weft_sys::ring::{Datagram, Errno};
use weft_sys::udp::{SockAddr, UdpSocket};

pub(crate) struct Buffers {
    region: Region,
    pub(crate) pool: FramePool,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers::with(PoolShape { frames: 8, capacity: 65_700, stride: 65_728 })
    }

    pub(crate) fn with(shape: PoolShape) -> Buffers {
        let gathers = 128 * (weft_sys::gather::ARENA + 64);
        let region = Region::map(shape.footprint() + gathers + PAGE).unwrap();
        let pool = FramePool::new(&region, shape, 0);
        Buffers { region, pool }
    }

    pub(crate) fn gather(&self, bytes: &[u8]) -> Gather {
        let mut gather = Gather::new(&self.region, 0);
        gather.push_copy(bytes);
        gather
    }

    pub(crate) fn train(&self, to: &SockAddr, bytes: &[u8]) -> Gather {
        let mut gather = self.gather(bytes);
        gather.set_name(*to);
        gather
    }
}

/// Sends one train.
pub(crate) fn send(
    socket: &UdpSocket,
    to: &SockAddr,
    bytes: &[u8],
    segment: Option<u16>,
) -> Result<usize, Errno> {
    let mut train = Buffers::new().train(to, bytes);
    socket.send_trains([(&mut train, segment)])
}

/// The next datagram, waited for at most a second.
pub(crate) fn receive(socket: &UdpSocket, buffers: &Buffers) -> Datagram {
    let start = Instant::now();
    let mut datagrams = Vec::new();
    while datagrams.is_empty() {
        match socket.receive_trains(&buffers.pool, |datagram| datagrams.push(datagram)) {
            Ok(_) => {}
            Err(Errno::AGAIN) => sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(1), "nothing arrived");
    }
    assert_eq!(datagrams.len(), 1, "{datagrams:?}");
    datagrams.remove(0)
}
