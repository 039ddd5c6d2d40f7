//! Daemons with etcd as their source, in network namespaces: hosts at a switch, with a real etcd behind
//! it. Needs root, `ip`, `nft`, `/dev/net/tun` and etcd; without them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
#[path = "../../ctrl/tests/etcd/certificates.rs"]
mod certificates;
mod docker;
#[path = "../daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the directory")]
mod host;
mod ipv6;
mod many;
mod outages;
#[path = "../shared/pings.rs"]
#[expect(dead_code, reason = "shared with the tests of other sources and of the package")]
mod pings;
mod rolling;
mod secure;
#[path = "../../ctrl/tests/etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod server;
mod stream;

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use host::{Daemon, Host, Leases, Switch, can_run};
use pings::Pings;
use server::{EtcdServer, can_run_etcd};

const CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;
const CONFIG_KEY: &str = "/coreos.com/network/config";

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(20);

/// Two hosts and a store.
struct World {
    left: Host,
    right: Host,
    etcd: Vec<EtcdServer>,
    leases: Leases,
    // Dropped last.
    switch: Switch,
}

impl World {
    /// `None`, said aloud, where this cannot be made.
    fn new() -> Option<Self> {
        Self::with_members(1)
    }

    fn with_members(count: u16) -> Option<Self> {
        if !can_run() || !can_run_etcd() {
            return None;
        }
        let switch = Switch::new();
        let etcd = EtcdServer::start_in(&switch.namespace, "10.168.0.1", count);
        let urls: Vec<String> = etcd.iter().map(EtcdServer::url).collect();
        let leases = Leases::behind(&[&format!("--etcd-endpoints={}", urls.join(","))]);
        let left = Host::at(&switch, &leases, 1);
        let right = Host::at(&switch, &leases, 2);
        Some(Self { left, right, etcd, leases, switch })
    }

    fn with_config() -> Option<Self> {
        let world = Self::new()?;
        world.put_config(CONFIG);
        Some(world)
    }

    fn put_config(&self, config: &str) {
        self.etcd[0].ctl(&["put", CONFIG_KEY, "--", config]);
    }

    fn put_lease(&self, name: &str, value: &str) {
        self.etcd[0].ctl(&["put", &key(name), "--", value]);
    }

    /// Both daemons, ready and joined.
    fn start(&self) -> (Daemon<'_>, Daemon<'_>) {
        let mut left = self.left.start(&["--iface=u1"]);
        let mut right = self.right.start(&["--iface=u2"]);
        for daemon in [&mut left, &mut right] {
            daemon.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
        }
        (left, right)
    }
}

fn key(name: &str) -> String {
    format!("/coreos.com/network/subnets/{name}")
}

fn is_ready(daemon: &Daemon<'_>) -> bool {
    daemon.ask("status")["ready"] == true
}

fn problems(daemon: &Daemon<'_>) -> String {
    daemon.ask("status")["problems"].to_string()
}

/// Whether the daemon follows the store, as it shows it.
fn follows(daemon: &Daemon<'_>) -> bool {
    daemon.ask("status")["datastore"]["connected"] == true
}

/// Subnet and generation of every peer. A peer that was lost and came back has another generation.
fn peers(daemon: &Daemon<'_>) -> Vec<(String, u64)> {
    let peers = daemon.ask("peers");
    let one = |peer: &serde_json::Value| {
        let subnet = peer["subnet"].as_str().or(peer["ipv6_subnet"].as_str()).unwrap().to_owned();
        (subnet, peer["generation"].as_u64().unwrap())
    };
    let mut peers: Vec<_> = peers["peers"].as_array().unwrap().iter().map(one).collect();
    peers.sort();
    peers
}

/// Cuts a host off from the store and from nothing else; packets vanish.
fn cut_off(host: &Host) {
    host.run(&["nft", "add", "table", "ip", "cut"]);
    let chain = "{ type filter hook output priority 0; }";
    host.run(&["nft", "add", "chain", "ip", "cut", "out", chain]);
    host.run(&["nft", "add", "rule", "ip", "cut", "out", "tcp", "dport", "2379-2579", "drop"]);
}

fn rejoin(host: &Host) {
    host.run(&["nft", "delete", "table", "ip", "cut"]);
}

/// The first walkthrough, with its commands: hosts wait for a config, get subnets, and pods reach each
/// other.
#[test]
fn walkthrough_udp_mode_with_etcd() {
    let Some(world) = World::new() else { return };
    let mut left = world.left.spawn(&["--iface=u1", "--subnet-lease-renew-margin=30"]);
    let mut right = world.right.spawn(&["--iface=u2"]);
    left.wait_until("told what is missing", |daemon| {
        let text = problems(daemon);
        text.contains("etcdctl put /coreos.com/network/config") && text.contains("v2")
    });
    assert_eq!(world.left.http("/readyz").1, "flanneld is not ready yet");
    let verbose = world.left.http("/readyz?verbose").1;
    assert!(verbose.contains("[-]lease failed"), "{verbose}");

    world.put_config(CONFIG);
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("ready", is_ready);
        daemon.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    }
    assert_eq!(
        world.etcd[0].keys("/"),
        [CONFIG_KEY.to_owned(), key("10.244.1.0-24"), key("10.244.2.0-24")]
    );
    let value = world.etcd[0].value(&key("10.244.1.0-24")).unwrap();
    let id = fs::read_to_string(world.left.file("state/id")).unwrap();
    let expected = format!(
        "{{\"PublicIP\":\"10.168.0.2\",\"PublicIPv6\":null,\"Weft\":{{\"v\":1,\"id\":\"{}\",\
         \"paths\":[\"udp\"],\"port\":8285,\"ports\":1,\"mtu\":1472}}}}",
        id.trim_end()
    );
    // Whether it has a shortcut is for the kernel to decide.
    assert_eq!(value.replace(r#","shortcut":true"#, ""), expected);
    assert_eq!(world.etcd[0].granted(&key("10.244.1.0-24")), Some(86_400));
    assert_eq!(
        fs::read_to_string(world.left.subnet_file()).unwrap(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ=false\n"
    );
    let routes = world.left.run(&["ip", "route"]);
    assert!(routes.contains("10.244.0.0/16 dev flannel0 proto 82"), "{routes}");
    world.left.run(&["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", "10.244.1.1", "10.244.2.1"]);

    let status = left.ask("status");
    assert_eq!(status["source"], "etcd http://10.168.0.1:2379 below /coreos.com/network");
    assert_eq!(status["datastore"]["connected"], true);
    assert_eq!(status["datastore"]["server"], "http://10.168.0.1:2379");
    let left_seconds = status["lease"]["expires_in_seconds"].as_u64().unwrap();
    assert!((86_000..=86_400).contains(&left_seconds), "{left_seconds}");
    let verbose = world.left.http("/readyz?verbose").1;
    for part in ["datastore", "lease", "device", "routes", "engine"] {
        assert!(verbose.contains(&format!("[+]{part} ok\n")), "{verbose}");
    }

    // A restart keeps the subnet, whatever the subnet file says.
    left.signal("TERM");
    assert_eq!(left.end().0, Some(0));
    fs::remove_file(world.left.subnet_file()).unwrap();
    let left = world.left.start(&["--iface=u1"]);
    assert_eq!(left.ask("status")["lease"]["subnet"], "10.244.1.0/24");
}

/// Peers of a flanneld beside us: leases as it writes them for each backend.
#[test]
fn leases_of_flanneld_and_bad_ones() {
    let Some(world) = World::new() else { return };
    // Only one subnet is free for the node itself: all others belong to the test.
    world.put_config(
        r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.1.0","Backend":{"Type":"udp"}}"#,
    );
    let mut left = world.left.start(&["--iface=u1"]);
    world.put_lease("10.244.7.0-24", r#"{"PublicIP":"10.168.0.7","PublicIPv6":null}"#);
    left.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    for (name, value) in [
        ("10.244.8.0-24", r#"{"PublicIP":"10.168.0.8","PublicIPv6":null,"BackendType":"host-gw"}"#),
        (
            "10.244.9.0-24",
            r#"{"PublicIP":"10.168.0.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5a:5a:7b:f6:cb:4d"}}"#,
        ),
    ] {
        world.put_lease(name, value);
    }
    let bad = [
        ("10.245.7.0-24", r#"{"PublicIP":"10.168.0.9"}"#),
        ("10.244.10.0-25", r#"{"PublicIP":"10.168.0.9"}"#),
        ("10.244.7.0-25", r#"{"PublicIP":"10.168.0.9"}"#),
        ("10.244.11.0-24", "{"),
        ("10.244.12.0-24", ""),
        ("10.244.13.0-24", "[]"),
        ("10.244.14.0-24", r#"{"PublicIP":null}"#),
        ("10.244.15.0-24", r#"{"PublicIP":17}"#),
        ("10.244.16.0-24", r#"{"PublicIP":"127.0.0.1"}"#),
        ("10.244.17.0-24", r#"{"PublicIP":"10.168.0.2"}"#),
        ("10.244.18.0-24", r#"{"PublicIP":"10.244.7.1"}"#),
        ("10.244.19.0-24", r#"{"PublicIP":"10.168.0.9","Weft":{"v":1,"port":"x"}}"#),
        ("README", "hands off"),
        ("10.244.300.0-24", "{}"),
        ("10.244.20.0-24x", "{}"),
    ];
    for (name, value) in bad {
        world.put_lease(name, value);
    }
    let rejected =
        |daemon: &Daemon<'_>| daemon.ask("status")["rejected"].as_array().map_or(0, Vec::len);
    left.wait_until("every one rejected", |daemon| rejected(daemon) == bad.len());
    let status = left.ask("status");
    assert_eq!(status["peers"], 1, "nobody is removed for it");
    assert_eq!(status["skipped"].as_array().unwrap().len(), 2);
    assert_eq!(status["ready"], true);
    let log = left.log();
    for (name, _) in bad {
        let lines = log.lines().filter(|line| {
            line.contains("lease rejected") && line.contains(&format!("lease=\"{name}\""))
        });
        assert_eq!(lines.count(), 1, "{name}: {log}");
    }
    world.etcd[0].ctl(&["del", &key("10.244.7.0-24")]);
    left.wait_until("gone at once", |daemon| daemon.ask("status")["peers"] == 0);
}

/// Everything that can happen to the store, under traffic that loses nothing.
#[test]
fn traffic_outlives_every_fault_of_the_store() {
    let Some(mut world) = World::with_config() else { return };
    let mut etcd = world.etcd.remove(0);
    let (mut left, mut right) = world.start();
    let pings = Pings::start(&world.left, &world.right, INTERVAL);
    let followed = |daemon: &Daemon<'_>| daemon.ask("status")["datastore"]["connected"] == true;
    let lost = |daemon: &Daemon<'_>| daemon.ask("status")["datastore"]["connected"] == false;

    etcd.kill();
    left.wait_until("noticed the kill", lost);
    right.wait_until("noticed the kill", lost);
    assert!(is_ready(&left), "a store that is away takes no readiness: {}", problems(&left));
    assert!(world.left.http("/readyz?verbose").1.contains("[-]datastore failed"));
    etcd.run();
    etcd.wait();
    left.wait_until("back", followed);
    right.wait_until("back", followed);

    cut_off(&world.right);
    sleep(Duration::from_secs(2));
    // Its own lease is deleted while it cannot see it; the peer's pods stay where they are.
    etcd.ctl(&["del", &key("10.244.2.0-24")]);
    left.wait_until("a deletion that was seen", |daemon| daemon.ask("status")["peers"] == 0);
    rejoin(&world.right);
    left.wait_until("the same subnet again", |daemon| daemon.ask("status")["peers"] == 1);
    let (_, missed) = pings.end();

    // From here on nothing may be lost.
    let pings = Pings::start(&world.left, &world.right, INTERVAL);
    etcd.signal("STOP");
    sleep(Duration::from_secs(1));
    etcd.signal("CONT");
    let revision: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["get", "--write-out=json", "x"])).unwrap();
    cut_off(&world.left);
    etcd.ctl(&["put", "/elsewhere", "1"]);
    etcd.ctl(&["compact", &revision["header"]["revision"].to_string()]);
    rejoin(&world.left);
    let backup = etcd.save();
    etcd.ctl(&["put", "/elsewhere", "2"]);
    etcd.ctl(&["put", "/elsewhere", "3"]);
    etcd.restore(&backup);
    left.wait_until("back", followed);
    right.wait_until("back", followed);
    sleep(Duration::from_secs(1));
    let (sent, lost) = pings.end();
    assert!(sent > 50 && lost == 0, "{lost} of {sent} lost ({missed} before)");
    assert!(is_ready(&left) && is_ready(&right));
}

/// The store is away when a daemon that was killed starts again.
#[test]
fn a_start_without_the_store_forwards_and_is_not_ready() {
    let Some(mut world) = World::with_config() else { return };
    let mut etcd = world.etcd.remove(0);
    let (left, mut right) = world.start();
    let saved = world.right.file("state/leases");
    right.wait_until("saved", |_| {
        fs::read_to_string(&saved).is_ok_and(|text| text.contains("10.244.1.0-24"))
    });
    etcd.kill();
    right.signal("KILL");
    right.end();

    let started = Instant::now();
    let mut right = world.right.spawn(&["--iface=u2"]);
    right.wait_until("forwarding", |_| {
        let words = ["ping", "-c", "1", "-W", "1", "-I", "10.244.2.1", "10.244.1.1"];
        world.right.command(&words).output().unwrap().status.success()
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let text = problems(&right);
    assert!(!is_ready(&right) && text.contains("unconfirmed"), "{text}");
    assert_eq!(right.ask("status")["peers"], 1);
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.2.0/24");

    etcd.run();
    etcd.wait();
    right.wait_until("confirmed", is_ready);
    assert!(is_ready(&left));

    // A damaged file is set aside, and then only the store helps.
    right.signal("TERM");
    right.end();
    etcd.kill();
    let mut text = fs::read(&saved).unwrap();
    text.truncate(text.len() / 2);
    fs::write(&saved, text).unwrap();
    let mut right = world.right.spawn(&["--iface=u2"]);
    right.wait_until("waiting", |daemon| problems(daemon).contains("etcd does not answer"));
    assert!(fs::exists(world.right.file("state/leases.damaged")).unwrap());
    // A hanging store does not hold up a stop.
    right.signal("TERM");
    let (code, took) = right.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_stolen_lease_is_held_or_replaced() {
    let Some(world) = World::with_config() else { return };
    let theirs = r#"{"PublicIP":"10.168.0.99","PublicIPv6":null}"#;
    let mut left = world.left.start(&["--iface=u1"]);
    let ours = world.etcd[0].value(&key("10.244.1.0-24")).unwrap();
    world.put_lease("10.244.1.0-24", theirs);
    left.wait_until("not ready", |daemon| !is_ready(daemon));
    assert!(problems(&left).contains("taken by another node"), "{}", problems(&left));
    assert_eq!(left.ask("status")["lease"]["subnet"], "10.244.1.0/24", "no pod is renumbered");
    assert_eq!(world.etcd[0].value(&key("10.244.1.0-24")).unwrap(), theirs);
    world.put_lease("10.244.1.0-24", &ours);
    left.wait_until("ready again", is_ready);

    let mut right = world.right.start(&["--iface=u2", "--on-lease-loss=replace"]);
    world.put_lease("10.244.2.0-24", theirs);
    right.wait_until("another subnet", |daemon| {
        is_ready(daemon) && daemon.ask("status")["lease"]["subnet"] != "10.244.2.0/24"
    });
    let subnet = right.ask("status")["lease"]["subnet"].as_str().unwrap().to_owned();
    let address = subnet.replace(".0/24", ".0/32");
    right.wait_until("configured", |_| {
        let addresses = world.right.run(&["ip", "-4", "address", "show", "dev", "flannel0"]);
        addresses.contains(&format!("inet {address}")) && !addresses.contains("10.244.2.0")
    });
    let file = fs::read_to_string(world.right.subnet_file()).unwrap();
    assert!(file.contains(&subnet.replace(".0/24", ".1/24")), "{file}");
}

#[test]
fn a_released_lease_is_free_and_the_daemon_ends() {
    let Some(world) = World::with_config() else { return };
    let (mut left, right) = world.start();
    cut_off(&world.right);
    let refusal = right.show_failure("release");
    assert!(refusal.contains("does not answer"), "{refusal}");
    rejoin(&world.right);
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.2.0/24", "nothing has happened");
    let text = right.show("release");
    assert!(text.contains("10.244.2.0-24 is given back"), "{text}");
    assert_eq!(right.end().0, Some(0));
    assert_eq!(world.etcd[0].value(&key("10.244.2.0-24")), None);
    assert!(!fs::exists(world.right.file("state/leases")).unwrap());
    left.wait_until("gone at once", |daemon| daemon.ask("status")["peers"] == 0);
}

/// As with two virtual machines behind one translated address: flanneld gives both one lease.
#[test]
fn two_hosts_with_one_public_address_get_a_subnet_each() {
    let Some(world) = World::with_config() else { return };
    let mut left = world.left.start(&["--iface=u1", "--public-ip=10.0.2.15"]);
    let mut right = world.right.start(&["--iface=u2", "--public-ip=10.0.2.15"]);
    assert_eq!(left.ask("status")["lease"]["subnet"], "10.244.1.0/24");
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.2.0/24");
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("told", |daemon| {
            daemon.log().contains("PublicIP 10.0.2.15 is this host's own")
        });
    }
}

/// The store part of the fifth walkthrough: spelling, a change of the config, the old store.
#[test]
fn walkthrough_a_config_that_changes() {
    let Some(world) = World::new() else { return };
    world.put_config(r#"{"network":"10.244.0.0/16","BACKEND":{"type":"UDP"}}"#);
    let mut left = world.left.start(&["--iface=u1"]);
    assert_eq!(left.ask("status")["config_change"], serde_json::Value::Null);
    let config = |backend: &str| {
        world.put_config(&format!(
            r#"{{"Network":"10.244.0.0/16","Backend":{{"Type":"udp",{backend}}}}}"#
        ));
        // It is looked at every ten seconds, which is as long as one wait.
        sleep(Duration::from_secs(5));
    };
    config(r#""Port":8286"#);
    left.wait_until("picked up", |daemon| daemon.ask("status")["network"]["port"] == 8286);
    left.wait_until("told to others", |_| {
        world.etcd[0].value(&key("10.244.1.0-24")).unwrap().contains("\"port\":8286")
    });
    assert!(world.left.run(&["ss", "-Huln"]).contains("10.168.0.2:8286"));
    assert!(!world.left.run(&["ss", "-Huln"]).contains("10.168.0.2:8285"));

    config(r#""Port":8286,"MTU":1400"#);
    left.wait_until("told", |daemon| {
        daemon.ask("status")["config_change"].to_string().contains("Restart weft")
    });
    assert!(is_ready(&left));
    left.signal("TERM");
    left.end();
    let left = world.left.start(&["--iface=u1"]);
    assert_eq!(left.ask("status")["device"]["mtu"], 1372);
    assert_eq!(left.ask("status")["config_change"], serde_json::Value::Null);
}

#[test]
fn secrets_are_not_logged() {
    let Some(world) = World::with_config() else { return };
    let endpoints = "--etcd-endpoints=http://root:hunter2@10.168.0.1:2379";
    let left = world.left.start(&["--iface=u1", endpoints, "--v=2"]);
    let log = left.log();
    assert!(log.contains("--etcd-username") && !log.contains("hunter2"), "{log}");
    assert!(!left.show("status").contains("hunter2"));
}

/// Members and daemons are killed in turn; what is running goes on.
#[test]
fn a_rolling_kill_of_members() {
    let Some(mut world) = World::with_members(3) else { return };
    world.put_config(CONFIG);
    let mut members = std::mem::take(&mut world.etcd);
    let (mut left, mut right) = world.start();
    let pings = Pings::start(&world.left, &world.right, INTERVAL);
    for member in &mut members {
        member.kill();
        sleep(Duration::from_secs(3));
        member.restart();
        for daemon in [&mut left, &mut right] {
            daemon.wait_until("followed", |daemon| {
                daemon.ask("status")["datastore"]["connected"] == true
            });
        }
    }
    let (sent, lost) = pings.end();
    assert!(sent > 200 && lost == 0, "{lost} of {sent} lost");
    assert!(is_ready(&left) && is_ready(&right));
}
