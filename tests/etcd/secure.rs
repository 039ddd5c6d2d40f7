//! Two hosts whose store wants to know who asks, or encrypts, or both.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::certificates::certificates;
use super::host::{Daemon, Host, Leases, Switch, can_run};
use super::server::{EtcdServer, can_run_etcd};
use super::{CONFIG_KEY, is_ready, key};

const CONFIG: &str = r#"{"Network":"10.10.0.0/16","Backend":{"Type":"udp"}}"#;

const STORE: &str = "10.168.0.1";

fn can_run_all() -> bool {
    can_run() && can_run_etcd()
}

/// Two hosts that ask with these flags get subnets, and then pods of theirs reach each other.
fn join(switch: &Switch, etcd: &EtcdServer, flags: &[String], then: impl FnOnce([Daemon<'_>; 2])) {
    etcd.ctl(&["put", CONFIG_KEY, "--", CONFIG]);
    let endpoints = format!("--etcd-endpoints={}", etcd.url());
    let flags: Vec<&str> = std::iter::once(&endpoints).chain(flags).map(String::as_str).collect();
    let leases = Leases::behind(&flags);
    let hosts = [1, 2].map(|number| Host::at(switch, &leases, number));
    let mut daemons = hosts.each_ref().map(|host| {
        fs::remove_file(host.subnet_file()).unwrap();
        host.spawn(&[&format!("--iface={}", host.underlay())])
    });
    for (daemon, host) in daemons.iter_mut().zip(&hosts) {
        daemon.wait_until("its subnet is written", |_| host.subnet_file().exists());
    }
    let pods = hosts.each_ref().map(add_pod);
    for daemon in &mut daemons {
        daemon
            .wait_until("joined", |daemon| is_ready(daemon) && daemon.ask("status")["peers"] == 1);
    }
    for (host, [near, far]) in hosts.iter().zip([[&pods[0], &pods[1]], [&pods[1], &pods[0]]]) {
        host.run(&["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", near, far]);
    }
    then(daemons);
}

/// A device with the address that the subnet file tells; returns the address.
fn add_pod(host: &Host) -> String {
    let file = fs::read_to_string(host.subnet_file()).unwrap();
    let subnet = file.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET=")).unwrap();
    for words in [
        &["link", "add", "d1", "type", "veth", "peer", "name", "d1x"][..],
        &["link", "set", "d1x", "up"],
        &["address", "add", subnet, "dev", "d1"],
        &["link", "set", "d1", "up"],
    ] {
        host.run(&[&["ip"], words].concat());
    }
    subnet.split('/').next().unwrap().to_owned()
}

/// flanneld ignores an authority that comes without a certificate of the client.
#[test]
fn pods_reach_each_other_with_an_encrypted_store() {
    if !can_run_all() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let [authority, certificate, private] = certificates(place.path(), STORE);
    let files = [authority.as_str(), certificate.as_str(), private.as_str()];
    let only_authority = vec![format!("--etcd-cafile={authority}")];
    let client = [format!("--etcd-certfile={certificate}"), format!("--etcd-keyfile={private}")];
    let both: Vec<String> = only_authority.iter().cloned().chain(client).collect();
    for (asks, flags) in [(true, both), (false, only_authority)] {
        let switch = Switch::new();
        let etcd = EtcdServer::start_encrypted_in(&switch.namespace, STORE, files, asks);
        join(&switch, &etcd, &flags, |daemons| {
            let server = daemons[0].ask("status")["datastore"]["server"].clone();
            assert_eq!(server, "https://10.168.0.1:2379");
        });
    }
}

/// What proves who asks runs out between two questions, over and over.
#[test]
fn pods_reach_each_other_with_users_whose_tokens_run_out() {
    if !can_run_all() {
        return;
    }
    let switch = Switch::new();
    let mut etcd = EtcdServer::start_in_with(&switch.namespace, STORE, &["--auth-token-ttl=1"]);
    etcd.enable_users("/coreos.com/network");
    let flags = ["--etcd-username=node", "--etcd-password=s3cret"].map(str::to_owned);
    join(&switch, &etcd, &flags, |mut daemons| {
        let [left, right] = &mut daemons;
        let subnet = left.ask("status")["lease"]["subnet"].as_str().unwrap().replace('/', "-");
        for _ in 0..3 {
            // The token of a second is long dead.
            sleep(Duration::from_secs(4));
            etcd.ctl(&["del", &key(&subnet)]);
            left.wait_until("written again", |_| etcd.value(&key(&subnet)).is_some());
            right.wait_until("joined again", |daemon| daemon.ask("status")["peers"] == 1);
        }
        for daemon in [left, right] {
            daemon.wait_until("ready", is_ready);
            assert!(!daemon.log().contains("s3cret"), "{}", daemon.log());
        }
    });
}
