//! Keeping our own lease ours. A machine: what is stored and the time come in, what to do comes out.
//!
//! | what is stored | what happens |
//! | --- | --- |
//! | ours, as written last | nothing, until it is time to renew it |
//! | ours, but another value or another's renewal | written again, though not at once: two nodes with one identity would otherwise write over each other's value as fast as they can |
//! | nothing | created again, the same subnet |
//! | somebody else's | never touched; told, and given up only where the operator wants that |
//!
//! After a failure the next try waits a while. Nothing here stops packets: the table does not depend on
//! whether our lease can be written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{info, warn};

use crate::desired::Book;
use crate::lease::Attributes;
use crate::source::acquire::is_owned;
use crate::source::{Change, Record, Source, SourceError, Update};

/// Pause after a write that failed, as in flanneld.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The same while the lease is missing: somebody else may take the subnet.
const MISSING_PAUSE: Duration = Duration::from_secs(1);

/// Our lease as it should be stored.
#[derive(Debug)]
pub(super) struct OwnLease {
    name: String,
    attributes: Attributes,
    value: Vec<u8>,
    /// What it was to say before.
    outdated: Option<Vec<u8>>,
    life: Life,
    /// The last write that we know of: its revision, and when it was begun.
    written: Option<(u64, Instant)>,
    failure: Option<Failure>,
}

/// How long a lease lives, and how long before its end it is renewed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) lifetime: Option<Duration>,
    pub(super) margin: Duration,
}

#[derive(Debug)]
struct Failure {
    sentence: String,
    retry_at: Instant,
    /// The node was given another subnet.
    is_renumbered: bool,
}

/// How our lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Stored as ours.
    Ours,
    /// Not stored, and about to be.
    Missing,
    /// Stored, but it cannot be renewed.
    Stuck(String),
    /// It is not there or may not be any more, and cannot be written.
    Lost(String),
    /// Somebody else has it.
    Taken(String),
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is missing.
    Create,
    /// It is as it should not be any more.
    Replace(Record),
}

/// When to write over a lease of ours that somebody changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Now.
    Now,
    /// Another time.
    Later,
}

/// A step that was tried.
#[derive(Debug)]
pub(super) struct Tried {
    step: Step,
    began: Instant,
    outcome: Result<Written, SourceError>,
}

#[derive(Debug)]
enum Written {
    Done(Record),
    /// Somebody was faster; this is what is there.
    Overtaken(Option<Record>),
}

impl OwnLease {
    /// `written` says which revision was written when the lease was taken, and when that was begun;
    /// `None` if the source could not be asked.
    pub(super) fn new(
        name: String,
        attributes: Attributes,
        life: Life,
        written: Option<(u64, Instant)>,
    ) -> Self {
        let value = attributes.to_json();
        Self { name, attributes, value, outdated: None, life, written, failure: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The store is back: what has failed is worth another try at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some(failure) = &mut self.failure {
            failure.retry_at = failure.retry_at.min(now);
        }
    }

    /// It is to say something else from now on; the subnet stays.
    pub(super) fn say(&mut self, attributes: Attributes) {
        let value = attributes.to_json();
        if value != self.value {
            self.outdated = Some(std::mem::replace(&mut self.value, value));
        }
        self.attributes = attributes;
    }

    /// Looks at what is stored.
    pub(super) fn look(
        &self,
        book: &Book,
        changed: Changed,
        now: Instant,
    ) -> (State, Option<Step>) {
        let step = |step| self.may_write(now).then_some(step);
        let Some(stored) = book.present(&self.name) else {
            let state = match &self.failure {
                None => State::Missing,
                Some(failure) if failure.is_renumbered => State::Taken(failure.sentence.clone()),
                Some(failure) => State::Lost(self.cannot_be_kept(failure)),
            };
            return (state, step(Step::Create));
        };
        if !is_owned(&self.attributes, &stored.value) {
            return (State::Taken(self.taken()), None);
        }
        let state = match &self.failure {
            None => State::Ours,
            Some(failure) if self.has_run_out(now) => State::Lost(self.cannot_be_kept(failure)),
            Some(failure) => State::Stuck(self.cannot_be_kept(failure)),
        };
        let wanted = self.is_due(stored, changed, now);
        (state, step(Step::Replace(stored.clone())).filter(|_| wanted))
    }

    /// When to look again although nothing was told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.failure {
            Some(failure) => Some(failure.retry_at),
            None => self.renew_at(),
        }
    }

    /// When the last write that we know of was begun.
    pub(super) fn written_at(&self) -> Option<Instant> {
        self.written.map(|(_, began)| began)
    }

    /// When it runs out, as far as we know.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let (_, began) = self.written?;
        began.checked_add(self.life.lifetime?)
    }

    /// Tries a step. The future owns what it needs, so that the loop can go on meanwhile.
    pub(super) fn try_step(
        &self,
        source: Arc<dyn Source>,
        step: Step,
        began: Instant,
    ) -> BoxFuture<'static, Tried> {
        let (name, value) = (self.name.clone(), self.value.clone());
        async move {
            let outcome = write(&*source, &step, &name, &value).await;
            Tried { step, began, outcome }
        }
        .boxed()
    }

    /// Takes in how a step ended, and tells what is stored now.
    pub(super) fn handle(&mut self, tried: Tried, now: Instant) -> Option<Update> {
        let change = match tried.outcome {
            Ok(Written::Done(record)) => {
                self.log(&tried.step);
                self.failure = None;
                self.written = Some((record.revision, tried.began));
                Change::Put(record)
            }
            Ok(Written::Overtaken(Some(record))) => Change::Put(record),
            Ok(Written::Overtaken(None)) if tried.step == Step::Create => {
                let sentence = "another lease has a part of its subnet".to_owned();
                self.fail(&tried.step, (sentence, false), now);
                return None;
            }
            Ok(Written::Overtaken(None)) => {
                let known = if let Step::Replace(seen) = tried.step { seen.revision } else { 0 };
                Change::Deleted { name: self.name.clone(), revision: known }
            }
            Err(error) => {
                self.fail(&tried.step, (error.sentence(), error.is_renumbering()), now);
                return None;
            }
        };
        Some(Update::Changes(vec![change]))
    }

    fn log(&self, step: &Step) {
        let lease = &self.name;
        match step {
            Step::Create => info!(lease, "the own lease was gone and is written again"),
            Step::Replace(seen) if seen.value == self.value => {
                info!(lease, "the own lease is renewed");
            }
            Step::Replace(seen) if self.outdated.as_ref() == Some(&seen.value) => {
                info!(lease, "the own lease says what has changed on this node");
            }
            Step::Replace(_) => warn!(
                lease,
                "the own lease was changed and is written again; if this goes on, two nodes have \
                 copies of one state directory"
            ),
        }
    }

    fn fail(&mut self, step: &Step, (sentence, is_renumbered): (String, bool), now: Instant) {
        if self.failure.is_none() {
            warn!(lease = self.name, sentence, "the own lease could not be written");
        }
        let is_urgent = *step == Step::Create && !is_renumbered;
        let pause = if is_urgent { MISSING_PAUSE } else { RETRY_PAUSE };
        // A short life has no time for long pauses.
        let pause = pause.min(self.life.margin / 4);
        self.failure = Some(Failure { sentence, retry_at: now + pause, is_renumbered });
    }

    fn may_write(&self, now: Instant) -> bool {
        self.failure.as_ref().is_none_or(|failure| now >= failure.retry_at)
    }

    fn is_due(&self, stored: &Record, changed: Changed, now: Instant) -> bool {
        if stored.value != self.value {
            return changed == Changed::Now;
        }
        if !stored.expires {
            return false;
        }
        match self.written {
            Some((revision, _)) if revision == stored.revision => {
                self.renew_at().is_some_and(|renew_at| now >= renew_at)
            }
            // Somebody renewed it for a time that we do not know.
            _ => changed == Changed::Now,
        }
    }

    fn renew_at(&self) -> Option<Instant> {
        let (_, began) = self.written?;
        began.checked_add(self.life.lifetime?.saturating_sub(self.life.margin))
    }

    fn has_run_out(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|expires_at| now >= expires_at)
    }

    fn cannot_be_kept(&self, failure: &Failure) -> String {
        format!("The own lease {} cannot be kept: {}", self.name, failure.sentence)
    }

    fn taken(&self) -> String {
        format!(
            "The own lease {} was taken by another node. Forwarding goes on and no pod is renumbered; \
             remove that lease, or drain this node and restart weft to get another subnet",
            self.name
        )
    }
}

async fn write(
    source: &dyn Source,
    step: &Step,
    name: &str,
    value: &[u8],
) -> Result<Written, SourceError> {
    let written = match step {
        Step::Create => source.create(name, value).await?,
        Step::Replace(seen) => source.replace(seen, value).await?,
    };
    Ok(match written {
        Some(record) => Written::Done(record),
        None => Written::Overtaken(source.read(name).await?),
    })
}

#[cfg(test)]
mod tests;
