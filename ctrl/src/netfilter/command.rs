//! Programs that know netfilter, given their input and bounded in time.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Another program may hold the lock of iptables while it loads thousands of rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// Searched after the caller's own path, which for a service or a user need not hold them.
const DIRECTORIES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("The program {program} is missing")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It could not be started, or spoken to.
    #[error("The program {program} could not be run")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It did not end.
    #[error("The program {program} did not end within {} seconds", PATIENCE.as_secs())]
    Stuck {
        /// Its name.
        program: String,
    },
    /// It said no.
    #[error("The program {program} failed: {said}")]
    Refused {
        /// Its name.
        program: String,
        /// Its words, on one line.
        said: String,
    },
}

impl CommandError {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Runs a program to its end and returns what it printed. Dropping the future kills it.
pub(super) async fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, CommandError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CommandError::Missing { program: program.to_owned() },
        _ => CommandError::Run { program: program.to_owned(), source },
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{DIRECTORIES}"))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let conversation = async {
        // A program that refuses its arguments reads nothing; its own words say more than that.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, conversation).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => return Err(CommandError::Stuck { program: program.to_owned() }),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(CommandError::Refused { program: program.to_owned(), said: lines.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_answers_refuses_or_is_missing() {
        assert_eq!(run("cat", &[], "both\nlines\n").await.unwrap(), "both\nlines\n");
        // More than a pipe holds, to a program that does not read.
        let long = "x".repeat(1 << 20);
        assert_eq!(run("true", &[], &long).await.unwrap(), "");
        let refused = run("sh", &["-c", "echo one >&2; echo two >&2; exit 3"], "").await;
        assert_eq!(refused.unwrap_err().to_string(), "The program sh failed: one; two");
        let missing = run("weft-no-such-program", &[], "").await.unwrap_err();
        assert!(missing.is_missing(), "{missing}");
    }
}
