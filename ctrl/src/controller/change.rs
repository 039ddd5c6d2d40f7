//! What may change under a running node: the network config, and the addresses of its interface.
//!
//! | change | what happens |
//! | --- | --- |
//! | `Port` of `udp` | sockets are bound to it, and the lease tells it |
//! | `Port`, to one whose source ports overlap those in use | told; a restart applies it |
//! | `AllowedSources`, `StrictSource` | the next table has them |
//! | `Learning`, `DirectRouting` | device and routes follow |
//! | `VNI`, `Port`, `GBP`, `OnDemand` of `vxlan`, `Type` | told; a restart applies it |
//! | `Network`, `SubnetMin`, `SubnetMax`, as long as the own subnet is one of them | route, subnet file and table follow |
//! | `EnableNFTables` | the rules of the other kind replace those in force |
//! | `Paths`, `VXLAN` | told; a restart applies it |
//! | `SourcePorts` | told; workers are as many as they were at the start |
//! | `Encryption`, `PSK` | told; until the restart traffic is sealed, or not, as before |
//! | anything that would give this node or its pods other addresses or another MTU | told; a restart applies it |
//! | the address that datagrams are sent from is gone, and there is another | sockets are bound to that, and the lease tells it |
//! | other addresses of the host | told in the lease where it names them |

use crate::config::{Backend, NetworkConfig, UdpBackend, VxlanBackend};
use crate::interface::Interface;
use crate::lease::Leaf;

/// What a running node goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) config: NetworkConfig,
    /// The config as stored.
    pub(super) document: String,
    pub(super) interface: Interface,
}

/// What a config that is stored means for a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is in force.
    Same,
    /// It can be put in force now.
    Applicable(NetworkConfig),
    /// It stays without effect; the sentence says why, and what to do.
    Unusable(String),
}

/// Compares what is stored with what is in force on the node that has the subnets `own` and sends from
/// `source_ports` ports.
pub(super) fn judge(
    document: Option<&[u8]>,
    in_force: &NetworkConfig,
    own: &Leaf,
    source_ports: u16,
) -> Verdict {
    let Some(document) = document else {
        let note = "The network config is gone from the store. The one in force stays";
        return Verdict::Unusable(note.into());
    };
    let config = match NetworkConfig::parse_for(document, in_force.subnets()) {
        Ok(config) if config == *in_force => return Verdict::Same,
        Ok(config) => config,
        Err(error) => {
            return Verdict::Unusable(format!("A changed network config is not usable. {error}"));
        }
    };
    let mut reasons = reasons(in_force, &config, own);
    reasons.extend(match (&in_force.backend, &config.backend) {
        (Backend::Udp(before), Backend::Udp(now)) => udp_reasons(before, now, source_ports),
        (Backend::Vxlan(before), Backend::Vxlan(now)) => vxlan_reasons(before, now),
        (Backend::HostGw, Backend::HostGw) => Vec::new(),
        _ => vec!["Backend.Type is another one"],
    });
    match reasons.as_slice() {
        [] => Verdict::Applicable(config),
        reasons => Verdict::Unusable(format!(
            "The network config has changed. Restart weft to apply it: {}",
            reasons.join("; ")
        )),
    }
}

/// Why a config cannot be put in force under running pods.
fn reasons(in_force: &NetworkConfig, config: &NetworkConfig, own: &Leaf) -> Vec<&'static str> {
    let families = |config: &NetworkConfig| (config.v4.is_some(), config.v6.is_some());
    let mut reasons = Vec::new();
    if families(in_force) != families(config) {
        reasons.push("other address families are on, so this host gets another subnet");
    } else if !config.would_give(own) {
        reasons.push("this host gets another subnet; its pods have to be started again");
    }
    if in_force.backend.mtu() != config.backend.mtu() {
        reasons.push("Backend.MTU is another one; so has to be that of the pods");
    }
    reasons
}

fn udp_reasons(before: &UdpBackend, now: &UdpBackend, source_ports: u16) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if before.source_ports != now.source_ports {
        reasons.push("Backend.SourcePorts is another one; so is the number of workers, perhaps");
    }
    if before.sealing != now.sealing {
        reasons.push("Backend.Encryption or PSK is another one; so are all peers, perhaps");
    }
    if before.paths != now.paths || before.vxlan != now.vxlan {
        reasons.push("Backend.Paths or Backend.VXLAN is another one; so are devices and leases");
    }
    // Sockets are bound while their predecessors still have their ports.
    if (1..source_ports).contains(&before.port.abs_diff(now.port)) {
        reasons.push("Backend.Port is among the ports in use, or the ports behind it are");
    }
    reasons
}

/// A device cannot change these, and another one in its place has no connection with the peers that
/// have not changed yet.
fn vxlan_reasons(before: &VxlanBackend, now: &VxlanBackend) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if before.vni != now.vni {
        reasons.push("Backend.VNI is another one, so the device is another one");
    }
    if before.port != now.port {
        reasons.push("Backend.Port is another one, so the device is made anew");
    }
    if before.gbp != now.gbp {
        reasons.push("Backend.GBP is another one, so the device is made anew");
    }
    if before.on_demand != now.on_demand {
        reasons.push("Backend.OnDemand is another one, so the device is made anew");
    }
    reasons
}

/// What to go by after another look at the host; `None` if everything is as it was. As long as the host
/// has the address that datagrams are sent from, that one stays, whatever would be chosen now.
pub(super) fn moved(before: &Interface, now: Interface) -> Option<Interface> {
    let outer = before.outer_address();
    let is_there = outer.is_some_and(|address| now.addresses.contains(&address));
    let same_place = before.name == now.name && outer == now.outer_address();
    let interface = if is_there && !same_place {
        Interface { addresses: now.addresses, ..before.clone() }
    } else {
        now
    };
    (interface != *before).then_some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;

    fn verdict(document: &str) -> Verdict {
        let in_force = NetworkConfig::parse(CONFIG.as_bytes()).unwrap();
        judge(Some(document.as_bytes()), &in_force, &"10.5.9.0-24".parse().unwrap(), 1)
    }

    fn note(document: &str) -> String {
        match verdict(document) {
            Verdict::Unusable(note) => note,
            other => panic!("{document}: {other:?}"),
        }
    }

    #[test]
    fn what_concerns_no_pod_is_applied() {
        assert_eq!(verdict(r#"{"network":"10.5.0.0/16"}"#), Verdict::Same);
        for document in [
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":8286}}"#,
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","AllowedSources":["192.0.2.0/24"]}}"#,
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","StrictSource":true}}"#,
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0"}"#,
            r#"{"Network":"10.4.0.0/15"}"#,
            r#"{"Network":"10.5.0.0/16","EnableNFTables":true}"#,
        ] {
            assert!(matches!(verdict(document), Verdict::Applicable(_)), "{document}");
        }
    }

    #[test]
    fn what_would_renumber_pods_is_told() {
        for document in [
            r#"{"Network":"10.6.0.0/16"}"#,
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0"}"#,
            r#"{"Network":"10.5.0.0/16","SubnetLen":25}"#,
            r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#,
        ] {
            let note = note(document);
            assert!(note.contains("Restart weft") && note.contains("another subnet"), "{note}");
        }
        let mtu = note(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","MTU":1400}}"#);
        assert!(mtu.contains("Restart weft") && mtu.contains("MTU"), "{mtu}");
        let ports = note(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","SourcePorts":2}}"#);
        assert!(ports.contains("Restart weft") && ports.contains("SourcePorts"), "{ports}");
        let sealing =
            note(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Encryption":"wireguard"}}"#);
        assert!(sealing.contains("Restart weft") && sealing.contains("Encryption"), "{sealing}");
    }

    #[test]
    fn what_is_no_config_changes_nothing() {
        assert!(note("{").contains("not usable"));
        assert!(note(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#).contains("ipip"));
        let in_force = NetworkConfig::parse(CONFIG.as_bytes()).unwrap();
        let gone = judge(None, &in_force, &"10.5.9.0-24".parse().unwrap(), 1);
        assert!(matches!(gone, Verdict::Unusable(note) if note.contains("gone")));
    }

    #[test]
    fn a_vxlan_device_is_changed_only_where_it_can_be() {
        let config = |keys: &str| {
            format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"vxlan"{keys}}}}}"#)
        };
        let in_force = NetworkConfig::parse(config("").as_bytes()).unwrap();
        let own = "10.5.9.0-24".parse().unwrap();
        let judge = |keys: &str| judge(Some(config(keys).as_bytes()), &in_force, &own, 1);
        assert_eq!(judge(r#","vni":1,"port":8472"#), Verdict::Same);
        for keys in [r#","Learning":true"#, r#","Directrouting":true"#] {
            assert!(matches!(judge(keys), Verdict::Applicable(_)), "{keys}");
        }
        for key in ["VNI", "Port", "MTU"] {
            let verdict = judge(&format!(r#","{key}":1400"#));
            let told = |note: &str| note.contains("Restart weft") && note.contains(key);
            assert!(matches!(&verdict, Verdict::Unusable(note) if told(note)), "{verdict:?}");
        }
        for key in [r#","GBP":true"#, r#","OnDemand":true"#] {
            assert!(matches!(judge(key), Verdict::Unusable(_)), "{key}");
        }
    }

    #[test]
    fn another_type_needs_a_restart() {
        for kind in ["vxlan", "host-gw"] {
            let document = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{kind}"}}}}"#);
            assert!(note(&document).contains("Restart weft"), "{kind}");
        }
    }

    #[test]
    fn a_port_moves_only_clear_of_the_source_ports_in_use() {
        let with_port = |port: u16| {
            format!(
                r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"udp","SourcePorts":3,"Port":{port}}}}}"#
            )
        };
        let in_force = NetworkConfig::parse(with_port(8285).as_bytes()).unwrap();
        let own = "10.5.9.0-24".parse().unwrap();
        let verdict = |port: u16, source_ports| {
            judge(Some(with_port(port).as_bytes()), &in_force, &own, source_ports)
        };
        assert_eq!(verdict(8285, 3), Verdict::Same);
        for port in [8283, 8284, 8286, 8287] {
            let verdict = verdict(port, 3);
            let told = |note: &str| note.contains("Restart weft") && note.contains("Backend.Port");
            assert!(matches!(&verdict, Verdict::Unusable(note) if told(note)), "{verdict:?}");
        }
        for (port, source_ports) in [(8282, 3), (8288, 3), (8283, 2), (8286, 1)] {
            let verdict = verdict(port, source_ports);
            assert!(matches!(verdict, Verdict::Applicable(_)), "{port} {verdict:?}");
        }
    }

    fn interface(name: &str, address: &str, addresses: &[&str]) -> Interface {
        let address = Some(address.parse().unwrap());
        Interface {
            name: name.into(),
            index: 2,
            mtu: 1500,
            address_v4: address,
            address_v6: None,
            public_v4: address,
            public_v6: None,
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn an_address_is_left_only_when_it_is_gone() {
        let before = interface("eth0", "192.0.2.1", &["192.0.2.1"]);
        assert_eq!(moved(&before, before.clone()), None);
        let both = ["192.0.2.1", "192.0.2.9"];
        let more = interface("eth0", "192.0.2.1", &both);
        assert_eq!(moved(&before, more.clone()), Some(more.clone()));
        let other = interface("eth1", "192.0.2.9", &both);
        assert_eq!(moved(&before, other), Some(more), "the old one is still there");
        let alone = interface("eth1", "192.0.2.9", &["192.0.2.9"]);
        assert_eq!(moved(&before, alone.clone()), Some(alone));
    }
}
