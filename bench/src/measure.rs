//! Figures of a running path, taken by the programs that people use (ping, iperf3, sockperf) and,
//! where those are too slow, by the lab's own load of datagrams.
//!
//! A [`Measure`] is what one asks for; it consists of [`Step`]s, each of which is one load and gives
//! one or more [`Figure`]s. A [`Round`] takes steps on one path. A step that fails says why and
//! costs no other step its figures.

mod datagrams;
mod drops;
mod figure;
mod iperf;
mod lossless;
mod round;
mod sockperf;
mod step;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Lab, Process, Side, processor_busy};

pub use figure::{Better, Figure, Sample, Section};
use iperf::TcpLoad;
pub use iperf::{TcpFigures, UdpFigures};
pub use round::{MeasuredPath, Round};
pub use sockperf::RoundTrip;
pub use step::{Congestion, Measure, Step, steps};

/// Congestion control of all TCP load.
pub const CONGESTION_CONTROL: &str = "cubic";

/// Packets of the ping, all sent at once.
const PINGS: u32 = 25;

/// One TCP stream from pod 1 to pod 2 for `seconds`, in Gbit/s received.
pub fn stream_gbps(lab: &Lab, seconds: u32) -> Result<f64> {
    let mut server = iperf::start_server(lab)?;
    let figures = iperf::tcp(lab, seconds, TcpLoad::streams(1))?;
    server.stop()?;
    Ok(figures.gbps)
}

/// The share of echo requests from pod 1 to pod 2 that got no reply, in percent.
pub fn ping_loss(lab: &Lab) -> Result<f64> {
    let (count, target) = (PINGS.to_string(), Side::Two.pod_address().to_string());
    // All at once: ping waits for the last reply no longer than an interval, unless there was none.
    let ping = ["ping", "-n", "-q", "-l", &count, "-i", "2", "-W", "2", "-c", &count, &target];
    let mut process = lab.pod(Side::One).spawn(&ping)?;
    // Lost packets make the status 1; the text says how many.
    process.wait(Duration::from_secs(30))?;
    parse_loss(&process.stdout()?).with_context(|| format!("ping: {}", process.complaint()))
}

/// `25 packets transmitted, 24 received, 4% packet loss, time 480ms`
fn parse_loss(text: &str) -> Option<f64> {
    let (before, _) = text.split_once("% packet loss")?;
    before.rsplit([' ', ',']).next()?.parse().ok()
}

/// Runs a load and tells how much processor time the whole machine spent meanwhile.
fn timed<T>(load: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = processor_busy()?;
    let value = load()?;
    Ok((value, processor_busy()?.saturating_sub(before)))
}

/// How long a load program may take that was told to run for `seconds`.
fn limit(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds) + 20)
}

/// Runs a load program in pod 1 to its end and gives its output and its errors.
fn run_client(lab: &Lab, seconds: u32, arguments: &[&str]) -> Result<Process> {
    let mut client = lab.pod(Side::One).spawn(arguments)?;
    client.wait(limit(seconds))?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ping_loss() {
        let line = |loss: &str| {
            format!("---\n25 packets transmitted, 24 received, {loss}% packet loss, time 1")
        };
        assert_eq!(parse_loss(&line("0")), Some(0.0));
        assert_eq!(parse_loss(&line("4")), Some(4.0));
        assert_eq!(parse_loss(&line("33.3333")), Some(33.3333));
        let errors = "25 packets transmitted, 0 received, +25 errors, 100% packet loss, time 1";
        assert_eq!(parse_loss(errors), Some(100.0));
        assert_eq!(parse_loss("ping: unknown host"), None);
    }
}
