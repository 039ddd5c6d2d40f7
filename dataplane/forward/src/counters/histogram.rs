//! How often which size occurred, in buckets of powers of two.

use super::Counter;

/// Buckets with a bound: sizes up to 1, 2, 4, … 128, which is the longest train and the most
/// packets of one turn.
pub const BOUNDS: usize = 8;

/// The last bucket takes what is above every bound.
const BUCKETS: usize = BOUNDS + 1;

/// Sizes that one thread counts and any thread reads.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { Counter::new() }; BUCKETS], sum: Counter::new() }
    }
}

impl Histogram {
    /// Counts something of this size.
    #[inline]
    pub fn record(&self, size: u64) {
        self.buckets[bucket(size)].add(1);
        self.sum.add(size);
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let mut buckets = [0; BUCKETS];
        for (value, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *value = bucket.value();
        }
        HistogramSnapshot { buckets, sum: self.sum.value() }
    }
}

/// The bucket of a size: that of the smallest power of two that is not below it.
#[inline]
fn bucket(size: u64) -> usize {
    let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
    (bits as usize).min(BOUNDS)
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HistogramSnapshot {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl HistogramSnapshot {
    /// Every bucket: its upper bound, or `None` for the last, and how many sizes are in it and in
    /// no bucket before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + use<> {
        let bound = |index: usize| (index < BOUNDS).then(|| 1 << index);
        self.buckets.into_iter().enumerate().map(move |(index, count)| (bound(index), count))
    }

    /// How many sizes were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all sizes.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_size_is_in_the_first_bucket_that_holds_it() {
        for (size, expected) in [
            (0, Some(1)),
            (1, Some(1)),
            (2, Some(2)),
            (3, Some(4)),
            (4, Some(4)),
            (5, Some(8)),
            (64, Some(64)),
            (65, Some(128)),
            (128, Some(128)),
            (129, None),
            (u64::MAX, None),
        ] {
            let histogram = Histogram::default();
            histogram.record(size);
            let filled: Vec<_> =
                histogram.snapshot().buckets().filter(|(_, count)| *count > 0).collect();
            assert_eq!(filled, [(expected, 1)], "{size}");
        }
    }

    #[test]
    fn histograms_are_merged() {
        let histogram = Histogram::default();
        for size in [1, 3, 200] {
            histogram.record(size);
        }
        let mut total = histogram.snapshot();
        total.merge(&histogram.snapshot());
        assert_eq!((total.count(), total.sum()), (6, 408));
        let counts: Vec<_> = total.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 0, 2, 0, 0, 0, 0, 0, 2]);
    }
}
