//! Every rule of the choice, on a host that has one of everything.

use std::net::IpAddr;

use super::snapshot::{Address, Hop, Link, LinkKind, Route, Snapshot, Way};
use super::{Families, Interface, InterfaceOptions, Refusal, choose};

const V4: Families = Families { v4: true, v6: false };
const V6: Families = Families { v4: false, v6: true };
const BOTH: Families = Families { v4: true, v6: true };

#[test]
fn without_a_wish_the_default_route_decides() {
    let host = host();
    expect(&host, "", V4, "eth0 192.0.2.10 -");
    expect(&host, "", V6, "eth0 - 2001:db8::10");
    expect(&host, "", BOTH, "eth0 192.0.2.10 2001:db8::10");
}

#[test]
fn the_first_default_route_that_leads_to_hosts_decides() {
    let mut host = host();
    host.routes = vec![
        to("0.0.0.0/0", &[]),
        to("0.0.0.0/0", &[7]),
        to("0.0.0.0/0", &[3]),
        to("0.0.0.0/0", &[2]),
    ];
    host.routes[0].unicast = false;
    expect(&host, "", V4, "eth1 10.1.0.2 -");
    host.routes.truncate(2);
    expect(&host, "", V4, "! flannel.1 is a device of an overlay network");
}

#[test]
fn default_routes_that_do_not_decide_are_errors() {
    let mut host = host();
    host.routes = vec![to("0.0.0.0/0", &[2, 3]), to("::/0", &[3])];
    expect(&host, "", V4, "! the IPv4 default route has several next hops");
    expect(&host, "", BOTH, "! the IPv4 default route has several next hops");
    host.routes[0] = to("0.0.0.0/0", &[2]);
    expect(&host, "", BOTH, "! IPv4 leads to the interface eth0 and IPv6 to eth1");
    host.routes.truncate(1);
    expect(&host, "", BOTH, "! there is no IPv6 default route");
    host.routes.clear();
    expect(&host, "", V4, "! there is no IPv4 default route");
}

/// A host whose uplink is a bridge, and a host that is itself a container.
#[test]
fn a_bridge_or_veth_with_the_default_route_is_the_uplink() {
    let mut host = host();
    host.routes = vec![to("0.0.0.0/0", &[4])];
    expect(&host, "", V4, "docker0 172.17.0.1 -");
    expect(&host, "regex=172", V4, "docker0 172.17.0.1 -");
    host.routes = vec![to("0.0.0.0/0", &[5])];
    expect(&host, "", V4, "veth7 10.9.0.1 -");
}

#[test]
fn names() {
    let host = host();
    expect(&host, "iface=eth1", V4, "eth1 10.1.0.2 -");
    expect(&host, "iface=eth1", BOTH, "eth1 10.1.0.2 fd01::2");
    for name in ["docker0", "veth7", "kube-ipvs0", "flannel.1"] {
        let address = first_address(&host, name);
        expect(&host, &format!("iface={name}"), V4, &format!("{name} {address} -"));
    }
    expect(&host, "iface=lo", V4, "lo 198.18.0.1 -");
    expect(&host, "iface=lo", V6, "! lo has no usable IPv6 address");
    expect(&host, "iface=eth", V4, "! there is no interface eth (there are: lo, eth0, eth1,");
    expect(&host, "iface=dead0", V4, "! dead0 has the MTU 0");
    expect(&host, "iface=docker0", V6, "! docker0 has no usable IPv6 address");
    expect(&host, "iface=docker0", BOTH, "! docker0 has no usable IPv6 address");
}

#[test]
fn addresses_name_their_owner() {
    let host = host();
    expect(&host, "iface=10.1.0.3", V4, "eth1 10.1.0.3 -");
    expect(&host, "iface=10.1.0.3", BOTH, "eth1 10.1.0.3 fd01::2");
    expect(&host, "iface=fd01::3", V6, "eth1 - fd01::3");
    expect(&host, "iface=fd01::3", BOTH, "eth1 10.1.0.2 fd01::3");
    expect(&host, "iface=fd01::3", V4, "eth1 10.1.0.2 -");
    expect(&host, "iface=172.17.0.1", V4, "docker0 172.17.0.1 -");
    expect(&host, "iface=198.51.100.1", V4, "! no interface has the address 198.51.100.1");
    expect(&host, "iface=10.96.0.1", V4, "! kube-ipvs0 is the device that holds the addresses");
    // A service has this address too, on a device that comes first.
    expect(&host, "iface=192.0.2.10", V4, "eth0 192.0.2.10 -");
    expect(&host, "iface=10.244.0.0", V4, "! flannel.1 is a device of an overlay");
    // An address of the host that is announced to routers.
    expect(&host, "iface=198.18.0.1", V4, "lo 198.18.0.1 -");
}

#[test]
fn with_both_families_a_public_ipv6_address_of_this_host_has_to_be_on_the_same_interface() {
    let host = host();
    expect(&host, "iface=10.1.0.3 public6=fd01::3", BOTH, "eth1 10.1.0.3 fd01::3");
    let two = "! IPv4 leads to the interface eth1 and IPv6 to eth0";
    expect(&host, "iface=10.1.0.3 public6=2001:db8::10", BOTH, two);
    let none = "! no interface has the address 2001:db8::99";
    expect(&host, "iface=10.1.0.3 public6=2001:db8::99", BOTH, none);
    // A name says all; the address is only what others send to.
    let text = "eth1 10.1.0.2 fd01::2 public - 2001:db8::99";
    expect(&host, "iface=eth1 public6=2001:db8::99", BOTH, text);
}

#[test]
fn a_public_address_alone_has_to_be_local() {
    let host = host();
    expect(&host, "public=10.1.0.3", V4, "eth1 10.1.0.3 -");
    expect(&host, "public=10.1.0.3 public6=fd01::3", BOTH, "eth1 10.1.0.3 fd01::3");
    expect(&host, "public6=fd01::3", V6, "eth1 - fd01::3");
    expect(&host, "public6=fd01::3", BOTH, "eth1 10.1.0.2 fd01::3");
    expect(&host, "public=203.0.113.5", V4, "! no interface has the address 203.0.113.5");
    // Those of families that are off say nothing.
    expect(&host, "public=203.0.113.5", V6, "eth0 - 2001:db8::10");
    expect(&host, "public6=2001:db8::99", V4, "eth0 192.0.2.10 -");
    // Behind a translation of addresses the interface is named as well.
    let text = "eth0 192.0.2.10 - public 203.0.113.5 -";
    expect(&host, "iface=eth0 public=203.0.113.5", V4, text);
}

#[test]
fn expressions_try_addresses_before_names() {
    let host = host();
    expect(&host, r"regex=^10\.1\.", V4, "eth1 10.1.0.2 -");
    expect(&host, r"regex=1\.0\.3$", V4, "eth1 10.1.0.3 -");
    expect(&host, "regex=eth1", V4, "eth1 10.1.0.2 -");
    expect(&host, "regex=th", V4, "eth0 192.0.2.10 -");
    expect(&host, "regex=^fd01", V6, "eth1 - fd01::2");
    // Both families have to match by address, otherwise the name has to.
    expect(&host, "regex=^(fd01|10.1.0.3)", BOTH, "eth1 10.1.0.3 fd01::2");
    expect(&host, "regex=^fd01", BOTH, "! matches none of");
    expect(&host, "regex=^eth1$", BOTH, "eth1 10.1.0.2 fd01::2");
    expect(&host, "regex=(", V4, "! is no regular expression");
    // A deprecated address does not match.
    expect(&host, "regex=192.0.2.9", V4, "! matches none of");
}

#[test]
fn expressions_never_take_devices_that_do_not_lead_to_hosts() {
    let host = host();
    for (expression, why) in [
        ("^10.96", "kube-ipvs0 (not considered: the device that holds the addresses of Kubernetes"),
        ("^172.17", "docker0 (not considered: a bridge without default route"),
        ("docker", "docker0 (not considered: a bridge"),
        ("veth7", "veth7 (not considered: a veth without default route"),
        ("flannel", "flannel.1 (not considered: a device of an overlay"),
        ("^lo$", "lo (not considered: the loopback device)"),
    ] {
        expect(&host, &format!("regex={expression}"), V4, &format!("! {why}"));
    }
    let text = "! eth1 [10.1.0.2 10.1.0.3 fd01::2 fd01::3 169.254.7.7 fe80::1]";
    expect(&host, "regex=nothing", V4, text);
}

#[test]
fn the_way_to_an_address() {
    let host = host();
    let way = |link, source: &str| Way {
        target: address("198.51.100.9"),
        link,
        source: source.parse().ok(),
    };
    let reach = "reach=198.51.100.9";
    expect_with(&host, reach, V4, Some(&way(3, "10.1.0.3")), "eth1 10.1.0.3 -");
    expect_with(&host, reach, V4, Some(&way(3, "")), "eth1 10.1.0.2 -");
    expect_with(&host, reach, BOTH, Some(&way(3, "10.1.0.3")), "eth1 10.1.0.3 fd01::2");
    expect_with(&host, reach, V6, Some(&way(3, "10.1.0.3")), "eth1 - fd01::2");
    expect_with(&host, reach, V4, Some(&way(4, "")), "docker0 172.17.0.1 -");
    expect_with(&host, reach, V4, Some(&way(1, "")), "! lo is the loopback device");
    expect_with(&host, reach, V4, Some(&way(7, "")), "! flannel.1 is a device of an overlay");
    expect_with(&host, reach, V4, Some(&way(6, "")), "! kube-ipvs0 is the device");
    expect_with(&host, reach, V4, None, "! there is no route to 198.51.100.9");
    expect(&host, "reach=example.org", V4, r#"! "example.org" is no address"#);
}

#[test]
fn the_first_wish_that_can_be_met_wins() {
    let host = host();
    expect(&host, "iface=gone iface=eth1 regex=eth0", V4, "eth1 10.1.0.2 -");
    expect(&host, "regex=^eth0$ iface=eth1", V4, "eth1 10.1.0.2 -");
    expect(&host, "iface=gone regex=nothing regex=eth0", V4, "eth0 192.0.2.10 -");
    // One that is found but has no address is no reason to stop either.
    expect(&host, "iface=docker0 iface=eth1", BOTH, "eth1 10.1.0.2 fd01::2");
    let wish = options("iface=gone regex=nothing reach=x");
    assert_eq!(choose(&wish, V4, &host, None).unwrap_err().len(), 3);
    let wish = options("iface=gone regex=nothing regex=eth0");
    let refusals = choose(&wish, V4, &host, None).unwrap().refusals;
    assert!(
        matches!(refusals.as_slice(), [Refusal::NoSuchName { .. }, Refusal::NoMatch { .. }]),
        "{refusals:?}"
    );
}

/// Global before link-local, permanent before dynamic, others before temporary; deprecated never.
#[test]
fn the_best_address_of_an_interface() {
    let order = ["fd::1", "fd::2 t", "fd::3 d", "fd::4 dt", "fe80::1", "fe80::2 d"];
    for count in 1..=order.len() {
        let mut host = Snapshot { links: vec![link(9, "x")], ..Snapshot::default() };
        let best = &order[order.len() - count..];
        host.addresses.push(on(9, "fd::9 x"));
        host.addresses.extend(best.iter().rev().map(|text| on(9, text)));
        let expected = best[0].split(' ').next().unwrap();
        expect(&host, "iface=x", V6, &format!("x - {expected}"));
    }
}

/// Published, it made every peer refuse the whole lease, IPv4 included.
#[test]
fn a_link_local_address_beside_ipv4_is_not_published() {
    let mut host = Snapshot { links: vec![link(9, "x")], ..Snapshot::default() };
    host.addresses.extend([on(9, "10.168.0.2"), on(9, "fe80::2")]);
    let both = Families { v4: true, v6: true };
    let chosen = choose(&options("iface=x"), both, &host, None).unwrap().interface;
    assert_eq!(chosen.public_v4, chosen.address_v4);
    assert_eq!(chosen.address_v6.map(IpAddr::V6), Some(address("fe80::2")));
    assert_eq!(chosen.public_v6, None);
}

#[test]
fn addresses_that_are_not_of_a_host_are_not_usable() {
    for text in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1 x"] {
        let host = host_with(text);
        expect(&host, "iface=x", V4, "! x has no usable IPv4 address");
    }
    for text in ["::1", "::", "ff02::1", "fd00::1 x"] {
        let host = host_with(text);
        expect(&host, "iface=x", V6, "! x has no usable IPv6 address");
    }
    expect(&host_with("169.254.1.1"), "iface=x", V4, "x 169.254.1.1 -");
}

#[test]
fn the_addresses_of_the_host_leave_out_those_of_services() {
    let chosen = choose(&options(""), V4, &host(), None).unwrap().interface;
    assert!(chosen.addresses.contains(&address("127.0.0.1")));
    assert!(chosen.addresses.contains(&address("172.17.0.1")));
    assert!(chosen.addresses.contains(&address("fd01::3")));
    assert!(!chosen.addresses.contains(&address("10.96.0.1")));
    assert!(chosen.addresses.is_sorted(), "and each is there once: {:?}", chosen.addresses);
    assert_eq!((chosen.index, chosen.mtu), (2, 1500));
}

/// Index order is not the order of the addresses: a service device comes before the uplink.
fn host() -> Snapshot {
    let mut host = Snapshot::default();
    for (index, name) in [
        (1, "lo"),
        (2, "eth0"),
        (3, "eth1"),
        (4, "docker0"),
        (5, "veth7"),
        (6, "kube-ipvs0"),
        (7, "flannel.1"),
        (8, "dead0"),
    ] {
        host.links.push(link(index, name));
    }
    host.links[0].kind = LinkKind::Loopback;
    host.links[3].kind = LinkKind::Bridge;
    host.links[4].kind = LinkKind::Veth;
    host.links[7].mtu = 0;
    for (index, texts) in [
        (1, ["127.0.0.1", "::1", "198.18.0.1"].as_slice()),
        (6, &["10.96.0.1", "192.0.2.10"]),
        (2, &["192.0.2.99 x", "192.0.2.10", "fe80::2", "2001:db8::9 t", "2001:db8::10"]),
        (3, &["169.254.7.7", "10.1.0.2", "10.1.0.3", "fe80::1", "fd01::2", "fd01::3"]),
        (4, &["172.17.0.1"]),
        (5, &["10.9.0.1"]),
        (7, &["10.244.0.0"]),
        (8, &["10.8.0.1"]),
    ] {
        host.addresses.extend(texts.iter().map(|text| on(index, text)));
    }
    host.routes = vec![to("0.0.0.0/0", &[2]), to("10.1.0.0/24", &[3]), to("::/0", &[2])];
    host
}

fn host_with(text: &str) -> Snapshot {
    let links = vec![link(9, "x")];
    Snapshot { links, addresses: vec![on(9, text)], routes: Vec::new() }
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), kind: LinkKind::Other, mtu: 1500, up: true }
}

/// An address with marks behind it: `d` dynamic, `t` temporary, `x` deprecated.
fn on(link: u32, text: &str) -> Address {
    let (text, marks) = text.split_once(' ').unwrap_or((text, ""));
    Address {
        link,
        local: address(text),
        peer: None,
        prefix_length: 24,
        permanent: !marks.contains('d'),
        temporary: marks.contains('t'),
        deprecated: marks.contains('x'),
    }
}

fn to(destination: &str, links: &[u32]) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        unicast: true,
        protocol: 3,
        scope: 0,
        tos: 0,
        metric: 0,
        source: None,
        hops: links.iter().map(|link| Hop { link: *link, gateway: None }).collect(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn first_address(host: &Snapshot, name: &str) -> IpAddr {
    let index = host.link_named(name).unwrap().index;
    host.addresses.iter().find(|address| address.link == index).unwrap().local
}

/// Options from words such as `iface=eth0 regex=^10 reach=1.1.1.1 public=… public6=…`.
fn options(text: &str) -> InterfaceOptions {
    let mut options = InterfaceOptions::default();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "iface" => options.iface.push(value.to_owned()),
            "regex" => options.iface_regex.push(value.to_owned()),
            "reach" => options.can_reach = Some(value.to_owned()),
            "public" => options.public_ip = Some(value.parse().unwrap()),
            "public6" => options.public_ipv6 = Some(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    options
}

fn expect(host: &Snapshot, wish: &str, families: Families, expected: &str) {
    expect_with(host, wish, families, None, expected);
}

/// `expected` is `NAME V4 V6`, with `public V4 V6` behind it where these are others, or `!` and a
/// part of the error.
fn expect_with(host: &Snapshot, wish: &str, families: Families, way: Option<&Way>, expected: &str) {
    let outcome = choose(&options(wish), families, host, way);
    match (outcome, expected.strip_prefix("! ")) {
        (Ok(chosen), None) => {
            assert_eq!(show(&chosen.interface), expected, "{wish:?} {families:?}");
        }
        (Err(refusals), Some(part)) => {
            let texts: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
            assert!(texts.join("; ").contains(part), "{wish:?} {families:?}: {texts:?}");
        }
        (outcome, _) => panic!("{wish:?} {families:?}: {outcome:?} instead of {expected:?}"),
    }
}

fn show(chosen: &Interface) -> String {
    let text = |address: Option<IpAddr>| address.map_or("-".to_owned(), |one| one.to_string());
    let v4 = chosen.address_v4.map(IpAddr::V4);
    let v6 = chosen.address_v6.map(IpAddr::V6);
    let public = [chosen.public_v4.map(IpAddr::V4), chosen.public_v6.map(IpAddr::V6)];
    let line = format!("{} {} {}", chosen.name, text(v4), text(v6));
    if public == [v4, v6] {
        return line;
    }
    let other = |public: Option<IpAddr>, own| text(public.filter(|_| public != own));
    format!("{line} public {} {}", other(public[0], v4), other(public[1], v6))
}
