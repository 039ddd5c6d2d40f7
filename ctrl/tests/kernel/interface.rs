//! The reader, and the choice on a real host.

use std::net::IpAddr;

use weft_ctrl::interface::reader::Netlink;
use weft_ctrl::interface::snapshot::{Hop, LinkKind};
use weft_ctrl::interface::{Families, Interface, InterfaceOptions, select};

use crate::namespace::{in_new_namespace, ip};

const V4: Families = Families { v4: true, v6: false };
const BOTH: Families = Families { v4: true, v6: true };

/// Two veths as underlays, a bridge with an address, and routes of every kind.
fn build_host() {
    ip("link add u1 mtu 1400 type veth peer name p1");
    ip("link add u2 type veth peer name p2");
    ip("link add docker0 type bridge");
    for name in ["u1", "p1", "u2", "p2", "docker0"] {
        ip(&format!("link set {name} up"));
    }
    ip("addr add 10.168.0.2/24 dev u1");
    ip("addr add 10.168.0.3/24 dev u1");
    ip("addr add 10.169.0.2/24 dev u2 valid_lft 1000 preferred_lft 0");
    ip("addr add 10.169.0.3 peer 10.170.0.1/32 dev u2");
    ip("addr add fd01::2/64 dev u1 nodad");
    ip("addr add 172.17.0.1/16 dev docker0");
    ip("route add default via 10.168.0.1 dev u1 proto static metric 100");
    ip("route add default via 10.170.0.1 dev u2 metric 200");
    ip("-6 route add default via fd01::1 dev u1");
    ip("route add 10.5.0.0/16 nexthop via 10.168.0.8 dev u1 nexthop via 10.168.0.9 dev u1");
    ip("route add blackhole 10.6.0.0/16");
    ip("route add 10.7.0.0/16 via inet6 fe80::1 dev u1 src 10.168.0.3");
    ip("route add 10.8.0.0/16 dev u1 table 5000");
}

#[test]
fn everything_is_read() {
    in_new_namespace("everything_is_read", || async {
        build_host();
        let snapshot = Netlink::open().unwrap().snapshot().await.unwrap();
        let link = |name: &str| snapshot.link_named(name).unwrap();
        assert_eq!(link("lo").kind, LinkKind::Loopback);
        assert_eq!((link("u1").kind, link("u1").mtu, link("u1").up), (LinkKind::Veth, 1400, true));
        assert_eq!(link("docker0").kind, LinkKind::Bridge);

        let on = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            snapshot.addresses.iter().find(|one| one.local == address).unwrap()
        };
        let marks = |text| (on(text).permanent, on(text).temporary, on(text).deprecated);
        assert_eq!(marks("10.168.0.2"), (true, false, false));
        assert_eq!(marks("10.168.0.3"), (true, true, false));
        assert_eq!(marks("10.169.0.2"), (false, false, true));
        assert_eq!((on("10.168.0.2").prefix_length, on("10.168.0.2").link), (24, link("u1").index));
        assert_eq!(on("10.168.0.2").peer, None);
        assert_eq!(on("10.169.0.3").peer, Some("10.170.0.1".parse().unwrap()));
        assert_eq!(on("fd01::2").prefix_length, 64);

        let to = |text: &str| {
            let routes = snapshot.routes.iter();
            routes.filter(|one| one.destination.to_string() == text).collect::<Vec<_>>()
        };
        let u1 = |gateway: &str| Hop { link: link("u1").index, gateway: gateway.parse().ok() };
        let defaults = to("0.0.0.0/0");
        assert_eq!(defaults.len(), 2);
        assert!(defaults.iter().all(|route| route.is_default()));
        assert_eq!((defaults[0].metric, defaults[0].protocol), (100, 4));
        assert_eq!(defaults[0].hops, [u1("10.168.0.1")]);
        assert_eq!(to("::/0")[0].hops, [u1("fd01::1")]);
        assert_eq!(to("10.5.0.0/16")[0].hops, [u1("10.168.0.8"), u1("10.168.0.9")]);
        assert_eq!((to("10.6.0.0/16")[0].unicast, to("10.6.0.0/16")[0].hops.len()), (false, 0));
        assert_eq!(to("10.7.0.0/16")[0].hops, [u1("fe80::1")]);
        assert_eq!(to("10.7.0.0/16")[0].source, Some("10.168.0.3".parse().unwrap()));
        assert_eq!((to("10.168.0.0/24")[0].scope, to("10.168.0.0/24")[0].hops[0]), (253, u1("")));
        assert_eq!(to("10.8.0.0/16").len(), 0, "not in the main table");
        assert_eq!(to("127.0.0.0/8").len(), 0, "not in the main table");
    });
}

#[test]
fn the_choice_on_a_real_host() {
    in_new_namespace("the_choice_on_a_real_host", || async {
        build_host();
        let show = |chosen: &Interface| {
            (chosen.name.clone(), chosen.address_v4.unwrap().to_string(), chosen.address_v6)
        };
        let by_default = select(&InterfaceOptions::default(), BOTH).await.unwrap().interface;
        let v6 = Some("fd01::2".parse().unwrap());
        assert_eq!(show(&by_default), ("u1".to_owned(), "10.168.0.2".to_owned(), v6));
        assert_eq!(by_default.mtu, 1400);
        assert!(by_default.addresses.contains(&"172.17.0.1".parse().unwrap()));

        let named = InterfaceOptions { iface: vec!["u2".to_owned()], ..Default::default() };
        let named = select(&named, V4).await.unwrap().interface;
        assert_eq!(show(&named), ("u2".to_owned(), "10.169.0.3".to_owned(), None));
    });
}

#[test]
fn the_kernel_knows_the_way() {
    in_new_namespace("the_kernel_knows_the_way", || async {
        build_host();
        for (target, expected) in [
            ("10.170.0.1", Some(("u2", "10.169.0.3"))),
            ("10.7.1.1", Some(("u1", "10.168.0.3"))),
            ("8.8.8.8", Some(("u1", "10.168.0.2"))),
            ("10.6.1.1", None),
            ("fd01::77", Some(("u1", "10.168.0.2"))),
        ] {
            let can_reach = Some(target.to_owned());
            let options = InterfaceOptions { can_reach, ..Default::default() };
            let chosen = select(&options, V4).await;
            match (chosen, expected) {
                (Ok(chosen), Some((name, address))) => {
                    let chosen = chosen.interface;
                    assert_eq!(chosen.name, name, "{target}");
                    assert_eq!(chosen.address_v4.unwrap().to_string(), address, "{target}");
                }
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains("there is no route to 10.6.1.1"), "{text}");
                }
                (chosen, expected) => panic!("{target}: {chosen:?} instead of {expected:?}"),
            }
        }
    });
}
