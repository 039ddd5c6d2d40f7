//! Many daemons that start at once.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::host::{Daemon, Host, Leases, Switch, can_run};
use super::is_ready;
use super::server::{EtcdServer, can_run_etcd};
use super::{CONFIG_KEY, key};

const DAEMONS: u8 = 50;

/// Bounds the wait for all of them, on a busy machine with few processors.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn fifty_daemons_share_fifty_one_subnets() {
    if !can_run() || !can_run_etcd() {
        return;
    }
    let switch = Switch::new();
    let etcd = EtcdServer::start_in(&switch.namespace, "10.168.0.1", 1).remove(0);
    let config =
        r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.51.0"}"#;
    etcd.ctl(&["put", CONFIG_KEY, "--", config]);
    let leases = Leases::behind(&[&format!("--etcd-endpoints={}", etcd.url())]);
    let hosts: Vec<Host> = (1..=DAEMONS).map(|number| Host::at(&switch, &leases, number)).collect();
    for host in &hosts {
        // Nobody has a wish, so all draw from the same ones.
        fs::remove_file(host.subnet_file()).unwrap();
    }
    let start = |host| Host::spawn(host, &[&format!("--iface={}", host.underlay())]);
    let daemons: Vec<Daemon<'_>> = hosts.iter().map(start).collect();
    let end = Instant::now() + PATIENCE;
    let peers = u64::from(DAEMONS) - 1;
    let joined = |daemon: &&Daemon<'_>| is_ready(daemon) && daemon.ask("status")["peers"] == peers;
    while let Some(late) = daemons.iter().find(|daemon| !joined(daemon)) {
        assert!(Instant::now() < end, "{}", late.log());
        sleep(Duration::from_millis(200));
    }
    let subnet = |daemon: &Daemon<'_>| daemon.ask("status")["lease"]["subnet"].to_string();
    let subnets: BTreeSet<String> = daemons.iter().map(subnet).collect();
    assert_eq!(subnets.len(), usize::from(DAEMONS), "{subnets:?}");
    assert_eq!(etcd.keys(&key("")).len(), usize::from(DAEMONS));
}
