//! What can happen to the store, and to what the host knows it by, while a TCP connection is open. It
//! never breaks, and no table ever loses the peer at its other end.

use std::thread::sleep;
use std::time::Duration;

use super::host::{Daemon, Host};
use super::stream::Stream;
use super::{CONFIG, World, cut_off, follows, is_ready, key, peers, rejoin};

/// The least time that a store is away, so that requests meet it.
const OUTAGE: Duration = Duration::from_secs(3);

/// Two joined daemons with a connection between their pods.
struct Joined<'a> {
    left: Daemon<'a>,
    right: Daemon<'a>,
    stream: Stream,
    known: [Vec<(String, u64)>; 2],
}

impl<'a> Joined<'a> {
    fn new(world: &'a World, mut left: Daemon<'a>) -> Self {
        let mut right = world.right.start(&["--iface=u2"]);
        for daemon in [&mut left, &mut right] {
            daemon.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
        }
        let known = [peers(&left), peers(&right)];
        Self { stream: Stream::between(&world.left, &world.right), known, left, right }
    }

    fn each(&mut self) -> [&mut Daemon<'a>; 2] {
        [&mut self.left, &mut self.right]
    }

    fn wait_until_back(&mut self) {
        for daemon in self.each() {
            wait_long(daemon, "back", follows);
        }
    }

    fn wait_until_noticed(&mut self) {
        for daemon in self.each() {
            wait_long(daemon, "noticed", |daemon| !follows(daemon));
            assert!(is_ready(daemon), "a store that is away takes no readiness");
        }
    }

    fn check(&mut self, after: &str) {
        self.stream.check(after);
        assert_eq!([peers(&self.left), peers(&self.right)], self.known, "after {after}");
    }
}

/// A silent server is noticed, and another try made, within some ten seconds.
fn wait_long(daemon: &mut Daemon<'_>, what: &str, holds: impl Fn(&Daemon<'_>) -> bool) {
    for _ in 0..200 {
        if holds(daemon) {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    daemon.wait_until(what, holds);
}

#[test]
fn a_stream_outlives_every_outage_of_the_store() {
    let Some(mut world) = World::with_config() else { return };
    let mut etcd = world.etcd.remove(0);
    let left = world.left.start(&["--iface=u1"]);
    // It does not know of the other host.
    let backup = etcd.save();
    let mut both = Joined::new(&world, left);

    etcd.signal("STOP");
    sleep(OUTAGE);
    etcd.signal("CONT");
    both.check("a store that was stopped");

    etcd.kill();
    both.wait_until_noticed();
    both.check("a store that was killed");
    etcd.run();
    etcd.wait();
    both.wait_until_back();
    both.check("the return of the store");

    etcd.restart();
    both.wait_until_back();
    both.check("a restart of the store");

    // The network to it, with a compaction of what was missed meanwhile.
    for host in [&world.left, &world.right] {
        cut_off(host);
    }
    both.wait_until_noticed();
    etcd.ctl(&["put", "/elsewhere", "1"]);
    let answer: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["put", "--write-out=json", "/elsewhere", "2"])).unwrap();
    etcd.ctl(&["compact", &answer["header"]["revision"].to_string()]);
    both.check("a network that swallows");
    for host in [&world.left, &world.right] {
        rejoin(host);
    }
    both.wait_until_back();
    both.check("a compaction of what was missed");

    etcd.restore(&backup);
    wait_long(&mut both.right, "its own lease put back", |daemon| {
        daemon.log().contains("the own lease was gone and is written again")
    });
    assert!(etcd.value(&key("10.244.2.0-24")).is_some());
    both.wait_until_back();
    both.check("a restored store that never knew the peer");
    for daemon in both.each() {
        daemon.wait_until("ready", is_ready);
    }
    both.stream.end();
}

/// A lease that is older than its life when its host reaches the store again.
#[test]
fn a_stream_outlives_a_lease_that_runs_out_in_an_outage() {
    let Some(world) = World::with_config() else { return };
    let etcd = &world.etcd[0];
    let left = world.left.start(&["--iface=u1"]);
    let mut both = Joined::new(&world, left);
    let name = key("10.244.2.0-24");
    let value = etcd.value(&name).unwrap();
    for host in [&world.left, &world.right] {
        cut_off(host);
    }
    both.wait_until_noticed();
    // As if its day were almost over.
    let granted = etcd.ctl(&["lease", "grant", "5"]);
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    etcd.ctl(&["put", &format!("--lease={id}"), &name, "--", &value]);
    wait_long(&mut both.right, "the end of its lease", |_| etcd.value(&name).is_none());
    both.check("an outage that outlasted the lease");
    // First the host itself: whoever sees a lease go and not come back takes the host out.
    rejoin(&world.right);
    wait_long(&mut both.right, "a new day for its lease", |_| etcd.granted(&name) == Some(86_400));
    assert_eq!(etcd.value(&name).unwrap(), value);
    rejoin(&world.left);
    both.wait_until_back();
    both.check("a lease that ran out in an outage");
    both.stream.end();
}

/// As with virtual machines behind one translated address: a third host says that it has the address
/// of the first.
#[test]
fn a_stream_outlives_a_host_with_the_same_public_address() {
    let Some(world) = World::with_config() else { return };
    let third = Host::at(&world.switch, &world.leases, 3);
    let left = world.left.start(&["--iface=u1"]);
    let mut both = Joined::new(&world, left);
    let mut double = third.start(&["--iface=u3", "--public-ip=10.168.0.2"]);
    assert_eq!(double.ask("status")["lease"]["subnet"], "10.244.3.0/24");
    for daemon in [&mut both.left, &mut double] {
        daemon.wait_until("told", |daemon| {
            daemon.log().contains("PublicIP 10.168.0.2 is this host's own")
        });
    }
    both.right.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 2);
    both.stream.check("a second host with the same address");
    assert_eq!(peers(&both.left), both.known[0]);
    let right = peers(&both.right);
    assert!(right.contains(&both.known[1][0]), "{right:?}");
    both.stream.end();
}

/// The address that everybody sends to becomes another one, and the store is asked from it.
#[test]
fn a_stream_outlives_another_address_and_another_port() {
    let Some(world) = World::with_config() else { return };
    let left = world.left.start(&["--iface=u1"]);
    let mut both = Joined::new(&world, left);
    world.left.run(&["ip", "address", "del", "10.168.0.2/24", "dev", "u1"]);
    world.left.run(&["ip", "address", "add", "10.168.0.42/24", "dev", "u1"]);
    let outer = |daemon: &Daemon<'_>| daemon.ask("peers")["peers"][0]["outer"].clone();
    wait_long(&mut both.right, "moved", |daemon| outer(daemon) == "10.168.0.42:8285");
    both.stream.check("another address");
    // Another place to send to is another path, and so another generation.
    assert_eq!(peers(&both.left), both.known[0]);
    let value = world.etcd[0].value(&key("10.244.1.0-24")).unwrap();
    assert!(value.starts_with(r#"{"PublicIP":"10.168.0.42","PublicIPv6":null,"#), "{value}");
    both.left.wait_until("ready", is_ready);
    assert_eq!(both.left.ask("status")["lease"]["subnet"], "10.244.1.0/24");

    world.put_config(&CONFIG.replace(r#""udp""#, r#""udp","Port":9000"#));
    wait_long(&mut both.right, "moved", |daemon| outer(daemon) == "10.168.0.42:9000");
    wait_long(&mut both.left, "moved", |daemon| outer(daemon) == "10.168.0.3:9000");
    both.stream.check("another port");
    both.left.check_accounting();
    both.stream.end();
}
