//! Two hosts at a switch, and what the kernel has on them.

use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use crate::host::{Daemon, Host, Leases, Switch, can_run};

/// The address families of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Both];

    pub(crate) fn v6(self) -> bool {
        self != Self::V4
    }

    /// The network config with this `Backend`.
    pub(crate) fn config(self, backend: &str) -> String {
        let v4 = match self {
            Self::V4 => r#""Network":"10.244.0.0/16""#,
            Self::V6 => r#""EnableIPv4":false"#,
            // Subnets of both families are given out by chance. Those that hosts here have addresses
            // of from the start, and that of the node made by hand, are left out.
            Self::Both => {
                r#""Network":"10.244.0.0/16","SubnetMin":"10.244.16.0","SubnetMax":"10.244.199.0""#
            }
        };
        let v6 = r#","EnableIPv6":true,"IPv6Network":"fd44::/48""#;
        format!("{{{v4}{},\"Backend\":{backend}}}", if self.v6() { v6 } else { "" })
    }
}

pub(crate) struct World {
    pub(crate) left: Host,
    pub(crate) right: Host,
    pub(crate) leases: Leases,
    // Dropped last.
    pub(crate) switch: Switch,
}

impl World {
    /// `None`, said aloud, where this cannot be made.
    pub(crate) fn new(families: Families, backend: &str) -> Option<Self> {
        let has_bridge = Command::new("bridge").arg("-V").output().is_ok();
        if !can_run() || !has_bridge {
            println!("SKIPPED: a test of kernel paths needs what is named above, and bridge");
            return None;
        }
        let switch = Switch::new();
        let leases = Leases::new(&families.config(backend));
        let [left, right] = [1, 2].map(|number| Host::at(&switch, &leases, number));
        for (host, number) in [(&left, 2), (&right, 3)] {
            let address = format!("fd10:168::{number}/64");
            host.run(&["ip", "address", "add", &address, "dev", &host.underlay(), "nodad"]);
        }
        Some(Self { left, right, leases, switch })
    }

    /// Both daemons, ready and joined.
    pub(crate) fn start(&self) -> (Daemon<'_>, Daemon<'_>) {
        self.start_with(&[])
    }

    /// The same, with more flags.
    pub(crate) fn start_with(&self, flags: &[&str]) -> (Daemon<'_>, Daemon<'_>) {
        let mut left = self.left.start(&[&["--iface=u1"], flags].concat());
        let mut right = self.right.start(&[&["--iface=u2"], flags].concat());
        for daemon in [&mut left, &mut right] {
            join(daemon, 1);
        }
        (left, right)
    }
}

/// Waits until a daemon knows its peers and has told the kernel.
pub(crate) fn join(daemon: &mut Daemon<'_>, peers: u64) {
    daemon.wait_until("joined", |daemon| {
        let status = daemon.ask("status");
        status["peers"] == peers && status["ready"] == true
    });
}

/// Gives the host's pod the first address of each of its subnets.
pub(crate) fn pods(host: &Host, daemon: &Daemon<'_>) -> Vec<IpAddr> {
    let lease = daemon.ask("status")["lease"].clone();
    let subnets = ["subnet", "ipv6_subnet"].map(|family| lease[family].as_str().map(str::to_owned));
    subnets.into_iter().flatten().map(|subnet| pod(host, &subnet)).collect()
}

/// Gives the host's pod the first address of a subnet.
pub(crate) fn pod(host: &Host, subnet: &str) -> IpAddr {
    let (first, length) = subnet.split_once('/').unwrap();
    let is_v6 = first.contains(':');
    let address =
        if is_v6 { format!("{first}1") } else { first.strip_suffix('0').unwrap().to_owned() + "1" };
    let net = format!("{address}/{length}");
    let nodad: &[&str] = if is_v6 { &["nodad"] } else { &[] };
    host.run(&[&["ip", "address", "replace", &net, "dev", "c1"], nodad].concat());
    address.parse().unwrap()
}

/// Three echoes from a pod to another come back, if need be some of more.
pub(crate) fn ping(from: &Host, near: IpAddr, far: IpAddr) {
    let (near, far) = (near.to_string(), far.to_string());
    from.run(&["ping", "-n", "-c", "3", "-i", "0.05", "-w", "10", "-I", &near, &far]);
}

/// Whether an echo comes back within a second.
pub(crate) fn answers(from: &Host, near: IpAddr, far: IpAddr) -> bool {
    let (near, far) = (near.to_string(), far.to_string());
    let words = ["ping", "-n", "-c", "1", "-W", "1", "-I", &near, &far];
    from.command(&words).output().unwrap().status.success()
}

/// The output of a command that prints JSON, within the host's namespace.
pub(crate) fn json(host: &Host, words: &[&str]) -> Value {
    let text = host.run(words);
    // `ip` prints nothing where there is nothing.
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap()
}

/// Lines of `ip route` of a family that hold `part`, without what depends on the kernel's mood.
pub(crate) fn routes(host: &Host, family: &str, part: &str) -> Vec<String> {
    let text = host.run(&["ip", family, "route", "show"]);
    let lines = text.lines().filter(|line| line.contains(part));
    lines
        .map(|line| line.replace(" metric 1024", "").replace(" pref medium", "").trim().to_owned())
        .collect()
}

/// Permanent neighbours of a device, as `address lladdr mac`.
pub(crate) fn neighbours(host: &Host, device: &str) -> Vec<String> {
    let text = host.run(&["ip", "neigh", "show", "dev", device]);
    let lines = text.lines().filter_map(|line| line.split_once(" PERMANENT"));
    lines.map(|(entry, _)| entry.trim().to_owned()).collect()
}

/// Forwarding entries of a device, as `mac dst address`.
pub(crate) fn entries(host: &Host, device: &str) -> Vec<String> {
    let all = json(host, &["bridge", "-j", "fdb", "show", "dev", device]);
    let line = |entry: &Value| {
        let is_permanent = entry["state"] == "permanent";
        let (mac, far) = (entry["mac"].as_str()?, entry["dst"].as_str()?);
        is_permanent.then(|| format!("{mac} dst {far}"))
    };
    all.as_array().unwrap().iter().filter_map(line).collect()
}

/// The device with its parameters.
pub(crate) fn link(host: &Host, device: &str) -> Value {
    json(host, &["ip", "-d", "-j", "link", "show", "dev", device])[0].clone()
}

/// The MAC address of a device.
pub(crate) fn mac(host: &Host, device: &str) -> String {
    link(host, device)["address"].as_str().unwrap().to_owned()
}
