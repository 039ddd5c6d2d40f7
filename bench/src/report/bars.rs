//! The figures that weft promises, each in relation to another path of the same run.

use serde::Serialize;

use super::{Report, UnderlayReport};
use crate::lab::Underlay;
use crate::measure::Figure;
use crate::path::PathKind;

/// One figure that weft promises.
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

impl Report {
    /// The bars; they are promised on *wire* alone.
    pub fn bars(&self) -> Vec<Bar> {
        self.underlay(Underlay::Wire).map(UnderlayReport::bars).unwrap_or_default()
    }
}

impl UnderlayReport {
    /// What weft promises on *wire*.
    pub fn bars(&self) -> Vec<Bar> {
        let least = |name, limit, value| Bar { name, value, limit, at_most: false };
        let most = |name, limit, value| Bar { name, value, limit, at_most: true };
        let (weft, vxlan, per_packet) = (PathKind::Weft, PathKind::Vxlan, PathKind::PerPacket);
        let tcp = |other| self.ratio(weft, other, Figure::Tcp1Gbps);
        let datagrams = self.ratio(weft, vxlan, Figure::Udp64Kpps);
        let round_trip = self.ratio(weft, vxlan, Figure::RttP50Us);
        let mut bars = vec![
            least("one TCP stream / vxlan", 0.50, tcp(vxlan)),
            least("one TCP stream / per-packet", 8.0, tcp(per_packet)),
            least("64-byte datagrams delivered / vxlan", 0.75, datagrams),
            most("round trip p50 / vxlan", 3.0, round_trip),
            most("memory after the load in MiB", 64.0, self.median(weft, Figure::MemoryMib)),
        ];
        // The other engine is measured on demand.
        let epoll = PathKind::WeftEpoll;
        if self.path(epoll).is_some() {
            let tcp = self.ratio(epoll, vxlan, Figure::Tcp1Gbps);
            let calls = self.ratio(weft, epoll, Figure::Udp64CallsPerSegment);
            bars.push(least("epoll: one TCP stream / vxlan", 0.45, tcp));
            bars.push(most("system calls per 64-byte segment, uring / epoll", 0.5, calls));
        }
        bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PathReport;
    use crate::report::tests::{path, report};

    fn measured(kind: PathKind, tcp: f64, calls: f64) -> PathReport {
        let common = [
            (Figure::Tcp1Gbps, tcp),
            (Figure::Udp64Kpps, 200.0),
            (Figure::RttP50Us, 25.0),
            (Figure::MemoryMib, 20.5),
            (Figure::Udp64CallsPerSegment, calls),
        ];
        path(kind, &[&common])
    }

    fn full() -> Report {
        report(vec![
            measured(PathKind::Vxlan, 11.0, f64::NAN),
            measured(PathKind::Weft, 5.5, 0.1),
            measured(PathKind::PerPacket, 0.5, f64::NAN),
        ])
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
        let bars = report(vec![measured(PathKind::Weft, 5.0, 0.1)]).bars();
        let holds: Vec<bool> = bars.iter().map(Bar::holds).collect();
        assert_eq!(holds, [false, false, false, false, true]);
    }

    #[test]
    fn the_other_engine_has_bars_of_its_own_when_it_is_measured() {
        let mut report = full();
        report.underlays[0].paths.push(measured(PathKind::WeftEpoll, 5.0, f64::NAN));
        assert_eq!(report.bars()[6].value, None);
        report.underlays[0].paths[3] = measured(PathKind::WeftEpoll, 5.0, 0.4);
        let bars: Vec<_> = report.bars()[5..].iter().map(|bar| bar.value.unwrap()).collect();
        assert_eq!(bars, [5.0 / 11.0, 0.25]);
        assert!(report.bars()[5..].iter().all(Bar::holds));
    }
}
