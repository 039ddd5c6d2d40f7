//! What can be asked for, and the loads that it takes.

use std::collections::BTreeSet;

use clap::ValueEnum;

/// A group of figures that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// The overview, and what else the bars need.
    Core,
    /// Further numbers of streams, and the other direction.
    Tcp,
    /// Datagrams of several sizes, as many as possible and without loss.
    Udp,
    /// Round trips, idle and beside a paced stream.
    Rtt,
    /// Stream, datagrams and round trip beside two busy loops per core.
    Busy,
    /// Stream, datagrams and round trip while each daemon may use one core.
    Limited,
    /// Datagrams in 200 flows, to one peer and to fifty.
    Flows,
    /// The time from a daemon's start to the first packet.
    Cold,
    /// All of these.
    Full,
}

/// Congestion control of the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Congestion {
    /// What the bars are about.
    Cubic,
    /// Default of some distributions.
    Bbr,
}

impl Congestion {
    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Congestion::Cubic => super::CONGESTION_CONTROL,
            Congestion::Bbr => "bbr",
        }
    }
}

/// One load, in the order of running: memory is looked at after the loads that fill buffers, and
/// what changes the machine comes last.
#[expect(missing_docs, reason = "the figures that a step gives are documented")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Step {
    Ping,
    Tcp1,
    Tcp4,
    Tcp16,
    Tcp1Reverse,
    Tcp4Reverse,
    Tcp1Bbr,
    Tcp4Bbr,
    Udp64,
    Datagrams64,
    Datagrams512,
    Datagrams1300,
    Imix,
    Gso,
    Lossless64,
    LosslessImix,
    Flows,
    #[value(alias = "rtt")]
    RoundTrip,
    RoundTripPaced,
    Memory,
    Tcp1Busy,
    Udp64Busy,
    RoundTripBusy,
    Tcp1Limited,
    Udp64Limited,
    RoundTripLimited,
    Peers,
    Cold,
}

impl Measure {
    fn steps(self) -> &'static [Step] {
        use Step::{
            Cold, Datagrams64, Datagrams512, Datagrams1300, Flows, Gso, Imix, Lossless64,
            LosslessImix, Memory, Peers, Ping, RoundTrip, RoundTripBusy, RoundTripLimited,
            RoundTripPaced, Tcp1, Tcp1Bbr, Tcp1Busy, Tcp1Limited, Tcp1Reverse, Tcp4, Tcp4Bbr,
            Tcp4Reverse, Tcp16, Udp64, Udp64Busy, Udp64Limited,
        };
        match self {
            Measure::Core => {
                &[Ping, Tcp1, Tcp4, Tcp1Bbr, Udp64, RoundTrip, RoundTripPaced, Memory, Tcp1Busy]
            }
            Measure::Tcp => &[Tcp1, Tcp4, Tcp16, Tcp1Reverse, Tcp4Reverse, Tcp1Bbr, Tcp4Bbr],
            Measure::Udp => {
                &[Datagrams64, Datagrams512, Datagrams1300, Imix, Gso, Lossless64, LosslessImix]
            }
            Measure::Rtt => &[RoundTrip, RoundTripPaced],
            Measure::Busy => &[Tcp1Busy, Udp64Busy, RoundTripBusy],
            Measure::Limited => &[Tcp1Limited, Udp64Limited, RoundTripLimited],
            Measure::Flows => &[Flows, Peers],
            Measure::Cold => &[Cold],
            Measure::Full => Step::value_variants(),
        }
    }
}

impl Step {
    /// The name in messages and in the report.
    pub fn name(self) -> String {
        // No variant is hidden from the command line.
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// True if it is a load that needs the daemons to be limited.
    pub fn is_limited(self) -> bool {
        matches!(self, Step::Tcp1Limited | Step::Udp64Limited | Step::RoundTripLimited)
    }

    /// The congestion control that it is about, if it is about one.
    fn congestion(self) -> Option<Congestion> {
        match self {
            Step::Tcp1Bbr | Step::Tcp4Bbr => Some(Congestion::Bbr),
            Step::Tcp1 | Step::Tcp4 | Step::Tcp16 | Step::Tcp1Reverse | Step::Tcp4Reverse => {
                Some(Congestion::Cubic)
            }
            _ => None,
        }
    }
}

/// The loads that these measures take, each once, in the order of running.
pub fn steps(measures: &[Measure], congestion: &[Congestion]) -> BTreeSet<Step> {
    let steps = measures.iter().flat_map(|measure| measure.steps()).copied();
    steps.filter(|step| step.congestion().is_none_or(|name| congestion.contains(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_several_measures_need_is_taken_once() {
        let steps = steps(&[Measure::Rtt, Measure::Cold, Measure::Rtt], &[Congestion::Cubic]);
        let steps: Vec<Step> = steps.into_iter().collect();
        assert_eq!(steps, [Step::RoundTrip, Step::RoundTripPaced, Step::Cold]);
    }

    #[test]
    fn congestion_control_chooses_the_streams() {
        let with = |congestion: &[Congestion]| steps(&[Measure::Tcp], congestion);
        assert!(!with(&[Congestion::Cubic]).contains(&Step::Tcp1Bbr));
        let bbr: Vec<Step> = with(&[Congestion::Bbr]).into_iter().collect();
        assert_eq!(bbr, [Step::Tcp1Bbr, Step::Tcp4Bbr]);
        assert_eq!(with(&[Congestion::Cubic, Congestion::Bbr]).len(), 7);
    }

    #[test]
    fn full_is_the_sum_of_the_others() {
        let all = [Congestion::Cubic, Congestion::Bbr];
        let others: Vec<Measure> = Measure::value_variants().to_vec();
        let others: Vec<Measure> = others.into_iter().filter(|m| *m != Measure::Full).collect();
        assert_eq!(steps(&[Measure::Full], &all), steps(&others, &all));
        assert_eq!(Step::Tcp1Reverse.name(), "tcp1-reverse");
    }
}
