//! A daemon that is killed at random points of programming hundreds of peers, and the time that
//! thousands take.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::host::{Daemon, Host, Leases};
use crate::world::{Families, World, neighbours};

/// Kills in all; every other one in the middle of a start.
const KILLS: u32 = 200;
/// The latest moments of a kill: after a change of the leases, and after a start.
const CHANGE_MAX: Duration = Duration::from_millis(60);
const START_MAX: Duration = Duration::from_millis(400);
/// Bounds a hang, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A peer of one version of the cluster.
struct Peer {
    subnet: String,
    first: String,
    mac: String,
    public: String,
}

impl Peer {
    fn lease(&self) -> (String, String) {
        let Self { mac, public, .. } = self;
        let value = format!(
            r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        );
        (self.subnet.replace('/', "-"), value)
    }
}

/// Peers come and go, move, and get other devices.
fn peers(version: u32) -> Vec<Peer> {
    let is_there = |number: &u32| !(number + version).is_multiple_of(7);
    let peer = |number| Peer {
        subnet: format!("10.244.{number}.0/24"),
        first: format!("10.244.{number}.0"),
        mac: format!("0a:00:00:00:{:02x}:{number:02x}", version % 4),
        public: format!("10.168.{}.{number}", 1 + version % 3),
    };
    (2..=250).filter(is_there).map(peer).collect()
}

/// Each lease at once, but one after the other; then those go that are neither wanted nor the daemon's.
fn write_leases(leases: &Leases, peers: &[Peer]) {
    let mut wanted = BTreeSet::new();
    for peer in peers {
        let (name, value) = peer.lease();
        leases.put(&name, &value);
        wanted.insert(name);
    }
    let subnets = leases.path().join("subnets");
    for entry in fs::read_dir(&subnets).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_own = || {
            let value = fs::read_to_string(subnets.join(&name));
            value.is_ok_and(|value| value.contains(r#""PublicIP":"10.168.0.2""#))
        };
        if !name.starts_with('.') && !wanted.contains(&name) && !is_own() {
            fs::remove_file(subnets.join(&name)).unwrap();
        }
    }
}

/// Routes, neighbours and forwarding entries that should be there.
fn desired(peers: &[Peer]) -> BTreeSet<String> {
    let lines = peers.iter().flat_map(|Peer { subnet, first, mac, public }| {
        [
            format!("{subnet} via {first} dev flannel.1 proto 82 onlink"),
            format!("{first} lladdr {mac}"),
            format!("{mac} dst {public} self permanent"),
        ]
    });
    lines.collect()
}

/// What of this is there, and whatever else is on the device.
fn found(host: &Host) -> BTreeSet<String> {
    let routes = host.run(&["ip", "-4", "route", "show", "dev", "flannel.1"]);
    let with_device = |line: &str| line.trim().replace(" proto", " dev flannel.1 proto");
    let routes = routes.lines().map(with_device);
    let entries = host.run(&["bridge", "fdb", "show", "dev", "flannel.1"]);
    let entries: Vec<String> = entries.lines().map(|line| line.trim().to_owned()).collect();
    let neighbours = neighbours(host, "flannel.1").into_iter();
    routes.chain(neighbours).chain(entries).collect()
}

/// What belongs to others, as text.
fn foreign(host: &Host) -> String {
    let commands: [&[&str]; 6] = [
        &["ip", "-4", "route", "show", "proto", "static"],
        &["ip", "rule", "show"],
        &["ip", "neigh", "show", "dev", "vx9"],
        &["bridge", "fdb", "show", "dev", "vx9"],
        &["ip", "-4", "address", "show", "dev", "vx9"],
        &["nft", "list", "table", "inet", "others"],
    ];
    commands.iter().map(|words| host.run(words)).collect()
}

fn make_foreign(host: &Host) {
    for command in [
        "ip link add vx9 type vxlan id 9 dev u1 dstport 4789",
        "ip address add 10.99.0.1/32 dev vx9",
        "ip link set vx9 up",
        "ip neigh add 10.99.0.9 lladdr 0a:00:00:00:99:09 dev vx9 nud permanent",
        "bridge fdb add 0a:00:00:00:99:09 dst 10.168.0.9 dev vx9 self permanent",
        "ip route add 10.98.0.0/16 via 10.168.0.1 dev u1 proto static",
        "ip route add 10.244.251.0/24 via 10.168.0.1 dev u1 proto static",
        "ip rule add from 192.0.2.0/24 lookup 100 priority 500",
        "nft add table inet others",
        "nft add chain inet others forward",
        "nft add rule inet others forward ip saddr 192.0.2.7 counter accept",
    ] {
        host.run(&command.split(' ').collect::<Vec<_>>());
    }
}

fn wait_for(host: &Host, daemon: &Daemon<'_>, wanted: &BTreeSet<String>, what: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let there = if has_device(host) { found(host) } else { BTreeSet::new() };
        if there == *wanted {
            return;
        }
        let missing: Vec<_> = wanted.difference(&there).take(3).collect();
        let extra: Vec<_> = there.difference(wanted).take(3).collect();
        assert!(
            Instant::now() < end,
            "{what}: missing {missing:?}, too much {extra:?}: {}",
            daemon.log()
        );
        sleep(Duration::from_millis(10));
    }
}

/// It is missing until the first start has made it.
fn has_device(host: &Host) -> bool {
    host.command(&["ip", "link", "show", "flannel.1"]).output().unwrap().status.success()
}

fn kill(daemon: Daemon<'_>) {
    daemon.signal("KILL");
    assert_eq!(daemon.end().0, None);
}

#[test]
fn a_daemon_killed_at_any_point_leaves_nothing_that_the_next_start_does_not_mend() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let host = &world.left;
    make_foreign(host);
    let before = foreign(host);
    let mut random = StdRng::seed_from_u64(6);
    let mut changed_midway = 0;
    for number in 0..KILLS {
        let daemon = host.spawn(&["--iface=u1"]);
        let old = desired(&peers(number.saturating_sub(1)));
        if number > 0 {
            wait_for(host, &daemon, &old, &format!("after kill {number}"));
            assert_eq!(foreign(host), before, "after kill {number}");
        }
        let new = peers(number);
        let (daemon, most) = if number % 2 == 0 {
            write_leases(&world.leases, &new);
            (daemon, CHANGE_MAX)
        } else {
            kill(daemon);
            write_leases(&world.leases, &new);
            (host.spawn(&["--iface=u1"]), START_MAX)
        };
        sleep(most.mul_f64(random.random()));
        kill(daemon);
        if has_device(host) {
            let left = found(host);
            changed_midway += u32::from(left != old && left != desired(&new));
        }
    }
    let daemon = host.spawn(&["--iface=u1"]);
    wait_for(host, &daemon, &desired(&peers(KILLS - 1)), "after the last kill");
    assert_eq!(foreign(host), before);
    println!("{KILLS} kills, {changed_midway} of them in the middle of programming");
    assert!(changed_midway > 0, "no kill hit what this test is for");
}

#[test]
fn two_thousand_peers_are_programmed_and_changed() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let backend = r#"{"Network":"10.244.0.0/16","SubnetLen":27,"Backend":{"Type":"vxlan"}}"#;
    world.leases.write_config(backend);
    // The pod's device has one of the peers' subnets.
    world.left.run(&["ip", "link", "delete", "c1"]);
    let many = |version: u32| -> Vec<Peer> {
        let peer = |number: u32| {
            let first = format!("10.244.{}.{}", number / 8, number % 8 * 32);
            Peer {
                subnet: format!("{first}/27"),
                mac: format!("0a:00:00:{version:02x}:{:02x}:{:02x}", number / 256, number % 256),
                public: format!("10.168.{}.{}", 1 + number / 250, 1 + number % 250),
                first,
            }
        };
        (8..2008).map(peer).collect()
    };
    let peers = many(0);
    write_leases(&world.leases, &peers);
    let start = Instant::now();
    let daemon = world.left.spawn(&["--iface=u1"]);
    wait_for(&world.left, &daemon, &desired(&peers), "programmed");
    println!("2,000 peers are programmed {:.2} s after the start", start.elapsed().as_secs_f64());
    let peers = many(1);
    let start = Instant::now();
    write_leases(&world.leases, &peers);
    let written = start.elapsed().as_secs_f64();
    wait_for(&world.left, &daemon, &desired(&peers), "changed");
    let all = start.elapsed().as_secs_f64();
    println!("2,000 peers are changed after {all:.2} s, {written:.2} s of which took the writing");
}
