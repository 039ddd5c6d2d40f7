use super::*;
use crate::admin::{Device, Engine, Interface, Lease, Network, Peer, Stalled};

fn traffic() -> Traffic {
    let counted = |name: &str| [(name.to_owned(), 7.into())].into_iter().collect();
    Traffic {
        outbound: counted("segments_in"),
        inbound: counted("bytes_in"),
        other: counted("turns"),
        shortcut: counted("packets_out"),
    }
}

/// With something in every field that can be empty.
fn full() -> Status {
    Status {
        version: "1.2.3".into(),
        pid: 42,
        uptime_seconds: 90_061,
        ready: true,
        problems: vec![],
        sealing: None,
        source: "directory /leases".into(),
        datastore: Datastore { connected: true, ..Datastore::default() },
        network: Some(Network {
            ipv4: Some("10.244.0.0/16".into()),
            ipv6: Some("fd00::/48".into()),
            backend: "udp".into(),
            port: Some(8285),
            paths: vec!["udp".into()],
        }),
        interface: Some(Interface {
            name: "u1".into(),
            mtu: 1500,
            addresses: vec!["10.168.0.2".parse().unwrap()],
            public_addresses: vec!["198.51.100.2".parse().unwrap()],
        }),
        lease: Some(Lease {
            subnet: Some("10.244.1.0/24".into()),
            ipv6_subnet: None,
            id: "2a".into(),
            expires_in_seconds: Some(82_800),
        }),
        device: Some(Device { name: "flannel0".into(), mtu: 1472 }),
        stalled: Some(Stalled { phase: "outbound".into(), milliseconds: 1200 }),
        engine: Some(Engine {
            name: "uring".into(),
            reason: "chosen by itself".into(),
            features: Map::from_iter([("segments_max".into(), Value::from(128))]),
        }),
        workers: Some(Workers {
            count: 1,
            asked_for: 2,
            fewer_because: Some("the kernel will not".into()),
            each: vec![Worker {
                number: 0,
                engine: "uring".into(),
                outbound_segments: 7,
                inbound_segments: 8,
                drops: 1,
                turns: 5,
                busy_milliseconds: 3,
            }],
        }),
        traffic: Some(traffic()),
        peers: 3,
        on_demand: Some(OnDemand { addresses: 3, answered: 5, unknown: 1, refused: 0 }),
        masquerade_fully_random: None,
        paths: [("udp".to_owned(), 1), ("vxlan".to_owned(), 2)].into(),
        path_switches: vec![switches("dead", 4), switches("none", 1)],
        epoch: 9,
        config_change: Some("It has changed.".into()),
        rejected: vec![UnusedLease {
            name: "10.244.7.0-24".into(),
            reason: "own_address".into(),
            text: "Its address is ours.".into(),
        }],
        skipped: vec![],
        foreign: vec!["10.244.0.0/16 dev x".into()],
    }
}

fn switches(reason: &str, count: u64) -> PathSwitches {
    let [from, to, reason] = ["vxlan", "udp", reason].map(str::to_owned);
    PathSwitches { from, to, reason, count }
}

#[test]
fn a_running_daemon_shows_everything() {
    assert_eq!(
        status(&full()),
        "\
version           1.2.3
process           42, up 1 d 01:01:01
ready             yes
source            directory /leases
  connected       yes
network           10.244.0.0/16, fd00::/48
backend           udp, port 8285
interface         u1, MTU 1500
addresses         10.168.0.2
public addresses  198.51.100.2
subnet            10.244.1.0/24
  runs out in     23:00:00
identity          2a
device            flannel0, MTU 1472
stalled           in outbound, for 1200 ms
engine            uring (chosen by itself)
  segments max    128
workers           1 instead of 2: the kernel will not
  worker 0        uring, outbound 7, inbound 8, drops 1, busy 3 ms
peers             3, table 9
  on demand       3 addresses; asked for 5, 1 of no lease, 0 refused
  on udp          1
  on vxlan        2
  other path      4 times from vxlan to udp: dead
  other path      1 times from vxlan to udp: a better path
  rejected        10.244.7.0-24: Its address is ours.
foreign route     10.244.0.0/16 dev x
config            It has changed.
outbound
  segments in     7
inbound
  bytes in        7
other
  turns           7
shortcut
  packets out     7
"
    );
}

#[test]
fn a_waiting_daemon_says_why() {
    let text = status(&Status {
        problems: vec!["no network config".into(), "another".into()],
        ..Status::default()
    });
    assert!(
        text.contains("ready        no\n  problem    no network config\n  problem    another\n"),
        "{text}"
    );
}

#[test]
fn peers_line_up() {
    let peer = Peer {
        slot: Some(0),
        generation: Some(1),
        subnet: Some("10.244.2.0/24".into()),
        ipv6_subnet: Some("fd00:2::/64".into()),
        outer: "10.168.0.3:8285".to_owned(),
        addresses: vec![],
        path: "udp".into(),
        reason: None,
        paths: Vec::new(),
        id: Some("1f".into()),
        age_seconds: 5,
        takes_ipv6: true,
        path_mtu: None,
        segmentation: true,
        sealing: None,
    };
    let limited = Peer {
        subnet: Some("10.244.3.0/24".into()),
        ipv6_subnet: None,
        id: None,
        takes_ipv6: false,
        path_mtu: Some(1280),
        segmentation: false,
        ..peer.clone()
    };
    assert_eq!(
        peers(&Peers { peers: vec![peer, limited] }),
        "\
SUBNET                      SENT TO          PATH  KIND     IPV6 INSIDE  PATH MTU  SEGMENTATION
10.244.2.0/24, fd00:2::/64  10.168.0.3:8285  udp   weft     yes          full      kernel
10.244.3.0/24               10.168.0.3:8285  udp   flannel  no           1280      off
"
    );
    assert_eq!(peers(&Peers::default()), "No peers: no other host has a lease.\n");
}

/// Names of leases are what anybody has written who may write leases.
#[test]
fn nothing_steers_the_terminal() {
    let lease = UnusedLease {
        name: "10.244.9.0-24\u{1b}[2J\nready yes".into(),
        text: "The name\r is not that of a lease".into(),
        reason: "name".into(),
    };
    let text = status(&Status { rejected: vec![lease], ..Status::default() });
    let line = text.lines().find(|line| line.contains("rejected")).unwrap();
    assert!(
        line.ends_with(r"10.244.9.0-24\u{1b}[2J\nready yes: The name\r is not that of a lease")
    );
    assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'));
}

#[test]
fn peers_of_the_kernel_are_shown_with_the_choice_of_their_path() {
    let direct = Peer {
        slot: None,
        generation: None,
        subnet: Some("10.244.2.0/24".into()),
        ipv6_subnet: None,
        outer: "10.168.0.3".to_owned(),
        addresses: vec!["10.168.0.3".parse().unwrap()],
        path: "direct".into(),
        reason: Some("it is on a link of this host".into()),
        paths: Vec::new(),
        id: Some("1f".into()),
        age_seconds: 5,
        takes_ipv6: false,
        path_mtu: None,
        segmentation: true,
        sealing: None,
    };
    let without_choice = Peer { path: "vxlan".into(), reason: None, id: None, ..direct.clone() };
    assert_eq!(
        peers(&Peers { peers: vec![direct, without_choice] }),
        "\
SUBNET         SENT TO     PATH    KIND     BECAUSE
10.244.2.0/24  10.168.0.3  direct  weft     it is on a link of this host
10.244.2.0/24  10.168.0.3  vxlan   flannel  the config says so
"
    );
}

#[test]
fn where_the_kernel_counts_drops_it_is_said() {
    let note = Some("The kernel counts.".to_owned());
    let text = drops(&Drops { note, ..Drops::default() });
    assert_eq!(text, "The kernel counts.\n\nDropped by the device: nothing\n");
}

#[test]
fn drops_are_shown_by_direction() {
    let line = |reason: &str| Drop { reason: reason.into(), count: 12, text: "Because.".into() };
    let text = drops(&Drops {
        note: None,
        outbound: vec![line("no_route")],
        inbound: vec![],
        kernel: vec![line("tx_dropped")],
        not_loss: vec![],
    });
    assert_eq!(
        text,
        "\
Outbound, from the device to the peers:
  12  no_route  Because.

Inbound, from the peers to the device: nothing

Dropped by the kernel around us:
  12  tx_dropped  Because.

Kernel counters that are not loss of ours: nothing
"
    );
}
