//! The `restart` command: daemons are killed and started again while a train runs between the pods.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::lab::{Lab, LabOptions, Side, Signal, left_behind, wait_until};
use crate::path::{DaemonArguments, Weft, WeftNode};
use crate::publish::Output;
use crate::report::{Bar, Machine, median};
use crate::train::Train;

/// How long packets may take to flow again before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the train runs undisturbed before a kill and after a start.
const CALM: Duration = Duration::from_millis(300);

/// Pause between two looks for the end of a killed daemon, as short as that of a supervisor that is
/// told by a signal.
const LOOK_PERIOD: Duration = Duration::from_micros(200);

/// The longest gap that is allowed, start of the process included, in milliseconds.
const GAP_MS_MAX: f64 = 400.0;

/// How long after its start a daemon may let packets flow, in milliseconds.
const AFTER_START_MS_MAX: f64 = 200.0;

/// The same with sealed traffic, which needs a handshake with every peer first.
const AFTER_START_SEALED_MS_MAX: f64 = 500.0;

/// What to kill how often.
#[derive(Args, Clone, Debug)]
pub struct RestartArguments {
    /// How often a daemon is killed: host 1's and host 2's in turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    kills: u32,
    /// The daemons seal
    #[arg(long)]
    sealed: bool,
    #[command(flatten)]
    daemons: DaemonArguments,
    #[command(flatten)]
    output: Output,
}

/// One kill.
#[derive(Clone, Copy, Debug, Serialize)]
struct Kill {
    /// The host, 1 or 2.
    host: u8,
    /// From SIGKILL until the process was gone.
    gone_ms: f64,
    /// From then, when it was started again, to the first reply.
    after_start_ms: f64,
    /// The longest time without a reply.
    gap_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
struct RestartReport {
    machine: Machine,
    command: String,
    engine: String,
    kills: Vec<Kill>,
    gap_ms_median: f64,
    gap_ms_max: f64,
    after_start_ms_median: f64,
    after_start_ms_max: f64,
    /// The longest time without a reply while nobody was killed: what the machine itself does.
    calm_gap_ms_max: f64,
    train_sent: u64,
    train_received: u64,
}

/// Kills as told, prints what it cost, and says whether all is well.
pub fn run(arguments: &RestartArguments) -> Result<bool> {
    let mut weft = arguments.daemons.weft()?;
    if arguments.sealed {
        weft.seal();
    }
    let lab = Lab::new(LabOptions::default())?;
    let mut run = Run::start(&lab, weft)?;
    let mut kills = Vec::new();
    let mut calm_gap = Duration::ZERO;
    for number in 0..arguments.kills {
        let side = Side::BOTH[number as usize % Side::BOTH.len()];
        calm_gap = calm_gap.max(run.be_calm()?);
        let kill = run.kill(side)?;
        eprintln!("restart: host {}: a gap of {:.1} ms", kill.host, kill.gap_ms);
        kills.push(kill);
    }
    let engine = run.engine()?;
    let fate = run.train.fate();
    run.stop()?;
    lab.close()?;
    ensure!(left_behind().is_empty(), "Left behind: {}", left_behind().join(", "));
    let figures = |figure: fn(&Kill) -> f64| -> Vec<f64> { kills.iter().map(figure).collect() };
    let (gaps, starts) = (figures(|kill| kill.gap_ms), figures(|kill| kill.after_start_ms));
    let report = RestartReport {
        machine: Machine::describe(),
        command: Machine::command_line(),
        engine,
        gap_ms_max: gaps.iter().copied().fold(0.0, f64::max),
        gap_ms_median: median(gaps).unwrap_or(f64::NAN),
        after_start_ms_max: starts.iter().copied().fold(0.0, f64::max),
        after_start_ms_median: median(starts).unwrap_or(f64::NAN),
        calm_gap_ms_max: milliseconds(calm_gap),
        train_sent: fate.sent,
        train_received: fate.received,
        kills,
    };
    arguments.output.publish(&report.to_string(), &report, &report.bars(arguments.sealed))
}

/// Both daemons and the train between their pods.
struct Run<'a> {
    train: Train,
    nodes: [Option<WeftNode>; 2],
    weft: Weft,
    lab: &'a Lab,
}

impl<'a> Run<'a> {
    fn start(lab: &'a Lab, weft: Weft) -> Result<Run<'a>> {
        let mut nodes = [Some(weft.start(lab, Side::One)?), Some(weft.start(lab, Side::Two)?)];
        let check = || nodes.iter_mut().flatten().try_for_each(|n| n.process_mut().check_running());
        lab.wait_for_reply(Side::One, Side::Two.pod_address().into(), PATIENCE, check)?;
        Ok(Run { train: Train::start(lab)?, nodes, weft, lab })
    }

    /// Lets the train run for a while and gives its longest gap.
    fn be_calm(&self) -> Result<Duration> {
        let since = Instant::now();
        std::thread::sleep(CALM);
        ensure!(self.train.first_reply_after(since).is_some(), "The train gets no replies");
        Ok(self.train.longest_gap(since))
    }

    fn kill(&mut self, side: Side) -> Result<Kill> {
        let slot = &mut self.nodes[usize::from(side.number() - 1)];
        let mut node = slot.take().context("A daemon was not started again")?;
        let killed = Instant::now();
        node.process_mut().signal(Signal::KILL)?;
        while node.process_mut().poll()?.is_none() {
            ensure!(killed.elapsed() < PATIENCE, "A killed daemon does not end");
            std::thread::sleep(LOOK_PERIOD);
        }
        let started = Instant::now();
        let node = slot.insert(self.weft.start(self.lab, side)?);
        let first = wait_until("a reply after a restart", PATIENCE, || {
            node.process_mut().check_running()?;
            Ok(self.train.first_reply_after(started))
        });
        let first = first.with_context(|| node.process().complaint())?;
        std::thread::sleep(CALM);
        Ok(Kill {
            host: side.number(),
            gone_ms: milliseconds(started - killed),
            after_start_ms: milliseconds(first - started),
            gap_ms: milliseconds(self.train.longest_gap(killed - CALM)),
        })
    }

    /// The engine that host 1 says it runs.
    fn engine(&self) -> Result<String> {
        let node = self.nodes[0].as_ref().context("A daemon was not started again")?;
        node.engine(self.lab.host(Side::One))
    }

    fn stop(mut self) -> Result<()> {
        drop(self.train);
        for node in self.nodes.iter_mut().flatten() {
            let status = node.process_mut().stop()?;
            ensure!(status.success(), "A daemon ended with {status}");
        }
        Ok(())
    }
}

impl RestartReport {
    fn bars(&self, sealed: bool) -> Vec<Bar> {
        let most = |name, limit, value| Bar { name, value: Some(value), limit, at_most: true };
        let start = |limit| {
            most("longest time from start to traffic in ms", limit, self.after_start_ms_max)
        };
        if sealed {
            return vec![start(AFTER_START_SEALED_MS_MAX)];
        }
        vec![most("longest gap in ms", GAP_MS_MAX, self.gap_ms_max), start(AFTER_START_MS_MAX)]
    }
}

impl Display for RestartReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n`{}`, engine {}\n", self.machine, self.command, self.engine)?;
        writeln!(out, "kill  host   gone ms  after start ms    gap ms")?;
        for (number, kill) in self.kills.iter().enumerate() {
            let Kill { host, gone_ms, after_start_ms, gap_ms } = kill;
            let number = number + 1;
            writeln!(
                out,
                "{number:4}  {host:4}  {gone_ms:8.1}  {after_start_ms:14.1}  {gap_ms:8.1}"
            )?;
        }
        writeln!(
            out,
            "\ngap: median {:.1} ms, longest {:.1} ms (without a kill {:.1} ms)",
            self.gap_ms_median, self.gap_ms_max, self.calm_gap_ms_max
        )?;
        writeln!(
            out,
            "start to traffic: median {:.1} ms, longest {:.1} ms",
            self.after_start_ms_median, self.after_start_ms_max
        )?;
        write!(out, "train: {} of {} replies", self.train_received, self.train_sent)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
