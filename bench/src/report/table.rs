//! The report as text for people.

use std::fmt::{Display, Formatter, Result};

use super::{Bar, PathReport, Report, UnderlayReport};
use crate::measure::Sample;
use crate::path::PathKind;

/// Figures in a row.
const CELLS: usize = 10;

/// The pairs of paths that the table compares.
const COMPARED: [(PathKind, PathKind); 4] = [
    (PathKind::Weft, PathKind::Vxlan),
    (PathKind::Weft, PathKind::PerPacket),
    (PathKind::WeftEpoll, PathKind::Vxlan),
    (PathKind::Weft, PathKind::WeftEpoll),
];

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(
            out,
            "`{}`: medians of {} interleaved rounds of {} s, {}",
            self.command, self.rounds, self.seconds, self.congestion_control
        )?;
        self.underlays.iter().try_for_each(|underlay| write!(out, "\n{underlay}"))
    }
}

impl Display for UnderlayReport {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        #[rustfmt::skip]
        let headings =
            ["TCP 1", "TCP 4", "CPU", "64 B", "CPU", "p50", "p99", "memory", "ping", "calls"];
        #[rustfmt::skip]
        let units =
            ["Gb/s", "Gb/s", "s/GB", "kpps", "us/datagr.", "us", "us", "MiB", "% lost", "/segment"];
        write_row(out, self.underlay.name(), &headings.map(str::to_owned))?;
        write_row(out, "", &units.map(str::to_owned))?;
        for path in &self.paths {
            if let Some(median) = path.median() {
                write_row(out, path.path.name(), &cells(&median))?;
            }
        }
        for (path, other) in COMPARED {
            if self.ratio(path, other, |sample| sample.tcp_gbps).is_some() {
                let name = format!("{} / {}", path.name(), other.name());
                write_row(out, &name, &self.ratio_cells(path, other))?;
            }
        }
        self.paths.iter().try_for_each(|path| write_failure(out, path))
    }
}

impl UnderlayReport {
    fn ratio_cells(&self, path: PathKind, other: PathKind) -> [String; CELLS] {
        let figures: [fn(&Sample) -> f64; 7] = [
            |sample| sample.tcp_gbps,
            |sample| sample.tcp4_gbps,
            |sample| sample.cpu_seconds_per_gb,
            |sample| sample.udp64_kpps,
            |sample| sample.cpu_us_per_datagram,
            |sample| sample.rtt_p50_us,
            |sample| sample.rtt_p99_us,
        ];
        let ratio = |figure| self.ratio(path, other, figure).map(|ratio| format!("{ratio:.2}"));
        let mut cells = [const { String::new() }; CELLS];
        for (cell, figure) in cells.iter_mut().zip(figures) {
            *cell = ratio(figure).unwrap_or_default();
        }
        cells
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

fn cells(sample: &Sample) -> [String; CELLS] {
    [
        format!("{:.2}", sample.tcp_gbps),
        format!("{:.2}", sample.tcp4_gbps),
        format!("{:.2}", sample.cpu_seconds_per_gb),
        format!("{:.0}", sample.udp64_kpps),
        format!("{:.1}", sample.cpu_us_per_datagram),
        format!("{:.1}", sample.rtt_p50_us),
        format!("{:.1}", sample.rtt_p99_us),
        sample.memory_mib.map_or("-".into(), |memory| format!("{memory:.1}")),
        format!("{:.1}", sample.ping_loss_percent),
        sample.calls_per_segment.map_or("-".into(), |calls| format!("{calls:.3}")),
    ]
}

fn write_row(out: &mut Formatter<'_>, name: &str, cells: &[String; CELLS]) -> Result {
    write!(out, "{name:18}")?;
    cells.iter().try_for_each(|cell| write!(out, " {cell:>10}"))?;
    writeln!(out)
}

fn write_failure(out: &mut Formatter<'_>, path: &PathReport) -> Result {
    match &path.failure {
        Some(reason) => writeln!(out, "{} could not be measured: {reason}", path.path.name()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Underlay;

    #[test]
    fn a_table_shows_figures_ratios_and_failures() {
        let path = |path, tcp_gbps| PathReport {
            rounds: vec![Sample { tcp_gbps, rtt_p50_us: 20.0, ..Sample::default() }],
            ..PathReport::new(path)
        };
        let mut failed = PathReport::new(PathKind::PerPacket);
        failed.failure = Some("no TUN".into());
        let paths = vec![path(PathKind::Vxlan, 10.0), path(PathKind::Weft, 7.0), failed];
        let text = UnderlayReport { underlay: Underlay::Wire, paths }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[3].starts_with("weft ") && lines[3].contains(" 7.00"));
        assert!(lines[4].starts_with("weft / vxlan ") && lines[4].contains(" 0.70"));
        assert_eq!(lines[5], "per-packet could not be measured: no TUN");
    }

    #[test]
    fn a_bar_says_what_it_found() {
        let bar = Bar { name: "x / y", value: Some(0.456), limit: 0.5, at_most: false };
        assert_eq!(bar.to_string(), "BROKEN  x / y >= 0.5: 0.46");
    }
}
