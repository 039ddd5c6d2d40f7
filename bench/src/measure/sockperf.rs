//! sockperf as the load: round trips of small messages.

use std::time::Duration;

use anyhow::{Context, Result};

use super::run_client;
use crate::lab::{Lab, Side, wait_until};

/// Full round trips, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundTrip {
    /// The median.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The 99.9th percentile.
    pub p999_us: f64,
}

/// Any free port will do: the pod is ours.
const PORT: &str = "11111";

/// Bounces 64 bytes between the pods over one TCP connection.
pub(super) fn ping_pong(lab: &Lab, seconds: u32) -> Result<RoundTrip> {
    let (target, time) = (Side::Two.pod_address().to_string(), seconds.to_string());
    let address = ["--tcp", "-i", &target, "-p", PORT];
    let mut server = lab.pod(Side::Two).spawn(&[&["sockperf", "server"], &address[..]].concat())?;
    let listening = || {
        server.check_running()?;
        let sockets = lab.pod(Side::Two).run(&["ss", "--no-header", "-ltn", "sport", "=", PORT])?;
        Ok((!sockets.trim().is_empty()).then_some(()))
    };
    wait_until("sockperf to listen", Duration::from_secs(10), listening)?;
    let load = ["-m", "64", "--full-rtt", "-t", &time];
    let arguments = [&["sockperf", "ping-pong"], &address[..], &load].concat();
    let client = run_client(lab, seconds, &arguments)?;
    server.stop()?;
    parse(&client.stdout()?).with_context(|| format!("sockperf: {}", client.complaint()))
}

fn parse(text: &str) -> Option<RoundTrip> {
    let percentile = |name: &str| {
        let (_, rest) = text.split_once(&format!("percentile {name} ="))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some(RoundTrip {
        p50_us: percentile("50.000")?,
        p99_us: percentile("99.000")?,
        p999_us: percentile("99.900")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_percentiles() {
        let text = "sockperf: ---> percentile 99.900 =   44.231\n\
                    sockperf: ---> percentile 99.000 =   27.162\n\
                    sockperf: ---> percentile 50.000 =   11.011\n";
        let expected = RoundTrip { p50_us: 11.011, p99_us: 27.162, p999_us: 44.231 };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("sockperf: ERROR: Can't connect"), None);
    }
}
