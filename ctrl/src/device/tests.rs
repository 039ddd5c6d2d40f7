//! The plan, and what stands in the way, as tables; applying a plan to a model of the kernel has to
//! leave nothing to plan.

use ipnet::IpNet;
use proptest::prelude::*;

use super::before::{Obstacle, obstacles};
use super::plan::{Action, Actual, METRIC_V6, foreign_routes, plan};
use super::settings::Setting;
use super::{DesiredDevice, ROUTE_PROTOCOL};
use crate::interface::Interface;
use crate::interface::snapshot::{Address, Hop, Link, LinkKind, Route, Snapshot};

/// Index of the device.
const DEVICE: u32 = 7;
/// Index of the external interface.
const UNDERLAY: u32 = 2;
/// Index of the pods' bridge.
const BRIDGE: u32 = 8;
/// `RTPROT_BOOT`: made by hand.
const BOOT: u8 = 3;
/// `RTPROT_KERNEL`: made with an address.
const KERNEL: u8 = 2;

#[test]
fn a_new_device_gets_everything_in_order() {
    let actual = Actual { up: false, mtu: 1500, settings: [Some(0), Some(1), Some(1)], ..bare() };
    let expected = [
        "set addr_gen_mode to 1",
        "set accept_ra to 0",
        "set rp_filter to 2",
        "set the MTU to 1472",
        "add the address 10.244.1.0",
        "add the address fd00:244:0:1::",
        "set the device up",
        "add the route to 10.244.0.0/16",
        "add the route to fd00:244::/48",
    ];
    assert_eq!(texts(&actual), expected);
}

#[test]
fn a_device_in_order_is_left_alone() {
    assert_eq!(texts(&right()), [""; 0]);
}

#[test]
fn a_check_of_the_way_back_that_is_off_stays_off() {
    let actual = Actual { settings: [Some(1), Some(0), Some(0)], ..right() };
    assert_eq!(texts(&actual), [""; 0]);
}

#[test]
fn settings_that_the_kernel_does_not_have_are_no_step() {
    let actual = Actual { settings: [None; 3], ..right() };
    assert_eq!(texts(&actual), [""; 0]);
}

#[test]
fn every_single_difference_is_put_right() {
    type Change = fn(&mut Actual);
    let table: [(Change, &[&str]); 9] = [
        (|a| a.mtu = 1400, &["set the MTU to 1472"]),
        (|a| a.up = false, &["set the device up"]),
        (|a| a.settings[2] = Some(1), &["set rp_filter to 2"]),
        (|a| a.addresses = a.addresses.split_off(1), &["add the address 10.244.1.0"]),
        (|a| a.addresses.truncate(1), &["add the address fd00:244:0:1::"]),
        (|a| a.routes = a.routes.split_off(1), &["add the route to 10.244.0.0/16"]),
        (|a| a.routes.truncate(1), &["add the route to fd00:244::/48"]),
        (|a| a.addresses[0].permanent = false, &["add the address 10.244.1.0"]),
        (
            |a| a.addresses[0].peer = Some([10, 244, 9, 9].into()),
            &["add the address 10.244.1.0", "delete the address 10.244.1.0/32"],
        ),
    ];
    for (change, expected) in table {
        let mut actual = right();
        change(&mut actual);
        assert_eq!(texts(&actual), expected);
    }
}

#[test]
fn other_addresses_go_only_if_they_are_inside_the_network() {
    let mut actual = right();
    for text in ["10.244.1.0/16", "10.244.9.1/32", "192.0.2.1/24", "fe80::1/64", "fd00:244::5/64"] {
        actual.addresses.push(inet(text));
    }
    let expected = [
        "delete the address 10.244.1.0/16",
        "delete the address 10.244.9.1/32",
        "delete the address fd00:244::5/64",
    ];
    assert_eq!(texts(&actual), expected);
}

/// Before version 0.11 flanneld set the whole network's prefix length.
#[test]
fn an_address_with_another_length_is_replaced_in_the_order_of_its_family() {
    let mut actual = right();
    actual.addresses = vec![inet("10.244.1.0/16"), inet("fd00:244:0:1::/64")];
    let expected = [
        "add the address 10.244.1.0",
        "delete the address fd00:244:0:1::/64",
        "add the address fd00:244:0:1::",
        "delete the address 10.244.1.0/16",
    ];
    assert_eq!(texts(&actual), expected);
}

#[test]
fn a_wrong_route_of_ours_is_corrected_in_its_place() {
    type Change = fn(&mut Route);
    let changes: [Change; 6] = [
        |route| route.hops[0].link = UNDERLAY,
        |route| route.hops[0].gateway = Some([192, 0, 2, 1].into()),
        |route| route.source = Some([10, 244, 1, 0].into()),
        |route| route.scope = 253,
        |route| route.unicast = false,
        |route| route.hops.clear(),
    ];
    for change in changes {
        let mut actual = right();
        change(&mut actual.routes[0]);
        assert_eq!(texts(&actual), ["correct the route to 10.244.0.0/16"]);
    }
}

#[test]
fn left_over_routes_of_ours_go_and_those_of_others_stay() {
    let mut actual = right();
    actual.routes.push(ours("10.244.2.0/24", DEVICE));
    // Of an earlier network; whose the second one is, nobody knows.
    actual.routes.push(ours("10.99.0.0/16", DEVICE));
    actual.routes.push(ours("10.98.0.0/16", UNDERLAY));
    actual.routes.push(theirs("10.244.1.0/24", BRIDGE));
    actual.routes.push(theirs("10.244.3.0/24", DEVICE));
    actual.routes.push(Route { metric: 50, ..ours("10.244.0.0/16", DEVICE) });
    actual.routes.push(Route { tos: 8, ..ours("10.244.0.0/16", DEVICE) });
    actual.routes.push(Route { metric: 51, ..ours("10.244.0.0/16", UNDERLAY) });
    let expected = [
        "delete the left-over route to 10.244.2.0/24",
        "delete the left-over route to 10.99.0.0/16",
        "delete the left-over route to 10.244.0.0/16",
        "delete the left-over route to 10.244.0.0/16",
        "delete the left-over route to 10.244.0.0/16",
    ];
    assert_eq!(texts(&actual), expected);
    assert_eq!(foreign(&actual), [""; 0]);
}

/// Peers on other paths have more specific routes, and what drops packets is there to stay.
#[test]
fn routes_of_other_paths_stay() {
    let mut actual = right();
    actual.routes.push(through_gateway(ours("10.244.2.0/24", UNDERLAY)));
    actual.routes.push(through_gateway(ours("10.244.3.0/24", DEVICE)));
    actual.routes.push(ours("10.244.3.0/32", UNDERLAY));
    for (destination, metric) in [("10.244.1.0/24", u32::MAX), ("10.244.0.0/16", 9999)] {
        let route = ours(destination, UNDERLAY);
        actual.routes.push(Route { metric, unicast: false, hops: Vec::new(), ..route });
    }
    assert_eq!(texts(&actual), [""; 0]);
    assert_eq!(foreign(&actual), [""; 0]);
}

#[test]
fn a_foreign_route_in_our_place_stays_and_is_named() {
    let mut actual = right();
    actual.routes[0] = theirs("10.244.0.0/16", UNDERLAY);
    assert_eq!(texts(&actual), [""; 0]);
    assert_eq!(foreign(&actual), ["10.244.0.0/16"]);
}

#[test]
fn a_foreign_route_that_does_the_same_counts_as_ours() {
    let mut actual = right();
    actual.routes[0] = Route { scope: 253, ..theirs("10.244.0.0/16", DEVICE) };
    assert_eq!(texts(&actual), [""; 0]);
    assert_eq!(foreign(&actual), [""; 0]);
}

#[test]
fn a_foreign_route_with_another_metric_is_named_and_ours_is_added() {
    let mut actual = right();
    actual.routes[0] = Route { metric: 5, ..theirs("10.244.0.0/16", UNDERLAY) };
    actual.routes[1] = Route { metric: 5, ..theirs("fd00:244::/48", UNDERLAY) };
    let expected = ["add the route to 10.244.0.0/16", "add the route to fd00:244::/48"];
    assert_eq!(texts(&actual), expected);
    assert_eq!(foreign(&actual), ["10.244.0.0/16", "fd00:244::/48"]);
}

/// It would go with the address that is too much, and ours would be missing then.
#[test]
fn the_route_of_an_address_on_the_whole_network_is_replaced() {
    let mut actual = right();
    actual.addresses.push(inet("10.244.1.0/16"));
    let source = Some([10, 244, 1, 0].into());
    actual.routes[0] =
        Route { protocol: KERNEL, scope: 253, source, ..ours("10.244.0.0/16", DEVICE) };
    let expected = ["correct the route to 10.244.0.0/16", "delete the address 10.244.1.0/16"];
    assert_eq!(texts(&actual), expected);
    // On another device it belongs to somebody else's address.
    actual.routes[0].hops[0].link = BRIDGE;
    assert_eq!(texts(&actual), expected[1..]);
    assert_eq!(foreign(&actual), ["10.244.0.0/16"]);
}

#[test]
fn only_families_that_are_on_are_looked_after() {
    let desired = DesiredDevice { address_v6: None, network_v6: None, ..desired() };
    let mut actual = right();
    actual.addresses.clear();
    actual.routes.clear();
    let actions = plan(&actual, &desired);
    let expected = [
        Action::AddAddress([10, 244, 1, 0].into()),
        Action::AddRoute("10.244.0.0/16".parse().unwrap()),
    ];
    assert_eq!(actions, expected);
}

proptest! {
    /// From anywhere, one plan leads to where nothing is left to do, and nothing is removed
    /// before what takes its place is there, except the IPv6 address that the kernel has once.
    #[test]
    fn planning_again_gives_nothing(actual in actuals()) {
        let actions = plan(&actual, &desired());
        let mut model = actual;
        for action in &actions {
            model.apply(action);
        }
        let again = plan(&model, &desired());
        prop_assert!(again.is_empty(), "{:?} after {:?}", again, actions);
        let is_first = |action: &&Action| !is_delete(action) || is_delete_of_v6(action);
        let firsts = actions.iter().take_while(is_first).count();
        prop_assert!(actions[firsts..].iter().all(is_delete), "{actions:?}");
    }
}

fn is_delete(action: &Action) -> bool {
    matches!(action, Action::DeleteRoute(_) | Action::DeleteAddress(_))
}

fn is_delete_of_v6(action: &Action) -> bool {
    matches!(action, Action::DeleteAddress(address) if address.local.is_ipv6())
}

fn actuals() -> impl Strategy<Value = Actual> {
    let address = prop::sample::select(vec![
        "10.244.1.0/32",
        "10.244.1.0/16",
        "10.244.7.7/32",
        "192.0.2.1/24",
        "fd00:244:0:1::/128",
        "fe80::1/64",
    ]);
    let addresses = prop::collection::vec((address, any::<bool>()), 0..4);
    let destination =
        prop::sample::select(vec!["10.244.0.0/16", "10.244.2.0/24", "fd00:244::/48", "10.0.0.0/8"]);
    let protocol = prop::sample::select(vec![ROUTE_PROTOCOL, BOOT, KERNEL]);
    let link = prop::sample::select(vec![DEVICE, UNDERLAY]);
    let metric = prop::sample::select(vec![None, Some(9)]);
    let routes = prop::collection::vec((destination, protocol, link, metric), 0..6);
    let setting = prop::option::of(0u8..3);
    (addresses, routes, any::<bool>(), [setting.clone(), setting.clone(), setting]).prop_map(
        |(addresses, routes, up, settings)| {
            let mut actual = Actual { up, settings, ..bare() };
            for (text, permanent) in addresses {
                actual.insert_address(Address { permanent, ..inet(text) });
            }
            for (destination, protocol, link, metric) in routes {
                let mut route = Route { protocol, ..ours(destination, link) };
                route.metric = metric.unwrap_or(route.metric);
                actual.insert_route(route);
            }
            actual
        },
    )
}

/// As much of the kernel as the plan relies on.
impl Actual {
    fn apply(&mut self, action: &Action) {
        match action {
            Action::Set(setting) => {
                let place = Setting::COMMON.iter().position(|other| other == setting).unwrap();
                self.settings[place] = Some(setting.wanted());
            }
            Action::SetMtu(mtu) => self.mtu = *mtu,
            Action::SetUp => self.up = true,
            Action::AddAddress(address) => {
                let length = if address.is_ipv4() { 32 } else { 128 };
                let blocks = |other: &Address| {
                    other.local == *address && address.is_ipv6() && other.prefix_length != length
                };
                assert!(!self.addresses.iter().any(blocks), "EEXIST");
                self.insert_address(inet(&format!("{address}/{length}")));
            }
            Action::AddRoute(network) => {
                assert!(self.up, "ENETDOWN");
                assert!(self.insert_route(ours(&network.to_string(), DEVICE)), "EEXIST");
            }
            Action::ReplaceRoute(network) => {
                let route = ours(&network.to_string(), DEVICE);
                let replaced = self.routes.iter_mut().find(|other| same_place(other, &route));
                let replaced = replaced.unwrap();
                assert_ne!(replaced.protocol, BOOT, "somebody else's");
                *replaced = route;
            }
            Action::DeleteRoute(route) => self.routes.retain(|other| other != route),
            Action::DeleteAddress(address) => self.addresses.retain(|other| other != address),
        }
    }

    /// Replaces what differs only in its lifetime.
    fn insert_address(&mut self, address: Address) {
        self.addresses.retain(|other| {
            (other.local, other.prefix_length) != (address.local, address.prefix_length)
        });
        self.addresses.push(address);
    }

    fn insert_route(&mut self, route: Route) -> bool {
        let is_free = !self.routes.iter().any(|other| same_place(other, &route));
        if is_free {
            self.routes.push(route);
        }
        is_free
    }
}

fn same_place(one: &Route, other: &Route) -> bool {
    (one.destination, one.tos, one.metric) == (other.destination, other.tos, other.metric)
}

#[test]
fn nothing_stands_in_the_way_on_an_ordinary_host() {
    let mut host = host();
    host.routes.push(theirs("10.244.1.0/24", BRIDGE));
    host.routes.push(theirs("10.244.3.0/24", UNDERLAY));
    host.routes.push(theirs("10.244.0.0/16", DEVICE));
    host.routes.push(ours("10.244.0.0/16", UNDERLAY));
    // The corporate network through its router is no nearer than the default route.
    host.routes.push(through_gateway(theirs("10.0.0.0/8", UNDERLAY)));
    host.routes.push(Route { unicast: false, hops: Vec::new(), ..theirs("10.0.0.0/8", 1) });
    assert_eq!(in_the_way(&host), [""; 0]);
}

#[test]
fn what_stands_in_the_way_is_named_with_its_device() {
    for (route, expected) in [
        (
            through_gateway(theirs("10.244.0.0/16", UNDERLAY)),
            "The network 10.244.0.0/16 is already routed by somebody else (10.244.0.0/16 via \
             192.0.2.1 dev eth0 proto 3 metric 0). Stop what made this route, or delete it",
        ),
        (
            Route { unicast: false, hops: Vec::new(), ..theirs("10.244.0.0/16", 1) },
            "The network 10.244.0.0/16 is already routed by somebody else (10.244.0.0/16 proto 3 \
             metric 0). Stop what made this route, or delete it",
        ),
        (
            theirs("fd00:244::/32", BRIDGE),
            "The network fd00:244::/48 of the config overlaps the subnet fd00:244::/32 that cni0 \
             is connected to. Choose another Network",
        ),
    ] {
        let mut host = host();
        host.routes.push(route);
        assert_eq!(in_the_way(&host), [expected]);
    }
}

#[test]
fn the_external_interface_may_not_be_inside_the_network_nor_around_it() {
    for subnet in ["10.244.7.5/24", "10.244.7.5/16", "10.244.7.5/8"] {
        let mut host = host();
        host.addresses.push(Address { link: UNDERLAY, ..inet(subnet) });
        let network: IpNet = subnet.parse().unwrap();
        // The kernel makes this one with the address; it is named once.
        host.routes.push(theirs(&network.trunc().to_string(), UNDERLAY));
        let found = obstacles(&desired(), &external(), &host);
        let named = found.iter().any(
            |one| matches!(one, Obstacle::Subnet { subnet, .. } if *subnet == network.trunc()),
        );
        assert!(named, "{found:?}");
        let is_exact = network.prefix_len() == 16;
        assert_eq!(found.len(), if is_exact { 2 } else { 1 }, "{found:?}");
    }
}

fn in_the_way(host: &Snapshot) -> Vec<String> {
    obstacles(&desired(), &external(), host).iter().map(Obstacle::to_string).collect()
}

fn host() -> Snapshot {
    let link = |index, name: &str| Link {
        index,
        name: name.to_owned(),
        kind: LinkKind::Other,
        mtu: 1500,
        up: true,
    };
    Snapshot {
        links: vec![
            link(1, "lo"),
            link(UNDERLAY, "eth0"),
            link(BRIDGE, "cni0"),
            link(7, "flannel0"),
        ],
        addresses: vec![Address { link: UNDERLAY, ..inet("192.0.2.10/24") }],
        routes: vec![
            through_gateway(theirs("0.0.0.0/0", UNDERLAY)),
            theirs("192.0.2.0/24", UNDERLAY),
            through_gateway(theirs("::/0", UNDERLAY)),
            theirs("fe80::/64", UNDERLAY),
        ],
    }
}

fn external() -> Interface {
    Interface {
        name: "eth0".to_owned(),
        index: UNDERLAY,
        mtu: 1500,
        address_v4: Some([192, 0, 2, 10].into()),
        address_v6: None,
        public_v4: Some([192, 0, 2, 10].into()),
        public_v6: None,
        addresses: Vec::new(),
    }
}

fn desired() -> DesiredDevice {
    DesiredDevice {
        name: "flannel0".to_owned(),
        mtu: 1472,
        address_v4: Some([10, 244, 1, 0].into()),
        address_v6: Some("fd00:244:0:1::".parse().unwrap()),
        network_v4: Some("10.244.0.0/16".parse().unwrap()),
        network_v6: Some("fd00:244::/48".parse().unwrap()),
        underlay: Vec::new(),
    }
}

fn bare() -> Actual {
    Actual {
        index: DEVICE,
        mtu: 1472,
        up: true,
        settings: [Some(1), Some(0), Some(2)],
        addresses: Vec::new(),
        routes: Vec::new(),
        underlay_gone: Vec::new(),
    }
}

fn right() -> Actual {
    Actual {
        addresses: vec![inet("10.244.1.0/32"), inet("fd00:244:0:1::/128")],
        routes: vec![ours("10.244.0.0/16", DEVICE), ours("fd00:244::/48", DEVICE)],
        ..bare()
    }
}

fn inet(text: &str) -> Address {
    let net: IpNet = text.parse().unwrap();
    Address {
        link: DEVICE,
        local: net.addr(),
        peer: None,
        prefix_length: net.prefix_len(),
        permanent: true,
        temporary: false,
        deprecated: false,
    }
}

fn ours(destination: &str, link: u32) -> Route {
    let destination: IpNet = destination.parse().unwrap();
    Route {
        destination,
        unicast: true,
        protocol: ROUTE_PROTOCOL,
        scope: 0,
        tos: 0,
        metric: if destination.addr().is_ipv4() { 0 } else { METRIC_V6 },
        source: None,
        hops: vec![Hop { link, gateway: None }],
    }
}

fn theirs(destination: &str, link: u32) -> Route {
    Route { protocol: BOOT, ..ours(destination, link) }
}

fn through_gateway(mut route: Route) -> Route {
    route.hops[0].gateway = Some([192, 0, 2, 1].into());
    route
}

fn texts(actual: &Actual) -> Vec<String> {
    plan(actual, &desired()).iter().map(Action::to_string).collect()
}

fn foreign(actual: &Actual) -> Vec<String> {
    foreign_routes(actual, &desired()).map(|route| route.destination.to_string()).collect()
}
