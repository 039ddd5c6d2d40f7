//! Where and when a run took place.

use std::fmt::{self, Display, Formatter};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the moment; a figure without them says little.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many processors this process may use.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// When the run began, in UTC.
    pub date: String,
}

impl Machine {
    /// Asks the running system. What it does not say stays empty.
    pub fn describe() -> Machine {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let date = Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]).output();
        let date = date.map(|output| output.stdout).unwrap_or_default();
        Machine {
            processor: processor_name().unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            date: String::from_utf8_lossy(&date).trim().to_owned(),
        }
    }

    /// The command line of this process, by the program's name rather than its path.
    pub fn command_line() -> String {
        let words = std::iter::once("weft-bench".to_owned()).chain(std::env::args().skip(1));
        words.collect::<Vec<_>>().join(" ")
    }
}

impl Display for Machine {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Machine { processor, processors, kernel, date } = self;
        write!(out, "{processor}, {processors} processors, Linux {kernel}, {date}")
    }
}

fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
