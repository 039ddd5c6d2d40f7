//! iperf3 as the load, and its JSON.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::{CONGESTION_CONTROL, run_client};
use crate::lab::{Lab, Process, Side};

/// How long a paced stream takes until it flows steadily.
const PACED_START: Duration = Duration::from_millis(500);

/// What a TCP load delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpFigures {
    /// Received by the server, in Gbit/s.
    pub gbps: f64,
    /// Received by the server, in bytes.
    pub bytes: u64,
    /// Segments that the client sent again.
    pub retransmits: u64,
}

/// What a UDP load delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UdpFigures {
    /// Datagrams that the server received.
    pub received: u64,
    /// Datagrams that the client sent.
    pub sent: u64,
    /// Datagrams that arrived after a later one.
    pub out_of_order: u64,
    /// How long the server received, in seconds.
    pub seconds: f64,
}

/// Starts the server in pod 2; it serves one client after the other.
pub(super) fn start_server(lab: &Lab) -> Result<Process> {
    let mut server = lab.pod(Side::Two).spawn(&["iperf3", "--server", "--forceflush"])?;
    server.wait_for_output("Server listening", Duration::from_secs(10))?;
    Ok(server)
}

/// A TCP load.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpLoad {
    /// How many at once.
    pub(super) streams: u32,
    /// From pod 2 to pod 1, rather than the other way.
    pub(super) reverse: bool,
    /// As the kernel calls it.
    pub(super) congestion_control: &'static str,
}

impl TcpLoad {
    /// From pod 1 to pod 2, with CUBIC.
    pub(super) fn streams(streams: u32) -> TcpLoad {
        TcpLoad { streams, reverse: false, congestion_control: CONGESTION_CONTROL }
    }
}

/// Streams as fast as they can.
pub(super) fn tcp(lab: &Lab, seconds: u32, load: TcpLoad) -> Result<TcpFigures> {
    let streams = load.streams.to_string();
    let mut arguments = vec!["--congestion", load.congestion_control, "--parallel", &streams];
    if load.reverse {
        arguments.push("--reverse");
    }
    parse_tcp(&run(lab, seconds, &arguments)?)
}

/// One stream from pod 1 to pod 2 at a given rate.
pub(super) struct PacedStream {
    client: Process,
    seconds: u32,
}

impl PacedStream {
    /// Starts it and waits until it flows.
    pub(super) fn start(lab: &Lab, seconds: u32, rate: &str) -> Result<PacedStream> {
        let load = ["--congestion", CONGESTION_CONTROL, "--bitrate", rate];
        let client = with_client(seconds, &load, |client| lab.pod(Side::One).spawn(client))?;
        std::thread::sleep(PACED_START);
        Ok(PacedStream { client, seconds })
    }

    /// Waits for its end; what it carried, in Gbit/s.
    pub(super) fn finish(mut self) -> Result<f64> {
        self.client.wait(super::limit(self.seconds))?;
        Ok(parse_tcp(&self.client.stdout()?).with_context(|| self.client.complaint())?.gbps)
    }
}

/// UDP datagrams of `bytes` payload from pod 1 to pod 2, as many as the sender can make.
pub(super) fn udp(lab: &Lab, seconds: u32, bytes: u32) -> Result<UdpFigures> {
    let length = bytes.to_string();
    let text = run(lab, seconds, &["--udp", "--bitrate", "0", "--length", &length])?;
    parse_udp(&text, u64::from(bytes))
}

fn run(lab: &Lab, seconds: u32, load: &[&str]) -> Result<String> {
    let client = with_client(seconds, load, |client| run_client(lab, seconds, client))?;
    let text = client.stdout()?;
    ensure!(!text.trim().is_empty(), "iperf3 printed nothing: {}", client.complaint());
    Ok(text)
}

/// Hands the words of a client's command line to `start`.
fn with_client<T>(seconds: u32, load: &[&str], start: impl FnOnce(&[&str]) -> T) -> T {
    let (target, time) = (Side::Two.pod_address().to_string(), seconds.to_string());
    let basic = ["iperf3", "--client", &target, "--json", "--time", &time];
    start(&[&basic[..], load].concat())
}

#[derive(Deserialize)]
struct Output {
    error: Option<String>,
    end: serde_json::Value,
}

/// The `end` part, or the error that iperf3 reports inside its JSON.
fn parse_end<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    let output: Output = serde_json::from_str(text).context("Cannot read iperf3's JSON")?;
    if let Some(error) = output.error {
        bail!("iperf3: {error}");
    }
    serde_json::from_value(output.end).context("iperf3's JSON has an unknown form")
}

fn parse_tcp(text: &str) -> Result<TcpFigures> {
    #[derive(Deserialize)]
    struct End {
        sum_sent: Sent,
        sum_received: Received,
    }
    #[derive(Deserialize)]
    struct Sent {
        /// Absent where the sender cannot tell.
        #[serde(default)]
        retransmits: u64,
    }
    #[derive(Deserialize)]
    struct Received {
        bytes: u64,
        bits_per_second: f64,
    }
    let end: End = parse_end(text)?;
    let (received, retransmits) = (end.sum_received, end.sum_sent.retransmits);
    ensure!(received.bytes > 0, "iperf3's server received nothing");
    Ok(TcpFigures { gbps: received.bits_per_second / 1e9, bytes: received.bytes, retransmits })
}

/// iperf3 counts as lost the gaps below the highest number that the server has seen, and `packets` is
/// what was *sent*, so datagrams lost at the very end are in no count. The bytes received are exact.
fn parse_udp(text: &str, datagram_bytes: u64) -> Result<UdpFigures> {
    #[derive(Deserialize)]
    struct End {
        streams: Vec<Stream>,
        sum_received: Received,
    }
    #[derive(Deserialize)]
    struct Stream {
        udp: Udp,
    }
    #[derive(Deserialize)]
    struct Udp {
        packets: u64,
        out_of_order: u64,
    }
    #[derive(Deserialize)]
    struct Received {
        bytes: u64,
        seconds: f64,
    }
    let end: End = parse_end(text)?;
    let stream = end.streams.first().ok_or_else(|| anyhow!("iperf3 reports no stream"))?;
    let received = end.sum_received.bytes / datagram_bytes;
    ensure!(received > 0, "iperf3's server received no datagram");
    Ok(UdpFigures {
        received,
        sent: stream.udp.packets,
        out_of_order: stream.udp.out_of_order,
        seconds: end.sum_received.seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From iperf3 3.12, shortened.
    const TCP: &str = r#"{"start":{},"intervals":[],"end":{"streams":[{}],
        "sum_sent":{"start":0,"end":1.0,"seconds":1.0,"bytes":3744202752,"bits_per_second":29933566526.4,"retransmits":3,"sender":true},
        "sum_received":{"start":0,"end":1.005,"seconds":1.005,"bytes":3743416320,"bits_per_second":29796441380.8,"sender":true}}}"#;

    /// From iperf3 3.12, shortened: 77,266 of 212,140 datagrams were lost.
    const UDP: &str = r#"{"start":{},"intervals":[],"end":{
        "streams":[{"udp":{"socket":5,"seconds":1.0,"bytes":13576960,"lost_packets":77266,"packets":212140,"out_of_order":2,"sender":true}}],
        "sum":{"bytes":13576960,"lost_packets":77266,"packets":212140},
        "sum_received":{"start":0,"end":1.000253,"seconds":1.000253,"bytes":8631936,"lost_packets":77266,"packets":212140,"sender":false}}}"#;

    #[test]
    fn tcp_figures_are_the_receivers() {
        let figures = parse_tcp(TCP).unwrap();
        assert!((figures.gbps - 29.7964413808).abs() < 1e-9);
        assert_eq!((figures.bytes, figures.retransmits), (3_743_416_320, 3));
    }

    #[test]
    fn udp_datagrams_are_counted_where_they_arrive() {
        let figures = parse_udp(UDP, 64).unwrap();
        assert_eq!(figures.received, 212_140 - 77_266);
        assert_eq!((figures.sent, figures.out_of_order), (212_140, 2));
        assert!((figures.seconds - 1.000_253).abs() < 1e-9);
    }

    #[test]
    fn an_error_inside_the_json_is_an_error() {
        let text = r#"{"start":{},"end":{},"error":"unable to connect to server"}"#;
        let error = parse_tcp(text).unwrap_err().to_string();
        assert_eq!(error, "iperf3: unable to connect to server");
        assert!(parse_udp("", 64).is_err());
    }

    #[test]
    fn nothing_received_is_an_error() {
        assert!(parse_tcp(&TCP.replace("3743416320", "0")).is_err());
        assert!(parse_udp(&UDP.replace("8631936", "0"), 64).is_err());
    }
}
