//! `weft doctor`: what on this host keeps weft from working, or from working well.
//!
//! Reading ([`read`]) is apart from judging ([`judge`]), which is pure: facts in, findings out. Nothing is
//! changed; what is sent is echo requests to the other hosts, through the network, if a daemon tells
//! who they are.

mod facts;
mod judge;
mod read;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use tokio::runtime;

use crate::options::{ADMIN_SOCKET, STATE_DIRECTORY};

/// There is something to be put right; nothing is 0, and 1 that this host cannot be looked at.
const FINDINGS: u8 = 3;

/// What `weft doctor` takes.
#[derive(Debug, Args)]
pub(crate) struct Examining {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The daemon's socket; a daemon need not be running
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// The daemon's subnet file
    #[arg(long, value_name = "PATH", default_value = "/run/flannel/subnet.env")]
    subnet_file: PathBuf,
    /// The daemon's state directory
    #[arg(long, value_name = "PATH", default_value = STATE_DIRECTORY)]
    state_dir: PathBuf,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Packets do not get through, or the daemon cannot start or go on.
    Error,
    /// It is slower than it could be, or will break.
    Warning,
    /// Worth knowing. Alone it does not change the exit code.
    Note,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at, as a name for programs.
    check: &'static str,
    severity: Severity,
    /// What is so.
    cause: String,
    /// What comes of it.
    effect: String,
    /// What to do.
    remedy: String,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Report<'a> {
    findings: &'a [Finding],
}

/// Looks at this host and prints what it finds.
pub(crate) fn run(asked: &Examining) -> ExitCode {
    match examine(asked) {
        Ok(findings) => {
            let text = if asked.json { json_of(&findings) } else { text_of(&findings) };
            // A closed pipe is nobody's loss.
            let _ = std::io::stdout().write_all(text.as_bytes());
            let is_well = findings.iter().all(|finding| finding.severity == Severity::Note);
            ExitCode::from(if is_well { 0 } else { FINDINGS })
        }
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn examine(asked: &Examining) -> Result<Vec<Finding>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let places = read::Places {
        admin_socket: &asked.admin_socket,
        subnet_file: &asked.subnet_file,
        state_directory: &asked.state_dir,
    };
    let facts = runtime.block_on(read::facts(&places))?;
    let mut findings = judge::findings(&facts);
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

fn json_of(findings: &[Finding]) -> String {
    let text = serde_json::to_string(&Report { findings }).expect("texts can always be written");
    format!("{text}\n")
}

fn text_of(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, severity, cause, effect, remedy } in findings {
        let _ = writeln!(text, "{}: {check}", severity.name());
        for (part, sentence) in [("cause", cause), ("effect", effect), ("remedy", remedy)] {
            let _ = writeln!(text, "  {part:<6}  {}", plain(sentence));
        }
        text.push('\n');
    }
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let [errors, warnings, notes] = [Severity::Error, Severity::Warning, Severity::Note].map(count);
    if errors + warnings == 0 {
        text.push_str("Nothing is wrong as far as can be seen from here");
    } else {
        let _ = write!(text, "{errors} errors, {warnings} warnings");
    }
    let _ = writeln!(text, ", {notes} notes.");
    text
}

/// Names of leases are what others have written, so nothing in a line may steer the terminal.
fn plain(sentence: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().collect(),
        false => letter.to_string(),
    };
    sentence.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(severity: Severity) -> Finding {
        Finding {
            check: "forwarding",
            severity,
            cause: "It is off.".into(),
            effect: "Nothing passes.".into(),
            remedy: "Turn it on.".into(),
        }
    }

    #[test]
    fn a_finding_reads_as_cause_effect_and_remedy() {
        let text = text_of(&[example(Severity::Error), example(Severity::Note)]);
        let expected = "error: forwarding\n  cause   It is off.\n  effect  Nothing passes.\n  \
                        remedy  Turn it on.\n\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("1 errors, 0 warnings, 1 notes.\n"), "{text}");
        assert!(text_of(&[]).starts_with("Nothing is wrong"));
        let steering = Finding { cause: "a\u{1b}[2Jb".into(), ..example(Severity::Note) };
        assert!(text_of(&[steering]).contains("a\\u{1b}[2Jb\n"));
    }

    #[test]
    fn json_names_the_severity() {
        let value: serde_json::Value =
            serde_json::from_str(&json_of(&[example(Severity::Warning)])).unwrap();
        assert_eq!(value["findings"][0]["severity"], "warning");
        assert_eq!(value["findings"][0]["remedy"], "Turn it on.");
    }
}
