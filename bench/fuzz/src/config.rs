//! Documents of the cluster and of this host: the network config and the subnet file.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_ctrl::config::{ConfigError, NetworkConfig, SubnetRange};
use weft_ctrl::subnet_file::subnets;

/// The network config.
pub fn config(data: &[u8]) {
    let config = match NetworkConfig::parse(data) {
        Ok(config) => config,
        Err(ConfigError::Invalid { mistakes }) => {
            assert!(!mistakes.is_empty() && mistakes.iter().all(|text| !text.is_empty()));
            return;
        }
        Err(error) => {
            assert!(error.is_fatal() && !error.to_string().is_empty());
            return;
        }
    };
    assert!(config.v4.is_some() || config.v6.is_some());
    assert!(config.network_v4().is_some() == config.v4.is_some());
    assert!(config.network_v6().is_some() == config.v6.is_some());
    assert_ne!(config.backend.port(), Some(0));
    for range in [&config.v4, &config.v6].into_iter().flatten() {
        check_range(range);
    }
    let udp = config.backend.udp();
    for net in udp.iter().flat_map(|backend| &backend.allowed_sources) {
        assert_eq!(net.trunc(), *net);
    }
}

fn check_range(range: &SubnetRange) {
    let network = range.network();
    assert_eq!(network.trunc(), network);
    assert!(range.length() >= network.prefix_len() + 2, "a network holds four subnets");
    assert!(range.first() <= range.last());
    let count = range.count();
    for index in [0, 1, count / 2, count - 1] {
        let Some(subnet) = range.nth(index) else {
            assert!(index >= count);
            continue;
        };
        assert!(range.allows(subnet) && network.contains(&subnet), "{subnet}");
        assert_eq!(subnet.prefix_len(), range.length());
    }
    assert_eq!(range.nth(0).map(|net| net.addr()), Some(range.first()));
    assert_eq!(range.nth(count - 1).map(|net| net.addr()), Some(range.last()));
    assert_eq!(range.nth(count), None);
    let stranger: IpAddr = [203, 0, 113, 0].into();
    let stranger = IpNet::new(stranger, 24).expect("a constant");
    assert!(!range.allows(stranger) || network.contains(&stranger));
}

/// The subnet file that an earlier process left.
pub fn subnet_file(data: &[u8]) {
    // A file that is not UTF-8 is refused before.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(leaf) = subnets(text) else { return };
    assert!(leaf.subnets().next().is_some());
    assert!(leaf.v4.is_none_or(|net| net.trunc() == net));
    assert!(leaf.v6.is_none_or(|net| net.trunc() == net));
    let again: String = leaf
        .subnets()
        .map(|net| match net {
            IpNet::V4(net) => format!("FLANNEL_SUBNET={net}\n"),
            IpNet::V6(net) => format!("FLANNEL_IPV6_SUBNET={net}\n"),
        })
        .collect();
    assert_eq!(subnets(&again), Some(leaf));
}
