use super::*;

const JITTER: Duration = Duration::from_millis(100);

const EVENTS: [Event; 7] = [
    Event::PacketSent,
    Event::PacketReceived,
    Event::Sent,
    Event::Received,
    Event::InitiationSent,
    Event::SessionMade,
    Event::HandshakeDone,
];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every second until `end`: what was due when.
fn run(timers: &mut Timers, end: u64) -> Vec<(u64, Action)> {
    let mut actions = Vec::new();
    for now in 0..=end {
        while let Some(action) = timers.poll(seconds(now), JITTER) {
            actions.push((now, action));
        }
    }
    actions
}

fn after(events: &[(u64, Event)]) -> Timers {
    let mut timers = Timers::new(None);
    for (now, event) in events {
        timers.handle(*event, seconds(*now), JITTER);
    }
    timers
}

#[test]
fn nothing_is_due_without_events() {
    let mut timers = Timers::new(Some(seconds(25)));
    assert_eq!(timers.deadline(), None);
    assert_eq!(run(&mut timers, 2000), []);
}

/// What is due first after the row's event at 0 and the column's at 1: I, K or E for initiation,
/// keepalive or erasure, with the second. Columns are in the order of [`EVENTS`], like rows.
const FIRST_DUE: [&str; 7] = [
    "I16 K11 I16 -   I7 I16  I16",    // PacketSent
    "K10 K10 -   K10 I7 K10  K10",    // PacketReceived
    "I17 K11 -   -   I7 E541 -",      // Sent
    "I17 K11 -   -   I7 E541 -",      // Received
    "I6  I6  I6  I6  I7 I6   -",      // InitiationSent
    "I17 K11 E540 E540 I7 E541 E540", // SessionMade
    "I17 K11 -   -   I7 E541 -",      // HandshakeDone
];

#[test]
fn every_event_in_every_state() {
    for (first, row) in EVENTS.into_iter().zip(FIRST_DUE) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells.len(), EVENTS.len());
        for (second, expected) in EVENTS.into_iter().zip(cells) {
            let mut timers = after(&[(0, first), (1, second)]);
            let found = match run(&mut timers, 600).first() {
                Some((at, Action::Initiate)) => format!("I{at}"),
                Some((at, Action::Keepalive)) => format!("K{at}"),
                Some((at, Action::Erase)) => format!("E{at}"),
                Some((at, Action::GiveUp)) => format!("G{at}"),
                None => "-".to_owned(),
            };
            assert_eq!(found, expected, "{first:?}, then {second:?}");
        }
    }
}

#[test]
fn a_handshake_is_tried_for_ninety_seconds() {
    let mut timers = after(&[(0, Event::PacketReceived), (0, Event::InitiationSent)]);
    let mut sent = 1;
    let mut actions = Vec::new();
    for now in 1..1000 {
        while let Some(action) = timers.poll(seconds(now), Duration::ZERO) {
            if action == Action::Initiate {
                assert!(timers.may_initiate(seconds(now)));
                timers.handle(Event::InitiationSent, seconds(now), Duration::ZERO);
                sent += 1;
            } else {
                actions.push((now, action));
            }
        }
    }
    assert_eq!(sent, 1 + RETRIES_MAX);
    // The first keepalive fell due before the handshake was given up.
    assert_eq!(actions, [(10, Action::Keepalive), (96, Action::GiveUp), (96 + 540, Action::Erase)]);
    assert!(timers.want(seconds(1000)), "something to send begins anew");
}

#[test]
fn initiations_are_five_seconds_apart() {
    let mut timers = after(&[(10, Event::InitiationSent)]);
    for milliseconds in 10_000..15_000 {
        assert!(!timers.want(Duration::from_millis(milliseconds)));
    }
    assert!(timers.want(seconds(15)));
}

#[test]
fn packets_received_all_the_time_are_acknowledged_every_ten_seconds() {
    let mut timers = Timers::new(None);
    let mut keepalives = Vec::new();
    for now in 0..100 {
        timers.handle(Event::PacketReceived, seconds(now), JITTER);
        timers.handle(Event::Received, seconds(now), JITTER);
        if timers.poll(seconds(now), JITTER) == Some(Action::Keepalive) {
            keepalives.push(now);
            timers.handle(Event::Sent, seconds(now), JITTER);
        }
    }
    assert_eq!(keepalives, [10, 21, 32, 43, 54, 65, 76, 87, 98]);
}

/// A keepalive that could not be sent is tried again only if more was received.
#[test]
fn another_keepalive_follows_more_packets() {
    let mut timers = after(&[(0, Event::PacketReceived), (5, Event::PacketReceived)]);
    assert_eq!(run(&mut timers, 100), [(10, Action::Keepalive), (20, Action::Keepalive)]);
    let mut timers = after(&[(0, Event::PacketReceived)]);
    assert_eq!(run(&mut timers, 100), [(10, Action::Keepalive)]);
}

#[test]
fn persistent_keepalives_follow_silence_only() {
    let mut timers = Timers::new(Some(seconds(25)));
    timers.handle(Event::Sent, seconds(0), JITTER);
    timers.handle(Event::Received, seconds(10), JITTER);
    assert_eq!(
        run(&mut timers, 100),
        [(35, Action::Keepalive), (60, Action::Keepalive), (85, Action::Keepalive)]
    );
}

#[test]
fn the_deadline_is_when_something_is_due() {
    for first in EVENTS {
        for second in EVENTS {
            let mut timers = after(&[(0, first), (1, second)]);
            while let Some(deadline) = timers.deadline() {
                let before = timers.clone();
                assert_eq!(timers.poll(deadline - Duration::from_nanos(1), JITTER), None);
                assert_eq!(timers, before);
                assert!(timers.poll(deadline, JITTER).is_some());
                if deadline > seconds(2000) {
                    break;
                }
            }
        }
    }
}
