//! Giving the lease back, to take a host out of the cluster.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::key::PublicKey;
use crate::lease::Attributes;
use crate::source::acquire::is_owned;
use crate::source::{Source, SourceError};

/// A store that does not take a lease back in this time is told of instead of waited for.
pub(super) const RELEASE_PATIENCE: Duration = Duration::from_secs(4);

/// Somebody's wish that this node gives its lease back and ends.
#[derive(Debug)]
pub struct Release(oneshot::Sender<Outcome>);

/// The name of the lease that was given back, or why it was not.
pub type Outcome = Result<String, String>;

impl Release {
    /// A wish, and where its outcome arrives.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Tells the outcome. If nobody waits for it any more, the log has it.
    pub(super) fn tell(self, outcome: Outcome) {
        let _ = self.0.send(outcome);
    }
}

/// What somebody wants of a running node.
#[derive(Debug)]
pub enum Wish {
    /// To give its lease back.
    Release(Release),
    /// That its lease says another public key. It is for a config that seals.
    Key(PublicKey),
}

/// Deletes the lease if it is there and ours.
pub(super) async fn remove_own(
    source: &dyn Source,
    name: &str,
    attributes: &Attributes,
) -> Result<(), String> {
    let sentence = |error: SourceError| error.sentence();
    let Some(stored) = source.read(name).await.map_err(sentence)? else { return Ok(()) };
    if !is_owned(attributes, &stored.value) {
        return Err(format!("the lease {name} is another node's"));
    }
    match source.remove(&stored).await.map_err(sentence)? {
        true => Ok(()),
        false => Err(format!("the lease {name} was changed in this moment; try again")),
    }
}
