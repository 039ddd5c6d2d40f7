//! The kernel paths: made, read back by the usual tools, taken over and removed.

use std::fs;

use weft_ctrl::interface::reader::Netlink;
use weft_ctrl::kernel::object::Vxlan;
use weft_ctrl::kernel::{apply, is_on_link, remove_all};

use crate::namespace::{in_new_namespace, ip};
use crate::paths::{
    add_foreign, add_peer, applied, bridge, build_host, devices, everything, foreign_lines, index,
    mac, shown, vxlan_v4,
};

/// As flanneld's, but for the mark, and the link-local address that nobody needs.
#[test]
fn every_object_is_made_as_flanneld_makes_it() {
    in_new_namespace("every_object_is_made_as_flanneld_makes_it", || async {
        build_host();
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
        applied(&everything()).await;
        let expected = "\
0a:00:00:00:00:02 dst 10.168.0.2 self permanent
0a:00:00:00:00:02 dst fd01::2 self permanent
0a:00:00:00:00:03 dst 10.168.0.3 self permanent
0a:00:00:00:00:03 dst fd01::3 self permanent
10.244.2.0 lladdr 0a:00:00:00:00:02 PERMANENT
10.244.3.0 lladdr 0a:00:00:00:00:03 PERMANENT
8285:\tfrom 10.244.1.0 ipproto udp sport 4000 lookup 8285 proto 82
8286:\tfrom fd00:244:0:1:: ipproto udp sport 4000 lookup 8285 proto 82
blackhole 10.244.1.0/24 scope global metric 9999
fd00:244:0:2:: lladdr 0a:00:00:00:00:02 PERMANENT
fd00:244:0:3:: lladdr 0a:00:00:00:00:03 PERMANENT
flannel-v6.1 mtu 1430 up 0a:00:00:00:00:01
flannel.1 mtu 1450 up 0a:00:00:00:00:01
inet 10.244.1.0/32 scope global flannel.1
inet6 fd00:244:0:1::/128 scope global nodad
unicast 10.244.2.0/24 via 10.244.2.0 dev flannel.1 scope global onlink
unicast 10.244.3.0/24 via 10.244.3.0 dev flannel.1 scope global onlink
unicast 10.244.7.0/24 via 10.168.0.7 dev u1 scope global
unicast 10.244.7.0/24 via 10.168.0.7 dev u1 table 8285 scope global src 10.244.1.0 mtu 1300
unicast fd00:244:0:2::/64 via fd00:244:0:2:: dev flannel-v6.1 scope global metric 1024 onlink pref medium
unicast fd00:244:0:3::/64 via fd00:244:0:3:: dev flannel-v6.1 scope global metric 1024 onlink pref medium
unicast fd00:244:0:7::/64 via fd01::7 dev u1 scope global metric 1024 pref medium
unreachable fd00:244::/48 dev lo scope global metric 9999 pref medium";
        assert_eq!(shown().join("\n"), expected);
        for (name, local) in [("flannel.1", "10.168.0.2"), ("flannel-v6.1", "fd01::2")] {
            let link = ip(&format!("-d link show {name}"));
            let parameters = format!(
                "vxlan id 1 local {local} dev u1 srcport 0 0 dstport 8472 nolearning ttl auto \
                 ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx"
            );
            assert!(link.contains(&parameters), "{link}");
            assert!(link.contains("link/ether 0a:00:00:00:00:01"), "{link}");
            assert!(link.contains("alias weft"), "{link}");
            assert!(!link.contains("qlen"), "{link}");
        }
        let rp_filter = fs::read_to_string("/proc/sys/net/ipv4/conf/flannel.1/rp_filter");
        assert_eq!(rp_filter.unwrap().trim(), "2");
    });
}

#[test]
fn options_of_the_device_are_made_and_some_changed_in_place() {
    in_new_namespace("options_of_the_device_are_made_and_some_changed_in_place", || async {
        build_host();
        let mut state = devices();
        state.vxlans.truncate(1);
        state.vxlans[0] = Vxlan { gbp: true, miss: true, port: 4789, ..vxlan_v4() };
        add_peer(&mut state, 3);
        state.routes.truncate(1);
        state.neighbours.truncate(1);
        state.fdb.truncate(1);
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert!(link.contains("dstport 4789 nolearning proxy l2miss l3miss "), "{link}");
        assert!(link.contains(" gbp "), "{link}");
        let before = index("flannel.1");

        let changed = Vxlan { mac: mac(9), mtu: 1400, learning: true, ..state.vxlans[0].clone() };
        state.vxlans[0] = changed;
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert_eq!(index("flannel.1"), before);
        assert!(
            link.contains("mtu 1400") && link.contains("link/ether 0a:00:00:00:00:09"),
            "{link}"
        );
        assert!(!link.contains("nolearning"), "{link}");
        assert!(ip("neigh show dev flannel.1").contains("10.244.3.0 lladdr 0a:00:00:00:00:03"));

        state.vxlans[0] = vxlan_v4();
        applied(&state).await;
        let link = ip("-d link show flannel.1");
        assert_ne!(index("flannel.1"), before);
        assert!(link.contains("dstport 8472 nolearning ttl"), "{link}");
        assert!(ip("route show").contains("10.244.3.0/24 via 10.244.3.0 dev flannel.1"));
    });
}

/// By the commands that do what flanneld does, with the link-local address that it leaves.
fn flanneld_was_here() {
    ip("link add flannel.1 address 0a:00:00:00:00:77 mtu 1450 type vxlan id 1 local 10.168.0.2 \
        dev u1 dstport 8472 nolearning");
    ip("addr add 10.244.1.0/32 dev flannel.1");
    ip("addr add 10.244.99.0/32 dev flannel.1");
    ip("link set flannel.1 up");
    for (number, outer) in [(2, 2), (3, 33), (9, 9)] {
        ip(&format!(
            "neigh replace 10.244.{number}.0 lladdr 0a:00:00:00:00:0{number} dev flannel.1 nud permanent"
        ));
        bridge(&format!(
            "fdb replace 0a:00:00:00:00:0{number} dev flannel.1 dst 10.168.0.{outer} self permanent"
        ));
        ip(&format!(
            "route replace 10.244.{number}.0/24 via 10.244.{number}.0 dev flannel.1 onlink"
        ));
    }
    ip("route add 10.244.7.0/24 via 10.168.0.3 dev u1");
}

#[test]
fn what_flanneld_left_is_taken_over_and_sorted_out() {
    in_new_namespace("what_flanneld_left_is_taken_over_and_sorted_out", || async {
        build_host();
        flanneld_was_here();
        let before = index("flannel.1");
        let mut state = everything();
        state.vxlans[0].mac = mac(0x77);
        applied(&state).await;
        assert_eq!(index("flannel.1"), before, "the device stays");
        let adopted = shown();

        ip("link del flannel.1");
        ip("link del flannel-v6.1");
        ip("route flush proto 82");
        ip("-6 route flush proto 82");
        applied(&state).await;
        let link_local = |line: &String| line.starts_with("inet6 fe80:") && line.contains("link");
        let adopted: Vec<String> = adopted.into_iter().filter(|line| !link_local(line)).collect();
        assert_eq!(adopted, shown(), "as if it had been made here");
    });
}

#[test]
fn another_device_of_the_name_is_replaced_only_if_it_is_a_vxlan_device() {
    let name = "another_device_of_the_name_is_replaced_only_if_it_is_a_vxlan_device";
    in_new_namespace(name, || async {
        build_host();
        ip("link add flannel.1 type vxlan id 7 dev u1 dstport 8472");
        ip("link add flannel-v6.1 type bridge");
        let state = everything();
        let report = apply(&state).await.unwrap();
        let texts: Vec<&str> = report.failures.iter().map(|one| one.sentence.as_str()).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].contains("a device flannel-v6.1 that is no VXLAN device"), "{texts:?}");
        assert!(ip("-d link show flannel.1").contains("vxlan id 1 "));
        assert!(ip("-d link show flannel-v6.1").contains("bridge"));
        assert!(ip("route show").contains("10.244.3.0/24 via 10.244.3.0 dev flannel.1"));
    });
}

#[test]
fn what_is_foreign_stays_and_is_named() {
    in_new_namespace("what_is_foreign_stays_and_is_named", || async {
        build_host();
        add_foreign();
        let before = foreign_lines();
        let state = everything();
        let report = apply(&state).await.unwrap();
        let names: Vec<String> = report.foreign.iter().map(ToString::to_string).collect();
        let expected = [
            "10.244.3.0/24 via 10.168.0.9 dev u1 proto 4 metric 0",
            "fd00:244:0:3::/64 via fd01::9 dev u1 proto 4 metric 5",
        ];
        assert_eq!(names, expected);
        assert_eq!(report.failures, []);
        assert_eq!(foreign_lines(), before);
        let ours = ip("route show proto 82");
        assert!(ours.contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1"), "{ours}");
        assert!(!ours.contains("10.244.3.0") && !ours.contains("10.244.7.0"), "{ours}");

        ip("route del 10.244.3.0/24 proto static");
        ip("-6 route del fd00:244:0:3::/64 proto static");
        applied(&state).await;

        let removed = remove_all(&state.networks).await.unwrap();
        assert_eq!(removed.failures, [""; 0]);
        assert!(!ip("link show").contains("flannel"), "{removed:?}");
        assert!(!ip("rule show").contains("8285") && !ip("-6 rule show").contains("8286"));
        assert_eq!(ip("route show proto 82").lines().count(), 1, "that to 10.99.2.0/24");
        assert_eq!(ip("-6 route show proto 82"), "");
        assert_eq!(ip("route show table 8285"), "");
        assert!(ip("route show").contains("10.244.7.0/24 via 10.168.0.7"), "an operator's");
        assert!(!ip("link show").contains("other"), "it carries our alias");
    });
}

#[test]
fn only_hosts_without_a_router_in_between_are_on_the_link() {
    in_new_namespace("only_hosts_without_a_router_in_between_are_on_the_link", || async {
        build_host();
        ip("tuntap add vpn mode tun");
        ip("link set vpn up");
        ip("addr add 10.9.0.1/24 dev vpn");
        ip("route add 10.8.0.0/24 via 10.168.0.9");
        ip("route add unreachable 10.6.0.0/24");
        ip("route add 10.5.0.0/24 dev u1");
        ip("-6 route add default dev u1");
        let netlink = Netlink::open().unwrap();
        for (address, expected) in [
            ("10.168.0.3", true),
            ("10.5.0.3", true),
            ("fd01::3", true),
            ("10.168.0.2", false),
            ("127.0.0.1", false),
            ("10.9.0.3", false),
            ("10.8.0.3", false),
            ("10.6.0.3", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            let found = is_on_link(&netlink, address.parse().unwrap()).await.unwrap();
            assert_eq!(found, expected, "{address}");
        }
    });
}
