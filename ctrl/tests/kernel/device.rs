//! The executor and the keeper, on a device made with `ip`.

use std::fs;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use weft_ctrl::device::{DesiredDevice, DeviceError, Report, apply, check_before, keep};
use weft_ctrl::interface::{Families, InterfaceOptions, select};

use crate::namespace::{in_new_namespace, ip};

/// What flanneld 0.20.2 leaves, with its protocol replaced by ours.
const FLANNELD_ROUTE: &str = "unicast 10.244.0.0/16 dev flannel0 proto 82 scope global";
const FLANNELD_ADDRESS: &str = "inet 10.244.1.0/32 scope global flannel0";
const FLANNELD_LINK: &str = "POINTOPOINT,MULTICAST,NOARP,UP";

/// What is changed by hand has to be back within this time: well before the look that is taken
/// without an announcement.
const BACK: Duration = Duration::from_secs(4);

fn desired() -> DesiredDevice {
    DesiredDevice {
        name: "flannel0".to_owned(),
        mtu: 1472,
        address_v4: Some([10, 244, 1, 0].into()),
        address_v6: Some("fd00:244:0:1::".parse().unwrap()),
        network_v4: Some("10.244.0.0/16".parse().unwrap()),
        network_v6: Some("fd00:244::/48".parse().unwrap()),
        underlay: Vec::new(),
    }
}

fn build_host() {
    ip("link add u1 type veth peer name p1");
    // The kernel would take its time to examine addresses of its own, and change what tests compare.
    ip("link set u1 up addrgenmode none");
    ip("link set p1 up addrgenmode none");
    ip("addr add 10.168.0.2/24 dev u1");
    ip("route add default via 10.168.0.1 dev u1");
    ip("tuntap add flannel0 mode tun");
}

fn setting(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}"));
    text.unwrap().trim().to_owned()
}

fn trimmed_lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

/// Without carrier the kernel marks routes so; a worker gives the device carrier.
fn without_carrier_marks(text: &str) -> String {
    text.replace(" linkdown", "")
}

fn is_in_order() -> bool {
    let routes = without_carrier_marks(&ip("-d route show"));
    let addresses = ip("addr show dev flannel0");
    let v6 = ip("-6 route show");
    trimmed_lines(&routes).contains(&FLANNELD_ROUTE)
        && trimmed_lines(&addresses).contains(&FLANNELD_ADDRESS)
        && addresses.contains("inet6 fd00:244:0:1::/128 scope global")
        && addresses.contains("mtu 1472")
        && addresses.contains(",UP")
        && v6.contains("fd00:244::/48 dev flannel0 proto 82 metric 1024")
}

/// Within how long it is in order.
async fn time_to_order() -> Duration {
    let start = Instant::now();
    while !is_in_order() {
        assert!(start.elapsed() < 3 * BACK, "{}{}", ip("addr show"), ip("-d route show"));
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

#[test]
fn the_device_looks_like_flannelds() {
    in_new_namespace("the_device_looks_like_flannelds", || async {
        build_host();
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
        let report = apply(&desired()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(is_in_order(), "{}{}", ip("addr show"), ip("-d route show"));
        let addresses = ip("addr show dev flannel0");
        assert!(addresses.contains(FLANNELD_LINK), "{addresses}");
        assert!(!addresses.contains("fe80::"), "{addresses}");
        assert!(!addresses.contains("tentative"), "{addresses}");
        assert_eq!(setting("ipv4/conf/flannel0/rp_filter"), "2");
        assert_eq!(setting("ipv6/conf/flannel0/accept_ra"), "0");
        assert_eq!(setting("ipv6/conf/flannel0/addr_gen_mode"), "1");
        let all = ip("-d route show table all");
        assert_eq!(all.matches("proto 82").count(), 2, "{all}");

        let again = apply(&desired()).await.unwrap();
        assert!(again.is_clean(), "{again:?}");
        assert_eq!(ip("-d route show table all"), all);

        for device in ["all", "flannel0"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
        }
        apply(&desired()).await.unwrap();
        assert_eq!(setting("ipv4/conf/flannel0/rp_filter"), "0", "nobody asks for a check");
    });
}

#[test]
fn what_is_there_already_is_sorted_out() {
    in_new_namespace("what_is_there_already_is_sorted_out", || async {
        build_host();
        ip("link set flannel0 up mtu 1300");
        ip("addr add 10.244.1.0/16 dev flannel0");
        ip("addr add 10.244.1.9/16 dev flannel0");
        ip("addr add 192.0.2.1/24 dev flannel0");
        ip("addr add fd00:244:0:1::/64 dev flannel0 nodad");
        ip("route add 10.244.2.0/24 via 10.168.0.7 dev u1 proto 82");
        ip("route add unreachable 10.244.3.0/24 proto 82 metric 7");
        ip("route add 10.244.6.0/24 dev flannel0 proto 82");
        ip("-6 route add fd00:244:0:2::/64 dev u1 proto 82");
        ip("-6 route add fd00:244:0:6::/64 dev flannel0 proto 82");
        ip("-6 route add unreachable fd00:244:0:3::/64 proto 82");
        ip("route add 10.99.0.0/16 via 10.168.0.7 dev u1 proto 82");
        ip("route add 10.244.5.0/24 via 10.168.0.7 dev u1");
        let report = apply(&desired()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(is_in_order(), "{}{}", ip("addr show"), ip("-d route show"));
        let addresses = ip("addr show dev flannel0");
        assert!(addresses.contains("inet 192.0.2.1/24"), "{addresses}");
        assert!(!addresses.contains("10.244.1.0/16"), "{addresses}");
        assert!(!addresses.contains("10.244.1.9"), "{addresses}");
        assert!(!addresses.contains("fd00:244:0:1::/64"), "{addresses}");
        let ours = ip("route show proto 82");
        // More specific ones lead to peers on other paths.
        let others = ["10.99.0.0/16 via", "10.244.2.0/24 via", "unreachable 10.244.3.0/24"];
        assert!(others.iter().all(|route| ours.contains(route)), "{ours}");
        assert_eq!(ours.lines().count(), 4, "{ours}");
        assert!(ip("route show").contains("10.244.5.0/24 via 10.168.0.7"));
        let ours = ip("-6 route show proto 82");
        assert!(!ours.contains("fd00:244:0:6::"), "{ours}");
        assert_eq!(ours.lines().count(), 3, "{ours}");

        ip("route replace 10.244.0.0/16 dev u1 proto 82");
        ip("-6 route replace fd00:244::/48 dev u1 proto 82 metric 1024");
        let report = apply(&desired()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(is_in_order(), "{}{}", ip("route show"), ip("-6 route show"));
        assert_eq!(ip("-6 route show proto 82").lines().count(), 3);
    });
}

#[test]
fn what_is_changed_by_hand_is_back_at_once() {
    in_new_namespace("what_is_changed_by_hand_is_back_at_once", || async {
        build_host();
        let desired = desired();
        apply(&desired).await.unwrap();
        let (reports, mut seen) = watch::channel(Report::default());
        let by_hand = async {
            // The keeper's first look, so that what follows is found by announcements alone.
            sleep(Duration::from_millis(300)).await;
            for change in [
                "route del 10.244.0.0/16 dev flannel0",
                "-6 route del fd00:244::/48 dev flannel0",
                "addr del 10.244.1.0/32 dev flannel0",
                "addr del fd00:244:0:1::/128 dev flannel0",
                "link set flannel0 mtu 1400",
                "link set flannel0 down",
                "addr flush dev flannel0",
                "route flush dev flannel0",
            ] {
                ip(change);
                assert!(!is_in_order(), "{change} changes nothing");
                let time = time_to_order().await;
                assert!(time < BACK, "{change}: back after {time:?}");
            }
            ip("addr add 10.244.77.1/32 dev flannel0");
            ip("route add 10.244.9.0/24 dev flannel0 proto 82");
            sleep(BACK).await;
            assert!(!ip("addr show dev flannel0").contains("10.244.77.1"));
            assert!(!ip("route show").contains("10.244.9.0"));
            assert!(is_in_order());
        };
        tokio::select! {
            gone = keep(&desired, &reports) => panic!("{gone}"),
            () = by_hand => {}
        }
        assert!(!seen.has_changed().unwrap(), "{:?}", *seen.borrow_and_update());
        assert!(is_in_order(), "stopping to keep changes nothing");
    });
}

#[test]
fn a_foreign_route_stays_and_is_named_and_does_not_block_the_rest() {
    let name = "a_foreign_route_stays_and_is_named_and_does_not_block_the_rest";
    in_new_namespace(name, || async {
        build_host();
        let desired = desired();
        apply(&desired).await.unwrap();
        let (reports, mut seen) = watch::channel(Report::default());
        let by_hand = async {
            sleep(Duration::from_millis(300)).await;
            ip("link set flannel0 mtu 1400");
            ip("route replace 10.244.0.0/16 via 10.168.0.9 dev u1");
            ip("-6 route del fd00:244::/48");
            seen.changed().await.unwrap();
            let report = seen.borrow_and_update().clone();
            let names: Vec<String> = report.foreign.iter().map(ToString::to_string).collect();
            assert_eq!(names, ["10.244.0.0/16 via 10.168.0.9 dev u1 proto 3 metric 0"]);
            assert_eq!(report.failures, [""; 0]);
            assert!(ip("route show").contains("10.244.0.0/16 via 10.168.0.9 dev u1"));
            assert!(ip("-6 route show").contains("fd00:244::/48 dev flannel0 proto 82"));
            assert!(ip("link show flannel0").contains("mtu 1472"));

            ip("route del 10.244.0.0/16");
            assert!(time_to_order().await < BACK);
            seen.changed().await.unwrap();
            assert!(seen.borrow_and_update().is_clean());
        };
        tokio::select! {
            gone = keep(&desired, &reports) => panic!("{gone}"),
            () = by_hand => {}
        }
    });
}

/// With an MTU below 1280 the device has no IPv6, so its parts fail, and only they.
#[test]
fn a_failing_object_does_not_block_another_and_is_reported_once() {
    let name = "a_failing_object_does_not_block_another_and_is_reported_once";
    in_new_namespace(name, || async {
        build_host();
        let desired = DesiredDevice { mtu: 1000, ..desired() };
        let report = apply(&desired).await.unwrap();
        assert_eq!(report.failures.len(), 2, "{report:?}");
        assert!(report.failures[0].starts_with("flannel0: could not add the address fd00:244"));
        assert!(report.failures[1].starts_with("flannel0: could not add the route to fd00:244"));
        let routes = without_carrier_marks(&ip("-d route show"));
        assert!(trimmed_lines(&routes).contains(&FLANNELD_ROUTE), "{routes}");

        let (reports, mut seen) = watch::channel(Report::default());
        let mut changes = 0;
        let by_hand = async {
            loop {
                seen.changed().await.unwrap();
                assert_eq!(*seen.borrow_and_update(), report);
                changes += 1;
                ip("route del 10.244.0.0/16 dev flannel0");
            }
        };
        tokio::select! {
            gone = keep(&desired, &reports) => panic!("{gone}"),
            () = by_hand => {}
            () = sleep(Duration::from_millis(700)) => {}
        }
        assert_eq!(changes, 1);
        let routes = without_carrier_marks(&ip("-d route show"));
        assert!(trimmed_lines(&routes).contains(&FLANNELD_ROUTE), "{routes}");
    });
}

#[test]
fn a_device_that_goes_is_noticed_even_if_another_takes_its_name() {
    let name = "a_device_that_goes_is_noticed_even_if_another_takes_its_name";
    in_new_namespace(name, || async {
        build_host();
        let desired = desired();
        for replacement in [None, Some("tuntap add flannel0 mode tun")] {
            let (reports, _seen) = watch::channel(Report::default());
            let by_hand = async {
                sleep(Duration::from_millis(300)).await;
                ip("tuntap del flannel0 mode tun");
                if let Some(words) = replacement {
                    ip(words);
                }
                sleep(BACK).await;
            };
            tokio::select! {
                gone = keep(&desired, &reports) => {
                    assert_eq!(gone.to_string(), "The device flannel0 is gone");
                }
                () = by_hand => panic!("not noticed"),
            }
            if replacement.is_none() {
                assert!(matches!(apply(&desired).await, Err(DeviceError::Gone(_))));
                ip("tuntap add flannel0 mode tun");
            }
        }
        let link = ip("addr show dev flannel0");
        assert!(!link.contains("inet "), "the other device is left alone: {link}");
    });
}

#[test]
fn obstacles_are_found_before_anything_is_changed() {
    in_new_namespace("obstacles_are_found_before_anything_is_changed", || async {
        build_host();
        let families = Families { v4: true, v6: false };
        let external = select(&InterfaceOptions::default(), families).await.unwrap().interface;
        check_before(&desired(), &external).await.unwrap();

        ip("route add 10.244.0.0/16 via 10.168.0.9");
        ip("addr add fd00:244::9/64 dev u1 nodad");
        let read = || ip("addr show") + &ip("route show table all");
        let state = read();
        let error = check_before(&desired(), &external).await.unwrap_err().to_string();
        assert!(
            error.contains("(10.244.0.0/16 via 10.168.0.9 dev u1 proto 3 metric 0)"),
            "{error}"
        );
        let overlap = "The network fd00:244::/48 of the config overlaps the subnet fd00:244::/64";
        assert!(error.contains(overlap), "{error}");
        assert_eq!(read(), state);
    });
}
