//! The worker's share of the processor where others want it too.
//!
//! Packets cross host and pod on the same processors as the programs that send and receive them,
//! so a worker can take too little or too much. Too little: the kernel's own paths work in the
//! interrupt that brings a packet, before any program, while a worker waits in line behind every
//! busy loop. So it asks for precedence, and for short slices, with which one that has slept runs
//! sooner. Too much: a worker that reads all that a flood of small packets brings leaves no time to
//! whoever shall receive them; they are lost at the last socket, where they have cost the most. So
//! a worker that has filled all its frames in one turn lets others run first, and goes without its
//! precedence until the flood is over, as the kernel does when it leaves its interrupts to
//! `ksoftirqd`. What is too much is then lost in the queue of the device, where it costs the least.

use std::time::Duration;

use weft_sys::scheduling::Scheduling;

/// The nice value that a worker wants, if nobody has given it another.
const NICE: i32 = -10;

/// How long it runs in one piece when others wait.
const SLICE: Duration = Duration::from_micros(500);

/// How long a flood is thought to last after a turn that filled all frames.
const FLOOD_MS: u64 = 100;

/// The scheduling of the calling thread, which must be the worker's.
#[derive(Debug)]
pub(crate) struct Precedence {
    /// Without and with precedence. `None` if it is not ours to change.
    levels: Option<(Scheduling, Scheduling)>,
    flooded_until: Option<u64>,
}

impl Precedence {
    /// Takes precedence as far as it is allowed. What somebody else has set is kept.
    pub(crate) fn take() -> Precedence {
        let levels = Scheduling::current().ok().flatten().and_then(|found| {
            // Nobody's wish is hurt by short slices.
            let plain = Scheduling { slice: SLICE, ..found };
            let raised = Scheduling { nice: NICE, ..plain };
            if found.nice == 0 && raised.apply().is_ok() {
                return Some((plain, raised));
            }
            let _ = plain.apply();
            None
        });
        Precedence { levels, flooded_until: None }
    }

    /// A turn at `now_ms` filled all frames (`flooded`) or did not.
    #[inline]
    pub(crate) fn turn(&mut self, flooded: bool, now_ms: u64) {
        match self.flooded_until {
            None if flooded => self.change(false),
            Some(until) if !flooded && now_ms >= until => {
                self.flooded_until = None;
                self.change(true);
                return;
            }
            _ => {}
        }
        if flooded {
            self.flooded_until = Some(now_ms + FLOOD_MS);
        }
    }

    fn change(&self, raise: bool) {
        if let Some((plain, raised)) = self.levels {
            // It was allowed before. If it no longer is, the worker goes on as it is.
            let _ = if raise { raised } else { plain }.apply();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        thread,
    };

    use super::*;

    fn nice() -> i32 {
        Scheduling::current().unwrap().expect("tests run in the ordinary class").nice
    }

    /// Each test changes a thread of its own.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().expect("the test passes");
    }

    #[test]
    fn a_flood_ends_precedence_until_it_is_over() {
        on_a_thread(|| {
            let before = nice();
            let mut precedence = Precedence::take();
            if precedence.levels.is_none() {
                let why = format!("precedence is not allowed, or the nice value is {before}");
                io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
                return;
            }
            let mut after = |flooded, now_ms| {
                precedence.turn(flooded, now_ms);
                nice()
            };
            assert_eq!(after(false, 1), NICE);
            assert_eq!(after(true, 2), 0);
            assert_eq!(after(false, 3), 0);
            assert_eq!(after(true, 50), 0);
            assert_eq!(after(false, 50 + FLOOD_MS - 1), 0);
            assert_eq!(after(false, 50 + FLOOD_MS), NICE);
            assert_eq!(after(true, 1000), 0);
        });
    }

    #[test]
    fn what_somebody_has_set_is_kept() {
        on_a_thread(|| {
            let given = Scheduling { nice: (nice() + 2).clamp(1, 19), slice: Duration::ZERO };
            given.apply().unwrap();
            let mut precedence = Precedence::take();
            precedence.turn(true, 1);
            precedence.turn(false, 1 + FLOOD_MS);
            assert_eq!(nice(), given.nice);
        });
    }
}
