//! Requests to the admin socket: what is parsed, and the server itself with a client that says anything.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use weft::admin::server::AdminSocket;
use weft::admin::{
    Answers, Drops, Failure, Peers, REQUEST_BYTES_MAX, Releasing, Request, Rotating, Status,
};

/// One request line.
pub fn admin_request(data: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(data) else { return };
    let written = serde_json::to_vec(&request).expect("a request can be written");
    let again = serde_json::from_slice::<Request>(&written).expect("it was written by us");
    assert_eq!(again, request);
}

struct Nothing;

impl Answers for Nothing {
    fn status(&self) -> Status {
        Status::default()
    }

    fn peers(&self) -> Peers {
        Peers::default()
    }

    fn drops(&self) -> Drops {
        Drops::default()
    }

    fn release(&self) -> Releasing {
        Box::pin(async { Err("there is no lease".to_owned()) })
    }

    fn rotate(&self) -> Rotating {
        Box::pin(async { Err("there is no key".to_owned()) })
    }
}

/// A server that lives as long as the thread.
struct Server {
    runtime: Runtime,
    path: PathBuf,
    _directory: TempDir,
}

impl Server {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("weft.sock");
        let owner = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(directory.path()).expect("it was just made"),
        );
        let entered = runtime.enter();
        let socket = AdminSocket::open(&path, owner).expect("a socket");
        drop(entered);
        runtime.spawn(async move { socket.serve(Arc::new(Nothing)).await });
        Self { runtime, path, _directory: directory }
    }

    /// What comes back for these bytes, until the server hangs up.
    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut client = UnixStream::connect(&self.path).await.expect("the server listens");
            let mut answers = Vec::new();
            let exchange = async {
                let (mut reading, mut writing) = client.split();
                let ask = async {
                    // A server that has hung up takes no more.
                    let _ = writing.write_all(bytes).await;
                    let _ = writing.shutdown().await;
                };
                let (_, read) = tokio::join!(ask, reading.read_to_end(&mut answers));
                // Unread requests behind a refusal end the connection with a reset.
                let _ = read;
            };
            let patience = Duration::from_secs(5);
            tokio::time::timeout(patience, exchange).await.expect("the server answers in time");
            answers
        })
    }
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// All that a client sends in one connection.
pub fn admin_socket(data: &[u8]) {
    let answers = SERVER.with_borrow_mut(|server| server.get_or_insert_with(Server::new).ask(data));
    let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    let is_long = |line: &&[u8]| line.len() > REQUEST_BYTES_MAX;
    let answered = match lines.iter().position(is_long) {
        // The reset may overtake answers that were sent before.
        Some(_) => return assert!(answers.is_empty() || answers.contains(&b'\n')),
        None => lines.len(),
    };
    let mut count = 0;
    for (line, request) in answers.split_inclusive(|byte| *byte == b'\n').zip(&lines) {
        count += 1;
        assert_eq!(line.last(), Some(&b'\n'));
        let refused = serde_json::from_slice::<Failure>(line).is_ok();
        assert_eq!(refused, serde_json::from_slice::<Request>(request).is_err());
    }
    assert_eq!(count, answered, "every line has its answer");
}
