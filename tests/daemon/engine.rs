//! Which engine moves the packets, why, and that somebody is told.

use std::io::Write;

use super::CONFIG;
use super::host::{Host, Leases};

/// Becomes the daemon with a seccomp filter that forbids `io_uring_setup` (425 everywhere), as
/// those of container runtimes do.
const FORBID: &str = "
import ctypes, os, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
steps = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
program = struct.pack('HP', 4, ctypes.addressof(steps))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

const FORBIDDEN: &[&str] = &["python3", "-c", FORBID];

/// Starts a daemon, and gives the engine and the reason that it tells. The log has it too, once.
fn chosen(host: &Host, starter: &[&str], flags: &[&str]) -> (String, String) {
    let mut daemon = host.spawn_by(starter, &[&["--iface=u1"], flags].concat());
    daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    let engine = &daemon.ask("status")["engine"];
    let text = |name: &str| engine[name].as_str().unwrap().to_owned();
    let (name, reason) = (text("name"), text("reason"));
    let shown = format!("{name} ({reason})");
    assert!(daemon.show("status").contains(&shown), "{shown}");
    let log = daemon.log();
    assert_eq!(log.matches(&reason).count(), 1, "{reason}: {log}");
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(0));
    (name, reason)
}

#[test]
fn the_engine_and_its_reason_are_told() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    for (flags, reason) in [
        (["--engine=epoll"], "asked for"),
        (["--without=uring"], "without io_uring"),
        (["--without=multishot"], "multishot reads in io_uring"),
    ] {
        let (name, told) = chosen(&host, &[], &flags);
        assert_eq!(name, "epoll", "{flags:?}: {told}");
        assert!(told.contains(reason), "{flags:?}: {told}");
    }
    let (name, told) = chosen(&host, &[], &[]);
    if name == "epoll" {
        let line = format!("SKIPPED: the engine uring: {told}\n");
        return std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    assert_eq!((name.as_str(), told.as_str()), ("uring", "the kernel has all that it takes"));
    let asked_for = ("uring".to_owned(), "asked for".to_owned());
    assert_eq!(chosen(&host, &[], &["--engine=uring"]), asked_for);
}

#[test]
fn an_engine_that_cannot_be_had_is_refused() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    for feature in ["uring", "multishot"] {
        let without = format!("--without={feature}");
        let (code, text) = host.refused(&["--iface=u1", "--engine=uring", &without]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("io_uring") && text.contains("The engine epoll needs"), "{text}");
        assert!(!host.has_device());
    }
    assert!(leases.all().is_empty(), "a host that cannot carry packets claims no subnet");
}

#[test]
fn a_container_that_forbids_io_uring_gets_the_other_engine() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let (name, reason) = chosen(&host, FORBIDDEN, &[]);
    assert_eq!(name, "epoll", "{reason}");
    for part in ["refuses io_uring", "Operation not permitted", "seccomp", "io_uring_disabled"] {
        assert!(reason.contains(part), "{reason}");
    }
    let (code, _) = host.spawn_by(FORBIDDEN, &["--iface=u1", "--engine=uring"]).end();
    let log = std::fs::read_to_string(host.file("log")).unwrap();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("seccomp") && log.contains("The engine epoll needs"), "{log}");
}
