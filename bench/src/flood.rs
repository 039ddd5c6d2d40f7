//! The `flood` command: what a stream keeps while somebody floods the daemon's port.
//!
//! A flood takes processor time from everybody on the way, whatever becomes of it. So the stream is
//! compared with what it has beside the same flood to a port that nobody has open.
//!
//! A flood of handshakes is the worst that a stranger can do to daemons that seal: each initiation
//! proves that its sender knows the host's public key, so that it is not refused before it costs
//! something.

mod initiations;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde::Serialize;

use crate::lab::{Lab, LabOptions, Namespace, Side, left_behind};
use crate::measure::{CONGESTION_CONTROL, stream_gbps};
use crate::path::{DaemonArguments, WeftNode};
use crate::publish::Output;
use crate::report::{Bar, Machine, median};

pub use initiations::initiations;

/// How long packets may take to flow before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// The share of the stream that is promised to stay, and that beside a flood of handshakes.
const KEPT_MIN: f64 = 0.70;
const KEPT_MIN_SEALED: f64 = 0.80;

/// Datagrams a second, unless the command line says another number.
const RATE: u32 = 100_000;
const RATE_INITIATIONS: u32 = 10_000;

/// Strangers who begin handshakes.
const STRANGERS: usize = 64;

/// The port of the daemon, and one that is closed.
const PORT: u16 = 8285;
const CLOSED_PORT: u16 = 8286;

/// How often the flood takes a breath; between two breaths it sends what is due.
const TICK: Duration = Duration::from_millis(1);

/// What to send how often.
#[derive(Args, Clone, Debug)]
pub struct FloodArguments {
    /// How often each of the three figures is taken, in turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each stream runs, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    secs: u32,
    /// Datagrams of the flood a second, if the sender can [default: 100000, or 10000 with --initiations]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    rate: Option<u32>,
    /// Bytes of each datagram of the flood
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1472), conflicts_with = "initiations")]
    bytes: u16,
    /// The daemons seal, and are flooded with initiations of handshakes from strangers who know their key
    #[arg(long)]
    initiations: bool,
    #[command(flatten)]
    daemons: DaemonArguments,
    #[command(flatten)]
    output: Output,
}

/// What runs beside the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Beside {
    Nothing,
    ClosedPort,
    DaemonsPort,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::ClosedPort, Beside::DaemonsPort];

    fn port(self) -> Option<u16> {
        match self {
            Beside::Nothing => None,
            Beside::ClosedPort => Some(CLOSED_PORT),
            Beside::DaemonsPort => Some(PORT),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "alone",
            Beside::ClosedPort => "flood to a closed port",
            Beside::DaemonsPort => "flood to the daemon",
        }
    }
}

/// One stream.
#[derive(Clone, Copy, Debug, Serialize)]
struct Stream {
    beside: Beside,
    /// What arrived in the other pod, in Gbit/s.
    gbps: f64,
    /// Datagrams of the flood that were sent, thousands a second.
    flood_kpps: f64,
    /// Datagrams that the daemon dropped meanwhile, for whatever reason, thousands a second.
    dropped_kpps: f64,
}

impl FloodArguments {
    fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.initiations { RATE_INITIATIONS } else { RATE })
    }

    /// The datagrams of a flood to this daemon, in turn.
    fn datagrams(&self, node: &WeftNode, host: &Namespace) -> Result<Vec<Vec<u8>>> {
        if !self.initiations {
            return Ok(vec![vec![0; usize::from(self.bytes)]]);
        }
        let key = node.status(host)?["sealing"]["key"].take();
        initiations(key.as_str().context("The daemon says no key")?, STRANGERS)
    }
}

#[derive(Clone, Debug, Serialize)]
struct FloodReport {
    kept_min: f64,
    machine: Machine,
    command: String,
    congestion_control: &'static str,
    engine: String,
    rounds: Vec<Stream>,
    medians: Vec<Stream>,
}

/// Measures as told, prints the figures, and says whether all is well.
pub fn run(arguments: &FloodArguments) -> Result<bool> {
    let mut weft = arguments.daemons.weft()?;
    if arguments.initiations {
        weft.seal();
    }
    let lab = Lab::new(LabOptions::default())?;
    let mut nodes = [weft.start(&lab, Side::One)?, weft.start(&lab, Side::Two)?];
    let check = || nodes.iter_mut().try_for_each(|node| node.process_mut().check_running());
    lab.wait_for_reply(Side::One, Side::Two.pod_address().into(), PATIENCE, check)?;
    let engine = nodes[1].engine(lab.host(Side::Two))?;
    let datagrams = arguments.datagrams(&nodes[1], lab.host(Side::Two))?;
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        for beside in Beside::ALL {
            let stream = measure(&lab, (&nodes[1], &datagrams), beside, arguments)?;
            eprintln!("flood: round {}, {}: {:.2} Gbit/s", round + 1, beside.name(), stream.gbps);
            rounds.push(stream);
        }
    }
    for mut node in nodes {
        let status = node.process_mut().stop()?;
        ensure!(status.success(), "A daemon ended with {status}");
    }
    lab.close()?;
    ensure!(left_behind().is_empty(), "Left behind: {}", left_behind().join(", "));
    let report = FloodReport {
        kept_min: if arguments.initiations { KEPT_MIN_SEALED } else { KEPT_MIN },
        machine: Machine::describe(),
        command: Machine::command_line(),
        congestion_control: CONGESTION_CONTROL,
        engine,
        medians: Beside::ALL.into_iter().filter_map(|beside| middle(&rounds, beside)).collect(),
        rounds,
    };
    arguments.output.publish(&report.to_string(), &report, &[report.bar()])
}

/// One stream from pod 1 to pod 2, beside a flood from host 1, whose address is a peer's, to host 2.
fn measure(
    lab: &Lab,
    (node, datagrams): (&WeftNode, &[Vec<u8>]),
    beside: Beside,
    arguments: &FloodArguments,
) -> Result<Stream> {
    let dropped = || -> Result<f64> {
        let status = node.status(lab.host(Side::Two))?;
        status["traffic"]["inbound"]["drops"].as_f64().context("The daemon counts no drops")
    };
    let (before, start) = (dropped()?, Instant::now());
    let Some(port) = beside.port() else {
        let gbps = stream_gbps(lab, arguments.secs)?;
        return Ok(Stream { beside, gbps, flood_kpps: 0.0, dropped_kpps: 0.0 });
    };
    let socket = lab.host(Side::One).udp_socket(Side::One.underlay_address().into())?;
    socket.set_nonblocking(true).context("Cannot prepare a socket")?;
    let over = AtomicBool::new(false);
    let (gbps, sent) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&socket, port, (datagrams, arguments.rate()), &over));
        let gbps = stream_gbps(lab, arguments.secs);
        over.store(true, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| anyhow!("The thread that floods has panicked"))??;
        gbps.map(|gbps| (gbps, sent))
    })?;
    let per_second = |count: f64| count / start.elapsed().as_secs_f64() / 1e3;
    let dropped_kpps = per_second(dropped()? - before);
    Ok(Stream { beside, gbps, flood_kpps: per_second(sent as f64), dropped_kpps })
}

/// Sends the datagrams in turn to host 2, so many a second, until told that it is over; how many were
/// sent. The socket must not block.
///
/// # Errors
/// The socket cannot be used.
pub fn flood(
    socket: &UdpSocket,
    port: u16,
    (datagrams, rate): (&[Vec<u8>], u32),
    over: &AtomicBool,
) -> Result<u64> {
    let target = (Side::Two.underlay_address(), port);
    let (start, mut sent, mut tried) = (Instant::now(), 0, 0);
    let mut datagrams = datagrams.iter().cycle();
    while !over.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while tried < due {
            tried += 1;
            let datagram = datagrams.next().context("A flood needs a datagram")?;
            match socket.send_to(datagram, target) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("Cannot send a flood"),
            }
        }
        // What could not be sent in time is not made up for.
        tried = due;
        std::thread::sleep(TICK);
    }
    Ok(sent)
}

/// The medians of each figure over the rounds beside one flood.
fn middle(rounds: &[Stream], beside: Beside) -> Option<Stream> {
    let of = |figure: fn(&Stream) -> f64| {
        median(rounds.iter().filter(|stream| stream.beside == beside).map(figure).collect())
    };
    Some(Stream {
        beside,
        gbps: of(|stream| stream.gbps)?,
        flood_kpps: of(|stream| stream.flood_kpps)?,
        dropped_kpps: of(|stream| stream.dropped_kpps)?,
    })
}

impl FloodReport {
    fn bar(&self) -> Bar {
        let gbps = |beside| {
            self.medians.iter().find(|stream| stream.beside == beside).map(|stream| stream.gbps)
        };
        let value = gbps(Beside::DaemonsPort)
            .zip(gbps(Beside::ClosedPort))
            .map(|(attacked, closed)| attacked / closed);
        let name = "stream beside a flood / beside one to a closed port";
        Bar { name, value, limit: self.kept_min, at_most: false }
    }
}

impl Display for FloodReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n`{}`, engine {}\n", self.machine, self.command, self.engine)?;
        writeln!(out, "medians of one TCP stream     Gbit/s  flood kpps  dropped kpps")?;
        for stream in &self.medians {
            let Stream { beside, gbps, flood_kpps, dropped_kpps } = stream;
            let name = beside.name();
            writeln!(out, "{name:28} {gbps:7.2}  {flood_kpps:10.0}  {dropped_kpps:12.0}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(closed: &[f64], attacked: &[f64]) -> FloodReport {
        let stream = |beside| {
            move |&gbps: &f64| Stream { beside, gbps, flood_kpps: 100.0, dropped_kpps: 90.0 }
        };
        let closed = closed.iter().map(stream(Beside::ClosedPort));
        let rounds: Vec<Stream> =
            closed.chain(attacked.iter().map(stream(Beside::DaemonsPort))).collect();
        FloodReport {
            kept_min: KEPT_MIN,
            machine: Machine::default(),
            command: "weft-bench flood".into(),
            congestion_control: CONGESTION_CONTROL,
            engine: "uring".into(),
            medians: Beside::ALL.into_iter().filter_map(|beside| middle(&rounds, beside)).collect(),
            rounds,
        }
    }

    #[test]
    fn the_bar_compares_medians_of_the_two_floods() {
        let kept = report(&[4.0, 10.0, 5.0], &[0.1, 4.0, 9.0]);
        assert_eq!(kept.bar().value, Some(0.8));
        assert!(kept.bar().holds());
        assert!(!report(&[10.0], &[6.9]).bar().holds());
        assert!(!report(&[10.0], &[]).bar().holds(), "what was not measured is not kept");
    }

    #[test]
    fn the_table_has_a_line_for_each_flood() {
        let text = report(&[5.0], &[4.0]).to_string();
        assert!(
            text.contains("flood to a closed port          5.00         100            90"),
            "{text}"
        );
        assert!(text.contains("flood to the daemon             4.00"), "{text}");
    }
}
