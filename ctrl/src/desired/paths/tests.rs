use std::time::Instant;

use super::*;
use crate::desired::kernel::Vtep;
use crate::desired::{Book, Slots, Viewer};
use crate::kernel::MacAddress;
use crate::kernel::object::Underlay;
use crate::source::{Change, Record, Update};

const V4: &str = r#""Network":"10.5.0.0/16""#;
const BOTH: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48""#;
const ALL: &str = r#"{"Type":"udp","Paths":["host-gw","vxlan","udp"]}"#;

struct World {
    viewer: Viewer,
    host: Host,
    book: Book,
    on_link: OnLink,
    narrow: Narrow,
}

impl World {
    fn new(network: &str, backend: &str, own: &str) -> Self {
        let document = format!(r#"{{{network},"Backend":{backend}}}"#);
        let vtep = |local: &str, mtu| Vtep {
            local: local.parse().unwrap(),
            mac: MacAddress([10, 0, 0, 0, 0, 1]),
            mtu,
        };
        Self {
            viewer: Viewer {
                config: NetworkConfig::parse(document.as_bytes()).unwrap(),
                own: own.parse().unwrap(),
                identity: format!("{:032x}", 1).parse().unwrap(),
                own_addresses: vec!["192.0.2.1".parse().unwrap()],
                outer_v6: false,
                own_macs: vec![MacAddress([10, 0, 0, 0, 0, 1])],
                own_key: None,
            },
            host: Host {
                underlay: Underlay { name: "eth0".into(), index: 2 },
                vteps: vec![vtep("192.0.2.1", 1450), vtep("2001:db8::1", 1430)],
            },
            book: Book::default(),
            on_link: OnLink::new(),
            narrow: Narrow::new(),
        }
    }

    fn put(&mut self, name: &str, last: u8, paths: &str, more: &str) {
        let value = format!(
            r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":"2001:db8::{last}","Weft":{{"v":1,"id":"{last:032x}","paths":[{paths}],"vtep":"0a:00:00:00:00:{last:02x}"{more}}}}}"#
        );
        let change = Change::Put(Record::lasting(name, value.as_bytes()));
        self.book.handle(Update::Changes(vec![change]), Instant::now());
        let public: IpAddr = format!("192.0.2.{last}").parse().unwrap();
        self.on_link.insert(public, Some("eth0".into()));
    }

    fn view(&self) -> View {
        self.viewer.view(&self.book, &mut Slots::default())
    }

    fn state(&self, chosen: &[(&str, PathKind)]) -> Vec<String> {
        let Self { viewer, host, on_link, narrow, .. } = self;
        let (config, own) = (&viewer.config, &viewer.own);
        let ways = Ways { config, own, host, engine: "flannel0", on_link, narrow };
        let chosen = chosen.iter().map(|(net, path)| (net.parse().unwrap(), *path)).collect();
        let state = state(ways, &self.view(), &chosen);
        state.to_string().lines().map(str::to_owned).collect()
    }

    fn targets(&self) -> Vec<(String, Vec<PathKind>)> {
        let targets = targets(&self.view(), &self.viewer.own, &self.on_link);
        targets.into_iter().map(|one| (one.subnet.to_string(), one.paths)).collect()
    }
}

#[test]
fn every_path_is_open_and_none_is_taken_before_it_is_chosen() {
    let mut world = World::new(V4, ALL, "10.5.1.0-24");
    world.put("10.5.2.0-24", 2, r#""udp","vxlan","host-gw""#, "");
    let open = [
        "link flannel.1 address 0a:00:00:00:00:01 mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning",
        "address 10.5.1.0/32 dev flannel.1",
        "neigh 10.5.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1",
        "fdb 0a:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self",
        "route unreachable 10.5.0.0/16 table 18287 metric 9999",
        "route unreachable 10.5.0.0/16 table 18286 metric 9999",
        "route unreachable 10.5.0.0/16 table 18285 metric 9999",
        "route 10.5.2.0/32 dev flannel0 table 18285 src 10.5.1.0",
        "route 10.5.2.0/32 via 192.0.2.2 dev eth0 table 18287 src 10.5.1.0",
        "route 10.5.2.0/32 dev flannel.1 table 18286 src 10.5.1.0",
        "rule priority 18287 from 10.5.1.0/32 ipproto udp sport 18287 lookup 18287",
        "rule priority 18286 from 10.5.1.0/32 ipproto udp sport 18286 lookup 18286",
        "rule priority 18285 from 10.5.1.0/32 ipproto udp sport 18285 lookup 18285",
    ];
    let by_engine = world.state(&[("10.5.2.0/24", PathKind::Udp)]);
    assert_eq!(sorted(&by_engine), sorted(&open));
    for (path, line) in [
        (PathKind::HostGw, "route 10.5.2.0/24 via 192.0.2.2 dev eth0 src 10.5.1.0"),
        (PathKind::Vxlan, "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 src 10.5.1.0 onlink"),
    ] {
        let mut state = world.state(&[("10.5.2.0/24", path)]);
        state.retain(|one| !open.contains(&one.as_str()));
        assert_eq!(state, [line], "one route makes the difference");
    }
}

#[test]
fn a_chosen_vxlan_path_of_ipv6_has_the_way_to_its_gateway() {
    let mut world = World::new(BOTH, ALL, "10.5.1.0-24&fd05:0:0:1::-64");
    world.put("10.5.2.0-24&fd05:0:0:2::-64", 2, r#""udp","vxlan""#, "");
    let before = world.state(&[]);
    let mut state = world.state(&[("fd05:0:0:2::/64", PathKind::Vxlan)]);
    state.retain(|one| !before.contains(one));
    let expected = [
        "route fd05:0:0:2::/128 dev flannel-v6.1 src fd05:0:0:1::",
        "route fd05:0:0:2::/64 via fd05:0:0:2:: dev flannel-v6.1 src fd05:0:0:1:: onlink",
    ];
    assert_eq!(state, expected);
    let rules = before.iter().filter(|line| line.starts_with("rule ")).count();
    assert_eq!(rules, 6, "one for each path and family");
}

#[test]
fn the_route_of_a_narrow_path_says_what_that_takes_and_those_of_probes_do_not() {
    let mut world = World::new(BOTH, ALL, "10.5.1.0-24&fd05:0:0:1::-64");
    world.put("10.5.2.0-24&fd05:0:0:2::-64", 2, r#""udp","vxlan","host-gw""#, "");
    let (v4, v6) = ("10.5.2.0/24", "fd05:0:0:2::/64");
    let chosen = [(v4, PathKind::HostGw), (v6, PathKind::Vxlan)];
    for (found, in_v4, in_v6) in [(1300, 1300, 1300), (400, 576, 1280)] {
        world.narrow = [v4, v6].map(|net| (net.parse().unwrap(), found)).into();
        let mut narrow = world.state(&chosen);
        narrow.retain(|line| line.contains(" mtu ") && line.starts_with("route "));
        assert_eq!(
            narrow,
            [
                format!("route {v4} via 192.0.2.2 dev eth0 src 10.5.1.0 mtu {in_v4}"),
                format!("route fd05:0:0:2::/128 dev flannel-v6.1 src fd05:0:0:1:: mtu {in_v6}"),
                format!(
                    "route {v6} via fd05:0:0:2:: dev flannel-v6.1 src fd05:0:0:1:: mtu {in_v6} onlink"
                ),
            ]
        );
    }
}

#[test]
fn only_paths_of_both_are_open_and_probed() {
    let mut world = World::new(V4, ALL, "10.5.1.0-24");
    world.put("10.5.2.0-24", 2, r#""udp","vxlan""#, "");
    world.put("10.5.3.0-24", 3, r#""udp""#, "");
    world.put("10.5.4.0-24", 4, r#""host-gw","udp""#, "");
    world.put("10.5.5.0-24", 5, r#""host-gw","vxlan","udp""#, "");
    world.on_link.insert("192.0.2.5".parse().unwrap(), None);
    let change = Change::Put(Record::lasting("10.5.6.0-24", r#"{"PublicIP":"192.0.2.6"}"#));
    world.book.handle(Update::Changes(vec![change]), Instant::now());
    use PathKind::{HostGw, Udp, Vxlan};
    let expected = [
        ("10.5.2.0/24", vec![Vxlan, Udp]),
        ("10.5.4.0/24", vec![HostGw, Udp]),
        ("10.5.5.0/24", vec![Vxlan, Udp]),
    ];
    let expected = expected.map(|(net, paths)| (net.to_owned(), paths));
    assert_eq!(world.targets(), expected);
    let state = world.state(&[]).join("\n");
    for silent in ["10.5.3.0", "10.5.6.0"] {
        assert!(!state.contains(silent), "{state}");
    }
    assert!(!state.contains("via 192.0.2.5"), "{state}");
}

#[test]
fn a_device_address_that_somebody_has_closes_only_the_tunnel() {
    let mut world = World::new(V4, ALL, "10.5.1.0-24");
    world.put("10.5.2.0-24", 1, r#""udp","vxlan","host-gw""#, "");
    assert!(world.view().accepted.is_empty(), "it is our own identity");
    world.put("10.5.3.0-24", 3, r#""udp","vxlan","host-gw""#, "");
    let twin = r#"{"PublicIP":"192.0.2.9","Weft":{"v":1,"id":"00000000000000000000000000000009","paths":["udp","vxlan","host-gw"],"vtep":"0a:00:00:00:00:03"}}"#;
    let change = Change::Put(Record::lasting("10.5.9.0-24", twin));
    world.book.handle(Update::Changes(vec![change]), Instant::now());
    let view = world.view();
    assert_eq!(view.accepted.len(), 2);
    assert_eq!(view.accepted[1].paths, [PathKind::HostGw, PathKind::Udp]);
}

fn sorted<T: AsRef<str>>(lines: &[T]) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    lines.sort_unstable();
    lines
}
