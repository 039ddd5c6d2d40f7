//! One watch of the API server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::http::{Body, part};
use super::store::Refusal;

/// The longest watch, if the client names none.
const TIME_MAX: Duration = Duration::from_secs(1800);

pub(crate) struct Watching {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    collection: String,
    metadata_only: bool,
    /// Everything up to here was told.
    told: u64,
    end: Instant,
    /// How often the version is told, if it is to be.
    bookmarks: Option<Duration>,
    bookmark_at: Instant,
    /// What is told before anything else.
    first: Vec<Value>,
    is_over: bool,
}

impl Watching {
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        collection: &str,
        parameters: &BTreeMap<String, String>,
        metadata_only: bool,
    ) -> Result<Self, Refusal> {
        let number = |name: &str| parameters.get(name).and_then(|text| text.parse::<u64>().ok());
        let changed = shared.changed.subscribe();
        let store = shared.store();
        let from = number("resourceVersion").unwrap_or(0);
        if from > store.version() {
            let message = format!("Too large resource version: {from}");
            return Err(Refusal(504, "Timeout", message));
        }
        let wants_bookmarks =
            parameters.get("allowWatchBookmarks").is_some_and(|text| text == "true");
        let bookmarks = shared.manners().bookmarks;
        let mut watching = Self {
            shared: Arc::clone(shared),
            changed,
            collection: collection.to_owned(),
            metadata_only,
            told: if from == 0 { store.version() } else { from },
            end: Instant::now() + number("timeoutSeconds").map_or(TIME_MAX, Duration::from_secs),
            bookmarks: wants_bookmarks.then_some(bookmarks),
            bookmark_at: Instant::now() + bookmarks,
            first: Vec::new(),
            is_over: false,
        };
        if from == 0 {
            let all = store.all(collection).cloned();
            watching.first =
                all.map(|object| event("ADDED", part(object, metadata_only))).collect();
        } else if from < store.compacted() {
            let message = format!("too old resource version: {from} ({})", store.compacted());
            watching.first = vec![event(
                "ERROR",
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": message, "reason": "Expired", "code": 410}),
            )];
            watching.is_over = true;
        }
        drop(store);
        Ok(watching)
    }

    pub(crate) fn body(self) -> Body {
        let stream = unfold(self, |mut watching| async move {
            let events = watching.next().await?;
            let text: String = events.iter().map(|event| format!("{event}\n")).collect();
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), watching))
        });
        StreamBody::new(stream).boxed_unsync()
    }

    /// Events that belong together; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Value>> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        while !self.is_over {
            let events = self.news();
            if !events.is_empty() {
                return Some(events);
            }
            let bookmark_at = self.bookmarks.map_or(self.end, |_| self.bookmark_at);
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(self.end) => self.is_over = true,
                () = sleep_until(bookmark_at) => {
                    self.bookmark_at = Instant::now() + self.bookmarks?;
                    if !self.shared.manners().is_mute {
                        return Some(vec![self.bookmark()]);
                    }
                }
            }
        }
        None
    }

    fn news(&mut self) -> Vec<Value> {
        if self.shared.manners().is_mute {
            return Vec::new();
        }
        let store = self.shared.store();
        let of = |one: &super::store::Event| {
            event(one.kind, part(one.object.clone(), self.metadata_only))
        };
        let events = store.since(&self.collection, self.told).map(of).collect();
        self.told = store.version();
        events
    }

    fn bookmark(&self) -> Value {
        let metadata = json!({"resourceVersion": self.told.to_string(), "creationTimestamp": null});
        event("BOOKMARK", json!({"kind": "Node", "apiVersion": "v1", "metadata": metadata}))
    }
}

fn event(kind: &str, object: Value) -> Value {
    let mut event = json!({"type": kind});
    event["object"] = object;
    event
}
