//! The versions of the programs that take part in a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::path::Programs;

/// Programs that load, set up, or are compared, where the machine has them, each with what makes it
/// tell its version.
const PROGRAMS: [(&str, &str); 7] = [
    ("iperf3", "--version"),
    ("sockperf", "--version"),
    ("ip", "-Version"),
    ("ethtool", "--version"),
    ("wireguard-go", "--version"),
    ("boringtun-cli", "--version"),
    ("wg", "--version"),
];

/// What each program says of itself, by its name; those that say nothing are left out.
pub fn versions(programs: &Programs) -> BTreeMap<String, String> {
    let own = [("weft", programs.weft.clone()), ("weft-bench", programs.bench.clone())];
    let own = own.into_iter().map(|(name, program)| (name, program, "--version"));
    let locate = |(name, flag)| Some((name, programs.locate(name).ok()?, flag));
    let others = PROGRAMS.into_iter().filter_map(locate);
    let version = |(name, program, flag): (&str, PathBuf, &str)| {
        Some((name.to_owned(), version(&program, flag)?))
    };
    own.chain(others).filter_map(version).collect()
}

fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    first_version(&text).or_else(|| first_version(&String::from_utf8_lossy(&output.stderr)))
}

/// The first line that has a digit, which a version has.
fn first_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_version_is_found() {
        assert_eq!(
            first_version("\nname\n iperf 3.12 (x) \nLinux 6"),
            Some("iperf 3.12 (x)".into())
        );
        assert_eq!(first_version("usage: none\n"), None);
        assert_eq!(version(Path::new("/nonexistent/program"), "--version"), None);
    }
}
