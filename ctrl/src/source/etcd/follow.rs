//! Following the leases: a listing, then every change after it, whatever happens to the connection.
//!
//! A break loses nothing as long as the server still has the history from the last change on: watching
//! goes on from there. Where it has not (compaction), or where the history is another one (a store
//! restored from a backup, another cluster at the same address), everything is listed again, and the
//! receiver compares.
//!
//! A server that hangs, or a network that swallows packets, closes no stream. So each check asks on the
//! stream for a sign of life as well, besides the keep-alive of the connection.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::connection::{Connected, TOO_LARGE, refused, short};
use super::{Etcd, EtcdError, Moment, is_refusal};
use crate::source::back_off::BackOff;
use crate::source::watch::Reporter;
use crate::source::{Change, SourceError, Update};

/// Bytes of one message of changes. One transaction may delete every lease, so it can be large. One
/// with everything that was missed in an outage may have more; then all leases are listed instead.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Follows one cluster.
#[derive(Debug)]
pub(super) struct Follower {
    etcd: Etcd,
    /// Everything up to here was told.
    told: Option<Moment>,
    config: Option<Option<Vec<u8>>>,
}

/// Why a stream ended.
enum End {
    /// It can go on where it was.
    Broken(String),
    /// Changes were missed; everything is listed again.
    Lost(String),
}

impl From<EtcdError> for End {
    fn from(error: EtcdError) -> Self {
        Self::Broken(SourceError::from(error).sentence())
    }
}

impl Follower {
    pub(super) fn new(etcd: Etcd) -> Self {
        Self { etcd, told: None, config: None }
    }

    pub(super) async fn run(mut self, mut reporter: Reporter) {
        let mut back_off = BackOff::new();
        loop {
            match self.follow(&mut reporter, &mut back_off).await {
                End::Broken(reason) => reporter.fail(reason),
                End::Lost(reason) => {
                    info!(reason, "everything is listed again");
                    self.told = None;
                }
            }
            reporter.restart();
            sleep(back_off.wait()).await;
        }
    }

    /// One stream from its beginning to its end.
    async fn follow(&mut self, reporter: &mut Reporter, back_off: &mut BackOff) -> End {
        let (connected, mut stream) = match self.begin(reporter).await {
            Ok(begun) => begun,
            Err(end) => return end,
        };
        reporter.succeed(Some(connected.server.url()));
        let end = match self.read(&mut stream, reporter, back_off).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        // Also a server that is well may have ended the stream for a reason of its own, such as a token
        // that is too old. A new connection is cheap.
        self.etcd.connection.give_up(&connected);
        end
    }

    /// Brings the receiver to one moment and opens the stream from there.
    async fn begin(&mut self, reporter: &mut Reporter) -> Result<(Connected, WatchStream), End> {
        let now = self.tell_config(reporter).await?;
        if let Some(told) = self.told
            && let Some(reason) = break_in_history(told, now)
        {
            return Err(End::Lost(reason));
        }
        let told = match self.told {
            Some(told) => told,
            None => self.tell_all(None, reporter).await?,
        };
        let connected = self.etcd.connection.connect().await.map_err(EtcdError::from)?;
        let options = WatchOptions::new()
            .with_range(self.etcd.keys.leases_end())
            .with_start_revision(told.revision + 1);
        let client = connected.client.watch_client();
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = client.watch(self.etcd.keys.leases(), Some(options));
        let patience = self.etcd.connection.options().patience.request;
        let problem = match timeout(patience, opening).await {
            Ok(Ok(stream)) => return Ok((connected, stream)),
            Ok(Err(error)) if is_refusal(&error) => refused(&error).into(),
            Ok(Err(error)) => End::Broken(format!("{}: {}", connected.server, short(&error))),
            Err(_) => End::Broken(format!("{}: no answer in time", connected.server)),
        };
        self.etcd.connection.give_up(&connected);
        Err(problem)
    }

    async fn read(
        &mut self,
        stream: &mut WatchStream,
        reporter: &mut Reporter,
        back_off: &mut BackOff,
    ) -> Result<std::convert::Infallible, End> {
        let options = self.etcd.connection.options().clone();
        let mut check_at = Instant::now() + jittered(options.check_period);
        let mut list_at = Instant::now() + jittered(options.list_period);
        let mut awaited = false;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let message = message.map_err(|error| ended_by(&error))?;
                    let ended = || End::Broken("the server ended the stream".to_owned());
                    self.take(message.ok_or_else(ended)?, reporter).await?;
                    awaited = false;
                }
                () = sleep_until(check_at) => {
                    if awaited {
                        return Err(End::Broken("the server has become silent".to_owned()));
                    }
                    self.check(reporter).await?;
                    let asked = stream.request_progress().await;
                    asked.map_err(|error| End::Broken(short(&error)))?;
                    awaited = true;
                    check_at = Instant::now() + jittered(options.check_period);
                    back_off.reset();
                }
                () = sleep_until(list_at) => {
                    self.compare(reporter).await?;
                    list_at = Instant::now() + jittered(options.list_period);
                }
            }
        }
    }

    async fn take(&mut self, message: WatchResponse, reporter: &mut Reporter) -> Result<(), End> {
        if message.canceled() {
            if message.compact_revision() != 0 {
                return Err(End::Lost(format!(
                    "etcd has compacted its history up to revision {}",
                    message.compact_revision()
                )));
            }
            let reason = message.cancel_reason();
            return Err(End::Broken(format!("the server ended the watch: {reason}")));
        }
        let mut changes = Vec::with_capacity(message.events().len());
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            if let Some(told) = &mut self.told {
                told.revision = told.revision.max(pair.mod_revision());
            }
            let Some(record) = self.etcd.record(pair) else { continue };
            changes.push(match event.event_type() {
                EventType::Put => Change::Put(record),
                EventType::Delete => {
                    Change::Deleted { name: record.name, revision: record.revision }
                }
            });
        }
        if !changes.is_empty() {
            reporter.send(Update::Changes(changes)).await;
        }
        Ok(())
    }

    /// Whether this still is the cluster that it was, as a majority sees it.
    async fn check(&mut self, reporter: &mut Reporter) -> Result<(), End> {
        let now = self.tell_config(reporter).await?;
        if let Some(told) = &mut self.told {
            if let Some(reason) = break_in_history(*told, now) {
                warn!(
                    reason,
                    "the store is not the one that it was; known leases are kept a while"
                );
                return Err(End::Lost(reason));
            }
            told.term = now.term;
        }
        Ok(())
    }

    /// Lists everything at the moment that was told last, so that only what is wrong can differ.
    async fn compare(&mut self, reporter: &mut Reporter) -> Result<(), End> {
        let Some(told) = self.told else { return Ok(()) };
        match self.tell_all(Some(told.revision), reporter).await {
            Ok(_) => Ok(()),
            Err(EtcdError::Refused { message }) => Err(End::Lost(message)),
            Err(error) => Err(error.into()),
        }
    }

    async fn tell_all(
        &mut self,
        revision: Option<i64>,
        reporter: &mut Reporter,
    ) -> Result<Moment, EtcdError> {
        let listing = self.etcd.list_at(revision).await?;
        debug!(leases = listing.records.len(), moment = ?listing.moment, "listed");
        reporter.send(Update::Snapshot(listing.records)).await;
        self.told = Some(listing.moment);
        Ok(listing.moment)
    }

    /// Only a config that is another one than the last is told.
    async fn tell_config(&mut self, reporter: &mut Reporter) -> Result<Moment, EtcdError> {
        let (config, now) = self.etcd.read_config().await?;
        if self.config.as_ref() != Some(&config) {
            reporter.send(Update::Config(config.clone())).await;
            self.config = Some(config);
        }
        Ok(now)
    }
}

fn ended_by(error: &etcd_client::Error) -> End {
    let reason = short(error);
    if reason.contains(TOO_LARGE) { End::Lost(reason) } else { End::Broken(reason) }
}

/// Why what is there now cannot have followed from what was there.
fn break_in_history(told: Moment, now: Moment) -> Option<String> {
    if told.cluster != now.cluster {
        return Some(format!("another cluster answers: {:x}, not {:x}", now.cluster, told.cluster));
    }
    if now.term < told.term || now.revision < told.revision {
        return Some(format!(
            "the store is older than it was: term {}, revision {}; known were {}, {}",
            now.term, now.revision, told.term, told.revision
        ));
    }
    None
}

/// Nodes that started together do not ask together for ever.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.9..=1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_goes_on_or_does_not() {
        let told = Moment { cluster: 7, term: 3, revision: 100 };
        assert_eq!(break_in_history(told, told), None);
        assert_eq!(break_in_history(told, Moment { revision: 200, term: 4, ..told }), None);
        for (now, word) in [
            (Moment { cluster: 8, ..told }, "another cluster"),
            (Moment { revision: 99, ..told }, "older"),
            (Moment { revision: 500, term: 2, ..told }, "older"),
        ] {
            assert!(break_in_history(told, now).unwrap().contains(word), "{now:?}");
        }
    }
}
