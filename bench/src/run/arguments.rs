//! The command line of the `lab` command.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::lab::{Topology, Underlay};
use crate::measure::{Congestion, Measure};
use crate::path::{PathKind, Programs};
use crate::report::Rendering;

/// What to measure and where to put the results.
#[derive(Args, Clone, Debug)]
pub struct LabArguments {
    /// One short round on wire
    #[arg(long)]
    quick: bool,
    /// How frames cross the link between the hosts [default: wire]
    #[arg(long, value_enum)]
    underlay: Option<UnderlayChoice>,
    /// How the pods hang on their hosts
    #[arg(long, value_enum, default_value_t = Topology::Direct)]
    pub(super) topology: Topology,
    /// The paths to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = PathKind::USUAL)]
    pub(super) paths: Vec<PathKind>,
    /// What to measure on each path
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Measure::Core])]
    pub(super) measures: Vec<Measure>,
    /// Congestion control of the streams
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Congestion::Cubic])]
    pub(super) congestion: Vec<Congestion>,
    /// How often each path is measured [default: 3, quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each load runs, in seconds [default: 3, quick: 2]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    secs: Option<u32>,
    /// Write the full results as JSON to this file; - is the standard output
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    #[command(flatten)]
    pub(super) rendering: Rendering,
    /// Print a one-line summary as JSON on the standard output, and the table on the error output
    #[arg(long, conflicts_with = "json")]
    pub(super) summary: bool,
    /// The weft binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    weft: Option<PathBuf>,
    /// End with status 1 unless every promised ratio holds
    #[arg(long)]
    pub(super) assert_bars: bool,
}

/// What to show again, and where to put it.
#[derive(Args, Clone, Debug)]
pub struct ReportArguments {
    /// The JSON of a run
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) rendering: Rendering,
}

/// `wire`, `super`, or one after the other.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnderlayChoice {
    Wire,
    Super,
    Both,
}

impl LabArguments {
    pub(super) fn underlays(&self) -> &'static [Underlay] {
        match self.underlay {
            None | Some(UnderlayChoice::Wire) => &[Underlay::Wire],
            Some(UnderlayChoice::Super) => &[Underlay::Super],
            Some(UnderlayChoice::Both) => &[Underlay::Wire, Underlay::Super],
        }
    }

    pub(super) fn seconds(&self) -> u32 {
        self.secs.unwrap_or(if self.quick { 2 } else { 3 })
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub(super) fn programs(&self) -> Result<Programs> {
        Programs::find(self.weft.as_deref())
    }
}
