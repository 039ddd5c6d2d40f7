//! The weft program.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft::cli::run(std::env::args_os().collect())
}
