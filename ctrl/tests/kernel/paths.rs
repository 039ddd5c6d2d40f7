//! The kernel paths: made, read back by the usual tools, kept, adopted and removed.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use weft_ctrl::interface::reader::Netlink;
use weft_ctrl::kernel::object::{
    Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule, State, Underlay, VXLAN_PORT, Vxlan,
};
use weft_ctrl::kernel::{MacAddress, Report, apply, is_on_link, keep, preview, remove_all};

use crate::namespace::{in_new_namespace, ip};

/// What is changed by hand has to be back within this time: well before the look that is taken
/// without an announcement.
const BACK: Duration = Duration::from_secs(4);

fn build_host() {
    ip("link add u1 type veth peer name p1");
    ip("link set u1 up addrgenmode none");
    ip("link set p1 up addrgenmode none");
    ip("addr add 10.168.0.2/24 dev u1");
    ip("-6 addr add fd01::2/64 dev u1 nodad");
    ip("route add default via 10.168.0.1 dev u1");
}

fn bridge(words: &str) -> String {
    let output = Command::new("bridge").args(words.split(' ')).output();
    let output = output.expect("`bridge` comes with `ip`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bridge {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn index(name: &str) -> u32 {
    ip(&format!("link show {name}")).split(':').next().unwrap().parse().unwrap()
}

fn mac(number: u8) -> MacAddress {
    MacAddress([0x0a, 0, 0, 0, 0, number])
}

fn vxlan_v4() -> Vxlan {
    Vxlan {
        name: "flannel.1".to_owned(),
        vni: 1,
        underlay: Underlay { name: "u1".to_owned(), index: index("u1") },
        local: [10, 168, 0, 2].into(),
        port: VXLAN_PORT,
        mtu: 1450,
        mac: mac(1),
        learning: false,
        gbp: false,
        miss: false,
        address: [10, 244, 1, 0].into(),
    }
}

fn vxlan_v6() -> Vxlan {
    Vxlan {
        name: "flannel-v6.1".to_owned(),
        local: "fd01::2".parse().unwrap(),
        mtu: 1430,
        address: "fd00:244:0:1::".parse().unwrap(),
        ..vxlan_v4()
    }
}

fn unicast(gateway: &str, device: &str, onlink: bool) -> RouteKind {
    let gateway = gateway.parse().ok();
    RouteKind::Unicast { gateway, device: device.to_owned(), onlink, source: None }
}

fn route(destination: &str, kind: RouteKind) -> Route {
    Route { destination: destination.parse().unwrap(), table: MAIN_TABLE, kind, metric: None }
}

/// No peers.
fn devices() -> State {
    State {
        vxlans: vec![vxlan_v4(), vxlan_v6()],
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
        ..State::default()
    }
}

/// Both families of the host with this number.
fn add_peer(state: &mut State, number: u8) {
    let v4 = format!("10.244.{number}.0");
    let v6 = format!("fd00:244:0:{number:x}::");
    let outer_v6 = format!("fd01::{number:x}");
    let outer_v4 = format!("10.168.0.{number}");
    for (device, inner, length, outer) in
        [("flannel.1", &v4, 24, &outer_v4), ("flannel-v6.1", &v6, 64, &outer_v6)]
    {
        let (device, mac) = (device.to_owned(), mac(number));
        state.routes.push(route(&format!("{inner}/{length}"), unicast(inner, &device, true)));
        state.neighbours.push(Neighbour {
            device: device.clone(),
            address: inner.parse().unwrap(),
            mac,
        });
        state.fdb.push(Fdb { device, mac, destination: outer.parse().unwrap() });
    }
}

/// Two peers over VXLAN, and one of every other sort.
fn everything() -> State {
    let mut state = devices();
    add_peer(&mut state, 2);
    add_peer(&mut state, 3);
    state.routes.push(route("10.244.7.0/24", unicast("10.168.0.7", "u1", false)));
    state.routes.push(route("fd00:244:0:7::/64", unicast("fd01::7", "u1", false)));
    let last = Route { metric: Some(9999), ..route("10.244.1.0/24", RouteKind::Blackhole) };
    state.routes.push(last);
    let last = Route { metric: Some(9999), ..route("fd00:244::/48", RouteKind::Unreachable) };
    state.routes.push(last);
    let source = Some([10, 244, 1, 0].into());
    let probe = RouteKind::Unicast {
        gateway: "10.168.0.7".parse().ok(),
        device: "u1".to_owned(),
        onlink: false,
        source,
    };
    state.routes.push(Route { table: 8285, ..route("10.244.7.0/24", probe) });
    for (priority, source) in [(8285, "10.244.1.0/32"), (8286, "fd00:244:0:1::/128")] {
        let source = source.parse().unwrap();
        state.rules.push(Rule { priority, source, source_port: Some(4000), table: 8285 });
    }
    state
}

/// Everything that tools show of the paths, in a stable order.
fn shown() -> Vec<String> {
    let mut lines = lines(&ip("-d route show proto 82"));
    for words in ["-6 -d route show proto 82", "-d route show proto 82 table 8285"] {
        lines.extend(self::lines(&ip(words)));
    }
    for words in ["rule show", "-6 rule show"] {
        let rules = self::lines(&ip(words)).into_iter();
        lines.extend(rules.filter(|line| line.contains("proto 82")));
    }
    for device in ["flannel.1", "flannel-v6.1"] {
        let family = if device.contains("v6") { "-6" } else { "-4" };
        let neighbours = format!("{family} neigh show dev {device} nud permanent");
        lines.extend(self::lines(&ip(&neighbours)));
        lines.extend(self::lines(&bridge(&format!("fdb show dev {device}"))));
        let addresses = ip(&format!("addr show dev {device}"));
        let inet = self::lines(&addresses).into_iter().filter(|line| line.starts_with("inet"));
        lines.extend(inet);
        let mtu = addresses.split(" mtu ").nth(1).unwrap().split(' ').next().unwrap();
        let up = if addresses.contains(",UP") { "up" } else { "down" };
        let mac = addresses.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        lines.push(format!("{device} mtu {mtu} {up} {mac}"));
    }
    lines.sort();
    lines
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

async fn applied(state: &State) -> Report {
    let report = apply(state).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let left = preview(state).await.unwrap();
    assert!(left.actions.is_empty(), "{:#?}", left.actions);
    report
}

/// As flanneld's, but for the mark, and the link-local address that nobody needs.
#[test]
fn every_object_is_made_as_flanneld_makes_it() {
    in_new_namespace("every_object_is_made_as_flanneld_makes_it", || async {
        build_host();
        applied(&everything()).await;
        let expected = "\
0a:00:00:00:00:02 dst 10.168.0.2 self permanent
0a:00:00:00:00:02 dst fd01::2 self permanent
0a:00:00:00:00:03 dst 10.168.0.3 self permanent
0a:00:00:00:00:03 dst fd01::3 self permanent
10.244.2.0 lladdr 0a:00:00:00:00:02 PERMANENT
10.244.3.0 lladdr 0a:00:00:00:00:03 PERMANENT
8285:\tfrom 10.244.1.0 ipproto udp sport 4000 lookup 8285 proto 82
8286:\tfrom fd00:244:0:1:: ipproto udp sport 4000 lookup 8285 proto 82
blackhole 10.244.1.0/24 scope global metric 9999
fd00:244:0:2:: lladdr 0a:00:00:00:00:02 PERMANENT
fd00:244:0:3:: lladdr 0a:00:00:00:00:03 PERMANENT
flannel-v6.1 mtu 1430 up 0a:00:00:00:00:01
flannel.1 mtu 1450 up 0a:00:00:00:00:01
inet 10.244.1.0/32 scope global flannel.1
inet6 fd00:244:0:1::/128 scope global nodad
unicast 10.244.2.0/24 via 10.244.2.0 dev flannel.1 scope global onlink
unicast 10.244.3.0/24 via 10.244.3.0 dev flannel.1 scope global onlink
unicast 10.244.7.0/24 via 10.168.0.7 dev u1 scope global
unicast 10.244.7.0/24 via 10.168.0.7 dev u1 scope global src 10.244.1.0
unicast fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 scope global metric 1024 onlink pref medium
unicast fd00:244:0:3::/64 via fd00:244:0:3:: dev flannel-v6.1 scope global metric 1024 onlink pref medium
unicast fd00:244:0:7::/64 via fd01::7 dev u1 scope global metric 1024 pref medium
unreachable fd00:244::/48 dev lo scope global metric 9999 pref medium";
        assert_eq!(shown().join("\n"), expected);
        for (name, local) in [("flannel.1", "10.168.0.2"), ("flannel-v6.1", "fd01::2")] {
            let link = ip(&format!("-d link show {name}"));
            let parameters = format!(
                "vxlan id 1 local {local} dev u1 srcport 0 0 dstport 8472 nolearning ttl auto \
                 ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx"
            );
            assert!(link.contains(&parameters), "{link}");
            assert!(link.contains("link/ether 0a:00:00:00:00:01"), "{link}");
            assert!(link.contains("alias weft"), "{link}");
            assert!(!link.contains("qlen"), "{link}");
        }
        let rp_filter = fs::read_to_string("/proc/sys/net/ipv4/conf/flannel.1/rp_filter");
        assert_eq!(rp_filter.unwrap().trim(), "2");
    });
}

#[test]
fn options_of_the_device_are_made_and_some_changed_in_place() {
    in_new_namespace("options_of_the_device_are_made_and_some_changed_in_place", || async {
        build_host();
        let mut state = devices();
        state.vxlans.truncate(1);
        state.vxlans[0] = Vxlan { gbp: true, miss: true, port: 4789, ..vxlan_v4() };
        add_peer(&mut state, 3);
        state.routes.truncate(1);
        state.neighbours.truncate(1);
        state.fdb.truncate(1);
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert!(link.contains("dstport 4789 nolearning proxy l2miss l3miss "), "{link}");
        assert!(link.contains(" gbp "), "{link}");
        let before = index("flannel.1");

        let changed = Vxlan { mac: mac(9), mtu: 1400, learning: true, ..state.vxlans[0].clone() };
        state.vxlans[0] = changed;
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert_eq!(index("flannel.1"), before);
        assert!(
            link.contains("mtu 1400") && link.contains("link/ether 0a:00:00:00:00:09"),
            "{link}"
        );
        assert!(!link.contains("nolearning"), "{link}");
        assert!(ip("neigh show dev flannel.1").contains("10.244.3.0 lladdr 0a:00:00:00:00:03"));

        state.vxlans[0] = vxlan_v4();
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert_ne!(index("flannel.1"), before);
        assert!(link.contains("dstport 8472 nolearning ttl"), "{link}");
        assert!(ip("route show").contains("10.244.3.0/24 via 10.244.3.0 dev flannel.1"));
    });
}

/// By the commands that do what flanneld does, with the link-local address that it leaves.
fn flanneld_was_here() {
    ip("link add flannel.1 address 0a:00:00:00:00:77 mtu 1450 type vxlan id 1 local 10.168.0.2 \
        dev u1 dstport 8472 nolearning");
    ip("addr add 10.244.1.0/32 dev flannel.1");
    ip("addr add 10.244.99.0/32 dev flannel.1");
    ip("link set flannel.1 up");
    for (number, outer) in [(2, 2), (3, 33), (9, 9)] {
        ip(&format!(
            "neigh replace 10.244.{number}.0 lladdr 0a:00:00:00:00:0{number} dev flannel.1 nud permanent"
        ));
        bridge(&format!(
            "fdb replace 0a:00:00:00:00:0{number} dev flannel.1 dst 10.168.0.{outer} self permanent"
        ));
        ip(&format!(
            "route replace 10.244.{number}.0/24 via 10.244.{number}.0 dev flannel.1 onlink"
        ));
    }
    ip("route add 10.244.7.0/24 via 10.168.0.3 dev u1");
}

#[test]
fn what_flanneld_left_is_taken_over_and_sorted_out() {
    in_new_namespace("what_flanneld_left_is_taken_over_and_sorted_out", || async {
        build_host();
        flanneld_was_here();
        let before = index("flannel.1");
        let mut state = everything();
        state.vxlans[0].mac = mac(0x77);
        applied(&state).await;
        assert_eq!(index("flannel.1"), before, "the device stays");
        let adopted = shown();

        ip("link del flannel.1");
        ip("link del flannel-v6.1");
        ip("route flush proto 82");
        ip("-6 route flush proto 82");
        applied(&state).await;
        let link_local = |line: &String| line.starts_with("inet6 fe80:") && line.contains("link");
        let adopted: Vec<String> = adopted.into_iter().filter(|line| !link_local(line)).collect();
        assert_eq!(adopted, shown(), "as if it had been made here");
    });
}

#[test]
fn another_device_of_the_name_is_replaced_only_if_it_is_a_vxlan_device() {
    let name = "another_device_of_the_name_is_replaced_only_if_it_is_a_vxlan_device";
    in_new_namespace(name, || async {
        build_host();
        ip("link add flannel.1 type vxlan id 7 dev u1 dstport 8472");
        ip("link add flannel-v6.1 type bridge");
        let state = everything();
        let report = apply(&state).await.unwrap();
        let texts: Vec<&str> = report.failures.iter().map(|one| one.sentence.as_str()).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].contains("a device flannel-v6.1 that is no VXLAN device"), "{texts:?}");
        assert!(ip("-d link show flannel.1").contains("vxlan id 1 "));
        assert!(ip("-d link show flannel-v6.1").contains("bridge"));
        assert!(ip("route show").contains("10.244.3.0/24 via 10.244.3.0 dev flannel.1"));
    });
}

/// What is not ours, beside and inside the network.
fn add_foreign() {
    ip("link add cni0 type bridge");
    ip("addr add 10.244.1.1/24 dev cni0");
    // An address that is still examined would change what tests compare.
    ip("link set cni0 addrgenmode none");
    ip("link set cni0 up");
    ip("link add other type vxlan id 9 dev u1 dstport 4790");
    ip("link set other alias weft addrgenmode none");
    ip("link set other up");
    ip("addr add 10.99.1.0/32 dev other");
    ip("route add 10.99.2.0/24 via 10.168.0.8 proto 82");
    ip("route add 10.244.3.0/24 via 10.168.0.9 proto static");
    ip("-6 route add fd00:244:0:3::/64 via fd01::9 proto static metric 5");
    ip("route add 10.244.50.0/24 via 10.168.0.9 proto static");
    ip("route add 10.244.51.0/24 via 10.168.0.3");
    ip("route add 10.244.7.0/24 via 10.168.0.7 dev u1");
    ip("rule add priority 77 from 10.244.1.0 lookup 77");
    ip("rule add priority 78 from 10.99.1.0 ipproto udp lookup 77 protocol 82");
    ip("neigh add 10.168.0.9 lladdr 0a:00:00:00:00:99 dev u1");
}

fn foreign_lines() -> Vec<String> {
    let mut shown = [
        "-d route show proto static",
        "-d route show proto boot",
        "-d route show root 10.99.0.0/16",
        "-6 -d route show proto static",
        "neigh show dev u1",
        "-d link show other",
        "link show cni0",
        "addr show dev other",
        "addr show dev cni0",
        "addr show dev u1",
    ]
    .iter()
    .flat_map(|words| lines(&ip(words)))
    .collect::<Vec<_>>();
    let rules = ip("rule show");
    shown.extend(lines(&rules).into_iter().filter(|line| line.contains("lookup 77")));
    shown
}

#[test]
fn what_is_foreign_stays_and_is_named() {
    in_new_namespace("what_is_foreign_stays_and_is_named", || async {
        build_host();
        add_foreign();
        let before = foreign_lines();
        let state = everything();
        let report = apply(&state).await.unwrap();
        let names: Vec<String> = report.foreign.iter().map(ToString::to_string).collect();
        let expected = [
            "10.244.3.0/24 via 10.168.0.9 dev u1 proto 4 metric 0",
            "fd00:244:0:3::/64 via fd01::9 dev u1 proto 4 metric 5",
        ];
        assert_eq!(names, expected);
        assert_eq!(report.failures, []);
        assert_eq!(foreign_lines(), before);
        let ours = ip("route show proto 82");
        assert!(ours.contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1"), "{ours}");
        assert!(!ours.contains("10.244.3.0") && !ours.contains("10.244.7.0"), "{ours}");

        ip("route del 10.244.3.0/24 proto static");
        ip("-6 route del fd00:244:0:3::/64 proto static");
        applied(&state).await;

        let removed = remove_all(&state.networks).await.unwrap();
        assert_eq!(removed.failures, [""; 0]);
        assert!(!ip("link show").contains("flannel"), "{removed:?}");
        assert!(!ip("rule show").contains("8285") && !ip("-6 rule show").contains("8286"));
        assert_eq!(ip("route show proto 82").lines().count(), 1, "that to 10.99.2.0/24");
        assert_eq!(ip("-6 route show proto 82"), "");
        assert_eq!(ip("route show table 8285"), "");
        assert!(ip("route show").contains("10.244.7.0/24 via 10.168.0.7"), "an operator's");
        assert!(!ip("link show").contains("other"), "it carries our alias");
    });
}

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
        let first = everything();
        kept(&first, async |wishes, mut reports| {
            let mut second = devices();
            add_peer(&mut second, 4);
            second.neighbours[0].mac = mac(0x44);
            second.fdb[0].mac = mac(0x44);
            second.routes.push(route("10.244.2.0/24", unicast("10.168.0.12", "u1", false)));
            second.routes.push(route("fd00:244:0:2::/64", unicast("fd01::12", "u1", false)));
            applied(&second).await;
            let expected = shown();
            applied(&first).await;
            wishes.send_replace(Arc::new(second));
            assert!(time_back(&expected).await < BACK);

            // And back again, so that routes of IPv6 move from the underlay to the device.
            applied(&first).await;
            let expected = shown();
            wishes.send_replace(Arc::new(first.clone()));
            assert!(time_back(&expected).await < BACK);

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
        let inner: std::net::Ipv4Addr =
            u32::from_be_bytes([10, 245, 0, 0]).wrapping_add(16 * number).into();
        let mac = MacAddress([0x0a, 0, 0, 1 + generation as u8, high, low]);
        let device = || "flannel.1".to_owned();
        let to = unicast(&inner.to_string(), "flannel.1", true);
        state.routes.push(route(&format!("{inner}/28"), to));
        state.neighbours.push(Neighbour { device: device(), address: inner.into(), mac });
        let outer = u32::from_be_bytes([10, 169, 0, 0]) + number + generation;
        let destination = std::net::Ipv4Addr::from(outer).into();
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
            let run = futures_util::future::FutureExt::boxed(apply(state));
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
            return std::task::Poll::Ready(None);
        }
        polls -= 1;
        std::pin::Pin::new(&mut run).poll(context).map(Some)
    })
    .await
}

#[test]
fn only_hosts_without_a_router_in_between_are_on_the_link() {
    in_new_namespace("only_hosts_without_a_router_in_between_are_on_the_link", || async {
        build_host();
        ip("tuntap add vpn mode tun");
        ip("link set vpn up");
        ip("addr add 10.9.0.1/24 dev vpn");
        ip("route add 10.8.0.0/24 via 10.168.0.9");
        ip("route add unreachable 10.6.0.0/24");
        ip("route add 10.5.0.0/24 dev u1");
        ip("-6 route add default dev u1");
        let netlink = Netlink::open().unwrap();
        for (address, expected) in [
            ("10.168.0.3", true),
            ("10.5.0.3", true),
            ("fd01::3", true),
            ("10.168.0.2", false),
            ("127.0.0.1", false),
            ("10.9.0.3", false),
            ("10.8.0.3", false),
            ("10.6.0.3", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            let found = is_on_link(&netlink, address.parse().unwrap()).await.unwrap();
            assert_eq!(found, expected, "{address}");
        }
    });
}
