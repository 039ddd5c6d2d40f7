//! The `compare` command: two builds of weft in turn, on one machine, in one run.
//!
//! Only figures of one run can be compared, and a machine drifts even within it. So the builds take
//! turns (A B, B A, A B, …), each time in a fresh lab, and a difference counts only if it is larger
//! than what the rounds of one build differ by among themselves.

mod statistics;

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::lab::{LabOptions, Underlay};
use crate::measure::{CONGESTION_CONTROL, MeasuredPath, Sample, Section, Step};
use crate::path::{EngineChoice, PathKind, Programs, in_fresh_lab};
use crate::publish::Output;
use crate::report::Machine;
use statistics::{Comparison, Verdict};

/// The loads behind the figures that are always worth a look.
const USUAL: [Step; 4] = [Step::Tcp1, Step::Tcp4, Step::Udp64, Step::RoundTrip];

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct CompareArguments {
    /// The weft binary that is the yardstick
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The weft binary that is judged; it may be the same one with other flags
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Further flags of A's daemons, in one word: --a-flags "--without udp-gso"
    #[arg(long, value_name = "FLAGS", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    a_flags: String,
    /// Further flags of B's daemons
    #[arg(long, value_name = "FLAGS", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    b_flags: String,
    /// How often each build is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each load runs, in seconds
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    secs: u32,
    /// How frames cross the link between the hosts
    #[arg(long, value_enum, default_value_t = Underlay::Wire)]
    underlay: Underlay,
    /// The engine of all daemons
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// The loads to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = USUAL)]
    figures: Vec<Step>,
    /// Write the full results as JSON to this file; - is the standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One build with its flags, and what its rounds have shown.
#[derive(Clone, Debug, Serialize)]
struct Build {
    program: PathBuf,
    flags: Vec<String>,
    rounds: Vec<Sample>,
}

#[derive(Clone, Debug, Serialize)]
struct CompareReport {
    machine: Machine,
    command: String,
    congestion_control: &'static str,
    underlay: Underlay,
    seconds: u32,
    a: Build,
    b: Build,
    comparisons: Vec<Comparison>,
}

/// Measures both builds in turn, prints the differences, and says whether every round succeeded. When
/// one does not, what was measured before is printed all the same.
pub fn run(arguments: &CompareArguments) -> Result<bool> {
    let mut report = CompareReport {
        machine: Machine::describe(),
        command: Machine::command_line(),
        congestion_control: CONGESTION_CONTROL,
        underlay: arguments.underlay,
        seconds: arguments.secs,
        a: build(&arguments.a, &arguments.a_flags, arguments.engine)?,
        b: build(&arguments.b, &arguments.b_flags, arguments.engine)?,
        comparisons: Vec::new(),
    };
    let measured = measure_in_turn(arguments, &mut report);
    let figures = Section::ALL.iter().flat_map(|section| section.figures());
    report.comparisons = figures
        .filter_map(|&figure| Comparison::new(figure, &report.a.rounds, &report.b.rounds))
        .collect();
    let output = Output { json: arguments.json.clone(), assert_bars: false };
    output.publish(&report.to_string(), &report, &[])?;
    measured.map(|()| true)
}

fn build(program: &Path, flags: &str, engine: EngineChoice) -> Result<Build> {
    let program = std::path::absolute(program)?;
    ensure!(program.is_file(), "There is no weft binary at {}", program.display());
    let flags = flags.split_whitespace().map(str::to_owned);
    let flags = engine.flags().into_iter().chain(flags).collect();
    Ok(Build { program, flags, rounds: Vec::new() })
}

fn measure_in_turn(arguments: &CompareArguments, report: &mut CompareReport) -> Result<()> {
    for round in 1..=arguments.rounds {
        let mut turns = [("A", &mut report.a), ("B", &mut report.b)];
        if round % 2 == 0 {
            turns.reverse();
        }
        for (name, build) in turns {
            let sample = measure_once(arguments, build)?;
            eprintln!("compare: round {round} of {}: {name}: {sample}", arguments.rounds);
            build.rounds.push(sample);
        }
    }
    Ok(())
}

fn measure_once(arguments: &CompareArguments, build: &Build) -> Result<Sample> {
    let mut programs = Programs::find(Some(&build.program))?;
    programs.weft_flags.clone_from(&build.flags);
    let options = LabOptions { underlay: arguments.underlay, ..LabOptions::default() };
    in_fresh_lab(PathKind::Weft, &options, &programs, |lab, path| {
        let mut sample = Sample::default();
        let on = MeasuredPath { lab, path, bench: &programs.bench, seconds: arguments.secs };
        for step in arguments.figures.iter().copied().chain([Step::Memory]) {
            let figures = on.take(step)?;
            figures.iter().for_each(|(figure, value)| sample.insert(figure, value));
        }
        Ok(sample)
    })
}

impl Display for Build {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.program.display())?;
        self.flags.iter().try_for_each(|flag| write!(out, " {flag}"))
    }
}

impl Display for CompareReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(out, "A: {}\nB: {}", self.a, self.b)?;
        writeln!(
            out,
            "{} and {} rounds in turn, {} s a load, {}, {}\n",
            self.a.rounds.len(),
            self.b.rounds.len(),
            self.seconds,
            self.underlay.name(),
            self.congestion_control
        )?;
        writeln!(
            out,
            "{:<22}{:>9}{:>9}{:>9}{:>9}  {:<19}{:<19}",
            "", "A", "B", "diff", "spread", "  A least-most", "  B least-most"
        )?;
        self.comparisons.iter().try_for_each(|comparison| writeln!(out, "{comparison}"))?;
        write!(out, "diff: of the medians. {}", Verdict::EXPLANATION)
    }
}
