//! What is on the screen: how this host is, the peers, the drops, and which keys there are.

use std::fmt::Write as _;

use ratatui_core::layout::{Constraint, Layout};
use ratatui_core::style::{Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_core::text::Line;
use ratatui_widgets::paragraph::Paragraph;

use super::peers::{self, List};
use super::rates::{self, Rate, Sample};
use super::terminal::Key;

/// Reasons for drops that are shown.
const DROPS_SHOWN: usize = 4;

/// Lines that peers get before paths and drops get any: the titles, and a few peers.
const PEERS_LINES: u16 = 4;

const KEYS: &str = "q ends; arrows move; < > sort, r turns round";

/// The last two looks, and where in the list of peers we are.
#[derive(Debug, Default)]
pub(super) struct Screen {
    before: Option<Sample>,
    now: Option<Sample>,
    /// Why there was no answer the last time.
    problem: Option<String>,
    list: List,
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

    /// Moves through the list of peers, or sorts it.
    pub(super) fn handle_key(&mut self, key: Key) {
        let peers = self.now.as_ref().map_or(&[][..], |now| &now.peers.peers);
        self.list.handle_key(key, peers);
    }

    /// Draws into all of the frame. Peers take the room that is left.
    pub(super) fn draw(&mut self, frame: &mut Frame) {
        let Some(now) = &self.now else { return };
        let sorted = self.list.sorted(&now.peers.peers);
        let at = self.list.position(&sorted);
        let (head, drops) = (self.head(now), self.drops(now));
        let paths = sorted.get(at).and_then(|peer| peers::paths(peer));
        let paths: Vec<Line> = paths.into_iter().map(plain).collect();
        let place = match sorted.len() {
            0 => "no peers".to_owned(),
            count => format!("{} of {count}", at + 1),
        };
        let keys = plain(format!("{KEYS}  {place}"));
        let area = frame.area();
        let mut left = area.height;
        let mut take = |wanted: usize| {
            let got = u16::try_from(wanted).unwrap_or(u16::MAX).min(left);
            left -= got;
            got
        };
        let (head_height, keys_height) = (take(head.len()), take(1));
        let peers_height = take(PEERS_LINES.into());
        let (paths_height, drops_height) = (take(paths.len()), take(drops.len()));
        let heights = [head_height, peers_height + left, paths_height, drops_height, keys_height];
        let [head_area, peers_area, paths_area, drops_area, keys_area] =
            Layout::vertical(heights.map(Constraint::Length)).areas(area);
        self.list.draw(&sorted, at, frame, peers_area);
        frame.render_widget(Paragraph::new(head), head_area);
        frame.render_widget(Paragraph::new(paths), paths_area);
        frame.render_widget(Paragraph::new(drops), drops_area);
        frame.render_widget(Paragraph::new(keys), keys_area);
    }

    fn head(&self, now: &Sample) -> Vec<Line<'static>> {
        let status = &now.status;
        let mut lines = vec![styled(self.first_line(now), Modifier::BOLD)];
        let ready = if status.ready { None } else { Some("not ready".to_owned()) };
        let problems = self.problem.iter().cloned().chain(ready);
        let problems = problems.chain(status.problems.iter().cloned());
        lines.extend(problems.map(|problem| styled(format!("! {problem}"), Modifier::REVERSED)));
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

    fn first_line(&self, now: &Sample) -> String {
        let status = &now.status;
        let engine = status.engine.as_ref().map_or("kernel", |engine| engine.name.as_str());
        let backend = status.network.as_ref().map_or("no network", |one| one.backend.as_str());
        let subnet = status.lease.as_ref().and_then(|lease| lease.subnet.clone());
        let mut line = format!(
            "weft {}  {backend}, {engine}  {}  peers {}",
            status.version,
            subnet.unwrap_or_default(),
            status.peers
        );
        let busy = self.before.as_ref().and_then(|before| rates::busy(before, now));
        if let Some(busy) = busy {
            let _ = write!(line, "  busy {:.0} %", busy * 100.0);
        }
        line
    }

    fn drops(&self, now: &Sample) -> Vec<Line<'static>> {
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

fn plain(text: impl AsRef<str>) -> Line<'static> {
    Line::raw(harmless(text.as_ref()))
}

fn styled(text: impl AsRef<str>, look: Modifier) -> Line<'static> {
    Line::styled(harmless(text.as_ref()), Style::new().add_modifier(look))
}

/// Names of leases are what others have written, so nothing may steer the terminal, or be wider than it
/// seems.
pub(super) fn harmless(text: &str) -> String {
    let shown = |letter: char| if (' '..='~').contains(&letter) { letter } else { '?' };
    text.chars().map(shown).collect()
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

    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;

    use super::*;
    use crate::top::peers::tests::{peer, rows};
    use crate::top::rates::tests::look;

    fn screen() -> Screen {
        let (mut screen, start) = (Screen::default(), Instant::now());
        for (seconds, packets) in [(0, 0), (2, 200_000)] {
            let mut sample = look(start, seconds, packets);
            sample.peers.peers = (2..60).map(|number| peer(number, Some(1234))).collect();
            screen.take(Ok(sample));
        }
        screen
    }

    fn lines(screen: &mut Screen, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        rows(terminal.backend().buffer())
    }

    fn drawn(screen: &mut Screen, size: (u16, u16)) -> String {
        lines(screen, size).join("\n")
    }

    #[test]
    fn rates_peers_paths_drops_and_keys_are_on_the_screen() {
        let lines = lines(&mut screen(), (80, 16));
        assert_eq!(
            lines,
            [
                "weft   no network, kernel    peers 0  busy 25 %",
                "out   80.0 Mbit/s   100 kpackets/s    10.0 a train    1.00 kdrops/s",
                "in    80.0 Mbit/s   100 kpackets/s    20.0 a train        0 drops/s",
                "",
                "  SUBNET^      SENT TO          PATH    LATENCY   LOSS   MTU  SESSION",
                "> 10.5.2.0/24  10.168.0.2:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "  10.5.3.0/24  10.168.0.3:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "  10.5.4.0/24  10.168.0.4:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "  10.5.5.0/24  10.168.0.5:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "  10.5.6.0/24  10.168.0.6:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "  10.5.7.0/24  10.168.0.7:8285  vxlan  1.234 ms  0.5 %  1400    plain",
                "10.5.2.0/24: direct 100.0 % (does not answer); *vxlan 1.234 ms 0.5 %",
                "",
                "dropped no_route                         2000  1.00 k/s",
                "dropped too_short                           5  0 /s",
                "q ends; arrows move; < > sort, r turns round  1 of 58",
            ]
        );
    }

    #[test]
    fn titles_and_problems_stand_out_without_colours() {
        let mut screen = screen();
        screen.take(Err("No weft daemon answers".into()));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        assert_eq!(buffer[(0, 0)].modifier, Modifier::BOLD);
        assert_eq!(buffer[(0, 1)].modifier, Modifier::REVERSED);
        let is_plain = |cell: &ratatui_core::buffer::Cell| {
            let reset = ratatui_core::style::Color::Reset;
            cell.fg == reset && cell.bg == reset
        };
        assert!(buffer.content.iter().all(is_plain));
    }

    #[test]
    fn keys_move_through_the_peers() {
        let mut screen = screen();
        drawn(&mut screen, (80, 24));
        screen.handle_key(Key::Last);
        let text = drawn(&mut screen, (80, 24));
        assert!(text.contains("> 10.5.59.0/24") && text.contains("58 of 58"), "{text}");
        // The peers are gone.
        screen.take(Ok(look(Instant::now(), 9, 9)));
        assert!(drawn(&mut screen, (80, 24)).contains("no peers"));
        screen.handle_key(Key::First);
    }

    #[test]
    fn no_size_is_too_small_and_no_answer_is_said() {
        let mut screen = screen();
        for width in [1, 2, 10, 40, 200] {
            for height in 1..30 {
                drawn(&mut screen, (width, height));
            }
        }
        let small = lines(&mut screen, (60, 7));
        assert!(small[5].starts_with("> 10.5.2.0/24") && small[6].starts_with("q ends"));
        screen.take(Err("No weft daemon answers".into()));
        let text = drawn(&mut screen, (80, 24));
        assert!(
            text.contains("! No weft daemon answers") && text.contains("10.5.2.0/24"),
            "{text}"
        );
        assert_eq!(drawn(&mut Screen::default(), (20, 2)), "\n");
        screen.take(Err("steers \u{1b}[2J".into()));
        assert!(drawn(&mut screen, (80, 24)).contains("! steers ?[2J"));
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 999.0, 1000.0, 12_345.0, 999_000.0, 1.25e6, 9.8e9].map(scaled);
        assert_eq!(numbers, ["0 ", "999 ", "1.00 k", "12.3 k", "999 k", "1.25 M", "9.80 G"]);
    }
}
