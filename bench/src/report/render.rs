//! Writes a report as Markdown, as plots and as JSON.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::{Report, plot};
use crate::publish::{write_file, write_json};

/// Where a report goes, besides the terminal.
#[derive(Args, Clone, Debug, Default)]
pub struct Rendering {
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw plots, as PNG and as SVG, into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Put report.json, report.md and the plots into this directory
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Rendering {
    /// Writes what was asked for.
    pub fn write(&self, report: &Report) -> Result<()> {
        if let Some(file) = &self.markdown {
            write_file(file, report.to_markdown(&[]))?;
        }
        if let Some(directory) = &self.plots {
            draw(directory, report)?;
        }
        if let Some(directory) = &self.output {
            let plots = draw(directory, report)?;
            write_json(&directory.join("report.json"), &report.to_json())?;
            write_file(&directory.join("report.md"), report.to_markdown(&plots))?;
        }
        Ok(())
    }
}

/// Draws all plots; the names of the SVG files.
fn draw(directory: &Path, report: &Report) -> Result<Vec<String>> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("Cannot make the directory {}", directory.display()))?;
    let mut names = Vec::new();
    for (name, drawing) in plot::draw_all(report) {
        let file = format!("{name}.svg");
        write_file(&directory.join(&file), drawing.to_svg())?;
        write_file(&directory.join(format!("{name}.png")), drawing.to_png()?)?;
        names.push(file);
    }
    Ok(names)
}
