//! States written down one line an object, as `ip` and `bridge` print them.

use std::net::IpAddr;
use std::str::FromStr;

use crate::device::ROUTE_PROTOCOL;
use crate::interface::snapshot::Address;
use crate::kernel::actual::{Actual, Device, FoundRoute, VxlanParameters, metric_of};
use crate::kernel::object::{
    Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule, State, Underlay, VXLAN_PORT, Vxlan,
};
use crate::kernel::{ALIAS, MacAddress};

/// Index of the underlay `u1`.
pub(super) const UNDERLAY: u32 = 2;

/// What should be there, in the networks 10.244.0.0/16 and fd00:244::/48.
pub(super) fn state(text: &str) -> State {
    let networks = ["10.244.0.0/16", "fd00:244::/48"].map(|network| network.parse().unwrap());
    let mut state = State { networks: networks.to_vec(), ..State::default() };
    for line in lines(text) {
        match line.sort {
            "link" => state.vxlans.push(vxlan(line.words[0])),
            "route" => state.routes.push(line.route()),
            "rule" => state.rules.push(line.rule()),
            "neigh" => state.neighbours.push(line.neighbour()),
            "fdb" => state.fdb.push(line.fdb()),
            other => panic!("{other}"),
        }
    }
    state
}

/// What is there, with an underlay. A `link` is in order.
pub(super) fn actual(text: &str) -> Actual {
    let mut actual = Actual::default();
    actual.devices.insert("u1".to_owned(), bare(UNDERLAY));
    for line in lines(text) {
        match line.sort {
            "link" => {
                let name = line.words[0];
                actual.devices.insert(name.to_owned(), in_order(&vxlan(name)));
            }
            "route" => {
                let route = line.route();
                let found = FoundRoute {
                    protocol: line.value("proto").unwrap_or(ROUTE_PROTOCOL),
                    metric: metric_of(&route),
                    ..FoundRoute::of(&route, None)
                };
                actual.routes.entry((route.destination, route.table)).or_default().push(found);
            }
            "rule" => {
                actual.rules.insert(line.rule(), !line.has("foreign"));
            }
            "neigh" => {
                let Neighbour { device, address, mac } = line.neighbour();
                actual.neighbours.insert((device, address), mac);
            }
            "fdb" => {
                actual.fdb.insert(line.fdb());
            }
            other => panic!("{other}"),
        }
    }
    actual
}

/// Of the family that the name says.
pub(super) fn vxlan(name: &str) -> Vxlan {
    let is_v6 = name.contains("v6");
    let choose = |v4: &str, v6: &str| if is_v6 { v6 } else { v4 }.parse().unwrap();
    Vxlan {
        name: name.to_owned(),
        vni: name.rsplit('.').next().unwrap().parse().unwrap(),
        underlay: Underlay { name: "u1".to_owned(), index: UNDERLAY },
        local: choose("10.168.0.2", "fd01::2"),
        port: VXLAN_PORT,
        mtu: 1450,
        mac: MacAddress([0x0a, 0, 0, 0, 0, 1]),
        learning: false,
        gbp: false,
        miss: false,
        address: choose("10.244.1.0", "fd00:244:0:1::"),
    }
}

/// As the kernel makes it.
pub(super) fn new_device(vxlan: &Vxlan) -> Device {
    Device {
        mtu: vxlan.mtu,
        mac: Some(vxlan.mac),
        vxlan: Some(VxlanParameters {
            vni: vxlan.vni,
            underlay: Some(vxlan.underlay.index),
            local: Some(vxlan.local),
            group: None,
            port: vxlan.port,
            learning: vxlan.learning,
            gbp: vxlan.gbp,
            proxy: vxlan.miss,
            l2miss: vxlan.miss,
            l3miss: vxlan.miss,
        }),
        settings: [Some(0), Some(1), Some(0), Some(0), Some(3), Some(0), Some(3)],
        up: false,
        ..bare(100 + vxlan.vni)
    }
}

fn in_order(vxlan: &Vxlan) -> Device {
    Device {
        up: true,
        alias: Some(ALIAS.to_owned()),
        addresses: vec![inet(&vxlan.prefix().to_string())],
        settings: crate::device::Setting::ALL.map(|setting| Some(setting.wanted())),
        ..new_device(vxlan)
    }
}

/// A device without anything.
pub(super) fn bare(index: u32) -> Device {
    Device {
        index,
        up: true,
        mtu: 1500,
        mac: None,
        alias: None,
        vxlan: None,
        addresses: Vec::new(),
        controller: None,
        settings: [None; 7],
    }
}

pub(super) fn inet(text: &str) -> Address {
    let prefix: ipnet::IpNet = text.parse().unwrap();
    Address {
        link: 0,
        local: prefix.addr(),
        peer: None,
        prefix_length: prefix.prefix_len(),
        permanent: true,
        temporary: false,
        deprecated: false,
    }
}

struct Line<'a> {
    sort: &'a str,
    words: Vec<&'a str>,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let filled = text.lines().map(str::trim).filter(|line| !line.is_empty());
    filled.map(|line| {
        let mut words = line.split(' ');
        Line { sort: words.next().unwrap(), words: words.collect() }
    })
}

impl Line<'_> {
    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        let at = self.words.iter().position(|word| *word == name)?;
        self.words[at + 1].parse().ok()
    }

    fn device(&self) -> String {
        self.value("dev").unwrap()
    }

    fn route(&self) -> Route {
        let (kind, destination) = match self.words[0] {
            "blackhole" => (RouteKind::Blackhole, self.words[1]),
            "unreachable" => (RouteKind::Unreachable, self.words[1]),
            destination => {
                let (gateway, source) = (self.value("via"), self.value("src"));
                let (device, onlink) = (self.device(), self.has("onlink"));
                let mtu = self.value("mtu");
                (RouteKind::Unicast { gateway, device, onlink, source, mtu }, destination)
            }
        };
        let table = self.value("table").unwrap_or(MAIN_TABLE);
        let destination = destination.parse().unwrap();
        Route { destination, table, kind, metric: self.value("metric") }
    }

    fn rule(&self) -> Rule {
        Rule {
            priority: self.value("priority").unwrap(),
            source: self.value("from").unwrap(),
            source_port: self.value("sport"),
            table: self.value("lookup").unwrap(),
        }
    }

    fn neighbour(&self) -> Neighbour {
        let address: IpAddr = self.words[0].parse().unwrap();
        Neighbour { device: self.device(), address, mac: self.value("lladdr").unwrap() }
    }

    fn fdb(&self) -> Fdb {
        let mac = self.words[0].parse().unwrap();
        Fdb { device: self.device(), mac, destination: self.value("dst").unwrap() }
    }
}
