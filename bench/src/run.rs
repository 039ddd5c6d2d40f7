//! The `lab` command: rounds over paths over underlays.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use crate::lab::{Lab, LabOptions, Side, Underlay, left_behind};
use crate::measure::{CONGESTION_CONTROL, Figure, Sample, Section, measure};
use crate::path::{PathKind, Programs, RunningPath, in_fresh_lab};
use crate::report::{Machine, PathReport, Report, UnderlayReport};

/// What to measure and where to put the results.
#[derive(Args, Clone, Debug)]
pub struct LabArguments {
    /// One short round on wire
    #[arg(long)]
    quick: bool,
    /// How frames cross the link between the hosts [default: wire]
    #[arg(long, value_enum)]
    underlay: Option<UnderlayChoice>,
    /// The paths to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = PathKind::USUAL)]
    paths: Vec<PathKind>,
    /// How often each path is measured [default: 3, quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each load runs, in seconds [default: 3, quick: 2]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    secs: Option<u32>,
    /// Write the full results as JSON to this file; - is the standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print a one-line summary as JSON on the standard output, and the table on the error output
    #[arg(long, conflicts_with = "json")]
    summary: bool,
    /// The weft binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    weft: Option<PathBuf>,
    /// End with status 1 unless every promised ratio holds
    #[arg(long)]
    assert_bars: bool,
}

/// `wire`, `super`, or one after the other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnderlayChoice {
    Wire,
    Super,
    Both,
}

impl LabArguments {
    fn underlays(&self) -> &'static [Underlay] {
        match self.underlay {
            None | Some(UnderlayChoice::Wire) => &[Underlay::Wire],
            Some(UnderlayChoice::Super) => &[Underlay::Super],
            Some(UnderlayChoice::Both) => &[Underlay::Wire, Underlay::Super],
        }
    }
}

/// Measures as told, prints the results, and says whether all is well: weft could be measured,
/// nothing was left behind, and, if asked for, the bars hold.
pub fn run(arguments: &LabArguments) -> Result<bool> {
    let programs = Programs::find(arguments.weft.as_deref())?;
    let mut report = Report {
        machine: Machine::describe(),
        command: Machine::command_line(),
        congestion_control: CONGESTION_CONTROL.to_owned(),
        seconds: arguments.secs.unwrap_or(if arguments.quick { 2 } else { 3 }),
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 }),
        underlays: Vec::new(),
    };
    for &underlay in arguments.underlays() {
        let paths = arguments.paths.iter().map(|&path| PathReport::new(path)).collect();
        let mut results = UnderlayReport { underlay, paths };
        for round in 1..=report.rounds {
            for path in &mut results.paths {
                measure_path(path, underlay, round, &report, &programs);
            }
        }
        report.underlays.push(results);
    }
    publish(arguments, &report)
}

/// One round of one path. A path that has failed is not tried again.
fn measure_path(
    path: &mut PathReport,
    underlay: Underlay,
    round: u32,
    plan: &Report,
    programs: &Programs,
) {
    if path.failure.is_some() {
        return;
    }
    let name = path.path.name();
    eprintln!("lab: {}, round {round} of {}: {name} ...", underlay.name(), plan.rounds);
    match measure_once(path.path, underlay, plan.seconds, programs, round == 1) {
        Ok(sample) => {
            let figures = Section::Overview.figures().iter();
            let shown = figures.filter_map(|&figure| Some(show(figure, sample.get(figure)?)));
            eprintln!("lab: {name}: {}", shown.collect::<Vec<_>>().join(", "));
            path.rounds.push(sample);
        }
        Err(error) => {
            eprintln!("lab: {name} failed: {error:#}");
            path.failure = Some(format!("{error:#}"));
        }
    }
}

fn show(figure: Figure, value: f64) -> String {
    format!("{} {} {}", figure.label(), figure.format(value), figure.unit())
}

/// Measures a path once, in a lab of its own.
fn measure_once(
    kind: PathKind,
    underlay: Underlay,
    seconds: u32,
    programs: &Programs,
    show_status: bool,
) -> Result<Sample> {
    let options = LabOptions { underlay, ..LabOptions::default() };
    in_fresh_lab(kind, &options, programs, |lab, path| {
        let mut sample = measure(lab, path, seconds)?;
        if let Some(memory) = path.memory_mib()? {
            sample.insert(Figure::MemoryMib, memory);
        }
        if show_status {
            print_status(lab, path)?;
        }
        Ok(sample)
    })
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
        let json = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(file, json + "\n")
            .map_err(|error| anyhow!("Cannot write {}: {error}", file.display()))?;
    }
    let bars_hold =
        !arguments.assert_bars || (!bars.is_empty() && bars.iter().all(|bar| bar.holds()));
    Ok(!report.weft_failed() && bars_hold && left_behind().is_empty())
}
