//! What a worker is doing at the moment, for others to see that it goes on.
//!
//! The worker stores its turn and phase in one atomic word, without reading a clock for it. Who
//! watches has a clock of his own: a turn that two looks find the same, and not waiting, lasts at
//! least as long as the time between the looks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use weft_forward::counters::Counters;

/// The longest that a turn may take. A turn handles as many packets as there are buffers and
/// takes well below a millisecond, so this is a defect, a debugger or a machine without processor
/// time.
pub const TURN_MAX: Duration = Duration::from_secs(1);

/// A look that comes so much later than the one before proves nothing: who watches was kept from
/// running himself, and so may the worker have been.
const LATE: Duration = Duration::from_millis(500);

macro_rules! phases {
    ($($(#[$doc:meta])* $phase:ident => $name:literal,)*) => {
        /// What a worker does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Phase {
            $($(#[$doc])* $phase,)*
        }

        impl Phase {
            const ALL: &[Phase] = &[$(Phase::$phase,)*];

            /// One word for people and programs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Phase::$phase => $name,)*
                }
            }
        }
    };
}

phases! {
    /// It sleeps until something comes, or is not running.
    Waiting => "waiting",
    /// It is in the kernel, which sends and writes meanwhile.
    Submission => "submission",
    /// It takes what the kernel brings back.
    Completions => "completions",
    /// It obeys the control side.
    Commands => "commands",
    /// It makes trains of the device's packets.
    Outbound => "outbound",
    /// It makes writes of the peers' packets.
    Inbound => "inbound",
    /// It hands sends and writes to the engine.
    Departures => "departures",
    /// It gives everything back.
    Stop => "stop",
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Where a worker is: the number of its turn and the phase in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    turn: u64,
    phase: Phase,
}

const PHASE_BITS: u32 = 8;

/// The mark of one worker, which it sets and others look at. It shares its cache lines (they are
/// fetched in pairs) with nothing, least of all with another worker's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Marks(AtomicU64);

impl Marks {
    fn mark(&self) -> Mark {
        let word = self.0.load(Ordering::Relaxed);
        let phase = Phase::ALL.get((word & ((1 << PHASE_BITS) - 1)) as usize);
        let phase = *phase.expect("the worker stores phases only");
        Mark { turn: word >> PHASE_BITS, phase }
    }
}

/// The worker's hand on its mark, and its clock. When it is dropped, the worker counts as waiting:
/// whoever has ended does not stall.
#[derive(Debug)]
pub(crate) struct Progress {
    marks: Arc<Marks>,
    turn: u64,
    started: Instant,
    /// Up to when the time is counted as busy or asleep.
    counted: Instant,
    /// When the worker fell asleep, if it did in this turn.
    asleep_since: Option<Instant>,
}

impl Progress {
    /// The worker starts now.
    pub(crate) fn new(marks: Arc<Marks>) -> Progress {
        let now = Instant::now();
        Progress { marks, turn: 0, started: now, counted: now, asleep_since: None }
    }

    /// The worker enters `phase`.
    #[inline]
    pub(crate) fn enter(&self, phase: Phase) {
        self.marks.0.store(self.turn << PHASE_BITS | phase as u64, Ordering::Relaxed);
    }

    /// The worker falls asleep in the kernel, at `now`, until its next turn.
    pub(crate) fn sleep(&mut self, now: Instant) {
        self.asleep_since = Some(now);
        self.enter(Phase::Waiting);
    }

    /// A turn begins: counts it, and the time that the worker was busy. Returns milliseconds since
    /// the start. The only place where a turn reads the clock.
    pub(crate) fn begin_turn(&mut self, counters: &Counters) -> u64 {
        let now = Instant::now();
        let busy_until = self.asleep_since.take().unwrap_or(now);
        let busy = busy_until.saturating_duration_since(self.counted);
        self.counted = now;
        self.turn += 1;
        self.enter(Phase::Completions);
        counters.turns.add(1);
        counters.busy_ns.add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX));
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.enter(Phase::Waiting);
    }
}

/// What a look at a worker found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A turn takes longer than [`TURN_MAX`]. Said once for each such turn.
    Stalled {
        /// What it does all the time.
        phase: Phase,
        /// For how long at least.
        lasted: Duration,
    },
    /// The worker goes on.
    Recovered {
        /// What it did all the time.
        phase: Phase,
        /// For how long at least.
        lasted: Duration,
    },
}

/// Watches one worker. It sees only what lasts from one look to the next, so looks have to be
/// frequent.
#[derive(Debug)]
pub struct Watch {
    marks: Arc<Marks>,
    seen: Option<Seen>,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    mark: Mark,
    since: Instant,
    stalled: bool,
}

impl Watch {
    pub(crate) fn new(marks: Arc<Marks>) -> Watch {
        Watch { marks, seen: None, looked: None }
    }

    /// Looks at the worker at the time `now`.
    pub fn look(&mut self, now: Instant) -> Option<News> {
        let mark = self.marks.mark();
        let before = self.looked.replace(now);
        let was_late = before.is_some_and(|before| now.saturating_duration_since(before) > LATE);
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Seen { mark, since: now, stalled: false });
            return None;
        };
        let lasted = now.saturating_duration_since(seen.since);
        let goes_on = mark.phase == Phase::Waiting || mark.turn != seen.mark.turn;
        let fresh = Seen { mark, since: now, stalled: false };
        let phase = seen.mark.phase;
        if goes_on {
            let recovered = seen.stalled.then_some(News::Recovered { phase, lasted });
            self.seen = Some(fresh);
            return recovered;
        }
        if seen.stalled {
            return None;
        }
        if was_late || seen.mark.phase == Phase::Waiting {
            self.seen = Some(fresh);
            return None;
        }
        seen.mark = mark;
        seen.stalled = lasted > TURN_MAX;
        seen.stalled.then_some(News::Stalled { phase: mark.phase, lasted })
    }

    /// The phase of a turn that takes too long, and for how long it has, as of the last look.
    #[must_use]
    pub fn stalled(&self) -> Option<(Phase, Duration)> {
        let seen = self.seen.filter(|seen| seen.stalled)?;
        let looked = self.looked.unwrap_or(seen.since);
        Some((seen.mark.phase, looked.saturating_duration_since(seen.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    struct Rig {
        progress: Progress,
        counters: Counters,
        watch: Watch,
        now: Instant,
    }

    impl Rig {
        fn new() -> Rig {
            let marks = Arc::new(Marks::default());
            Rig {
                progress: Progress::new(Arc::clone(&marks)),
                counters: Counters::default(),
                watch: Watch::new(marks),
                now: Instant::now(),
            }
        }

        /// Looks at once and then every tick, and returns what was news.
        fn look_for(&mut self, time: Duration) -> Vec<News> {
            let end = self.now + time;
            let mut news = Vec::new();
            while self.now < end {
                news.extend(self.watch.look(self.now));
                self.now += TICK;
            }
            news
        }

        fn begin_turn(&mut self) {
            self.progress.begin_turn(&self.counters);
        }
    }

    #[test]
    fn a_long_turn_is_told_once_and_so_is_its_end() {
        let mut rig = Rig::new();
        rig.begin_turn();
        rig.progress.enter(Phase::Outbound);
        let news = rig.look_for(5 * TURN_MAX);
        let lasted = TURN_MAX + TICK;
        assert_eq!(news, [News::Stalled { phase: Phase::Outbound, lasted }]);
        let (phase, lasted) = rig.watch.stalled().unwrap();
        assert_eq!((phase, lasted), (Phase::Outbound, 5 * TURN_MAX - TICK));
        rig.begin_turn();
        let lasted = 5 * TURN_MAX;
        assert_eq!(rig.look_for(TICK), [News::Recovered { phase: Phase::Outbound, lasted }]);
        assert_eq!(rig.watch.stalled(), None);
        // The next one is another.
        assert_eq!(rig.look_for(2 * TURN_MAX).len(), 1);
    }

    #[test]
    fn who_waits_or_turns_does_not_stall() {
        let mut rig = Rig::new();
        assert_eq!(rig.look_for(2 * TURN_MAX), [], "it has not started");
        for _ in 0..30 {
            rig.begin_turn();
            assert_eq!(rig.look_for(TICK), []);
        }
        rig.progress.sleep(rig.now);
        assert_eq!(rig.look_for(2 * TURN_MAX), []);
        // It wakes up into a long turn: only from then on the time counts.
        rig.begin_turn();
        assert_eq!(rig.look_for(TURN_MAX), []);
        assert_eq!(rig.look_for(3 * TICK).len(), 1);
    }

    #[test]
    fn who_has_ended_does_not_stall() {
        let mut rig = Rig::new();
        rig.begin_turn();
        let marks = Arc::clone(&rig.progress.marks);
        assert_eq!(rig.look_for(TICK), []);
        rig.progress = Progress::new(Arc::default());
        assert_eq!(marks.mark().phase, Phase::Waiting);
        assert_eq!(rig.look_for(2 * TURN_MAX), []);
    }

    /// All threads were stopped and go on now; the watcher happens to be the first.
    #[test]
    fn a_late_look_proves_nothing() {
        let mut rig = Rig::new();
        rig.begin_turn();
        assert_eq!(rig.look_for(3 * TICK), []);
        rig.now += 10 * TURN_MAX;
        assert_eq!(rig.look_for(TURN_MAX), []);
        assert_eq!(rig.look_for(3 * TICK).len(), 1, "but then the time counts again");
    }

    #[test]
    fn time_asleep_is_not_busy() {
        let mut rig = Rig::new();
        rig.begin_turn();
        let busy = rig.counters.busy_ns.value();
        // Asleep since the turn began, so that nothing of the time between is busy.
        rig.progress.sleep(rig.progress.counted);
        std::thread::sleep(Duration::from_millis(2));
        rig.begin_turn();
        assert_eq!(rig.counters.busy_ns.value(), busy);
        std::thread::sleep(Duration::from_millis(2));
        rig.begin_turn();
        assert!(rig.counters.busy_ns.value() >= busy + 2_000_000);
        assert_eq!(rig.counters.turns.value(), 3);
    }

    #[test]
    fn every_phase_survives_the_word() {
        let progress = Rig::new().progress;
        for phase in Phase::ALL {
            progress.enter(*phase);
            assert_eq!(progress.marks.mark(), Mark { turn: 0, phase: *phase });
        }
    }
}
