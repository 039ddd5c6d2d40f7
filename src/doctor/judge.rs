//! From facts to findings. Pure: the same facts give the same findings.

mod addresses;
mod daemon;
mod forwarding;
mod host;
mod kernel;
mod mtu;
#[cfg(test)]
mod tests;

use super::facts::Facts;
use super::{Finding, Severity};

/// Everything that is not as it should be.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let judges = [
        daemon::judge,
        kernel::judge,
        host::judge,
        forwarding::judge,
        addresses::judge,
        mtu::judge,
    ];
    judges.into_iter().flat_map(|judge| judge(facts)).collect()
}

/// Names that a finding lists at most.
const NAMES_MAX: usize = 5;

fn named(names: &[&str]) -> String {
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
    }
}

fn error(check: &'static str, cause: impl Into<String>) -> Draft {
    Draft { check, severity: Severity::Error, cause: cause.into() }
}

fn warning(check: &'static str, cause: impl Into<String>) -> Draft {
    Draft { check, severity: Severity::Warning, cause: cause.into() }
}

fn note(check: &'static str, cause: impl Into<String>) -> Draft {
    Draft { check, severity: Severity::Note, cause: cause.into() }
}

/// A finding of which only the cause is told so far.
struct Draft {
    check: &'static str,
    severity: Severity,
    cause: String,
}

impl Draft {
    fn with(self, effect: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let Self { check, severity, cause } = self;
        Finding { check, severity, cause, effect: effect.into(), remedy: remedy.into() }
    }
}
