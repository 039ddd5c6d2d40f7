//! The directory as a [`Source`]. File operations run on threads of their own, because on a network
//! file system any of them may hang.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::spawn_blocking;

use super::watch::Watcher;
use super::{Changed, Claim, Directory, DirectoryError};
use crate::lease::Leaf;
use crate::source::{Answer, Record, Source, SourceError, Watch};

impl Source for Directory {
    fn description(&self) -> String {
        format!("directory {}", self.path().display())
    }

    fn config_remedy(&self) -> String {
        format!(
            "There is no network config. Write one into {}, for example {{\"Network\":\"10.244.0.0/16\"}}",
            self.path().join("config").display()
        )
    }

    fn lifetime(&self) -> Option<Duration> {
        None
    }

    fn config(&self) -> Answer<'_, Option<Vec<u8>>> {
        self.ask(Self::config)
    }

    fn list(&self) -> Answer<'_, Vec<Record>> {
        self.ask(Self::list)
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        let name = name.to_owned();
        self.ask(move |directory| directory.read(&name))
    }

    fn create<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        let record = Record::lasting(name, value);
        self.ask(move |directory| directory.create(record))
    }

    fn replace<'a>(&'a self, seen: &'a Record, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        let (seen, record) = (seen.clone(), Record::lasting(&seen.name, value));
        self.ask(move |directory| {
            let lock = directory.lock()?;
            let is_as_seen = |stored: &[u8]| stored == seen.value;
            let changed = directory.update(&lock, &record.name, &record.value, is_as_seen)?;
            Ok((changed == Changed::Done).then_some(record))
        })
    }

    fn remove<'a>(&'a self, seen: &'a Record) -> Answer<'a, bool> {
        let seen = seen.clone();
        self.ask(move |directory| {
            let lock = directory.lock()?;
            let removed = directory.remove(&lock, &seen.name, |stored| stored == seen.value)?;
            Ok(removed == Changed::Done)
        })
    }

    fn watch(&self) -> Watch {
        let watcher = Watcher::new(self.clone());
        Watch::start(|reporter| watcher.run(reporter))
    }
}

impl Directory {
    /// The lock keeps another daemon from taking an overlapping subnet under another name; the link
    /// keeps out who does not know of the lock.
    fn create(&self, record: Record) -> Result<Option<Record>, DirectoryError> {
        let _lock = self.lock()?;
        if let Ok(leaf) = record.name.parse::<Leaf>() {
            let overlaps = |other: &Record| {
                other.name.parse::<Leaf>().is_ok_and(|other| other.overlaps(&leaf))
            };
            if self.list()?.iter().any(overlaps) {
                return Ok(None);
            }
        }
        let claim = self.claim(&record.name, &record.value)?;
        Ok((claim == Claim::Won).then_some(record))
    }

    /// Answers from another thread. If the answer is not waited for, the operation goes on there.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Answer<'_, T> {
        let directory = self.clone();
        let thread = spawn_blocking(move || question(&directory));
        async move {
            let answer = thread.await.expect("file operations do not panic");
            answer.map_err(SourceError::from)
        }
        .boxed()
    }
}
