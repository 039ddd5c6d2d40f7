//! Two sets of rounds: how far apart they are, and whether that means anything.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::measure::{Better, Figure, Sample};
use crate::report::median;

/// Rounds of each build below which nothing is said about their spread.
const ROUNDS_MIN: usize = 3;

/// How many times the typical deviation counts as the spread. For rounds that scatter normally this is
/// two standard deviations.
const DEVIATIONS: f64 = 3.0;

/// The rounds of one build, for one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    /// Median of the distances from the median.
    pub deviation: f64,
}

impl Summary {
    /// `None` without a value.
    fn new(values: &[f64]) -> Option<Summary> {
        let middle = median(values.to_vec())?;
        let deviation = median(values.iter().map(|value| (value - middle).abs()).collect())?;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Summary { median: middle, least, most, deviation })
    }
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// B is better by more than the spread.
    Better,
    /// B is worse by more than the spread.
    Worse,
    /// The difference is within the spread.
    WithinSpread,
    /// There are not enough rounds to know the spread, or most of them are alike to the last digit, as
    /// small counts are.
    SpreadUnknown,
}

impl Verdict {
    /// For the foot of the table.
    pub(super) const EXPLANATION: &str = "spread: three times the median distance of a round from its build's median, of the build that\n\
         scatters more, in percent of A. A difference within it says nothing.";

    fn text(self) -> &'static str {
        match self {
            Verdict::Better => "B is better",
            Verdict::Worse => "B is WORSE",
            Verdict::WithinSpread => "",
            Verdict::SpreadUnknown => "spread unknown",
        }
    }
}

/// One figure of both builds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub figure: Figure,
    pub a: Summary,
    pub b: Summary,
    /// Of the medians, B against A.
    pub difference_percent: f64,
    /// What rounds of one build differ by.
    pub spread_percent: f64,
    pub verdict: Verdict,
}

impl Comparison {
    /// `None` if one of the two has no such figure, or A's is zero.
    pub(super) fn new(figure: Figure, a: &[Sample], b: &[Sample]) -> Option<Comparison> {
        let values = |rounds: &[Sample]| -> Vec<f64> {
            rounds.iter().filter_map(|sample| sample.get(figure)).collect()
        };
        let (a_values, b_values) = (values(a), values(b));
        let (a, b) = (Summary::new(&a_values)?, Summary::new(&b_values)?);
        if a.median == 0.0 {
            return None;
        }
        let difference = b.median - a.median;
        let spread = DEVIATIONS * a.deviation.max(b.deviation);
        let is_better = (difference > 0.0) == (figure.better() == Better::Higher);
        let verdict = if a_values.len().min(b_values.len()) < ROUNDS_MIN || spread == 0.0 {
            Verdict::SpreadUnknown
        } else if difference.abs() <= spread {
            Verdict::WithinSpread
        } else if is_better {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        let percent = |value: f64| value / a.median * 100.0;
        Some(Comparison {
            figure,
            a,
            b,
            difference_percent: percent(difference),
            spread_percent: percent(spread),
            verdict,
        })
    }
}

impl Display for Comparison {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let figure = self.figure;
        let name = format!("{} {}", figure.label(), figure.unit());
        let range = |build: &Summary| {
            format!("{:>8}-{:<8}", figure.format(build.least), figure.format(build.most))
        };
        let line = format!(
            "{name:<22}{:>9}{:>9}{:>8.1}%{:>8.1}%  {:<19}{:<19}{}",
            figure.format(self.a.median),
            figure.format(self.b.median),
            self.difference_percent,
            self.spread_percent,
            range(&self.a),
            range(&self.b),
            self.verdict.text()
        );
        out.write_str(line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figure: Figure, values: &[f64]) -> Vec<Sample> {
        values.iter().map(|&value| Sample::from_iter([(figure, value)])).collect()
    }

    fn verdict(figure: Figure, a: &[f64], b: &[f64]) -> Verdict {
        let comparison = Comparison::new(figure, &rounds(figure, a), &rounds(figure, b));
        comparison.unwrap().verdict
    }

    #[test]
    fn one_outlier_neither_makes_nor_hides_a_difference() {
        let calm = [10.0, 10.1, 9.9, 10.05, 9.95];
        let disturbed = [10.0, 10.1, 9.9, 10.05, 2.0];
        assert_eq!(verdict(Figure::Tcp1Gbps, &calm, &disturbed), Verdict::WithinSpread);
        let faster = [11.0, 11.1, 10.9, 11.05, 2.0];
        assert_eq!(verdict(Figure::Tcp1Gbps, &calm, &faster), Verdict::Better);
        assert_eq!(verdict(Figure::Tcp1Gbps, &faster, &calm), Verdict::Worse);
    }

    #[test]
    fn the_better_direction_is_the_figures() {
        let (low, high) = ([20.0, 20.1, 20.2], [30.0, 30.1, 30.2]);
        assert_eq!(verdict(Figure::RttP50Us, &low, &high), Verdict::Worse);
        assert_eq!(verdict(Figure::RttP50Us, &high, &low), Verdict::Better);
    }

    #[test]
    fn a_build_that_scatters_widens_the_spread() {
        let (narrow, wide) = ([10.0, 10.1, 10.2], [8.0, 11.0, 14.0]);
        assert_eq!(verdict(Figure::Tcp1Gbps, &narrow, &wide), Verdict::WithinSpread);
        assert_eq!(verdict(Figure::Tcp1Gbps, &wide, &narrow), Verdict::WithinSpread);
    }

    #[test]
    fn two_rounds_say_nothing_and_none_are_no_comparison() {
        let two = rounds(Figure::Tcp1Gbps, &[10.0, 10.1]);
        let comparison = Comparison::new(Figure::Tcp1Gbps, &two, &two).unwrap();
        assert_eq!(comparison.verdict, Verdict::SpreadUnknown);
        assert!(Comparison::new(Figure::Tcp4Gbps, &two, &two).is_none());
        let (counts, more) = ([1.0, 1.0, 2.0], [4.0, 4.0, 3.0]);
        assert_eq!(verdict(Figure::Tcp1Retransmits, &counts, &more), Verdict::SpreadUnknown);
        let zero = rounds(Figure::Tcp1Retransmits, &[0.0; 3]);
        assert!(Comparison::new(Figure::Tcp1Retransmits, &zero, &zero).is_none());
    }

    #[test]
    fn percentages_are_of_a() {
        let (a, b) =
            (rounds(Figure::Tcp1Gbps, &[9.0, 10.0, 11.0]), rounds(Figure::Tcp1Gbps, &[15.0]));
        let comparison = Comparison::new(Figure::Tcp1Gbps, &a, &b).unwrap();
        assert_eq!((comparison.difference_percent, comparison.spread_percent), (50.0, 30.0));
        let line = comparison.to_string();
        assert!(line.starts_with("TCP 1 Gb/s ") && line.contains(" 50.0%"), "{line}");
        assert!(line.contains("    9.00-11.00 ") && line.ends_with("spread unknown"), "{line}");
    }
}
