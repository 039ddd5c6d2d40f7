use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::*;
use crate::admin::{Drops, Peers, Releasing, Rotated, Rotating, Status};

struct Fixed;

impl Answers for Fixed {
    fn status(&self) -> Status {
        Status { version: "1.2.3".into(), ready: true, ..Status::default() }
    }
    fn peers(&self) -> Peers {
        Peers::default()
    }
    fn drops(&self) -> Drops {
        Drops::default()
    }
    fn release(&self) -> Releasing {
        Box::pin(async { Err("it stays".to_owned()) })
    }
    fn rotate(&self) -> Rotating {
        Box::pin(async { Ok(Rotated { key: "new".to_owned() }) })
    }
}

/// A served socket in its own directory.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn serve(permitted_user: u32) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let socket = AdminSocket::open(&place.path(), permitted_user).unwrap();
        tokio::spawn(async move { socket.serve(Arc::new(Fixed)).await });
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/weft.sock")
    }

    async fn connect(&self) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        let (reading, writing) = UnixStream::connect(self.path()).await.unwrap().into_split();
        (BufReader::new(reading), writing)
    }

    async fn ask(&self, request: &[u8]) -> Value {
        let (mut reading, mut writing) = self.connect().await;
        writing.write_all(request).await.unwrap();
        read(&mut reading).await.expect("an answer")
    }
}

/// The next answer; `None` when the daemon closed the connection.
async fn read(reading: &mut BufReader<OwnedReadHalf>) -> Option<Value> {
    let mut line = String::new();
    let length = reading.read_line(&mut line).await.unwrap_or(0);
    (length > 0).then(|| serde_json::from_str(&line).unwrap())
}

fn own_user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[tokio::test]
async fn every_question_is_answered_on_one_connection() {
    let place = Place::serve(own_user());
    let (mut reading, mut writing) = place.connect().await;
    for (question, key) in [("status", "version"), ("peers", "peers"), ("drops", "not_loss")] {
        writing.write_all(format!("{{\"cmd\":\"{question}\"}}\n").as_bytes()).await.unwrap();
        let answer = read(&mut reading).await.unwrap();
        assert!(answer.get(key).is_some(), "{question}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_understood_gets_a_sentence() {
    let place = Place::serve(own_user());
    for request in
        ["\n", "status\n", "{}\n", "{\"cmd\":\"reboot\"}\n", "{\"cmd\":\"status\",\"x\":1}\n"]
    {
        let answer = place.ask(request.as_bytes()).await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.starts_with("the request was not understood"), "{request:?}: {error}");
    }
}

#[tokio::test]
async fn the_longest_request_is_read_and_a_longer_one_ends_the_connection() {
    let place = Place::serve(own_user());
    let request = br#"{"cmd":"status"}"#;
    let mut padded = request.to_vec();
    padded.resize(REQUEST_BYTES_MAX - 1, b' ');
    padded.push(b'\n');
    assert_eq!(place.ask(&padded).await["version"], "1.2.3");

    padded.insert(0, b' ');
    let (mut reading, mut writing) = place.connect().await;
    writing.write_all(&padded).await.unwrap();
    assert_eq!(read(&mut reading).await.unwrap()["error"], "the request is too long");
    assert_eq!(read(&mut reading).await, None);
}

#[tokio::test]
async fn other_users_get_no_answer() {
    let place = Place::serve(own_user() + 1);
    assert_eq!(place.ask(b"{\"cmd\":\"status\"}\n").await["error"], "only root may ask");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_cut_off() {
    let place = Place::serve(own_user());
    let (mut reading, _writing) = place.connect().await;
    assert_eq!(read(&mut reading).await, None);
}

#[tokio::test]
async fn the_socket_is_private_and_goes_away() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("run/weft.sock");
    let socket = AdminSocket::open(&path, 0).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.mode() & 0o777, 0o755);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("weft.sock");
    let first = AdminSocket::open(&path, 0).unwrap();
    assert!(matches!(AdminSocket::open(&path, 0), Err(OpenError::Taken { .. })));
    // A daemon that was killed leaves its file.
    drop(std::os::unix::net::UnixListener::bind(place.path().join("stale.sock")).unwrap());
    AdminSocket::open(&place.path().join("stale.sock"), 0).unwrap();
    drop(first);
}

#[tokio::test]
async fn another_file_in_its_place_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("weft.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(AdminSocket::open(&path, 0), Err(OpenError::Create { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
