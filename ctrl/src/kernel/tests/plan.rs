//! The plan, one test a rule.

use super::text::{actual, bare, inet, state};
use crate::kernel::MacAddress;
use crate::kernel::actual::{Actual, Device, VxlanParameters};
use crate::kernel::object::State;
use crate::kernel::plan::plan;

/// One peer over VXLAN.
const PEER: &str = "
    neigh 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1
    fdb 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self
    route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink";

const LINK: &str = "
    link flannel.1";

/// The line that makes it.
const LINK_ADDED: &str = "link add flannel.1 address 0a:00:00:00:00:01 mtu 1450 type vxlan id 1 \
    local 10.168.0.2 dev u1 dstport 8472 nolearning";

fn with(parts: &[&str]) -> String {
    parts.join("\n")
}

#[track_caller]
fn check(actual: &Actual, desired: &State, expected: &[&str]) {
    let texts: Vec<String> =
        plan(actual, desired).actions.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

/// Both states as text.
#[track_caller]
fn check_text(there: &str, wanted: &str, expected: &[&str]) {
    check(&actual(there), &state(wanted), expected);
}

fn foreign(actual: &Actual, desired: &State) -> Vec<String> {
    plan(actual, desired).foreign.iter().map(ToString::to_string).collect()
}

#[test]
fn everything_is_made_in_an_order_that_can_succeed() {
    let wanted = with(&[
        "route unreachable 10.244.0.0/16 metric 9999",
        "route 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
        "rule priority 8285 from 10.244.1.0/32 ipproto udp sport 4000 lookup 8285",
        PEER,
        LINK,
        "fdb 0a:00:00:00:00:03 dev flannel.1 dst 10.168.0.4 self",
        "neigh 10.244.3.0 lladdr 0a:00:00:00:00:03 dev flannel.1",
    ]);
    let expected = [
        LINK_ADDED,
        "link set flannel.1 alias weft",
        "sysctl flannel.1.addr_gen_mode=1",
        "sysctl flannel.1.accept_ra=0",
        "sysctl flannel.1.rp_filter=2",
        "address add 10.244.1.0/32 dev flannel.1",
        "link set flannel.1 up",
        "fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
        "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
        "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "fdb replace 0a:00:00:00:00:03 dev flannel.1 dst 10.168.0.4 self",
        "neigh replace 10.244.3.0 lladdr 0a:00:00:00:00:03 dev flannel.1",
        "route add 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
        "route add unreachable 10.244.0.0/16 metric 9999",
        "rule add priority 8285 from 10.244.1.0/32 ipproto udp sport 4000 lookup 8285",
    ];
    check_text("", &wanted, &expected);
    check_text(&wanted, &wanted, &[]);
}

#[test]
fn what_a_new_device_has_by_default_is_not_set() {
    let expected = [
        LINK_ADDED,
        "link set flannel.1 alias weft",
        "sysctl flannel.1.addr_gen_mode=1",
        "address add 10.244.1.0/32 dev flannel.1",
        "link set flannel.1 up",
    ];
    let new_settings = [Some(0), Some(0), Some(0), None, None, None, None];
    check(&Actual { new_settings, ..actual("") }, &state(LINK), &expected);
}

#[test]
fn a_peer_that_goes_leaves_nothing() {
    let expected = [
        "route delete 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 82",
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
        "neigh delete 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
    ];
    check_text(&with(&[LINK, PEER]), LINK, &expected);
}

#[test]
fn a_peers_new_hardware_address_or_host_replaces_the_old_one() {
    let there = with(&[LINK, PEER]);
    let expected = [
        "fdb replace 0a:00:00:00:00:22 dev flannel.1 dst 10.168.0.3 self",
        "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:22 dev flannel.1",
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
    ];
    check_text(&there, &there.replace(":00:02", ":00:22"), &expected);
    let expected = ["fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.9 self"];
    check_text(&there, &there.replace("168.0.3", "168.0.9"), &expected);
}

#[test]
fn of_several_destinations_all_but_one_go_before() {
    let others = "
        fdb 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.4 self
        fdb 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.5 self";
    let wanted = with(&[LINK, PEER]);
    let expected = [
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.5 self",
        "fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
    ];
    let there = with(&[LINK, PEER, others]).replace("dst 10.168.0.3", "dst 10.168.0.4");
    check_text(&there, &wanted, &expected);
    let expected = [
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.4 self",
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.5 self",
    ];
    check_text(&with(&[LINK, PEER, others]), &wanted, &expected);
}

#[test]
fn a_route_changes_its_way_without_a_gap() {
    let direct = "route 10.244.2.0/24 via 10.168.0.3 dev u1";
    let expected = [
        "route replace 10.244.2.0/24 via 10.168.0.3 dev u1",
        "fdb delete 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
        "neigh delete 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
    ];
    check_text(&with(&[LINK, PEER]), &with(&[LINK, direct]), &expected);
    let expected = [
        "fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
        "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
        "route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    ];
    check_text(&with(&[LINK, direct]), &with(&[LINK, PEER]), &expected);
    let with_metric = "route 10.244.2.0/24 via 10.168.0.3 dev u1 metric 7";
    let expected = [
        "route add 10.244.2.0/24 via 10.168.0.3 dev u1 metric 7",
        "route delete 10.244.2.0/24 via 10.168.0.3 dev u1 proto 82",
    ];
    check_text(direct, with_metric, &expected);
}

#[test]
fn ipv6_needs_room_for_a_gateway_that_another_route_covers() {
    let direct = "route fd00:244:0:2::/64 via fd01::3 dev u1";
    let onlink = "route fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 onlink";
    let host = "route fd00:244:0:2::/128 dev flannel-v6.1";
    let link = "link flannel-v6.1";
    let there = with(&[link, direct]);
    let expected = [
        "route delete fd00:244:0:2::/64 via fd01::3 dev u1 metric 1024 proto 82",
        "route add fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 onlink",
    ];
    check_text(&there, &with(&[link, onlink]), &expected);
    let neighbour = "neigh fd00:244:0:2:: lladdr 0a:00:00:00:00:02 dev flannel-v6.1";
    let expected = [
        "neigh replace fd00:244:0:2:: lladdr 0a:00:00:00:00:02 dev flannel-v6.1",
        "route add fd00:244:0:2::/128 dev flannel-v6.1",
        "route replace fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 onlink",
    ];
    check_text(&there, &with(&[link, onlink, host, neighbour]), &expected);
    let expected = ["route replace fd00:244:0:2::/64 via fd01::3 dev u1"];
    check_text(&with(&[link, onlink]), &there, &expected);
}

#[test]
fn only_what_is_inside_and_ours_is_stale() {
    let there = "
        route 10.244.2.0/24 via 10.168.0.3 dev u1
        route 10.244.2.0/24 via 10.168.0.3 dev u1 table 99
        route unreachable 10.244.3.0/24 metric 5
        route fd00:244:0:2::/64 via fd01::3 dev u1
        route 10.99.2.0/24 via 10.168.0.3 dev u1
        route 10.244.4.0/24 via 10.168.0.3 dev u1 proto 3
        route 10.244.5.0/24 via 10.168.0.3 dev u1 proto 4
        route 10.244.6.0/24 dev u1 proto 2
        rule priority 1 from 10.244.1.0/32 ipproto udp lookup 99
        rule priority 2 from 10.99.1.0/32 ipproto udp lookup 99
        rule priority 3 from 10.244.1.0/32 ipproto udp lookup 99 foreign";
    let expected = [
        "rule delete priority 1 from 10.244.1.0/32 ipproto udp lookup 99",
        "route delete 10.244.2.0/24 via 10.168.0.3 dev u1 table 99 proto 82",
        "route delete 10.244.2.0/24 via 10.168.0.3 dev u1 proto 82",
        "route delete unreachable 10.244.3.0/24 metric 5 proto 82",
        "route delete fd00:244:0:2::/64 via fd01::3 dev u1 metric 1024 proto 82",
    ];
    let mut actions: Vec<String> =
        plan(&actual(there), &state("")).actions.iter().map(ToString::to_string).collect();
    actions[1..3].sort_by_key(|text| !text.contains("table"));
    assert_eq!(actions, expected);
}

#[test]
fn the_engines_route_is_left_to_the_engine() {
    let there = "
        route 10.244.0.0/16 dev flannel0
        route fd00:244::/48 dev flannel0";
    check_text(there, "", &[]);
}

#[test]
fn a_foreign_route_that_wins_stays_and_keeps_ours_away() {
    let wanted = state("route 10.244.2.0/24 via 10.168.0.3 dev u1");
    let there = actual("route 10.244.2.0/24 via 10.168.0.9 dev u1 proto 4");
    check(&there, &wanted, &[]);
    assert_eq!(foreign(&there, &wanted), ["10.244.2.0/24 via 10.168.0.9 dev u1 proto 4 metric 0"]);

    let wanted = state("route fd00:244:0:2::/64 via fd01::3 dev u1");
    let there = actual(
        "route fd00:244:0:2::/64 via fd01::9 dev u1 metric 5 proto 4
         route fd00:244:0:2::/64 via fd01::3 dev u1",
    );
    let expected = ["route delete fd00:244:0:2::/64 via fd01::3 dev u1 metric 1024 proto 82"];
    check(&there, &wanted, &expected);
    assert_eq!(foreign(&there, &wanted).len(), 1);
}

#[test]
fn a_foreign_route_that_does_the_same_is_as_good_as_ours() {
    let wanted = state("route 10.244.2.0/24 via 10.168.0.3 dev u1");
    for protocol in [3, 4, 186] {
        let text = format!("route 10.244.2.0/24 via 10.168.0.3 dev u1 proto {protocol}");
        check(&actual(&text), &wanted, &[]);
        assert_eq!(foreign(&actual(&text), &wanted), [""; 0]);
        check(&actual(&text), &state(""), &[]);
    }
}

#[test]
fn a_foreign_route_that_loses_is_only_named() {
    let wanted = state("route 10.244.2.0/24 via 10.168.0.3 dev u1");
    let there = actual("route 10.244.2.0/24 via 10.168.0.9 dev u1 metric 50 proto 4");
    check(&there, &wanted, &["route add 10.244.2.0/24 via 10.168.0.3 dev u1"]);
    let found = plan(&there, &wanted).foreign;
    assert!(!found[0].wins(), "{found:?}");
}

/// The pods' bridge has the same destination as the blackhole route for our own subnet.
#[test]
fn a_last_resort_does_not_mind_better_routes() {
    let there = actual("route 10.244.1.0/24 dev cni0 proto 2");
    let wanted = state("route blackhole 10.244.1.0/24 metric 9999");
    check(&there, &wanted, &["route add blackhole 10.244.1.0/24 metric 9999"]);
    assert_eq!(foreign(&there, &wanted), [""; 0]);
}

/// They would let packets out in clear, or round by the default route, if they went for a moment.
#[test]
fn routes_that_carry_nothing_stay() {
    let there = actual(
        "
        route blackhole 10.244.1.0/24 metric 4294967295 proto 82
        route unreachable 10.244.0.0/16 metric 4294967294 proto 82
        route unreachable 10.244.0.0/16 metric 4294967295 proto 82
        route unreachable 10.244.0.0/16 metric 9999 proto 82",
    );
    let expected = [
        "route delete unreachable 10.244.0.0/16 metric 4294967295 proto 82",
        "route delete unreachable 10.244.0.0/16 metric 9999 proto 82",
    ];
    check(&there, &state(""), &expected);
}

#[test]
fn what_flanneld_left_on_its_device_is_taken_over() {
    let boot = PEER.replace("onlink", "onlink proto 3");
    let stale = "route 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink proto 3";
    let others = "
        route 192.0.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 3
        route 10.244.1.0/32 dev flannel.1 proto 2";
    let mut there = actual(&with(&[LINK, &boot, stale, others]));
    there.devices.get_mut("flannel.1").unwrap().alias = None;
    let expected = [
        "link set flannel.1 alias weft",
        "route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "route delete 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink proto 3",
    ];
    check(&there, &state(&with(&[LINK, PEER])), &expected);
    // Without a wish for the device, its routes go, and the device itself is not ours.
    let direct = state("route 10.244.2.0/24 via 10.168.0.3 dev u1");
    let expected = [
        "route replace 10.244.2.0/24 via 10.168.0.3 dev u1",
        "route delete 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink proto 3",
    ];
    check(&there, &direct, &expected);
}

#[test]
fn what_flanneld_left_via_a_known_host_is_exchanged_but_not_removed() {
    let wanted = "
        route 10.244.2.0/24 via 10.168.0.3 dev u1
        route 10.244.3.0/24 via 10.168.0.4 dev u1";
    let there = "
        route 10.244.2.0/24 via 10.168.0.4 dev u1 proto 3
        route 10.244.3.0/24 via 10.168.0.9 dev u1 proto 3
        route 10.244.4.0/24 via 10.168.0.4 dev u1 proto 3";
    let mut there = actual(there);
    check(&there, &state(wanted), &["route replace 10.244.2.0/24 via 10.168.0.3 dev u1"]);
    assert_eq!(foreign(&there, &state(wanted)).len(), 1, "nobody knows 10.168.0.9");
    there.former_gateways.insert([10, 168, 0, 9].into());
    let expected = [
        "route replace 10.244.2.0/24 via 10.168.0.3 dev u1",
        "route replace 10.244.3.0/24 via 10.168.0.4 dev u1",
    ];
    check(&there, &state(wanted), &expected);
}

/// With a device whose entries are made on demand.
fn on_demand(there: &str, wanted: &str) -> (Actual, State) {
    let (mut there, mut wanted) = (actual(there), state(wanted));
    wanted.vxlans.iter_mut().for_each(|vxlan| vxlan.miss = true);
    let devices = there.devices.values_mut().filter_map(|device| device.vxlan.as_mut());
    devices.for_each(|has| [has.proxy, has.l2miss, has.l3miss] = [true; 3]);
    (there, wanted)
}

/// What waits for a neighbour is sent at once when it is there.
#[test]
fn a_forwarding_entry_comes_before_all_neighbours_that_lead_to_it() {
    let wanted = "
        link flannel.1
        neigh 10.244.2.7 lladdr 0a:00:00:00:00:02 dev flannel.1
        neigh 10.244.2.9 lladdr 0a:00:00:00:00:02 dev flannel.1
        fdb 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self
        route 10.244.0.0/16 dev flannel.1";
    let (there, wanted) = on_demand(LINK, wanted);
    let expected = [
        "fdb replace 0a:00:00:00:00:02 dev flannel.1 dst 10.168.0.3 self",
        "neigh replace 10.244.2.7 lladdr 0a:00:00:00:00:02 dev flannel.1",
        "neigh replace 10.244.2.9 lladdr 0a:00:00:00:00:02 dev flannel.1",
        "route add 10.244.0.0/16 dev flannel.1",
    ];
    check(&there, &wanted, &expected);
}

#[test]
fn a_device_that_asks_has_settings_of_its_own() {
    let (mut there, wanted) = on_demand(LINK, LINK);
    there.devices.get_mut("flannel.1").unwrap().settings[3..].fill(Some(9));
    let expected = ["sysctl flannel.1.app_solicit=3", "sysctl flannel.1.mcast_solicit=0"];
    check(&there, &wanted, &expected);
    let v6 = "link flannel-v6.1";
    let (mut there, wanted) = on_demand(v6, v6);
    there.devices.get_mut("flannel-v6.1").unwrap().settings[3..].fill(Some(9));
    let expected = ["sysctl flannel-v6.1.app_solicit=3", "sysctl flannel-v6.1.mcast_solicit=0"];
    check(&there, &wanted, &expected);
    let mut others = actual(LINK);
    others.devices.get_mut("flannel.1").unwrap().settings[3..].fill(Some(9));
    check(&others, &state(LINK), &[]);
}

#[test]
fn the_way_to_pods_of_a_bridge_is_left_to_it() {
    let route = "
        link flannel.1
        route 10.244.0.0/16 dev flannel.1";
    let (mut there, wanted) = on_demand(route, route);
    check(&there, &wanted, &[]);
    there.devices.get_mut("flannel.1").unwrap().controller = Some(7);
    check(&there, &wanted, &["route delete 10.244.0.0/16 dev flannel.1 proto 82"]);
    // The bridge has a route of its own, which nobody minds.
    let (mut there, wanted) =
        on_demand("link flannel.1\nroute 10.244.0.0/16 dev u1 proto 2", route);
    there.devices.get_mut("flannel.1").unwrap().controller = Some(7);
    check(&there, &wanted, &[]);
    assert_eq!(foreign(&there, &wanted), [""; 0]);
    // As a port of somebody's bridge, a device with everything on it keeps its routes.
    let mut there = actual(&with(&[LINK, PEER]));
    there.devices.get_mut("flannel.1").unwrap().controller = Some(7);
    check(&there, &state(&with(&[LINK, PEER])), &[]);
}

#[test]
fn every_difference_of_a_device_is_put_right_in_place() {
    type Change = fn(&mut Device);
    let table: [(Change, &[&str]); 9] = [
        (|d| d.alias = Some("mine".to_owned()), &["link set flannel.1 alias weft"]),
        (|d| d.mtu = 1400, &["link set flannel.1 mtu 1450"]),
        (|d| d.up = false, &["link set flannel.1 up"]),
        (|d| d.settings[2] = Some(1), &["sysctl flannel.1.rp_filter=2"]),
        (
            |d| d.vxlan.as_mut().unwrap().learning = true,
            &["link set flannel.1 type vxlan nolearning"],
        ),
        (|d| d.addresses.clear(), &["address add 10.244.1.0/32 dev flannel.1"]),
        (
            |d| d.addresses.extend([inet("10.244.9.0/32"), inet("192.0.2.1/24")]),
            &["address delete 10.244.9.0/32 dev flannel.1"],
        ),
        (
            |d| d.addresses = vec![inet("10.244.1.0/16")],
            &[
                "address add 10.244.1.0/32 dev flannel.1",
                "address delete 10.244.1.0/16 dev flannel.1",
            ],
        ),
        (
            |d| d.mac = Some(MacAddress([2; 6])),
            &[
                "link set flannel.1 address 0a:00:00:00:00:01",
                "neigh replace 10.244.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
            ],
        ),
    ];
    let text = with(&[LINK, PEER]);
    for (change, expected) in table {
        let mut there = actual(&text);
        change(there.devices.get_mut("flannel.1").unwrap());
        check(&there, &state(&text), expected);
    }
    let mut there = actual("link flannel-v6.1");
    there.devices.get_mut("flannel-v6.1").unwrap().addresses = vec![inet("fd00:244:0:1::/64")];
    let expected = [
        "address delete fd00:244:0:1::/64 dev flannel-v6.1",
        "address add fd00:244:0:1::/128 dev flannel-v6.1",
    ];
    check(&there, &state("link flannel-v6.1"), &expected);
}

#[test]
fn a_device_that_cannot_be_changed_is_replaced_with_all_peers() {
    type Change = fn(&mut VxlanParameters);
    let changes: [Change; 9] = [
        |vxlan| vxlan.vni = 2,
        |vxlan| vxlan.underlay = Some(9),
        |vxlan| vxlan.local = Some([10, 168, 0, 9].into()),
        |vxlan| vxlan.group = Some([239, 1, 1, 1].into()),
        |vxlan| vxlan.port = 4789,
        |vxlan| vxlan.gbp = true,
        |vxlan| vxlan.l2miss = true,
        |vxlan| vxlan.l3miss = true,
        |vxlan| vxlan.proxy = true,
    ];
    let text = with(&[LINK, PEER]);
    for change in changes {
        let mut there = actual(&text);
        change(there.devices.get_mut("flannel.1").unwrap().vxlan.as_mut().unwrap());
        let actions = plan(&there, &state(&text)).actions;
        let texts: Vec<String> = actions.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 11, "{texts:#?}");
        assert_eq!(texts[0], "link delete flannel.1");
        assert!(texts[1].starts_with("link add flannel.1 "));
        assert_eq!(texts[10], "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
    }
    let mut there = actual(&text);
    let vxlan = there.devices.get_mut("flannel.1").unwrap().vxlan.as_mut().unwrap();
    (vxlan.underlay, vxlan.local) = (None, None);
    check(&there, &state(&text), &[]);
}

#[test]
fn a_device_of_ours_that_nobody_wants_goes_at_last_with_all_on_it() {
    let direct = "route 10.244.2.0/24 via 10.168.0.3 dev u1";
    let there = with(&[LINK, PEER, "route 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink"]);
    let expected = ["route replace 10.244.2.0/24 via 10.168.0.3 dev u1", "link delete flannel.1"];
    check_text(&there, direct, &expected);

    let mut others = actual(LINK);
    others.devices.get_mut("flannel.1").unwrap().addresses = vec![inet("10.99.1.0/32")];
    check(&others, &state(""), &[]);
    let mut unmarked = actual(LINK);
    unmarked.devices.get_mut("flannel.1").unwrap().alias = None;
    check(&unmarked, &state(""), &[]);
}

#[test]
fn what_is_no_vxlan_device_is_in_the_way() {
    let mut there = actual("");
    there.devices.insert("flannel.1".to_owned(), bare(7));
    let wanted = state(&with(&[LINK, PEER, "route 10.244.3.0/24 via 10.168.0.4 dev u1"]));
    check(&there, &wanted, &["route add 10.244.3.0/24 via 10.168.0.4 dev u1"]);
    let obstacles = plan(&there, &wanted).obstacles;
    assert_eq!(obstacles.len(), 1);
    assert!(obstacles[0].1.starts_with("There is a device flannel.1 that is no VXLAN device"));
}

#[test]
fn a_device_that_is_missing_is_told_once() {
    let wanted = state(
        "route 10.244.2.0/24 via 10.168.0.3 dev u9
         route 10.244.3.0/24 via 10.168.0.4 dev u9
         route 10.244.4.0/24 via 10.168.0.5 dev u1",
    );
    check(&actual(""), &wanted, &["route add 10.244.4.0/24 via 10.168.0.5 dev u1"]);
    assert_eq!(plan(&actual(""), &wanted).obstacles.len(), 1);
}
