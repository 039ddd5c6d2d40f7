//! The receiving end.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use weft_sys::frame::{FramePool, PoolShape};
use weft_sys::region::Region;
use weft_sys::ring::{Datagram, Errno};
use weft_sys::udp::{RECEIVE_BATCH, UdpSocket};

use super::datagram::{BYTES_MAX, Label};

/// Receive buffer of the socket: enough for what arrives while this program is not let run.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One frame a datagram, and some more so that two calls do not touch the same ones.
const POOL: PoolShape = PoolShape {
    frames: 2 * RECEIVE_BATCH as u16,
    capacity: Datagram::OVERHEAD + BYTES_MAX as usize,
    stride: (Datagram::OVERHEAD + BYTES_MAX as usize).next_multiple_of(64) + 64,
};

/// Flows that are told apart; what claims to be of another one is not ours.
const FLOWS_MAX: usize = 65_536;

/// Where and for how long to receive.
#[derive(Args, Clone, Debug)]
pub struct SinkArguments {
    /// The port, at every address; 0 for any that is free
    #[arg(long, value_name = "PORT")]
    port: u16,
    /// End when nothing has arrived for so long after the first datagram, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300)]
    idle: u32,
    /// End when nothing has arrived at all for so long, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    patience: u32,
}

/// What has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrived {
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// Datagrams that came after a later one of their flow.
    pub late: u64,
    /// From the first datagram to the last.
    pub seconds: f64,
}

pub(super) fn run(arguments: &SinkArguments) -> Result<Arrived> {
    let socket = super::open(arguments.port, BUFFER_BYTES)?;
    let region = Region::map(POOL.footprint()).context("Out of memory")?;
    let pool = FramePool::new(&region, POOL, 0);
    let mut count = Count::default();
    let port = socket.local().port();
    writeln!(std::io::stdout().lock(), "ready {port}").context("Cannot print")?;
    let mut first = None;
    let mut last = Instant::now();
    loop {
        let limit = if first.is_some() { arguments.idle } else { arguments.patience };
        if !super::wait_for(&socket, PollFlags::IN, limit)? {
            break;
        }
        if drain(&socket, &pool, &mut count)? {
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    let time = first.map_or(Duration::ZERO, |first| last.saturating_duration_since(first));
    Ok(Arrived { seconds: time.as_secs_f64(), ..count.arrived })
}

/// Takes all that is there; whether that was anything.
fn drain(socket: &UdpSocket, pool: &FramePool, count: &mut Count) -> Result<bool> {
    let before = count.arrived.datagrams;
    loop {
        match socket.receive_trains(pool, |datagram| count.handle(datagram.payload.bytes())) {
            Ok(true) => {}
            Ok(false) | Err(Errno::AGAIN) => break,
            Err(error) => bail!("Cannot receive: {}", std::io::Error::from_raw_os_error(error.0)),
        }
    }
    Ok(count.arrived.datagrams > before)
}

#[derive(Default)]
struct Count {
    arrived: Arrived,
    /// The number that is expected next, of each flow.
    next: Vec<u64>,
}

impl Count {
    fn handle(&mut self, datagram: &[u8]) {
        let Some(label) = Label::read(datagram) else { return };
        let flow = label.flow as usize;
        if flow >= FLOWS_MAX {
            return;
        }
        if flow >= self.next.len() {
            self.next.resize(flow + 1, 0);
        }
        self.arrived.datagrams += 1;
        self.arrived.bytes += datagram.len() as u64;
        let next = &mut self.next[flow];
        self.arrived.late += u64::from(label.number < *next);
        *next = (*next).max(label.number + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(flow: u32, number: u64) -> [u8; 64] {
        let mut datagram = [0; 64];
        Label { flow, number }.write(&mut datagram);
        datagram
    }

    #[test]
    fn late_datagrams_are_counted_flow_by_flow() {
        let mut count = Count::default();
        for (flow, number) in [(0, 0), (0, 2), (1, 0), (0, 1), (1, 1), (0, 3), (0, 3)] {
            count.handle(&datagram(flow, number));
        }
        let expected = Arrived { datagrams: 7, bytes: 7 * 64, late: 2, seconds: 0.0 };
        assert_eq!(count.arrived, expected);
    }

    #[test]
    fn strangers_are_not_counted() {
        let mut count = Count::default();
        count.handle(b"short");
        count.handle(&datagram(FLOWS_MAX as u32, 0));
        assert_eq!(count.arrived, Arrived::default());
    }
}
