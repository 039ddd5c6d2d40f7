//! What is known about one path to one peer.
//!
//! ```text
//!            two answers                 half the patience without news
//! Unknown ---------------> Up <-----------------------------> Suspect
//!    |                      ^                                    |
//!    |       five answers   |                                    | patience
//!    |       and the hold   |      an answer                     v
//!    +------------------- Proving <------------------------ Down(direction)
//! ```
//!
//! News of the way out is that the peer has heard a message, which it says on every path; news of the
//! way in is any message of the peer. So each direction is judged by itself, and by what both nodes
//! send. Beside this a path is *narrow* if only small packets get through, and *lossy*.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

mod mtu;

use mtu::Search;

/// Answers in a row before a new path counts as up.
const ANSWERS_FIRST: u32 = 2;

/// Answers in a row before a path that was left is returned to.
const ANSWERS_AGAIN: u32 = 5;

/// How long a path has to prove itself after it was left once. Doubles with every further time.
pub const HOLD_FIRST: Duration = Duration::from_secs(5);
/// The longest such time.
pub const HOLD_MAX: Duration = Duration::from_secs(300);
/// A path that was not left for so long begins anew with [`HOLD_FIRST`].
pub const CALM: Duration = Duration::from_secs(600);

/// Messages whose time of sending is kept. The peer confirms the newest it has, and a path is left
/// after fewer than this without news.
const SENT_MAX: usize = 16;

/// Requests that may wait for an answer. Older ones are lost.
const WAITING_MAX: usize = 16;

/// Large requests without an answer before their size is held to be the reason.
const LARGE_LOST: usize = 3;

/// Large requests without an answer before it is held to be known what passes: what was lost before may
/// have been lost for another reason, which is over.
const REFUSED_MIN: u8 = 2;

/// As soon as an answer is late, so many requests are sent so much sooner, so that what is the matter
/// is known in time: whether all packets are lost, or only large ones, or there was one loss.
const HURRIED_MAX: u8 = 6;
const HURRY: u32 = 4;

/// Part of a new sample in the estimates of loss and of the round trip (that of RFC 6298).
const LOSS_WEIGHT: f64 = 1.0 / 16.0;
const ROUND_TRIP_WEIGHT: u32 = 8;

/// Requests before the estimate of loss means something.
const LOSS_SAMPLES_MIN: u32 = 16;
/// A path with more loss, counted both ways together, is lossy until it has less than the other.
const LOSSY_ABOVE: f64 = 0.2;
const LOSSLESS_BELOW: f64 = 0.05;

/// How fast things go, which depends on how many paths are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two requests on one path.
    pub interval: Duration,
    /// A path without news for so long is down.
    pub patience: Duration,
}

/// Which way is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Packets do not get to the peer.
    Out,
    /// Packets of the peer do not get here.
    In,
    /// Both.
    Both,
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Out => "nothing gets to the peer",
            Self::In => "nothing comes from the peer",
            Self::Both => "nothing gets through either way",
        })
    }
}

/// Whether small packets get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet.
    Unknown,
    /// They do.
    Up,
    /// They did; news is late.
    Suspect,
    /// They do not.
    Down(Direction),
    /// They do again, but not for long enough.
    Proving,
}

/// What people and the choice are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessment {
    /// Whether small packets get through.
    pub verdict: Verdict,
    /// Bytes of the largest packet that gets through, if that is known. Larger ones than pods send
    /// are not tried.
    pub mtu: Option<usize>,
    /// Packets as large as pods may send them get through.
    pub is_full: bool,
    /// It did not take these, and how large packets may be, if they may not, is being found out.
    pub is_searched: bool,
    /// Too much is lost.
    pub is_lossy: bool,
    /// The peer would use it towards this node.
    pub peer_uses: bool,
    /// Smoothed.
    pub round_trip: Option<Duration>,
    /// Part of the requests without an answer, from 0 to 1.
    pub loss: f64,
}

impl Assessment {
    /// Nothing is wrong with it here.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.is_up() && self.is_full && !self.is_lossy
    }

    /// Small packets get through.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.verdict, Verdict::Up | Verdict::Suspect)
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    nonce: u64,
    sent: Instant,
    size: usize,
}

/// How packets as large as pods may send them fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Unknown,
    Passes,
    /// Only smaller ones get through. So many large ones in a row did, though, since then; or so many
    /// were lost once it was known what passes.
    Lost {
        again: u32,
        since: Instant,
        refused: u8,
    },
}

/// One path to one peer.
#[derive(Debug)]
pub struct PathHealth {
    born: Instant,
    /// When to send the next request.
    due: Instant,
    sequence: u32,
    sent: VecDeque<(u32, Instant)>,
    waiting: VecDeque<Waiting>,
    turn: u32,
    requested_at: Instant,
    /// How many requests may still be sent early.
    hurried_left: u8,
    /// Highest sequence of the peer.
    heard: u32,
    heard_at: Option<Instant>,
    /// When the newest message was sent that the peer has heard.
    confirmed: Option<Instant>,
    peer_uses: bool,
    verdict: Verdict,
    /// Answers in a row, and since when.
    answers: u32,
    answers_since: Instant,
    left: u32,
    left_at: Option<Instant>,
    round_trip: Option<Duration>,
    loss: f64,
    samples: u32,
    is_lossy: bool,
    full: Full,
    /// Bytes of the largest packet that pods send.
    full_size: usize,
    /// When the last large (small) request was sent that was answered.
    large_answered: Option<Instant>,
    small_answered: Option<Instant>,
    /// Large requests that were lost since one was answered.
    large_lost: usize,
    search: Search,
    /// What was known at the last [`PathHealth::take_news`].
    known: Option<Essence>,
}

/// What choices depend on.
type Essence = (Verdict, Option<usize>, [bool; 4]);

impl PathHealth {
    /// Pods send packets of `full_size` bytes; a message without padding makes one of `small_size`.
    #[must_use]
    pub fn new(now: Instant, due: Instant, small_size: usize, full_size: usize) -> Self {
        Self {
            born: now,
            due,
            sequence: 0,
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            turn: 0,
            requested_at: now,
            hurried_left: HURRIED_MAX,
            heard: 0,
            heard_at: None,
            confirmed: None,
            peer_uses: false,
            verdict: Verdict::Unknown,
            answers: 0,
            answers_since: now,
            left: 0,
            left_at: None,
            round_trip: None,
            loss: 0.0,
            samples: 0,
            is_lossy: false,
            full: Full::Unknown,
            full_size,
            large_answered: None,
            small_answered: None,
            large_lost: 0,
            search: Search::new(small_size, full_size),
            known: None,
        }
    }

    /// When to send the next request.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The highest sequence that came from the peer, 0 if none did.
    #[must_use]
    pub fn heard(&self) -> u32 {
        self.heard
    }

    /// What is known.
    #[must_use]
    pub fn assessment(&self) -> Assessment {
        let mtu = match self.full {
            Full::Unknown => None,
            Full::Passes => Some(self.full_size),
            Full::Lost { .. } => Some(self.search.passes()),
        };
        Assessment {
            verdict: self.verdict,
            mtu,
            is_full: self.full == Full::Passes,
            is_searched: matches!(self.full, Full::Lost { refused: ..REFUSED_MIN, .. }),
            is_lossy: self.is_lossy,
            peer_uses: self.peer_uses,
            round_trip: self.round_trip,
            loss: self.loss,
        }
    }

    /// Whether anything that choices depend on has changed since the last time.
    pub fn take_news(&mut self) -> bool {
        let Assessment { verdict, mtu, is_full, is_searched, is_lossy, peer_uses, .. } =
            self.assessment();
        // What is suspect is used as before.
        let verdict = if verdict == Verdict::Suspect { Verdict::Up } else { verdict };
        let essence = (verdict, mtu, [is_full, is_searched, is_lossy, peer_uses]);
        self.known.replace(essence) != Some(essence)
    }

    /// Bytes of the packet that the next request is to make. As long as large ones are answered, all
    /// are large, so that a path that loses only these is noticed as soon as one that loses all.
    pub fn next_size(&mut self) -> usize {
        if self.full == Full::Passes && self.waiting.is_empty() {
            return self.full_size;
        }
        self.turn = self.turn.wrapping_add(1);
        match (self.turn % 4, self.full) {
            (0, _) => self.search.small(),
            // Large ones have begun to pass again.
            (_, Full::Lost { again: 1.., .. }) => self.full_size,
            (2, Full::Lost { .. }) if !self.search.has_ended() => self.search.candidate(),
            (2, _) => self.search.small(),
            (3, Full::Lost { .. }) => self.search.candidate(),
            _ => self.full_size,
        }
    }

    /// A request goes out. Gives its sequence.
    pub fn handle_request(&mut self, now: Instant, next: Instant, nonce: u64, size: usize) -> u32 {
        (self.due, self.requested_at) = (next, now);
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { nonce, sent: now, size });
        self.handle_sent(now)
    }

    /// Any message goes out. Gives its sequence.
    pub fn handle_sent(&mut self, now: Instant) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        self.sequence
    }

    /// A message of the peer has come on this path.
    pub fn handle_heard(&mut self, now: Instant, sequence: u32) {
        self.heard = self.heard.max(sequence);
        self.heard_at = Some(now);
    }

    /// The peer has started anew, so it counts from 1 again.
    pub fn handle_restart(&mut self) {
        self.heard = 0;
    }

    /// The peer says, on any path, what it has heard on this one, and whether it would use it.
    pub fn handle_confirmation(&mut self, sequence: u32, peer_uses: bool) {
        self.peer_uses = peer_uses;
        while let Some((_, at)) = self.sent.pop_front_if(|(sent, _)| *sent <= sequence) {
            self.confirmed = self.confirmed.max(Some(at));
        }
    }

    /// What carries the path on this host has failed, so it is left whatever is heard on it.
    pub fn handle_failure(&mut self, now: Instant) {
        if matches!(self.verdict, Verdict::Up | Verdict::Suspect) {
            self.leave(now);
        }
        self.verdict = Verdict::Down(Direction::Both);
        self.answers = 0;
    }

    /// The answer to a request. What nobody waits for is ignored.
    pub fn handle_answer(&mut self, now: Instant, nonce: u64) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.nonce == nonce) else {
            return;
        };
        let Some(Waiting { sent, size, .. }) = self.waiting.remove(at) else { return };
        self.handle_overtaken(now, at, size);
        let sample = now.saturating_duration_since(sent);
        self.round_trip = Some(match self.round_trip {
            None => sample,
            Some(old) => old - old / ROUND_TRIP_WEIGHT + sample / ROUND_TRIP_WEIGHT,
        });
        self.add_sample(now, 0.0);
        if self.answers == 0 {
            self.answers_since = now;
        }
        self.answers += 1;
        self.search.handle_answer(size);
        if size >= self.full_size {
            self.large_answered = self.large_answered.max(Some(sent));
            self.large_lost = 0;
            self.handle_large_answer(now);
        } else {
            self.small_answered = self.small_answered.max(Some(sent));
        }
    }

    /// What was sent before and is not larger does not come any more.
    fn handle_overtaken(&mut self, now: Instant, before: usize, size: usize) {
        for at in (0..before).rev() {
            if self.waiting[at].size <= size
                && let Some(lost) = self.waiting.remove(at)
            {
                self.handle_loss(now, lost.size);
            }
        }
        if self.waiting.is_empty() {
            self.hurried_left = HURRIED_MAX;
        }
    }

    fn handle_large_answer(&mut self, now: Instant) {
        let hold = self.hold();
        self.full = match self.full {
            Full::Unknown | Full::Passes => Full::Passes,
            Full::Lost { again: 0, .. } => Full::Lost { again: 1, since: now, refused: 0 },
            Full::Lost { again, since, .. } => {
                let is_proven = again + 1 >= ANSWERS_AGAIN && now >= since + hold;
                let again = again + 1;
                if is_proven { Full::Passes } else { Full::Lost { again, since, refused: 0 } }
            }
        };
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Instant, pace: Pace) {
        while let Some(lost) =
            self.waiting.pop_front_if(|waiting| now >= waiting.sent + pace.patience)
        {
            self.handle_loss(now, lost.size);
        }
        self.handle_silence(now, pace);
        self.handle_narrowing(now, pace);
        self.hurry(now, pace);
        let is_first = self.verdict == Verdict::Unknown && self.answers >= ANSWERS_FIRST;
        let is_proven = self.verdict == Verdict::Proving
            && self.answers >= ANSWERS_AGAIN
            && now >= self.answers_since + self.hold();
        if is_first || is_proven {
            self.verdict = Verdict::Up;
        }
    }

    /// How old a request is whose answer is late.
    fn lateness(&self, pace: Pace) -> Duration {
        let round_trip = self.round_trip.unwrap_or_default();
        (pace.interval / HURRY).max(round_trip.saturating_mul(3))
    }

    fn hurry(&mut self, now: Instant, pace: Pace) {
        let is_late = self.waiting.front().is_some_and(|one| now >= one.sent + self.lateness(pace));
        let soon = self.requested_at + pace.interval / HURRY;
        let matters =
            self.full == Full::Passes && matches!(self.verdict, Verdict::Up | Verdict::Suspect);
        if is_late && matters && self.hurried_left > 0 && soon < self.due {
            self.hurried_left -= 1;
            self.due = soon;
        }
    }

    fn handle_loss(&mut self, now: Instant, size: usize) {
        if let Full::Lost { again, refused, .. } = &mut self.full
            && size > self.search.passes()
        {
            if size >= self.full_size {
                *again = 0;
                *refused = refused.saturating_add(u8::from(self.search.has_ended()));
            }
            self.search.handle_loss(size);
            return;
        }
        if matches!(self.full, Full::Lost { .. }) {
            self.search.handle_loss(size);
        }
        // Of a large one it is open whether its size is the reason.
        if size < self.full_size {
            self.answers = 0;
        } else {
            self.large_lost += 1;
        }
        self.add_sample(now, 1.0);
    }

    /// Where nothing gets through at all, that is no loss that could be estimated.
    fn add_sample(&mut self, now: Instant, lost: f64) {
        if matches!(self.verdict, Verdict::Down(_)) {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        self.loss += (lost - self.loss) * LOSS_WEIGHT;
        if self.is_lossy {
            self.is_lossy = self.loss >= LOSSLESS_BELOW;
        } else if self.samples >= LOSS_SAMPLES_MIN && self.loss > LOSSY_ABOVE {
            self.is_lossy = true;
            self.leave(now);
        }
    }

    fn handle_silence(&mut self, now: Instant, pace: Pace) {
        let silence =
            |news: Option<Instant>| now.saturating_duration_since(news.unwrap_or(self.born));
        let (out, inward) = (silence(self.confirmed), silence(self.heard_at));
        let direction = match (out >= pace.patience, inward >= pace.patience) {
            (true, true) => Direction::Both,
            (true, false) => Direction::Out,
            (false, true) => Direction::In,
            (false, false) => {
                if matches!(self.verdict, Verdict::Down(_)) && self.answers > 0 {
                    // What was lost meanwhile was not lost for its size.
                    (self.large_answered, self.large_lost) = (Some(now), 0);
                }
                let is_late = out.max(inward) >= pace.patience / 2;
                self.verdict = match self.verdict {
                    Verdict::Up if is_late => Verdict::Suspect,
                    Verdict::Suspect if !is_late => Verdict::Up,
                    Verdict::Down(_) if self.answers > 0 => Verdict::Proving,
                    Verdict::Proving if self.answers == 0 => self.verdict,
                    other => other,
                };
                return;
            }
        };
        if matches!(self.verdict, Verdict::Up | Verdict::Suspect) {
            self.leave(now);
        }
        self.verdict = Verdict::Down(direction);
        self.answers = 0;
    }

    /// Small packets get through, large ones do not.
    fn handle_narrowing(&mut self, now: Instant, pace: Pace) {
        let last_large = self.large_answered.unwrap_or(self.born);
        let small_only = self.small_answered.is_some_and(|small| small > last_large);
        let is_news = matches!(self.full, Full::Unknown | Full::Passes);
        if !is_news || !small_only || now < last_large + pace.patience {
            return;
        }
        let is_late =
            |one: &&Waiting| one.size >= self.full_size && now >= one.sent + self.lateness(pace);
        if self.large_lost + self.waiting.iter().filter(is_late).count() < LARGE_LOST {
            return;
        }
        if self.full == Full::Passes {
            self.leave(now);
        }
        self.full = Full::Lost { again: 0, since: now, refused: 0 };
        self.search.restart();
        // What was lost was lost for its size.
        self.loss = 0.0;
    }

    fn leave(&mut self, now: Instant) {
        let was_calm = self.left_at.is_none_or(|left| now >= left + CALM);
        self.left = if was_calm { 1 } else { self.left.saturating_add(1) };
        self.left_at = Some(now);
    }

    /// How long it has to prove itself.
    fn hold(&self) -> Duration {
        match self.left {
            0 => Duration::ZERO,
            left => HOLD_FIRST.saturating_mul(1 << (left - 1).min(16)).min(HOLD_MAX),
        }
    }
}
