//! The table of peers: its columns, their order, and which peer is looked at.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ratatui_core::layout::{Constraint, Rect};
use ratatui_core::style::{Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_core::text::Line;
use ratatui_widgets::table::{Cell, HighlightSpacing, Row, Table, TableState};
use weft_ctrl::status::PathStatus;

use super::screen::harmless;
use super::terminal::Key;
use crate::admin::Peer;

/// Marks the peer that is looked at, also where a terminal cannot turn colours round.
const MARK: &str = "> ";

/// Between two columns.
const GAP: usize = 2;

/// In the order of [`COLUMNS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Column {
    #[default]
    Subnet,
    SentTo,
    Path,
    Latency,
    Loss,
    Mtu,
    Session,
}

/// As they stand beside each other.
const COLUMNS: [Column; 7] = [
    Column::Subnet,
    Column::SentTo,
    Column::Path,
    Column::Latency,
    Column::Loss,
    Column::Mtu,
    Column::Session,
];

/// Where there is no room for all, the first of these are shown.
const IMPORTANCE: [Column; 7] = [
    Column::Subnet,
    Column::Path,
    Column::Latency,
    Column::SentTo,
    Column::Loss,
    Column::Mtu,
    Column::Session,
];

/// What a column is sorted by.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Place {
    Net(IpNet),
    Address(IpAddr, u16),
    Text(String),
    Number(f64),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Subnet => "SUBNET",
            Self::SentTo => "SENT TO",
            Self::Path => "PATH",
            Self::Latency => "LATENCY",
            Self::Loss => "LOSS",
            Self::Mtu => "MTU",
            Self::Session => "SESSION",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Latency | Self::Loss | Self::Mtu | Self::Session)
    }

    fn text(self, peer: &Peer) -> String {
        let dash = || "-".to_owned();
        let text = match self {
            Self::Subnet => subnets(peer),
            Self::SentTo => peer.outer.clone(),
            Self::Path => peer.path.clone(),
            Self::Latency => {
                chosen(peer).and_then(|path| path.round_trip_us).map_or_else(dash, milliseconds)
            }
            Self::Loss => chosen(peer).and_then(|path| path.loss).map_or_else(dash, percent),
            Self::Mtu => peer.path_mtu.map_or_else(|| "full".to_owned(), |mtu| mtu.to_string()),
            Self::Session => match peer.sealing.as_ref().map(|one| one.session_age_seconds) {
                None => "plain".to_owned(),
                Some(None) => "none".to_owned(),
                Some(Some(age)) => format!("{age} s"),
            },
        };
        harmless(&text)
    }

    /// `None` for what is not known, which comes last either way.
    fn place(self, peer: &Peer) -> Option<Place> {
        match self {
            Self::Subnet => {
                let first = peer.subnet.as_ref().or(peer.ipv6_subnet.as_ref())?;
                first.parse().ok().map(Place::Net)
            }
            Self::SentTo => match peer.outer.parse::<SocketAddr>() {
                Ok(address) => Some(Place::Address(address.ip(), address.port())),
                Err(_) => peer.outer.parse().ok().map(|address| Place::Address(address, 0)),
            },
            Self::Path => Some(Place::Text(peer.path.clone())),
            Self::Latency => Some(Place::Number(chosen(peer)?.round_trip_us? as f64)),
            Self::Loss => Some(Place::Number(chosen(peer)?.loss?)),
            Self::Mtu => Some(Place::Number(peer.path_mtu?.into())),
            Self::Session => {
                Some(Place::Number(peer.sealing.as_ref()?.session_age_seconds? as f64))
            }
        }
    }
}

/// How the list is sorted, and where in it we are.
#[derive(Debug, Default)]
pub(super) struct List {
    by: Column,
    is_reversed: bool,
    table: TableState,
    /// Subnets of the peer that is looked at, which the order of the list may move.
    looked_at: Option<String>,
    /// Peers that were on the screen the last time.
    page: usize,
    /// The widest text of each column so far, so that columns do not jump while the list is moved.
    widths: [usize; COLUMNS.len()],
}

impl List {
    /// Moves through the list, or sorts it in another way.
    pub(super) fn handle_key(&mut self, key: Key, peers: &[Peer]) {
        let sorted = self.sorted(peers);
        let (at, last) = (self.position(&sorted), sorted.len().saturating_sub(1));
        let wanted = match key {
            Key::Down => at + 1,
            Key::Up => at.saturating_sub(1),
            Key::PageDown => at + self.page.max(1),
            Key::PageUp => at.saturating_sub(self.page.max(1)),
            Key::First => 0,
            Key::Last => last,
            Key::NextColumn => return self.sort_by_next(1),
            Key::PreviousColumn => return self.sort_by_next(COLUMNS.len() - 1),
            Key::Reverse => return self.is_reversed = !self.is_reversed,
            Key::End | Key::Suspend | Key::Other => return,
        };
        let at = wanted.min(last);
        self.looked_at = sorted.get(at).map(|peer| subnets(peer));
        self.table.select(Some(at));
    }

    fn sort_by_next(&mut self, step: usize) {
        self.by = COLUMNS[(self.by as usize + step) % COLUMNS.len()];
    }

    /// Draws what [`Self::sorted`] and [`Self::position`] have given.
    pub(super) fn draw(&mut self, sorted: &[&Peer], at: usize, frame: &mut Frame, area: Rect) {
        self.page = usize::from(area.height.saturating_sub(1));
        self.table.select((!sorted.is_empty()).then_some(at));
        // The peer that is looked at is on the screen, so whatever is there is at most a page away.
        let near = at.saturating_sub(self.page)..sorted.len().min(at + self.page + 1);
        let columns = self.fitting(&sorted[near.clone()], usize::from(area.width));
        let cell = |column: Column, text: String| {
            let line = Line::raw(text);
            Cell::new(if column.is_number() { line.right_aligned() } else { line })
        };
        let titles = columns.iter().map(|(column, _)| cell(*column, self.title(*column)));
        let rows = sorted.iter().enumerate().map(|(place, peer)| {
            let shown = if near.contains(&place) { &columns[..] } else { &[] };
            Row::new(shown.iter().map(|(column, _)| cell(*column, column.text(peer))))
        });
        let widths = columns.iter().map(|(_, width)| Constraint::Length(*width as u16));
        let table = Table::new(rows, widths)
            .header(Row::new(titles).style(Modifier::BOLD))
            .column_spacing(GAP as u16)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .highlight_symbol(MARK)
            .highlight_spacing(HighlightSpacing::Always);
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn title(&self, column: Column) -> String {
        let sign = match (column == self.by, self.is_reversed) {
            (false, _) => "",
            (true, false) => "^",
            (true, true) => "v",
        };
        format!("{}{sign}", column.title())
    }

    /// The columns that there is room for, and how wide they are with these peers and those before.
    fn fitting(&mut self, peers: &[&Peer], width: usize) -> Vec<(Column, usize)> {
        for (column, width) in COLUMNS.iter().zip(&mut self.widths) {
            let texts = peers.iter().map(|peer| column.text(peer).len());
            *width = texts.fold(*width, usize::max);
        }
        let needed = |column: Column| self.title(column).len().max(self.widths[column as usize]);
        let mut left = width.saturating_sub(MARK.len()) + GAP;
        let mut fitting = Vec::new();
        for column in IMPORTANCE {
            let needed = needed(column);
            if needed + GAP > left && !fitting.is_empty() {
                break;
            }
            left = left.saturating_sub(needed + GAP);
            fitting.push((column, needed));
        }
        fitting.sort_by_key(|(column, _)| *column as usize);
        fitting
    }

    /// The peers as they follow each other in the list.
    pub(super) fn sorted<'a>(&self, peers: &'a [Peer]) -> Vec<&'a Peer> {
        let mut placed: Vec<(Option<Place>, &Peer)> =
            peers.iter().map(|peer| (self.by.place(peer), peer)).collect();
        placed.sort_by(|(one, _), (other, _)| match (one, other) {
            (Some(one), Some(other)) => {
                let order = one.partial_cmp(other).unwrap_or(Ordering::Equal);
                if self.is_reversed { order.reverse() } else { order }
            }
            (one, other) => other.is_some().cmp(&one.is_some()),
        });
        placed.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Where the peer is that is looked at; who follows it if it is gone.
    pub(super) fn position(&self, sorted: &[&Peer]) -> usize {
        let is_looked_at = |peer: &&Peer| Some(subnets(peer)) == self.looked_at;
        let before = self.table.selected().unwrap_or_default();
        let found = self.looked_at.as_ref().and_then(|_| sorted.iter().position(is_looked_at));
        found.unwrap_or(before.min(sorted.len().saturating_sub(1)))
    }
}

/// All paths to a peer, where there are several.
pub(super) fn paths(peer: &Peer) -> Option<String> {
    let paths: Vec<String> = peer.paths.iter().map(told).collect();
    (paths.len() > 1).then(|| format!("{}: {}", subnets(peer), paths.join("; ")))
}

fn chosen(peer: &Peer) -> Option<&PathStatus> {
    peer.paths.iter().find(|path| path.chosen)
}

fn subnets(peer: &Peer) -> String {
    let both = [&peer.subnet, &peer.ipv6_subnet];
    both.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ")
}

/// A path in a few words, a star before the one that is taken.
fn told(path: &PathStatus) -> String {
    let star = if path.chosen { "*" } else { "" };
    let numbers = [path.round_trip_us.map(milliseconds), path.loss.map(percent)];
    let numbers: String = numbers.iter().flatten().map(|number| format!(" {number}")).collect();
    let is_good = path.problem == "nothing";
    let problem = if is_good { String::new() } else { format!(" ({})", path.problem) };
    format!("{star}{}{numbers}{problem}", path.path)
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
pub(super) mod tests {
    use ratatui_core::backend::TestBackend;
    use ratatui_core::buffer::{Buffer, Cell as BufferCell};
    use ratatui_core::terminal::Terminal;
    use serde_json::json;

    use super::*;

    /// The third path of a peer with a latency of so many microseconds.
    pub(in crate::top) fn peer(number: u8, round_trip_us: Option<u64>) -> Peer {
        serde_json::from_value(json!({
            "slot": 0, "generation": 1, "subnet": format!("10.5.{number}.0/24"),
            "ipv6_subnet": null, "outer": format!("10.168.0.{number}:8285"), "addresses": [],
            "path": "vxlan", "id": null, "age_seconds": 1, "takes_ipv6": false, "path_mtu": 1400,
            "segmentation": true,
            "paths": [
                {"path": "direct", "subnet": "10.5.2.0/24", "chosen": false,
                 "problem": "does not answer", "mtu": null, "round_trip_us": null, "loss": 1.0},
                {"path": "vxlan", "subnet": "10.5.2.0/24", "chosen": true, "problem": "nothing",
                 "mtu": 1450, "round_trip_us": round_trip_us, "loss": 0.005}
            ]
        }))
        .unwrap()
    }

    fn drawn(list: &mut List, peers: &[Peer], (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let sorted = list.sorted(peers);
        let at = list.position(&sorted);
        terminal.draw(|frame| list.draw(&sorted, at, frame, frame.area())).unwrap();
        rows(terminal.backend().buffer())
    }

    /// The text of every row, without the blanks at its end.
    pub(in crate::top) fn rows(buffer: &Buffer) -> Vec<String> {
        let rows = buffer.content.chunks(buffer.area.width.into());
        let text = |row: &[BufferCell]| row.iter().map(BufferCell::symbol).collect::<String>();
        rows.map(|row| text(row).trim_end().to_owned()).collect()
    }

    fn first_words(lines: &[String]) -> Vec<&str> {
        let rows = lines.iter().skip(1).map(|line| line.trim_start_matches("> ").trim());
        rows.filter_map(|row| row.split("  ").next()).filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_at_the_right() {
        let mut long = peer(10, Some(12_345_678));
        long.outer = "[2001:db8:1:2:3:4:5:6]:8285".into();
        let peers = [peer(9, Some(80)), long];
        assert_eq!(
            drawn(&mut List::default(), &peers, (100, 4)),
            [
                "  SUBNET^       SENT TO                      PATH        LATENCY   LOSS   MTU  SESSION",
                "> 10.5.9.0/24   10.168.0.9:8285              vxlan      0.080 ms  0.5 %  1400    plain",
                "  10.5.10.0/24  [2001:db8:1:2:3:4:5:6]:8285  vxlan  12345.678 ms  0.5 %  1400    plain",
                "",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_leaves_out_whole_columns() {
        let peers = [peer(9, Some(80)), peer(10, None)];
        let title = |width| drawn(&mut List::default(), &peers, (width, 3))[0].clone();
        assert_eq!(title(71).split_whitespace().count(), 8);
        assert_eq!(title(60).trim(), "SUBNET^       SENT TO           PATH    LATENCY   LOSS");
        assert_eq!(title(36).trim(), "SUBNET^       PATH    LATENCY");
        assert_eq!(title(16).trim(), "SUBNET^");
        for width in 1..16 {
            title(width);
        }
    }

    #[test]
    fn the_list_is_sorted_by_what_is_meant_not_by_its_letters() {
        let peers = [peer(10, None), peer(9, Some(2000)), peer(100, Some(500))];
        let mut list = List::default();
        let order = |list: &mut List| {
            let lines = drawn(list, &peers, (100, 4));
            first_words(&lines).iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(order(&mut list), ["10.5.9.0/24", "10.5.10.0/24", "10.5.100.0/24"]);
        list.handle_key(Key::NextColumn, &peers);
        assert_eq!(order(&mut list), ["10.5.9.0/24", "10.5.10.0/24", "10.5.100.0/24"]);
        [Key::NextColumn; 2].into_iter().for_each(|key| list.handle_key(key, &peers));
        assert_eq!(list.by, Column::Latency);
        assert_eq!(order(&mut list), ["10.5.100.0/24", "10.5.9.0/24", "10.5.10.0/24"]);
        list.handle_key(Key::Reverse, &peers);
        assert_eq!(order(&mut list), ["10.5.9.0/24", "10.5.100.0/24", "10.5.10.0/24"]);
        [Key::PreviousColumn; 4].into_iter().for_each(|key| list.handle_key(key, &peers));
        assert_eq!(list.by, Column::Session, "round and round");
    }

    #[test]
    fn the_peer_that_is_looked_at_stays_so_when_others_come_and_go() {
        let mut peers: Vec<Peer> = (2..60).map(|number| peer(number, None)).collect();
        let mut list = List::default();
        let marked = |list: &mut List, peers: &[Peer]| {
            let lines = drawn(list, peers, (100, 11));
            let marked: Vec<&String> = lines.iter().filter(|line| line.starts_with(MARK)).collect();
            assert_eq!(marked.len(), 1, "{lines:?}");
            marked[0][MARK.len()..].split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(marked(&mut list, &peers), "10.5.2.0/24");
        [Key::PageDown, Key::Down].into_iter().for_each(|key| list.handle_key(key, &peers));
        assert_eq!(marked(&mut list, &peers), "10.5.13.0/24");
        peers.remove(0);
        assert_eq!(marked(&mut list, &peers), "10.5.13.0/24");
        list.handle_key(Key::Reverse, &peers);
        assert_eq!(marked(&mut list, &peers), "10.5.13.0/24");
        list.handle_key(Key::Up, &peers);
        assert_eq!(marked(&mut list, &peers), "10.5.14.0/24");
        peers.retain(|peer| peer.subnet.as_deref() != Some("10.5.14.0/24"));
        assert_eq!(marked(&mut list, &peers), "10.5.13.0/24", "the one that follows");
        [Key::Last, Key::PageDown, Key::Down]
            .into_iter()
            .for_each(|key| list.handle_key(key, &peers));
        assert_eq!(marked(&mut list, &peers), "10.5.3.0/24");
        list.handle_key(Key::First, &peers);
        assert_eq!(marked(&mut list, &peers), "10.5.59.0/24");
        drawn(&mut list, &[], (100, 11));
        list.handle_key(Key::Down, &[]);
    }

    #[test]
    fn columns_widen_for_what_is_shown_and_stay_wide() {
        let mut peers: Vec<Peer> = (2..60).map(|number| peer(number, None)).collect();
        peers.last_mut().unwrap().outer = "[2001:db8:1:2:3:4:5:6]:8285".into();
        let mut list = List::default();
        let path = |list: &mut List| drawn(list, &peers, (100, 11))[0].find("PATH").unwrap();
        let narrow = path(&mut list);
        list.handle_key(Key::Last, &peers);
        let wide = path(&mut list);
        assert_eq!(wide - narrow, "[2001:db8:1:2:3:4:5:6]".len() - "10.168.0.12".len());
        list.handle_key(Key::First, &peers);
        assert_eq!(path(&mut list), wide);
    }

    #[test]
    fn every_row_of_the_window_has_its_texts_wherever_it_was_moved() {
        let peers: Vec<Peer> = (2..60).map(|number| peer(number, None)).collect();
        let mut list = List::default();
        for key in [Key::Last, Key::Up, Key::PageUp, Key::First, Key::PageDown, Key::Down] {
            list.handle_key(key, &peers);
            let lines = drawn(&mut list, &peers, (100, 11));
            assert!(lines.iter().skip(1).all(|line| line.contains("vxlan")), "{lines:?}");
        }
    }

    #[test]
    fn the_paths_of_a_peer_are_told() {
        let mut one = peer(9, Some(80));
        let told = paths(&one).unwrap();
        assert_eq!(told, "10.5.9.0/24: direct 100.0 % (does not answer); *vxlan 0.080 ms 0.5 %");
        one.paths.pop();
        assert_eq!(paths(&one), None);
    }
}
