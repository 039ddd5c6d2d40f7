use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, Mode};
use tokio::time::timeout;

use super::*;
use crate::source::{Change, Source, Update, Watch};

fn directory() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::new(root.path());
    (root, directory)
}

fn names(directory: &Directory) -> Vec<String> {
    directory.list().unwrap().into_iter().map(|record| record.name).collect()
}

#[test]
fn a_claim_is_won_once() {
    let (root, directory) = directory();
    assert_eq!(directory.list().unwrap(), []);
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let directory = &directory;
        let threads: Vec<_> = (0..8)
            .map(|number: u8| {
                scope.spawn(move || directory.claim("10.5.1.0-24", &[number]).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    outcomes.retain(|outcome| *outcome == Claim::Won);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(names(&directory), ["10.5.1.0-24"]);
    let file = root.path().join("subnets/10.5.1.0-24");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777 & !0o644, 0);
    let left = fs::read_dir(root.path().join("subnets")).unwrap().count();
    assert_eq!(left, 1, "nothing is left aside");
}

#[test]
fn only_the_owner_updates_and_removes() {
    let (_root, directory) = directory();
    directory.claim("a", b"1").unwrap();
    let lock = directory.lock().unwrap();
    let mine = |value: &[u8]| value.starts_with(b"1");
    assert_eq!(directory.update(&lock, "a", b"12", mine).unwrap(), Changed::Done);
    assert_eq!(directory.update(&lock, "a", b"2", |_| false).unwrap(), Changed::NotOurs);
    assert_eq!(directory.update(&lock, "b", b"2", mine).unwrap(), Changed::Gone);
    assert_eq!(directory.read("a").unwrap().unwrap().value, b"12");
    assert_eq!(directory.remove(&lock, "a", |_| false).unwrap(), Changed::NotOurs);
    assert_eq!(directory.remove(&lock, "a", mine).unwrap(), Changed::Done);
    assert_eq!(directory.remove(&lock, "a", mine).unwrap(), Changed::Gone);
    assert!(names(&directory).is_empty());
}

#[test]
fn what_is_no_file_is_no_lease_and_is_not_waited_for() {
    let (root, directory) = directory();
    directory.claim("10.5.1.0-24", b"1").unwrap();
    let subnets = root.path().join("subnets");
    fs::create_dir(subnets.join("10.5.2.0-24")).unwrap();
    let pipe = subnets.join("10.5.3.0-24");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(subnets.join("10.5.4.0-24")).unwrap();
    std::os::unix::fs::symlink("nowhere", subnets.join("10.5.5.0-24")).unwrap();
    assert_eq!(names(&directory), ["10.5.1.0-24"]);
    fs::rename(pipe, root.path().join("config")).unwrap();
    assert!(directory.config().is_err());
}

#[test]
fn the_lock_keeps_others_out_until_dropped() {
    let (_root, directory) = directory();
    let lock = directory.lock().unwrap();
    assert!(matches!(directory.lock(), Err(DirectoryError::Locked { .. })));
    drop(lock);
    directory.lock().unwrap();
}

#[test]
fn dot_files_and_directories_are_no_leases_and_order_is_that_of_writing() {
    let (root, directory) = directory();
    let subnets = root.path().join("subnets");
    for name in ["c", "a", "b"] {
        directory.claim(name, b"x").unwrap();
        sleep(Duration::from_millis(20));
    }
    fs::write(subnets.join(".hidden"), "x").unwrap();
    fs::create_dir(subnets.join("directory")).unwrap();
    assert_eq!(names(&directory), ["c", "a", "b"]);
}

#[test]
fn a_directory_that_is_not_there_is_not_an_empty_one() {
    let (root, directory) = directory();
    root.close().unwrap();
    assert!(directory.list().is_err());
    assert!(directory.config().is_err());
    assert!(directory.claim("a", b"x").is_ok(), "a claim makes what is missing");
    assert_eq!(names(&directory), ["a"]);
    fs::remove_dir_all(directory.path()).unwrap();
}

/// Far below the period of listing, so only inotify can have told.
const SOON: Duration = Duration::from_secs(3);

async fn next(watch: &mut Watch) -> Update {
    loop {
        let update = timeout(SOON, watch.next()).await;
        match update.expect("an update within the time that inotify needs") {
            Update::Config(None) => {}
            update => return update,
        }
    }
}

fn deleted(name: &str) -> Change {
    Change::Deleted { name: name.into(), revision: 0 }
}

fn put(name: &str, value: &str) -> Update {
    Update::Changes(vec![Change::Put(Record::lasting(name, value))])
}

#[tokio::test]
async fn changes_are_seen_at_once() {
    let (root, directory) = directory();
    directory.claim("a", b"1").unwrap();
    let mut watch = directory.watch();
    let record = |name: &str, value: &str| Record::lasting(name, value);
    assert_eq!(next(&mut watch).await, Update::Snapshot(vec![record("a", "1")]));
    directory.claim("b", b"1").unwrap();
    assert_eq!(next(&mut watch).await, put("b", "1"));
    directory.update(&directory.lock().unwrap(), "a", b"2", |_| true).unwrap();
    assert_eq!(next(&mut watch).await, put("a", "2"));
    let subnets = root.path().join("subnets");
    fs::write(subnets.join("c"), "by hand").unwrap();
    assert_eq!(next(&mut watch).await, put("c", "by hand"));
    fs::remove_file(subnets.join("b")).unwrap();
    assert_eq!(next(&mut watch).await, Update::Changes(vec![deleted("b")]));
    fs::rename(subnets.join("c"), subnets.join("d")).unwrap();
    let Update::Changes(changes) = next(&mut watch).await else { panic!("not changes") };
    assert_eq!(changes, [deleted("c"), Change::Put(record("d", "by hand")),]);
    fs::write(root.path().join("config"), "{}").unwrap();
    assert_eq!(next(&mut watch).await, Update::Config(Some(b"{}".to_vec())));
}

#[tokio::test]
async fn a_dropped_wait_forgets_nothing() {
    let (_root, directory) = directory();
    directory.claim("a", b"1").unwrap();
    let mut watch = directory.watch();
    next(&mut watch).await;
    directory.claim("b", b"1").unwrap();
    let mut told = Vec::new();
    for _ in 0..2000 {
        match timeout(Duration::from_micros(100), watch.next()).await {
            Ok(Update::Config(None)) | Err(_) => {}
            Ok(update) => {
                told.push(update);
                break;
            }
        }
    }
    if told.is_empty() {
        told.push(next(&mut watch).await);
    }
    assert_eq!(told, [put("b", "1")]);
}

#[tokio::test]
async fn a_replaced_directory_is_listed_and_watched_again() {
    let (root, directory) = directory();
    directory.claim("a", b"1").unwrap();
    let mut watch = directory.watch();
    next(&mut watch).await;
    fs::rename(root.path().join("subnets"), root.path().join("old")).unwrap();
    directory.claim("b", b"1").unwrap();
    // Watching may begin again while the directory is being made.
    let mut known = Vec::new();
    while known != ["b"] {
        match next(&mut watch).await {
            Update::Snapshot(records) => {
                known = records.into_iter().map(|record| record.name).collect();
            }
            Update::Changes(changes) => {
                known = changes
                    .into_iter()
                    .map(|change| match change {
                        Change::Put(record) => record.name,
                        Change::Deleted { name, .. } => name,
                    })
                    .collect();
            }
            Update::Config(_) => {}
        }
    }
    directory.claim("c", b"1").unwrap();
    assert_eq!(next(&mut watch).await, put("c", "1"));
}

#[tokio::test(start_paused = true)]
async fn everything_is_listed_now_and_then() {
    let (_root, directory) = directory();
    directory.claim("a", b"1").unwrap();
    let mut watch = directory.watch();
    let start = tokio::time::Instant::now();
    let mut listings = 0;
    while listings < 2 {
        listings += usize::from(matches!(watch.next().await, Update::Snapshot(_)));
    }
    assert!(start.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_directory_is_a_problem_until_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::new(root.path().join("later"));
    let mut watch = directory.watch();
    let mut health = watch.health();
    assert!(timeout(Duration::from_secs(25), watch.next()).await.is_err());
    let problem = health.borrow_and_update().problem.clone().unwrap();
    assert!(problem.contains("later"), "{problem}");
    directory.claim("a", b"1").unwrap();
    assert!(matches!(watch.next().await, Update::Snapshot(records) if records.len() == 1));
    assert_eq!(watch.next().await, Update::Config(None));
    while health.borrow_and_update().problem.is_some() {
        health.changed().await.unwrap();
    }
}

/// A lock that stays taken stands for any file operation that hangs.
#[tokio::test]
async fn a_hanging_operation_holds_up_nobody() {
    let (_root, directory) = directory();
    let _lock = directory.lock().unwrap();
    let seen = Record::lasting("a", "1");
    let mut hanging = std::pin::pin!(directory.replace(&seen, b"2"));
    let mut ticks = 0;
    let mut clock = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            answer = &mut hanging => {
                assert!(matches!(answer, Err(crate::source::SourceError::Directory(_))));
                break;
            }
            _ = clock.tick() => ticks += 1,
        }
    }
    assert!(ticks > 20, "the loop stood still: {ticks}");
}

/// A link that leads back to itself once hid every other lease: the listing failed as a whole.
#[test]
fn a_lease_that_cannot_be_read_hides_no_other() {
    let (root, directory) = directory();
    directory.claim("10.5.1.0-24", b"{}").unwrap();
    let broken = root.path().join("subnets/10.5.2.0-24");
    std::os::unix::fs::symlink(&broken, &broken).unwrap();
    let listed = directory.list().unwrap();
    let value = |name: &str| {
        let record = listed.iter().find(|record| record.name == name);
        record.map(|record| record.value.clone())
    };
    assert_eq!(value("10.5.1.0-24"), Some(b"{}".to_vec()));
    assert_eq!(value("10.5.2.0-24"), Some(Vec::new()), "it is there, but without a value");
}
