use std::net::IpAddr;

use super::*;
use crate::config::NetworkConfig;
use crate::identity::Identity;

/// Keys and values alternating, as a running flanneld stored them.
const RECORDED: [&str; 3] = [
    include_str!("../../tests/data/etcd-udp.json"),
    include_str!("../../tests/data/etcd-vxlan.json"),
    include_str!("../../tests/data/etcd-host-gw.json"),
];

fn leaf(text: &str) -> Result<Leaf, LeafError> {
    text.parse()
}

fn read(name: &str, value: &str) -> Result<Lease, Rejection> {
    Lease::read(name, value.as_bytes())
}

#[test]
fn names_of_both_forms() {
    let rows = [
        ("10.5.34.0-24", Some("10.5.34.0/24"), None),
        ("10.12.13.0-24&fd00:12:13::-56", Some("10.12.13.0/24"), Some("fd00:12:13::/56")),
        ("0.0.0.0-0&fd00::-64", None, Some("fd00::/64")),
        ("10.0.0.0-31", Some("10.0.0.0/31"), None),
        ("10.0.0.0-0", Some("10.0.0.0/0"), None),
        ("0.0.0.0-0&::-127", None, Some("::/127")),
    ];
    for (name, v4, v6) in rows {
        let found = leaf(name).unwrap();
        assert_eq!(found.v4.map(|net| net.to_string()).as_deref(), v4, "{name}");
        assert_eq!(found.v6.map(|net| net.to_string()).as_deref(), v6, "{name}");
        assert_eq!(found.to_string(), name);
    }
    assert_eq!(leaf("/coreos.com/network/subnets/10.5.34.0-24"), leaf("10.5.34.0-24"));
    assert_eq!(leaf("10.5.34.0-024"), leaf("10.5.34.0-24"));
}

#[test]
fn names_that_are_not_leases() {
    for name in [
        "",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "10.12.13.0-24\n",
        "&2001::-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-128",
        "10.12.13.0-24&2001::-",
        "10.12.13.0-24&FD00::-64",
        "10.12.13.0-24&::ffff:1.2.3.4-96",
        "10.12.13.0-24&:-64",
        // An IPv4 address in IPv6 clothes: it would be written as one that names another lease.
        "10.12.13.0-24&::ffff:a05:200-120",
        "10.12.13.0-32",
        "10.12.13.0-256",
        "10.12.13.0-99999999999999999999",
        "010.12.13.0-24",
        "٣.1.1.1-24",
        "10.12.13.0/24",
        "fd00::-64",
    ] {
        assert_eq!(leaf(name), Err(LeafError), "{name:?}");
    }
}

#[test]
fn recorded_leases_are_read_and_written_byte_for_byte() {
    let mut seen = 0;
    for recorded in RECORDED {
        let pairs: Vec<String> = serde_json::from_str(recorded).unwrap();
        for pair in pairs.chunks(2).filter(|pair| pair[0].contains("/subnets/")) {
            let lease = read(&pair[0], &pair[1]).unwrap();
            assert!(pair[0].ends_with(&format!("/{}", lease.leaf)));
            assert_eq!(String::from_utf8(lease.attributes.to_json()).unwrap(), pair[1]);
            assert_eq!(lease.attributes.weft, None);
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

#[test]
fn recorded_configs_are_read() {
    let kinds = RECORDED.map(|recorded| {
        let pairs: Vec<String> = serde_json::from_str(recorded).unwrap();
        let config = NetworkConfig::parse(pairs[1].as_bytes()).unwrap();
        assert_eq!(config.network_v4().unwrap().to_string(), "10.244.0.0/16");
        config.backend.name()
    });
    assert_eq!(kinds, ["udp", "vxlan", "host-gw"]);
}

fn full() -> Attributes {
    let id: Identity = "00112233445566778899aabbccddeeff".parse().unwrap();
    Attributes {
        public_ip: "192.168.1.5".parse().unwrap(),
        public_ipv6: Some("2001:db8::5".parse().unwrap()),
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft {
            id: Some(id),
            paths: vec!["udp".into()],
            port: Some(8285),
            ports: Some(1),
            addrs: vec!["192.168.2.5".parse().unwrap(), "2001:db8::6".parse().unwrap()],
            mtu: Some(1472),
            vtep: Some("0a:00:00:00:00:01".parse().unwrap()),
            v6: true,
            ..Weft::default()
        }),
    }
}

const FULL: &str = concat!(
    r#"{"PublicIP":"192.168.1.5","PublicIPv6":"2001:db8::5","Weft":{"v":1,"#,
    r#""id":"00112233445566778899aabbccddeeff","paths":["udp"],"port":8285,"ports":1,"#,
    r#""addrs":["192.168.2.5","2001:db8::6"],"mtu":1472,"#,
    r#""vtep":"0a:00:00:00:00:01","v6":true}}"#
);

#[test]
fn our_own_key_follows_flannels_and_leaves_out_what_does_not_apply() {
    assert_eq!(String::from_utf8(full().to_json()).unwrap(), FULL);
    assert_eq!(Attributes::parse(FULL.as_bytes()).unwrap(), full());
    let short = Attributes { weft: Some(Weft::default()), public_ipv6: None, ..full() };
    let text = String::from_utf8(short.to_json()).unwrap();
    assert_eq!(text, r#"{"PublicIP":"192.168.1.5","PublicIPv6":null,"Weft":{"v":1}}"#);
    assert_eq!(Attributes::parse(text.as_bytes()).unwrap(), short);
}

#[test]
fn keys_match_in_any_case() {
    let text = FULL.replace("PublicIP", "publicip").replace("Weft", "WEFT").replace("mtu", "MTU");
    assert_eq!(Attributes::parse(text.as_bytes()).unwrap(), full());
}

#[test]
fn an_unknown_version_is_a_plain_flannel_peer() {
    for weft in ["{\"v\":2,\"port\":\"x\"}", "{}", "{\"v\":\"1\"}", "null", "7", "{\"v\":1.5}"] {
        let text = format!(r#"{{"PublicIP":"192.168.1.5","PublicIPv6":null,"Weft":{weft}}}"#);
        assert_eq!(Attributes::parse(text.as_bytes()).unwrap().weft, None, "{weft}");
    }
}

#[test]
fn values_that_cannot_be_read() {
    let many: Vec<_> = (0..33).map(|number| format!("192.0.2.{number}")).collect();
    let many = serde_json::json!({"Weft": {"v": 1, "addrs": many}}).to_string();
    for (value, expected) in [
        ("", "not JSON"),
        ("[]", "an array"),
        ("null", "null, expected an object"),
        (r#"{"PublicIP":null}"#, "PublicIP is null"),
        (r#"{"PublicIP":"2001:db8::1"}"#, "is not an IPv4 address"),
        (r#"{"PublicIP":7}"#, "PublicIP is a number"),
        (r#"{"PublicIP":"1.2.3.4","PublicIPv6":"x"}"#, "is not an IPv6 address"),
        (r#"{"PublicIP":"1.2.3.4","PublicIPv6":false}"#, "PublicIPv6 is a boolean"),
        (r#"{"PublicIP":"1.2.3.4","BackendType":{}}"#, "BackendType is an object"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"id":"12"}}"#, "Weft.id"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"port":0}}"#, "Weft.port"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"port":70000}}"#, "Weft.port"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"addrs":["x"]}}"#, "Weft.addrs"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"mtu":67}}"#, "Weft.mtu"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"mtu":65536}}"#, "Weft.mtu"),
        (r#"{"PublicIP":"1.2.3.4","Weft":{"v":1,"v6":"yes"}}"#, "Weft.v6"),
        (&many, "more than 32"),
    ] {
        let Err(Rejection::Value(error)) = read("10.5.1.0-24", value) else {
            panic!("expected an unreadable value: {value}");
        };
        assert_eq!(error.mistakes.len(), 1, "{value}: {error}");
        assert!(error.to_string().contains(expected), "{value}: {error}");
    }
    assert_eq!(read("10.5.1.0", "{}"), Err(Rejection::Name));
}

#[test]
fn what_is_said_about_a_bad_value_is_short() {
    let message = |value: &str| match read("10.5.1.0-24", value) {
        Err(Rejection::Value(error)) => error.to_string(),
        other => panic!("expected an unreadable value: {other:?}"),
    };
    let long = message(&format!(r#"{{"PublicIP":"{}"}}"#, "\u{e9}".repeat(5000)));
    assert!(long.chars().count() <= 201 && long.ends_with('…'), "{long}");
    let many = message(&format!("{{{}\"PublicIP\":8}}", "\"PublicIP\":7,".repeat(5)));
    assert!(many.ends_with("; and 1 more") && many.matches("PublicIP is a number").count() == 5);
    // As long as it may be, and one byte more, which is white space.
    let good = r#"{"PublicIP":"192.168.1.5"}"#;
    let longest = format!("{good}{}", " ".repeat(VALUE_BYTES_MAX - good.len()));
    assert!(read("10.5.1.0-24", &longest).is_ok());
    assert!(message(&format!("{longest} ")).contains("more than 65536 bytes"));
}

/// A node that cannot read its own lease takes another subnet at every start.
#[test]
fn every_mtu_that_a_device_can_have_is_read() {
    for mtu in [68, 548, 1472, 65_535] {
        let text = format!(r#"{{"PublicIP":"192.168.1.5","Weft":{{"v":1,"mtu":{mtu}}}}}"#);
        assert_eq!(Attributes::parse(text.as_bytes()).unwrap().weft.unwrap().mtu, Some(mtu));
    }
}

struct World {
    config: NetworkConfig,
    own: Leaf,
    addresses: Vec<IpAddr>,
}

impl World {
    fn new(config: &str, own: &str) -> Self {
        Self {
            config: NetworkConfig::parse(config.as_bytes()).unwrap(),
            own: leaf(own).unwrap(),
            addresses: vec!["192.168.1.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        }
    }

    fn v4() -> Self {
        Self::new(r#"{"Network":"10.5.0.0/16"}"#, "10.5.1.0-24")
    }

    fn dual() -> Self {
        Self::new(
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#,
            "10.5.1.0-24&fd00:0:0:1::-64",
        )
    }

    fn v6() -> Self {
        Self::new(
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#,
            "0.0.0.0-0&fd00:0:0:1::-64",
        )
    }

    fn check(&self, name: &str, v4: &str, v6: Option<&str>) -> Result<String, &'static str> {
        let v6 = v6.map_or("null".to_owned(), |text| format!("\"{text}\""));
        let lease = read(name, &format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{v6}}}"#)).unwrap();
        let limits = Limits { config: &self.config, own: self.own, own_addresses: &self.addresses };
        limits.check(&lease).map(|leaf| leaf.to_string()).map_err(|reason| reason.name())
    }
}

#[test]
fn believable_leases() {
    let other = "192.168.1.2";
    assert_eq!(World::v4().check("10.5.2.0-24", other, None), Ok("10.5.2.0-24".into()));
    // The first subnet of a network is not handed out, but a hand-written lease may use it.
    assert_eq!(World::v4().check("10.5.0.0-24", other, None), Ok("10.5.0.0-24".into()));
    let both = "10.5.2.0-24&fd00:0:0:2::-64";
    assert_eq!(World::dual().check(both, other, Some("2001:db8::2")), Ok(both.into()));
    assert_eq!(World::dual().check(both, other, None), Ok(both.into()));
    // A family that is off here does not cost the peer the other one.
    assert_eq!(World::v4().check(both, other, None), Ok("10.5.2.0-24".into()));
    let only_v6 = "0.0.0.0-0&fd00:0:0:2::-64";
    assert_eq!(World::v6().check(only_v6, "0.0.0.0", Some("2001:db8::2")), Ok(only_v6.into()));
    assert_eq!(World::dual().check(only_v6, "0.0.0.0", Some("2001:db8::2")), Ok(only_v6.into()));
}

#[test]
fn every_bad_lease_has_its_reason() {
    let (v4, dual, v6) = (World::v4(), World::dual(), World::v6());
    let other = "192.168.1.2";
    let rows = [
        (&v4, "0.0.0.0-0&fd00::-64", other, None, "family"),
        (&v6, "10.5.2.0-24", other, None, "family"),
        (&v4, "10.6.2.0-24", other, None, "outside_network"),
        (&v4, "10.0.0.0-0", other, None, "outside_network"),
        (&dual, "10.5.2.0-24&fd01::-64", other, None, "outside_network"),
        (&v4, "10.5.0.0-16", other, None, "length"),
        (&v4, "10.5.2.0-25", other, None, "length"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::-65", other, None, "length"),
        (&v4, "10.5.2.7-24", other, None, "boundary"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::1-64", other, None, "boundary"),
        (&v4, "10.5.1.0-24", other, None, "overlaps_own"),
        (&dual, "10.5.2.0-24&fd00:0:0:1::-64", other, None, "overlaps_own"),
        (&v4, "10.5.2.0-24", "0.0.0.0", None, "public_ip_unusable"),
        (&v4, "10.5.2.0-24", "0.1.2.3", None, "public_ip_unusable"),
        (&v4, "10.5.2.0-24", "127.0.0.1", None, "public_ip_unusable"),
        (&v4, "10.5.2.0-24", "224.0.0.1", None, "public_ip_unusable"),
        (&v4, "10.5.2.0-24", "255.255.255.255", None, "public_ip_unusable"),
        (&v6, "0.0.0.0-0&fd00:0:0:2::-64", "127.0.0.1", None, "public_ip_unusable"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::-64", other, Some("::"), "public_ip_unusable"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::-64", other, Some("::1"), "public_ip_unusable"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::-64", other, Some("ff02::1"), "public_ip_unusable"),
        (&dual, "10.5.2.0-24&fd00:0:0:2::-64", other, Some("fe80::1"), "public_ip_unusable"),
        (&v4, "10.5.2.0-24", "192.168.1.1", None, "public_ip_ours"),
        (&v4, "10.5.2.0-24", other, Some("2001:db8::1"), "public_ip_ours"),
        (&v4, "10.5.2.0-24", "10.5.9.9", None, "public_ip_inside"),
        (&dual, "10.5.2.0-24", other, Some("fd00::9"), "public_ip_inside"),
    ];
    for (world, name, public, public_v6, expected) in rows {
        assert_eq!(world.check(name, public, public_v6), Err(expected), "{name} {public}");
    }
}

proptest::proptest! {
    #[test]
    fn no_name_or_value_panics(name in ".{0,40}", value in ".{0,80}") {
        let _ = Lease::read(&name, value.as_bytes());
    }

    #[test]
    fn names_survive_being_written(v4: u32, v4_length in 0u8..=31, v6: u128, v6_length in 0u8..=127) {
        let written = Leaf {
            v4: Some(Ipv4Net::new(v4.into(), v4_length).unwrap()),
            v6: Some(Ipv6Net::new(v6.into(), v6_length).unwrap()),
        };
        // The form has no place for dotted text, which flanneld cannot read either.
        let dotted = written.v6.unwrap().addr().to_string().contains('.');
        proptest::prop_assume!(!dotted && (v4 != 0 || v4_length != 0));
        proptest::prop_assert_eq!(leaf(&written.to_string()), Ok(written));
    }

    #[test]
    fn no_lookalike_panics(name in "[0-9a-f.:&-]{0,60}", weft in "[\\[\\]{}\",:0-9a-z]{0,60}") {
        let value = format!("{{\"PublicIP\":\"1.2.3.4\",\"Weft\":{{\"v\":1,{weft}}}}}");
        let _ = Lease::read(&name, value.as_bytes());
    }
}
