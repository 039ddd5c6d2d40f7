//! What a daemon says of itself, of the store and of the other hosts.

use std::fs;

use crate::host::{Daemon, Leases, Pair, can_run};
use crate::{CONFIG, examine, lacks};

fn joined(pair: &Pair) -> [Daemon<'_>; 2] {
    for host in [&pair.left, &pair.right] {
        host.forward();
    }
    let mut daemons = [pair.left.start(&["--iface=u1"]), pair.right.start(&["--iface=u2"])];
    for daemon in &mut daemons {
        daemon.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    }
    daemons
}

#[test]
fn other_hosts_that_are_not_reached_are_named() {
    if !can_run() || lacks("setpriv") {
        return;
    }
    let leases = Leases::new(CONFIG);
    let pair = Pair::new(&leases);
    let [mut left, _right] = joined(&pair);
    // One that is not there, beside one that is.
    leases.put("10.244.8.0-24", r#"{"PublicIP":"10.168.0.88"}"#);
    left.wait_until("two peers", |daemon| daemon.ask("status")["peers"] == 2);
    examine(&pair.left, &[]).expect("warning", "probe", "10.244.8.0 (at 10.168.0.88:8285)");
    let few = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"];
    examine(&pair.left, &few).expect("note", "probe", "were not asked");

    // The way to the other host becomes narrower, which a full packet shows.
    pair.left.run(&["ip", "route", "change", "10.168.0.0/24", "dev", "u1", "mtu", "1300"]);
    let near = pair.left.pod().to_string();
    let words = ["ping", "-n", "-c", "3", "-i", "0.1", "-s", "1400", "-I", &near, "10.244.2.1"];
    left.wait_until("a narrower path", |daemon| {
        let _ = pair.left.command(&words).output();
        let peers = daemon.ask("peers")["peers"].clone();
        peers.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["path_mtu"].is_u64()))
    });
    examine(&pair.left, &[]).expect("warning", "mtu-path", "10.168.0.3:8285 takes");
}

#[test]
fn what_a_daemon_says_of_the_store_is_passed_on() {
    if !can_run() {
        return;
    }
    let leases = Leases::new(CONFIG);
    let pair = Pair::new(&leases);
    let [mut left, _right] = joined(&pair);
    leases.put("10.244.9.0-24", "{nonsense");
    left.wait_until("a lease rejected", |daemon| {
        daemon.ask("status")["rejected"].as_array().is_some_and(|rejected| !rejected.is_empty())
    });
    leases.write_config(r#"{"Network": "10.245.0.0/16"}"#);
    left.wait_until("a config noticed", |daemon| daemon.ask("status")["config_change"].is_string());
    let found = examine(&pair.left, &[]);
    found.expect("warning", "leases", "10.244.9.0-24");
    found.expect("warning", "config", "network config has changed");
    leases.write_config(CONFIG);

    // The store is away for a while: what is known stays in force, and the host ready.
    let away = leases.path().with_extension("away");
    fs::rename(leases.path(), &away).unwrap();
    left.wait_until("a store that is away", |daemon| {
        daemon.ask("status")["problems"].as_array().is_some_and(|problems| !problems.is_empty())
    });
    assert_eq!(left.ask("status")["ready"], true);
    examine(&pair.left, &[]).expect("warning", "daemon", "The daemon says: ");
    fs::rename(&away, leases.path()).unwrap();
    left.wait_until("the store back", |daemon| {
        daemon.ask("status")["problems"] == serde_json::json!([])
    });
    // Somebody else takes the lease.
    leases.put("10.244.1.0-24", r#"{"PublicIP":"10.168.0.99"}"#);
    left.wait_until("a lease that was taken", |daemon| daemon.ask("status")["ready"] == false);
    examine(&pair.left, &[]).expect("error", "daemon", "The daemon says: ");
}
