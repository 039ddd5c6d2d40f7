//! Keeping our own lease ours.

use tracing::{info, warn};

use crate::desired::Book;
use crate::lease::Attributes;
use crate::source::acquire::is_owned;
use crate::source::directory::{self, Claim, Directory, DirectoryError};

/// Our lease as it should be stored.
#[derive(Debug)]
pub(super) struct OwnLease {
    pub(super) directory: Directory,
    pub(super) name: String,
    pub(super) attributes: Attributes,
}

/// How our lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Stored as we wrote it.
    Ours,
    /// Not ours, with the reason. Pods keep their addresses and packets their path; the node takes no
    /// new work until an operator has decided.
    Lost(String),
}

/// When to write over a lease of ours that somebody changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Now.
    Now,
    /// Another time. Two nodes with one identity would otherwise write over each other's value as
    /// fast as they can.
    Later,
}

impl OwnLease {
    /// Looks at what is stored and puts it right where it is ours to do: a lease that is gone is
    /// written again, one that somebody changed is written over, one that somebody else took is
    /// theirs.
    pub(super) fn keep(&self, book: &Book, changed: Changed) -> State {
        match self.restore(book, changed) {
            Ok(state) => state,
            Err(error) => State::Lost(format!(
                "The own lease {} cannot be kept: {}",
                self.name,
                super::with_cause(&error)
            )),
        }
    }

    fn restore(&self, book: &Book, changed: Changed) -> Result<State, DirectoryError> {
        let value = self.attributes.to_json();
        match book.present(&self.name) {
            Some(stored) if stored == value => return Ok(State::Ours),
            Some(stored) if !self.is_ours(stored) => return Ok(self.taken()),
            Some(_) if changed == Changed::Later => return Ok(State::Ours),
            Some(_) => match self.write_over(&value)? {
                directory::Changed::Done => return Ok(State::Ours),
                directory::Changed::NotOurs => return Ok(self.taken()),
                directory::Changed::Gone => {}
            },
            None => {}
        }
        match self.directory.claim(&self.name, &value)? {
            Claim::Won => {
                info!(lease = self.name, "the own lease was gone and is written again");
                Ok(State::Ours)
            }
            // The book may be older than the directory.
            Claim::Lost => match self.directory.read(&self.name)? {
                Some(record) if !self.is_ours(&record.value) => Ok(self.taken()),
                _ => Ok(State::Ours),
            },
        }
    }

    fn write_over(&self, value: &[u8]) -> Result<directory::Changed, DirectoryError> {
        let lock = self.directory.lock()?;
        let changed =
            self.directory.update(&lock, &self.name, value, |stored| self.is_ours(stored))?;
        if changed == directory::Changed::Done {
            warn!(
                lease = self.name,
                "the own lease was changed by somebody else and is written again; two nodes with \
                 copies of one state directory would do that"
            );
        }
        Ok(changed)
    }

    fn is_ours(&self, stored: &[u8]) -> bool {
        is_owned(&self.attributes, stored)
    }

    fn taken(&self) -> State {
        State::Lost(format!(
            "The own lease {} was taken by another node. Forwarding goes on and no pod is renumbered; \
             remove that lease, or drain this node and restart weft to get another subnet",
            self.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::source::{Record, Update};

    const OURS: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"Weft":{"v":1,"id":"00000000000000000000000000000001"}}"#;
    const CHANGED: &str =
        r#"{"PublicIP":"192.0.2.7","Weft":{"v":1,"id":"00000000000000000000000000000001"}}"#;
    const THEIRS: &str =
        r#"{"PublicIP":"192.0.2.1","Weft":{"v":1,"id":"00000000000000000000000000000002"}}"#;

    /// What is in the directory, what the book says, and what comes of it.
    fn keep(
        stored: Option<&str>,
        known: Option<&str>,
        changed: Changed,
    ) -> (State, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnets/10.5.1.0-24");
        fs::create_dir(path.parent().unwrap()).unwrap();
        if let Some(stored) = stored {
            fs::write(&path, stored).unwrap();
        }
        let own = OwnLease {
            directory: Directory::new(root.path()),
            name: "10.5.1.0-24".into(),
            attributes: Attributes::parse(OURS.as_bytes()).unwrap(),
        };
        let mut book = Book::default();
        let record = |value: &str| Record { name: own.name.clone(), value: value.into() };
        book.handle(Update::Snapshot(known.map(record).into_iter().collect()), Instant::now());
        (own.keep(&book, changed), fs::read_to_string(&path).ok())
    }

    #[test]
    fn every_case() {
        let rows = [
            (Some(OURS), Some(OURS), true, OURS),
            (None, None, true, OURS),
            (Some(CHANGED), Some(CHANGED), true, OURS),
            (Some(THEIRS), Some(THEIRS), false, THEIRS),
            (Some(THEIRS), None, false, THEIRS),
            (Some(THEIRS), Some(CHANGED), false, THEIRS),
            (Some(OURS), None, true, OURS),
            (None, Some(CHANGED), true, OURS),
        ];
        for (stored, known, kept, left) in rows {
            let (state, found) = keep(stored, known, Changed::Now);
            assert_eq!(state == State::Ours, kept, "{stored:?} {known:?} {state:?}");
            assert_eq!(found.as_deref(), Some(left), "{stored:?} {known:?}");
        }
    }

    #[test]
    fn a_changed_one_can_wait_and_others_cannot() {
        let later = |stored, known| keep(stored, known, Changed::Later);
        assert_eq!(later(Some(CHANGED), Some(CHANGED)), (State::Ours, Some(CHANGED.into())));
        assert_eq!(later(None, None), (State::Ours, Some(OURS.into())));
        assert_ne!(later(Some(THEIRS), Some(THEIRS)).0, State::Ours);
    }
}
