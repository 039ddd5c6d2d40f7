//! The report as plots: horizontal bars, grouped by path, one panel for each underlay.

mod drawing;
mod png;
mod svg;

use drawing::{Anchor, Drawing, LINE_HEIGHT};

use super::{Report, UnderlayReport};
use crate::measure::{Figure, Sample};

/// Where bars begin, behind the names, and where the longest ends, before its value.
const BARS_LEFT: u32 = 150;
const BARS_RIGHT: u32 = 800;
const WIDTH: u32 = 900;

/// Of one bar, with the space below it.
const BAR_HEIGHT: u32 = 18;

/// Between two paths, and around the whole.
const GAP: u32 = 10;

/// One hue for each series, that can be told apart in grey as well.
const COLOURS: [[u8; 3]; 4] = [[31, 78, 121], [230, 126, 34], [109, 170, 60], [150, 150, 150]];

/// One plot: figures of one unit side by side.
struct Chart {
    name: &'static str,
    title: &'static str,
    series: &'static [(Figure, &'static str)],
    logarithmic: bool,
}

const CHARTS: [Chart; 7] = [
    Chart {
        name: "throughput",
        title: "TCP received, Gb/s",
        series: &[
            (Figure::Tcp1Gbps, "1 stream"),
            (Figure::Tcp4Gbps, "4 streams"),
            (Figure::Tcp16Gbps, "16 streams"),
            (Figure::Tcp1BbrGbps, "1 stream, BBR"),
        ],
        logarithmic: false,
    },
    Chart {
        name: "packet-rate",
        title: "Datagrams received at overload, thousands a second",
        series: &[
            (Figure::Udp64Kpps, "64 B, iperf3"),
            (Figure::Datagrams64Kpps, "64 B"),
            (Figure::ImixKpps, "IMIX"),
            (Figure::FlowsKpps, "64 B, 200 flows"),
            (Figure::PeersKpps, "64 B, 50 peers"),
        ],
        logarithmic: false,
    },
    Chart {
        name: "lossless",
        title: "Highest rate with at most 0.1 % loss, thousands a second",
        series: &[(Figure::Lossless64Kpps, "64 B"), (Figure::LosslessImixKpps, "IMIX")],
        logarithmic: false,
    },
    Chart {
        name: "cpu-per-gb",
        title: "Processor seconds of the whole machine for each GB",
        series: &[
            (Figure::Tcp1CpuSecondsPerGb, "1 stream"),
            (Figure::Tcp4CpuSecondsPerGb, "4 streams"),
            (Figure::Tcp16CpuSecondsPerGb, "16 streams"),
        ],
        logarithmic: true,
    },
    Chart {
        name: "cpu-per-datagram",
        title: "Processor microseconds of the whole machine for each datagram",
        series: &[
            (Figure::Udp64CpuUsPerDatagram, "64 B, iperf3"),
            (Figure::Datagrams64CpuUs, "64 B"),
            (Figure::ImixCpuUs, "IMIX"),
            (Figure::FlowsCpuUs, "64 B, 200 flows"),
            (Figure::PeersCpuUs, "64 B, 50 peers"),
        ],
        logarithmic: false,
    },
    Chart {
        name: "latency-idle",
        title: "Round trip of 64 bytes, idle, microseconds",
        series: &[
            (Figure::RttP50Us, "p50"),
            (Figure::RttP99Us, "p99"),
            (Figure::RttP999Us, "p99.9"),
        ],
        logarithmic: true,
    },
    Chart {
        name: "latency-paced",
        title: "Round trip of 64 bytes beside a stream paced at 3 Gb/s, microseconds",
        series: &[
            (Figure::RttPacedP50Us, "p50"),
            (Figure::RttPacedP99Us, "p99"),
            (Figure::RttPacedP999Us, "p99.9"),
        ],
        logarithmic: true,
    },
];

/// Every plot for which the report has a figure, with its name.
pub(super) fn draw_all(report: &Report) -> Vec<(&'static str, Drawing)> {
    let draw = |chart: &Chart| Some((chart.name, chart.draw(report)?));
    CHARTS.iter().filter_map(draw).collect()
}

/// The bars of one path.
struct Group {
    name: &'static str,
    /// Index of the series, and value.
    bars: Vec<(usize, f64)>,
}

impl Chart {
    /// `None` if the report has none of the figures.
    fn draw(&self, report: &Report) -> Option<Drawing> {
        let panels = report.underlays.iter().map(|u| (u.underlay.name(), self.groups(u)));
        let panels: Vec<(&str, Vec<Group>)> =
            panels.filter(|(_, groups)| !groups.is_empty()).collect();
        let bars = || panels.iter().flat_map(|(_, groups)| groups).flat_map(|group| &group.bars);
        let scale = Scale::over(bars().map(|(_, value)| *value), self.logarithmic)?;
        let mut drawing = Drawing::new(WIDTH);
        let mut top = GAP;
        let scaled = if self.logarithmic { " (logarithmic)" } else { "" };
        drawing.text(GAP, top, Anchor::Start, format!("{}{scaled}", self.title));
        top += LINE_HEIGHT + GAP;
        self.draw_legend(&mut drawing, top, |series| bars().any(|(index, _)| *index == series));
        top += LINE_HEIGHT + GAP;
        for (underlay, groups) in &panels {
            drawing.text(GAP, top, Anchor::Start, format!("underlay {underlay}"));
            top += LINE_HEIGHT + GAP;
            for group in groups {
                top = self.draw_group(&mut drawing, top, group, scale) + GAP;
            }
        }
        drawing.set_height(top + GAP);
        Some(drawing)
    }

    fn groups(&self, underlay: &UnderlayReport) -> Vec<Group> {
        let bars = |median: &Sample| -> Vec<(usize, f64)> {
            let series = self.series.iter().enumerate();
            series.filter_map(|(index, (figure, _))| Some((index, median.get(*figure)?))).collect()
        };
        let group = |path: &super::PathReport| {
            let bars = bars(&path.median()?);
            (!bars.is_empty()).then(|| Group { name: path.path.name(), bars })
        };
        underlay.paths.iter().filter_map(group).collect()
    }

    fn draw_legend(&self, drawing: &mut Drawing, top: u32, is_used: impl Fn(usize) -> bool) {
        let mut left = BARS_LEFT;
        for (index, (_, name)) in
            self.series.iter().enumerate().filter(|(index, _)| is_used(*index))
        {
            drawing.bar([left, top + 3, 12, 12], COLOURS[index]);
            drawing.text(left + 18, top, Anchor::Start, (*name).to_owned());
            left += 40 + drawing::text_width(name);
        }
    }

    /// Gives where the group ends.
    fn draw_group(&self, drawing: &mut Drawing, top: u32, group: &Group, scale: Scale) -> u32 {
        let height = group.bars.len() as u32 * BAR_HEIGHT;
        let middle = top + height.saturating_sub(LINE_HEIGHT) / 2;
        drawing.text(BARS_LEFT - GAP, middle, Anchor::End, group.name.to_owned());
        for (row, (series, value)) in group.bars.iter().enumerate() {
            let top = top + row as u32 * BAR_HEIGHT;
            let length = scale.length(*value, BARS_RIGHT - BARS_LEFT);
            drawing.bar([BARS_LEFT, top, length, BAR_HEIGHT - 2], COLOURS[*series]);
            let (figure, _) = self.series[*series];
            let end = BARS_LEFT + length + 6;
            drawing.text(end, top, Anchor::Start, figure.format(*value));
        }
        top + height
    }
}

/// How long a bar is.
#[derive(Clone, Copy, Debug)]
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Scale {
    /// One on which all values find room; a logarithmic one begins at half the least value. `None`
    /// without values.
    fn over(values: impl Iterator<Item = f64>, logarithmic: bool) -> Option<Scale> {
        let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let most = values.iter().copied().reduce(f64::max)?;
        let least = values.iter().copied().reduce(f64::min)? / 2.0;
        Some(Scale { least, most, logarithmic })
    }

    fn length(self, value: f64, room: u32) -> u32 {
        let share = if self.logarithmic {
            (value / self.least).ln() / (self.most / self.least).ln()
        } else {
            value / self.most
        };
        // A value of nothing has no logarithm.
        if share.is_finite() { (share.clamp(0.0, 1.0) * f64::from(room)) as u32 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathKind;
    use crate::report::tests::{path, report};

    #[test]
    fn only_plots_with_figures_are_drawn() {
        let figures = [(Figure::Tcp1Gbps, 10.0), (Figure::RttP99Us, 50.0)];
        let report = report(vec![path(PathKind::Vxlan, &[&figures]), path(PathKind::Weft, &[])]);
        let names: Vec<&str> = draw_all(&report).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["throughput", "latency-idle"]);
    }

    #[test]
    fn a_plot_names_paths_series_and_values() {
        let path = |kind, gbps| path(kind, &[&[(Figure::Tcp1Gbps, gbps), (Figure::Tcp4Gbps, 9.0)]]);
        let report = report(vec![path(PathKind::Vxlan, 10.0), path(PathKind::Weft, 5.0)]);
        let svg = CHARTS[0].draw(&report).unwrap().to_svg();
        for text in ["vxlan", "weft", "1 stream", "4 streams", "10.00", "5.00", "underlay wire"] {
            assert!(svg.contains(&format!(">{text}<")), "{text}");
        }
        assert!(!svg.contains("16 streams"));
        // The greatest value takes all the room, half of it half.
        assert!(svg.contains(r#"width="650""#) && svg.contains(r#"width="325""#), "{svg}");
    }

    #[test]
    fn a_logarithmic_scale_shows_small_and_large() {
        let scale = Scale::over([2.0, 100.0].into_iter(), true).unwrap();
        assert_eq!((scale.length(1.0, 100), scale.length(10.0, 100)), (0, 50));
        assert_eq!((scale.length(100.0, 100), scale.length(0.0, 100)), (100, 0));
        assert!(Scale::over(std::iter::empty(), true).is_none());
    }
}
