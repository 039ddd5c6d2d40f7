use super::*;
use crate::identity::Identity;
use crate::lease::Weft;
use crate::source::directory::DirectoryError;
use crate::source::kubernetes::KubernetesError;

const NAME: &str = "10.5.1.0-24";
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const EXPIRING: Life = Life { lifetime: Some(DAY), margin: HOUR };
const LASTING: Life = Life { lifetime: None, margin: HOUR };

fn node(number: u8, address: u8) -> Attributes {
    let id: Identity = format!("{number:032x}").parse().unwrap();
    Attributes {
        public_ip: [192, 0, 2, address].into(),
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft { id: Some(id), ..Weft::default() }),
    }
}

fn record(attributes: &Attributes, revision: u64) -> Record {
    let expires = revision > 0;
    Record { revision, expires, ..Record::lasting(NAME, attributes.to_json()) }
}

struct World {
    own: OwnLease,
    book: Book,
    start: Instant,
}

impl World {
    /// A lease that was written just now, with revision 1 if it expires, and what is stored.
    fn new(life: Life, stored: Option<Record>) -> Self {
        let start = Instant::now();
        let written = Some((u64::from(life.lifetime.is_some()), start));
        let own = OwnLease::new(NAME.into(), node(1, 1), life, written);
        let mut book = Book::default();
        book.handle(Update::Snapshot(stored.into_iter().collect()), start);
        Self { own, book, start }
    }

    fn look(&self, changed: Changed, after: Duration) -> (State, Option<Step>) {
        self.own.look(&self.book, changed, self.start + after)
    }

    fn handle(&mut self, step: Step, outcome: Result<Written, SourceError>, after: Duration) {
        let began = self.start + after;
        let update = self.own.handle(Tried { step, began, outcome }, began);
        if let Some(update) = update {
            self.book.handle(update, began);
        }
    }
}

fn failure() -> SourceError {
    let path = "/x".into();
    DirectoryError::Io { action: "write", path, source: std::io::Error::other("full") }.into()
}

#[test]
fn what_is_stored_decides() {
    let ours = record(&node(1, 1), 1);
    let changed = record(&node(1, 9), 2);
    let renewed = Record { revision: 2, ..ours.clone() };
    let reserved = Record { expires: false, ..renewed.clone() };
    let theirs = record(&node(2, 1), 2);
    let replace = |record: &Record| Some(Step::Replace(record.clone()));
    let rows = [
        (Some(&ours), State::Ours, None, None),
        (Some(&changed), State::Ours, None, replace(&changed)),
        (Some(&renewed), State::Ours, None, replace(&renewed)),
        (Some(&reserved), State::Ours, None, None),
        (None, State::Missing, Some(Step::Create), Some(Step::Create)),
    ];
    for (stored, state, later, now) in rows {
        let world = World::new(EXPIRING, stored.cloned());
        assert_eq!(world.look(Changed::Later, SECOND), (state.clone(), later), "{stored:?}");
        assert_eq!(world.look(Changed::Now, SECOND), (state, now), "{stored:?}");
    }
    for changed in [Changed::Later, Changed::Now] {
        let (state, step) = World::new(EXPIRING, Some(theirs.clone())).look(changed, SECOND);
        assert!(matches!(state, State::Taken(_)));
        assert_eq!(step, None, "what is another's is never touched");
    }
}

/// Thirty days of a store that works, then one without it.
#[test]
fn days_of_renewals_and_an_outage() {
    let mut world = World::new(EXPIRING, Some(record(&node(1, 1), 1)));
    let mut now = Duration::ZERO;
    for day in 1..=30 {
        let due = world.own.deadline().unwrap() - world.start;
        assert_eq!(due, now + DAY - HOUR);
        assert_eq!(world.look(Changed::Now, due - SECOND).1, None);
        let (state, step) = world.look(Changed::Now, due);
        assert_eq!(state, State::Ours);
        let step = step.expect("a renewal");
        now = due;
        world.handle(step, Ok(Written::Done(record(&node(1, 1), 1 + day))), now);
    }
    let due = now + DAY - HOUR;
    let mut tries = 0;
    let mut states = Vec::new();
    for second in 0..2 * HOUR.as_secs() {
        let now = due + SECOND * u32::try_from(second).unwrap();
        let (_, step) = world.look(Changed::Now, now);
        if let Some(step) = step {
            world.handle(step, Err(failure()), now);
            tries += 1;
        }
        let (state, _) = world.look(Changed::Later, now);
        let name = match state {
            State::Stuck(problem) if problem.contains("full") => "stuck",
            State::Lost(problem) if problem.contains("full") => "lost",
            other => panic!("{other:?}"),
        };
        if states.last().is_none_or(|(last, _)| *last != name) {
            states.push((name, second));
        }
    }
    assert_eq!(tries, 120, "once a minute");
    assert_eq!(states, [("stuck", 0), ("lost", HOUR.as_secs())], "lost only when it has run out");
    let now = due + 3 * HOUR;
    let step = world.look(Changed::Now, now).1.expect("it goes on trying");
    world.handle(step, Ok(Written::Done(record(&node(1, 1), 99))), now);
    assert_eq!(world.look(Changed::Later, now), (State::Ours, None));
    assert_eq!(world.own.expires_at(), Some(world.start + now + DAY));
}

/// Deleted by hand, or run out while this node was cut off: the same subnet again.
#[test]
fn a_missing_lease_is_created_again_and_again_until_it_works() {
    let mut world = World::new(EXPIRING, None);
    world.handle(Step::Create, Err(failure()), Duration::ZERO);
    assert!(matches!(world.look(Changed::Now, Duration::ZERO), (State::Lost(_), None)));
    let (_, step) = world.look(Changed::Now, MISSING_PAUSE);
    assert_eq!(step, Some(Step::Create));
    assert_eq!(world.own.deadline(), Some(world.start + MISSING_PAUSE));
    world.handle(Step::Create, Ok(Written::Done(record(&node(1, 1), 7))), SECOND);
    assert_eq!(world.look(Changed::Now, SECOND), (State::Ours, None));
}

#[test]
fn who_is_faster_is_seen_at_once() {
    let theirs = record(&node(2, 2), 7);
    let mut world = World::new(EXPIRING, None);
    world.handle(Step::Create, Ok(Written::Overtaken(Some(theirs))), SECOND);
    assert!(matches!(world.look(Changed::Now, SECOND).0, State::Taken(_)));

    let ours = record(&node(1, 1), 1);
    let mut world = World::new(EXPIRING, Some(ours.clone()));
    world.handle(Step::Replace(ours), Ok(Written::Overtaken(None)), SECOND);
    assert_eq!(world.look(Changed::Later, SECOND), (State::Missing, Some(Step::Create)));
}

/// Another name holds the same addresses, so creating it fails without anything under our name.
#[test]
fn an_overlapping_lease_is_not_tried_against_without_pause() {
    let mut world = World::new(EXPIRING, None);
    world.handle(Step::Create, Ok(Written::Overtaken(None)), SECOND);
    let (state, step) = world.look(Changed::Now, SECOND);
    assert!(matches!(state, State::Lost(problem) if problem.contains("another lease")));
    assert_eq!(step, None);
}

#[test]
fn what_does_not_expire_is_not_renewed() {
    let world = World::new(LASTING, Some(record(&node(1, 1), 0)));
    assert_eq!(world.look(Changed::Now, 365 * DAY), (State::Ours, None));
    assert_eq!(world.own.deadline(), None);
    assert_eq!(world.own.expires_at(), None);
}

/// The store did not answer at the start, so nothing is known about when our lease was written.
#[test]
fn an_unconfirmed_lease_is_renewed_when_it_is_seen() {
    let stored = record(&node(1, 1), 5);
    let mut world = World::new(EXPIRING, Some(stored.clone()));
    world.own = OwnLease::new(NAME.into(), node(1, 1), EXPIRING, None);
    assert_eq!(world.own.deadline(), None);
    assert_eq!(world.look(Changed::Now, SECOND), (State::Ours, Some(Step::Replace(stored))));
}

/// Somebody else gives the subnets, and has given another one.
#[test]
fn a_node_that_was_given_another_subnet_counts_as_one_whose_lease_was_taken() {
    let mut world = World::new(LASTING, None);
    let (node, before) = ("n".to_owned(), NAME.to_owned());
    let now = "10.5.9.0-24".parse().unwrap();
    let error = KubernetesError::Renumbered { node, before, now };
    world.handle(Step::Create, Err(error.into()), SECOND);
    let (state, step) = world.look(Changed::Now, 2 * SECOND);
    assert!(matches!(state, State::Taken(problem) if problem.contains("10.5.9.0-24")));
    assert_eq!(step, None, "it is not tried every second");
    assert_eq!(world.own.deadline(), Some(world.start + SECOND + RETRY_PAUSE));
}
