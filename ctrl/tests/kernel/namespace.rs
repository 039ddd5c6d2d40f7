//! A network namespace for one test.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread and runtime of its own in a new network namespace with a loopback device.
pub(crate) fn in_new_namespace<F>(name: &str, test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if Command::new("ip").arg("-Version").output().is_err() {
        return skip(name, "the program `ip` is not installed");
    }
    if !Path::new("/dev/net/tun").exists() {
        return skip(name, "there is no /dev/net/tun");
    }
    let body = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test());
            true
        }
        Err(Errno::EPERM) => false,
        Err(error) => panic!("unshare failed: {error}"),
    };
    let ran = thread::Builder::new().name(name.to_owned()).spawn(body).unwrap().join().unwrap();
    if !ran {
        skip(name, "a network namespace cannot be created (not root)");
    }
}

/// Runs `ip` with these words in the namespace of this thread. A child process inherits it.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("`ip` is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Says loudly that a test proved nothing here, past the test harness, which keeps what passing
/// tests print to itself.
fn skip(name: &str, reason: &str) {
    io::stderr().write_all(format!("SKIPPED: {name}: {reason}\n").as_bytes()).unwrap();
}
