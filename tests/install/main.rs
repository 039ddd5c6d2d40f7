//! What installs weft: manifests, the Debian package, the image's file tree, and a chain of CNI plugins on
//! top of a running daemon. Needs root, `ip`, Debian's tools for packages and its CNI plugins; without
//! them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
mod chain;
#[path = "../daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod host;
mod machine;
mod manifests;
mod package;
#[path = "../shared/pings.rs"]
#[expect(dead_code, reason = "shared with the tests of other sources and of the package")]
mod pings;
mod swap;
mod top;
mod unit;

use std::path::Path;
use std::process::Command;

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a program cannot be run, said aloud.
fn lacks(program: &str, test: &str) -> bool {
    let is_missing = Command::new(program).arg("--version").output().is_err();
    if is_missing {
        println!("SKIPPED: {test} needs {program}");
    }
    is_missing
}
