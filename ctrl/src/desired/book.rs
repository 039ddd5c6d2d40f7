//! What is known to be stored, also while the store is doubtful.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lease::{Leaf, Lease, Rejection};
use crate::source::{Change, Record, Update};

/// A lease that a listing does not show may have been lost with its store: an unmounted directory, a
/// restored backup. Live peers are kept this long. A deletion that was watched applies at once.
pub const ABSENT_SECONDS_MAX: u64 = 600;

const ABSENT_MAX: Duration = Duration::from_secs(ABSENT_SECONDS_MAX);

/// One stored lease.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    record: Record,
    /// What the value says. Read once and shared, because all leases are sorted again at every change.
    pub(super) lease: Result<Arc<Lease>, Rejection>,
    /// Grows with every lease first seen: who was there before whom.
    pub(super) order: u64,
    /// When it was first seen.
    pub(super) since: Instant,
    absent_since: Option<Instant>,
}

/// All leases, believed or not.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<String, Entry>,
    next_order: u64,
}

impl Book {
    /// Takes an update in and returns whether anything changed.
    pub fn handle(&mut self, update: Update, now: Instant) -> bool {
        match update {
            Update::Snapshot(records) => self.snapshot(records, now),
            Update::Changes(changes) => {
                let mut changed = false;
                for change in changes {
                    changed |= match change {
                        Change::Put(record) => self.put_newer(record, now),
                        Change::Deleted { name, revision } => self.delete(&name, revision),
                    };
                }
                changed
            }
            Update::Config(_) => false,
        }
    }

    /// Lets go of what has been absent for too long, and returns whether anything changed. To be
    /// called now and then.
    pub fn handle_time(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            entry.absent_since.is_none_or(|since| now.duration_since(since) < ABSENT_MAX)
        });
        self.entries.len() != before
    }

    /// Whether anything is known under `name`, be it absent at the moment.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// What is stored under `name`, if it is known to be there now.
    #[must_use]
    pub fn present(&self, name: &str) -> Option<&Record> {
        let entry = self.entries.get(name)?;
        entry.absent_since.is_none().then_some(&entry.record)
    }

    /// Everything that is known, also what is absent; who was there first before the others.
    #[must_use]
    pub fn records(&self) -> Vec<&Record> {
        self.by_age().into_iter().map(|(_, entry)| &entry.record).collect()
    }

    /// All entries, who was there first before the others.
    pub(super) fn by_age(&self) -> Vec<(&str, &Entry)> {
        let mut entries: Vec<_> =
            self.entries.iter().map(|(name, entry)| (name.as_str(), entry)).collect();
        entries.sort_by_key(|(_, entry)| entry.order);
        entries
    }

    /// News may be older than what an own write has shown meanwhile.
    fn put_newer(&mut self, record: Record, now: Instant) -> bool {
        let known = self.entries.get(&record.name);
        match known.is_some_and(|entry| entry.record.revision > record.revision) {
            true => false,
            false => self.put(record, now),
        }
    }

    fn delete(&mut self, name: &str, revision: u64) -> bool {
        let known = self.entries.get(name).map(|entry| entry.record.revision);
        known.is_some_and(|known| known <= revision) && self.entries.remove(name).is_some()
    }

    /// Returns whether it says anything new; a mere renewal does not.
    fn put(&mut self, record: Record, now: Instant) -> bool {
        if let Some(entry) = self.entries.get_mut(&record.name) {
            entry.absent_since = None;
            let same = entry.record.value == record.value;
            if !same {
                entry.lease = Lease::read(&record.name, &record.value).map(Arc::new);
            }
            entry.record = record;
            return !same;
        }
        let lease = Lease::read(&record.name, &record.value).map(Arc::new);
        let order = self.next_order;
        self.next_order += 1;
        let name = record.name.clone();
        self.entries.insert(name, Entry { record, lease, order, since: now, absent_since: None });
        true
    }

    /// What is absent stays for a while, unless somebody has its subnet now.
    fn snapshot(&mut self, records: Vec<Record>, now: Instant) -> bool {
        let names: std::collections::BTreeSet<String> =
            records.iter().map(|record| record.name.clone()).collect();
        let mut changed = false;
        for record in records {
            changed |= self.put(record, now);
        }
        for (name, entry) in &mut self.entries {
            if !names.contains(name) {
                entry.absent_since.get_or_insert(now);
            }
        }
        self.drop_claimed() | self.handle_time(now) | changed
    }

    fn drop_claimed(&mut self) -> bool {
        let leaf = |name: &String| name.parse::<Leaf>().ok();
        let (absent, present): (Vec<_>, Vec<_>) =
            self.entries.iter().partition(|(_, entry)| entry.absent_since.is_some());
        let present: Vec<Leaf> = present.into_iter().filter_map(|(name, _)| leaf(name)).collect();
        let is_claimed = |name: &String| {
            leaf(name).is_some_and(|absent| present.iter().any(|other| other.overlaps(&absent)))
        };
        let claimed: Vec<String> = absent
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| is_claimed(name))
            .cloned()
            .collect();
        for name in &claimed {
            self.entries.remove(name);
        }
        !claimed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, value: &str) -> Record {
        Record::lasting(name, value)
    }

    fn names(book: &Book) -> Vec<&str> {
        book.by_age().into_iter().map(|(name, _)| name).collect()
    }

    fn deleted(name: &str, revision: u64) -> Change {
        Change::Deleted { name: name.into(), revision }
    }

    fn put(name: &str, value: &str) -> Update {
        Update::Changes(vec![Change::Put(record(name, value))])
    }

    #[test]
    fn a_change_is_a_change_only_once() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.handle(put("10.5.2.0-24", "a"), now));
        assert!(!book.handle(put("10.5.2.0-24", "a"), now));
        assert!(book.handle(put("10.5.2.0-24", "b"), now), "changed attributes are seen");
        assert!(!book.handle(Update::Snapshot(vec![record("10.5.2.0-24", "b")]), now));
        assert!(book.handle(Update::Snapshot(vec![record("10.5.2.0-24", "c")]), now));
        assert!(!book.handle(Update::Config(None), now));
        assert!(book.handle(Update::Changes(vec![deleted("10.5.2.0-24", 0)]), now));
        assert!(!book.handle(Update::Changes(vec![deleted("10.5.2.0-24", 0)]), now));
        assert!(names(&book).is_empty());
    }

    #[test]
    fn what_a_listing_does_not_show_stays_for_ten_minutes() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.handle(put("10.5.2.0-24", "a"), start);
        assert!(!book.handle(Update::Snapshot(vec![]), start));
        assert_eq!(names(&book), ["10.5.2.0-24"]);
        assert_eq!(book.present("10.5.2.0-24"), None);
        let almost = start + ABSENT_MAX - Duration::from_millis(1);
        assert!(!book.handle(Update::Snapshot(vec![]), almost), "absence began with the first one");
        assert!(!book.handle_time(almost));
        assert!(book.handle_time(start + ABSENT_MAX));
        assert!(names(&book).is_empty());
    }

    #[test]
    fn what_comes_back_has_never_been_away() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.handle(put("10.5.2.0-24", "a"), start);
        book.handle(Update::Snapshot(vec![]), start);
        assert!(!book.handle(Update::Snapshot(vec![record("10.5.2.0-24", "a")]), start));
        assert_eq!(book.present("10.5.2.0-24"), Some(&record("10.5.2.0-24", "a")));
        assert!(!book.handle_time(start + 2 * ABSENT_MAX));
    }

    #[test]
    fn a_claimed_subnet_is_not_kept_for_who_is_absent() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.handle(put("10.5.2.0-24", "a"), now);
        let other = record("10.5.2.0-24&fd00::-64", "b");
        assert!(book.handle(Update::Snapshot(vec![other]), now));
        assert_eq!(names(&book), ["10.5.2.0-24&fd00::-64"]);
    }

    /// An own write is known before the changes that came before it are told.
    #[test]
    fn older_news_change_nothing() {
        let (mut book, now) = (Book::default(), Instant::now());
        let at = |revision, value| Record { revision, ..record("10.5.2.0-24", value) };
        let mut change = |change| book.handle(Update::Changes(vec![change]), now);
        assert!(change(Change::Put(at(7, "new"))));
        assert!(!change(Change::Put(at(5, "old"))));
        assert!(!change(deleted("10.5.2.0-24", 6)));
        assert!(!change(Change::Put(at(8, "new"))), "a renewal");
        assert_eq!(book.present("10.5.2.0-24"), Some(&at(8, "new")));
        assert!(book.handle(Update::Snapshot(vec![at(3, "restored")]), now), "history began anew");
        assert!(book.handle(Update::Changes(vec![deleted("10.5.2.0-24", 4)]), now));
    }

    #[test]
    fn order_is_that_of_first_sight() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.handle(Update::Snapshot(vec![record("b", "1"), record("a", "1")]), now);
        book.handle(put("0", "1"), now);
        book.handle(put("b", "2"), now);
        assert_eq!(names(&book), ["b", "a", "0"]);
    }
}
