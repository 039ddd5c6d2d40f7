//! The terminal: taken over, drawn into, listened to, and given back whatever ends the program.
//!
//! | what ends or stops it | how the terminal is given back |
//! | --- | --- |
//! | a key, an error, SIGTERM and its like | [`Taken`] is dropped; a signal then does what it does to others |
//! | Ctrl-Z, SIGTSTP | before the stop, and taken again when it is in front |
//! | a panic | by its hook, so that the message is on the screen that stays |
//! | SIGKILL | by nobody: `reset` |

use std::fs;
use std::io::{self, Stdout, Write};
use std::os::unix::net::UnixStream;
use std::panic;
use std::time::Duration;

use ratatui_core::layout::Rect;
use ratatui_core::terminal::{Frame, Terminal as Drawer, TerminalOptions, Viewport};
use ratatui_termion::TermionBackend;
use ratatui_termion::termion::{cursor, screen};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_current_process_group};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level::emulate_default_handler;

/// What a terminal without a size is taken for.
const SIZE: (u16, u16) = (80, 24);

/// SIGINT comes from elsewhere: as a key it is a byte here.
const SIGNALS: [i32; 7] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH];

/// The byte of Ctrl-Z.
const SUSPEND: u8 = 26;

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `q`, or an interrupt, or nobody is there any more.
    End,
    /// Ctrl-Z.
    Suspend,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    NextColumn,
    PreviousColumn,
    Reverse,
    /// Anything else.
    Other,
}

/// What ended a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The time is up.
    Nothing,
    Keys(Vec<Key>),
    /// The screen is to be drawn again.
    Redraw,
    /// A signal wants the program to end. [`end_by`] does that, when the terminal is given back.
    Signal(i32),
}

/// The terminal of this process. Dropping it gives it back as it was.
pub(super) struct Terminal {
    drawer: Drawer<TermionBackend<Stdout>>,
    size: (u16, u16),
    signals: SignalDelivery<UnixStream, SignalOnly>,
    // Dropped last, when nothing draws any more.
    taken: Taken,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let signals = SignalDelivery::with_pipe(read, write, SignalOnly, SIGNALS)?;
        let taken = Taken::take()?;
        let size = size()?;
        let options = TerminalOptions { viewport: Viewport::Fixed(area(size)) };
        let drawer = Drawer::with_options(TermionBackend::new(io::stdout()), options)?;
        Ok(Self { drawer, size, signals, taken })
    }

    /// Draws all of the screen; what is there already is not written again.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        let size = size()?;
        if size != self.size {
            self.fit(size)?;
        }
        self.drawer.draw(draw)?;
        Ok(())
    }

    /// Waits for keys and signals, at most this long.
    pub(super) fn wait(&mut self, patience: Duration) -> io::Result<Heard> {
        let patience = Timespec::try_from(patience).expect("a minute fits");
        let input = io::stdin();
        let mut sources = [
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(self.signals.get_read(), PollFlags::IN),
        ];
        match poll(&mut sources, Some(&patience)) {
            Ok(0) => return Ok(Heard::Nothing),
            Err(Errno::INTR) => return self.handle_signals(),
            outcome => outcome?,
        };
        let [has_keys, has_signals] = sources.map(|source| !source.revents().is_empty());
        if has_signals {
            return self.handle_signals();
        }
        if has_keys { self.handle_keys() } else { Ok(Heard::Redraw) }
    }

    fn handle_keys(&mut self) -> io::Result<Heard> {
        let keys = read_keys()?;
        let suspends = keys.contains(&Key::Suspend) && !keys.contains(&Key::End);
        if suspends && Groups::read().is_job() { self.suspend() } else { Ok(Heard::Keys(keys)) }
    }

    fn handle_signals(&mut self) -> io::Result<Heard> {
        let signals: Vec<i32> = self.signals.pending().collect();
        if let Some(end) = signals.iter().copied().find(ends) {
            return Ok(Heard::Signal(end));
        }
        if signals.contains(&SIGTSTP) && Groups::read().is_job() {
            return self.suspend();
        }
        if signals.contains(&SIGCONT) {
            self.take_again()?;
        }
        Ok(Heard::Redraw)
    }

    /// Stops the job, and returns when it goes on in front or is to end.
    fn suspend(&mut self) -> io::Result<Heard> {
        // When it is dropped it would show the cursor that it has hidden, and so write from behind.
        self.drawer.show_cursor()?;
        self.taken.give_back();
        loop {
            // All of it: a shell waits for whatever it has started, such as sudo, to stop.
            kill_current_process_group(Signal::STOP)?;
            // Whoever touches the terminal from behind is stopped again, and would never get to these.
            if let Some(end) = self.signals.pending().find(ends) {
                return Ok(Heard::Signal(end));
            }
            if Groups::read().is_in_front() {
                self.take_again()?;
                return Ok(Heard::Redraw);
            }
        }
    }

    /// A shell has used the terminal meanwhile, also where the stop was one that nobody is told of.
    fn take_again(&mut self) -> io::Result<()> {
        self.taken.take_again()?;
        self.fit(size()?)
    }

    /// The next draw writes all. `Drawer::clear` would ask the terminal where its cursor is, and take
    /// keys for the answer.
    fn fit(&mut self, size: (u16, u16)) -> io::Result<()> {
        self.size = size;
        self.drawer.resize(area(size))
    }
}

fn ends(signal: &i32) -> bool {
    ![SIGTSTP, SIGCONT, SIGWINCH].contains(signal)
}

/// Where this process stands among the jobs of a shell.
///
/// rustix has the same numbers, but takes the 0 of a group outside of this PID namespace for a number.
struct Groups {
    own: i32,
    session: i32,
    /// The group that the terminal belongs to; -1 without a terminal.
    front: i32,
}

impl Groups {
    /// From `/proc/self/stat`, see proc_pid_stat(5); what stands alone where that cannot be read.
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/stat").unwrap_or_default())
    }

    fn parse(stat: &str) -> Self {
        // The name in brackets may have brackets and blanks.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<i32> =
            after_name.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
        match fields[..] {
            [_parent, own, session, _terminal, front, ..] => Self { own, session, front },
            _ => Self { own: 0, session: 0, front: -1 },
        }
    }

    /// Whether a shell continues this group after a stop. Nobody does so with the group of what began
    /// the session, as in `ssh -t host weft top`; the kernel does not stop such a group either.
    fn is_job(&self) -> bool {
        self.own != self.session
    }

    fn is_in_front(&self) -> bool {
        self.front == self.own || self.front == -1
    }
}

/// Ends the program as the signal would have ended it.
pub(super) fn end_by(signal: i32) -> io::Result<()> {
    emulate_default_handler(signal)
}

/// The settings of the terminal before it was taken over.
struct Taken {
    before: Termios,
    is_given_back: bool,
}

impl Taken {
    fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let (settings, earlier) = (before.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            give_back(&settings);
            earlier(panic);
        }));
        let mut taken = Self { before, is_given_back: true };
        taken.take_again()?;
        Ok(taken)
    }

    fn take_again(&mut self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        if self.is_given_back {
            self.is_given_back = false;
            write(&format!("{}{}", screen::ToAlternateScreen, cursor::Hide))?;
        }
        Ok(())
    }

    fn give_back(&mut self) {
        // Twice would put the cursor over what was written in between, such as the text of a panic.
        if !self.is_given_back && !std::thread::panicking() {
            give_back(&self.before);
        }
        self.is_given_back = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// There is nobody to be told if the terminal is gone.
fn give_back(before: &Termios) {
    let _ = write(&format!("{}{}", cursor::Show, screen::ToMainScreen));
    let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
}

/// Columns and lines.
fn size() -> io::Result<(u16, u16)> {
    let size = tcgetwinsize(io::stdout())?;
    Ok(if size.ws_col == 0 || size.ws_row == 0 { SIZE } else { (size.ws_col, size.ws_row) })
}

fn area((width, height): (u16, u16)) -> Rect {
    Rect::new(0, 0, width, height)
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Past the standard library's buffer, in which keys would wait that `poll` does not see.
fn read_keys() -> io::Result<Vec<Key>> {
    let mut bytes = [0; 64];
    Ok(match rustix::io::read(io::stdin(), &mut bytes)? {
        0 => vec![Key::End],
        length => keys(&bytes[..length]),
    })
}

/// The sequences of both modes of a VT100's arrows. Termion's reader knows one of them, and panics at
/// some that are cut.
fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let (key, length) = match (first, after) {
            (b'q' | 3, _) => (Key::End, 1),
            (&SUSPEND, _) => (Key::Suspend, 1),
            (b'j', _) => (Key::Down, 1),
            (b'k', _) => (Key::Up, 1),
            (b' ', _) => (Key::PageDown, 1),
            (b'>', _) => (Key::NextColumn, 1),
            (b'<', _) => (Key::PreviousColumn, 1),
            (b'r', _) => (Key::Reverse, 1),
            (0x1b, [b'[' | b'O', b'A', ..]) => (Key::Up, 3),
            (0x1b, [b'[' | b'O', b'B', ..]) => (Key::Down, 3),
            (0x1b, [b'[' | b'O', b'C', ..]) => (Key::NextColumn, 3),
            (0x1b, [b'[' | b'O', b'D', ..]) => (Key::PreviousColumn, 3),
            (0x1b, [b'[' | b'O', b'H', ..]) => (Key::First, 3),
            (0x1b, [b'[' | b'O', b'F', ..]) => (Key::Last, 3),
            (0x1b, [b'[', b'1', b'~', ..]) => (Key::First, 4),
            (0x1b, [b'[', b'4', b'~', ..]) => (Key::Last, 4),
            (0x1b, [b'[', b'5', b'~', ..]) => (Key::PageUp, 4),
            (0x1b, [b'[', b'6', b'~', ..]) => (Key::PageDown, 4),
            _ => (Key::Other, 1),
        };
        keys.push(key);
        rest = &rest[length..];
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn keys_are_told_from_their_sequences() {
        assert_eq!(keys(b"q"), [Key::End]);
        assert_eq!(keys(b"\x03\x1a"), [Key::End, Key::Suspend]);
        assert_eq!(
            keys(b"\x1b[A\x1bOBjk "),
            [Key::Up, Key::Down, Key::Down, Key::Up, Key::PageDown]
        );
        assert_eq!(
            keys(b"\x1b[C<\x1bOD>r"),
            [
                Key::NextColumn,
                Key::PreviousColumn,
                Key::PreviousColumn,
                Key::NextColumn,
                Key::Reverse
            ]
        );
        assert_eq!(keys(b"\x1b[5~\x1b[6~"), [Key::PageUp, Key::PageDown]);
        assert_eq!(
            keys(b"\x1b[H\x1b[F\x1b[1~\x1b[4~"),
            [Key::First, Key::Last, Key::First, Key::Last]
        );
        assert_eq!(keys(b"\x1b"), [Key::Other]);
        assert_eq!(keys(b"\x1b[M"), [Key::Other; 3]);
        assert_eq!(keys(b""), []);
    }

    #[test]
    fn groups_are_read_whatever_the_name_is() {
        let groups = Groups::parse("7 (a) S 1 (b) T 1 70 60 34816 80 4194304 13000000000000 0");
        assert_eq!((groups.own, groups.session, groups.front), (70, 60, 80));
        assert!(groups.is_job() && !groups.is_in_front());
        assert!(!Groups::parse("7 (a) S 1 60 60 34816 60 0").is_job());
        assert!(Groups::parse("7 (a) S 1 70 60 34816 70 0").is_in_front());
        assert!(Groups::parse("7 (a) S 1 70 60 0 -1 0").is_in_front());
        let unknown = Groups::parse("");
        assert!(!unknown.is_job() && unknown.is_in_front());
        assert!(Groups::read().own > 0, "/proc of this process");
    }

    /// Runs in a terminal of its own, made by the test after it.
    #[test]
    fn panics_in_a_terminal() {
        if std::env::var_os("WEFT_TEST_PANICS").is_some() {
            let mut terminal = Terminal::open().unwrap();
            terminal.draw(|frame| frame.render_widget("drawn", frame.area())).unwrap();
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        let program = std::env::current_exe().unwrap();
        let words = "--exact top::terminal::tests::panics_in_a_terminal --nocapture";
        let script = format!("stty -g; {} {words}; echo; stty -g", program.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &script, "/dev/null"]);
        command.env("WEFT_TEST_PANICS", "1").stdin(std::process::Stdio::null());
        let Ok(output) = command.output() else {
            println!("SKIPPED: the test of a panic in weft top needs script, of util-linux");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?}: {text:?}"));
        let steps = ["\x1b[?1049h", "drawn", "\x1b[?25h\x1b[?1049l", "on purpose"].map(place);
        assert!(steps.is_sorted(), "{text:?}");
        assert_eq!(text.matches("\x1b[?1049l").count(), 1, "{text:?}");
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|one| !one.is_empty()).collect();
        assert!(lines[0].contains(':'), "{text:?}");
        assert_eq!(lines.first(), lines.last(), "the settings: {text:?}");
    }
}
