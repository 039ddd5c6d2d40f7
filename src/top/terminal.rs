//! The terminal: taken over, drawn into line by line, listened to, and given back.

use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The other screen, without a cursor (xterm's control sequences; the VT100 ignores them).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a terminal without a size is taken for.
const SIZE: (usize, usize) = (80, 24);

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Look {
    /// As it is.
    #[default]
    Plain,
    Bold,
    /// Dark on light where all else is light on dark.
    Reversed,
}

/// A line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) look: Look,
}

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `q`, or an interrupt, or nobody is there any more.
    End,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// Anything else.
    Other,
}

/// The terminal of this process. Dropping it gives it back as it was.
pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let terminal = Self { before };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> io::Result<(usize, usize)> {
        let size = tcgetwinsize(io::stdout())?;
        let (width, height) = (usize::from(size.ws_col), usize::from(size.ws_row));
        Ok(if width == 0 || height == 0 { SIZE } else { (width, height) })
    }

    /// Draws all of the screen at once, so that nothing flickers.
    pub(super) fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        write(&drawing(lines))
    }

    /// The keys that were pressed, none after this time.
    pub(super) fn wait_for_keys(&mut self, patience: Duration) -> io::Result<Vec<Key>> {
        let patience = Timespec::try_from(patience).expect("a minute fits");
        let input = io::stdin();
        match poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Vec::new()),
            outcome => outcome?,
        };
        let mut bytes = [0; 64];
        // Past the standard library's buffer, in which keys would wait that `poll` does not see.
        Ok(match rustix::io::read(&input, &mut bytes)? {
            0 => vec![Key::End],
            length => keys(&bytes[..length]),
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody to be told if it is gone.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn drawing(lines: &[Line]) -> String {
    let mut text = "\x1b[H".to_owned();
    for (number, line) in lines.iter().enumerate() {
        let (begin, end) = match line.look {
            Look::Plain => ("", ""),
            Look::Bold => ("\x1b[1m", "\x1b[0m"),
            Look::Reversed => ("\x1b[7m", "\x1b[0m"),
        };
        let newline = if number == 0 { "" } else { "\r\n" };
        text += &format!("{newline}{begin}{}{end}\x1b[K", line.text);
    }
    text + "\x1b[J"
}

fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let (key, length) = match (first, after) {
            (b'q' | 3, _) => (Key::End, 1),
            (b'j', _) => (Key::Down, 1),
            (b'k', _) => (Key::Up, 1),
            (b' ', _) => (Key::PageDown, 1),
            (0x1b, [b'[' | b'O', b'A', ..]) => (Key::Up, 3),
            (0x1b, [b'[' | b'O', b'B', ..]) => (Key::Down, 3),
            (0x1b, [b'[' | b'O', b'H', ..]) => (Key::First, 3),
            (0x1b, [b'[' | b'O', b'F', ..]) => (Key::Last, 3),
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
    use super::*;

    #[test]
    fn keys_are_told_from_their_sequences() {
        assert_eq!(keys(b"q"), [Key::End]);
        assert_eq!(keys(b"\x03"), [Key::End]);
        assert_eq!(
            keys(b"\x1b[A\x1bOBjk "),
            [Key::Up, Key::Down, Key::Down, Key::Up, Key::PageDown]
        );
        assert_eq!(keys(b"\x1b[5~\x1b[6~"), [Key::PageUp, Key::PageDown]);
        assert_eq!(keys(b"\x1b[H\x1b[F"), [Key::First, Key::Last]);
        assert_eq!(keys(b"\x1b"), [Key::Other]);
        assert_eq!(keys(b""), []);
    }

    #[test]
    fn a_screen_is_one_text_that_clears_what_was_there() {
        let line = |text: &str, look| Line { text: text.into(), look };
        let text = drawing(&[line("a", Look::Bold), line("b", Look::Plain)]);
        assert_eq!(text, "\x1b[H\x1b[1ma\x1b[0m\x1b[K\r\nb\x1b[K\x1b[J");
    }
}
