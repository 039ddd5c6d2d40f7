//! The `lab` command: rounds over paths over underlays.

mod arguments;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, LabOptions, OneCoreEach, Side, Topology, Underlay, left_behind, wait_until};
use crate::measure::{Figure, MeasuredPath, Round, Sample, Step, steps};
use crate::path::{PathKind, Programs, RunningPath, in_fresh_lab};
use crate::publish::write_json;
use crate::report::{Machine, PathReport, Report, UnderlayReport, versions};
use crate::train::Train;

pub use arguments::{LabArguments, ReportArguments};

/// How long packets may take to flow after a path says that it is up.
const COLD_LIMIT: Duration = Duration::from_secs(5);

/// Measures as told, prints the results, and says whether all is well: weft could be measured,
/// nothing was left behind, and, if asked for, the bars hold.
pub fn run(arguments: &LabArguments) -> Result<bool> {
    let plan = Plan {
        steps: steps(&arguments.measures, &arguments.congestion),
        seconds: arguments.seconds(),
        rounds: arguments.rounds(),
        topology: arguments.topology,
        programs: arguments.programs()?,
    };
    let limits = plan.steps.iter().any(|step| step.is_limited());
    let congestion = arguments.congestion.iter().map(|name| name.name());
    let mut report = Report {
        machine: Machine::describe(),
        versions: versions(&plan.programs),
        command: Machine::command_line(),
        congestion_control: congestion.collect::<Vec<_>>().join(", "),
        topology: plan.topology,
        cpu_limit: limits.then(|| OneCoreEach::method().to_owned()),
        seconds: plan.seconds,
        rounds: plan.rounds,
        underlays: Vec::new(),
    };
    for &underlay in arguments.underlays() {
        let paths = arguments.paths.iter().map(|&path| PathReport::new(path)).collect();
        let mut results = UnderlayReport { underlay, paths };
        for round in 1..=plan.rounds {
            for path in &mut results.paths {
                plan.measure_path(path, underlay, round);
            }
        }
        report.underlays.push(results);
    }
    publish(arguments, &report)
}

/// Shows the results of an earlier run again, from its JSON.
pub fn show_again(arguments: &ReportArguments) -> Result<()> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file);
    let text = text.with_context(|| format!("Cannot read {file}"))?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{file} is not the JSON of a run of the lab"))?;
    write!(std::io::stdout().lock(), "{report}").context("Cannot print")?;
    arguments.rendering.write(&report)
}

/// What is done with every path.
struct Plan {
    steps: BTreeSet<Step>,
    seconds: u32,
    rounds: u32,
    topology: Topology,
    programs: Programs,
}

impl Plan {
    /// One round of one path. A path that has failed is not tried again.
    fn measure_path(&self, path: &mut PathReport, underlay: Underlay, round_number: u32) {
        if path.failure.is_some() {
            return;
        }
        let name = path.path.name();
        eprintln!("lab: {}, round {round_number} of {}: {name}", underlay.name(), self.rounds);
        let mut round = Round::default();
        if let Err(error) = self.measure(path.path, underlay, round_number == 1, &mut round) {
            eprintln!("lab: {name} failed: {error:#}");
            path.failure = Some(format!("{error:#}"));
        }
        path.missing.extend(round.missing);
        if round.sample.iter().next().is_some() {
            path.rounds.push(round.sample);
        }
    }

    fn measure(
        &self,
        kind: PathKind,
        underlay: Underlay,
        show_status: bool,
        round: &mut Round,
    ) -> Result<()> {
        let options = LabOptions { underlay, topology: self.topology, ..LabOptions::default() };
        let Programs { bench, .. } = &self.programs;
        in_fresh_lab(kind, &options, &self.programs, |lab, path| {
            for &step in &self.steps {
                let on = MeasuredPath { lab, path, bench, seconds: self.seconds };
                let figures = round.take(step, on);
                show(step, &figures, round);
                path.check_running()?;
            }
            if show_status {
                print_status(lab, path)?;
            }
            Ok(())
        })?;
        if self.steps.contains(&Step::Peers) {
            let figures = round.add(Step::Peers, self.many_peers(kind, &options));
            show(Step::Peers, &figures, round);
        }
        if self.steps.contains(&Step::Cold) {
            let figures = round.add(Step::Cold, self.start_cold(kind, &options));
            show(Step::Cold, &figures, round);
        }
        Ok(())
    }

    /// Sends to a host that stands for many.
    fn many_peers(&self, kind: PathKind, options: &LabOptions) -> Result<Sample> {
        let lab = Lab::new(kind.lab_options(options))?;
        let mut path = RunningPath::start_to_many(&lab, kind, &self.programs)?;
        let on = MeasuredPath {
            lab: &lab,
            path: &path,
            bench: &self.programs.bench,
            seconds: self.seconds,
        };
        let figures = on.peers()?;
        path.check_running()?;
        drop(path);
        lab.close()?;
        Ok(figures)
    }

    /// Sets a path up while a train runs already, for the time until its first reply.
    fn start_cold(&self, kind: PathKind, options: &LabOptions) -> Result<Sample> {
        let lab = Lab::new(kind.lab_options(options))?;
        let train = Train::start(&lab)?;
        let start = Instant::now();
        let path = RunningPath::start(&lab, kind, &self.programs)?;
        let has_daemons = path.processes().next().is_some();
        let first = wait_until("a reply", COLD_LIMIT, || Ok(train.first_reply_after(start)));
        drop(train);
        path.stop(&lab)?;
        lab.close()?;
        ensure!(has_daemons, "The kernel does the work: there is no daemon to start");
        let time = first?.saturating_duration_since(start);
        Ok(Sample::from_iter([(Figure::ColdStartMs, time.as_secs_f64() * 1e3)]))
    }
}

/// Tells what a step has found.
fn show(step: Step, figures: &Sample, round: &Round) {
    let name = step.name();
    if let Some(reason) = round.missing.get(&name) {
        eprintln!("lab:   {name}: none: {reason}");
        return;
    }
    if figures.iter().next().is_some() {
        eprintln!("lab:   {name}: {figures}");
    }
}

/// What `weft status` says on host 1 after the load.
fn print_status(lab: &Lab, path: &RunningPath) -> Result<()> {
    let Some(node) = path.nodes().first() else { return Ok(()) };
    let status = node.query(lab.host(Side::One), &["status"])?;
    eprintln!("lab: weft status on host 1:");
    status.lines().for_each(|line| eprintln!("    {line}"));
    Ok(())
}

fn publish(arguments: &LabArguments, report: &Report) -> Result<bool> {
    let to_stdout = arguments.json.as_deref() == Some(Path::new("-"));
    let mut text = report.to_string();
    let bars = if arguments.assert_bars { report.bars() } else { Vec::new() };
    for bar in &bars {
        text.push_str(&format!("\n{bar}"));
    }
    let mut stdout = std::io::stdout().lock();
    if arguments.summary || to_stdout {
        eprintln!("\n{text}");
        let value = if to_stdout { report.to_json() } else { report.summary() };
        writeln!(stdout, "{value}").context("Cannot print")?;
    } else {
        writeln!(stdout, "\n{text}").context("Cannot print")?;
    }
    if let Some(file) = arguments.json.as_deref().filter(|_| !to_stdout) {
        write_json(file, &report.to_json())?;
    }
    arguments.rendering.write(report)?;
    let bars_hold =
        !arguments.assert_bars || (!bars.is_empty() && bars.iter().all(|bar| bar.holds()));
    Ok(!report.weft_failed() && bars_hold && left_behind().is_empty())
}
