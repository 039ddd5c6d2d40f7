//! The highest rate at which next to nothing is lost.

use anyhow::{Result, bail, ensure};

/// The share that may be lost.
pub(super) const LOSS_PERCENT_MAX: f64 = 0.1;

/// Halvings of the range: what is found is exact to 1/64 of it.
const STEPS: u32 = 6;

/// The range's upper end, in parts of what is delivered at overload. Without the work that is lost
/// with what is dropped, a path can carry more than that.
const UPPER: f64 = 1.5;

/// How much less than asked for a sender may send before its own limit is the answer.
const KEPT_UP: f64 = 0.97;

/// What one attempt has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Datagrams a second that were really sent.
    pub(super) rate: f64,
    /// The share of them that was lost.
    pub(super) loss_percent: f64,
}

/// The highest rate, in datagrams a second, found by trying. `delivered` is the rate that arrives at
/// overload. A rate that loses is tried once more before it counts: other work of the machine loses
/// packets too.
pub(super) fn search(
    delivered: f64,
    mut attempt: impl FnMut(u32) -> Result<Attempt>,
) -> Result<f64> {
    ensure!(delivered.is_finite() && delivered > 0.0, "Too little arrived to begin with");
    let (mut low, mut high) = (0.0, delivered * UPPER);
    let mut best = None;
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let asked = (middle as u32).max(1);
        let mut found = attempt(asked)?;
        if found.loss_percent > LOSS_PERCENT_MAX {
            found = attempt(asked)?;
        }
        if found.loss_percent > LOSS_PERCENT_MAX {
            high = middle;
            continue;
        }
        best = Some(found.rate);
        if found.rate < middle * KEPT_UP {
            break;
        }
        low = middle;
    }
    match best {
        Some(rate) => Ok(rate),
        None => bail!("Even at {high:.0} datagrams a second more than 0.1 % are lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries up to `limit`, and a sender that can send `most`.
    fn model(limit: f64, most: f64) -> (Result<f64>, u32) {
        let mut attempts = 0;
        let found = search(100_000.0, |rate| {
            attempts += 1;
            let rate = f64::from(rate).min(most);
            Ok(Attempt { rate, loss_percent: if rate > limit { 5.0 } else { 0.05 } })
        });
        (found, attempts)
    }

    #[test]
    fn finds_the_limit_below_and_above_the_rate_at_overload() {
        for limit in [20_000.0, 90_000.0, 130_000.0] {
            let found = model(limit, 1e9).0.unwrap();
            assert!(found <= limit && found > limit - 3_000.0, "{found} for {limit}");
        }
    }

    #[test]
    fn ends_where_the_sender_ends() {
        let (found, attempts) = model(1e9, 60_000.0);
        assert_eq!((found.unwrap(), attempts), (60_000.0, 1));
    }

    #[test]
    fn a_path_that_always_loses_has_no_such_rate() {
        let (found, attempts) = model(0.0, 1e9);
        assert!(found.unwrap_err().to_string().contains("0.1 %"));
        assert_eq!(attempts, 2 * STEPS, "each rate has a second chance");
    }

    #[test]
    fn one_unlucky_attempt_does_no_harm() {
        let mut attempts = 0;
        let found = search(100_000.0, |rate| {
            attempts += 1;
            let loss_percent = if attempts == 1 || rate > 90_000 { 5.0 } else { 0.0 };
            Ok(Attempt { rate: rate.into(), loss_percent })
        });
        assert!(found.unwrap() > 85_000.0);
    }
}
