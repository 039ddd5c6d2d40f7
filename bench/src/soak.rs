//! The `soak` command: two daemons under full load in both directions at once, for long. Memory must
//! stay flat, every segment must be accounted for, and nothing may be said at level error.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::lab::{Lab, LabOptions, Memory, Process, Side, left_behind};
use crate::measure::CONGESTION_CONTROL;
use crate::path::{DaemonArguments, WeftNode};
use crate::publish::Output;
use crate::report::{Bar, Machine};

/// How long a daemon may take to let packets flow, and its counters to add up after the load.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a load program may take beyond its time.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks at the counters.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Memory may grow for this long, while buffers are used for the first time; in a short run for half
/// of it.
const WARM_UP: Duration = Duration::from_secs(60);

/// How much memory may grow after that, in KiB.
const GROWTH_KIB_MAX: f64 = 1024.0;

/// Ports of the load's servers: for streams and for datagrams.
const PORTS: [&str; 2] = ["5201", "5202"];

/// TCP streams of each direction.
const STREAMS: &str = "2";

/// Small datagrams beside the streams, so that both kinds of work meet, in bits a second of payload.
/// Streams yield to datagrams, so these must leave them room.
const DATAGRAM_RATE: &str = "5M";

/// How long to load what.
#[derive(Args, Clone, Debug)]
pub struct SoakArguments {
    /// How long, in seconds
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(2..=604_800))]
    secs: u32,
    /// Seconds from one look at the memory to the next
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    period: u32,
    #[command(flatten)]
    daemons: DaemonArguments,
    #[command(flatten)]
    output: Output,
}

/// The memory of both daemons at one moment: resident, locked and pinned, in KiB.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    seconds: f64,
    memory_kib: [u64; 2],
}

#[derive(Clone, Debug, Default, Serialize)]
struct SoakReport {
    machine: Machine,
    command: String,
    engine: String,
    seconds: u32,
    warm_up_seconds: u64,
    samples: Vec<Sample>,
    /// The most that a daemon's memory grew after the warm-up.
    growth_kib_max: f64,
    /// Segments of each host, out of the device and into it.
    segments: [[u64; 2]; 2],
    /// Segments that are neither handed on nor counted as dropped, of both hosts and directions.
    unaccounted: f64,
    /// Lines of the logs at level error.
    error_lines: usize,
    /// Warnings of both logs, in their order.
    warnings: Vec<String>,
}

/// Loads as told, prints what was seen, and says whether all is well.
pub fn run(arguments: &SoakArguments) -> Result<bool> {
    let weft = arguments.daemons.weft()?;
    let lab = Lab::new(LabOptions::default())?;
    let mut nodes = vec![weft.start(&lab, Side::One)?, weft.start(&lab, Side::Two)?];
    let check = || nodes.iter_mut().try_for_each(|node| node.process_mut().check_running());
    lab.wait_for_reply(Side::One, Side::Two.pod_address().into(), PATIENCE, check)?;
    let mut report = SoakReport {
        machine: Machine::describe(),
        command: Machine::command_line(),
        engine: nodes[0].engine(lab.host(Side::One))?,
        seconds: arguments.secs,
        ..SoakReport::default()
    };
    let time = Duration::from_secs(arguments.secs.into());
    let warm_up = WARM_UP.min(time / 2);
    report.warm_up_seconds = warm_up.as_secs();
    report.samples = load_and_watch(&lab, &mut nodes, arguments)?;
    report.growth_kib_max = growth_kib_max(&report.samples, warm_up);
    report.account(&lab, &nodes)?;
    report.stop(nodes)?;
    lab.close()?;
    ensure!(left_behind().is_empty(), "Left behind: {}", left_behind().join(", "));
    let bars_hold = arguments.output.publish(&report.to_string(), &report, &report.bars())?;
    // Memory needs time to be judged; the rest is wrong after however short a run.
    Ok(bars_hold && report.unaccounted == 0.0 && report.error_lines == 0)
}

/// Runs the load to its end; the memory of both daemons meanwhile. A daemon or a load program that
/// ends early is an error.
fn load_and_watch(
    lab: &Lab,
    nodes: &mut [WeftNode],
    arguments: &SoakArguments,
) -> Result<Vec<Sample>> {
    let mut servers = start_servers(lab)?;
    let mut clients = start_clients(lab, arguments.secs)?;
    let start = Instant::now();
    let period = Duration::from_secs(arguments.period.into());
    let mut samples: Vec<Sample> = Vec::new();
    while start.elapsed() < Duration::from_secs(arguments.secs.into()) {
        let taken = u32::try_from(samples.len()).unwrap_or(u32::MAX);
        let next = period.saturating_mul(taken);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
        let mut memory_kib = [0; 2];
        for (memory, node) in memory_kib.iter_mut().zip(nodes.iter_mut()) {
            node.process_mut().check_running()?;
            let read = Memory::read(node.process().id())?;
            *memory = read.resident_kib + read.locked_kib + read.pinned_kib;
        }
        samples.push(Sample { seconds: start.elapsed().as_secs_f64(), memory_kib });
        eprintln!("soak: {:.0} s, memory {memory_kib:?} KiB", start.elapsed().as_secs_f64());
    }
    for client in &mut clients {
        let status = client.wait(LOAD_PATIENCE)?;
        ensure!(status.success(), "The load has failed: {}", client.complaint());
    }
    servers.iter_mut().try_for_each(|server| server.stop().map(drop))?;
    Ok(samples)
}

fn start_servers(lab: &Lab) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for side in Side::BOTH {
        for port in PORTS {
            let command = ["iperf3", "--server", "--forceflush", "--port", port];
            let mut server = lab.pod(side).spawn(&command)?;
            server.wait_for_output("Server listening", PATIENCE)?;
            servers.push(server);
        }
    }
    Ok(servers)
}

fn start_clients(lab: &Lab, seconds: u32) -> Result<Vec<Process>> {
    let seconds = seconds.to_string();
    let [streams, datagrams] = PORTS;
    let mut clients = Vec::new();
    for side in Side::BOTH {
        let target = side.other().pod_address().to_string();
        let basic = ["iperf3", "--client", &target, "--time", &seconds, "--interval", "0"];
        #[rustfmt::skip]
        let kinds: [&[&str]; 2] = [
            &["--port", streams, "--congestion", CONGESTION_CONTROL, "--parallel", STREAMS],
            &["--port", datagrams, "--udp", "--length", "64", "--bitrate", DATAGRAM_RATE],
        ];
        for kind in kinds {
            clients.push(lab.pod(side).spawn(&[&basic[..], kind].concat())?);
        }
    }
    Ok(clients)
}

/// How much the memory of a daemon grew after the warm-up, in KiB: its largest value compared with
/// the last one before.
fn growth_kib_max(samples: &[Sample], warm_up: Duration) -> f64 {
    let is_early = |sample: &Sample| sample.seconds <= warm_up.as_secs_f64();
    let (early, late) = samples.split_at(samples.partition_point(is_early));
    let Some(base) = early.last() else { return f64::NAN };
    let growth = |sample: &Sample, node: usize| {
        sample.memory_kib[node] as f64 - base.memory_kib[node] as f64
    };
    let all = late.iter().flat_map(|sample| [growth(sample, 0), growth(sample, 1)]);
    all.reduce(f64::max).unwrap_or(f64::NAN)
}

/// The segments handed on in each direction, and how many are neither handed on nor dropped.
fn handed_on(traffic: &Value) -> Result<([u64; 2], u64)> {
    let number = |part: &str, name: &str| {
        let value = traffic[part][name].as_u64();
        value.with_context(|| format!("The daemon has no counter {part} {name}"))
    };
    let (mut handed_on, mut missing) = ([0; 2], 0);
    for (segments, part) in handed_on.iter_mut().zip(["outbound", "inbound"]) {
        *segments = number(part, "segments_out")?;
        missing += number(part, "segments_in")?.abs_diff(*segments + number(part, "drops")?);
    }
    Ok((handed_on, missing))
}

impl SoakReport {
    /// Reads the counters until they add up, or what is missing stays missing.
    fn account(&mut self, lab: &Lab, nodes: &[WeftNode]) -> Result<()> {
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            let start = Instant::now();
            self.unaccounted += loop {
                let status = nodes[index].status(lab.host(side))?;
                let (segments, missing) = handed_on(&status["traffic"])?;
                self.segments[index] = segments;
                if missing == 0 || start.elapsed() > PATIENCE {
                    break missing as f64;
                }
                std::thread::sleep(LOOK_PERIOD);
            };
        }
        Ok(())
    }

    /// Ends the daemons and reads their logs.
    fn stop(&mut self, nodes: Vec<WeftNode>) -> Result<()> {
        for mut node in nodes {
            let status = node.process_mut().stop()?;
            ensure!(status.success(), "A daemon ended with {status}");
            let log = node.process().stderr()?;
            self.error_lines += log.lines().filter(|line| line.contains(" ERROR ")).count();
            let warnings = log.lines().filter(|line| line.contains(" WARN "));
            self.warnings.extend(warnings.map(str::to_owned));
        }
        Ok(())
    }

    fn bars(&self) -> Vec<Bar> {
        let most = |name, limit, value| Bar { name, value: Some(value), limit, at_most: true };
        vec![
            most("growth of memory after the warm-up in KiB", GROWTH_KIB_MAX, self.growth_kib_max),
            most("segments unaccounted for", 0.0, self.unaccounted),
            most("log lines at level error", 0.0, self.error_lines as f64),
        ]
    }
}

impl Display for SoakReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(out, "`{}`, engine {}\n", self.command, self.engine)?;
        let range = |node: usize| {
            let values = self.samples.iter().map(|sample| sample.memory_kib[node]);
            (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
        };
        for (index, side) in Side::BOTH.into_iter().enumerate() {
            let ((least, most), [out_of, into]) = (range(index), self.segments[index]);
            writeln!(
                out,
                "host {}: memory {least} to {most} KiB, {out_of} segments sent, {into} received",
                side.number()
            )?;
        }
        let warm_up = self.warm_up_seconds;
        writeln!(out, "{} s, of which {warm_up} s are the warm-up", self.seconds)?;
        write!(out, "{} warnings", self.warnings.len())?;
        self.warnings.iter().take(5).try_for_each(|line| write!(out, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_neither_handed_on_nor_dropped_is_found() {
        let part = |came: u64| json!({"segments_in": came, "segments_out": 7, "drops": 3});
        let traffic = |out: u64, into: u64| json!({"outbound": part(out), "inbound": part(into)});
        assert_eq!(handed_on(&traffic(10, 10)).unwrap(), ([7, 7], 0));
        assert_eq!(handed_on(&traffic(12, 9)).unwrap(), ([7, 7], 3));
        assert!(handed_on(&Value::Null).is_err());
    }

    #[test]
    fn growth_is_counted_from_the_end_of_the_warm_up() {
        let samples = [(0.0, [10, 10]), (60.0, [500, 400]), (70.0, [510, 390]), (80.0, [505, 420])];
        let samples = samples.map(|(seconds, memory_kib)| Sample { seconds, memory_kib });
        let growth = |count: usize| growth_kib_max(&samples[..count], Duration::from_secs(60));
        assert_eq!((growth(3), growth(4)), (10.0, 20.0));
        assert!(growth(2).is_nan() && growth(0).is_nan(), "nothing to compare breaks the bar");
    }
}
