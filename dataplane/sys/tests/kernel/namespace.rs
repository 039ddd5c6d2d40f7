//! A network namespace for one test.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::thread::CapabilitySet;

/// One test at a time: a process forked by one (for `ip`) holds the descriptors of all others until
/// it executes its program, so that what they have just closed would still be taken.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Run `test` on a thread of its own in a new, empty network namespace.
pub(crate) fn in_new_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    if Command::new("ip").arg("-Version").output().is_err() {
        return skip(name, "the program `ip` is not installed");
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let body = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            test();
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

/// Like [`in_new_namespace`], for tests that open a TUN device.
pub(crate) fn in_new_namespace_with_tun(name: &str, test: impl FnOnce() + Send + 'static) {
    if Path::new("/dev/net/tun").exists() {
        in_new_namespace(name, test);
    } else {
        skip(name, "there is no /dev/net/tun");
    }
}

/// Run `ip` with these words in the namespace of this thread. A child process inherits it.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("`ip` is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Take capabilities away from this thread, which ends with the test.
pub(crate) fn give_up(capabilities: CapabilitySet) {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(capabilities);
    sets.permitted.remove(capabilities);
    rustix::thread::set_capabilities(None, sets).unwrap();
}

/// Say loudly that a test proved nothing here.
pub(crate) fn skip(name: &str, reason: &str) {
    // Past the test harness, which keeps what passing tests print to itself.
    io::stderr().write_all(format!("SKIPPED: {name}: {reason}\n").as_bytes()).unwrap();
}
