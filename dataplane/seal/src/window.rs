//! Which counters of a session have been accepted: a bitmap that slides (RFC 6479). A block of bits is
//! cleared when the window reaches it, so nothing is ever shifted.

use crate::rejected::Rejected;

/// How far behind the greatest accepted counter others are still accepted, itself included.
pub const REACH: u64 = 8192;

const BLOCK_BITS: u64 = u64::BITS as u64;
/// One more than the reach fills, because the window seldom begins with a block.
const BLOCKS: u64 = REACH / BLOCK_BITS + 1;

/// The replay window of one session.
#[derive(Clone, Debug)]
pub struct Window {
    /// One above the greatest accepted counter; 0 before the first.
    next: u64,
    blocks: [u64; BLOCKS as usize],
}

impl Window {
    /// A window that has accepted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { next: 0, blocks: [0; BLOCKS as usize] }
    }

    /// Accepts `counter`, which belongs to an authentic message and is below `u64::MAX`.
    ///
    /// # Errors
    /// [`Rejected::Replayed`], or [`Rejected::BelowWindow`] if that cannot be told any more. Nothing
    /// has changed then.
    pub fn accept(&mut self, counter: u64) -> Result<(), Rejected> {
        if counter >= self.next {
            self.advance(counter);
        } else if self.next - counter > REACH {
            return Err(Rejected::BelowWindow);
        }
        let block = &mut self.blocks[(counter / BLOCK_BITS % BLOCKS) as usize];
        let bit = 1 << (counter % BLOCK_BITS);
        if *block & bit != 0 {
            return Err(Rejected::Replayed);
        }
        *block |= bit;
        Ok(())
    }

    /// Clears the blocks behind that of the greatest counter, up to that of `counter`.
    fn advance(&mut self, counter: u64) {
        // The first counter of a block that holds no accepted one begins with a cleared block too.
        let first = self.next.div_ceil(BLOCK_BITS);
        let last = counter / BLOCK_BITS;
        let first = first.max((last + 1).saturating_sub(BLOCKS));
        for block in first..=last {
            self.blocks[(block % BLOCKS) as usize] = 0;
        }
        self.next = counter + 1;
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};

    use super::*;

    /// The same by a set of everything accepted.
    #[derive(Default)]
    struct Model {
        accepted: HashSet<u64>,
        greatest: Option<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> Result<(), Rejected> {
            if self.greatest.is_some_and(|greatest| counter + REACH <= greatest) {
                return Err(Rejected::BelowWindow);
            }
            if !self.accepted.insert(counter) {
                return Err(Rejected::Replayed);
            }
            self.greatest = self.greatest.max(Some(counter));
            Ok(())
        }
    }

    /// Steps of every interesting size from the greatest counter so far.
    fn steps() -> impl Strategy<Value = Vec<(bool, u64)>> {
        let distance =
            prop_oneof![0..4_u64, 60..70_u64, 0..300_u64, REACH - 70..REACH + 70, 0..3 * REACH,];
        vec((any::<bool>(), distance), 1..300)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(start in 0..3 * REACH, steps in steps()) {
            let (mut window, mut model) = (Window::new(), Model::default());
            let mut counter = start;
            for (is_ahead, distance) in steps {
                let greatest = model.greatest.unwrap_or(counter);
                counter = if is_ahead { greatest + distance } else { greatest.saturating_sub(distance) };
                assert_eq!(window.accept(counter), model.accept(counter), "{counter}");
            }
        }
    }

    /// From every position within two blocks, every jump that matters, and everything behind it.
    #[test]
    fn agrees_with_a_set_wherever_it_begins() {
        for start in 0..2 * BLOCK_BITS {
            for jump in [
                0,
                1,
                2,
                63,
                64,
                65,
                127,
                128,
                129,
                REACH - 65,
                REACH - 64,
                REACH - 1,
                REACH,
                REACH + 1,
                REACH + 63,
                REACH + 64,
                REACH + 65,
                2 * REACH,
                5 * REACH + 7,
            ] {
                let (mut window, mut model) = (Window::new(), Model::default());
                for counter in 0..=start {
                    assert_eq!(window.accept(counter), model.accept(counter));
                }
                let greatest = start + jump;
                assert_eq!(window.accept(greatest), model.accept(greatest));
                for counter in greatest.saturating_sub(REACH + 130)..=greatest + 1 {
                    let found = window.clone().accept(counter);
                    let expected =
                        Model { accepted: model.accepted.clone(), ..model }.accept(counter);
                    assert_eq!(found, expected, "{start} + {jump}, then {counter}");
                }
            }
        }
    }

    #[test]
    fn every_counter_once_in_any_order() {
        let mut window = Window::new();
        for block in 0..100 {
            for offset in (0..REACH / 2).rev() {
                assert_eq!(window.accept(block * REACH / 2 + offset), Ok(()));
            }
            for offset in 0..REACH / 2 {
                let counter = block * REACH / 2 + offset;
                assert_eq!(window.accept(counter), Err(Rejected::Replayed));
            }
        }
    }

    #[test]
    fn the_greatest_counters_do_not_overflow() {
        let mut window = Window::new();
        for counter in u64::MAX - 3 * REACH..u64::MAX {
            assert_eq!(window.accept(counter), Ok(()));
        }
        assert_eq!(window.accept(u64::MAX - 1), Err(Rejected::Replayed));
        assert_eq!(window.accept(0), Err(Rejected::BelowWindow));
        let mut window = Window::new();
        assert_eq!(window.accept(u64::MAX - 1), Ok(()));
        assert_eq!(window.accept(u64::MAX - REACH), Ok(()));
        assert_eq!(window.accept(u64::MAX - 1 - REACH), Err(Rejected::BelowWindow));
    }
}
