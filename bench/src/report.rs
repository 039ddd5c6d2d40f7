//! What a run has shown: medians, ratios within the run, bars, as a table and as JSON.

mod bars;
mod machine;
mod markdown;
mod plot;
mod render;
mod table;
mod versions;

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

pub use bars::Bar;
pub use machine::Machine;
pub use render::Rendering;
pub use versions::versions;

use crate::lab::{Topology, Underlay};
use crate::measure::{Figure, Sample, Section};
use crate::path::PathKind;
use crate::publish::bars_to_json;

/// All results of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What took part: programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// The command line.
    pub command: String,
    /// Congestion control of the TCP load, one or several.
    pub congestion_control: String,
    /// How the pods hung on their hosts.
    pub topology: Topology,
    /// How daemons were limited to one core, if they were.
    pub cpu_limit: Option<String>,
    /// How long each load ran, in seconds.
    pub seconds: u32,
    /// How often each path was measured, interleaved with the others.
    pub rounds: u32,
    /// One entry for each underlay.
    pub underlays: Vec<UnderlayReport>,
}

/// The results on one underlay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnderlayReport {
    /// Which one.
    pub underlay: Underlay,
    /// One entry for each path, in the order of measuring.
    pub paths: Vec<PathReport>,
}

/// The results of one path on one underlay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathReport {
    /// Which one.
    #[serde(deserialize_with = "path_by_name")]
    pub path: PathKind,
    /// Why the path could not be measured to the end; `None` if all went well.
    pub failure: Option<String>,
    /// Why something could not be had on this path, by what it is.
    #[serde(default)]
    pub missing: BTreeMap<String, String>,
    /// The rounds as they were measured.
    pub rounds: Vec<Sample>,
}

/// Least and greatest value of a figure over the rounds.
pub type Spread = BTreeMap<Figure, [f64; 2]>;

impl PathReport {
    /// An entry without rounds.
    pub fn new(path: PathKind) -> PathReport {
        PathReport { path, failure: None, missing: BTreeMap::new(), rounds: Vec::new() }
    }

    /// The median of each figure over the rounds that have it; `None` without a round.
    pub fn median(&self) -> Option<Sample> {
        let pick = |(figure, values)| Some((figure, median(values)?));
        (!self.rounds.is_empty()).then(|| self.values().into_iter().filter_map(pick).collect())
    }

    /// How far the rounds lie apart.
    pub fn spread(&self) -> Spread {
        let ends = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            [least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
        };
        self.values().into_iter().map(|(figure, values)| (figure, ends(&values))).collect()
    }

    fn values(&self) -> BTreeMap<Figure, Vec<f64>> {
        let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
        for (figure, value) in self.rounds.iter().flat_map(Sample::iter) {
            values.entry(figure).or_default().push(value);
        }
        values
    }

    /// True for weft, whatever engine and however many workers.
    fn is_weft(&self) -> bool {
        self.path.name().starts_with(PathKind::Weft.name())
    }
}

impl UnderlayReport {
    /// The entry of a path, if it was asked for.
    pub fn path(&self, path: PathKind) -> Option<&PathReport> {
        self.paths.iter().find(|report| report.path == path)
    }

    /// The median of a path's figure, if it was measured.
    pub fn median(&self, path: PathKind, figure: Figure) -> Option<f64> {
        self.path(path)?.median()?.get(figure)
    }

    /// A figure of one path divided by the same figure of another.
    pub fn ratio(&self, path: PathKind, other: PathKind, figure: Figure) -> Option<f64> {
        Some(self.median(path, figure)? / self.median(other, figure)?)
    }

    /// The pairs of measured paths that are compared: each with kernel VXLAN, and weft with each.
    pub fn compared(&self) -> Vec<(PathKind, PathKind)> {
        let measured = self.paths.iter().filter(|report| !report.rounds.is_empty());
        let measured: Vec<PathKind> = measured.map(|report| report.path).collect();
        let (weft, vxlan) = (PathKind::Weft, PathKind::Vxlan);
        let by_vxlan = measured.iter().filter(|&&path| path != vxlan).map(|&path| (path, vxlan));
        let others = measured.iter().filter(|&&path| path != vxlan && path != weft);
        let pairs = by_vxlan.chain(others.map(|&path| (weft, path)));
        pairs.filter(|(path, other)| measured.contains(path) && measured.contains(other)).collect()
    }

    /// The sections of which a path has a figure.
    pub fn sections(&self) -> Vec<Section> {
        let medians: Vec<Sample> = self.paths.iter().filter_map(PathReport::median).collect();
        let has = |figure: &Figure| medians.iter().any(|median| median.get(*figure).is_some());
        let sections = Section::ALL.iter().copied();
        sections.filter(|section| section.figures().iter().any(has)).collect()
    }

    fn ratios_to_json(&self) -> Value {
        let mut ratios = Map::new();
        for (path, other) in self.compared() {
            let figures = Section::ALL.iter().flat_map(|section| section.figures());
            let ratio = |&figure: &Figure| Some((figure, self.ratio(path, other, figure)?));
            let sample: Sample = figures.filter_map(ratio).collect();
            ratios.insert(format!("{}/{}", path.name(), other.name()), json!(sample));
        }
        Value::Object(ratios)
    }
}

impl Report {
    /// The results on an underlay, if it was asked for.
    pub fn underlay(&self, underlay: Underlay) -> Option<&UnderlayReport> {
        self.underlays.iter().find(|report| report.underlay == underlay)
    }

    /// True if weft, with any engine, was asked for and could not be measured to the end.
    pub fn weft_failed(&self) -> bool {
        let paths = self.underlays.iter().flat_map(|underlay| &underlay.paths);
        let mut weft = paths.filter(|report| report.is_weft());
        weft.any(|report| report.failure.is_some() || report.rounds.is_empty())
    }

    /// Everything, with medians, spreads, ratios and bars beside the raw rounds.
    pub fn to_json(&self) -> Value {
        let mut report = serde_json::to_value(self).expect("a report holds only plain values");
        for (index, underlay) in self.underlays.iter().enumerate() {
            let entry = &mut report["underlays"][index];
            for (path, measured) in underlay.paths.iter().enumerate() {
                entry["paths"][path]["median"] = json!(measured.median());
                entry["paths"][path]["spread"] = json!(measured.spread());
            }
            entry["ratios"] = underlay.ratios_to_json();
        }
        report["bars"] = bars_to_json(&self.bars());
        report
    }

    /// The few figures of a demonstration, on one line. Paths that were not measured are `null`.
    pub fn summary(&self) -> Value {
        let Some(underlay) = self.underlays.first() else { return Value::Null };
        let figure = |path, figure| underlay.median(path, figure).map(rounded);
        let mut paths = Map::new();
        for report in &underlay.paths {
            let figures = report.median().map(|_| {
                json!({
                    "tcp_gbps": figure(report.path, Figure::Tcp1Gbps),
                    "udp64_kpps": figure(report.path, Figure::Udp64Kpps),
                })
            });
            paths.insert(report.path.name().into(), json!(figures));
        }
        let loss = figure(PathKind::Weft, Figure::PingLossPercent);
        json!({"ping_loss_percent": loss, "paths": paths})
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Two decimals, and none for whole numbers.
fn rounded(value: f64) -> Value {
    let value = (value * 100.0).round() / 100.0;
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

fn path_by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathKind, D::Error> {
    let name = String::deserialize(deserializer)?;
    PathKind::from_str(&name, false).map_err(serde::de::Error::custom)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn path(path: PathKind, rounds: &[&[(Figure, f64)]]) -> PathReport {
        let rounds = rounds.iter().map(|pairs| pairs.iter().copied().collect()).collect();
        PathReport { rounds, ..PathReport::new(path) }
    }

    pub(crate) fn report(paths: Vec<PathReport>) -> Report {
        Report {
            machine: Machine::default(),
            versions: [("weft".to_owned(), "weft 1.2.3".to_owned())].into(),
            command: "weft-bench lab".into(),
            congestion_control: "cubic".into(),
            topology: Topology::Direct,
            cpu_limit: None,
            seconds: 2,
            rounds: 3,
            underlays: vec![UnderlayReport { underlay: Underlay::Wire, paths }],
        }
    }

    fn streams(kind: PathKind, tcp: &[f64]) -> PathReport {
        let round = |&gbps: &f64| {
            let pairs = [
                (Figure::Tcp1Gbps, gbps),
                (Figure::Udp64Kpps, 200.0),
                (Figure::PingLossPercent, 0.0),
            ];
            Sample::from_iter(pairs)
        };
        PathReport { rounds: tcp.iter().map(round).collect(), ..PathReport::new(kind) }
    }

    fn full() -> Report {
        report(vec![
            streams(PathKind::Vxlan, &[10.0, 30.0, 11.0]),
            streams(PathKind::Weft, &[1.0, 5.5, 9.0]),
            streams(PathKind::PerPacket, &[0.5, 0.5, 0.5]),
        ])
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_figure_that_some_rounds_lack_has_the_median_of_the_others() {
        let figure = Figure::MemoryMib;
        let report = path(PathKind::Weft, &[&[(figure, 4.0)], &[], &[(figure, 2.0)]]);
        assert_eq!(report.median().unwrap().get(figure), Some(3.0));
        assert_eq!(report.spread()[&figure], [2.0, 4.0]);
        assert_eq!(report.median().unwrap().get(Figure::Tcp1Gbps), None);
        assert_eq!(path(PathKind::Weft, &[]).median(), None);
    }

    #[test]
    fn every_path_is_compared_with_vxlan_and_weft_with_every_path() {
        let mut report = full();
        report.underlays[0].paths.push(streams(PathKind::HostGw, &[]));
        let (weft, vxlan, per_packet) = (PathKind::Weft, PathKind::Vxlan, PathKind::PerPacket);
        let expected = [(weft, vxlan), (per_packet, vxlan), (weft, per_packet)];
        assert_eq!(report.underlays[0].compared(), expected);
    }

    #[test]
    fn weft_fails_without_a_round_or_with_a_reason() {
        assert!(!full().weft_failed());
        assert!(!report(vec![streams(PathKind::Vxlan, &[])]).weft_failed());
        assert!(report(vec![streams(PathKind::Weft, &[])]).weft_failed());
        let mut late = full();
        late.underlays[0].paths[1].failure = Some("left behind".into());
        assert!(late.weft_failed());
    }

    #[test]
    fn the_summary_has_the_published_form() {
        let mut report = full();
        report.underlays[0].paths.push(streams(PathKind::HostGw, &[]));
        let expected = concat!(
            r#"{"ping_loss_percent":0,"paths":{"vxlan":{"tcp_gbps":11,"udp64_kpps":200},"#,
            r#""weft":{"tcp_gbps":5.5,"udp64_kpps":200},"#,
            r#""per-packet":{"tcp_gbps":0.5,"udp64_kpps":200},"host-gw":null}}"#
        );
        assert_eq!(report.summary().to_string(), expected);
    }

    #[test]
    fn the_json_holds_rounds_medians_ratios_and_bars() {
        let json = full().to_json();
        let weft = &json["underlays"][0]["paths"][1];
        assert_eq!(weft["path"], "weft");
        assert_eq!(weft["rounds"][2]["tcp1_gbps"], 9.0);
        assert_eq!(weft["median"]["tcp1_gbps"], 5.5);
        assert_eq!(weft["spread"]["tcp1_gbps"], json!([1.0, 9.0]));
        assert_eq!(json["underlays"][0]["ratios"]["weft/per-packet"]["tcp1_gbps"], 11.0);
        assert_eq!(
            (&json["bars"][0]["holds"], &json["bars"][3]["holds"]),
            (&json!(false), &json!(true))
        );
    }

    #[test]
    fn the_json_can_be_read_back() {
        let mut report = full();
        report.underlays[0].paths[0].missing.insert("memory".into(), "no daemon".into());
        let json = report.to_json();
        let again: Report = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(again.to_json(), json);
    }
}
