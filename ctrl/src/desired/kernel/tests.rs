use std::time::Instant;

use super::*;
use crate::desired::{Accepted, Book, Slots, Viewer};
use crate::kernel::misses::Miss;
use crate::source::{Change, Record, Update};

/// A node, its config and the leases of others.
struct World {
    viewer: Viewer,
    book: Book,
    host: Host,
    on_link: OnLink,
    demand: Option<Demand>,
}

impl World {
    /// `network` and `keys` are parts of the config; the own subnets are those of the families in it.
    fn new(network: &str, backend: &str, own: &str) -> Self {
        let document = format!(r#"{{{network},"Backend":{backend}}}"#);
        let config = NetworkConfig::parse(document.as_bytes()).unwrap();
        let vtep = |local: &str, last, mtu| {
            let is_on = if local.contains(':') { &config.v6 } else { &config.v4 };
            let is_there = is_on.is_some() && config.backend.vxlan().is_some();
            let mac = MacAddress([10, 0, 0, 0, 0, last]);
            is_there.then(|| Vtep { local: local.parse().unwrap(), mac, mtu })
        };
        let vteps = [vtep("192.0.2.1", 0x41, 1450), vtep("2001:db8::1", 0x61, 1430)];
        let underlay = Underlay { name: "eth0".into(), index: 2 };
        Self {
            host: Host { underlay, vteps: vteps.into_iter().flatten().collect() },
            viewer: Viewer {
                config,
                own: own.parse().unwrap(),
                identity: format!("{:032x}", 1).parse().unwrap(),
                own_addresses: vec!["192.0.2.1".parse().unwrap()],
                outer_v6: false,
                own_macs: Vec::new(),
                own_key: None,
            },
            book: Book::default(),
            on_link: OnLink::new(),
            demand: None,
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        let change = Change::Put(Record::lasting(name, value));
        self.book.handle(Update::Changes(vec![change]), Instant::now());
    }

    fn view(&self) -> View {
        self.viewer.view(&self.book, &mut Slots::default())
    }

    /// The state, one object a line.
    fn state(&self) -> Vec<String> {
        let Self { viewer, host, on_link, .. } = self;
        let known = Known { on_link, demand: self.demand.as_ref() };
        let state = state(&viewer.config, &viewer.own, host, &self.view(), known);
        assert_eq!(state.networks, viewer.config.networks().collect::<Vec<_>>());
        state.to_string().lines().map(str::to_owned).collect()
    }

    /// The kernel asks for these addresses.
    fn ask(&mut self, addresses: &[&str]) {
        let now = Instant::now();
        let (view, own) = (self.view(), self.viewer.own);
        let demand = self.demand.get_or_insert_with(|| Demand::new(now));
        demand.set_peers(&view, &own);
        for address in addresses {
            demand.handle_miss(Miss::Address(address.parse().unwrap()), now);
        }
    }

    fn answer(&mut self, address: &str, device: Option<&str>) {
        self.on_link.insert(address.parse().unwrap(), device.map(str::to_owned));
    }
}

const V4: &str = r#""Network":"10.5.0.0/16""#;
const V6: &str = r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48""#;
const DUAL: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48""#;
const OWN_V4: &str = "10.5.1.0-24";
const OWN_DUAL: &str = "10.5.1.0-24&fd00:0:0:1::-64";

/// A lease as flanneld writes it: number `last` of both families.
fn vxlan(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":"2001:db8::{last}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:00:04:0{last}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"0a:00:00:00:06:0{last}"}}}}"#
    )
}

fn host_gw(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":"2001:db8::{last}","BackendType":"host-gw"}}"#
    )
}

#[test]
fn vxlan_is_one_neighbour_one_entry_and_one_route_for_each_peer() {
    let mut world = World::new(V4, r#"{"Type":"vxlan"}"#, OWN_V4);
    let device = [
        "link flannel.1 address 0a:00:00:00:00:41 mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 \
         dstport 8472 nolearning",
        "address 10.5.1.0/32 dev flannel.1",
    ];
    assert_eq!(world.state(), device, "without peers");
    world.put("10.5.1.0-24", &vxlan(1));
    world.put("10.5.2.0-24", &vxlan(2));
    world.put("10.5.3.0-24", &vxlan(3));
    let peers = [
        "neigh 10.5.2.0 lladdr 0a:00:00:00:04:02 dev flannel.1",
        "neigh 10.5.3.0 lladdr 0a:00:00:00:04:03 dev flannel.1",
        "fdb 0a:00:00:00:04:02 dev flannel.1 dst 192.0.2.2 self",
        "fdb 0a:00:00:00:04:03 dev flannel.1 dst 192.0.2.3 self",
        "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
        "route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink",
    ];
    assert_eq!(world.state(), [&device[..], &peers].concat(), "the own lease leads nowhere");
}

#[test]
fn keys_of_the_config_reach_the_device() {
    let backend =
        r#"{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true,"Learning":true,"DirectRouting":false}"#;
    let mut world = World::new(V4, backend, OWN_V4);
    world.put("10.5.2.0-24", &vxlan(2));
    assert_eq!(
        world.state(),
        [
            "link flannel.7 address 0a:00:00:00:00:41 mtu 1450 type vxlan id 7 local 192.0.2.1 dev \
             eth0 dstport 4789 learning gbp",
            "address 10.5.1.0/32 dev flannel.7",
            "neigh 10.5.2.0 lladdr 0a:00:00:00:04:02 dev flannel.7",
            "fdb 0a:00:00:00:04:02 dev flannel.7 dst 192.0.2.2 self",
            "route 10.5.2.0/24 via 10.5.2.0 dev flannel.7 onlink",
        ]
    );
}

#[test]
fn ipv6_has_a_device_of_its_own() {
    let v6 = [
        "link flannel-v6.1 address 0a:00:00:00:00:61 mtu 1430 type vxlan id 1 local 2001:db8::1 dev \
         eth0 dstport 8472 nolearning",
        "address fd00:0:0:1::/128 dev flannel-v6.1",
        "neigh fd00:0:0:2:: lladdr 0a:00:00:00:06:02 dev flannel-v6.1",
        "fdb 0a:00:00:00:06:02 dev flannel-v6.1 dst 2001:db8::2 self",
        "route fd00:0:0:2::/64 via fd00:0:0:2:: dev flannel-v6.1 onlink",
    ];
    let mut world = World::new(V6, r#"{"Type":"vxlan"}"#, "0.0.0.0-0&fd00:0:0:1::-64");
    world.put("0.0.0.0-0&fd00:0:0:2::-64", &vxlan(2));
    assert_eq!(world.state(), v6);

    let mut world = World::new(DUAL, r#"{"Type":"vxlan"}"#, OWN_DUAL);
    world.put("10.5.2.0-24&fd00:0:0:2::-64", &vxlan(2));
    let v4 = [
        "link flannel.1 address 0a:00:00:00:00:41 mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 \
         dstport 8472 nolearning",
        "address 10.5.1.0/32 dev flannel.1",
        "neigh 10.5.2.0 lladdr 0a:00:00:00:04:02 dev flannel.1",
        "fdb 0a:00:00:00:04:02 dev flannel.1 dst 192.0.2.2 self",
        "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
    ];
    let both = [v4[0], v4[1], v6[0], v6[1], v4[2], v6[2], v4[3], v6[3], v4[4], v6[4]];
    assert_eq!(world.state(), both);
}

#[test]
fn a_changed_mac_or_address_takes_the_place_of_the_one_before() {
    let mut world = World::new(V4, r#"{"Type":"vxlan"}"#, OWN_V4);
    world.put("10.5.2.0-24", &vxlan(2));
    world.put("10.5.2.0-24", &vxlan(2).replace("04:02", "04:22"));
    assert_eq!(
        world.state()[2..],
        [
            "neigh 10.5.2.0 lladdr 0a:00:00:00:04:22 dev flannel.1",
            "fdb 0a:00:00:00:04:22 dev flannel.1 dst 192.0.2.2 self",
            "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
        ]
    );
    world.put("10.5.2.0-24", &vxlan(2).replace("192.0.2.2", "192.0.2.22"));
    assert_eq!(
        world.state()[2..],
        [
            "neigh 10.5.2.0 lladdr 0a:00:00:00:04:02 dev flannel.1",
            "fdb 0a:00:00:00:04:02 dev flannel.1 dst 192.0.2.22 self",
            "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink",
        ]
    );
}

#[test]
fn direct_routing_takes_the_link_where_there_is_one() {
    let mut world = World::new(DUAL, r#"{"Type":"VxLAN","Directrouting":true}"#, OWN_DUAL);
    world.put("10.5.2.0-24&fd00:0:0:2::-64", &vxlan(2));
    world.put("10.5.3.0-24", &vxlan(3));
    let asked: Vec<String> =
        asked_about(&world.viewer.config, &world.view()).map(|one| one.to_string()).collect();
    assert_eq!(asked, ["192.0.2.2", "2001:db8::2", "192.0.2.3"]);
    assert_eq!(
        world.state()[4..].len(),
        9,
        "who was not asked about is reached through the tunnel"
    );
    world.answer("192.0.2.2", Some("eth7"));
    world.answer("2001:db8::2", None);
    world.answer("192.0.2.3", None);
    assert_eq!(
        world.state()[4..],
        [
            "neigh fd00:0:0:2:: lladdr 0a:00:00:00:06:02 dev flannel-v6.1",
            "neigh 10.5.3.0 lladdr 0a:00:00:00:04:03 dev flannel.1",
            "fdb 0a:00:00:00:06:02 dev flannel-v6.1 dst 2001:db8::2 self",
            "fdb 0a:00:00:00:04:03 dev flannel.1 dst 192.0.2.3 self",
            "route 10.5.2.0/24 via 192.0.2.2 dev eth7",
            "route fd00:0:0:2::/64 via fd00:0:0:2:: dev flannel-v6.1 onlink",
            "route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink",
        ]
    );
    let view = world.view();
    let (config, on_link) = (&world.viewer.config, &world.on_link);
    let path = |hop| path(config, on_link, hop).name();
    let paths: Vec<_> = view.accepted.iter().flat_map(Accepted::hops).map(path).collect();
    assert_eq!(paths, ["direct", "vxlan", "vxlan"]);
}

#[test]
fn answers_are_of_no_use_without_direct_routing() {
    let mut world = World::new(V4, r#"{"Type":"vxlan"}"#, OWN_V4);
    world.put("10.5.2.0-24", &vxlan(2));
    world.answer("192.0.2.2", Some("eth0"));
    assert_eq!(asked_about(&world.viewer.config, &world.view()).count(), 0);
    assert!(world.state().contains(&"route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink".into()));
    assert_eq!(reason(&world.viewer.config, &[Path::Vxlan]), None);
}

#[test]
fn on_demand_there_is_one_route_and_what_was_asked_for() {
    let mut world = World::new(DUAL, r#"{"Type":"vxlan","OnDemand":true}"#, OWN_DUAL);
    for number in 2..=4 {
        world.put(&format!("10.5.{number}.0-24&fd00:0:0:{number}::-64"), &vxlan(number));
    }
    world.ask(&[]);
    let devices = [
        "link flannel.1 address 0a:00:00:00:00:41 mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 \
         dstport 8472 nolearning proxy l2miss l3miss",
        "address 10.5.1.0/32 dev flannel.1",
        "link flannel-v6.1 address 0a:00:00:00:00:61 mtu 1430 type vxlan id 1 local 2001:db8::1 dev \
         eth0 dstport 8472 nolearning proxy l2miss l3miss",
        "address fd00:0:0:1::/128 dev flannel-v6.1",
    ];
    let routes = ["route 10.5.0.0/16 dev flannel.1", "route fd00::/48 dev flannel-v6.1"];
    assert_eq!(world.state(), [&devices[..], &routes].concat(), "whoever has leases");
    world.ask(&["10.5.3.9", "10.5.3.7", "fd00:0:0:4::1", "10.5.9.9"]);
    let asked_for = [
        "neigh 10.5.3.7 lladdr 0a:00:00:00:04:03 dev flannel.1",
        "neigh 10.5.3.9 lladdr 0a:00:00:00:04:03 dev flannel.1",
        "neigh fd00:0:0:4::1 lladdr 0a:00:00:00:06:04 dev flannel-v6.1",
        "fdb 0a:00:00:00:04:03 dev flannel.1 dst 192.0.2.3 self",
        "fdb 0a:00:00:00:06:04 dev flannel-v6.1 dst 2001:db8::4 self",
    ];
    assert_eq!(world.state(), [&devices[..], &asked_for, &routes].concat());
    // A lease that says something else, and one that is gone.
    world.put("10.5.3.0-24&fd00:0:0:3::-64", &vxlan(3).replace("192.0.2.3", "192.0.2.33"));
    let gone = Change::Deleted { name: "10.5.4.0-24&fd00:0:0:4::-64".into(), revision: u64::MAX };
    world.book.handle(Update::Changes(vec![gone]), Instant::now());
    let fdb = ["fdb 0a:00:00:00:04:03 dev flannel.1 dst 192.0.2.33 self"];
    assert_eq!(world.state(), [&devices[..], &asked_for[..2], &fdb, &routes].concat());
}

#[test]
fn on_demand_a_peer_on_the_link_has_its_route_at_once() {
    let backend = r#"{"Type":"vxlan","OnDemand":true,"DirectRouting":true}"#;
    let mut world = World::new(V4, backend, OWN_V4);
    world.put("10.5.2.0-24", &vxlan(2));
    world.answer("192.0.2.2", Some("eth7"));
    world.ask(&["10.5.2.7"]);
    let routes = ["route 10.5.0.0/16 dev flannel.1", "route 10.5.2.0/24 via 192.0.2.2 dev eth7"];
    assert_eq!(world.state()[2..], routes);
}

#[test]
fn host_gw_is_one_route_for_each_peer() {
    let mut world = World::new(DUAL, r#"{"Type":"host-gw"}"#, OWN_DUAL);
    world.put("10.5.1.0-24&fd00:0:0:1::-64", &host_gw(1));
    world.put("10.5.2.0-24&fd00:0:0:2::-64", &host_gw(2));
    world.put("10.5.3.0-24", &host_gw(3));
    world.put("10.5.4.0-24", &vxlan(4));
    assert_eq!(
        world.state(),
        [
            "route 10.5.2.0/24 via 192.0.2.2 dev eth0",
            "route fd00:0:0:2::/64 via 2001:db8::2 dev eth0",
            "route 10.5.3.0/24 via 192.0.2.3 dev eth0",
        ]
    );
    let hop = world.view().accepted[0].hops()[0];
    assert_eq!(path(&world.viewer.config, &world.on_link, &hop), Path::HostGw);
}
