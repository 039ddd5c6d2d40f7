//! The kernel paths: kept, however they are disturbed.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_ctrl::kernel::object::{Fdb, Neighbour, State};
use weft_ctrl::kernel::{MacAddress, Report, apply, keep, preview};

use crate::namespace::{in_new_namespace, ip};
use crate::paths::{
    add_foreign, add_peer, applied, bridge, build_host, devices, everything, foreign_lines, mac,
    route, shown, unicast,
};

/// What is changed by hand has to be back within this time: well before the look that is taken
/// without an announcement.
const BACK: Duration = Duration::from_secs(4);

/// Runs the keeper beside `by_hand`.
async fn kept(
    state: &State,
    by_hand: impl AsyncFnOnce(watch::Sender<Arc<State>>, watch::Receiver<Report>),
) {
    let (wishes, desired) = watch::channel(Arc::new(state.clone()));
    let (reports, mut seen) = watch::channel(Report::default());
    let looked = seen.clone();
    let by_hand = async {
        seen.wait_for(|report| report.looked).await.unwrap();
        by_hand(wishes, looked).await;
    };
    tokio::select! {
        () = keep(desired, &reports) => panic!("it ended before the wishes did"),
        () = by_hand => {}
    }
}

/// Within how long `shown` is `expected` again.
async fn time_back(expected: &[String]) -> Duration {
    let start = Instant::now();
    while shown_or_nothing() != expected {
        if start.elapsed() > 3 * BACK {
            assert_eq!(shown_or_nothing(), expected);
        }
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

/// Nothing while a device is missing.
fn shown_or_nothing() -> Vec<String> {
    let links = ip("link show");
    let are_there = links.contains("flannel.1:") && links.contains("flannel-v6.1:");
    if are_there { shown() } else { Vec::new() }
}

#[test]
fn what_is_deleted_by_hand_is_back_at_once() {
    in_new_namespace("what_is_deleted_by_hand_is_back_at_once", || async {
        build_host();
        let state = everything();
        applied(&state).await;
        let expected = shown();
        kept(&state, async |_wishes, _reports| {
            for change in [
                "route del 10.244.2.0/24",
                "-6 route del fd00:244:0:2::/64",
                "route replace 10.244.2.0/24 via 10.168.0.7 proto 82",
                "route del 10.244.7.0/24 table 8285",
                "route del blackhole 10.244.1.0/24",
                "rule del priority 8285",
                "-6 rule del priority 8286",
                "neigh del 10.244.2.0 dev flannel.1",
                "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:66 dev flannel.1 nud permanent",
                "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1 nud stale",
                "neigh add 10.244.66.0 lladdr 0a:00:00:00:00:66 dev flannel.1 nud permanent",
                "-6 neigh del fd00:244:0:2:: dev flannel-v6.1",
                "addr del 10.244.1.0/32 dev flannel.1",
                "-6 addr del fd00:244:0:1::/128 dev flannel-v6.1",
                "addr add 10.244.66.0/32 dev flannel.1",
                "link set flannel.1 mtu 1300",
                "link set flannel.1 address 0a:00:00:00:00:66",
                "link set flannel.1 down",
                "link set flannel-v6.1 down",
                "link del flannel.1",
                "link del flannel-v6.1",
                "route flush proto 82",
            ] {
                ip(change);
                assert_ne!(shown_or_nothing(), expected, "{change} changes nothing");
                let time = time_back(&expected).await;
                assert!(time < BACK, "{change}: back after {time:?}");
            }
            for change in [
                "fdb del 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.2 self",
                "fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.66 self permanent",
                "fdb append 00:00:00:00:00:00 dev flannel.1 dst 10.168.0.66 self permanent",
                "fdb del 0a:00:00:00:00:02 dev flannel-v6.1 dst fd01::2 self",
            ] {
                bridge(change);
                assert_ne!(shown_or_nothing(), expected, "{change} changes nothing");
                let time = time_back(&expected).await;
                assert!(time < BACK, "{change}: back after {time:?}");
            }
        })
        .await;
    });
}

#[test]
fn changed_wishes_are_followed() {
    in_new_namespace("changed_wishes_are_followed", || async {
        build_host();
        let (first, mut second) = (everything(), devices());
        add_peer(&mut second, 4);
        second.neighbours[0].mac = mac(0x44);
        second.fdb[0].mac = mac(0x44);
        second.routes.push(route("10.244.2.0/24", unicast("10.168.0.12", "u1", false)));
        second.routes.push(route("fd00:244:0:2::/64", unicast("fd01::12", "u1", false)));
        applied(&second).await;
        let expected_second = shown();
        // Routes of IPv6 move from the underlay to the device.
        applied(&first).await;
        let expected_first = shown();
        kept(&first, async |wishes, mut reports| {
            wishes.send_replace(Arc::new(second));
            assert!(time_back(&expected_second).await < BACK);
            wishes.send_replace(Arc::new(first.clone()));
            assert!(time_back(&expected_first).await < BACK);

            // No kernel paths any more.
            let nothing = State { networks: first.networks.clone(), ..State::default() };
            wishes.send_replace(Arc::new(nothing));
            let gone =
                || !ip("link show").contains("flannel") && ip("route show proto 82").is_empty();
            let wait = async {
                while !gone() {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(BACK, wait).await.unwrap();
            assert!(reports.borrow_and_update().is_clean());
        })
        .await;
    });
}

#[test]
fn one_that_fails_blocks_no_other_and_works_when_it_can() {
    in_new_namespace("one_that_fails_blocks_no_other_and_works_when_it_can", || async {
        build_host();
        let mut state = everything();
        state.routes.insert(0, route("10.244.8.0/24", unicast("172.16.0.8", "u1", false)));
        state.routes.insert(0, route("10.244.9.0/24", unicast("172.16.0.8", "gone", false)));
        let report = apply(&state).await.unwrap();
        let sentences: Vec<&str> = report.failures.iter().map(|one| &*one.sentence).collect();
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert!(
            sentences[0].starts_with("There is no device gone, so its routes"),
            "{sentences:?}"
        );
        assert!(sentences[1].contains("172.16.0.8 is not on the network of u1"), "{sentences:?}");
        assert!(ip("route show").contains("10.244.3.0/24 via 10.244.3.0 dev flannel.1"));

        kept(&state, async |_wishes, mut reports| {
            ip("addr add 172.16.0.2/24 dev u1");
            reports.wait_for(|report| report.failures.len() == 1).await.unwrap();
            assert!(ip("route show").contains("10.244.8.0/24 via 172.16.0.8 dev u1"));
            ip("link add gone type bridge");
            ip("addr add 172.16.0.3/24 dev gone");
            ip("link set gone up");
            let clean = reports.wait_for(Report::is_clean);
            timeout(BACK, clean).await.expect("the route is made when its device is up").unwrap();
        })
        .await;
    });
}

fn many(peers: u32, generation: u32) -> State {
    let mut state = devices();
    state.vxlans.truncate(1);
    for number in 1..=peers {
        let [_, _, high, low] = (4 * number).to_be_bytes();
        let inner: Ipv4Addr = u32::from_be_bytes([10, 245, 0, 0]).wrapping_add(16 * number).into();
        let mac = MacAddress([0x0a, 0, 0, 1 + generation as u8, high, low]);
        let device = || "flannel.1".to_owned();
        let to = unicast(&inner.to_string(), "flannel.1", true);
        state.routes.push(route(&format!("{inner}/28"), to));
        state.neighbours.push(Neighbour { device: device(), address: inner.into(), mac });
        let outer = u32::from_be_bytes([10, 169, 0, 0]) + number + generation;
        let destination = Ipv4Addr::from(outer).into();
        state.fdb.push(Fdb { device: device(), mac, destination });
    }
    state.networks = vec!["10.244.0.0/15".parse().unwrap()];
    state
}

/// Far more than it takes, against hangs.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn two_thousand_peers() {
    in_new_namespace("two_thousand_peers", || async {
        build_host();
        let (first, second) = (many(2000, 0), many(2000, 1));
        let count = || {
            let routes = ip("route show proto 82").lines().count();
            let neighbours = ip("neigh show dev flannel.1 nud permanent").lines().count();
            (routes, neighbours, bridge("fdb show dev flannel.1").lines().count())
        };
        let start = Instant::now();
        kept(&first, async |wishes, _reports| {
            println!("made after {:?}", start.elapsed());
            assert_eq!(count(), (2000, 2000, 2000));
            let start = Instant::now();
            wishes.send_replace(Arc::new(second.clone()));
            let changed = async {
                while !preview(&second).await.unwrap().actions.is_empty() {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(LONG, changed).await.unwrap();
            println!("changed after {:?}", start.elapsed());
            assert_eq!(count(), (2000, 2000, 2000));
            let start = Instant::now();
            ip("link del flannel.1");
            let back = async {
                sleep(Duration::from_millis(20)).await;
                while !preview(&second).await.unwrap().actions.is_empty() {
                    sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(LONG, back).await.unwrap();
            println!("back after {:?}", start.elapsed());
            assert_eq!(count(), (2000, 2000, 2000));
        })
        .await;
        assert!(start.elapsed() < LONG);
    });
}

/// Runs that have to be stopped in the middle, and runs in which that has to happen.
const STOPS: u32 = 60;
const ROUNDS_MAX: u32 = 10 * STOPS;

#[test]
fn wherever_it_is_stopped_the_next_run_finishes() {
    in_new_namespace("wherever_it_is_stopped_the_next_run_finishes", || async {
        build_host();
        add_foreign();
        let foreign = foreign_lines();
        let (first, mut second) = (everything(), devices());
        second.vxlans[0].port = 4789;
        second.vxlans[1].mac = mac(0x55);
        add_peer(&mut second, 5);
        add_peer(&mut second, 3);
        let mut stopped = 0;
        for round in 0..ROUNDS_MAX {
            let state = if round % 2 == 0 { &first } else { &second };
            let polls = rand::random_range(0..40);
            let run = apply(state).boxed();
            stopped += u32::from(after_polls(run, polls).await.is_none());
            assert_eq!(foreign_lines(), foreign, "after {polls} polls");
            if round % 3 != 0 {
                continue;
            }
            let report = apply(state).await.unwrap();
            assert_eq!(report.failures, [], "after {polls} polls");
            let left = preview(state).await.unwrap().actions;
            assert!(left.is_empty(), "after {polls} polls: {left:?}");
            assert_eq!(foreign_lines(), foreign);
            if stopped >= STOPS {
                return;
            }
        }
        panic!("only {stopped} runs were stopped in the middle");
    });
}

/// What `run` gives if it is not dropped before, after it was polled this often.
async fn after_polls<F: Future + Unpin>(mut run: F, mut polls: u32) -> Option<F::Output> {
    std::future::poll_fn(move |context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        Pin::new(&mut run).poll(context).map(Some)
    })
    .await
}

/// Far more announcements than the socket can hold, while nobody reads them: the thread sleeps.
#[test]
fn lost_announcements_are_made_up_for() {
    in_new_namespace("lost_announcements_are_made_up_for", || async {
        build_host();
        let state = many(300, 0);
        kept(&state, async |_wishes, _reports| {
            sleep(Duration::from_millis(200)).await;
            let mut batch = String::new();
            for _ in 0..8000 {
                batch += "neigh replace 10.244.77.0 lladdr 0a:00:00:00:00:77 dev flannel.1\n";
                batch += "neigh del 10.244.77.0 dev flannel.1\n";
            }
            batch += "route flush proto 82\n";
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), batch).unwrap();
            // Blocks this thread, and the keeper with it.
            ip(&format!("-batch {}", file.path().display()));
            assert_eq!(ip("route show proto 82"), "");
            let start = Instant::now();
            while ip("route show proto 82").lines().count() != 300 {
                assert!(start.elapsed() < BACK, "{}", ip("route show proto 82"));
                sleep(Duration::from_millis(20)).await;
            }
            assert!(!ip("neigh show dev flannel.1").contains("10.244.77.0"));
        })
        .await;
    });
}

/// Settings are never announced, so one that stays wrong shows that nothing was read.
#[test]
fn neither_a_wish_nor_its_announcements_make_it_read_everything() {
    let name = "neither_a_wish_nor_its_announcements_make_it_read_everything";
    in_new_namespace(name, || async {
        build_host();
        let (first, mut second) = (everything(), devices());
        add_peer(&mut second, 2);
        add_peer(&mut second, 4);
        second.fdb[0].destination = [10, 168, 0, 22].into();
        second.neighbours[1].mac = mac(0x22);
        second.fdb[1].mac = mac(0x22);
        applied(&first).await;
        kept(&first, async |wishes, _reports| {
            sleep(Duration::from_millis(300)).await;
            let setting = "/proc/sys/net/ipv4/conf/flannel.1/rp_filter";
            let read = || std::fs::read_to_string(setting).unwrap();
            std::fs::write(setting.replace("flannel.1", "all"), "0").unwrap();
            std::fs::write(setting, "1").unwrap();
            for _ in 0..5 {
                for (wish, routes) in [(&second, 4), (&first, 8)] {
                    wishes.send_replace(Arc::new(wish.clone()));
                    sleep(Duration::from_millis(150)).await;
                    let count = ["", "-6 "].map(|family| {
                        let shown = ip(&format!("{family}route show proto 82"));
                        shown.lines().count()
                    });
                    assert_eq!(count.iter().sum::<usize>(), routes, "{count:?}");
                }
            }
            assert_eq!(read().trim(), "1");
            ip("neigh del 10.244.2.0 dev flannel.1");
            let start = Instant::now();
            while read().trim() != "2" {
                assert!(start.elapsed() < BACK, "what is news is looked at");
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    });
}
