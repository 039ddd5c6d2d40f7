//! `weft-bench`: compares ways to carry packets between hosts.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_bench::compare::{self, CompareArguments};
use weft_bench::flood::{self, FloodArguments};
use weft_bench::load::{self, LoadArguments};
use weft_bench::per_await;
use weft_bench::per_packet::{self, ForwarderOptions, PerPacketOptions};
use weft_bench::restart::{self, RestartArguments};
use weft_bench::run::{self, LabArguments, ReportArguments};
use weft_bench::soak::{self, SoakArguments};

/// Compares weft with the kernel's own ways and with flannel's UDP mode, on one machine
#[derive(Parser)]
#[command(version)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure paths between two hosts made of network namespaces (needs root)
    Lab(LabArguments),
    /// Measure two weft binaries in turn and tell where they differ (needs root)
    Compare(CompareArguments),
    /// Show the results of an earlier run again, from its JSON
    Report(ReportArguments),
    /// Kill daemons, start them again, and measure for how long nothing gets through (needs root)
    Restart(RestartArguments),
    /// Measure what a TCP stream keeps while the daemon's port is flooded (needs root)
    Flood(FloodArguments),
    /// Load two daemons for long and watch their memory (needs root)
    Soak(SoakArguments),
    /// Send numbered datagrams, or count what arrives of them
    Load(LoadArguments),
    /// Forward one packet a system call, as flannel's UDP mode does
    PerPacket(PerPacketOptions),
    /// Forward one packet an await, on tokio-uring
    PerAwait(ForwarderOptions),
}

fn main() -> ExitCode {
    let result = match Program::parse().command {
        Command::Lab(arguments) => run::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Report(arguments) => run::show_again(&arguments).map(|()| true),
        Command::Restart(arguments) => restart::run(&arguments),
        Command::Flood(arguments) => flood::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Load(arguments) => load::run(&arguments).map(|()| true),
        Command::PerPacket(options) => per_packet::run(options).map(|()| true),
        Command::PerAwait(options) => per_await::run(options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
