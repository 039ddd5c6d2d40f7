//! The file of handshakes' time stamps.
//!
//! ```text
//! weft handshakes 1
//! sent 400000006a1f03e700000000
//! peer HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw= 400000006a1f03d712000000
//! ```

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tracing::warn;
use weft_ctrl::key;
use weft_dataplane::handshakes::Memory;
use weft_seal::keys::PublicKey;
use weft_seal::timestamp::Timestamp;

/// Name of the file in the state directory.
const FILE_NAME: &str = "handshakes";

const FORMAT: &str = "weft handshakes 1";

/// Reads the file. A damaged one is worth a warning: the clock is most likely right.
pub(super) fn load(directory: &Path) -> Memory {
    let path = directory.join(FILE_NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Memory::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "the time stamps of handshakes cannot be read");
            return Memory::default();
        }
    };
    parse(&text).unwrap_or_else(|| {
        warn!(path = %path.display(), "the time stamps of handshakes are damaged and forgotten");
        Memory::default()
    })
}

/// Replaces the file at once. Blocks.
pub(super) fn write(directory: &Path, memory: &Memory) -> io::Result<()> {
    let aside = directory.join(format!(".{FILE_NAME}.new"));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text(memory).as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, directory.join(FILE_NAME))?;
    File::open(directory)?.sync_all()
}

fn text(memory: &Memory) -> String {
    let mut text = format!("{FORMAT}\nsent {}\n", hexadecimal(memory.sent));
    for (peer, stamp) in &memory.seen {
        let key = super::told(*peer);
        writeln!(text, "peer {key} {}", hexadecimal(*stamp)).expect("memory takes all writes");
    }
    text
}

fn parse(text: &str) -> Option<Memory> {
    let mut lines = text.lines();
    if lines.next()? != FORMAT {
        return None;
    }
    let sent = stamp(lines.next()?.strip_prefix("sent ")?)?;
    let peer = |line: &str| {
        let (peer, seen) = line.strip_prefix("peer ")?.split_once(' ')?;
        let peer: key::PublicKey = peer.parse().ok()?;
        Some((PublicKey::new(*peer.bytes()), stamp(seen)?))
    };
    let seen = lines.map(peer).collect::<Option<_>>()?;
    Some(Memory { sent, seen })
}

fn hexadecimal(stamp: Timestamp) -> String {
    stamp.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stamp(text: &str) -> Option<Timestamp> {
    let is_stamp =
        text.len() == 2 * Timestamp::LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_stamp)?;
    let bytes = number.to_be_bytes();
    Some(Timestamp::from_bytes(*bytes.last_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn memory() -> Memory {
        let stamp = |seconds| Timestamp::from_unix(Duration::new(seconds, 500_000_000));
        let seen = [([1; 32], 7), ([2; 32], 8)];
        let seen = seen.map(|(key, seconds)| (PublicKey::new(key), stamp(seconds)));
        Memory { sent: stamp(1_800_000_000), seen: seen.into() }
    }

    #[test]
    fn what_was_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(load(place.path()), Memory::default());
        write(place.path(), &memory()).unwrap();
        assert_eq!(load(place.path()), memory());
        write(place.path(), &Memory::default()).unwrap();
        assert_eq!(load(place.path()), Memory::default());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn what_is_damaged_is_forgotten() {
        let whole = text(&memory());
        assert_eq!(parse(&whole), Some(memory()));
        let lines: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
        for end in 0..whole.len() {
            let is_whole_lines = lines[1..].contains(&end) || lines[1..].contains(&(end + 1));
            assert_eq!(parse(&whole[..end]).is_some(), is_whole_lines, "{end}");
        }
        assert_eq!(parse(&whole.replace('4', "+")), None);
    }
}
