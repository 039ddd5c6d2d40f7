//! `weft top` in the terminal emulator of tmux.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::host::{Host, Leases, Pair, can_run};
use crate::lacks;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// A server of tmux of its own, with one terminal; ended when this is dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn start(host: &Host, words: &[&str]) -> Self {
        let terminal = Self { socket: host.file("tmux") };
        let inside = ["ip", "netns", "exec", &host.namespace];
        let size = ["new-session", "-d", "-x", "100", "-y", "24"];
        terminal.command(&[&size[..], &inside, words].concat());
        terminal
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-S", &self.socket]).args(words);
        command.env_remove("TMUX").env("TERM", "xterm").output().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.command(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let text = self.text();
            if holds(&text) {
                return;
            }
            assert!(Instant::now() < end, "{what}:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.command(&["kill-server"]);
    }
}

#[test]
fn peers_and_rates_are_drawn_and_a_key_ends_it() {
    if !can_run() || tmux_is_missing() {
        return;
    }
    let leases = Leases::new(r#"{"Network": "10.244.0.0/16"}"#);
    let pair = Pair::new(&leases);
    let mut left = pair.left.start(&["--iface=u1"]);
    let _right = pair.right.start(&["--iface=u2"]);
    left.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    let socket = format!("--admin-socket={}", pair.left.file("weft.sock"));
    let terminal = Terminal::start(&pair.left, &[WEFT, "top", &socket]);
    terminal.wait_for("the peer", |text| {
        text.contains("10.244.2.0/24") && text.contains("10.168.0.3:8285")
    });
    let mut ping =
        pair.left.command(&["ping", "-q", "-i", "0.02", "-I", "10.244.1.1", "10.244.2.1"]);
    let mut ping = ping.stdout(std::process::Stdio::null()).spawn().unwrap();
    terminal.wait_for("a rate", |text| {
        let line = text.lines().find(|line| line.starts_with("out ")).unwrap_or_default();
        line.contains("packets/s") && !line.contains(" 0 packets/s")
    });
    ping.kill().unwrap();
    ping.wait().unwrap();
    // A smaller window, as over a connection from a small screen.
    terminal.command(&["resize-window", "-x", "60", "-y", "12"]);
    terminal
        .wait_for("the small screen", |text| text.lines().count() <= 12 && text.contains("q ends"));
    terminal.command(&["send-keys", "q"]);
    let end = Instant::now() + Duration::from_secs(30);
    while terminal.command(&["has-session"]).status.success() {
        assert!(Instant::now() < end, "the key has ended it");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tmux_is_missing() -> bool {
    let is_missing = Command::new("tmux").arg("-V").output().is_err();
    if is_missing {
        println!("SKIPPED: the test of weft top needs tmux");
    }
    is_missing
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    if lacks("ip", "nothing") {
        return;
    }
    let output = Command::new(WEFT).arg("top").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("terminal") && said.contains("weft status"), "{said}");
}
