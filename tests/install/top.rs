//! `weft top` in the terminal emulator of tmux.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::host::{Host, Leases, Pair, can_run};
use crate::lacks;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// A server of tmux of its own, with one terminal; ended when this is dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// A terminal with a shell that has the address of the daemon's socket in `$socket`.
    fn with_shell(host: &Host) -> Self {
        let socket = format!("socket={}", host.file("weft.sock"));
        // Without the files of whoever runs the tests, and with job control.
        Self::start(host, &["env", "-u", "ENV", "PS1=ready> ", &socket, "sh", "-i"])
    }

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

    fn type_line(&self, line: &str) {
        self.command(&["send-keys", line, "Enter"]);
    }

    /// What was written to the terminal until now, of which tmux keeps a record there.
    fn recorded(&self, record: &str) -> String {
        self.type_line("echo record\"\"ed");
        let recorded = || std::fs::read_to_string(record).unwrap_or_default();
        self.wait_until("the record", || recorded().contains("recorded"));
        recorded()
    }

    /// Whether the other screen is shown, and whether there is a cursor.
    fn modes(&self) -> (bool, bool) {
        let format = "#{alternate_on} #{cursor_flag}";
        let output = self.command(&["display-message", "-p", format]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (other, cursor) = text.trim().split_once(' ').unwrap();
        (other == "1", cursor == "1")
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) {
        self.wait_until(what, || holds(&self.text()));
    }

    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "{what}:\n{}", self.text());
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
    // As over ssh or kubectl exec: a session of its own without a shell that controls jobs. What tmux
    // starts by itself it would continue after a stop.
    let words = ["setsid", "--ctty", "--wait", WEFT, "top", &socket];
    let terminal = Terminal::start(&pair.left, &words);
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
    // Nobody would continue it.
    terminal.command(&["send-keys", "C-z"]);
    // By the third column, the other way round.
    terminal.command(&["send-keys", "Right", "Right", "r"]);
    terminal
        .wait_for("another order", |text| text.contains("PATHv") && text.contains("> 10.244.2"));
    terminal.command(&["send-keys", "q"]);
    terminal.wait_until("the key has ended it", || {
        !terminal.command(&["has-session"]).status.success()
    });
}

/// The shell finds its terminal as it was, whatever ends or stops the program.
#[test]
fn the_terminal_is_given_back_at_every_end() {
    if !can_run() || tmux_is_missing() {
        return;
    }
    let leases = Leases::new(r#"{"Network": "10.244.0.0/16"}"#);
    let pair = Pair::new(&leases);
    let mut left = pair.left.start(&["--iface=u1"]);
    left.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    let terminal = Terminal::with_shell(&pair.left);
    terminal.wait_for("the shell", |text| text.contains("ready>"));
    // Who writes from behind is stopped, so it is seen whether anybody does.
    terminal.type_line(&format!("stty tostop; stty -g >{}", pair.left.file("before")));
    let record = pair.left.file("record");
    terminal.command(&["pipe-pane", &format!("cat >{record}")]);
    let number = pair.left.file("number");
    let start = format!(
        "sh -c 'echo $$ >{number}; exec {WEFT} top --admin-socket=$socket'; echo \"ended $?.\""
    );
    let drawn = |text: &str| text.contains("no peers") && text.contains("q ends");
    let given_back = |what: &str| {
        terminal.wait_for(what, |text| text.contains(what) && !drawn(text));
        assert_eq!(terminal.modes(), (false, true), "{what}");
        let after = pair.left.file("after");
        let _ = std::fs::remove_file(&after);
        terminal.type_line(&format!("clear; stty -g >{after}.new; mv {after}.new {after}"));
        terminal.wait_until("the settings", || Path::new(&after).exists());
        let settings = |name: &str| std::fs::read_to_string(pair.left.file(name)).unwrap();
        assert_eq!(settings("after"), settings("before"), "{what}");
    };
    let kill = |signal: Signal| {
        let number: i32 = std::fs::read_to_string(&number).unwrap().trim().parse().unwrap();
        signal::kill(Pid::from_raw(number), signal).unwrap();
    };

    // Statuses of a shell for what a signal has ended.
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        terminal.type_line(&start);
        terminal.wait_for("the screen", drawn);
        assert_eq!(terminal.modes(), (true, false));
        kill(signal);
        given_back(&format!("ended {status}."));
    }
    for key in ["q", "C-c"] {
        terminal.type_line(&start);
        terminal.wait_for("the screen", drawn);
        terminal.command(&["send-keys", key]);
        given_back("ended 0.");
    }
    // By the key, and by somebody else.
    for by_key in [true, false] {
        terminal.type_line(&start);
        terminal.wait_for("the screen", drawn);
        if by_key {
            terminal.command(&["send-keys", "C-z"]);
        } else {
            kill(Signal::SIGTSTP);
        }
        given_back("Stopped");
        terminal.type_line("fg");
        terminal.wait_for("the screen again", drawn);
        assert_eq!(terminal.modes(), (true, false));
        terminal.command(&["send-keys", "q"]);
        terminal.wait_for("the end", |text| text.contains("ready>") && !drawn(text));
        assert_eq!(terminal.modes(), (false, true));
    }
    // By a shell, of what is stopped and has been continued behind.
    terminal.type_line(&start);
    terminal.wait_for("the screen", drawn);
    terminal.command(&["send-keys", "C-z"]);
    given_back("Stopped");
    terminal.type_line("bg");
    terminal.type_line("kill %1; bg; kill -CONT %1; wait %1; echo \"ended $?.\"");
    given_back("ended 143.");
    // An answer to a question to the terminal would be among the keys.
    let recorded = terminal.recorded(&record);
    assert!(recorded.contains("\x1b[?1049h") && !recorded.contains("\x1b[6n"), "{recorded:?}");
    drop(left);
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
