//! Traffic from one namespace to another, made and checked by `tool.py`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use weft_bench::lab::{Namespace, Process, Signal};

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traffic/tool.py");

/// Longest wait for one piece of traffic, with much room for a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Longest wait for a server to be up, or to notice that all has come.
const SERVER_LIMIT: Duration = Duration::from_secs(40);

/// Seconds that a reply to a ping may take on a busy machine.
const PING_PATIENCE: &str = "5";

/// A client's namespace, a server's, and the address that the client uses for the server.
#[derive(Clone, Copy)]
pub(crate) struct Between<'a> {
    pub(crate) from: &'a Namespace,
    pub(crate) to: &'a Namespace,
    pub(crate) address: IpAddr,
}

/// Flows of numbered datagrams.
#[derive(Clone, Copy)]
pub(crate) struct Flows<'a> {
    /// How many, each from a port of its own.
    pub(crate) flows: usize,
    /// Datagrams of each flow.
    pub(crate) count: usize,
    /// Bytes of payload (10 or more), in turn.
    pub(crate) sizes: &'a [usize],
    /// Datagrams of one size before the next size.
    pub(crate) run: usize,
    /// Datagrams before a pause, or in one call to the kernel.
    pub(crate) burst: usize,
    /// Seconds of pause.
    pub(crate) pause: f64,
    /// The kernel may fragment them.
    pub(crate) fragment: bool,
    /// The source address, if the kernel is not to choose it.
    pub(crate) source: Option<IpAddr>,
}

impl Default for Flows<'_> {
    fn default() -> Self {
        Flows {
            flows: 1,
            count: 100,
            sizes: &[64],
            run: 1,
            burst: 10,
            pause: 0.002,
            fragment: false,
            source: None,
        }
    }
}

/// One TCP connection as one end saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Stream {
    sha256: String,
    bytes: u64,
    peer: String,
}

#[derive(Deserialize)]
struct Streams {
    streams: Vec<Stream>,
}

/// What a receiver of numbered datagrams saw.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Received {
    pub(crate) received: usize,
    /// Datagrams whose content is not what was sent.
    pub(crate) corrupted: usize,
    pub(crate) lengths: BTreeMap<String, usize>,
    pub(crate) sources: Vec<String>,
    pub(crate) flows: usize,
    pub(crate) reordered: usize,
    pub(crate) duplicates: usize,
}

impl Received {
    /// Nothing wrong with what has arrived; how much that is, is for the caller.
    pub(crate) fn assert_intact(&self) {
        assert_eq!((self.corrupted, self.reordered, self.duplicates), (0, 0, 0), "{self:?}");
    }

    /// Like [`Self::assert_intact`] where a link comes back while packets are sent. The kernel keeps some
    /// until it has resolved the neighbour, and newer ones may pass these when it hands them on.
    pub(crate) fn assert_intact_but_for_order(&self) {
        assert_eq!((self.corrupted, self.duplicates), (0, 0), "{self:?}");
    }
}

/// An error about a datagram, from the queue of the socket that sent it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SocketError {
    /// The kernel's name, such as `EMSGSIZE`.
    pub(crate) error: String,
    /// `SO_EE_ORIGIN_*`: 1 the own kernel, 2 ICMP, 3 `ICMPv6`.
    pub(crate) origin: u8,
    #[serde(rename = "type")]
    pub(crate) icmp_type: u8,
    pub(crate) code: u8,
    pub(crate) mtu: u32,
    /// Who sent the ICMP error.
    pub(crate) offender: IpAddr,
}

/// Streams under way.
pub(crate) struct RunningStreams {
    client: Process,
    server: Process,
    streams: usize,
    share: u64,
}

/// One stream that flows slowly until it is told to end.
pub(crate) struct LastingStream(RunningStreams);

impl LastingStream {
    /// Ends it and compares what was sent with what arrived.
    pub(crate) fn finish(mut self) {
        self.0.client.check_running().unwrap();
        self.0.client.signal(Signal::TERM).unwrap();
        let (sent, received) = self.0.collect();
        assert_eq!(sent, received);
        assert!(sent.iter().all(|(_, bytes)| *bytes > 0), "nothing was sent");
    }
}

impl RunningStreams {
    /// Waits for their end and compares what was sent with what arrived. Gives the source address
    /// that the server saw.
    pub(crate) fn finish(self) -> String {
        let (streams, share) = (self.streams, self.share);
        let sent: Streams = finish(self.client, LIMIT);
        let received: Streams = finish(self.server, SERVER_LIMIT);
        assert_eq!(hashes(&sent), hashes(&received));
        assert_eq!(received.streams.len(), streams);
        assert!(received.streams.iter().all(|stream| stream.bytes == share));
        received.streams[0].peer.clone()
    }

    /// What was sent and what arrived: hashes and lengths.
    fn collect(self) -> (Hashes, Hashes) {
        let sent: Streams = finish(self.client, LIMIT);
        let received: Streams = finish(self.server, SERVER_LIMIT);
        (hashes(&sent), hashes(&received))
    }
}

type Hashes = Vec<(String, u64)>;

fn hashes(streams: &Streams) -> Hashes {
    let pairs = streams.streams.iter().map(|stream| (stream.sha256.clone(), stream.bytes));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs
}

impl Between<'_> {
    /// Streams that add up to `bytes`, hashed at both ends. Gives the source address that the
    /// server saw.
    pub(crate) fn tcp(&self, streams: usize, bytes: u64) -> String {
        self.tcp_meanwhile(streams, bytes, || ())
    }

    /// As [`Between::tcp`], with `meanwhile` called while the streams run.
    pub(crate) fn tcp_meanwhile(
        &self,
        streams: usize,
        bytes: u64,
        meanwhile: impl FnOnce(),
    ) -> String {
        let running = self.start_tcp(streams, bytes);
        meanwhile();
        running.finish()
    }

    /// As [`Between::tcp`], without waiting for the streams to end.
    pub(crate) fn start_tcp(&self, streams: usize, bytes: u64) -> RunningStreams {
        self.start_tcp_with(streams, bytes, &[])
    }

    /// A stream of some MiB a second, which leaves the machine to others and lasts as long as is wanted.
    pub(crate) fn start_lasting_tcp(&self) -> LastingStream {
        LastingStream(self.start_tcp_with(1, 1 << 40, &["--rate", "4000000"]))
    }

    fn start_tcp_with(&self, streams: usize, bytes: u64, more: &[&str]) -> RunningStreams {
        let (number, share) = (streams.to_string(), bytes / streams as u64);
        let server = self.serve(&["tcp-serve", &self.text(), "--streams", &number]);
        let total = bytes.to_string();
        #[rustfmt::skip]
        let arguments = ["tcp-send", &self.text(), "--streams", &number, "--bytes", &total,
            "--congestion", "cubic"];
        let arguments = [&arguments[..], more].concat();
        let mut client = self.from.spawn(&command(&arguments)).unwrap();
        // Only what is connected outlives an ICMP error.
        client.wait_for_output("connected", SERVER_LIMIT).unwrap();
        RunningStreams { client, server, streams, share }
    }

    /// A datagram of every payload size from `first` to `last`, there and, reversed, back again.
    pub(crate) fn echo(&self, first: usize, last: usize) {
        self.echo_of(first, last, &[]);
    }

    /// As [`Between::echo`], for datagrams that may be fragmented on the way.
    pub(crate) fn echo_in_fragments(&self, first: usize, last: usize) {
        self.echo_of(first, last, &["--fragment"]);
    }

    fn echo_of(&self, first: usize, last: usize, more: &[&str]) {
        let mut server = self.serve(&["echo-serve", &self.text()]);
        let sizes = format!("{first}-{last}");
        let text = self.text();
        let arguments = [&["echo-check", &text, "--sizes", &sizes], more].concat();
        self.from.run_within(LIMIT, &command(&arguments)).unwrap();
        server.stop().unwrap();
    }

    /// Flows of numbered datagrams, sent one by one.
    pub(crate) fn datagrams(&self, flows: Flows<'_>) -> Received {
        self.send_numbered("udp-send", flows, flows.flows * flows.count)
    }

    /// For every size one flow, of which each call hands the kernel `burst` datagrams at once.
    pub(crate) fn segmented_datagrams(&self, flows: Flows<'_>) -> Received {
        self.send_numbered("udp-send-segmented", flows, flows.sizes.len() * flows.count)
    }

    fn send_numbered(&self, command_name: &str, flows: Flows<'_>, expect: usize) -> Received {
        let text = self.text();
        let server = self.serve(&["udp-receive", &text, "--expect", &expect.to_string()]);
        let sizes: Vec<String> = flows.sizes.iter().map(ToString::to_string).collect();
        let sizes = sizes.join(",");
        let [number, count, run, burst] =
            [flows.flows, flows.count, flows.run, flows.burst].map(|value| value.to_string());
        let pause = flows.pause.to_string();
        #[rustfmt::skip]
        let mut arguments = vec![command_name, &text, "--flows", &number, "--count", &count,
            "--sizes", &sizes, "--run", &run, "--burst", &burst, "--pause", &pause];
        if flows.fragment {
            arguments.push("--fragment");
        }
        let source = flows.source.map(|source| source.to_string());
        if let Some(source) = &source {
            arguments.extend(["--source", source]);
        }
        self.from.run_within(LIMIT, &command(&arguments)).unwrap();
        finish(server, SERVER_LIMIT)
    }

    /// Sends datagrams of `size` bytes until one is answered by an error, at most `tries` times.
    /// Nobody listens: without an error of the path the answer would be that of the other end.
    pub(crate) fn error(&self, size: usize, fragment: bool, tries: usize) -> Option<SocketError> {
        #[derive(Deserialize)]
        struct Found {
            found: Option<SocketError>,
        }
        let (text, size, tries) = (self.text(), size.to_string(), tries.to_string());
        let mut arguments = vec!["errors", &text, "--size", &size, "--tries", &tries];
        if fragment {
            arguments.push("--fragment");
        }
        let found: Found = finish(self.from.spawn(&command(&arguments)).unwrap(), LIMIT);
        found.found
    }

    /// So many echo requests with further `arguments` of ping, of which none may be lost.
    pub(crate) fn ping(&self, count: u32, arguments: &[&str]) {
        let loss = self.burst_loss(count, arguments);
        assert_eq!(loss, 0.0, "{count} pings {arguments:?} {}:\n{}", self.address, self.counters());
    }

    /// How many percent of so many echo requests, sent at once, got no reply within [`PING_PATIENCE`].
    pub(crate) fn burst_loss(&self, count: u32, arguments: &[&str]) -> f64 {
        let count = count.to_string();
        let burst = ["-c", &count, "-l", &count, "-i", PING_PATIENCE];
        self.ping_loss(&[&burst, arguments].concat())
    }

    /// How many percent of the echo requests got no reply. Ping gives the last one no longer than the
    /// interval (`-W` is for those that get no reply at all), so with short ones a late reply is a loss.
    pub(crate) fn ping_loss(&self, arguments: &[&str]) -> f64 {
        let text = self.text();
        let words = [&["ping", "-n", "-q", "-W", "2"], arguments, &[text.as_str()]].concat();
        let mut process = self.from.spawn(&words).unwrap();
        process.wait(LIMIT).unwrap();
        let output = process.stdout().unwrap();
        let percent = output.split_whitespace().find_map(|word| word.strip_suffix('%'));
        percent.unwrap_or_else(|| panic!("{}", process.complaint())).parse().unwrap()
    }

    /// Sends one IPv4 packet, given in hexadecimal with its header.
    pub(crate) fn raw(&self, packet: &str, device: &str) {
        let text = self.text();
        let arguments = ["raw-send", &text, "--packet", packet, "--device", device];
        self.from.run(&command(&arguments)).unwrap();
    }

    /// What both kernels have counted, which says where something was lost.
    fn counters(&self) -> String {
        let script = "nstat -a -s; ip -s link; cat /proc/net/softnet_stat";
        let of = |namespace: &Namespace| namespace.run(&["sh", "-c", script]).unwrap_or_default();
        format!("from\n{}\nto\n{}", of(self.from), of(self.to))
    }

    fn serve(&self, arguments: &[&str]) -> Process {
        let mut server = self.to.spawn(&command(arguments)).unwrap();
        server.wait_for_output("ready", SERVER_LIMIT).unwrap();
        server
    }

    fn text(&self) -> String {
        self.address.to_string()
    }
}

fn command<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["python3", TOOL], arguments].concat()
}

/// What was seen on a device.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    /// Those with the text in them.
    pub(crate) clear: u64,
    /// Datagrams to the port that are messages of WireGuard.
    pub(crate) messages: u64,
    /// The others to it.
    pub(crate) others: u64,
    /// Initiations of handshakes by "from to", whatever the port.
    pub(crate) initiations: BTreeMap<String, u64>,
}

/// A look at everything on a device.
pub(crate) struct Capture(Process);

impl Capture {
    /// Looks for a text, and at datagrams to weft's port.
    pub(crate) fn start(namespace: &Namespace, device: &str, text: &str) -> Self {
        let arguments = ["capture", text, "--device", device, "--port", "8285"];
        let mut process = namespace.spawn(&command(&arguments)).unwrap();
        process.wait_for_output("ready", SERVER_LIMIT).unwrap();
        Self(process)
    }

    /// What was seen until now.
    pub(crate) fn finish(mut self) -> Seen {
        self.0.signal(Signal::TERM).unwrap();
        finish(self.0, LIMIT)
    }
}

/// Waits for the end of a program and reads the report on its last line.
fn finish<T: DeserializeOwned>(mut process: Process, limit: Duration) -> T {
    let status = process.wait(limit).unwrap();
    assert!(status.success(), "{}", process.complaint());
    let output = process.stdout().unwrap();
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}
