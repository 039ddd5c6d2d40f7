//! The command line of the built program, as somebody sees it who calls it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

fn call(program: impl AsRef<Path>, arguments: &[impl AsRef<OsStr>]) -> Output {
    command(program, arguments).output().unwrap()
}

/// Without variables of the surroundings that the daemon would read.
fn command(program: impl AsRef<Path>, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLANNELD_")) {
        command.env_remove(name);
    }
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_version_stands_alone_on_stderr() {
    for arguments in [&["daemon", "--version"][..], &["daemon", "-version", "--v=1"]] {
        let output = call(WEFT, arguments);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stderr(&output), format!("{}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(stdout(&output), "");
    }
    let output = call(WEFT, &["--version"]);
    assert_eq!(stdout(&output), format!("weft {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_is_no_mistake() {
    for arguments in [&["daemon", "-h"][..], &["daemon", "--help"], &["--help"]] {
        let output = call(WEFT, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(stdout(&output).contains("Usage: "), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
    assert!(stdout(&call(WEFT, &["daemon", "--help"])).contains("--subnet-lease-renew-margin"));
}

#[test]
fn bad_flags_end_with_two_and_the_usage() {
    let output = call(WEFT, &["daemon", "--nonsense", "--ip-masq=perhaps"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(text.contains("Usage: "), "{text}");
    let last: Vec<&str> = text.lines().rev().take(2).collect();
    assert!(last[1].contains("--nonsense"), "{text}");
    assert!(last[0].contains("--ip-masq"), "{text}");
}

#[test]
fn other_wrong_command_lines_end_with_two() {
    for arguments in [&[][..], &["nonsense"], &["status", "--nonsense"]] {
        let output = call(WEFT, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("Usage: "), "{arguments:?}");
    }
}

#[test]
fn flags_without_a_function_are_refused_all_at_once() {
    let output = call(WEFT, &["daemon", "--vmodule=a=1", "--log_backtrace_at=a:1", "--workers=0"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 3, "{text}");
    for sentence in ["--vmodule", "--log_backtrace_at", "--workers"] {
        assert!(text.contains(sentence), "{text}");
    }
}

#[test]
fn variables_count_like_flags() {
    let output = command(WEFT, &["daemon", "--lease-dir=/nowhere"])
        .env("FLANNELD_VMODULE", "a=1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--vmodule"), "{}", stderr(&output));
}

#[test]
fn called_flanneld_it_is_the_daemon() {
    let place = tempfile::tempdir().unwrap();
    let flanneld = place.path().join("flanneld");
    std::os::unix::fs::symlink(WEFT, &flanneld).unwrap();
    let output = call(&flanneld, &["-version"]);
    assert_eq!(stderr(&output), format!("{}\n", env!("CARGO_PKG_VERSION")));
    let output = call(&flanneld, &["--vmodule=a=1", "status"]);
    assert!(stderr(&output).contains("--vmodule"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(2));
    let usage = stdout(&call(&flanneld, &["--help"]));
    assert!(usage.starts_with(&format!("Usage: {} [OPTION]...", flanneld.display())), "{usage}");
}

#[test]
fn questions_without_a_daemon_name_the_socket() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("weft.sock");
    for question in ["status", "peers", "drops"] {
        let arguments = [question, "--json", "--admin-socket", socket.to_str().unwrap()];
        let output = call(WEFT, &arguments);
        assert_eq!(output.status.code(), Some(1), "{question}");
        let text = stderr(&output);
        assert!(text.contains(socket.to_str().unwrap()), "{text}");
        assert!(text.contains("is it running?"), "{text}");
        assert_eq!(stdout(&output), "", "{question}");
    }
}

/// Places below a plain file can be made by nobody, not even by root.
#[test]
fn places_that_cannot_be_made_are_named() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("below").to_str().unwrap().to_owned();
    let good = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    for (state, socket, wrong) in [
        (below.clone(), good("weft.sock"), "state directory"),
        (good("state"), below.clone(), "admin socket"),
    ] {
        let output = call(
            WEFT,
            &[
                "daemon",
                "--lease-dir",
                &good("leases"),
                "--state-dir",
                &state,
                "--admin-socket",
                &socket,
                "--subnet-file",
                &good("subnet.env"),
            ],
        );
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        let text = stderr(&output);
        assert!(text.contains(wrong) && text.contains(&below), "{text}");
    }
}

/// flanneld ends with a broken pipe; a log collector that goes away must not take the overlay along.
#[test]
fn nobody_needs_to_read_what_the_daemon_says() {
    let place = tempfile::tempdir().unwrap();
    let mut child = command(WEFT, &daemon_at(place.path(), &["--v=1"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    // Without a config it says so on both at once, and again every second.
    sleep(Duration::from_millis(1500));
    assert_eq!(child.try_wait().unwrap(), None);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_password_among_ignored_arguments_is_not_logged() {
    let place = tempfile::tempdir().unwrap();
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"none"}}"#;
    std::fs::write(place.path().join("config"), config).unwrap();
    for ignored in [&["false", "--etcd-password", "secret"][..], &["--", "--etcd-password=secret"]]
    {
        let output = call(WEFT, &daemon_at(place.path(), ignored));
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains("are ignored") && !text.contains("secret"), "{text}");
    }
}

/// Arguments of a daemon that keeps everything in `place`.
fn daemon_at(place: &Path, more: &[&str]) -> Vec<String> {
    let place = place.to_str().unwrap();
    let mut arguments = vec![
        "daemon".to_owned(),
        format!("--lease-dir={place}"),
        format!("--state-dir={place}/state"),
        format!("--admin-socket={place}/socket"),
        format!("--subnet-file={place}/subnet.env"),
    ];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}
