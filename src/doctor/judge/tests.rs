//! Every finding, provoked by changing one fact of a host on which all is well.

use std::net::IpAddr;

use serde_json::{Map, json};
use weft_ctrl::interface::snapshot::{Address, Link, LinkKind, Snapshot};
use weft_ctrl::netfilter::Overlay;

use super::*;
use crate::admin::{
    Device, Engine, Interface, Network, Peer, Peers, Sealing, Status, UnusedLease, Workers,
};
use crate::doctor::facts::{
    Answer, Bridge, Clock, Echo, Echoes, Kernel, Netfilter, Rights, Strangers, SubnetFile,
};

const ALL_RIGHTS: u64 = (1 << 41) - 1;

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link { index, name: name.into(), kind: LinkKind::Other, mtu, up: true }
}

fn address(link: u32, local: &str) -> Address {
    Address {
        link,
        local: local.parse().unwrap(),
        peer: None,
        prefix_length: 24,
        permanent: true,
        temporary: false,
        deprecated: false,
    }
}

fn peer(outer: &str) -> Peer {
    serde_json::from_value(json!({
        "slot": 0, "generation": 1, "subnet": "10.5.2.0/24", "ipv6_subnet": null, "outer": outer,
        "addresses": [], "path": "udp", "id": null, "age_seconds": 1, "takes_ipv6": false,
        "path_mtu": null, "segmentation": true
    }))
    .unwrap()
}

fn status() -> Status {
    let features = json!({"degraded": []});
    Status {
        pid: 7,
        ready: true,
        network: Some(Network {
            ipv4: Some("10.5.0.0/16".into()),
            ipv6: None,
            backend: "udp".into(),
            port: Some(8285),
            paths: vec!["udp".into()],
        }),
        interface: Some(Interface {
            name: "eth0".into(),
            mtu: 1500,
            addresses: vec![IpAddr::from([10, 168, 0, 2])],
            public_addresses: Vec::new(),
        }),
        device: Some(Device { name: "flannel0".into(), mtu: 1472 }),
        engine: Some(Engine {
            name: "uring".into(),
            reason: "the kernel has all that it takes".into(),
            features: features.as_object().cloned().unwrap_or_else(Map::new),
        }),
        ..Status::default()
    }
}

/// A host on which all is well.
fn well() -> Facts {
    let (network, subnet) = ("10.5.0.0/16".parse().unwrap(), "10.5.1.0/24".parse().unwrap());
    let overlay = Overlay { network, subnet, fixed_source: false };
    let sysctls = [
        ("net/ipv4/ip_forward", "1\n"),
        ("net/ipv6/conf/all/forwarding", "0\n"),
        ("net/bridge/bridge-nf-call-iptables", "1\n"),
        ("net/ipv4/conf/all/rp_filter", "0\n"),
        ("net/ipv4/conf/flannel0/rp_filter", "2\n"),
    ];
    Facts {
        kernel: Kernel { version: (6, 18), no_ring: None, segments_max: 128, no_tun: None },
        snapshot: Snapshot {
            links: vec![link(1, "eth0", 1500), link(2, "flannel0", 1472), link(3, "cni0", 1472)],
            addresses: vec![address(1, "10.168.0.2"), address(3, "10.5.1.1")],
            routes: Vec::new(),
        },
        local_addresses: vec![(IpAddr::from([10, 168, 0, 2]), 1)],
        sysctls: sysctls.map(|(path, value)| (path.to_owned(), value.to_owned())).into(),
        subnet_file: SubnetFile {
            path: "/run/flannel/subnet.env".into(),
            is_there: true,
            overlays: vec![overlay],
            mtu: Some(1472),
        },
        bridges: vec![Bridge {
            name: "cni0".into(),
            mtu: 1472,
            addresses: vec!["10.5.1.1/24".parse().unwrap()],
            ports: vec![("veth1".into(), 1472)],
        }],
        netfilter: Netfilter { has_program: true, ..Netfilter::default() },
        rights: Rights { capabilities: ALL_RIGHTS, memlock: None },
        clock: Clock {
            now: 1_800_000_000,
            newest_file: Some(("/var/lib/weft/id".into(), 1_700_000_000)),
            synchronised: Some(true),
        },
        cni_files: vec!["10-flannel.conflist".into(), "99-loopback.conf".into()],
        daemon: Answer::Some(Box::new((status(), Peers { peers: vec![peer("10.168.0.3:8285")] }))),
        echoes: Echoes { peers: vec![echo(true)], untried: None },
        ..Facts::default()
    }
}

fn echo(answered: bool) -> Echo {
    Echo { inner: IpAddr::from([10, 5, 2, 0]), outer: "10.168.0.3:8285".into(), answered }
}

/// Changes a host on which all is well; expects one finding with this name and word.
fn provoke(severity: Severity, check: &str, word: &str, change: impl FnOnce(&mut Facts)) {
    let mut facts = well();
    change(&mut facts);
    let found = findings(&facts);
    let names: Vec<_> = found.iter().map(|one| (one.severity, one.check)).collect();
    assert_eq!(names, [(severity, check)], "{word}: {found:#?}");
    let one = &found[0];
    assert!(one.cause.contains(word), "{word}: {one:?}");
    assert!(!one.effect.is_empty() && !one.remedy.is_empty(), "{one:?}");
    assert!(!one.cause.contains(".."), "{one:?}");
}

fn of_status(change: impl FnOnce(&mut Status)) -> impl FnOnce(&mut Facts) {
    |facts| {
        if let Answer::Some(answers) = &mut facts.daemon {
            change(&mut answers.0);
        }
    }
}

fn of_peer(change: impl FnOnce(&mut Peer)) -> impl FnOnce(&mut Facts) {
    |facts| {
        if let Answer::Some(answers) = &mut facts.daemon {
            change(&mut answers.1.peers[0]);
        }
    }
}

use Severity::{Error, Note, Warning};

#[test]
fn where_all_is_well_nothing_is_found() {
    assert_eq!(findings(&well()), []);
}

#[test]
fn findings_about_the_kernel() {
    provoke(Error, "tun", "No such", |facts| facts.kernel.no_tun = Some("No such file".into()));
    // What can be tried counts only where no daemon has tried it.
    let mut facts = well();
    facts.kernel.no_ring = Some("forbidden".into());
    assert_eq!(findings(&facts), []);
    provoke(
        Warning,
        "io_uring",
        "forbidden",
        of_status(|status| {
            let engine = status.engine.as_mut().unwrap();
            (engine.name, engine.reason) = ("epoll".into(), "forbidden".into());
        }),
    );
    let mut asked = well();
    of_status(|status| {
        let engine = status.engine.as_mut().unwrap();
        (engine.name, engine.reason) = ("epoll".into(), "asked for".into());
    })(&mut asked);
    assert_eq!(findings(&asked), [], "what was asked for is right");
    provoke(Warning, "udp-gso", "UDP_SEGMENT", |facts| facts.kernel.segments_max = 1);
    provoke(
        Warning,
        "offloads",
        "tun-uso, udp-gro",
        of_status(|status| {
            let features = json!({"degraded": ["tun-uso", "udp-gro"]});
            status.engine.as_mut().unwrap().features = features.as_object().unwrap().clone();
        }),
    );
    // The kernel's own backends need none of it.
    let mut facts = well();
    facts.kernel.no_tun = Some("No such file".into());
    of_status(|status| status.network.as_mut().unwrap().backend = "host-gw".into())(&mut facts);
    assert_eq!(findings(&facts), []);
}

/// What a host without a daemon shows is not expected to be the only finding.
#[test]
fn findings_without_a_daemon() {
    let mut facts = well();
    facts.daemon = Answer::None("No weft daemon answers on /run/weft/weft.sock".into());
    facts.echoes = Echoes::default();
    let only_that = findings(&facts);
    assert_eq!(only_that.len(), 1, "{only_that:#?}");
    assert_eq!((only_that[0].check, only_that[0].severity), ("daemon", Warning));
    facts.kernel.no_ring = Some("forbidden".into());
    facts.kernel.version = (6, 1);
    facts.port_owner = Some("flanneld (process 5)".into());
    let found = findings(&facts);
    let names: Vec<_> = found.iter().map(|one| (one.severity, one.check)).collect();
    assert_eq!(
        names,
        [(Warning, "daemon"), (Warning, "io_uring"), (Note, "kernel"), (Error, "port")]
    );
    facts.subnet_file.is_there = false;
    assert!(findings(&facts)[0].effect.contains("there is no /run/flannel/subnet.env"));
}

#[test]
fn findings_about_forwarding_and_rules() {
    let set = |path: &'static str, value: &'static str| {
        move |facts: &mut Facts| drop(facts.sysctls.insert(path.into(), value.into()))
    };
    provoke(Error, "forwarding", "net.ipv4.ip_forward is 0", set("net/ipv4/ip_forward", "0"));
    provoke(Error, "forwarding", "net.ipv6.conf.all.forwarding is 0", |facts| {
        facts.subnet_file.overlays.push(Overlay {
            network: "fd00::/48".parse().unwrap(),
            subnet: "fd00:0:0:1::/64".parse().unwrap(),
            fixed_source: false,
        });
    });
    provoke(Error, "rp_filter", "flannel0", set("net/ipv4/conf/flannel0/rp_filter", "1"));
    // The higher one counts: a loose device under a strict `all` is loose.
    let mut facts = well();
    set("net/ipv4/conf/all/rp_filter", "1")(&mut facts);
    assert_eq!(findings(&facts), []);
    set("net/ipv4/conf/flannel0/rp_filter", "0")(&mut facts);
    assert_eq!(findings(&facts)[0].check, "rp_filter");
    let switch = "net/bridge/bridge-nf-call-iptables";
    provoke(Warning, "br_netfilter", "is 0", set(switch, "0"));
    provoke(Warning, "br_netfilter", "not loaded", |facts| drop(facts.sysctls.remove(switch)));
    provoke(Error, "forward-policy", "may be dropped", |facts| {
        facts.netfilter.forward_drops.push("Packets may be dropped".into());
    });
    provoke(Warning, "firewall", "accept UDP to port 8285", |facts| {
        facts.netfilter.input_drops.push("INPUT of iptables".into());
    });
    provoke(Note, "firewall", "not read", |facts| {
        facts.netfilter.unread = Some("The program nft is missing".into());
    });
    provoke(Warning, "iptables", "installed", |facts| facts.netfilter.has_program = false);
}

#[test]
fn findings_about_mtu() {
    provoke(Error, "mtu-underlay", "need 1500", |facts| facts.snapshot.links[0].mtu = 1400);
    provoke(Warning, "mtu-file", "1473", |facts| {
        facts.subnet_file.mtu = Some(1473);
        facts.bridges.clear();
    });
    provoke(Warning, "mtu-bridge", "1500", |facts| facts.bridges[0].mtu = 1500);
    provoke(Note, "mtu-bridge", "1400", |facts| facts.bridges[0].mtu = 1400);
    provoke(Warning, "mtu-pods", "veth1", |facts| facts.bridges[0].ports[0].1 = 1500);
    provoke(Warning, "mtu-path", "1400", of_peer(|peer| peer.path_mtu = Some(1400)));
    // What travels around a packet depends on the backend, on sealing, and on the hosts' family.
    for (backend, sealed, host, around) in [
        ("udp", false, "10.168.0.2", 28),
        ("udp", false, "fd00::2", 48),
        ("udp", true, "10.168.0.2", 80),
        ("vxlan", false, "10.168.0.2", 50),
        ("vxlan", false, "fd00::2", 70),
        ("host-gw", false, "10.168.0.2", 0),
    ] {
        let mut facts = well();
        of_status(|status| {
            status.network.as_mut().unwrap().backend = backend.into();
            status.interface.as_mut().unwrap().addresses = vec![host.parse().unwrap()];
            status.sealing = sealed.then(Sealing::default);
        })(&mut facts);
        facts.snapshot.links[0].mtu = 1472 + around;
        assert_eq!(findings(&facts), [], "{backend} {host}");
        facts.snapshot.links[0].mtu -= 1;
        assert_eq!(findings(&facts)[0].check, "mtu-underlay", "{backend} {host}");
    }
}

#[test]
fn findings_about_addresses() {
    let service = IpAddr::from([10, 96, 0, 1]);
    let with_ipvs = |facts: &mut Facts| {
        facts.snapshot.links.push(link(9, "kube-ipvs0", 1500));
        facts.local_addresses.push((service, 9));
    };
    provoke(Error, "kube-ipvs0", "10.96.0.1", with_ipvs);
    let mut served = well();
    with_ipvs(&mut served);
    served.virtual_services.push(service);
    assert_eq!(findings(&served), []);
    let mut held = well();
    with_ipvs(&mut held);
    assert!(findings(&held)[0].remedy.starts_with("ip route delete local 10.96.0.1"));
    held.snapshot.addresses.push(address(9, "10.96.0.1"));
    assert!(findings(&held)[0].remedy.starts_with("ip address delete 10.96.0.1"));
    provoke(Warning, "local-route", "10.9.9.9 over eth0", |facts| {
        facts.local_addresses.push((IpAddr::from([10, 9, 9, 9]), 1));
    });
    provoke(Error, "bridge-address", "10.5.9.1/24", |facts| {
        facts.bridges[0].addresses = vec!["10.5.9.1/24".parse().unwrap()];
    });
    provoke(Warning, "cni", "05-other.conf", |facts| {
        facts.cni_files.insert(0, "05-other.conf".into());
    });
}

#[test]
fn findings_about_the_host() {
    provoke(Error, "other-daemon", "flanneld", |facts| facts.others.push(("flanneld".into(), 5)));
    // weft under flanneld's name is no stranger.
    let mut facts = well();
    facts.others.push(("flanneld".into(), 7));
    assert_eq!(findings(&facts), []);
    let without = |bits: &'static [u64]| {
        move |facts: &mut Facts| {
            for bit in bits {
                facts.rights.capabilities &= !(1 << bit);
            }
        }
    };
    provoke(Error, "capabilities", "CAP_NET_ADMIN", without(&[12]));
    provoke(Note, "capabilities", "CAP_SYS_NICE", without(&[23]));
    provoke(Note, "capabilities", "CAP_BPF", without(&[39]));
    provoke(Warning, "memlock", "65536 bytes", |facts| {
        without(&[14, 24])(facts);
        facts.rights.memlock = Some(65_536);
    });
    let mut facts = well();
    facts.rights.memlock = Some(65_536);
    assert_eq!(findings(&facts), [], "with CAP_IPC_LOCK nothing counts");
    provoke(Error, "clock", "years behind", |facts| {
        facts.clock.now = 100_000;
        facts.clock.newest_file = None;
    });
    provoke(Error, "clock", "/var/lib/weft/id was written 3600 seconds", |facts| {
        facts.clock.newest_file = Some(("/var/lib/weft/id".into(), facts.clock.now + 3600));
    });
    provoke(Note, "clock", "Nothing keeps", |facts| facts.clock.synchronised = Some(false));
}

#[test]
fn findings_from_the_daemon_and_its_peers() {
    provoke(
        Warning,
        "daemon",
        "The store is away",
        of_status(|status| status.problems.push("The store is away.".into())),
    );
    provoke(
        Error,
        "daemon",
        "was taken",
        of_status(|status| {
            status.problems.push("The lease was taken".into());
            status.ready = false;
        }),
    );
    provoke(
        Warning,
        "foreign-route",
        "10.5.0.0/16 via",
        of_status(|status| status.foreign.push("10.5.0.0/16 via 10.168.0.9".into())),
    );
    let lease = UnusedLease { name: "10.5.7.0-24".into(), reason: "x".into(), text: "y".into() };
    provoke(Warning, "leases", "10.5.7.0-24", of_status(|status| status.rejected.push(lease)));
    provoke(
        Warning,
        "config",
        "Restart weft",
        of_status(|status| status.config_change = Some("Restart weft to apply it".into())),
    );
    provoke(
        Warning,
        "workers",
        "CAP_BPF",
        of_status(|status| {
            let fewer_because = Some("CAP_BPF is missing".into());
            status.workers = Some(Workers { fewer_because, ..Workers::default() });
        }),
    );
    provoke(Warning, "segmentation", "10.168.0.3", of_peer(|peer| peer.segmentation = false));
    provoke(Warning, "unknown-sender", "3 datagrams", |facts| {
        facts.strangers = Strangers { total: 3, lately: 1 };
    });
    provoke(Note, "unknown-sender", "none of them just now", |facts| {
        facts.strangers = Strangers { total: 3, lately: 0 };
    });
    provoke(Error, "probe", "10.5.2.0", |facts| facts.echoes.peers[0].answered = false);
    provoke(Warning, "probe", "10.5.2.0", |facts| facts.echoes.peers.push(echo(false)));
    provoke(Note, "probe", "not permitted", |facts| {
        facts.echoes.untried = Some("Operation not permitted".into());
    });
}

#[test]
fn long_lists_are_cut() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    assert_eq!(named(&names[..5]), "a, b, c, d, e");
    assert_eq!(named(&names), "a, b, c, d, e and 2 more");
}
