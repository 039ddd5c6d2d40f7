//! How large a packet may be on a path that does not take the largest: bisection.

/// Sizes are found to within so many bytes.
const PRECISION: usize = 8;

/// Losses in a row before a size counts as too large.
const TRIES: u8 = 2;

/// What is known of sizes, in bytes of the packet.
#[derive(Debug)]
pub(super) struct Search {
    small: usize,
    full: usize,
    passes: usize,
    /// One that does not.
    fails: usize,
    losses: u8,
}

impl Search {
    pub(super) fn new(small: usize, full: usize) -> Self {
        Self { small, full, passes: small.min(full), fails: full, losses: 0 }
    }

    /// The smallest that is sent.
    pub(super) fn small(&self) -> usize {
        self.small
    }

    /// The largest that is known to pass.
    pub(super) fn passes(&self) -> usize {
        self.passes
    }

    pub(super) fn restart(&mut self) {
        *self = Self::new(self.small, self.full);
    }

    /// The size to try next. When the search has ended, that which it has found.
    pub(super) fn candidate(&self) -> usize {
        match self.fails - self.passes {
            ..=PRECISION => self.passes,
            distance => self.passes + distance / 2,
        }
    }

    /// Nothing smaller or larger is tried any more, unless the path changes.
    pub(super) fn has_ended(&self) -> bool {
        self.candidate() == self.passes
    }

    pub(super) fn handle_answer(&mut self, size: usize) {
        if size == self.candidate() {
            self.losses = 0;
        }
        if size < self.fails {
            self.passes = self.passes.max(size);
        }
    }

    pub(super) fn handle_loss(&mut self, size: usize) {
        if size != self.candidate() || size == self.small {
            return;
        }
        self.losses += 1;
        if self.losses < TRIES {
            return;
        }
        self.losses = 0;
        if size > self.passes {
            self.fails = size;
        } else {
            // It has become smaller still.
            (self.passes, self.fails) = (self.small, size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends until nothing new comes out.
    fn run(search: &mut Search, mtu: usize) {
        for _ in 0..60 {
            let size = search.candidate();
            if size <= mtu { search.handle_answer(size) } else { search.handle_loss(size) }
        }
    }

    #[test]
    fn the_size_is_found_and_followed() {
        let mut search = Search::new(76, 1422);
        for mtu in [1400, 1280, 900, 576, 100] {
            run(&mut search, mtu);
            assert!((mtu - PRECISION..=mtu).contains(&search.passes()), "{mtu}: {search:?}");
            assert!(search.has_ended());
        }
        search.restart();
        assert!(!search.has_ended());
        run(&mut search, 1400);
        assert!((1392..=1400).contains(&search.passes()), "{search:?}");
    }

    #[test]
    fn one_loss_says_nothing() {
        let mut search = Search::new(76, 1422);
        let first = search.candidate();
        search.handle_loss(first);
        assert_eq!(search.candidate(), first);
        search.handle_answer(first);
        assert!(search.candidate() > first);
    }
}
