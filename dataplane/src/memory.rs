//! How much memory a worker takes: all of it is mapped at start, and the sum is a constant.

use weft_sys::{
    frame::PoolShape,
    gather::{ARENA, Gather},
    region::{PAGE, Region},
    ring::{Datagram, Pools},
};

use weft_forward::virtio;

/// The longest packet that IP can say the length of.
const PACKET_MAX: usize = 65_535;

/// Frames for packets from the device. A frame holds one packet whatever its size, so this is
/// also how many small packets one turn can take.
pub(crate) const TUN_FRAMES: u16 = 128;

/// Frames for datagrams. Under load each holds a train.
pub(crate) const UDP_FRAMES: u16 = 64;

/// Trains that can be open, in the kernel or waiting for room in the socket at once.
pub(crate) const TRAINS: u16 = 64;

/// Packets that can be on their way into the device at once. Datagrams that cannot be joined
/// take one each.
pub(crate) const WRITES: u16 = 192;

/// Bytes of a train's arena where payloads stay in their frames.
pub(crate) const TRAIN_ARENA: usize = ARENA;

/// Bytes of a train's arena where all of it is written there.
pub(crate) const TRAIN_ARENA_SEALED: usize = 64 * 1024;

/// All gathers; trains have the numbers below [`TRAINS`].
pub(crate) const GATHERS: u16 = TRAINS + WRITES;

/// How many buffers a worker has, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Frames for packets from the device.
    pub tun_frames: u64,
    /// Frames for datagrams.
    pub udp_frames: u64,
    /// Trains.
    pub trains: u64,
    /// Writes into the device.
    pub writes: u64,
}

/// The buffers of one worker.
pub const BUFFERS: Buffers = Buffers {
    tun_frames: TUN_FRAMES as u64,
    udp_frames: UDP_FRAMES as u64,
    trains: TRAINS as u64,
    writes: WRITES as u64,
};

const TUN_SHAPE: PoolShape = PoolShape {
    frames: TUN_FRAMES,
    capacity: virtio::LENGTH + PACKET_MAX,
    stride: 64 * 1024 + 192,
};

const UDP_SHAPE: PoolShape = PoolShape {
    frames: UDP_FRAMES,
    capacity: Datagram::OVERHEAD + PACKET_MAX,
    stride: 64 * 1024 + 192,
};

const _: () = assert!(TUN_SHAPE.capacity <= TUN_SHAPE.stride);
const _: () = assert!(UDP_SHAPE.capacity <= UDP_SHAPE.stride);

/// Bytes of buffers that one worker maps. They cost memory when they are first used, and this is
/// the worst case.
pub const MEMORY: usize = TUN_SHAPE.footprint()
    + UDP_SHAPE.footprint()
    + TRAINS as usize * (TRAIN_ARENA_SEALED + 64)
    + WRITES as usize * (ARENA + 64)
    + PAGE;

// flanneld takes 33 MiB in all.
const _: () = assert!(MEMORY < 24 << 20, "a worker's buffers stay small");

/// Buffer group ids.
const TUN_GROUP: u16 = 0;
const UDP_GROUP: u16 = 1;

/// Cuts the pools and gathers of one worker out of one region. A train gets an arena of `train_arena`
/// bytes.
pub(crate) fn lay_out(train_arena: usize) -> std::io::Result<(Pools, Vec<Gather>)> {
    let region = Region::map(MEMORY)?;
    let pools = Pools {
        tun: weft_sys::frame::FramePool::new(&region, TUN_SHAPE, TUN_GROUP),
        udp: weft_sys::frame::FramePool::new(&region, UDP_SHAPE, UDP_GROUP),
    };
    let arena = |number| if number < TRAINS { train_arena } else { ARENA };
    let gather = |number| Gather::with_arena(&region, number, arena(number));
    let gathers = (0..GATHERS).map(gather).collect();
    Ok((pools, gathers))
}
