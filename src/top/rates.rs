//! From two looks at counters to what happens in a second.

use std::time::Instant;

use serde_json::{Map, Value};

use crate::admin::{Drop, Drops, Peers, Status, Traffic};

/// One look at the daemon.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) peers: Peers,
    pub(super) drops: Drops,
}

/// What happens in a second in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Inner packets of wire size.
    pub(super) packets: f64,
    /// Inner bits.
    pub(super) bits: f64,
    /// Packets that were not handed on.
    pub(super) drops: f64,
    /// Packets of a send, or of a receive; 0 without any.
    pub(super) train: f64,
}

/// A reason for drops, since the start and in a second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dropped {
    pub(super) reason: String,
    pub(super) count: u64,
    pub(super) rate: f64,
}

/// Outbound and inbound. `None` where the kernel carries the packets, or another process answers.
pub(super) fn traffic(before: &Sample, now: &Sample) -> Option<[Rate; 2]> {
    let (old, new) = (before.status.traffic.as_ref()?, now.status.traffic.as_ref()?);
    let seconds = seconds(before, now)?;
    let growth = |of: fn(&Traffic) -> &Map<String, Value>, name: &str| {
        let number = |traffic| of(traffic).get(name).and_then(Value::as_u64).unwrap_or(0);
        number(new).saturating_sub(number(old)) as f64
    };
    let rate =
        |of: fn(&Traffic) -> &Map<String, Value>, [packets, bytes, trains]: [&str; 3], past| {
            let [past_packets, past_bytes]: [&str; 2] = past;
            let by_kernel = |name| growth(|traffic| &traffic.shortcut, name);
            let (packets, trains) = (growth(of, packets), growth(of, trains));
            Rate {
                packets: (packets + by_kernel(past_packets)) / seconds,
                bits: (growth(of, bytes) + by_kernel(past_bytes)) * 8.0 / seconds,
                drops: growth(of, "drops") / seconds,
                train: if trains > 0.0 { packets / trains } else { 0.0 },
            }
        };
    let (out, into) = (["packets_out", "bytes_out"], ["packets_in", "bytes_in"]);
    Some([
        rate(|traffic| &traffic.outbound, ["segments_out", "bytes_out", "trains_out"], out),
        rate(|traffic| &traffic.inbound, ["segments_in", "bytes_in", "trains_in"], into),
    ])
}

/// Part of the time in which all workers together did not sleep; 1 is one processor.
pub(super) fn busy(before: &Sample, now: &Sample) -> Option<f64> {
    let milliseconds = |sample: &Sample| -> Option<u64> {
        let workers = sample.status.workers.as_ref()?;
        Some(workers.each.iter().map(|worker| worker.busy_milliseconds).sum())
    };
    let growth = milliseconds(now)?.saturating_sub(milliseconds(before)?) as f64;
    Some(growth / 1000.0 / seconds(before, now)?)
}

/// Every reason, those that grow first.
pub(super) fn drops(before: Option<&Sample>, now: &Sample) -> Vec<Dropped> {
    let all = |drops: &Drops| -> Vec<Drop> {
        [&drops.outbound, &drops.inbound, &drops.kernel].into_iter().flatten().cloned().collect()
    };
    let before = before.and_then(|before| Some((all(&before.drops), seconds(before, now)?)));
    let rate = |one: &Drop| {
        let Some((old, seconds)) = &before else { return 0.0 };
        let old = old.iter().find(|old| old.reason == one.reason).map_or(0, |old| old.count);
        one.count.saturating_sub(old) as f64 / seconds
    };
    let dropped =
        |one: &Drop| Dropped { reason: one.reason.clone(), count: one.count, rate: rate(one) };
    let mut drops: Vec<Dropped> = all(&now.drops).iter().map(dropped).collect();
    drops.sort_by(|one, other| other.rate.total_cmp(&one.rate));
    drops
}

/// `None` for the first look at a daemon.
fn seconds(before: &Sample, now: &Sample) -> Option<f64> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    (before.status.pid == now.status.pid && seconds > 0.0).then_some(seconds)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::admin::{Worker, Workers};

    /// A look `seconds` after the first, when so many packets of 100 bytes had passed each way.
    pub(in crate::top) fn look(start: Instant, seconds: u64, packets: u64) -> Sample {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let outbound = json!({"segments_out": packets, "bytes_out": packets * 100,
                              "trains_out": packets / 10, "drops": packets / 100});
        let inbound = json!({"segments_in": packets, "bytes_in": packets * 100,
                             "trains_in": packets / 20, "drops": 0});
        let worker = Worker {
            number: 0,
            engine: "uring".into(),
            outbound_segments: packets,
            inbound_segments: packets,
            drops: 0,
            turns: 1,
            busy_milliseconds: seconds * 250,
        };
        Sample {
            at: start + Duration::from_secs(seconds),
            status: Status {
                pid: 7,
                ready: true,
                traffic: Some(Traffic {
                    outbound: object(outbound),
                    inbound: object(inbound),
                    other: Map::new(),
                    ..Traffic::default()
                }),
                workers: Some(Workers {
                    count: 1,
                    asked_for: 1,
                    fewer_because: None,
                    each: vec![worker],
                }),
                ..Status::default()
            },
            peers: Peers::default(),
            drops: Drops {
                outbound: vec![Drop {
                    reason: "no_route".into(),
                    count: packets / 100,
                    text: String::new(),
                }],
                inbound: vec![Drop { reason: "too_short".into(), count: 5, text: String::new() }],
                ..Drops::default()
            },
        }
    }

    #[test]
    fn counters_become_rates() {
        let start = Instant::now();
        let (before, now) = (look(start, 0, 0), look(start, 2, 2000));
        let [outbound, inbound] = traffic(&before, &now).unwrap();
        assert_eq!(outbound, Rate { packets: 1000.0, bits: 800_000.0, drops: 10.0, train: 10.0 });
        assert_eq!(inbound, Rate { packets: 1000.0, bits: 800_000.0, drops: 0.0, train: 20.0 });
        assert_eq!(busy(&before, &now), Some(0.25));
        let dropped = drops(Some(&before), &now);
        assert_eq!(dropped[0], Dropped { reason: "no_route".into(), count: 20, rate: 10.0 });
        assert_eq!(dropped[1], Dropped { reason: "too_short".into(), count: 5, rate: 0.0 });
    }

    #[test]
    fn what_took_the_shortcut_counts_as_well() {
        let start = Instant::now();
        let (before, mut now) = (look(start, 0, 0), look(start, 2, 2000));
        let counted =
            json!({"packets_out": 200, "bytes_out": 1000, "packets_in": 20, "bytes_in": 1});
        now.status.traffic.as_mut().unwrap().shortcut = counted.as_object().cloned().unwrap();
        let [outbound, inbound] = traffic(&before, &now).unwrap();
        assert_eq!(outbound, Rate { packets: 1100.0, bits: 804_000.0, drops: 10.0, train: 10.0 });
        assert_eq!(inbound, Rate { packets: 1010.0, bits: 800_004.0, drops: 0.0, train: 20.0 });
    }

    #[test]
    fn a_daemon_that_was_restarted_begins_anew() {
        let start = Instant::now();
        let (before, mut now) = (look(start, 0, 5000), look(start, 1, 10));
        now.status.pid += 1;
        assert_eq!(traffic(&before, &now), None);
        assert_eq!(busy(&before, &now), None);
        assert!(drops(Some(&before), &now).iter().all(|one| one.rate == 0.0));
        // Where the kernel carries the packets there are no counters.
        now.status.traffic = None;
        now.status.pid -= 1;
        assert_eq!(traffic(&before, &now), None);
    }
}
