//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` until it gives a value, at first often and then every 20 ms. An error of the
/// condition ends the wait at once; so does `limit`, with an error that names `what`.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("Waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_as_soon_as_it_is_there() {
        let mut asked = 0;
        let value = wait_until("three", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn names_what_it_waited_for() {
        let never = wait_until("Godot", Duration::from_millis(3), || Ok(None::<()>));
        assert!(never.unwrap_err().to_string().contains("Godot"));
    }

    #[test]
    fn an_error_ends_the_wait() {
        let failed =
            wait_until("x", Duration::from_secs(60), || -> Result<Option<()>> { bail!("no") });
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
