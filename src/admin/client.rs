//! The subcommands' end of the admin socket. Plain blocking calls: one question, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Failure, Question, Request};

/// A healthy daemon answers at once; one that is stopping may take a moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer: 65,536 peers of a few hundred bytes each.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "No weft daemon answers on {path}; is it running? (--admin-socket names another socket)"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket is not ours to use.
    #[error("Not allowed to use {path}; ask as root")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("The daemon on {path} did not answer")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon refused.
    #[error("The daemon refused: {0}")]
    Refused(String),
    /// The answer has another form, most likely because versions differ.
    #[error("The daemon's answer was not understood; is it of this version?")]
    NotUnderstood(#[from] serde_json::Error),
}

/// Asks and returns the answer as JSON text without its line end.
pub fn ask(path: &Path, question: Question) -> Result<String, AskError> {
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Forbidden { path: path.to_owned(), source },
        _ => AskError::NotRunning { path: path.to_owned(), source },
    })?;
    let broken = |source| AskError::Broken { path: path.to_owned(), source };
    let line = converse(stream, question).map_err(broken)?;
    if let Ok(failure) = serde_json::from_str::<Failure>(&line) {
        return Err(AskError::Refused(failure.error));
    }
    Ok(line)
}

/// Reads an answer.
pub fn decode<T: DeserializeOwned>(answer: &str) -> Result<T, AskError> {
    Ok(serde_json::from_str(answer)?)
}

fn converse(mut stream: UnixStream, question: Question) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(&Request { cmd: question }).map_err(io::Error::other)?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = String::new();
    BufReader::new(stream).take(ANSWER_BYTES_MAX).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}
