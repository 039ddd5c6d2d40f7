//! A weft host and one whose end of the tunnel is another program's WireGuard: `wireguard-go`, or
//! `boringtun-cli` as `scripts/comparators` installs it. Its lease is written by hand.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_bench::lab::{LabOptions, NETWORK, Namespace, Process, Side, wait_until};

use crate::cluster::Cluster;
use crate::load::Flows;
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other program, on host two.
pub(crate) struct Other {
    program: PathBuf,
    device: String,
    seat: Seat,
    _process: Process,
}

/// Which of several on host two it is, and where it reaches weft.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    /// From 2 on, as its subnet and its port have it. The second has the pod; others have an address of
    /// their own and see weft's subnet only.
    pub(crate) number: u8,
    pub(crate) weft_at: SocketAddr,
}

impl Seat {
    pub(crate) fn subnet(self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// Of those that have no pod.
    pub(crate) fn address(self) -> String {
        format!("10.244.{}.2", self.number)
    }

    pub(crate) fn port(self) -> u16 {
        8283 + u16::from(self.number)
    }

    fn key_file(self) -> String {
        format!("other{}.key", self.number)
    }

    /// Traffic of this seat's address takes this seat's device.
    fn give_address(self, host: &Namespace, device: &str) {
        let (address, table) = (self.address(), self.number.to_string());
        host.ip(&["address", "add", &format!("{address}/32"), "dev", device]).unwrap();
        let route = ["route", "replace", &Side::One.subnet(), "dev", device, "table", &table];
        host.ip(&route).unwrap();
        let rule = ["from", &address, "lookup", &table];
        let _ = host.ip(&[&["rule", "del"], &rule[..]].concat());
        host.ip(&[&["rule", "add"], &rule[..]].concat()).unwrap();
    }
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

    /// Starts it with the keys in the lab's directory, as the peer of the host with this key, which it
    /// reaches there.
    pub(crate) fn start(cluster: &Cluster, program: &Path, (peer, seat): (&str, Seat)) -> Self {
        // Namespaces do not separate the sockets, so the name must be nobody else's.
        let device = format!("wgi{}x{}", std::process::id(), seat.number);
        let process = Self::spawn(cluster, program, &device);
        let other = Self { program: program.to_owned(), device, seat, _process: process };
        other.configure(cluster, peer);
        other
    }

    fn configure(&self, cluster: &Cluster, peer: &str) {
        let (host, directory) = (cluster.lab.host(Side::Two), cluster.lab.directory());
        let [key, psk] =
            [self.seat.key_file(), "other.psk".to_owned()].map(|name| directory.join(name));
        let [endpoint, port] = [self.seat.weft_at.to_string(), self.seat.port().to_string()];
        let device = &*self.device;
        #[rustfmt::skip]
        host.run(&[
            "wg", "set", device, "listen-port", &port, "private-key", key.to_str().unwrap(),
            "peer", peer, "preshared-key", psk.to_str().unwrap(), "endpoint", &endpoint,
            "allowed-ips", &Side::One.subnet(),
        ]).unwrap();
        host.ip(&["link", "set", device, "mtu", "1420", "up"]).unwrap();
        match self.seat.number {
            2 => drop(host.ip(&["route", "replace", NETWORK, "dev", device]).unwrap()),
            _ => self.seat.give_address(host, device),
        }
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(self, cluster: &Cluster, peer: &str) -> Self {
        let (program, seat) = (self.program.clone(), self.seat);
        drop(self);
        Self::start(cluster, &program, (peer, seat))
    }
}

/// Makes the other host's keys; its public one.
pub(crate) fn make_keys(cluster: &Cluster, seat: Seat) -> String {
    let directory = cluster.lab.directory();
    let psk = format!("{}\n", sealed::PSK);
    std::fs::write(directory.join("other.psk"), psk).unwrap();
    let key = directory.join(seat.key_file());
    let make = "umask 077; wg genkey | tee \"$0\" | wg pubkey";
    let host = cluster.lab.host(Side::Two);
    host.run(&["sh", "-c", make, key.to_str().unwrap()]).unwrap().trim().to_owned()
}

pub(crate) fn write_lease(cluster: &Cluster, (key, subnet): (&str, &str), at: SocketAddr) {
    let weft = json!({"v": 1, "key": key, "port": at.port()});
    let lease = json!({"PublicIP": at.ip(), "PublicIPv6": null, "Weft": weft});
    let leases = cluster.node(Side::One).lease_directory().join("subnets");
    // Leases appear under their names only when they are complete.
    std::fs::write(leases.join(".new"), lease.to_string()).unwrap();
    std::fs::rename(leases.join(".new"), leases.join(subnet.replace('/', "-"))).unwrap();
}

pub(crate) fn own_key(cluster: &Cluster) -> String {
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

pub(crate) fn at(side: Side) -> SocketAddr {
    (side.underlay_address(), 8285).into()
}

/// The program, if it can be used here. It is said aloud if not.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let program = find(name).filter(|_| find("wg").is_some());
    if program.is_none() {
        skipped(name);
    }
    program
}

fn talks_with(name: &str) {
    let Some(program) = installed(name) else { return };
    let options = LabOptions { pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    cluster.start_weft(Side::One, &sealed::config());
    let seat = Seat { number: 2, weft_at: at(Side::One) };
    let key = make_keys(&cluster, seat);
    let other = Other::start(&cluster, &program, (&own_key(&cluster), seat));
    // weft begins as soon as it knows of the peer.
    write_lease(&cluster, (&key, &seat.subnet()), at(Side::Two));
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
