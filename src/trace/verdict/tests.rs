use super::*;
use weft_ctrl::status::PathStatus;

use crate::admin::{Lease, Network, OnDemand, PeerSealing, Sealing};

fn status() -> Status {
    Status {
        network: Some(Network {
            ipv4: Some("10.244.0.0/16".into()),
            ipv6: Some("fd00:244::/48".into()),
            backend: "udp".into(),
            port: Some(8285),
            paths: vec!["udp".into()],
        }),
        lease: Some(Lease {
            subnet: Some("10.244.1.0/24".into()),
            ipv6_subnet: Some("fd00:244:0:1::/64".into()),
            id: String::new(),
            expires_in_seconds: None,
        }),
        masquerade_fully_random: Some(true),
        ..Status::default()
    }
}

fn peer(path: &str) -> Peer {
    Peer {
        slot: None,
        generation: None,
        subnet: Some("10.244.2.0/24".into()),
        ipv6_subnet: Some("fd00:244:0:2::/64".into()),
        outer: "192.0.2.2:8285".into(),
        addresses: vec!["192.0.2.2".parse().unwrap()],
        path: path.to_owned(),
        reason: None,
        paths: Vec::new(),
        id: None,
        age_seconds: 0,
        takes_ipv6: false,
        path_mtu: None,
        segmentation: true,
        sealing: None,
    }
}

fn of_peer(path: &str) -> Owner {
    Owner::Peer(Box::new(peer(path)))
}

fn route(prefix: &str, device: &str) -> Answer {
    let prefix = prefix.parse().unwrap();
    let is_plain = device == "eth0";
    let mtu = if is_plain { 1500 } else { 1450 };
    let gateway = "192.0.2.2".parse().ok().filter(|_| is_plain);
    Answer::Routed(Routed { prefix, device: device.to_owned(), mtu, gateway, ..Routed::default() })
}

fn facts(source: (&str, Owner), destination: (&str, Owner), answer: Answer) -> Facts {
    Facts {
        source: source.0.parse().unwrap(),
        destination: destination.0.parse().unwrap(),
        source_is: source.1,
        destination_is: destination.1,
        answer,
        is_reached: true,
        forwarding_off: None,
    }
}

fn reason(trace: &Trace) -> Option<&str> {
    trace.dropped.as_ref().map(|dropped| dropped.reason.as_str())
}

/// From a pod of this host, to a pod of a peer over this path.
fn to_peer(path: &str, answer: Answer) -> Facts {
    facts(("10.244.1.7", Owner::Pod), ("10.244.2.7", of_peer(path)), answer)
}

#[test]
fn a_packet_to_a_peer_takes_the_way_of_its_route() {
    let mut narrow = peer("udp");
    narrow.path_mtu = Some(1280);
    let rows: [(&str, Answer, u32); 4] = [
        ("udp", route("10.244.0.0/16", "flannel0"), 1450),
        ("vxlan", route("10.244.2.0/24", "flannel.1"), 1450),
        ("direct", route("10.244.2.0/24", "eth0"), 1500),
        ("host-gw", route("10.244.2.0/24", "eth0"), 1500),
    ];
    for (path, answer, mtu) in rows {
        let trace = judge(&status(), &to_peer(path, answer));
        assert_eq!((reason(&trace), trace.mtu), (None, Some(mtu)), "{trace:?}");
        assert_eq!(trace.path.as_deref(), Some(path));
        assert_eq!(trace.lease.as_deref(), Some("10.244.2.0/24, fd00:244:0:2::/64"));
        assert_eq!(trace.masqueraded, "no, by -s 10.244.1.0/24 -d 10.244.0.0/16 -j RETURN");
        assert_eq!((trace.is_sealed, trace.remarks), (false, vec![]));
    }
    let destination = ("10.244.2.7", Owner::Peer(Box::new(narrow)));
    let answer = route("10.244.0.0/16", "flannel0");
    let trace = judge(&status(), &facts(("10.244.1.7", Owner::Pod), destination, answer));
    assert_eq!(trace.mtu, Some(1280));
    let mut probed = peer("host-gw");
    probed.paths = vec![PathStatus {
        path: "host-gw".into(),
        subnet: "10.244.2.0/24".into(),
        chosen: true,
        problem: "nothing".into(),
        fault: "none".into(),
        mtu: Some(1400),
        round_trip_us: None,
        loss: None,
    }];
    let destination = ("10.244.2.7", Owner::Peer(Box::new(probed)));
    let answer = route("10.244.2.0/24", "eth0");
    let trace = judge(&status(), &facts(("10.244.1.7", Owner::Pod), destination, answer));
    assert_eq!((trace.mtu, trace.remarks.len()), (Some(1400), 1));
    let hijacked = judge(&status(), &to_peer("host-gw", route("10.244.2.0/24", "cni0")));
    assert!(hijacked.remarks[0].contains("somebody else's route wins"), "{hijacked:?}");
    let other = judge(&status(), &to_peer("udp", route("10.244.2.0/24", "eth0")));
    assert!(other.remarks[0].contains("somebody else's route wins"), "{other:?}");
}

#[test]
fn what_must_be_sealed_goes_by_the_engine_or_not_at_all() {
    let status = Status { sealing: Some(Sealing::default()), ..status() };
    let trace = judge(&status, &to_peer("udp", route("10.244.0.0/16", "flannel0")));
    assert!(trace.is_sealed && trace.sealed.contains("agreed on first"), "{trace:?}");
    let mut known = peer("udp");
    known.sealing = Some(PeerSealing { session_age_seconds: Some(7), ..PeerSealing::default() });
    let destination = ("10.244.2.7", Owner::Peer(Box::new(known)));
    let answer = route("10.244.0.0/16", "flannel0");
    let trace = judge(&status, &facts(("10.244.1.7", Owner::Pod), destination, answer));
    assert!(trace.sealed.contains("7 s old"), "{trace:?}");
    let trace = judge(&status, &to_peer("udp", route("10.244.2.0/24", "eth0")));
    assert_eq!(reason(&trace), Some("not_sealed"));
    let offered = Sealing { mode: "offer".to_owned(), ..Sealing::default() };
    let status = Status { sealing: Some(offered), ..status };
    let trace = judge(&status, &to_peer("udp", route("10.244.0.0/16", "flannel0")));
    assert!(!trace.is_sealed && trace.sealed.contains("no key"), "{trace:?}");
}

#[test]
fn what_does_not_arrive_has_a_reason() {
    let refused = |number| Answer::Refused(io::Error::from_raw_os_error(number));
    let to_nobody = |device: &str| {
        let answer = route("10.244.0.0/16", device);
        facts(("10.244.1.7", Owner::Pod), ("10.244.99.7", Owner::Nobody), answer)
    };
    let on_demand = Status { on_demand: Some(OnDemand::default()), ..status() };
    let v6 = facts(
        ("fd00:244:0:1::7", Owner::Pod),
        ("fd00:244:0:2::7", of_peer("udp")),
        route("fd00:244::/48", "flannel0"),
    );
    let inbound =
        |error| facts(("10.244.2.7", of_peer("vxlan")), ("10.244.1.7", Owner::Pod), error);
    let nowhere = |error| Facts { is_reached: false, ..inbound(error) };
    let rows = [
        (judge(&status(), &to_nobody("flannel0")), Some("no_route")),
        (judge(&on_demand, &to_nobody("flannel.1")), Some("no_lease")),
        (judge(&status(), &to_nobody("eth0")), None),
        (judge(&status(), &v6), Some("no_route_inner_v6")),
        (judge(&status(), &inbound(refused(18))), Some("reverse_path")),
        (judge(&status(), &inbound(refused(22))), Some("reverse_path")),
        (judge(&status(), &nowhere(refused(22))), Some("blackhole")),
        (judge(&status(), &inbound(refused(13))), Some("prohibited")),
        (judge(&status(), &inbound(refused(101))), Some("no_way")),
        (judge(&status(), &inbound(route("10.244.1.0/24", "cni0"))), None),
    ];
    for (trace, expected) in rows {
        assert_eq!(reason(&trace), expected, "{trace:?}");
    }
}

#[test]
fn a_host_that_does_not_forward_is_named() {
    let refused = Answer::Refused(io::Error::from_raw_os_error(113));
    let facts = to_peer("udp", refused);
    let facts = Facts { forwarding_off: Some("net.ipv4.ip_forward"), ..facts };
    let trace = judge(&status(), &facts);
    assert_eq!(reason(&trace), Some("forwarding_off"));
    assert!(trace.dropped.unwrap().text.contains("net.ipv4.ip_forward=1"));
    let own = Facts { source_is: Owner::Host, answer: route("10.244.0.0/16", "flannel0"), ..facts };
    assert_eq!(reason(&judge(&status(), &own)), None, "its own packets are not forwarded");
}

#[test]
fn what_leaves_the_network_gets_an_address_of_this_host() {
    let out = || {
        let answer = route("0.0.0.0/0", "eth0");
        facts(("10.244.1.7", Owner::Pod), ("198.51.100.1", Owner::Outside), answer)
    };
    let trace = judge(&status(), &out());
    assert!(trace.is_masqueraded && trace.lease.is_none(), "{trace:?}");
    let rule = "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully";
    assert_eq!(trace.masqueraded, format!("yes, with the address of eth0, by {rule}"));
    let trace = judge(&Status { masquerade_fully_random: None, ..status() }, &out());
    assert_eq!((trace.is_masqueraded, &*trace.masqueraded), (false, "no, --ip-masq is off"));
    // A program of this host with its own address.
    let answer = route("10.244.2.0/24", "flannel.1");
    let own = facts(("192.0.2.1", Owner::Host), ("10.244.2.7", of_peer("vxlan")), answer);
    assert!(judge(&status(), &own).is_masqueraded);
}
