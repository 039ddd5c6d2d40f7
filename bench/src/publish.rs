//! Results of a command as text for people and as JSON for programs.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::report::Bar;

/// Where the results go, and whether they decide about the status.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Write the full results as JSON to this file; - is the standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// End with status 1 unless every promised figure holds
    #[arg(long)]
    pub assert_bars: bool,
}

impl Output {
    /// Prints results with their bars, and says whether all is well as far as it was asked.
    pub fn publish(&self, text: &str, results: &impl Serialize, bars: &[Bar]) -> Result<bool> {
        let mut text = text.to_owned();
        for bar in bars {
            text.push_str(&format!("\n{bar}"));
        }
        let mut value = serde_json::to_value(results).context("Cannot put results into JSON")?;
        value["bars"] = bars_to_json(bars);
        let mut stdout = std::io::stdout().lock();
        match self.json.as_deref() {
            Some(file) if file == Path::new("-") => {
                eprintln!("{text}");
                writeln!(stdout, "{value}").context("Cannot print")?;
            }
            file => {
                writeln!(stdout, "{text}").context("Cannot print")?;
                if let Some(file) = file {
                    write_json(file, &value)?;
                }
            }
        }
        Ok(!self.assert_bars || bars.iter().all(Bar::holds))
    }
}

/// Writes a value for people and programs.
pub(crate) fn write_json(file: &Path, value: &Value) -> Result<()> {
    write_file(file, serde_json::to_string_pretty(value)? + "\n")
}

/// Writes a whole file.
pub(crate) fn write_file(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(file, content).with_context(|| format!("Cannot write {}", file.display()))
}

/// Bars, each with whether it holds.
pub fn bars_to_json(bars: &[Bar]) -> Value {
    let entry = |bar: &Bar| {
        let mut entry = json!(bar);
        entry["holds"] = json!(bar.holds());
        entry
    };
    bars.iter().map(entry).collect()
}
