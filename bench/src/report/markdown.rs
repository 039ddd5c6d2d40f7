//! The report as Markdown.

use std::fmt::Write;

use super::table::ratio_text;
use super::{Bar, PathReport, Report, UnderlayReport};
use crate::measure::{Better, Figure, Section};

impl Report {
    /// The whole report, with these plots in it.
    pub fn to_markdown(&self, plots: &[String]) -> String {
        let mut text = String::from("# weft-bench lab\n\n");
        self.facts().iter().for_each(|(name, fact)| row(&mut text, &[name, fact]));
        let bars: Vec<Bar> = self.bars().into_iter().filter(|bar| bar.value.is_some()).collect();
        if !bars.is_empty() {
            text.push_str("\n## Bars\n\n");
            header(&mut text, &["promise", "limit", "found", ""]);
            bars.iter().for_each(|bar| bar_row(&mut text, bar));
        }
        for plot in plots {
            let name = plot.trim_end_matches(".svg");
            text.push_str(&format!("\n![{name}]({plot})\n"));
        }
        for underlay in &self.underlays {
            text.push_str(&format!("\n## Underlay {}\n", underlay.underlay.name()));
            underlay.sections().into_iter().for_each(|section| underlay.table(&mut text, section));
            underlay.failures(&mut text);
        }
        text
    }

    /// Where, when and how, as a table whose first two lines are its empty head.
    fn facts(&self) -> Vec<(String, String)> {
        let machine = &self.machine;
        let mut facts = vec![
            (String::new(), String::new()),
            ("---".to_owned(), "---".to_owned()),
            ("command".to_owned(), format!("`{}`", self.command)),
            ("date".to_owned(), machine.date.clone()),
            (
                "machine".to_owned(),
                format!("{}, {} processors", machine.processor, machine.processors),
            ),
            ("kernel".to_owned(), machine.kernel.clone()),
            (
                "rounds".to_owned(),
                format!("{}, interleaved; loads of {} s", self.rounds, self.seconds),
            ),
            ("congestion control".to_owned(), self.congestion_control.clone()),
            ("pods".to_owned(), self.topology.name().to_owned()),
        ];
        let limit = self.cpu_limit.iter();
        facts.extend(limit.map(|method| ("one core a daemon".to_owned(), method.clone())));
        let versions = self.versions.iter();
        facts.extend(versions.map(|(name, version)| (name.clone(), version.clone())));
        facts
    }
}

impl UnderlayReport {
    /// Medians with what lies between the least and the greatest round, and ratios of medians.
    fn table(&self, text: &mut String, section: Section) {
        text.push_str(&format!("\n### {}\n\n", section.title()));
        let has = |figure: &Figure| {
            self.paths.iter().any(|path| path.median().is_some_and(|m| m.get(*figure).is_some()))
        };
        let figures: Vec<Figure> = section.figures().iter().copied().filter(has).collect();
        let heading = |figure: &Figure| {
            let better = match figure.better() {
                Better::Higher => "↑",
                Better::Lower => "↓",
            };
            format!("{}, {} {better}", figure.label(), figure.unit())
        };
        let headings: Vec<String> = figures.iter().map(heading).collect();
        header(text, &[&["path".to_owned()], &headings[..]].concat());
        for path in self.paths.iter().filter(|path| !path.rounds.is_empty()) {
            let cells = figures.iter().map(|&figure| cell(path, figure).unwrap_or("–".into()));
            let name = path.path.name().to_owned();
            row(text, &std::iter::once(name).chain(cells).collect::<Vec<_>>());
        }
        for (path, other) in self.compared() {
            let ratio = |&figure: &Figure| self.ratio(path, other, figure).map(ratio_text);
            let cells: Vec<String> = figures.iter().map(|f| ratio(f).unwrap_or_default()).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let name = format!("*{} / {}*", path.name(), other.name());
                row(text, &[&[name], &cells[..]].concat());
            }
        }
    }

    fn failures(&self, text: &mut String) {
        let mut lines = String::new();
        for path in &self.paths {
            let name = path.path.name();
            let failure = path.failure.iter().map(|reason| ("to the end", reason));
            let missing = path.missing.iter().map(|(what, reason)| (what.as_str(), reason));
            for (what, reason) in failure.chain(missing) {
                let reason = reason.lines().next().unwrap_or_default();
                lines.push_str(&format!("* {name}, {what}: {reason}\n"));
            }
        }
        if !lines.is_empty() {
            text.push_str("\n### Not measured\n\n");
            text.push_str(&lines);
        }
    }
}

/// The median, and the ends of the spread if there is one.
fn cell(path: &PathReport, figure: Figure) -> Option<String> {
    let median = figure.format(path.median()?.get(figure)?);
    let ends = path.spread().get(&figure)?.map(|value| figure.format(value));
    let [least, most] = ends;
    Some(if least == most { median } else { format!("{median} ({least}–{most})") })
}

fn bar_row(text: &mut String, bar: &Bar) {
    let limit = format!("{} {}", if bar.at_most { "≤" } else { "≥" }, bar.limit);
    let found = bar.value.map_or(String::new(), |value| format!("{value:.2}"));
    let verdict = if bar.holds() { "holds" } else { "**broken**" };
    row(text, &[bar.name, &limit, &found, verdict]);
}

fn header(text: &mut String, cells: &[impl AsRef<str>]) {
    row(text, cells);
    row(text, &vec!["---"; cells.len()]);
}

fn row(text: &mut String, cells: &[impl AsRef<str>]) {
    for cell in cells {
        // Writing to a string cannot fail.
        let _ = write!(text, "| {} ", cell.as_ref().replace('|', "\\|"));
    }
    text.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use crate::measure::Figure;
    use crate::path::PathKind;
    use crate::report::tests::{path, report};

    const EXPECTED: &str = "# weft-bench lab

|  |  |
| --- | --- |
| command | `weft-bench lab` |
| date |  |
| machine | , 0 processors |
| kernel |  |
| rounds | 3, interleaved; loads of 2 s |
| congestion control | cubic |
| pods | direct |
| weft | weft 1.2.3 |

## Bars

| promise | limit | found | |
| --- | --- | --- | --- |
| one TCP stream / vxlan | ≥ 0.66 | 0.70 | holds |
| round trip p50 / vxlan | ≤ 2.2 | 3.00 | **broken** |

![throughput](throughput.svg)

## Underlay wire

### Overview

| path | TCP 1, Gb/s ↑ | p50, us ↓ |
| --- | --- | --- |
| vxlan | 10.00 | 20.0 |
| weft | 7.00 (6.50–7.50) | 60.0 |
| *weft / vxlan* | 0.70 | 3.00 |

### Not measured

* vxlan, tcp1-limited: no daemon
";

    #[test]
    fn a_small_report_looks_like_this() {
        let (tcp, rtt) = (Figure::Tcp1Gbps, Figure::RttP50Us);
        let mut vxlan = path(PathKind::Vxlan, &[&[(tcp, 10.0), (rtt, 20.0)]]);
        vxlan.missing.insert("tcp1-limited".into(), "no daemon\nat all".into());
        let weft = path(PathKind::Weft, &[&[(tcp, 6.5), (rtt, 60.0)], &[(tcp, 7.5), (rtt, 60.0)]]);
        let text = report(vec![vxlan, weft]).to_markdown(&["throughput.svg".to_owned()]);
        assert_eq!(text, EXPECTED.replace("found | |", "found |  |"));
    }
}
