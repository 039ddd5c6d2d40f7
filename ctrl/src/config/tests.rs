use super::*;

fn parse(text: &str) -> Result<NetworkConfig, ConfigError> {
    NetworkConfig::parse(text.as_bytes())
}

fn range(text: &str) -> (String, u8, String, String) {
    let config = parse(text).unwrap();
    let range = config.v4.or(config.v6).unwrap();
    (
        range.network().to_string(),
        range.length(),
        range.first().to_string(),
        range.last().to_string(),
    )
}

fn mistakes(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Invalid { mistakes }) => mistakes,
        other => panic!("expected an invalid config: {other:?}"),
    }
}

#[test]
fn defaults_follow_the_network() {
    let rows = [
        (r#"{"Network":"10.3.0.0/16"}"#, "10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0"),
        (r#"{"Network":"10.5.3.7/16"}"#, "10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"),
        (r#"{"Network":"10.3.4.0/22"}"#, "10.3.4.0/22", 24, "10.3.5.0", "10.3.7.0"),
        (r#"{"Network":"10.3.4.0/23"}"#, "10.3.4.0/23", 25, "10.3.4.128", "10.3.5.128"),
        (r#"{"Network":"10.3.4.0/24"}"#, "10.3.4.0/24", 26, "10.3.4.64", "10.3.4.192"),
        (r#"{"Network":"10.3.4.16/28"}"#, "10.3.4.16/28", 30, "10.3.4.20", "10.3.4.28"),
        (r#"{"Network":"0.0.0.0/0"}"#, "0.0.0.0/0", 24, "0.0.1.0", "255.255.255.0"),
        (
            r#"{"Network":"10.3.0.0/16","SubnetLen":28,"SubnetMin":"10.3.1.16","SubnetMax":"10.3.1.16"}"#,
            "10.3.0.0/16",
            28,
            "10.3.1.16",
            "10.3.1.16",
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}"#,
            "fc00::/48",
            64,
            "fc00:0:0:1::",
            "fc00:0:0:ffff::",
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/64"}"#,
            "fc00::/64",
            66,
            "fc00::4000:0:0:0",
            "fc00::c000:0:0:0",
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/0","IPv6SubnetLen":2}"#,
            "::/0",
            2,
            "4000::",
            "c000::",
        ),
    ];
    for (text, network, length, first, last) in rows {
        let expected = (network.to_owned(), length, first.to_owned(), last.to_owned());
        assert_eq!(range(text), expected, "{text}");
    }
}

#[test]
fn keys_match_in_any_case_and_unknown_ones_are_ignored() {
    let config = parse(
        r#"{"network":"10.5.0.0/16","enableIPv6":true,"ipv6network":"FD00::/48","subnetLEN":26,
            "Whatever":[1],"backend":{"type":"UDP","port":9000,"mtu":9000,"strictsource":true,
            "ALLOWEDSOURCES":["192.0.2.7/24","2001:db8::/32"],"Gw":null}}"#,
    )
    .unwrap();
    assert_eq!(config.v4.as_ref().unwrap().length(), 26);
    assert_eq!(config.network_v6().unwrap().to_string(), "fd00::/48");
    assert_eq!(config.networks().count(), 2);
    assert_eq!(
        config.backend,
        Backend::Udp(Box::new(UdpBackend {
            port: 9000,
            source_ports: 1,
            mtu: Some(9000),
            allowed_sources: vec![
                "192.0.2.0/24".parse().unwrap(),
                "2001:db8::/32".parse().unwrap()
            ],
            strict_source: true,
            ..UdpBackend::default()
        }))
    );
}

#[test]
fn a_missing_backend_is_udp_with_its_defaults() {
    let config = parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    assert_eq!(config.backend, Backend::Udp(Box::default()));
    assert_eq!(config.backend.port(), Some(8285));
    assert!(!config.nftables);
    let config = parse(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":0}}"#).unwrap();
    assert_eq!(config.backend.mtu(), None);
}

#[test]
fn backend_types_that_cannot_be_used_end_the_start() {
    let missing = ConfigError::BackendTypeMissing;
    let unknown = |kind: &str| ConfigError::BackendUnknown { kind: kind.into() };
    let rows = [
        ("{}", missing.clone()),
        ("null", missing.clone()),
        (r#"{"Type":""}"#, missing.clone()),
        (r#"{"Type":null,"Port":1}"#, missing),
        (r#"{"Type":"aws-vpc"}"#, unknown("aws-vpc")),
    ];
    for (backend, expected) in rows {
        let error = parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#));
        assert_eq!(error, Err(expected.clone()), "{backend}");
        assert!(expected.is_fatal());
    }
}

#[test]
fn every_other_type_of_flannel_is_refused_with_a_way_out() {
    for kind in ["WireGuard", "ipip", "ipsec", "extension", "alloc", "tencent-vpc"] {
        let text =
            format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{kind}","PSK":"x"}}}}"#);
        let error = parse(&text).unwrap_err();
        assert!(error.is_fatal(), "{kind}");
        let text = error.to_string();
        assert!(text.contains(&format!("{:?}", kind.to_lowercase())), "{text}");
        assert!(text.contains("Use \"") && !text.contains("unknown"), "{text}");
    }
}

#[test]
fn keys_of_vxlan() {
    let with = |keys: &str| {
        parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"VxLAN"{keys}}}}}"#))
    };
    let read = |keys: &str| with(keys).unwrap().backend.vxlan().cloned().unwrap();
    assert_eq!(read(""), VxlanBackend::default());
    assert_eq!((read("").vni, read("").port), (1, 8472));
    assert_eq!(
        read(
            r#","vni":16777215,"PORT":4789,"mtu":9000,"gbp":true,"learning":true,"Directrouting":true,"ondemand":true"#
        ),
        VxlanBackend {
            vni: 16_777_215,
            port: 4789,
            mtu: Some(9000),
            gbp: true,
            learning: true,
            direct_routing: true,
            on_demand: true,
        }
    );
    assert_eq!(read(r#","Port":0,"MTU":0,"VNI":null,"OnDemand":false"#), VxlanBackend::default());
    assert_eq!(read(r#","VNI":0"#).vni, 0);
    for (keys, expected) in [
        (r#","VNI":16777216"#, "VNI 16777216 must be"),
        (r#","VNI":-1"#, "Backend.VNI is"),
        (r#","Port":65536"#, "Port must be"),
        (r#","MTU":500"#, "MTU 500"),
        (r#","Learning":1"#, "Learning is a number"),
        (r#","DirectRouting":"yes""#, "DirectRouting is a string"),
        (r#","OnDemand":"yes""#, "OnDemand is a string"),
    ] {
        let text = with(keys).unwrap_err().to_string();
        assert!(text.contains(expected), "{keys}: {text}");
    }
}

#[test]
fn host_gw_has_no_keys() {
    let document =
        r#"{"Network":"10.5.0.0/16","Backend":{"type":"Host-GW","MTU":"any","Port":-1}}"#;
    let config = parse(document).unwrap();
    assert_eq!(config.backend, Backend::HostGw);
    assert_eq!((config.backend.port(), config.backend.mtu()), (None, None));
}

#[test]
fn both_families_off_is_fatal() {
    let error = parse(r#"{"Network":"10.5.0.0/16","EnableIPv4":false}"#).unwrap_err();
    assert_eq!(error, ConfigError::NoFamily);
    assert!(error.is_fatal());
}

#[test]
fn every_rule_has_its_mistake() {
    let rows = [
        ("{}", "Network must be set"),
        ("[]", "it is an array, expected a JSON object"),
        ("null", "Network must be set"),
        ("{\"Network\":", "it is not JSON"),
        ("{\"Network\":\"10.5.0.0/16\"} x", "it is not JSON"),
        (r#"{"Network":null}"#, "Network is null"),
        (r#"{"Network":7}"#, "Network is a number, expected a string"),
        (r#"{"Network":"fc00::/48"}"#, "is not an IPv4 network"),
        (r#"{"Network":"10.5.0.0"}"#, "is not an IPv4 network"),
        (r#"{"Network":"10.5.0.0/16","EnableIPv6":true}"#, "IPv6Network must be set"),
        (
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"10.0.0.0/8"}"#,
            "is not an IPv6 network",
        ),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#, "SubnetLen 31 must be at most 30"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":17}"#, "must be at least 18"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":4000}"#, "must be at most 30"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":24.0}"#, "SubnetLen is a number"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":"24"}"#, "SubnetLen is a string"),
        (r#"{"Network":"10.5.0.0/16","SubnetLen":-1}"#, "SubnetLen is a number"),
        (r#"{"Network":"10.5.0.0/29"}"#, "is too small"),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.1.0"}"#, "SubnetMin 10.6.1.0 is not inside"),
        (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.7"}"#, "not on a /24 boundary"),
        (r#"{"Network":"10.5.0.0/16","SubnetMin":"x"}"#, "is not an IPv4 address"),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}"#,
            "SubnetMin 10.5.9.0 is above SubnetMax 10.5.8.0",
        ),
        (r#"{"Network":"10.5.0.0/16","EnableIPv4":1}"#, "EnableIPv4 is a number"),
        (r#"{"Network":"10.5.0.0/16","Backend":"udp"}"#, "Backend is a string"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":0}}"#, "from 1 to 65535"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":65536}}"#, "from 1 to 65535"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":-1}}"#, "Backend.Port is"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":500}}"#, "MTU 500 must be"),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","AllowedSources":["x"]}}"#,
            "AllowedSources has \"x\"",
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","AllowedSources":"10.0.0.0/8"}}"#,
            "expected an array of strings",
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}"#,
            "IPv6SubnetLen 127 must be at most 126",
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}"#,
            "IPv6Network fc00::/125 is too small",
        ),
    ];
    for (text, expected) in rows {
        let found = mistakes(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains(expected), "{text}: {found:?}");
        assert!(!parse(text).unwrap_err().is_fatal(), "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_before_a_fatal_kind() {
    let found = mistakes(
        r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0","SubnetMax":"10.5.0.1",
            "EnableIPv6":true,"EnableNFTables":"no","Backend":{"Type":"ipip"}}"#,
    );
    assert_eq!(found.len(), 4, "{found:?}");
}

/// A preshared key.
const PSK: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

#[test]
fn sealing_is_on_where_it_is_asked_for() {
    let sealing = |keys: &str| {
        let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"udp",{keys}}}}}"#);
        parse(&text).unwrap().backend.udp().unwrap().sealing.clone()
    };
    for off in [r#""PSK":null"#, r#""Encryption":"","PSK":"","EncryptionMode":"""#, r#""v":1"#] {
        assert_eq!(sealing(off), None, "{off}");
    }
    let with_psk = format!(r#""encryption":"wireguard","psk":"{PSK}""#);
    let (require, offer) = (SealingMode::Require, SealingMode::Offer);
    for (on, mode, preshared) in [
        (r#""Encryption":"wireguard""#, require, None),
        (r#""Encryption":"wireguard","EncryptionMode":"require""#, require, None),
        (r#""Encryption":"wireguard","EncryptionMode":"offer""#, offer, None),
        (&*with_psk, require, Some(PSK.parse().unwrap())),
    ] {
        assert_eq!(sealing(on), Some(Sealing { mode, preshared }), "{on}");
    }
}

#[test]
fn sealing_in_part_is_a_mistake_and_never_shows_the_secret() {
    let short = &PSK[..40];
    for (kind, keys, told) in [
        ("udp", r#""Encryption":"aes""#.to_owned(), "use \"wireguard\""),
        ("udp", r#""Encryption":true"#.to_owned(), "Backend.Encryption is a boolean"),
        ("udp", r#""Encryption":"wireguard","EncryptionMode":"Offer""#.to_owned(), "require"),
        ("udp", r#""Encryption":"wireguard","EncryptionMode":"maybe""#.to_owned(), "require"),
        ("udp", r#""EncryptionMode":"offer""#.to_owned(), "Backend.Encryption is missing"),
        ("udp", r#""EncryptionMode":"require""#.to_owned(), "Backend.Encryption is missing"),
        ("udp", format!(r#""PSK":"{PSK}""#), "Backend.Encryption is missing"),
        ("udp", format!(r#""Encryption":"wireguard","PSK":"{short}""#), "Backend.PSK is not 32"),
        ("udp", format!(r#""Encryption":"wireguard","PSK":["{PSK}"]"#), "Backend.PSK is an array"),
        ("vxlan", r#""Encryption":"wireguard""#.to_owned(), "needs the type \"udp\""),
        ("host-gw", format!(r#""PSK":"{PSK}""#), "needs the type \"udp\""),
    ] {
        let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{kind}",{keys}}}}}"#);
        let error = parse(&text).unwrap_err();
        assert!(!error.is_fatal(), "{keys}");
        let text = error.to_string();
        assert!(text.contains(told) && !text.contains(&PSK[..8]), "{text}");
    }
}

#[test]
fn source_ports_follow_the_port() {
    let with = |keys: &str| {
        parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"udp"{keys}}}}}"#))
    };
    for (keys, expected) in [
        ("", 1),
        (r#","SourcePorts":null"#, 1),
        (r#","SourcePorts":1"#, 1),
        (r#","sourceports":4"#, 4),
        (r#","SourcePorts":64"#, 64),
        (r#","SourcePorts":2,"Port":65534"#, 2),
        (r#","SourcePorts":1,"Port":65535"#, 1),
    ] {
        assert_eq!(with(keys).unwrap().backend.udp().unwrap().source_ports, expected, "{keys}");
    }
    for (keys, range) in [
        (r#","SourcePorts":0"#, "from 1 to 64"),
        (r#","SourcePorts":65"#, "from 1 to 64"),
        (r#","SourcePorts":3,"Port":65534"#, "from 1 to 2"),
        (r#","SourcePorts":65537"#, "from 1 to 64"),
    ] {
        let text = with(keys).unwrap_err().to_string();
        assert!(text.contains("SourcePorts") && text.contains(range), "{keys}: {text}");
    }
}

#[test]
fn a_range_counts_and_finds_its_subnets() {
    let range = parse(r#"{"Network":"10.3.0.0/16"}"#).unwrap().v4.unwrap();
    assert_eq!(range.count(), 255);
    assert_eq!(range.nth(0).unwrap().to_string(), "10.3.1.0/24");
    assert_eq!(range.nth(254).unwrap().to_string(), "10.3.255.0/24");
    assert_eq!(range.nth(255), None);
    let overlapped = |text: &str| range.overlapped(text.parse().unwrap());
    assert_eq!(overlapped("10.3.0.0/24"), None);
    assert_eq!(overlapped("10.3.1.0/24"), Some((0, 0)));
    assert_eq!(overlapped("10.3.0.0/22"), Some((0, 2)));
    assert_eq!(overlapped("10.3.255.255/32"), Some((254, 254)));
    assert_eq!(overlapped("0.0.0.0/0"), Some((0, 254)));
    assert_eq!(overlapped("fc00::/64"), None);
    let allows = |text: &str| range.allows(text.parse().unwrap());
    assert!(allows("10.3.1.0/24") && allows("10.3.255.0/24"));
    assert!(!allows("10.3.0.0/24") && !allows("10.3.1.0/25") && !allows("10.3.1.1/24"));
    assert!(!allows("10.4.1.0/24") && !allows("fc00::/24"));
}

proptest::proptest! {
    #[test]
    fn no_document_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = NetworkConfig::parse(&bytes);
    }

    #[test]
    fn no_combination_of_lengths_panics(
        prefix in 0u8..=32, length in 0u32..=200, min in ".{0,20}", v6 in 0u8..=128,
    ) {
        let document = serde_json::json!({
            "Network": format!("10.0.0.0/{prefix}"), "SubnetLen": length,
            "EnableIPv6": true, "IPv6Network": format!("fc00::/{v6}"), "IPv6SubnetLen": length,
            "IPv6SubnetMin": min,
        });
        if let Ok(config) = NetworkConfig::parse(document.to_string().as_bytes()) {
            for range in [config.v4.unwrap(), config.v6.unwrap()] {
                let last = range.nth(range.count() - 1).unwrap();
                proptest::prop_assert!(range.allows(last));
                proptest::prop_assert_eq!(last.network(), range.last());
            }
        }
    }
}

#[test]
fn paths_are_in_order_and_have_udp_among_them() {
    let with = |keys: &str| {
        parse(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"udp",{keys}}}}}"#))
    };
    let all = with(r#""Paths":["host-gw","vxlan","udp"],"vxlan":{"vni":7,"Port":4789},"MTU":1400"#);
    let backend = all.unwrap().backend;
    assert_eq!(backend.paths(), [PathKind::HostGw, PathKind::Vxlan, PathKind::Udp]);
    let tunnel = backend.tunnel().unwrap();
    assert_eq!((tunnel.vni, tunnel.port, tunnel.mtu), (7, 4789, Some(1400)));
    assert_eq!(backend.vxlan(), None, "that is not the type");
    let plain = with(r#""Paths":["udp","host-gw"]"#).unwrap().backend;
    assert_eq!((plain.paths().len(), plain.tunnel()), (2, None));
    let default = with(r#""Paths":["vxlan","udp"]"#).unwrap().backend.tunnel().cloned().unwrap();
    assert_eq!((default.vni, default.port), (1, 8472));
    for (keys, part) in [
        (r#""Paths":[]"#, "does not list"),
        (r#""Paths":["vxlan"]"#, "does not list"),
        (r#""Paths":["udp","udp"]"#, "twice"),
        (r#""Paths":["udp","wireguard"]"#, "wireguard"),
        (r#""Paths":["udp","VXLAN"]"#, "no path"),
        (r#""Paths":"udp""#, "array"),
        (r#""VXLAN":{"VNI":1}"#, "does not list"),
        (r#""Paths":["udp","vxlan"],"VXLAN":{"VNI":16777216}"#, "VXLAN.VNI"),
        (r#""Paths":["udp","vxlan"],"VXLAN":7"#, "object"),
        (r#""Paths":["udp","vxlan"],"Encryption":"wireguard""#, "unsealed"),
    ] {
        let error = with(keys).unwrap_err();
        assert!(!error.is_fatal() && error.to_string().contains(part), "{keys}: {error}");
    }
}

/// As with flanneld's Kubernetes source, which asks for nothing but that it is inside the network.
#[test]
fn a_given_subnet_may_have_any_length() {
    let given = |document: &str| NetworkConfig::parse_for(document.as_bytes(), Subnets::Given);
    let config =
        given(r#"{"Network":"10.244.3.7/16","SubnetLen":31,"SubnetMin":"10.9.0.0"}"#).unwrap();
    assert_eq!(
        (config.subnets(), config.network_v4().unwrap().to_string().as_str()),
        (Subnets::Given, "10.244.0.0/16")
    );
    let gives = |name: &str| config.would_give(&name.parse().unwrap());
    for name in ["10.244.0.0-24", "10.244.8.0-21", "10.244.1.64-27", "10.244.0.0-16"] {
        assert!(gives(name), "{name}");
    }
    for name in [
        "10.245.0.0-24",
        "10.244.1.7-24",
        "10.0.0.0-8",
        "10.244.1.0-24&fd00::-64",
        "0.0.0.0-0&fd00::-64",
    ] {
        assert!(!gives(name), "{name}");
    }
    let both = "10.244.1.0-24&fd00::-64".parse().unwrap();
    assert_eq!(config.part_of(both).to_string(), "10.244.1.0-24");
    assert!(given(r#"{"Network":"10.244.0.0/30"}"#).is_ok(), "no place for four subnets is needed");
    assert!(given("{}").is_err());
    let taken = parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    assert_eq!((taken.subnets(), taken.part_of(both)), (Subnets::Taken, both));
}
