//! The sending end.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use weft_sys::gather::{ARENA, Gather};
use weft_sys::region::Region;
use weft_sys::ring::Errno;
use weft_sys::udp::{SEND_BATCH, SockAddr, UdpSocket};

use super::datagram::{BYTES_MAX, BYTES_MIN, Label};
use super::pace::{Next, Pace};

/// Send buffer of a socket: about the default of the kernel.
const BUFFER_BYTES: usize = 256 * 1024;

/// How long a full send buffer may stay full.
const PATIENCE_MS: u32 = 10_000;

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct SendArguments {
    /// Where to send to; several addresses are flows of their own
    #[arg(long, value_name = "ADDRESS", required = true, value_delimiter = ',')]
    to: Vec<IpAddr>,
    /// The port there
    #[arg(long, value_name = "PORT")]
    port: u16,
    /// Sockets to send from; each is a flow of its own to each address
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    sockets: u16,
    /// Bytes of each datagram; several sizes are sent in turn
    #[arg(long, value_name = "BYTES", default_values_t = [64], value_delimiter = ',', value_parser = clap::value_parser!(u16).range(i64::from(BYTES_MIN)..=i64::from(BYTES_MAX)))]
    sizes: Vec<u16>,
    /// Hand the kernel trains of this many datagrams, to be cut by it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    train: u16,
    /// Datagrams a second [default: as many as possible]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// For how long, in seconds
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    secs: f64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// For how long.
    pub seconds: f64,
}

pub(super) fn run(arguments: &SendArguments) -> Result<Sent> {
    ensure!(
        arguments.secs > 0.0 && arguments.secs <= 3600.0,
        "A load takes between 0 and 3600 seconds"
    );
    let largest = arguments.sizes.iter().copied().max().unwrap_or_default();
    ensure!(
        usize::from(largest) * usize::from(arguments.train) <= ARENA,
        "A train of {} datagrams of {largest} bytes is too long",
        arguments.train
    );
    ensure!(
        arguments.train == 1 || arguments.sizes.len() == 1,
        "The datagrams of a train have one size"
    );
    Sender::new(arguments)?.run(arguments)
}

struct Sender {
    sockets: Vec<UdpSocket>,
    targets: Vec<SockAddr>,
    /// The next number of each flow: of each target for each socket.
    numbers: Vec<u64>,
    /// Messages made so far, for the turns of targets and sizes.
    messages: usize,
    gathers: Vec<Gather>,
    sent: Sent,
}

impl Sender {
    fn new(arguments: &SendArguments) -> Result<Sender> {
        let sockets = (0..arguments.sockets).map(|_| super::open(0, BUFFER_BYTES));
        let sockets = sockets.collect::<Result<Vec<UdpSocket>>>()?;
        let most = sockets.iter().map(UdpSocket::segments_max).min().unwrap_or(1);
        ensure!(arguments.train <= most, "This kernel takes trains of at most {most} datagrams");
        let target = |address| SockAddr::from(SocketAddr::new(address, arguments.port));
        let targets: Vec<SockAddr> = arguments.to.iter().copied().map(target).collect();
        let region = Region::map(SEND_BATCH * (ARENA + 64)).context("Out of memory")?;
        let gathers = (0..SEND_BATCH as u16).map(|number| Gather::new(&region, number)).collect();
        let numbers = vec![0; sockets.len() * targets.len()];
        Ok(Sender { sockets, targets, numbers, messages: 0, gathers, sent: Sent::default() })
    }

    fn run(mut self, arguments: &SendArguments) -> Result<Sent> {
        let pace = arguments.rate.map(Pace::new);
        let train = usize::from(arguments.train);
        let time = Duration::from_secs_f64(arguments.secs);
        let start = Instant::now();
        for turn in 0.. {
            let elapsed = start.elapsed();
            if elapsed >= time {
                break;
            }
            let next = pace.map_or(Next::Send(SEND_BATCH * train), |pace| {
                pace.next(elapsed, self.sent.datagrams, SEND_BATCH * train)
            });
            match next {
                Next::Send(datagrams) => {
                    let socket = turn % self.sockets.len();
                    let count = self.fill(socket, datagrams.div_ceil(train), arguments);
                    self.flush(socket, count, arguments)?;
                }
                Next::Wait(pause) => std::thread::sleep(pause.min(time - elapsed)),
            }
        }
        self.sent.seconds = start.elapsed().as_secs_f64();
        Ok(self.sent)
    }

    /// Makes messages that go out from one socket, to the targets in turn; how many.
    fn fill(&mut self, socket: usize, messages: usize, arguments: &SendArguments) -> usize {
        let count = messages.min(self.gathers.len());
        for gather in &mut self.gathers[..count] {
            let target = self.messages % self.targets.len();
            let size = arguments.sizes[self.messages % arguments.sizes.len()];
            self.messages += 1;
            let flow = socket * self.targets.len() + target;
            gather.reset();
            gather.set_name(self.targets[target]);
            for _ in 0..arguments.train {
                let label = Label { flow: flow as u32, number: self.numbers[flow] };
                label.write(gather.push_space(size.into()));
                self.numbers[flow] += 1;
            }
        }
        count
    }

    /// Sends the first messages, waiting for room as often as it takes.
    fn flush(&mut self, socket: usize, count: usize, arguments: &SendArguments) -> Result<()> {
        let segment = (arguments.train > 1).then(|| arguments.sizes[0]);
        let socket = &self.sockets[socket];
        let mut first = 0;
        while first < count {
            let rest = &mut self.gathers[first..count];
            match socket.send_trains(rest.iter_mut().map(|gather| (gather, segment))) {
                Ok(sent) => {
                    let bytes: usize = rest[..sent].iter().map(Gather::len).sum();
                    self.sent.bytes += bytes as u64;
                    self.sent.datagrams += sent as u64 * u64::from(arguments.train);
                    first += sent;
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    let ready = super::wait_for(socket, PollFlags::OUT, PATIENCE_MS)?;
                    ensure!(ready, "The send buffer stays full");
                }
                Err(error) => bail!("Cannot send: {}", std::io::Error::from_raw_os_error(error.0)),
            }
        }
        Ok(())
    }
}
