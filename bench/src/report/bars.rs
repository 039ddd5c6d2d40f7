//! The figures that weft promises, each in relation to another path of the same run.

use serde::Serialize;

use super::{Report, UnderlayReport};
use crate::lab::Underlay;
use crate::measure::Figure;
use crate::path::PathKind;

/// What of the bare kernel's figures has to be left where the kernel carries the packets.
const KERNEL_SHARE: f64 = 0.95;

/// The names of those bars: one TCP stream, small datagrams, round trip.
const KERNEL_PATHS: [[&str; 3]; 2] = [
    [
        "weft-host-gw: one TCP stream / host-gw",
        "weft-host-gw: 64-byte datagrams delivered / host-gw",
        "weft-host-gw: round trip p50 / host-gw",
    ],
    [
        "weft-vxlan: one TCP stream / vxlan",
        "weft-vxlan: 64-byte datagrams delivered / vxlan",
        "weft-vxlan: round trip p50 / vxlan",
    ],
];

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
    /// The bars of the underlays that were measured.
    pub fn bars(&self) -> Vec<Bar> {
        let wire = self.underlay(Underlay::Wire).map(UnderlayReport::bars_on_wire);
        let whole = self.underlay(Underlay::Super).map(UnderlayReport::bars_on_super);
        [wire, whole].into_iter().flatten().flatten().collect()
    }
}

impl UnderlayReport {
    /// What weft promises where frames are cut to the MTU.
    fn bars_on_wire(&self) -> Vec<Bar> {
        let (weft, vxlan, per_packet) = (PathKind::Weft, PathKind::Vxlan, PathKind::PerPacket);
        let ratio = |figure| self.ratio(weft, vxlan, figure);
        let by_packet = |figure| self.ratio(weft, per_packet, figure);
        let mut bars = vec![
            least("one TCP stream / vxlan", 0.66, ratio(Figure::Tcp1Gbps)),
            least("four TCP streams / vxlan", 0.66, ratio(Figure::Tcp4Gbps)),
            least("64-byte datagrams delivered / vxlan", 1.0, ratio(Figure::Udp64Kpps)),
            least("one TCP stream / per-packet", 11.0, by_packet(Figure::Tcp1Gbps)),
            least("64-byte datagrams delivered / per-packet", 2.5, by_packet(Figure::Udp64Kpps)),
            most("round trip p50 / vxlan", 2.2, ratio(Figure::RttP50Us)),
            most("round trip p99 beside 3 Gb/s / vxlan", 2.5, ratio(Figure::RttPacedP99Us)),
            most("CPU seconds per GB / vxlan", 1.75, ratio(Figure::Tcp1CpuSecondsPerGb)),
            least("one TCP stream beside busy loops / vxlan", 0.5, ratio(Figure::Tcp1BusyGbps)),
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
        bars.extend(self.bars_of_sealing());
        bars.extend(self.bars_of_kernel_paths());
        bars
    }

    /// What sealing may cost. Measured on demand.
    fn bars_of_sealing(&self) -> Vec<Bar> {
        let (sealed, plain) = (PathKind::WeftSealed, PathKind::Weft);
        if self.path(sealed).is_none() {
            return Vec::new();
        }
        let cpu = |path| self.median(path, Figure::Tcp1CpuSecondsPerGb);
        let added = cpu(sealed).zip(cpu(plain)).map(|(sealed, plain)| sealed - plain);
        let by = |other, figure| self.ratio(sealed, other, figure);
        let go = PathKind::WireguardGo;
        vec![
            most("sealed: CPU seconds per GB above plain", 1.6, added),
            least("sealed: one TCP stream / plain", 0.45, by(plain, Figure::Tcp1Gbps)),
            least("sealed: one TCP stream / vxlan", 0.3, by(PathKind::Vxlan, Figure::Tcp1Gbps)),
            least("sealed: one TCP stream / wireguard-go", 5.0, by(go, Figure::Tcp1Gbps)),
            least("sealed: 64-byte datagrams / wireguard-go", 1.5, by(go, Figure::Udp64Kpps)),
            most("sealed: round trip p50 / plain", 1.3, by(plain, Figure::RttP50Us)),
        ]
    }

    /// A daemon on a path that the kernel carries may cost next to nothing. Measured on demand.
    fn bars_of_kernel_paths(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let pairs = [
            (PathKind::WeftHostGw, PathKind::HostGw, KERNEL_PATHS[0]),
            (PathKind::WeftVxlan, PathKind::Vxlan, KERNEL_PATHS[1]),
        ];
        for (weft, bare, [tcp, datagrams, round_trip]) in pairs {
            if self.path(weft).is_some() {
                let ratio = |figure| self.ratio(weft, bare, figure);
                bars.push(least(tcp, KERNEL_SHARE, ratio(Figure::Tcp1Gbps)));
                bars.push(least(datagrams, KERNEL_SHARE, ratio(Figure::Udp64Kpps)));
                bars.push(most(round_trip, 1.0 / KERNEL_SHARE, ratio(Figure::RttP50Us)));
            }
        }
        bars
    }

    /// What weft promises where frames of 64 KiB cross whole.
    fn bars_on_super(&self) -> Vec<Bar> {
        let tcp = self.ratio(PathKind::Weft, PathKind::Vxlan, Figure::Tcp1Gbps);
        let mut bars = vec![least("super: one TCP stream / vxlan", 0.44, tcp)];
        bars.extend(self.bars_of_kernel_paths());
        bars
    }
}

fn least(name: &'static str, limit: f64, value: Option<f64>) -> Bar {
    Bar { name, value, limit, at_most: false }
}

fn most(name: &'static str, limit: f64, value: Option<f64>) -> Bar {
    Bar { name, value, limit, at_most: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::PathReport;
    use crate::report::tests::{path, report};

    fn measured(kind: PathKind, tcp: f64, calls: f64) -> PathReport {
        let common = [
            (Figure::Tcp1Gbps, tcp),
            (Figure::Tcp4Gbps, tcp),
            (Figure::Tcp1BusyGbps, tcp),
            (Figure::Tcp1CpuSecondsPerGb, 1.0 / tcp),
            (Figure::Udp64Kpps, 20.0 * tcp),
            (Figure::RttP50Us, 25.0),
            (Figure::RttPacedP99Us, 50.0),
            (Figure::MemoryMib, 20.5),
            (Figure::Udp64CallsPerSegment, calls),
        ];
        path(kind, &[&common])
    }

    fn full() -> Report {
        report(vec![
            measured(PathKind::Vxlan, 10.0, f64::NAN),
            measured(PathKind::Weft, 5.0, 0.1),
            measured(PathKind::PerPacket, 0.5, f64::NAN),
        ])
    }

    #[test]
    fn bars_compare_medians() {
        let found = full().bars().iter().map(|bar| bar.value.unwrap()).collect::<Vec<_>>();
        assert_eq!(found, [0.5, 0.5, 0.5, 10.0, 10.0, 1.0, 1.0, 2.0, 0.5, 20.5]);
        let holds = full().bars().iter().map(Bar::holds).collect::<Vec<_>>();
        let (yes, no) = (true, false);
        assert_eq!(holds, [no, no, no, no, yes, yes, yes, no, yes, yes]);
    }

    #[test]
    fn each_underlay_has_its_own_bars() {
        let mut report = full();
        report.underlays[0].underlay = Underlay::Super;
        let bars = report.bars();
        assert_eq!(bars.len(), 1);
        assert_eq!((bars[0].value, bars[0].limit, bars[0].holds()), (Some(0.5), 0.44, true));
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
        let mut expected = [false; 10];
        expected[9] = true;
        assert_eq!(holds, expected);
    }

    #[test]
    fn the_other_engine_has_bars_of_its_own_when_it_is_measured() {
        let mut report = full();
        report.underlays[0].paths.push(measured(PathKind::WeftEpoll, 5.0, f64::NAN));
        assert_eq!(report.bars()[11].value, None);
        report.underlays[0].paths[3] = measured(PathKind::WeftEpoll, 5.0, 0.4);
        let bars: Vec<_> = report.bars()[10..].iter().map(|bar| bar.value.unwrap()).collect();
        assert_eq!(bars, [0.5, 0.25]);
        assert!(report.bars()[10..].iter().all(Bar::holds));
    }

    #[test]
    fn sealing_is_compared_with_what_it_replaces() {
        let mut report = full();
        let paths = &mut report.underlays[0].paths;
        paths.push(measured(PathKind::WeftSealed, 4.0, f64::NAN));
        paths.push(measured(PathKind::WireguardGo, 1.0, f64::NAN));
        let bars = report.bars();
        let found: Vec<_> =
            bars[10..].iter().map(|bar| (bar.value.unwrap(), bar.holds())).collect();
        let (good, bad) = (|value| (value, true), |value| (value, false));
        let expected = [good(0.25 - 0.2), good(0.8), good(0.4), bad(4.0), good(4.0), good(1.0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn daemons_on_kernel_paths_are_compared_with_the_bare_ones() {
        let mut report = full();
        let paths = &mut report.underlays[0].paths;
        paths.push(measured(PathKind::HostGw, 20.0, f64::NAN));
        paths.push(measured(PathKind::WeftHostGw, 19.5, f64::NAN));
        paths.push(measured(PathKind::WeftVxlan, 9.0, f64::NAN));
        let bars = report.bars();
        let found: Vec<_> =
            bars[10..].iter().map(|bar| (bar.value.unwrap(), bar.holds())).collect();
        let (good, bad) = ((0.975, true), (0.9, false));
        assert_eq!(found, [good, good, (1.0, true), bad, bad, (1.0, true)]);
    }
}
