use weft_forward::table::{Sender, Table};

use super::*;
use crate::config::Subnets;
use crate::source::{Change, Record, Update};

const OWN_MAC: &str = "0a:00:00:00:00:01";

struct World {
    viewer: Viewer,
    book: Book,
    slots: Slots,
}

impl World {
    fn new(config: &str, own: &str) -> Self {
        let config = NetworkConfig::parse(config.as_bytes()).unwrap();
        let viewer = Viewer {
            outer_v6: config.v4.is_none(),
            config,
            own: own.parse().unwrap(),
            identity: identity(1),
            own_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            own_macs: vec![OWN_MAC.parse().unwrap()],
            own_key: None,
        };
        Self { viewer, book: Book::default(), slots: Slots::default() }
    }

    fn v4() -> Self {
        Self::new(r#"{"Network":"10.5.0.0/16"}"#, "10.5.1.0-24")
    }

    fn put(&mut self, name: &str, value: &str) {
        let record = Record::lasting(name, value);
        self.book.handle(Update::Changes(vec![Change::Put(record)]), Instant::now());
    }

    fn delete(&mut self, name: &str) {
        self.book.handle(
            Update::Changes(vec![Change::Deleted { name: name.into(), revision: 0 }]),
            Instant::now(),
        );
    }

    fn view(&mut self) -> View {
        self.viewer.view(&self.book, &mut self.slots)
    }

    /// One line a peer: subnets, outer address, slot and generation.
    fn peers(&mut self) -> Vec<String> {
        let line = |accepted: &Accepted| {
            let Peer { slot, generation, outer, .. } = accepted.peer().unwrap().clone();
            format!("{} {outer} {slot}.{generation}", accepted.leaf)
        };
        self.view().accepted.iter().map(line).collect()
    }

    fn rejected(&mut self) -> Vec<(String, &'static str)> {
        self.view().rejected.into_iter().map(|one| (one.name, one.reason.name())).collect()
    }
}

fn identity(number: u8) -> Identity {
    format!("{number:032x}").parse().unwrap()
}

fn flannel(last: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null}}"#)
}

fn weft(last: u8, more: &str) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"Weft":{{"v":1,"id":"{}"{more}}}}}"#,
        identity(last)
    )
}

/// A flanneld, a weft that says nothing of it, and one of another version have one source port.
#[test]
fn several_source_ports_are_for_those_who_say_so() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &flannel(2));
    world.put("10.5.3.0-24", &weft(3, ""));
    world.put("10.5.4.0-24", &weft(4, r#","ports":1"#));
    world.put("10.5.5.0-24", &weft(5, r#","ports":2"#));
    world.put("10.5.6.0-24", &weft(6, r#","ports":64"#));
    world.put("10.5.7.0-24", &weft(7, r#","ports":2"#).replace(r#""v":1"#, r#""v":2"#));
    let view = world.view();
    let source_ports: Vec<bool> =
        view.accepted.iter().map(|accepted| accepted.peer().unwrap().source_ports).collect();
    assert_eq!(source_ports, [false, false, false, true, true, false]);
}

#[test]
fn leases_become_peers_with_their_own_port_if_they_say_one() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":9000}}"#;
    let mut world = World::new(config, "10.5.1.0-24");
    world.put("10.5.1.0-24", &weft(1, ""));
    world.put("10.5.2.0-24", &flannel(2));
    world.put("10.5.3.0-24", &weft(3, r#","paths":["udp"],"port":8285,"mtu":1472"#));
    world.put("10.5.4.0-24", &weft(4, r#","v6":true"#));
    assert_eq!(
        world.peers(),
        [
            "10.5.2.0-24 192.0.2.2:9000 0.1",
            "10.5.3.0-24 192.0.2.3:8285 1.1",
            "10.5.4.0-24 192.0.2.4:9000 2.1",
        ]
    );
    let view = world.view();
    let facts: Vec<_> = view
        .accepted
        .iter()
        .map(|one| (one.peer().unwrap().inner_v6, one.peer().unwrap().mtu))
        .collect();
    assert_eq!(facts, [(false, None), (false, Some(1472)), (true, None)]);
    assert!(view.rejected.is_empty() && view.skipped.is_empty());
}

#[test]
fn the_table_finds_them() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &flannel(2));
    let view = world.view();
    let table = Table::new(world.viewer.table_input(&view, 9)).unwrap();
    assert_eq!(table.epoch(), 9);
    assert_eq!(table.own_v4().unwrap().to_string(), "10.5.1.0/24");
    let peer = table.peer_for("10.5.2.7".parse().unwrap()).unwrap();
    assert_eq!(Some(peer), view.accepted[0].peer());
    assert_eq!(table.peer_from("192.0.2.2".parse().unwrap()), Sender::Peer(peer));
}

#[test]
fn a_changed_lease_is_seen_and_gets_a_new_generation_only_if_it_moved() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &weft(2, ""));
    assert_eq!(world.peers(), ["10.5.2.0-24 192.0.2.2:8285 0.1"]);
    world.put("10.5.2.0-24", &weft(2, r#","v6":true"#));
    assert_eq!(world.peers(), ["10.5.2.0-24 192.0.2.2:8285 0.1"]);
    assert!(world.view().accepted[0].peer().unwrap().inner_v6);
    world.put("10.5.2.0-24", &weft(2, "").replace("192.0.2.2", "192.0.2.22"));
    assert_eq!(world.peers(), ["10.5.2.0-24 192.0.2.22:8285 0.2"]);
    world.put("10.5.2.0-24", &weft(3, ""));
    assert_eq!(world.peers(), ["10.5.2.0-24 192.0.2.3:8285 0.3"], "another owner");
    world.delete("10.5.2.0-24");
    assert!(world.peers().is_empty());
    world.put("10.5.7.0-24", &flannel(7));
    assert_eq!(world.peers(), ["10.5.7.0-24 192.0.2.7:8285 0.4"]);
}

#[test]
fn one_bad_lease_harms_no_other() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &flannel(2));
    world.put("rubbish", "x");
    world.put("10.5.3.0-24", "x");
    world.put("10.5.4.0-24", &flannel(1));
    world.put("10.5.5.0-25", &flannel(5));
    world.put("10.5.2.0-24&fd00::-64", &flannel(6));
    world.put("10.5.6.0-24", &weft(1, "").replace("192.0.2.1\"", "192.0.2.6\""));
    world.put("10.5.1.0-24&fd00::-64", &flannel(8));
    world.put("10.5.7.0-24", &flannel(7));
    assert_eq!(
        world.peers(),
        ["10.5.2.0-24 192.0.2.2:8285 0.1", "10.5.7.0-24 192.0.2.7:8285 1.1",]
    );
    let expected = [
        ("rubbish", "name"),
        ("10.5.3.0-24", "value"),
        ("10.5.4.0-24", "public_ip_ours"),
        ("10.5.5.0-25", "length"),
        ("10.5.2.0-24&fd00::-64", "overlaps_older"),
        ("10.5.6.0-24", "own_identity"),
        ("10.5.1.0-24&fd00::-64", "overlaps_own"),
    ];
    assert_eq!(world.rejected(), expected.map(|(name, reason)| (name.to_owned(), reason)));
}

#[test]
fn what_overlapped_takes_over_when_the_older_one_goes() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &flannel(2));
    world.put("10.5.2.0-24&fd00::-64", &flannel(6));
    world.delete("10.5.2.0-24");
    assert_eq!(world.peers(), ["10.5.2.0-24 192.0.2.6:8285 0.1"]);
    assert!(world.rejected().is_empty());
}

#[test]
fn leases_of_other_backends_are_listed_apart() {
    let mut world = World::v4();
    let typed = |kind: &str| flannel(2).replace('}', &format!(r#","BackendType":"{kind}"}}"#));
    world.put("10.5.2.0-24", &typed("vxlan"));
    world.put("10.5.3.0-24", &weft(3, r#","paths":["vxlan","host-gw"]"#));
    world.put("10.5.4.0-24", &typed("udp"));
    assert_eq!(world.peers(), ["10.5.4.0-24 192.0.2.2:8285 0.1"]);
    let skipped: Vec<_> = world.view().skipped.into_iter().map(|one| one.backend).collect();
    assert_eq!(skipped, ["vxlan", "vxlan,host-gw"]);
}

/// One line for each way to a peer.
fn hops(view: &View) -> Vec<String> {
    let hops = view.accepted.iter().flat_map(Accepted::hops);
    let mac = |hop: &Hop| hop.mac.map_or_else(String::new, |mac| format!(" {mac}"));
    hops.map(|hop| format!("{} {}{}", hop.subnet, hop.public, mac(hop))).collect()
}

/// A lease as flanneld writes it, with the data of a device.
fn vtep(last: u8, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

#[test]
fn vxlan_takes_leases_with_a_device_of_their_own() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
    let mut world = World::new(config, "10.5.1.0-24");
    world.put("10.5.1.0-24", &vtep(1, OWN_MAC));
    world.put("10.5.2.0-24", &vtep(2, "0a:00:00:00:00:02"));
    world.put("10.5.3.0-24", &vtep(3, "0a:00:00:00:00:02"));
    world.put("10.5.4.0-24", &vtep(4, OWN_MAC));
    world.put("10.5.5.0-24", &vtep(5, "00:00:00:00:00:00"));
    world.put("10.5.6.0-24", &vtep(6, "01:00:5e:00:00:06"));
    world.put("10.5.7.0-24", &vtep(7, "what"));
    world.put("10.5.8.0-24", &vtep(8, "").replace(r#","BackendData":{"VNI":1,"VtepMAC":""}"#, ""));
    world.put("10.5.9.0-24", &flannel(9));
    world.put("10.5.10.0-24", &flannel(10).replace('}', r#","BackendType":"host-gw"}"#));
    world.put("10.5.11.0-24", &vtep(11, "0a:00:00:00:00:0b"));
    let view = world.view();
    assert_eq!(
        hops(&view),
        ["10.5.2.0/24 192.0.2.2 0a:00:00:00:00:02", "10.5.11.0/24 192.0.2.11 0a:00:00:00:00:0b"]
    );
    let rejected: Vec<_> =
        view.rejected.iter().map(|one| (one.name.as_str(), one.reason.name())).collect();
    assert_eq!(
        rejected,
        [
            ("10.5.3.0-24", "mac_taken"),
            ("10.5.4.0-24", "mac_taken"),
            ("10.5.5.0-24", "mac_unusable"),
            ("10.5.6.0-24", "mac_unusable"),
            ("10.5.7.0-24", "mac_unusable"),
            ("10.5.8.0-24", "mac_unusable"),
        ]
    );
    let skipped: Vec<_> =
        view.skipped.iter().map(|one| (one.name.as_str(), one.backend.as_str())).collect();
    assert_eq!(skipped, [("10.5.9.0-24", "udp"), ("10.5.10.0-24", "host-gw")]);
    assert!(Table::new(world.viewer.table_input(&view, 2)).unwrap().peers().is_empty());
}

#[test]
fn a_rejected_lease_leaves_its_mac_and_subnet_to_others() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
    let mut world = World::new(config, "10.5.1.0-24");
    world.put("10.5.2.0-25", &vtep(2, "0a:00:00:00:00:02"));
    world.put("10.5.3.0-24", &vtep(3, "00:00:00:00:00:00"));
    world.put("10.5.4.0-24", &vtep(4, "0a:00:00:00:00:02"));
    assert_eq!(hops(&world.view()), ["10.5.4.0/24 192.0.2.4 0a:00:00:00:00:02"]);
    world.put("10.5.3.0-24", &vtep(3, "0a:00:00:00:00:03"));
    assert_eq!(world.view().accepted.len(), 2);
}

#[test]
fn host_gw_takes_its_own_type_alone() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let mut world = World::new(config, "10.5.1.0-24");
    let host_gw = |last: u8| flannel(last).replace('}', r#","BackendType":"host-gw"}"#);
    world.put("10.5.2.0-24", &host_gw(2));
    world.put("10.5.3.0-24", &vtep(3, "0a:00:00:00:00:03"));
    world.put("10.5.4.0-24", &weft(4, r#","paths":["udp"]"#));
    let view = world.view();
    assert_eq!(hops(&view), ["10.5.2.0/24 192.0.2.2"]);
    assert_eq!(view.skipped.len(), 2);
}

#[test]
fn announced_addresses_are_believed_where_they_can_be() {
    let mut world = World::v4();
    let addrs = r#","addrs":["198.51.100.2","192.0.2.2","10.5.9.9","192.0.2.1","127.0.0.1","::"]"#;
    world.put("10.5.2.0-24", &weft(2, addrs));
    let addresses: Vec<_> = world.view().accepted[0]
        .peer()
        .unwrap()
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["192.0.2.2", "198.51.100.2"]);
}

#[test]
fn of_two_leases_with_one_address_the_newer_one_sends() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &weft(2, ""));
    world.put("10.5.3.0-24", &weft(3, "").replace("192.0.2.3", "192.0.2.2"));
    let view = world.view();
    assert_eq!(view.accepted.len(), 2);
    let table = Table::new(world.viewer.table_input(&view, 2)).unwrap();
    let Sender::Peer(peer) = table.peer_from("192.0.2.2".parse().unwrap()) else {
        panic!("nobody sends")
    };
    assert_eq!(peer.subnet_v4.unwrap().to_string(), "10.5.3.0/24");
}

#[test]
fn families() {
    let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
    let mut world = World::new(dual, "10.5.1.0-24&fd00:0:0:1::-64");
    let both = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","Weft":{"v":1,"v6":true}}"#;
    world.put("10.5.2.0-24&fd00:0:0:2::-64", both);
    world.put("0.0.0.0-0&fd00:0:0:3::-64", r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3"}"#);
    assert_eq!(world.peers(), ["10.5.2.0-24&fd00:0:0:2::-64 192.0.2.2:8285 0.1"]);
    assert_eq!(world.view().accepted[0].peer().unwrap().addresses.len(), 2);
    assert_eq!(world.rejected(), [("0.0.0.0-0&fd00:0:0:3::-64".to_owned(), "public_ip_missing")]);

    let v6 = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
    let mut world = World::new(v6, "0.0.0.0-0&fd00:0:0:1::-64");
    world.put("10.5.2.0-24&fd00:0:0:2::-64", both);
    assert_eq!(world.peers(), ["0.0.0.0-0&fd00:0:0:2::-64 [2001:db8::2]:8285 0.1"]);
}

/// A family without data, or without an address, is one that the peer does not have.
#[test]
fn families_of_kernel_paths() {
    let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48",
        "Backend":{"Type":"vxlan"}}"#;
    let mut world = World::new(dual, "10.5.1.0-24&fd00:0:0:1::-64");
    let data = |last: u8, v6: &str, more: &str| {
        vtep(last, &format!("0a:00:00:00:00:{last:02x}"))
            .replace("null", v6)
            .replace("}}", &format!("}}{more}}}"))
    };
    let v6 = |last: u8| {
        let mac = format!("0a:00:00:00:06:{last:02x}");
        data(
            last,
            &format!(r#""2001:db8::{last}""#),
            &format!(r#","BackendV6Data":{{"VNI":1,"VtepMAC":"{mac}"}}"#),
        )
    };
    world.put("10.5.2.0-24&fd00:0:0:2::-64", &v6(2));
    world.put("10.5.3.0-24&fd00:0:0:3::-64", &data(3, r#""2001:db8::3""#, ""));
    world.put("10.5.4.0-24&fd00:0:0:4::-64", &v6(4).replace(r#""2001:db8::4""#, "null"));
    world.put("0.0.0.0-0&fd00:0:0:5::-64", &v6(5).replace("192.0.2.5", "0.0.0.0"));
    world.put("10.5.6.0-24", &v6(6));
    assert_eq!(
        hops(&world.view()),
        [
            "10.5.2.0/24 192.0.2.2 0a:00:00:00:00:02",
            "fd00:0:0:2::/64 2001:db8::2 0a:00:00:00:06:02",
            "10.5.3.0/24 192.0.2.3 0a:00:00:00:00:03",
            "10.5.4.0/24 192.0.2.4 0a:00:00:00:00:04",
            "fd00:0:0:5::/64 2001:db8::5 0a:00:00:00:06:05",
            "10.5.6.0/24 192.0.2.6 0a:00:00:00:00:06",
        ]
    );
    assert!(world.rejected().is_empty());
}

proptest::proptest! {
    /// Whatever is stored, a table can be built of it.
    #[test]
    fn no_leases_prevent_a_table(leases in proptest::collection::vec(
        ("10\\.5\\.[0-9]\\.0-2[45](&fd00:0:0:[0-9]::-64)?", 1u8..6, proptest::bool::ANY), 0..40,
    )) {
        let dual = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
        let mut world = World::new(dual, "10.5.1.0-24&fd00:0:0:1::-64");
        for (name, last, ours) in &leases {
            world.put(name, &if *ours { weft(*last, "") } else { flannel(*last) });
        }
        let view = world.view();
        proptest::prop_assert!(Table::new(world.viewer.table_input(&view, 2)).is_ok());
        proptest::prop_assert_eq!(world.view(), view);
    }
}

/// Public keys.
const KEYS: [&str; 3] = [
    "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
];

fn with_key(public_ip: &str, key: &str) -> String {
    format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"Weft":{{"v":1,"key":"{key}"}}}}"#)
}

#[test]
fn where_traffic_is_sealed_a_peer_needs_a_key_of_its_own() {
    let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Encryption":"wireguard"}}"#;
    let mut world = World::new(config, "10.5.1.0-24");
    world.viewer.own_key = Some(KEYS[0].parse().unwrap());
    world.put("10.5.2.0-24", &with_key("192.0.2.2", KEYS[1]));
    world.put("10.5.3.0-24", &with_key("192.0.2.3", KEYS[1]));
    world.put("10.5.4.0-24", &with_key("192.0.2.4", KEYS[0]));
    world.put("10.5.5.0-24", r#"{"PublicIP":"192.0.2.5","PublicIPv6":null}"#);
    let zero = format!("{}=", "A".repeat(43));
    world.put("10.5.6.0-24", &with_key("192.0.2.6", &zero));
    world.put("10.5.7.0-24", &with_key("192.0.2.7", "AQAA"));
    world.put("10.5.8.0-24", &with_key("192.0.2.8", KEYS[2]));
    let view = world.viewer.view(&world.book, &mut world.slots);
    let accepted: Vec<String> = view.accepted.iter().map(|one| one.leaf.to_string()).collect();
    assert_eq!(accepted, ["10.5.2.0-24", "10.5.8.0-24"], "no bad lease harms another");
    let rejected: Vec<_> =
        view.rejected.iter().map(|one| (one.name.as_str(), one.reason.name())).collect();
    assert_eq!(
        rejected,
        [
            ("10.5.3.0-24", "key_taken"),
            ("10.5.4.0-24", "key_taken"),
            ("10.5.5.0-24", "key_missing"),
            ("10.5.6.0-24", "key_weak"),
            ("10.5.7.0-24", "value"),
        ]
    );
    let text = view.rejected[0].reason.to_string();
    assert!(text.contains(KEYS[1]) && text.contains("the older lease 10.5.2.0-24"), "{text}");
    assert!(view.rejected[1].reason.to_string().contains("this host"));
}

#[test]
fn where_traffic_is_not_sealed_keys_do_not_matter() {
    let mut world = World::v4();
    world.put("10.5.2.0-24", &with_key("192.0.2.2", KEYS[1]));
    world.put("10.5.3.0-24", &with_key("192.0.2.3", KEYS[1]));
    let view = world.viewer.view(&world.book, &mut world.slots);
    assert_eq!((view.accepted.len(), view.rejected.len()), (2, 0));
}

const OFFERED: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp",
    "Encryption":"wireguard","EncryptionMode":"offer"}}"#;

const KEYLESS: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;

fn offering(config: &str) -> World {
    let mut world = World::new(config, "10.5.1.0-24");
    world.viewer.own_key = Some(KEYS[0].parse().unwrap());
    world
}

#[test]
fn where_sealing_is_offered_a_peer_may_have_no_key_but_no_bad_one() {
    let mut world = offering(OFFERED);
    world.put("10.5.2.0-24", KEYLESS);
    world.put("10.5.3.0-24", &with_key("192.0.2.3", KEYS[1]));
    world.put("10.5.4.0-24", &with_key("192.0.2.4", KEYS[1]));
    world.put("10.5.5.0-24", &with_key("192.0.2.5", &format!("{}=", "A".repeat(43))));
    let view = world.view();
    let accepted: Vec<String> = view.accepted.iter().map(|one| one.leaf.to_string()).collect();
    assert_eq!(accepted, ["10.5.2.0-24", "10.5.3.0-24"]);
    let rejected: Vec<_> = view.rejected.iter().map(|one| one.reason.name()).collect();
    assert_eq!(rejected, ["key_taken", "key_weak"]);
}

/// Who says a key is another peer to workers than who said none, and has no way back.
#[test]
fn a_peer_goes_over_to_its_key_and_never_back() {
    let mut world = offering(OFFERED);
    world.put("10.5.2.0-24", KEYLESS);
    let before = world.view().accepted[0].peer().unwrap().clone();
    world.put("10.5.2.0-24", &with_key("192.0.2.2", KEYS[1]));
    let keyed = world.view().accepted[0].peer().unwrap().clone();
    assert_eq!(keyed.slot, before.slot);
    assert_ne!(keyed.generation, before.generation);
    for _ in 0..2 {
        world.put("10.5.2.0-24", KEYLESS);
        let view = world.view();
        assert_eq!((view.accepted.len(), view.rejected[0].reason.name()), (0, "key_lost"));
        // Something that is no lease at all for a moment makes no difference.
        world.put("10.5.2.0-24", "{");
        world.view();
    }
    world.put("10.5.2.0-24", &with_key("192.0.2.2", KEYS[2]));
    assert_eq!(world.view().accepted.len(), 1, "another key is as good");
    world.delete("10.5.2.0-24");
    world.view();
    world.put("10.5.2.0-24", KEYLESS);
    assert_eq!(world.view().accepted.len(), 1, "an operator has deleted the lease");
}

/// The kernel's paths carry packets as they are.
#[test]
fn only_peers_without_a_key_have_other_paths() {
    let config = OFFERED.replace(r#""Type":"udp""#, r#""Type":"udp","Paths":["vxlan","udp"]"#);
    let mut world = offering(&config);
    let lease = |number: u8, key: &str| {
        let id = identity(10 + number);
        format!(
            r#"{{"PublicIP":"192.0.2.{number}","PublicIPv6":null,"Weft":{{"v":1,"id":"{id}",
            "paths":["vxlan","udp"],"vtep":"02:00:00:00:01:0{number}"{key}}}}}"#
        )
    };
    world.put("10.5.2.0-24", &lease(2, ""));
    world.put("10.5.3.0-24", &lease(3, &format!(r#","key":"{}""#, KEYS[1])));
    let view = world.view();
    let paths: Vec<_> =
        view.accepted.iter().map(|one| (one.paths.len(), one.beside.len())).collect();
    assert_eq!(paths, [(2, 1), (1, 0)], "{view:?}");
}

/// Where somebody else gives the subnets, they have any length.
#[test]
fn given_subnets_overlap_also_if_they_are_not_equal() {
    let mut world = World::v4();
    let document = br#"{"Network":"10.5.0.0/16"}"#;
    world.viewer.config = NetworkConfig::parse_for(document, Subnets::Given).unwrap();
    let names = [
        ("10.5.8.0-24", "192.0.2.8"),
        ("10.5.8.0-21", "192.0.2.9"),
        ("10.5.8.128-25", "192.0.2.10"),
        ("10.5.16.0-21", "192.0.2.11"),
        ("10.5.17.0-24", "192.0.2.12"),
        ("10.5.24.0-26", "192.0.2.13"),
        ("10.5.0.0-20", "192.0.2.14"),
    ];
    for (name, address) in names {
        world.put(name, &format!(r#"{{"PublicIP":"{address}"}}"#));
    }
    let rejected = world.rejected();
    let names: Vec<_> = rejected.iter().map(|(name, reason)| (name.as_str(), *reason)).collect();
    let expected = [
        ("10.5.8.0-21", "overlaps_older"),
        ("10.5.8.128-25", "overlaps_older"),
        ("10.5.17.0-24", "overlaps_older"),
        ("10.5.0.0-20", "overlaps_own"),
    ];
    assert_eq!(names, expected);
    assert_eq!(world.peers().len(), 3);
}

/// The node was given a subnet of a family that is off here; it stays its own lease.
#[test]
fn an_own_lease_of_both_families_is_no_stranger() {
    let mut world = World::v4();
    let document = br#"{"Network":"10.5.0.0/16"}"#;
    world.viewer.config = NetworkConfig::parse_for(document, Subnets::Given).unwrap();
    let own = format!(r#"{{"PublicIP":"192.0.2.1","Weft":{{"v":1,"id":"{}"}}}}"#, identity(1));
    world.put("10.5.1.0-24&fd00:1::-64", &own);
    assert_eq!((world.peers(), world.rejected()), (vec![], vec![]));
}
