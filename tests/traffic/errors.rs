//! ICMP errors reach the application whose packet caused them, and nobody else.

use std::net::{IpAddr, Ipv4Addr};

use weft_bench::lab::{LabOptions, Side};

use crate::cluster::Cluster;
use crate::load::Between;

/// In the network, and in nobody's subnet.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 9, 9));

/// `SO_EE_ORIGIN_ICMP` of linux/errqueue.h.
const ORIGIN_ICMP: u8 = 2;

fn to_nobody(cluster: &Cluster) -> Between<'_> {
    let pod = cluster.lab.pod(Side::One);
    Between { from: pod, to: pod, address: NOBODY }
}

#[test]
fn a_destination_without_a_peer_is_reported_to_the_sender() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    for fragment in [false, true] {
        let error = to_nobody(&cluster).error(100, fragment, 3).expect("no error came back");
        assert!(["ENETUNREACH", "EHOSTUNREACH"].contains(&&*error.error), "{error:?}");
        assert_eq!((error.origin, error.icmp_type), (ORIGIN_ICMP, 3), "{error:?}");
        // An address of the sending host would be dropped by its kernel.
        assert_ne!(error.offender, IpAddr::V4(Side::One.overlay_address()));
    }
    assert_eq!(cluster.dropped(Side::One, "outbound", "no_route"), 2);
    assert_eq!(cluster.counter(Side::One, "other", "icmp_sent"), 2);
    cluster.finish();
}

#[test]
fn errors_are_limited_in_rate() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    to_nobody(&cluster).ping_loss(&["-c", "2000", "-i", "0", "-W", "1"]);
    let dropped = cluster.dropped(Side::One, "outbound", "no_route");
    let sent = cluster.counter(Side::One, "other", "icmp_sent");
    assert!(dropped >= 2000, "{dropped}");
    assert!(sent > 0 && sent < dropped, "{sent} errors about {dropped} packets");
    cluster.finish();
}

/// RFC 1122, 3.2.2: no error about an error, about multicast, or about a later fragment.
#[test]
fn nothing_is_said_about_errors_multicast_and_later_fragments() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let host = cluster.lab.host(Side::One);
    let to_nobody = to_nobody(&cluster);

    // "Host unreachable", quoting a UDP datagram of 10.244.9.9.
    let error = "45000038 00010000 40010000 0af40102 0af40909 0301fce8 00000000 \
                 4500001c 00010000 40115ade 0af40909 0af40102 0007000700080000";
    to_nobody.raw(&without_blanks(error), "");
    assert_eq!(cluster.dropped(Side::One, "outbound", "no_route"), 1);

    // The second fragment of a datagram: offset 8 bytes.
    let fragment = "4500001c 00020001 40110000 0af40102 0af40909 0102030405060708";
    to_nobody.raw(&without_blanks(fragment), "");
    assert_eq!(cluster.dropped(Side::One, "outbound", "no_route"), 2);

    // Other multicast is possible, by the kernel itself, so only growth can be asked for.
    let before = cluster.dropped(Side::One, "outbound", "multicast");
    let group = Between { from: host, to: host, address: [239, 1, 2, 3].into() };
    let datagram = "4500001c 00030000 40110000 0af40100 ef010203 0007000700080000";
    group.raw(&without_blanks(datagram), "flannel0");
    assert!(cluster.dropped(Side::One, "outbound", "multicast") > before);

    assert_eq!(cluster.counter(Side::One, "other", "icmp_sent"), 0);
    cluster.finish();
}

fn without_blanks(text: &str) -> String {
    text.split_whitespace().collect()
}
