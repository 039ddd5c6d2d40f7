//! What a run has shown: medians, ratios within the run, bars, as a table and as JSON.

mod machine;
mod table;

use serde::Serialize;
use serde_json::{Map, Value, json};

pub use machine::Machine;

use crate::lab::Underlay;
use crate::measure::Sample;
use crate::path::PathKind;
use crate::publish::bars_to_json;

/// All results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// Congestion control of the TCP load.
    pub congestion_control: String,
    /// How long each load ran, in seconds.
    pub seconds: u32,
    /// How often each path was measured, interleaved with the others.
    pub rounds: u32,
    /// One entry for each underlay.
    pub underlays: Vec<UnderlayReport>,
}

/// The results on one underlay.
#[derive(Clone, Debug, Serialize)]
pub struct UnderlayReport {
    /// Which one.
    pub underlay: Underlay,
    /// One entry for each path, in the order of measuring.
    pub paths: Vec<PathReport>,
}

/// The results of one path on one underlay.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Which one.
    pub path: PathKind,
    /// Why the path could not be measured to the end; `None` if all went well.
    pub failure: Option<String>,
    /// The rounds as they were measured.
    pub rounds: Vec<Sample>,
}

/// One figure that weft promises, in relation to another path of the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// What is compared.
    pub name: &'static str,
    /// What was found; `None` if one of the two was not measured.
    pub value: Option<f64>,
    /// The least or most that is allowed.
    pub limit: f64,
    /// Whether the value must be at most the limit, rather than at least.
    pub at_most: bool,
}

impl Bar {
    /// Whether the promise is kept. What was not measured is not kept.
    pub fn holds(&self) -> bool {
        self.value.is_some_and(
            |value| {
                if self.at_most { value <= self.limit } else { value >= self.limit }
            },
        )
    }
}

impl PathReport {
    /// An entry without rounds.
    pub fn new(path: PathKind) -> PathReport {
        PathReport { path, failure: None, rounds: Vec::new() }
    }

    /// The median of each figure over the rounds; `None` without a round.
    pub fn median(&self) -> Option<Sample> {
        let pick = |figure: fn(&Sample) -> f64| median(self.rounds.iter().map(figure).collect());
        let known = |figure: fn(&Sample) -> Option<f64>| {
            median(self.rounds.iter().filter_map(figure).collect())
        };
        Some(Sample {
            ping_loss_percent: pick(|sample| sample.ping_loss_percent)?,
            tcp_gbps: pick(|sample| sample.tcp_gbps)?,
            tcp_retransmits: pick(|sample| sample.tcp_retransmits)?,
            cpu_seconds_per_gb: pick(|sample| sample.cpu_seconds_per_gb)?,
            tcp4_gbps: pick(|sample| sample.tcp4_gbps)?,
            udp64_kpps: pick(|sample| sample.udp64_kpps)?,
            cpu_us_per_datagram: pick(|sample| sample.cpu_us_per_datagram)?,
            udp64_out_of_order: pick(|sample| sample.udp64_out_of_order)?,
            rtt_p50_us: pick(|sample| sample.rtt_p50_us)?,
            rtt_p99_us: pick(|sample| sample.rtt_p99_us)?,
            calls_per_segment: known(|sample| sample.calls_per_segment),
            memory_mib: known(|sample| sample.memory_mib),
        })
    }
}

impl UnderlayReport {
    /// The entry of a path, if it was asked for.
    pub fn path(&self, path: PathKind) -> Option<&PathReport> {
        self.paths.iter().find(|report| report.path == path)
    }

    /// The median of a path, if it was measured.
    pub fn median(&self, path: PathKind) -> Option<Sample> {
        self.path(path)?.median()
    }

    /// A figure of one path divided by the same figure of another.
    pub fn ratio(
        &self,
        path: PathKind,
        other: PathKind,
        figure: fn(&Sample) -> f64,
    ) -> Option<f64> {
        let (path, other) = (self.median(path)?, self.median(other)?);
        Some(figure(&path) / figure(&other))
    }

    /// System calls for each segment, weft divided by weft with epoll.
    fn calls_ratio(&self) -> Option<f64> {
        let calls = |path| self.median(path)?.calls_per_segment;
        Some(calls(PathKind::Weft)? / calls(PathKind::WeftEpoll)?)
    }

    /// What weft promises on *wire*.
    pub fn bars(&self) -> Vec<Bar> {
        let least = |name, limit, value| Bar { name, value, limit, at_most: false };
        let most = |name, limit, value| Bar { name, value, limit, at_most: true };
        let (vxlan, per_packet) = (PathKind::Vxlan, PathKind::PerPacket);
        let memory = self.median(PathKind::Weft).and_then(|median| median.memory_mib);
        let weft = PathKind::Weft;
        let tcp = |other| self.ratio(weft, other, |sample| sample.tcp_gbps);
        let datagrams = self.ratio(weft, vxlan, |sample| sample.udp64_kpps);
        let round_trip = self.ratio(weft, vxlan, |sample| sample.rtt_p50_us);
        let mut bars = vec![
            least("one TCP stream / vxlan", 0.50, tcp(vxlan)),
            least("one TCP stream / per-packet", 8.0, tcp(per_packet)),
            least("64-byte datagrams delivered / vxlan", 0.75, datagrams),
            most("round trip p50 / vxlan", 3.0, round_trip),
            most("memory after the load in MiB", 64.0, memory),
        ];
        // The other engine is measured on demand.
        let epoll = PathKind::WeftEpoll;
        if self.path(epoll).is_some() {
            let tcp = self.ratio(epoll, vxlan, |sample| sample.tcp_gbps);
            let calls = self.calls_ratio();
            bars.push(least("epoll: one TCP stream / vxlan", 0.45, tcp));
            bars.push(most("system calls per 64-byte segment, uring / epoll", 0.5, calls));
        }
        bars
    }
}

impl Report {
    /// The results on an underlay, if it was asked for.
    pub fn underlay(&self, underlay: Underlay) -> Option<&UnderlayReport> {
        self.underlays.iter().find(|report| report.underlay == underlay)
    }

    /// True if weft, with any engine, was asked for and could not be measured to the end.
    pub fn weft_failed(&self) -> bool {
        let kinds = [PathKind::Weft, PathKind::WeftEpoll];
        let weft = |report: &UnderlayReport| kinds.map(|kind| report.path(kind).cloned());
        let mut weft = self.underlays.iter().flat_map(weft).flatten();
        weft.any(|report| report.failure.is_some() || report.rounds.is_empty())
    }

    /// The bars; they are promised on *wire* alone.
    pub fn bars(&self) -> Vec<Bar> {
        self.underlay(Underlay::Wire).map(UnderlayReport::bars).unwrap_or_default()
    }

    /// Everything, with medians, ratios and bars beside the raw rounds.
    pub fn to_json(&self) -> Value {
        let mut report = serde_json::to_value(self).expect("a report holds only plain values");
        for (index, underlay) in self.underlays.iter().enumerate() {
            let entry = &mut report["underlays"][index];
            for (path, measured) in underlay.paths.iter().enumerate() {
                entry["paths"][path]["median"] = json!(measured.median());
            }
            entry["ratios"] = json!({
                "weft/vxlan": underlay.ratios(PathKind::Weft, PathKind::Vxlan),
                "weft/per-packet": underlay.ratios(PathKind::Weft, PathKind::PerPacket),
                "weft-epoll/vxlan": underlay.ratios(PathKind::WeftEpoll, PathKind::Vxlan),
                "weft/weft-epoll": underlay.ratios(PathKind::Weft, PathKind::WeftEpoll),
            });
        }
        report["bars"] = bars_to_json(&self.bars());
        report
    }

    /// The few figures of a demonstration, on one line. Paths that were not measured are `null`.
    pub fn summary(&self) -> Value {
        let Some(underlay) = self.underlays.first() else { return Value::Null };
        let mut paths = Map::new();
        for report in &underlay.paths {
            let figures = report.median().map(|median| {
                json!({
                    "tcp_gbps": rounded(median.tcp_gbps),
                    "udp64_kpps": rounded(median.udp64_kpps),
                })
            });
            paths.insert(report.path.name().into(), json!(figures));
        }
        let weft = underlay.median(PathKind::Weft);
        json!({"ping_loss_percent": weft.map(|median| rounded(median.ping_loss_percent)), "paths": paths})
    }
}

impl UnderlayReport {
    fn ratios(&self, path: PathKind, other: PathKind) -> Value {
        let ratio = |figure| self.ratio(path, other, figure);
        json!({
            "tcp_gbps": ratio(|sample| sample.tcp_gbps),
            "tcp4_gbps": ratio(|sample| sample.tcp4_gbps),
            "cpu_seconds_per_gb": ratio(|sample| sample.cpu_seconds_per_gb),
            "udp64_kpps": ratio(|sample| sample.udp64_kpps),
            "cpu_us_per_datagram": ratio(|sample| sample.cpu_us_per_datagram),
            "rtt_p50_us": ratio(|sample| sample.rtt_p50_us),
            "rtt_p99_us": ratio(|sample| sample.rtt_p99_us),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: PathKind, tcp: &[f64]) -> PathReport {
        let sample = |&tcp_gbps: &f64| Sample {
            tcp_gbps,
            udp64_kpps: 200.0,
            rtt_p50_us: 25.0,
            memory_mib: (path == PathKind::Weft).then_some(20.5),
            ..Sample::default()
        };
        PathReport { rounds: tcp.iter().map(sample).collect(), ..PathReport::new(path) }
    }

    fn report(paths: Vec<PathReport>) -> Report {
        Report {
            machine: Machine::default(),
            command: "weft-bench lab".into(),
            congestion_control: "cubic".into(),
            seconds: 2,
            rounds: 3,
            underlays: vec![UnderlayReport { underlay: Underlay::Wire, paths }],
        }
    }

    fn full() -> Report {
        report(vec![
            path(PathKind::Vxlan, &[10.0, 30.0, 11.0]),
            path(PathKind::Weft, &[1.0, 5.5, 9.0]),
            path(PathKind::PerPacket, &[0.5, 0.5, 0.5]),
        ])
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn bars_compare_medians() {
        let bars = full().bars();
        let values: Vec<_> = bars.iter().map(|bar| (bar.value.unwrap(), bar.holds())).collect();
        assert_eq!(values, [(0.5, true), (11.0, true), (1.0, true), (1.0, true), (20.5, true)]);
    }

    #[test]
    fn a_bar_is_broken_on_its_own_side() {
        let bar = |value, at_most| Bar { name: "x", value, limit: 2.0, at_most };
        assert!(bar(Some(2.1), false).holds() && !bar(Some(1.9), false).holds());
        assert!(bar(Some(1.9), true).holds() && !bar(Some(2.1), true).holds());
        assert!(!bar(Some(f64::NAN), true).holds() && !bar(None, true).holds());
    }

    #[test]
    fn what_was_not_measured_breaks_its_bar() {
        let bars = report(vec![path(PathKind::Weft, &[5.0])]).bars();
        let holds: Vec<bool> = bars.iter().map(Bar::holds).collect();
        assert_eq!(holds, [false, false, false, false, true]);
    }

    #[test]
    fn the_other_engine_has_bars_of_its_own_when_it_is_measured() {
        let mut report = full();
        report.underlays[0].paths.push(path(PathKind::WeftEpoll, &[5.0]));
        let weft = |report: &mut Report, index: usize, calls: f64| {
            for sample in &mut report.underlays[0].paths[index].rounds {
                sample.calls_per_segment = Some(calls);
            }
        };
        weft(&mut report, 1, 0.1);
        assert_eq!(report.bars()[6].value, None);
        weft(&mut report, 3, 0.4);
        let bars: Vec<_> = report.bars()[5..].iter().map(|bar| bar.value.unwrap()).collect();
        assert_eq!(bars, [5.0 / 11.0, 0.25]);
        assert!(report.bars()[5..].iter().all(Bar::holds));
    }

    #[test]
    fn weft_fails_without_a_round_or_with_a_reason() {
        assert!(!full().weft_failed());
        assert!(!report(vec![path(PathKind::Vxlan, &[])]).weft_failed());
        assert!(report(vec![path(PathKind::Weft, &[])]).weft_failed());
        let mut late = full();
        late.underlays[0].paths[1].failure = Some("left behind".into());
        assert!(late.weft_failed());
    }

    #[test]
    fn the_summary_has_the_published_form() {
        let mut report = full();
        report.underlays[0].paths.push(path(PathKind::HostGw, &[]));
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
        assert_eq!(weft["rounds"][2]["tcp_gbps"], 9.0);
        assert_eq!(weft["median"]["tcp_gbps"], 5.5);
        assert_eq!(json["underlays"][0]["ratios"]["weft/per-packet"]["tcp_gbps"], 11.0);
        assert_eq!(json["bars"][0]["holds"], true);
    }
}
