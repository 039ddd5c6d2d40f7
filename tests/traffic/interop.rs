//! A weft host and one whose end of the tunnel is another program's WireGuard: `wireguard-go`, or
//! `boringtun-cli` as `scripts/comparators` installs it. Its lease is written by hand.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_bench::lab::{LabOptions, NETWORK, Process, Side, wait_until};

use crate::cluster::Cluster;
use crate::load::Flows;
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other program, on host two.
struct Other {
    program: PathBuf,
    device: String,
    _process: Process,
}

impl Drop for Other {
    fn drop(&mut self) {
        // A program that is killed leaves it behind.
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.device));
    }
}

/// The program, where it is installed.
fn find(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_weft")).ancestors().nth(2).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([target.join("tools/bin")]);
    places.map(|place| place.join(name)).find(|file| file.is_file())
}

fn skipped(program: &str) {
    let line = format!("SKIPPED: a test with {program}, which scripts/comparators installs\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

impl Other {
    fn spawn(cluster: &Cluster, program: &Path, device: &str) -> Process {
        let mut arguments = vec![program.to_str().unwrap(), "--foreground"];
        if program.ends_with("boringtun-cli") {
            arguments.push("--disable-drop-privileges");
        }
        arguments.push(device);
        let host = cluster.lab.host(Side::Two);
        let mut process = host.spawn(&arguments).unwrap();
        let is_there = || {
            process.check_running()?;
            Ok(host.run(&["wg", "show", device]).ok().map(drop))
        };
        wait_until("the device", PATIENCE, is_there).unwrap();
        process
    }

    /// Starts it with the keys in the lab's directory, as the peer of the host with this key.
    fn start(cluster: &Cluster, program: &Path, peer: &str) -> Self {
        // Namespaces do not separate the sockets, so the name must be nobody else's.
        let device = format!("wgi{}", std::process::id());
        let process = Self::spawn(cluster, program, &device);
        let other = Self { program: program.to_owned(), device, _process: process };
        other.configure(cluster, peer);
        other
    }

    fn configure(&self, cluster: &Cluster, peer: &str) {
        let (host, directory) = (cluster.lab.host(Side::Two), cluster.lab.directory());
        let [key, psk] = ["other.key", "other.psk"].map(|name| directory.join(name));
        let endpoint = format!("{}:8285", Side::One.underlay_address());
        let device = &*self.device;
        #[rustfmt::skip]
        host.run(&[
            "wg", "set", device, "listen-port", "8285", "private-key", key.to_str().unwrap(),
            "peer", peer, "preshared-key", psk.to_str().unwrap(), "endpoint", &endpoint,
            "allowed-ips", &Side::One.subnet(),
        ]).unwrap();
        host.ip(&["link", "set", device, "mtu", "1420", "up"]).unwrap();
        host.ip(&["route", "replace", NETWORK, "dev", device]).unwrap();
    }

    /// Kills it and starts it again.
    fn restart(self, cluster: &Cluster, peer: &str) -> Self {
        let program = self.program.clone();
        drop(self);
        Self::start(cluster, &program, peer)
    }
}

/// Makes the other host's keys; its public one.
fn make_keys(cluster: &Cluster) -> String {
    let directory = cluster.lab.directory();
    let psk = format!("{}\n", sealed::PSK);
    std::fs::write(directory.join("other.psk"), psk).unwrap();
    let key = directory.join("other.key");
    let make = "umask 077; wg genkey | tee \"$0\" | wg pubkey";
    let host = cluster.lab.host(Side::Two);
    host.run(&["sh", "-c", make, key.to_str().unwrap()]).unwrap().trim().to_owned()
}

fn write_lease(cluster: &Cluster, key: &str) {
    let public_ip = Side::Two.underlay_address();
    let lease = json!({"PublicIP": public_ip, "PublicIPv6": null, "Weft": {"v": 1, "key": key}});
    let leases = cluster.node(Side::One).lease_directory().join("subnets");
    let path = leases.join(Side::Two.subnet().replace('/', "-"));
    std::fs::write(path, lease.to_string()).unwrap();
}

fn own_key(cluster: &Cluster) -> String {
    let key = || {
        let status = cluster.ask(Side::One, "status");
        Ok(status["sealing"]["key"].as_str().map(str::to_owned))
    };
    wait_until("the key", PATIENCE, key).unwrap()
}

fn exchange(cluster: &Cluster) {
    cluster.wait_for_traffic();
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(2, 16 << 20);
        let flows = Flows { count: 100, sizes: &[10, 700, 1392, 64], ..Flows::default() };
        between.datagrams(flows).assert_intact_but_for_order();
    }
}

fn endpoint(cluster: &Cluster) -> Value {
    cluster.ask(Side::One, "peers")["peers"][0]["sealing"]["endpoint"].take()
}

fn talks_with(name: &str) {
    let Some(program) = find(name).filter(|_| find("wg").is_some()) else {
        skipped(name);
        return;
    };
    let options = LabOptions { pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    cluster.start_weft(Side::One, &sealed::config());
    let key = make_keys(&cluster);
    let other = Other::start(&cluster, &program, &own_key(&cluster));
    // weft begins as soon as it knows of the peer.
    write_lease(&cluster, &key);
    exchange(&cluster);
    // The other side has lost its sessions, and begins.
    let other = other.restart(&cluster, &own_key(&cluster));
    cluster
        .lab
        .wait_for_reply(Side::Two, Side::One.pod_address().into(), PATIENCE, || Ok(()))
        .unwrap();
    exchange(&cluster);
    // weft has lost its sessions.
    drop(cluster.kill_weft(Side::One));
    cluster.start_weft(Side::One, &sealed::config());
    exchange(&cluster);
    // The other side is found again where it went, because what it sends is authentic.
    let host = cluster.lab.host(Side::Two);
    host.run(&["wg", "set", &other.device, "listen-port", "9285"]).unwrap();
    // A reply may still go to the old place.
    cluster.pods_from(Side::Two).ping_loss(&["-c", "3", "-i", "0.05"]);
    let expected = format!("{}:9285", Side::Two.underlay_address());
    let is_followed = || Ok((endpoint(&cluster) == expected.as_str()).then_some(()));
    wait_until("the peer to be followed", PATIENCE, is_followed).unwrap();
    exchange(&cluster);
    drop(other);
    cluster.finish();
}

#[test]
fn weft_talks_with_wireguard_go() {
    talks_with("wireguard-go");
}

#[test]
fn weft_talks_with_boringtun() {
    talks_with("boringtun-cli");
}
