//! A host with kernel paths, and what the usual tools show of them.

use std::process::Command;

use weft_ctrl::kernel::object::{
    Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule, State, Underlay, VXLAN_PORT, Vxlan,
};
use weft_ctrl::kernel::{MacAddress, Report, apply, preview};

use crate::namespace::ip;

pub(crate) fn build_host() {
    ip("link add u1 type veth peer name p1");
    ip("link set u1 up addrgenmode none");
    ip("link set p1 up addrgenmode none");
    ip("addr add 10.168.0.2/24 dev u1");
    ip("-6 addr add fd01::2/64 dev u1 nodad");
    ip("route add default via 10.168.0.1 dev u1");
}

pub(crate) fn bridge(words: &str) -> String {
    let output = Command::new("bridge").args(words.split(' ')).output();
    let output = output.expect("`bridge` comes with `ip`");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bridge {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn index(name: &str) -> u32 {
    ip(&format!("link show {name}")).split(':').next().unwrap().parse().unwrap()
}

pub(crate) fn mac(number: u8) -> MacAddress {
    MacAddress([0x0a, 0, 0, 0, 0, number])
}

pub(crate) fn vxlan_v4() -> Vxlan {
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

pub(crate) fn vxlan_v6() -> Vxlan {
    Vxlan {
        name: "flannel-v6.1".to_owned(),
        local: "fd01::2".parse().unwrap(),
        mtu: 1430,
        address: "fd00:244:0:1::".parse().unwrap(),
        ..vxlan_v4()
    }
}

pub(crate) fn unicast(gateway: &str, device: &str, onlink: bool) -> RouteKind {
    let gateway = gateway.parse().ok();
    RouteKind::Unicast { gateway, device: device.to_owned(), onlink, source: None, mtu: None }
}

pub(crate) fn route(destination: &str, kind: RouteKind) -> Route {
    Route { destination: destination.parse().unwrap(), table: MAIN_TABLE, kind, metric: None }
}

/// No peers.
pub(crate) fn devices() -> State {
    State {
        vxlans: vec![vxlan_v4(), vxlan_v6()],
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
        ..State::default()
    }
}

/// Both families of the host with this number.
pub(crate) fn add_peer(state: &mut State, number: u8) {
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
pub(crate) fn everything() -> State {
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
        mtu: Some(1300),
    };
    state.routes.push(Route { table: 8285, ..route("10.244.7.0/24", probe) });
    for (priority, source) in [(8285, "10.244.1.0/32"), (8286, "fd00:244:0:1::/128")] {
        let source = source.parse().unwrap();
        state.rules.push(Rule { priority, source, source_port: Some(4000), table: 8285 });
    }
    state
}

/// Everything that tools show of the paths, in a stable order.
pub(crate) fn shown() -> Vec<String> {
    // Of both families.
    let mut lines = lines(&ip("-d route show table all proto 82").replace(" table main", ""));
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

pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

pub(crate) async fn applied(state: &State) -> Report {
    let report = apply(state).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let left = preview(state).await.unwrap();
    assert!(left.actions.is_empty(), "{:#?}", left.actions);
    report
}

/// What is not ours, beside and inside the network.
pub(crate) fn add_foreign() {
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

pub(crate) fn foreign_lines() -> Vec<String> {
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
