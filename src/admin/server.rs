//! The daemon's end of the admin socket.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Answers, Failure, Question, REQUEST_BYTES_MAX, Request};

/// A client that says nothing, or does not read its answer, is cut off after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients served at once; more wait in the kernel's queue. People and a scraper or two ask.
const CLIENTS_MAX: usize = 16;

/// Pause after a failed accept, which happens when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody answers there.
    #[error(
        "Another daemon answers on the admin socket {path}; stop it, or give this one other \
         --admin-socket, --state-dir and --subnet-file values"
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The directory or the socket could not be made.
    #[error("Could not create the admin socket {path}; see that its directory can be written")]
    Create {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open socket. Dropping it removes the file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    permitted_user: u32,
}

impl AdminSocket {
    /// Opens the socket with mode 0600, and its directory with 0755 if that is missing. A socket
    /// file that nobody listens on is replaced. Only processes of `permitted_user` get answers.
    pub fn open(path: &Path, permitted_user: u32) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Create { path: path.to_owned(), source };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(OpenError::Taken { path: path.to_owned() });
        }
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(failed)?;
        }
        remove_stale(path).map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Between bind and this call the umask decides; the peer check of every client holds anyway.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), permitted_user })
    }

    /// Answers until the future is dropped.
    pub async fn serve(&self, answers: Arc<dyn Answers>) -> Infallible {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (answers, user) = (Arc::clone(&answers), self.permitted_user);
                    tokio::spawn(async move {
                        if let Err(error) = serve_client(stream, answers.as_ref(), user).await {
                            debug!(%error, "admin client left");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept an admin client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Nothing to do about a file that is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes a socket file that nobody listens on. Anything but a socket is left, and binding then
/// says what is wrong.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

async fn serve_client(
    stream: UnixStream,
    answers: &dyn Answers,
    permitted_user: u32,
) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading);
    loop {
        let Some(line) = timeout(PATIENCE, read_line(&mut lines)).await?? else { return Ok(()) };
        let (answer, usable) = match line {
            _ if user != permitted_user => (failure("only root may ask"), false),
            Line::TooLong => (failure("the request is too long"), false),
            Line::Whole(line) => (answer(&line, answers).await, true),
        };
        timeout(PATIENCE, writing.write_all(&answer)).await??;
        if !usable {
            return Ok(());
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// The next line, or `None` at the end.
async fn read_line(lines: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let limit = REQUEST_BYTES_MAX as u64 + 1;
    let length = (&mut *lines).take(limit).read_until(b'\n', &mut line).await?;
    Ok(match length {
        0 => None,
        _ if line.len() > REQUEST_BYTES_MAX => Some(Line::TooLong),
        _ => Some(Line::Whole(line)),
    })
}

async fn answer(line: &[u8], answers: &dyn Answers) -> Vec<u8> {
    match serde_json::from_slice::<Request>(line) {
        Ok(Request { cmd: Question::Status }) => encode(&answers.status()),
        Ok(Request { cmd: Question::Peers }) => encode(&answers.peers()),
        Ok(Request { cmd: Question::Drops }) => encode(&answers.drops()),
        Ok(Request { cmd: Question::Release }) => match answers.release().await {
            Ok(released) => encode(&released),
            Err(sentence) => failure(&sentence),
        },
        Ok(Request { cmd: Question::Rotate }) => match answers.rotate().await {
            Ok(rotated) => encode(&rotated),
            Err(sentence) => failure(&sentence),
        },
        Err(error) => failure(&format!("the request was not understood: {error}")),
    }
}

fn failure(sentence: &str) -> Vec<u8> {
    encode(&Failure { error: sentence.to_owned() })
}

fn encode(answer: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).expect("answers have only text keys");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
