//! Three hosts and three members of a store, all of which are killed in turn.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::host::{Daemon, Host, Leases, Switch, can_run};
use super::server::{EtcdServer, can_run_etcd};
use super::stream::Stream;
use super::{CONFIG, CONFIG_KEY, is_ready};

struct Ring<'a> {
    hosts: &'a [Host],
    daemons: Vec<Daemon<'a>>,
    streams: Vec<Stream>,
}

impl<'a> Ring<'a> {
    fn new(hosts: &'a [Host]) -> Self {
        let mut daemons: Vec<Daemon<'a>> = hosts.iter().map(start).collect();
        daemons.iter_mut().for_each(wait_until_joined);
        let next = hosts.iter().cycle().skip(1);
        let streams = hosts.iter().zip(next).map(|(from, to)| Stream::between(from, to)).collect();
        Self { hosts, daemons, streams }
    }

    fn check(&self, after: &str) {
        let all = || self.streams.iter().for_each(|stream| stream.check(after));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(all)) {
            self.daemons.iter().for_each(|daemon| eprintln!("--- a daemon\n{}", daemon.log()));
            resume_unwind(panic);
        }
    }

    /// Nothing of it can say goodbye.
    fn kill_daemon(&mut self, number: usize) {
        let daemon = self.daemons.remove(number);
        daemon.signal("KILL");
        daemon.end();
    }

    fn start_daemon(&mut self, number: usize) {
        self.daemons.insert(number, start(&self.hosts[number]));
    }
}

fn start(host: &Host) -> Daemon<'_> {
    host.spawn(&[&format!("--iface={}", host.underlay())])
}

fn wait_until_joined(daemon: &mut Daemon<'_>) {
    // An election may be on its way.
    for _ in 0..200 {
        if is_ready(daemon) && daemon.ask("status")["peers"] == 2 {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    daemon.wait_until("joined", |daemon| is_ready(daemon) && daemon.ask("status")["peers"] == 2);
}

/// Who leads, as each member says it of itself: its place among `members`, and the identities of all.
fn leader(members: &[EtcdServer]) -> (usize, Vec<u64>) {
    let status = |member: &EtcdServer| -> Value {
        serde_json::from_str(&member.ctl(&["endpoint", "status", "--write-out=json"])).unwrap()
    };
    let all: Vec<Value> = members.iter().map(status).collect();
    let id = |one: &Value| one[0]["Status"]["header"]["member_id"].as_u64().unwrap();
    let leads = |one: &Value| one[0]["Status"]["leader"].as_u64().unwrap() == id(one);
    (all.iter().position(leads).unwrap(), all.iter().map(id).collect())
}

fn move_leader(members: &[EtcdServer]) {
    let (leading, ids) = leader(members);
    let next = ids[(leading + 1) % ids.len()];
    members[leading].ctl(&["move-leader", &format!("{next:x}")]);
}

#[test]
fn no_stream_breaks_while_members_and_daemons_are_killed_in_turn() {
    if !can_run() || !can_run_etcd() {
        return;
    }
    let switch = Switch::new();
    let mut members = EtcdServer::start_in(&switch.namespace, "10.168.0.1", 3);
    members[0].ctl(&["put", CONFIG_KEY, "--", CONFIG]);
    let urls: Vec<String> = members.iter().map(EtcdServer::url).collect();
    let leases = Leases::behind(&[&format!("--etcd-endpoints={}", urls.join(","))]);
    let hosts: Vec<Host> = (1..=3).map(|number| Host::at(&switch, &leases, number)).collect();
    let mut ring = Ring::new(&hosts);

    move_leader(&members);
    ring.check("another leader");
    for (number, member) in members.iter_mut().enumerate() {
        member.kill();
        ring.check("a member that was lost");
        ring.kill_daemon(number);
        ring.start_daemon(number);
        wait_until_joined(&mut ring.daemons[number]);
        ring.check("a daemon that was killed while a member was away");
        member.restart();
    }

    // No majority, then nobody; the host whose daemon starts now has what is on its disk.
    members[0].kill();
    members[1].kill();
    ring.check("a store without a majority");
    members[2].kill();
    ring.kill_daemon(1);
    ring.start_daemon(1);
    ring.check("a daemon that was killed while there is no store");
    members.iter_mut().for_each(EtcdServer::run);
    members.iter().for_each(EtcdServer::wait);
    ring.daemons.iter_mut().for_each(wait_until_joined);
    ring.check("the return of all");
    for (daemon, number) in ring.daemons.iter().zip(1..) {
        let subnet = format!("10.244.{number}.0/24");
        assert_eq!(daemon.ask("status")["lease"]["subnet"], subnet.as_str());
    }
    ring.streams.into_iter().for_each(Stream::end);
}
