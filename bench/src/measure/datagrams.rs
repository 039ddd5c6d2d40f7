//! The lab's own load of datagrams, from pod 1 to pod 2.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use super::{run_client, timed};
use crate::lab::{Lab, Side};
use crate::load::{Arrived, Sent};

/// Any free port will do: the pod is ours.
const PORT: &str = "5205";

/// How long the sink waits for the first datagram, and how long it goes on after the last one.
const PATIENCE_MS: &str = "10000";
const IDLE_MS: &str = "300";

/// How long a sink may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Payloads that make packets of 92, 576 and 1400 bytes, seven, four and one of them: the usual
/// mixture, except that the largest fits every overlay.
const IMIX: &str = "64,548,64,64,548,64,1372,64,548,64,548,64";

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagrams<'a> {
    /// Payloads, sent in turn.
    pub(super) sizes: &'a str,
    /// Datagrams that the kernel gets as one.
    pub(super) train: u16,
    /// Datagrams a second; as many as possible without it.
    pub(super) rate: Option<u32>,
    /// Where to.
    pub(super) to: &'a str,
    /// From how many sockets.
    pub(super) sockets: u16,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) sent: Sent,
    pub(super) arrived: Arrived,
    /// Processor time of the whole machine while it was sent.
    pub(super) busy: Duration,
}

impl Datagrams<'static> {
    /// A mixture of sizes.
    pub(super) fn imix() -> Datagrams<'static> {
        Datagrams::of(IMIX)
    }
}

impl<'a> Datagrams<'a> {
    /// Datagrams of one size or of several, in one flow, as many as possible.
    pub(super) fn of(sizes: &'a str) -> Datagrams<'a> {
        Datagrams { sizes, train: 1, rate: None, to: "10.244.2.2", sockets: 1 }
    }
}

impl Fate {
    /// Received, thousands a second.
    pub(super) fn kpps(&self) -> f64 {
        self.arrived.datagrams as f64 / self.arrived.seconds / 1e3
    }

    /// Payload received.
    pub(super) fn gbps(&self) -> f64 {
        self.arrived.bytes as f64 * 8.0 / self.arrived.seconds / 1e9
    }

    /// Processor time for each datagram received.
    pub(super) fn cpu_us(&self) -> f64 {
        self.busy.as_secs_f64() * 1e6 / self.arrived.datagrams as f64
    }

    /// The share of what was sent that did not arrive.
    pub(super) fn loss_percent(&self) -> f64 {
        self.percent_of_sent(self.sent.datagrams.saturating_sub(self.arrived.datagrams))
    }

    /// The share of what arrived that came after a later one.
    pub(super) fn disorder_percent(&self) -> f64 {
        self.arrived.late as f64 * 100.0 / self.arrived.datagrams as f64
    }

    /// A number of datagrams as a share of those sent.
    pub(super) fn percent_of_sent(&self, datagrams: u64) -> f64 {
        datagrams as f64 * 100.0 / self.sent.datagrams as f64
    }
}

/// Runs a load; `bench` is this program. An error if nothing arrives.
pub(super) fn run(lab: &Lab, bench: &Path, seconds: u32, load: Datagrams<'_>) -> Result<Fate> {
    let bench = bench.to_str().context("The path of weft-bench is not UTF-8")?;
    let sink =
        [bench, "load", "sink", "--port", PORT, "--patience", PATIENCE_MS, "--idle", IDLE_MS];
    let mut sink = lab.pod(Side::Two).spawn(&sink)?;
    sink.wait_for_output("ready", START_LIMIT)?;
    let (time, train, sockets) =
        (seconds.to_string(), load.train.to_string(), load.sockets.to_string());
    #[rustfmt::skip]
    let mut sender = vec![
        bench, "load", "send", "--to", load.to, "--port", PORT, "--sizes", load.sizes,
        "--train", &train, "--sockets", &sockets, "--secs", &time,
    ];
    let rate = load.rate.map(|rate| rate.to_string());
    sender.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
    let (sender, busy) = timed(|| run_client(lab, seconds, &sender))?;
    let sent = parse(&sender.stdout()?).with_context(|| format!("load: {}", sender.complaint()))?;
    sink.wait(super::limit(seconds))?;
    let arrived: Arrived =
        parse(&sink.stdout()?).with_context(|| format!("load: {}", sink.complaint()))?;
    ensure!(arrived.datagrams > 0, "No datagram arrived");
    Ok(Fate { sent, arrived, busy })
}

/// The last line of what one end prints.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let line = text.lines().last().context("It printed nothing")?;
    serde_json::from_str(line).context("It printed something else than figures")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixture_is_the_usual_one() {
        let count = |size: &str| IMIX.split(',').filter(|found| *found == size).count();
        assert_eq!([count("64"), count("548"), count("1372")], [7, 4, 1]);
    }

    #[test]
    fn the_last_line_counts() {
        let text = "ready 5001\n{\"datagrams\":9,\"bytes\":576,\"late\":1,\"seconds\":0.5}\n";
        let arrived: Arrived = parse(text).unwrap();
        assert_eq!((arrived.datagrams, arrived.late), (9, 1));
        assert!(parse::<Arrived>("ready 5001\n").is_err() && parse::<Arrived>("").is_err());
    }

    #[test]
    fn shares_and_rates() {
        let fate = Fate {
            sent: Sent { datagrams: 1000, bytes: 64_000, seconds: 1.0 },
            arrived: Arrived { datagrams: 800, bytes: 51_200, late: 8, seconds: 0.5 },
            busy: Duration::from_millis(4),
        };
        assert_eq!((fate.kpps(), fate.cpu_us(), fate.loss_percent()), (1.6, 5.0, 20.0));
        assert_eq!((fate.disorder_percent(), fate.percent_of_sent(50)), (1.0, 5.0));
        assert!((fate.gbps() - 0.000_819_2).abs() < 1e-12);
    }
}
