//! A simple seeded mutator: enough to find what is shallow without libFuzzer.

/// Values at which code changes its mind.
const EDGES: [u8; 12] = [0, 1, 2, 4, 6, 8, 17, 0x40, 0x7f, 0x80, 0xfe, 0xff];

/// Changes stacked on one input at most, as a power of two.
const CHANGES_BITS: u64 = 3;

/// Bytes of the longest input made.
const LENGTH_MAX: usize = 4096;

/// Random numbers (splitmix64), the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_number() % (end.max(1) as u64)) as usize
    }
}

/// Makes a new input from one or two of the corpus in `out`, whose content is replaced.
pub fn mutate(corpus: &[Vec<u8>], random: &mut Random, out: &mut Vec<u8>) {
    out.clear();
    let nothing = Vec::new();
    let pick = |random: &mut Random| corpus.get(random.below(corpus.len())).unwrap_or(&nothing);
    out.extend_from_slice(pick(random));
    let changes = 1 << (random.next_number() % (CHANGES_BITS + 1));
    for _ in 0..changes {
        let other = pick(random);
        change(out, other, random);
    }
    out.truncate(LENGTH_MAX);
}

fn change(out: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(out.len());
    let run = 1 + random.below(out.len().min(16));
    let end = (at + run).min(out.len());
    match random.below(9) {
        0 => on(out, at, |byte| *byte ^= 1 << (random.next_number() % 8)),
        1 => on(out, at, |byte| *byte = random.next_number() as u8),
        2 => on(out, at, |byte| *byte = EDGES[random.below(EDGES.len())]),
        3 => on(out, at, |byte| {
            *byte = byte.wrapping_add((random.next_number() % 7) as u8).wrapping_sub(3);
        }),
        4 => drop(out.drain(at..end)),
        5 => {
            let copy = out[at..end].to_vec();
            insert(out, random.below(out.len() + 1), &copy);
        }
        6 => {
            let value = random.next_number() as u8;
            insert(out, at, &[value; 4][..run.min(4)]);
        }
        7 => {
            let from = random.below(other.len());
            let part = &other[from..(from + run).min(other.len())];
            let end = (at + part.len()).min(out.len());
            out.splice(at..end, part.iter().copied());
        }
        _ => {
            // The start of one and the end of another.
            out.truncate(at);
            out.extend_from_slice(&other[random.below(other.len())..]);
        }
    }
}

fn on(out: &mut [u8], at: usize, change: impl FnOnce(&mut u8)) {
    if let Some(byte) = out.get_mut(at) {
        change(byte);
    }
}

fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    out.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_others_differ() {
        let corpus = [b"first".to_vec(), b"second one".to_vec(), Vec::new()];
        let run = |seed| {
            let (mut random, mut out, mut all) = (Random::new(seed), Vec::new(), Vec::new());
            for _ in 0..500 {
                mutate(&corpus, &mut random, &mut out);
                all.push(out.clone());
            }
            all
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let mut distinct = run(1);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 250, "{}", distinct.len());
    }

    #[test]
    fn an_empty_corpus_is_no_trouble() {
        let (mut random, mut out) = (Random::new(7), Vec::new());
        for _ in 0..500 {
            mutate(&[], &mut random, &mut out);
        }
    }
}
