//! One round on one path: steps, each with its figures or its reason.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::datagrams::{self, Datagrams, Fate};
use super::drops::Drops;
use super::iperf::{self, PacedStream, TcpFigures, TcpLoad};
use super::lossless::{self, Attempt};
use super::sockperf::{self, RoundTrip};
use super::step::{Congestion, Step};
use super::{Figure, Sample, ping_loss, timed};
use crate::lab::{Lab, OneCoreEach, Process, Side};
use crate::path::{RunningPath, many};

/// Payload of the small datagrams, in bytes.
const DATAGRAM_BYTES: u32 = 64;

/// Pace of the stream beside which round trips are taken.
const PACE: &str = "3G";

/// How much longer than the round trips that stream runs: they take a moment to start.
const PACED_EXTRA_SECONDS: u32 = 2;

/// Busy loops for each processor.
const LOOPS_PER_CORE: usize = 2;

/// How long one attempt of a search for a rate takes, in seconds.
const ATTEMPT_SECONDS: u32 = 1;

/// Datagrams that an application with trains gives the kernel at once: 31,200 bytes of payload.
const TRAIN: u16 = 24;

/// 200 flows: each of four sockets sends to each of fifty addresses, as many as peers otherwise. The
/// addresses lie in a prefix that pod 2 takes as its own.
const FLOW_SOCKETS: u16 = 4;
const FLOW_ADDRESSES: u8 = many::PEERS;
const FLOW_FIRST: u8 = 128;
const FLOW_PREFIX: &str = "10.244.2.128/26";

/// A path that carries packets, and what it takes to measure it.
#[derive(Clone, Copy)]
pub struct MeasuredPath<'a> {
    /// The lab that it runs in.
    pub lab: &'a Lab,
    /// The path.
    pub path: &'a RunningPath,
    /// This program, which is the load of datagrams as well.
    pub bench: &'a Path,
    /// How long each load runs, in seconds.
    pub seconds: u32,
}

/// What was found so far.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The figures.
    pub sample: Sample,
    /// Why a step gave none, by its name.
    pub missing: BTreeMap<String, String>,
}

impl Round {
    /// Takes one step, and gives the figures that it has added.
    pub fn take(&mut self, step: Step, on: MeasuredPath<'_>) -> Sample {
        self.add(step, on.take(step))
    }

    /// Adds what a step has given, and gives the figures among it.
    pub fn add(&mut self, step: Step, taken: Result<Sample>) -> Sample {
        match taken {
            Ok(figures) => {
                figures.iter().for_each(|(figure, value)| self.sample.insert(figure, value));
                figures
            }
            Err(error) => {
                self.missing.insert(step.name(), format!("{error:#}"));
                Sample::default()
            }
        }
    }
}

impl MeasuredPath<'_> {
    /// Takes one step and gives its figures.
    pub fn take(self, step: Step) -> Result<Sample> {
        match step {
            // These need a lab of their own.
            Step::Cold | Step::Peers => Ok(Sample::default()),
            Step::Ping => Ok(Sample::from_iter([(Figure::PingLossPercent, ping_loss(self.lab)?)])),
            Step::Memory => self.memory(),
            Step::Tcp1 | Step::Tcp4 | Step::Tcp16 => self.streams(step),
            Step::Tcp1Reverse | Step::Tcp4Reverse => self.streams(step),
            Step::Tcp1Bbr | Step::Tcp4Bbr => self.streams(step),
            Step::Udp64 => self.udp64(),
            Step::Datagrams64 => self.datagrams64(),
            Step::Datagrams512 => {
                let figures = [Figure::Datagrams512Kpps, Figure::Datagrams512CpuUs];
                self.datagrams("512", figures)
            }
            Step::Datagrams1300 => {
                let figures = [Figure::Datagrams1300Kpps, Figure::Datagrams1300CpuUs];
                self.datagrams("1300", figures)
            }
            Step::Imix => self.imix(),
            Step::Gso => self.gso(),
            Step::Lossless64 => self.lossless(Datagrams::of("64"), Figure::Lossless64Kpps),
            Step::LosslessImix => self.lossless(Datagrams::imix(), Figure::LosslessImixKpps),
            Step::Flows => self.flows(),
            Step::RoundTrip => {
                let figures = [Figure::RttP50Us, Figure::RttP99Us, Figure::RttP999Us];
                Ok(round_trip(self.ping_pong()?, figures))
            }
            Step::RoundTripPaced => self.round_trip_paced(),
            Step::Tcp1Busy | Step::Udp64Busy | Step::RoundTripBusy => self.busy(step),
            Step::Tcp1Limited | Step::Udp64Limited | Step::RoundTripLimited => self.limited(step),
        }
    }

    fn memory(self) -> Result<Sample> {
        let memory = self.path.memory_mib()?;
        Ok(memory.into_iter().map(|memory| (Figure::MemoryMib, memory)).collect())
    }

    fn streams(self, step: Step) -> Result<Sample> {
        let one = TcpLoad::streams(1);
        let four = TcpLoad::streams(4);
        let bbr = Congestion::Bbr.name();
        let (load, gbps, cpu) = match step {
            Step::Tcp1 => (one, Figure::Tcp1Gbps, Some(Figure::Tcp1CpuSecondsPerGb)),
            Step::Tcp4 => (four, Figure::Tcp4Gbps, Some(Figure::Tcp4CpuSecondsPerGb)),
            Step::Tcp16 => {
                let cpu = Some(Figure::Tcp16CpuSecondsPerGb);
                (TcpLoad::streams(16), Figure::Tcp16Gbps, cpu)
            }
            Step::Tcp1Reverse => (TcpLoad { reverse: true, ..one }, Figure::Tcp1ReverseGbps, None),
            Step::Tcp4Reverse => (TcpLoad { reverse: true, ..four }, Figure::Tcp4ReverseGbps, None),
            Step::Tcp1Bbr => {
                let cpu = Some(Figure::Tcp1BbrCpuSecondsPerGb);
                (TcpLoad { congestion_control: bbr, ..one }, Figure::Tcp1BbrGbps, cpu)
            }
            _ => (TcpLoad { congestion_control: bbr, ..four }, Figure::Tcp4BbrGbps, None),
        };
        let (tcp, busy) = self.tcp(load)?;
        let mut sample = Sample::from_iter([(gbps, tcp.gbps)]);
        if let Some(cpu) = cpu {
            sample.insert(cpu, busy.as_secs_f64() / (tcp.bytes as f64 / 1e9));
        }
        if step == Step::Tcp1 {
            sample.insert(Figure::Tcp1Retransmits, tcp.retransmits as f64);
        }
        Ok(sample)
    }

    fn tcp(self, load: TcpLoad) -> Result<(TcpFigures, Duration)> {
        let mut server = iperf::start_server(self.lab)?;
        let found = timed(|| iperf::tcp(self.lab, self.seconds, load))?;
        server.stop()?;
        Ok(found)
    }

    fn udp64(self) -> Result<Sample> {
        let mut server = iperf::start_server(self.lab)?;
        let before = self.path.work(self.lab)?;
        let (udp, busy) = timed(|| iperf::udp(self.lab, self.seconds, DATAGRAM_BYTES))?;
        let work = self.path.work(self.lab)?.zip(before);
        server.stop()?;
        let calls = work.and_then(|(after, before)| after.calls_per_segment(before));
        let microseconds = busy.as_secs_f64() * 1e6;
        let figures = [
            (Figure::Udp64Kpps, udp.received as f64 / udp.seconds / 1e3),
            (Figure::Udp64CpuUsPerDatagram, microseconds / udp.received as f64),
            (Figure::Udp64OutOfOrder, udp.out_of_order as f64),
            (Figure::Udp64CallsPerSegment, calls.unwrap_or(f64::NAN)),
        ];
        Ok(figures.into_iter().collect())
    }

    fn load(self, seconds: u32, load: Datagrams<'_>) -> Result<Fate> {
        datagrams::run(self.lab, self.bench, seconds, load)
    }

    fn datagrams(self, sizes: &str, [kpps, cpu]: [Figure; 2]) -> Result<Sample> {
        let fate = self.load(self.seconds, Datagrams::of(sizes))?;
        Ok(Sample::from_iter([(kpps, fate.kpps()), (cpu, fate.cpu_us())]))
    }

    /// Says as well where the others were lost.
    fn datagrams64(self) -> Result<Sample> {
        let before = Drops::read(self.lab, self.path)?;
        let fate = self.load(self.seconds, Datagrams::of("64"))?;
        let drops = Drops::read(self.lab, self.path)?.since(before);
        let share = |datagrams| fate.percent_of_sent(datagrams);
        let figures = [
            (Figure::Datagrams64Kpps, fate.kpps()),
            (Figure::Datagrams64CpuUs, fate.cpu_us()),
            (Figure::Datagrams64LossPercent, fate.loss_percent()),
            (Figure::Datagrams64DisorderPercent, fate.disorder_percent()),
            (Figure::DeviceDropsPercent, share(drops.devices)),
            (Figure::SocketDropsPercent, share(drops.sockets)),
            (Figure::DaemonDropsPercent, drops.daemons.map_or(f64::NAN, share)),
        ];
        Ok(figures.into_iter().collect())
    }

    fn imix(self) -> Result<Sample> {
        let fate = self.load(self.seconds, Datagrams::imix())?;
        let figures = [
            (Figure::ImixKpps, fate.kpps()),
            (Figure::ImixGbps, fate.gbps()),
            (Figure::ImixCpuUs, fate.cpu_us()),
        ];
        Ok(figures.into_iter().collect())
    }

    fn gso(self) -> Result<Sample> {
        let fate = self.load(self.seconds, Datagrams { train: TRAIN, ..Datagrams::of("1300") })?;
        Ok(Sample::from_iter([(Figure::GsoGbps, fate.gbps()), (Figure::GsoCpuUs, fate.cpu_us())]))
    }

    fn lossless(self, load: Datagrams<'_>, figure: Figure) -> Result<Sample> {
        let overload = self.load(ATTEMPT_SECONDS, load)?;
        let rate = lossless::search(overload.kpps() * 1e3, |rate| {
            let fate = self.load(ATTEMPT_SECONDS, Datagrams { rate: Some(rate), ..load })?;
            let rate = fate.sent.datagrams as f64 / fate.sent.seconds;
            Ok(Attempt { rate, loss_percent: fate.loss_percent() })
        })?;
        Ok(Sample::from_iter([(figure, rate / 1e3)]))
    }

    fn flows(self) -> Result<Sample> {
        let pod = self.lab.pod(Side::Two);
        pod.ip(&["route", "replace", "local", FLOW_PREFIX, "dev", "lo"])?;
        let addresses = (FLOW_FIRST..FLOW_FIRST + FLOW_ADDRESSES).map(|n| format!("10.244.2.{n}"));
        let figures = [
            Figure::FlowsKpps,
            Figure::FlowsCpuUs,
            Figure::FlowsLossPercent,
            Figure::FlowsDisorderPercent,
        ];
        self.flows_to(&addresses.collect::<Vec<_>>(), figures)
    }

    /// As many flows to pods of as many peers as there are addresses otherwise. The path must have
    /// been started by [`RunningPath::start_to_many`].
    pub fn peers(self) -> Result<Sample> {
        let figures = [
            Figure::PeersKpps,
            Figure::PeersCpuUs,
            Figure::PeersLossPercent,
            Figure::PeersDisorderPercent,
        ];
        let pods: Vec<String> = many::pods().map(|pod| pod.to_string()).collect();
        self.flows_to(&pods, figures)
    }

    /// Four flows to each address.
    fn flows_to(self, to: &[String], figures: [Figure; 4]) -> Result<Sample> {
        let to = to.join(",");
        let load = Datagrams { to: &to, sockets: FLOW_SOCKETS, ..Datagrams::of("64") };
        // Host 2 asks for each address once, and keeps few datagrams meanwhile.
        self.load(ATTEMPT_SECONDS, Datagrams { rate: Some(1000), ..load })?;
        let fate = self.load(self.seconds, load)?;
        let values = [fate.kpps(), fate.cpu_us(), fate.loss_percent(), fate.disorder_percent()];
        Ok(figures.into_iter().zip(values).collect())
    }

    fn ping_pong(self) -> Result<RoundTrip> {
        sockperf::ping_pong(self.lab, self.seconds)
    }

    fn round_trip_paced(self) -> Result<Sample> {
        let mut server = iperf::start_server(self.lab)?;
        let stream = PacedStream::start(self.lab, self.seconds + PACED_EXTRA_SECONDS, PACE)?;
        let times = self.ping_pong()?;
        let gbps = stream.finish()?;
        server.stop()?;
        let figures = [Figure::RttPacedP50Us, Figure::RttPacedP99Us, Figure::RttPacedP999Us];
        let mut sample = round_trip(times, figures);
        sample.insert(Figure::PacedGbps, gbps);
        Ok(sample)
    }

    fn busy(self, step: Step) -> Result<Sample> {
        let cores = std::thread::available_parallelism().context("How many cores are there?")?;
        // They end when they are dropped, or with the namespace.
        let _loops: Vec<Process> = (0..cores.get() * LOOPS_PER_CORE)
            .map(|_| self.lab.pod(Side::One).spawn(&["sh", "-c", "while :; do :; done"]))
            .collect::<Result<_>>()?;
        let round_trips = [Figure::RttBusyP50Us, Figure::RttBusyP99Us, Figure::RttBusyP999Us];
        match step {
            Step::Tcp1Busy => self.tcp1(Figure::Tcp1BusyGbps),
            Step::Udp64Busy => self.datagrams_of_iperf(Figure::Udp64BusyKpps),
            _ => Ok(round_trip(self.ping_pong()?, round_trips)),
        }
    }

    fn limited(self, step: Step) -> Result<Sample> {
        let daemons: Vec<u32> = self.path.processes().map(Process::id).collect();
        ensure!(!daemons.is_empty(), "The kernel does the work: there is no daemon to limit");
        let _limit = OneCoreEach::apply(daemons)?;
        let round_trips =
            [Figure::RttLimitedP50Us, Figure::RttLimitedP99Us, Figure::RttLimitedP999Us];
        match step {
            Step::Tcp1Limited => self.tcp1(Figure::Tcp1LimitedGbps),
            Step::Udp64Limited => self.datagrams_of_iperf(Figure::Udp64LimitedKpps),
            _ => Ok(round_trip(self.ping_pong()?, round_trips)),
        }
    }

    fn tcp1(self, figure: Figure) -> Result<Sample> {
        let (tcp, _) = self.tcp(TcpLoad::streams(1))?;
        Ok(Sample::from_iter([(figure, tcp.gbps)]))
    }

    fn datagrams_of_iperf(self, figure: Figure) -> Result<Sample> {
        let mut server = iperf::start_server(self.lab)?;
        let udp = iperf::udp(self.lab, self.seconds, DATAGRAM_BYTES)?;
        server.stop()?;
        Ok(Sample::from_iter([(figure, udp.received as f64 / udp.seconds / 1e3)]))
    }
}

fn round_trip(times: RoundTrip, [p50, p99, p999]: [Figure; 3]) -> Sample {
    let figures = [(p50, times.p50_us), (p99, times.p99_us), (p999, times.p999_us)];
    figures.into_iter().collect()
}
