//! The report as text for people.

use std::fmt::{Display, Formatter, Result};

use super::{Bar, PathReport, Report, UnderlayReport};
use crate::measure::{Figure, Section};

/// Room for the name of a path, or of two that are compared.
const NAME_COLUMNS: usize = 28;

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(
            out,
            "`{}`: medians of {} interleaved rounds of {} s, {}, {} pods",
            self.command,
            self.rounds,
            self.seconds,
            self.congestion_control,
            self.topology.name()
        )?;
        if let Some(method) = &self.cpu_limit {
            writeln!(out, "one core for each daemon: {method}")?;
        }
        self.underlays.iter().try_for_each(|underlay| write!(out, "\n{underlay}"))
    }
}

impl Display for UnderlayReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        for (index, section) in self.sections().into_iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            self.write_section(out, section)?;
        }
        self.paths.iter().try_for_each(|path| write_failures(out, path))
    }
}

impl UnderlayReport {
    fn write_section(&self, out: &mut Formatter<'_>, section: Section) -> Result {
        writeln!(out, "{}: {}", self.underlay.name(), section.title())?;
        let figures = section.figures();
        write_row(out, "", figures.iter().map(|figure| figure.label().to_owned()))?;
        write_row(out, "", figures.iter().map(|figure| figure.unit().to_owned()))?;
        for path in &self.paths {
            let Some(median) = path.median() else { continue };
            let cell = |&figure: &Figure| median.get(figure).map(|value| figure.format(value));
            write_row(
                out,
                path.path.name(),
                figures.iter().map(|f| cell(f).unwrap_or("-".into())),
            )?;
        }
        for (path, other) in self.compared() {
            let ratio = |&figure: &Figure| self.ratio(path, other, figure);
            let cells: Vec<String> =
                figures.iter().map(|f| ratio(f).map_or(String::new(), ratio_text)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let name = format!("{} / {}", path.name(), other.name());
                write_row(out, &name, cells)?;
            }
        }
        Ok(())
    }
}

impl Display for Bar {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let verdict = if self.holds() { "holds" } else { "BROKEN" };
        let relation = if self.at_most { "<=" } else { ">=" };
        let value = self.value.map_or("not measured".into(), |value| format!("{value:.2}"));
        write!(out, "{verdict:6}  {} {relation} {}: {value}", self.name, self.limit)
    }
}

/// Two decimals; nothing for a division by nothing.
pub(super) fn ratio_text(ratio: f64) -> String {
    if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() }
}

fn write_row(
    out: &mut Formatter<'_>,
    name: &str,
    cells: impl IntoIterator<Item = String>,
) -> Result {
    let mut line = format!("{name:NAME_COLUMNS$}");
    cells.into_iter().for_each(|cell| line.push_str(&format!(" {cell:>10}")));
    writeln!(out, "{}", line.trim_end())
}

fn write_failures(out: &mut Formatter<'_>, path: &PathReport) -> Result {
    let name = path.path.name();
    if let Some(reason) = &path.failure {
        writeln!(out, "{name} could not be measured: {reason}")?;
    }
    path.missing.iter().try_for_each(|(what, why)| writeln!(out, "{name} has no {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Underlay;
    use crate::path::PathKind;
    use crate::report::tests::path;

    #[test]
    fn a_table_shows_figures_ratios_and_failures() {
        let measured =
            |kind, gbps| path(kind, &[&[(Figure::Tcp1Gbps, gbps), (Figure::PingLossPercent, 0.0)]]);
        let mut failed = PathReport::new(PathKind::PerPacket);
        failed.failure = Some("no TUN".into());
        let mut vxlan = measured(PathKind::Vxlan, 10.0);
        vxlan.missing.insert("limited".into(), "no daemon".into());
        let paths = vec![vxlan, measured(PathKind::Weft, 7.0), failed];
        let text = UnderlayReport { underlay: Underlay::Wire, paths }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert_eq!(lines[0], "wire: Overview");
        assert!(lines[3].starts_with("vxlan ") && lines[3].contains(" 10.00 "));
        assert!(lines[4].starts_with("weft ") && lines[4].contains(" 7.00 "));
        assert!(lines[5].starts_with("weft / vxlan ") && lines[5].ends_with(" 0.70"));
        assert_eq!(lines[6], "vxlan has no limited: no daemon");
        assert_eq!(lines[7], "per-packet could not be measured: no TUN");
    }

    #[test]
    fn a_bar_says_what_it_found() {
        let bar = Bar { name: "x / y", value: Some(0.456), limit: 0.5, at_most: false };
        assert_eq!(bar.to_string(), "BROKEN  x / y >= 0.5: 0.46");
    }
}
