//! What an API server keeps: objects, each with the version of its last change, and the history of
//! changes up to where it was compacted.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

use super::super::cluster::NODES;
use super::patch::{merge, merge_strategically};

const NAMESPACES: &str = "/api/v1/namespaces";

/// Collection (its path) and name.
pub(crate) type Key = (String, String);

/// An answer that is no object: HTTP status code, reason, message.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(pub(crate) u16, pub(crate) &'static str, pub(crate) String);

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    pub(crate) object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Merge,
    Strategic,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<Event>,
    /// Changes up to here are forgotten.
    compacted: u64,
    /// Lists that are read in pages, by the version that they are of.
    pages: BTreeMap<u64, Vec<(String, Value)>>,
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Value, Refusal> {
        self.objects.get(key).cloned().ok_or_else(|| not_found(key))
    }

    /// Changes after a version, oldest first.
    pub(crate) fn since<'a>(
        &'a self,
        collection: &'a str,
        version: u64,
    ) -> impl Iterator<Item = &'a Event> {
        let after = self.history.partition_point(|event| event.version <= version);
        self.history[after..].iter().filter(move |event| event.key.0 == collection)
    }

    pub(crate) fn all<'a>(&'a self, collection: &'a str) -> impl Iterator<Item = &'a Value> {
        let start = (collection.to_owned(), String::new());
        let objects = self.objects.range(start..);
        objects.take_while(move |((found, _), _)| found == collection).map(|(_, object)| object)
    }

    /// A page of a list, the version that it is of, and where the next one begins.
    pub(crate) fn page(
        &mut self,
        collection: &str,
        limit: usize,
        next: Option<&str>,
    ) -> Result<(u64, Vec<Value>, Option<String>), Refusal> {
        let (version, after) = match next.and_then(|next| next.split_once('/')) {
            Some((version, after)) => (version.parse().unwrap_or(0), Some(after.to_owned())),
            None => {
                let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
                let all = self.all(collection).map(|object| (name(object), object.clone()));
                let all: Vec<_> = all.collect();
                self.pages.insert(self.version, all);
                (self.version, None)
            }
        };
        let Some(all) = self.pages.get(&version) else {
            let message = "The provided continue parameter is too old";
            return Err(Refusal(410, "Expired", message.into()));
        };
        let start = after.map_or(0, |after| all.partition_point(|(name, _)| *name <= after));
        let page: Vec<_> = all[start..].iter().take(limit).cloned().collect();
        let more = start + page.len() < all.len();
        let next = page.last().filter(|_| more).map(|(name, _)| format!("{version}/{name}"));
        if !more {
            self.pages.remove(&version);
        }
        Ok((version, page.into_iter().map(|(_, object)| object).collect(), next))
    }

    /// As a client creates something: its namespace has to be there.
    pub(crate) fn create_in(
        &mut self,
        namespace: Option<&str>,
        collection: &str,
        object: Value,
    ) -> Result<Value, Refusal> {
        if let Some(namespace) = namespace {
            self.get(&(NAMESPACES.to_owned(), namespace.to_owned()))?;
        }
        self.create(collection, object)
    }

    pub(crate) fn create(&mut self, collection: &str, mut object: Value) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (collection.to_owned(), name);
        if self.objects.contains_key(&key) {
            return Err(Refusal(409, "AlreadyExists", format!("{} already exists", key.1)));
        }
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-0000-0000-{:012}", self.version));
        metadata["creationTimestamp"] =
            json!(format!("2026-01-01T00:{:02}:{:02}Z", self.version / 60 % 60, self.version % 60));
        metadata["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), object.clone());
        self.note("ADDED", key, &object);
        Ok(object)
    }

    pub(crate) fn delete(&mut self, key: &Key) -> Result<Value, Refusal> {
        let mut object = self.objects.remove(key).ok_or_else(|| not_found(key))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note("DELETED", key.clone(), &object);
        Ok(object)
    }

    /// Changes an object: through the subresource `status` only status and metadata, else everything
    /// but the status.
    pub(crate) fn patch(
        &mut self,
        key: &Key,
        kind: PatchKind,
        patch: &Value,
        is_status: bool,
    ) -> Result<Value, Refusal> {
        let before = self.get(key)?;
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != before["metadata"]["resourceVersion"] {
            let message =
                "the object has been modified; please apply your changes to the latest version";
            return Err(Refusal(409, "Conflict", message.into()));
        }
        let mut after = before.clone();
        match kind {
            PatchKind::Merge => merge(&mut after, patch),
            PatchKind::Strategic => merge_strategically(&mut after, patch),
        }
        let kept = if is_status { "spec" } else { "status" };
        match before.get(kept) {
            Some(part) => after[kept] = part.clone(),
            None => drop(after.as_object_mut().unwrap().remove(kept)),
        }
        if key.0 == NODES && !before["spec"]["podCIDR"].is_null() && after["spec"] != before["spec"]
        {
            let message = "node updates may not change podCIDR except from \"\" to valid";
            return Err(Refusal(422, "Invalid", message.into()));
        }
        for name in ["name", "uid", "creationTimestamp", "resourceVersion"] {
            after["metadata"][name] = before["metadata"][name].clone();
        }
        if after == before {
            return Ok(before);
        }
        self.version += 1;
        after["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(key.clone(), after.clone());
        self.note("MODIFIED", key.clone(), &after);
        Ok(after)
    }

    fn note(&mut self, kind: &'static str, key: Key, object: &Value) {
        let event = Event { version: self.version, kind, key, object: object.clone() };
        self.history.push(event);
    }

    /// Forgets everything that happened, as etcd does every five minutes. Who watches already is told
    /// the rest.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        self.pages.clear();
    }

    /// Forgets what was before a start, because a server has nothing but what it finds then.
    pub(crate) fn begin_again(&mut self) {
        self.compacted = self.version;
    }

    /// The names of a collection.
    pub(crate) fn names(&self, collection: &str) -> Vec<String> {
        let start = Bound::Included((collection.to_owned(), String::new()));
        let objects = self.objects.range((start, Bound::Unbounded));
        objects
            .take_while(|((found, _), _)| found == collection)
            .map(|((_, name), _)| name.clone())
            .collect()
    }
}

fn not_found(key: &Key) -> Refusal {
    let plural = key.0.rsplit('/').next().unwrap_or_default();
    Refusal(404, "NotFound", format!("{plural} \"{}\" not found", key.1))
}
