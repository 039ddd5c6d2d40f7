//! The figures that exist, and a set of them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

/// Which way a figure is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// As much as possible.
    Higher,
    /// As little as possible.
    Lower,
}

/// One list gives the sections, the figures and all that is known about them: the name in JSON, the
/// column's label and unit, the better direction, and how many decimals are shown.
macro_rules! figures {
    ($($(#[$section_doc:meta])* $section:ident $title:literal {
        $($(#[$doc:meta])* $figure:ident
            $name:literal, $label:literal, $unit:literal, $better:ident, $decimals:literal;)*
    })*) => {
        /// A group of figures that are shown in one table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Section {
            $($(#[$section_doc])* $section,)*
        }

        impl Section {
            /// All, in the order of the report.
            pub const ALL: &[Section] = &[$(Section::$section),*];

            /// The heading of its table.
            pub fn title(self) -> &'static str {
                match self {
                    $(Section::$section => $title,)*
                }
            }

            /// Its figures, in the order of the table.
            pub fn figures(self) -> &'static [Figure] {
                match self {
                    $(Section::$section => &[$(Figure::$figure),*],)*
                }
            }
        }

        /// Something that is measured, with its unit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Figure {
            $($($(#[$doc])* #[serde(rename = $name)] $figure,)*)*
        }

        impl Figure {
            /// The name in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Figure::$figure => $name,)*)*
                }
            }

            /// The heading of its column, in a table of its section.
            pub fn label(self) -> &'static str {
                match self {
                    $($(Figure::$figure => $label,)*)*
                }
            }

            /// The unit.
            pub fn unit(self) -> &'static str {
                match self {
                    $($(Figure::$figure => $unit,)*)*
                }
            }

            /// Which way it is to go.
            pub fn better(self) -> Better {
                match self {
                    $($(Figure::$figure => Better::$better,)*)*
                }
            }

            /// The value as text, with as many decimals as it deserves.
            pub fn format(self, value: f64) -> String {
                let decimals = match self {
                    $($(Figure::$figure => $decimals,)*)*
                };
                format!("{value:.decimals$}")
            }
        }
    };
}

figures! {
    /// What is always worth a look.
    Overview "Overview" {
        /// One TCP stream, received.
        Tcp1Gbps "tcp1_gbps", "TCP 1", "Gb/s", Higher, 2;
        /// Four TCP streams together, received.
        Tcp4Gbps "tcp4_gbps", "TCP 4", "Gb/s", Higher, 2;
        /// Busy processor seconds of the whole machine for each GB that the one stream delivered.
        Tcp1CpuSecondsPerGb "tcp1_cpu_seconds_per_gb", "CPU", "s/GB", Lower, 2;
        /// 64-byte datagrams received, from iperf3.
        Udp64Kpps "udp64_kpps", "64 B", "kpps", Higher, 0;
        /// Busy processor time of the whole machine for each of those datagrams.
        Udp64CpuUsPerDatagram "udp64_cpu_us_per_datagram", "CPU", "us/datagr.", Lower, 1;
        /// Median round trip of 64 bytes over TCP.
        RttP50Us "rtt_p50_us", "p50", "us", Lower, 1;
        /// 99th percentile of the same.
        RttP99Us "rtt_p99_us", "p99", "us", Lower, 1;
        /// Memory of the path's largest program after the load, locked memory included.
        MemoryMib "memory_mib", "memory", "MiB", Lower, 1;
        /// Echo requests without a reply.
        PingLossPercent "ping_loss_percent", "ping", "% lost", Lower, 1;
        /// System calls of both daemons for each segment that they handed on, during the load of
        /// 64-byte datagrams from iperf3.
        Udp64CallsPerSegment "udp64_calls_per_segment", "calls", "/segment", Lower, 3;
    }
    /// More about TCP.
    Tcp "TCP" {
        /// Segments that the one stream sent again.
        Tcp1Retransmits "tcp1_retransmits", "TCP 1", "resent", Lower, 0;
        /// Sixteen streams together, received.
        Tcp16Gbps "tcp16_gbps", "TCP 16", "Gb/s", Higher, 2;
        /// One stream from pod 2 to pod 1.
        Tcp1ReverseGbps "tcp1_reverse_gbps", "reverse 1", "Gb/s", Higher, 2;
        /// Four streams from pod 2 to pod 1.
        Tcp4ReverseGbps "tcp4_reverse_gbps", "reverse 4", "Gb/s", Higher, 2;
        /// Processor time of four streams.
        Tcp4CpuSecondsPerGb "tcp4_cpu_seconds_per_gb", "CPU 4", "s/GB", Lower, 2;
        /// Processor time of sixteen streams.
        Tcp16CpuSecondsPerGb "tcp16_cpu_seconds_per_gb", "CPU 16", "s/GB", Lower, 2;
        /// One stream with BBR.
        Tcp1BbrGbps "tcp1_bbr_gbps", "BBR 1", "Gb/s", Higher, 2;
        /// Four streams with BBR.
        Tcp4BbrGbps "tcp4_bbr_gbps", "BBR 4", "Gb/s", Higher, 2;
        /// Processor time of one stream with BBR.
        Tcp1BbrCpuSecondsPerGb "tcp1_bbr_cpu_seconds_per_gb", "BBR CPU 1", "s/GB", Lower, 2;
    }
    /// More datagrams than get through, by size.
    Datagrams "Datagrams delivered at overload" {
        /// 64 bytes of payload, from the lab's own sender.
        Datagrams64Kpps "datagrams64_kpps", "64 B", "kpps", Higher, 0;
        /// The same with 512 bytes.
        Datagrams512Kpps "datagrams512_kpps", "512 B", "kpps", Higher, 0;
        /// The same with 1300 bytes.
        Datagrams1300Kpps "datagrams1300_kpps", "1300 B", "kpps", Higher, 0;
        /// The same with a mixture of sizes.
        ImixKpps "imix_kpps", "IMIX", "kpps", Higher, 0;
        /// Payload of that mixture.
        ImixGbps "imix_gbps", "IMIX", "Gb/s", Higher, 2;
        /// Payload of 1300-byte datagrams from an application that hands the kernel trains of them.
        GsoGbps "gso_gbps", "GSO", "Gb/s", Higher, 2;
        /// 64 bytes in 200 flows.
        FlowsKpps "flows200_kpps", "200 flows", "kpps", Higher, 0;
        /// 64 bytes in 200 flows to fifty peers.
        PeersKpps "peers50_kpps", "50 peers", "kpps", Higher, 0;
    }
    /// What those datagrams cost.
    DatagramCost "Processor time for each datagram delivered at overload" {
        /// 64 bytes of payload.
        Datagrams64CpuUs "datagrams64_cpu_us", "64 B", "us", Lower, 2;
        /// 512 bytes of payload.
        Datagrams512CpuUs "datagrams512_cpu_us", "512 B", "us", Lower, 2;
        /// 1300 bytes of payload.
        Datagrams1300CpuUs "datagrams1300_cpu_us", "1300 B", "us", Lower, 2;
        /// A mixture of sizes.
        ImixCpuUs "imix_cpu_us", "IMIX", "us", Lower, 2;
        /// 1300 bytes in trains.
        GsoCpuUs "gso_cpu_us", "GSO", "us", Lower, 2;
        /// 64 bytes in 200 flows.
        FlowsCpuUs "flows200_cpu_us", "200 flows", "us", Lower, 2;
        /// 64 bytes in 200 flows to fifty peers.
        PeersCpuUs "peers50_cpu_us", "50 peers", "us", Lower, 2;
    }
    /// What became of the others.
    Losses "Datagrams lost and disordered at overload" {
        /// Of the 64-byte datagrams sent, those that did not arrive.
        Datagrams64LossPercent "datagrams64_loss_percent", "64 B", "% lost", Lower, 1;
        /// Datagrams that arrived after a later one.
        Datagrams64DisorderPercent "datagrams64_disorder_percent", "64 B", "% late", Lower, 2;
        /// The same from iperf3, as a count.
        Udp64OutOfOrder "udp64_out_of_order", "iperf3", "late", Lower, 0;
        /// Of the 64-byte datagrams sent, those dropped at a device of a host or a pod.
        DeviceDropsPercent "device_drops_percent", "devices", "% lost", Lower, 1;
        /// Those dropped at a full socket buffer.
        SocketDropsPercent "socket_drops_percent", "sockets", "% lost", Lower, 1;
        /// Those that the daemons counted as dropped by themselves.
        DaemonDropsPercent "daemon_drops_percent", "daemons", "% lost", Lower, 1;
        /// Of the datagrams in 200 flows, those that did not arrive.
        FlowsLossPercent "flows200_loss_percent", "200 flows", "% lost", Lower, 1;
        /// Of the datagrams in 200 flows, those that arrived after a later one of their flow.
        FlowsDisorderPercent "flows200_disorder_percent", "200 flows", "% late", Lower, 2;
        /// Of the datagrams to fifty peers, those that did not arrive.
        PeersLossPercent "peers50_loss_percent", "50 peers", "% lost", Lower, 1;
        /// Of the datagrams to fifty peers, those that arrived after a later one of their flow.
        PeersDisorderPercent "peers50_disorder_percent", "50 peers", "% late", Lower, 2;
    }
    /// What gets through whole.
    Lossless "Highest rate with at most 0.1 % loss" {
        /// 64 bytes of payload.
        Lossless64Kpps "lossless64_kpps", "64 B", "kpps", Higher, 0;
        /// A mixture of sizes.
        LosslessImixKpps "lossless_imix_kpps", "IMIX", "kpps", Higher, 0;
    }
    /// Round trips, idle and beside a paced stream.
    Latency "Round trip, idle and beside a stream paced at 3 Gb/s" {
        /// 99.9th percentile of the idle round trip.
        RttP999Us "rtt_p999_us", "idle 99.9", "us", Lower, 1;
        /// Median beside the stream.
        RttPacedP50Us "rtt_paced_p50_us", "paced p50", "us", Lower, 1;
        /// 99th percentile beside the stream.
        RttPacedP99Us "rtt_paced_p99_us", "paced p99", "us", Lower, 1;
        /// 99.9th percentile beside the stream.
        RttPacedP999Us "rtt_paced_p999_us", "paced 99.9", "us", Lower, 1;
        /// What the stream carried: less than its pace where the path cannot do more.
        PacedGbps "paced_gbps", "stream", "Gb/s", Higher, 2;
    }
    /// The machine has other things to do.
    Busy "Beside two busy loops per core" {
        /// One TCP stream.
        Tcp1BusyGbps "tcp1_busy_gbps", "TCP 1", "Gb/s", Higher, 2;
        /// 64-byte datagrams received, from iperf3.
        Udp64BusyKpps "udp64_busy_kpps", "64 B", "kpps", Higher, 0;
        /// Median round trip.
        RttBusyP50Us "rtt_busy_p50_us", "p50", "us", Lower, 1;
        /// 99th percentile.
        RttBusyP99Us "rtt_busy_p99_us", "p99", "us", Lower, 1;
        /// 99.9th percentile.
        RttBusyP999Us "rtt_busy_p999_us", "p99.9", "us", Lower, 1;
    }
    /// The daemons may use no more than one core each.
    Limited "Each daemon limited to one core" {
        /// One TCP stream.
        Tcp1LimitedGbps "tcp1_limited_gbps", "TCP 1", "Gb/s", Higher, 2;
        /// 64-byte datagrams received, from iperf3.
        Udp64LimitedKpps "udp64_limited_kpps", "64 B", "kpps", Higher, 0;
        /// Median round trip.
        RttLimitedP50Us "rtt_limited_p50_us", "p50", "us", Lower, 1;
        /// 99th percentile.
        RttLimitedP99Us "rtt_limited_p99_us", "p99", "us", Lower, 1;
        /// 99.9th percentile.
        RttLimitedP999Us "rtt_limited_p999_us", "p99.9", "us", Lower, 1;
    }
    /// From nothing to the first packet.
    Start "Start" {
        /// From the start of the first daemon to the first reply across both.
        ColdStartMs "cold_start_ms", "cold", "ms", Lower, 0;
    }
}

/// The figures of one round, or medians of several. What could not be had is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sample(BTreeMap<Figure, f64>);

impl Sample {
    /// One figure.
    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    /// Adds a figure. One that is no number, because nothing was there to divide by, stays absent.
    pub fn insert(&mut self, figure: Figure, value: f64) {
        if value.is_finite() {
            self.0.insert(figure, value);
        }
    }

    /// All of them, in the order of the report.
    pub fn iter(&self) -> impl Iterator<Item = (Figure, f64)> {
        self.0.iter().map(|(figure, value)| (*figure, *value))
    }
}

impl Display for Sample {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for (index, (figure, value)) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let (label, value, unit) = (figure.label(), figure.format(value), figure.unit());
            write!(out, "{comma}{label} {value} {unit}")?;
        }
        Ok(())
    }
}

impl FromIterator<(Figure, f64)> for Sample {
    fn from_iter<T: IntoIterator<Item = (Figure, f64)>>(pairs: T) -> Sample {
        let mut sample = Sample::default();
        for (figure, value) in pairs {
            sample.insert(figure, value);
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = Figure> {
        Section::ALL.iter().flat_map(|section| section.figures()).copied()
    }

    #[test]
    fn names_are_unique_and_those_of_json() {
        let names: BTreeSet<&str> = all().map(Figure::name).collect();
        assert_eq!(names.len(), all().count());
        for figure in all() {
            assert_eq!(serde_json::to_value(figure).unwrap(), figure.name());
            // Columns of the table are this wide.
            assert!(figure.label().len() <= 10 && figure.unit().len() <= 10, "{figure:?}");
        }
    }

    #[test]
    fn a_sample_is_a_plain_map_and_comes_back() {
        let sample = Sample::from_iter([(Figure::MemoryMib, 20.5), (Figure::Tcp1Gbps, 10.9)]);
        let json = serde_json::to_string(&sample).unwrap();
        assert_eq!(json, r#"{"tcp1_gbps":10.9,"memory_mib":20.5}"#);
        assert_eq!(serde_json::from_str::<Sample>(&json).unwrap(), sample);
        assert_eq!(sample.to_string(), "TCP 1 10.90 Gb/s, memory 20.5 MiB");
        assert_eq!(Sample::default().to_string(), "");
    }

    #[test]
    fn what_is_no_number_is_absent() {
        let sample = Sample::from_iter([(Figure::Tcp1Gbps, f64::NAN), (Figure::Tcp4Gbps, 1.0)]);
        assert_eq!(sample.iter().collect::<Vec<_>>(), [(Figure::Tcp4Gbps, 1.0)]);
        assert_eq!(sample.get(Figure::Tcp1Gbps), None);
    }
}
