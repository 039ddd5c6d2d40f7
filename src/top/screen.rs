//! What is on the screen: lines for a terminal of some size.

use std::fmt::Write as _;

use super::rates::{self, Rate, Sample};
use super::terminal::{Key, Line, Look};
use crate::admin::Peer;

/// Reasons for drops that are shown.
const DROPS_SHOWN: usize = 4;

/// Peers by which a page key moves.
const PAGE: usize = 10;

/// The titles of the columns of peers, and how wide they are; one blank is between them.
const COLUMNS: [(&str, usize); 7] = [
    ("SUBNET", 18),
    ("SENT TO", 22),
    ("PATH", 8),
    ("LATENCY", 10),
    ("LOSS", 7),
    ("MTU", 5),
    ("SESSION", 7),
];

/// The last two looks, and where in the list of peers we are.
#[derive(Debug, Default)]
pub(super) struct Screen {
    before: Option<Sample>,
    now: Option<Sample>,
    /// Why there was no answer the last time.
    problem: Option<String>,
    first_peer: usize,
}

impl Screen {
    /// Takes a look, or why there was none.
    pub(super) fn take(&mut self, look: Result<Sample, String>) {
        match look {
            Ok(sample) => {
                self.before = self.now.replace(sample);
                self.problem = None;
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// Moves through the list of peers.
    pub(super) fn handle_key(&mut self, key: Key) {
        let last = self.now.as_ref().map_or(0, |now| now.peers.peers.len().saturating_sub(1));
        let wanted = match key {
            Key::Down => self.first_peer + 1,
            Key::Up => self.first_peer.saturating_sub(1),
            Key::PageDown => self.first_peer + PAGE,
            Key::PageUp => self.first_peer.saturating_sub(PAGE),
            Key::First => 0,
            Key::Last => last,
            Key::End | Key::Other => self.first_peer,
        };
        self.first_peer = wanted.min(last);
    }

    /// At most `height` lines of at most `width` letters. Peers take the room that is left.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let Some(now) = &self.now else { return Vec::new() };
        let (mut lines, drops) = (self.head(now), self.drops(now));
        let room = height.saturating_sub(lines.len() + drops.len() + 2);
        lines.push(Line {
            text: row(&COLUMNS.map(|(title, _)| title.to_owned())),
            look: Look::Bold,
        });
        let first = self.first_peer.min(now.peers.peers.len());
        let peers = now.peers.peers[first..].iter().take(room);
        lines.extend(peers.map(|peer| plain(row(&cells(peer)))));
        lines.extend(drops);
        lines.push(plain("q ends; arrows move through the peers"));
        lines.truncate(height);
        for line in &mut lines {
            line.text = harmless(&line.text, width);
        }
        lines
    }

    fn head(&self, now: &Sample) -> Vec<Line> {
        let status = &now.status;
        let engine = status.engine.as_ref().map_or("kernel", |engine| engine.name.as_str());
        let backend = status.network.as_ref().map_or("no network", |one| one.backend.as_str());
        let subnet = status.lease.as_ref().and_then(|lease| lease.subnet.clone());
        let mut first = format!(
            "weft {}  {backend}, {engine}  {}  peers {}",
            status.version,
            subnet.unwrap_or_default(),
            status.peers
        );
        let busy = self.before.as_ref().and_then(|before| rates::busy(before, now));
        if let Some(busy) = busy {
            let _ = write!(first, "  busy {:.0} %", busy * 100.0);
        }
        let mut lines = vec![Line { text: first, look: Look::Bold }];
        let ready = if status.ready { None } else { Some("not ready".to_owned()) };
        let problems = self.problem.iter().cloned().chain(ready);
        let problems = problems.chain(status.problems.iter().cloned());
        lines.extend(
            problems.map(|problem| Line { text: format!("! {problem}"), look: Look::Reversed }),
        );
        match self.before.as_ref().and_then(|before| rates::traffic(before, now)) {
            Some([outbound, inbound]) => {
                lines.push(plain(rate_line("out", outbound)));
                lines.push(plain(rate_line("in", inbound)));
            }
            None if status.traffic.is_some() => lines.push(plain("measuring")),
            None => lines.push(plain("The kernel carries the packets: ip -s link")),
        }
        lines.push(Line::default());
        lines
    }

    fn drops(&self, now: &Sample) -> Vec<Line> {
        let dropped = rates::drops(self.before.as_ref(), now);
        let mut lines = vec![Line::default()];
        if dropped.is_empty() {
            lines.push(plain("no drops"));
        }
        lines.extend(dropped.iter().take(DROPS_SHOWN).map(|one| {
            let rate = scaled(one.rate);
            plain(format!("dropped {:<26} {:>10}  {rate}/s", one.reason, one.count))
        }));
        lines
    }
}

fn plain(text: impl Into<String>) -> Line {
    Line { text: text.into(), look: Look::Plain }
}

fn row(cells: &[String; COLUMNS.len()]) -> String {
    let mut text = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = write!(text, "{cell:<width$} ");
    }
    text.truncate(text.trim_end().len());
    text
}

/// Names of leases are what others have written, so nothing may steer the terminal, or be wider than it
/// seems.
fn harmless(text: &str, width: usize) -> String {
    let shown = |letter: char| if (' '..='~').contains(&letter) { letter } else { '?' };
    text.chars().take(width).map(shown).collect()
}

fn cells(peer: &Peer) -> [String; 7] {
    let dash = || "-".to_owned();
    let chosen = peer.paths.iter().find(|path| path.chosen);
    let round_trip = chosen.and_then(|path| path.round_trip_us);
    let loss = chosen.and_then(|path| path.loss);
    let session = peer.sealing.as_ref().map(|sealing| sealing.session_age_seconds);
    [
        [&peer.subnet, &peer.ipv6_subnet]
            .into_iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
            .join(" "),
        peer.outer.clone(),
        peer.path.clone(),
        round_trip.map_or_else(dash, |us| format!("{}.{:03} ms", us / 1000, us % 1000)),
        loss.map_or_else(dash, |loss| format!("{:.1} %", loss * 100.0)),
        peer.path_mtu.map_or_else(|| "full".to_owned(), |mtu| mtu.to_string()),
        match session {
            None => "plain".to_owned(),
            Some(None) => "none".to_owned(),
            Some(Some(age)) => format!("{age} s"),
        },
    ]
}

fn rate_line(direction: &str, rate: Rate) -> String {
    let Rate { packets, bits, drops, train } = rate;
    format!(
        "{direction:<4} {:>7}bit/s {:>7}packets/s   {train:>5.1} a train   {:>7}drops/s",
        scaled(bits),
        scaled(packets),
        scaled(drops)
    )
}

/// Three or four digits and a unit, such as `1.25 M`.
fn scaled(number: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => {
            let shown = number / size;
            let digits = if shown >= 100.0 {
                0
            } else if shown >= 10.0 {
                1
            } else {
                2
            };
            format!("{shown:.digits$} {unit}")
        }
        None => format!("{number:.0} "),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;
    use crate::top::rates::tests::look;

    fn peer(number: u8) -> Peer {
        serde_json::from_value(json!({
            "slot": 0, "generation": 1, "subnet": format!("10.5.{number}.0/24"),
            "ipv6_subnet": null, "outer": format!("10.168.0.{number}:8285"), "addresses": [],
            "path": "vxlan", "id": null, "age_seconds": 1, "takes_ipv6": false, "path_mtu": 1400,
            "segmentation": true,
            "paths": [{"path": "vxlan", "subnet": "10.5.2.0/24", "chosen": true,
                       "problem": "nothing", "mtu": 1450, "round_trip_us": 1234, "loss": 0.005}]
        }))
        .unwrap()
    }

    fn screen() -> Screen {
        let (mut screen, start) = (Screen::default(), Instant::now());
        for (seconds, packets) in [(0, 0), (2, 200_000)] {
            let mut sample = look(start, seconds, packets);
            sample.peers.peers = (2..60).map(peer).collect();
            screen.take(Ok(sample));
        }
        screen
    }

    fn drawn(screen: &Screen, width: usize, height: usize) -> String {
        let lines = screen.lines(width, height);
        assert!(lines.len() <= height && lines.iter().all(|line| line.text.len() <= width));
        lines.into_iter().map(|line| line.text + "\n").collect()
    }

    #[test]
    fn rates_peers_and_drops_are_on_the_screen() {
        let text = drawn(&screen(), 80, 24);
        for part in [
            "busy 25 %",
            "80.0 Mbit/s",
            "100 kpackets/s",
            "10.0 a train",
            "10.5.2.0/24",
            "10.168.0.2:8285",
            "1.234 ms",
            "0.5 %",
            "1400",
            "dropped no_route",
            "1.00 k/s",
            "q ends",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_list_of_peers_moves_and_stays_within_bounds() {
        let mut screen = screen();
        screen.handle_key(Key::Down);
        assert!(!drawn(&screen, 80, 24).contains("10.5.2.0/24"));
        screen.handle_key(Key::Last);
        screen.handle_key(Key::PageDown);
        assert!(drawn(&screen, 80, 24).contains("10.5.59.0/24"));
        screen.take(Ok(look(Instant::now(), 9, 9)));
        drawn(&screen, 80, 24);
        screen.handle_key(Key::First);
        assert_eq!(screen.first_peer, 0);
    }

    #[test]
    fn no_size_is_too_small_and_no_answer_is_said() {
        let mut screen = screen();
        for (width, height) in [(1, 1), (10, 3), (200, 60)] {
            drawn(&screen, width, height);
        }
        screen.take(Err("No weft daemon answers".into()));
        let text = drawn(&screen, 80, 24);
        assert!(
            text.contains("! No weft daemon answers") && text.contains("10.5.2.0/24"),
            "{text}"
        );
        assert_eq!(drawn(&Screen::default(), 20, 2), "");
        screen.take(Err("steers \u{1b}[2J".into()));
        assert!(drawn(&screen, 80, 24).contains("! steers ?[2J"));
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 999.0, 1000.0, 12_345.0, 999_000.0, 1.25e6, 9.8e9].map(scaled);
        assert_eq!(numbers, ["0 ", "999 ", "1.00 k", "12.3 k", "999 k", "1.25 M", "9.80 G"]);
    }
}
