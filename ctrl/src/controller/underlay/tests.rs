use super::super::OnLeaseLoss;
use super::*;
use crate::interface::InterfaceOptions;
use crate::netfilter;
use crate::source::SourceOptions;
use crate::source::etcd::{Endpoints, EtcdOptions};

fn config(backend: &str) -> NetworkConfig {
    let document = format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#);
    NetworkConfig::parse(document.as_bytes()).unwrap()
}

fn dual(backend: &str) -> NetworkConfig {
    let document = format!(
        r#"{{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{backend}}}"#
    );
    NetworkConfig::parse(document.as_bytes()).unwrap()
}

fn only_v6(backend: &str) -> NetworkConfig {
    NetworkConfig { v4: None, ..dual(backend) }
}

fn interface(config: &NetworkConfig) -> Interface {
    let v4: Option<Ipv4Addr> = config.v4.as_ref().map(|_| "10.168.0.2".parse().unwrap());
    let v6 = config.v6.as_ref().map(|_| "2001:db8::2".parse().unwrap());
    Interface {
        name: "eth0".into(),
        index: 2,
        mtu: 1500,
        address_v4: v4,
        address_v6: v6,
        public_v4: v4,
        public_v6: v6,
        addresses: Vec::new(),
    }
}

fn facts(mtu: u32) -> Facts {
    let mac = |text: &str| Some(text.parse().unwrap());
    let macs = Macs { v4: mac("22:2b:3a:1d:8d:3c"), v6: mac("22:2b:3a:1d:8d:3d") };
    Facts {
        identity: "0".repeat(32).parse().unwrap(),
        mtu,
        source_ports: 1,
        shortcut: false,
        macs,
        key: None,
    }
}

/// The lease of 10.244.1.0/24 as a flanneld wrote it.
fn recorded(document: &str) -> String {
    let texts: Vec<String> = serde_json::from_str(document).unwrap();
    texts[3].clone()
}

#[test]
fn leases_are_flannels_byte_for_byte_with_our_part_behind() {
    let rows = [
        ("udp", include_str!("../../../tests/data/etcd-udp.json"), r#","port":8285,"ports":1"#),
        ("vxlan", include_str!("../../../tests/data/etcd-vxlan.json"), ""),
        ("host-gw", include_str!("../../../tests/data/etcd-host-gw.json"), ""),
    ];
    for (kind, document, more) in rows {
        let config = config(&format!(r#"{{"Type":"{kind}"}}"#));
        let no_v6 = Facts { macs: Macs { v6: None, ..facts(1450).macs }, ..facts(1450) };
        let attributes = attributes(&interface(&config), &config, &no_v6);
        let flannels = Attributes { weft: None, ..attributes.clone() };
        assert_eq!(String::from_utf8(flannels.to_json()).unwrap(), recorded(document), "{kind}");
        let ours = format!(
            r#","Weft":{{"v":1,"id":"{}","paths":["{kind}"]{more},"mtu":1450}}}}"#,
            "0".repeat(32)
        );
        let expected = recorded(document).strip_suffix('}').unwrap().to_owned() + &ours;
        assert_eq!(String::from_utf8(attributes.to_json()).unwrap(), expected, "{kind}");
    }
}

#[test]
fn both_devices_are_told() {
    let config = dual(r#"{"Type":"vxlan","VNI":7}"#);
    let attributes = attributes(&interface(&config), &config, &facts(1430));
    let text = String::from_utf8(attributes.to_json()).unwrap();
    let expected = r#"{"PublicIP":"10.168.0.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"22:2b:3a:1d:8d:3c"},"BackendV6Data":{"VNI":7,"VtepMAC":"22:2b:3a:1d:8d:3d"},"Weft":"#;
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with(r#""paths":["vxlan"],"mtu":1430,"v6":true}}"#), "{text}");
}

#[test]
fn mtu_by_type_and_family() {
    let mtu = |config: &NetworkConfig| inner_mtu(config, &interface(config)).unwrap();
    let rows = [
        (r#"{"Type":"udp"}"#, [1472, 1452, 1472]),
        (r#"{"Type":"vxlan"}"#, [1450, 1430, 1430]),
        (r#"{"Type":"vxlan","MTU":1400}"#, [1350, 1330, 1330]),
        (r#"{"Type":"host-gw"}"#, [1500, 1500, 1500]),
    ];
    for (backend, expected) in rows {
        let found = [config(backend), only_v6(backend), dual(backend)].map(|config| mtu(&config));
        assert_eq!(found, expected, "{backend}");
    }
    let config = dual(r#"{"Type":"vxlan"}"#);
    let host = host(&interface(&config), &config, facts(0).macs);
    assert_eq!(host.vteps.iter().map(|vtep| vtep.mtu).collect::<Vec<_>>(), [1450, 1430]);
    let small = dual(r#"{"Type":"vxlan","MTU":1340}"#);
    let error = inner_mtu(&small, &interface(&small)).unwrap_err().to_string();
    assert!(error.contains("1270") && error.contains("1280"), "{error}");
}

#[test]
fn plain_routes_need_the_interfaces_own_address() {
    let public = Some("203.0.113.7".parse().unwrap());
    for (kind, is_fine) in [("host-gw", false), ("vxlan", true), ("udp", true)] {
        let config = config(&format!(r#"{{"Type":"{kind}"}}"#));
        let own = interface(&config);
        assert!(check_public(&config, &own).is_ok());
        let translated = Interface { public_v4: public, ..own };
        let checked = check_public(&config, &translated);
        assert_eq!(checked.is_ok(), is_fine, "{kind}");
        if let Err(error) = checked {
            let text = error.to_string();
            assert!(text.contains("203.0.113.7") && text.contains("--public-ip"), "{text}");
        }
    }
}

const SEALED: &str = r#"{"Type":"udp","Encryption":"wireguard"}"#;

#[test]
fn sealed_packets_leave_as_much_room_over_ipv4_as_over_ipv6() {
    for config in [config(SEALED), dual(SEALED), only_v6(SEALED)] {
        assert_eq!(inner_mtu(&config, &interface(&config)).unwrap(), 1420);
    }
}

#[test]
fn a_lease_says_the_key() {
    let config = config(SEALED);
    let key = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
    let facts = Facts { key: Some(key.parse().unwrap()), ..facts(1420) };
    let value = attributes(&interface(&config), &config, &facts).to_json();
    assert!(String::from_utf8(value.clone()).unwrap().contains(&format!(r#""key":"{key}""#)));
    assert_eq!(Attributes::parse(&value).unwrap().key(), facts.key);
}

#[test]
fn keys_come_from_a_store_that_nobody_on_the_way_can_change() {
    let options = |url: &str, insecure_store| Options {
        source: SourceOptions::Etcd(Box::new(EtcdOptions::new(
            Endpoints::parse(url, false).unwrap().servers,
            "/coreos.com/network",
        ))),
        state_directory: "/state".into(),
        subnet_file: "/subnet.env".into(),
        interface: InterfaceOptions::default(),
        netfilter: netfilter::Options {
            masquerade: false,
            fully_random: false,
            forward: false,
            resync: std::time::Duration::from_secs(5),
            blackhole: false,
        },
        renew_margin: std::time::Duration::ZERO,
        on_lease_loss: OnLeaseLoss::Hold,
        insecure_store,
    };
    let sealed = config(SEALED);
    let open = "https://192.0.2.1:2379,http://192.0.2.2:2379";
    let refused = check_store(&sealed, &options(open, false)).unwrap_err();
    assert!(refused.to_string().contains("http://192.0.2.2:2379"), "{refused}");
    for (url, insecure_store) in
        [(open, true), ("https://192.0.2.1:2379", false), ("http://127.0.0.1:2379", false)]
    {
        assert!(check_store(&sealed, &options(url, insecure_store)).is_ok(), "{url}");
    }
    assert!(check_store(&config(r#"{"Type":"udp"}"#), &options(open, false)).is_ok());
}
