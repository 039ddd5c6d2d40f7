//! How each object prints.

use crate::kernel::MacAddress;
use crate::kernel::object::{
    Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule, State, Underlay, VXLAN_PORT, Vxlan,
};

const MAC: MacAddress = MacAddress([0x0a, 0, 0, 0, 0, 0x22]);

fn vxlan() -> Vxlan {
    Vxlan {
        name: "flannel.1".to_owned(),
        vni: 1,
        underlay: Underlay { name: "eth0".to_owned(), index: 2 },
        local: [10, 168, 0, 2].into(),
        port: VXLAN_PORT,
        mtu: 1450,
        mac: MacAddress([0x0a, 0, 0, 0, 0, 0x11]),
        learning: false,
        gbp: false,
        miss: false,
        address: [10, 5, 1, 0].into(),
    }
}

fn route(gateway: &str, kind: impl Fn(Option<std::net::IpAddr>) -> RouteKind) -> Route {
    let destination = "10.5.34.0/24".parse().unwrap();
    Route { destination, table: MAIN_TABLE, kind: kind(gateway.parse().ok()), metric: None }
}

#[test]
fn a_whole_state_prints_one_line_an_object() {
    let unicast = |gateway| RouteKind::Unicast {
        gateway,
        device: "flannel.1".to_owned(),
        onlink: true,
        source: None,
        mtu: None,
    };
    let state = State {
        vxlans: vec![vxlan()],
        routes: vec![route("10.5.34.0", unicast)],
        rules: vec![Rule {
            priority: 5000,
            source: "10.5.1.0/32".parse().unwrap(),
            source_port: Some(4000),
            table: 5001,
        }],
        neighbours: vec![Neighbour {
            device: "flannel.1".to_owned(),
            address: [10, 5, 34, 0].into(),
            mac: MAC,
        }],
        fdb: vec![Fdb {
            device: "flannel.1".to_owned(),
            mac: MAC,
            destination: [10, 168, 0, 3].into(),
        }],
        networks: vec!["10.5.0.0/16".parse().unwrap()],
    };
    let expected = "\
link flannel.1 address 0a:00:00:00:00:11 mtu 1450 type vxlan id 1 local 10.168.0.2 dev eth0 dstport 8472 nolearning
address 10.5.1.0/32 dev flannel.1
neigh 10.5.34.0 lladdr 0a:00:00:00:00:22 dev flannel.1
fdb 0a:00:00:00:00:22 dev flannel.1 dst 10.168.0.3 self
route 10.5.34.0/24 via 10.5.34.0 dev flannel.1 onlink
rule priority 5000 from 10.5.1.0/32 ipproto udp sport 4000 lookup 5001
";
    assert_eq!(state.to_string(), expected);
}

#[test]
fn every_option_is_printed() {
    let all = Vxlan { learning: true, gbp: true, miss: true, ..vxlan() };
    assert!(all.to_string().ends_with(" learning proxy l2miss l3miss gbp"), "{all}");

    let full = |gateway| RouteKind::Unicast {
        gateway,
        device: "eth0".to_owned(),
        onlink: false,
        source: Some([10, 5, 1, 0].into()),
        mtu: Some(1400),
    };
    let table = Route { table: 5001, metric: Some(7), ..route("10.168.0.3", full) };
    let text = "10.5.34.0/24 via 10.168.0.3 dev eth0 table 5001 src 10.5.1.0 metric 7 mtu 1400";
    assert_eq!(table.to_string(), text);
    assert_eq!(route("", |_| RouteKind::Blackhole).to_string(), "blackhole 10.5.34.0/24");
    let last = Route { metric: Some(9999), ..route("", |_| RouteKind::Unreachable) };
    assert_eq!(last.to_string(), "unreachable 10.5.34.0/24 metric 9999");
}
