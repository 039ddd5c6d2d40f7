//! Two hosts and a pod on each, made from four network namespaces:
//!
//! ```text
//!  pod 1 ── veth ── host 1 ══ underlay veth ══ host 2 ── veth ── pod 2
//! 10.244.1.2   10.244.1.1  10.168.0.2   10.168.0.3  10.244.2.1   10.244.2.2
//! ```
//!
//! The underlay devices are called `u1` and `u2`, the hosts' ends of the pod links `c1` and `c2`, the
//! pods' own devices `eth0`. The namespaces are called `weft-<process>-<number>-…`, so several labs
//! can exist at once. Nothing is made outside them, and dropping the lab removes everything.

mod cleanup;
mod limit;
mod namespace;
mod observe;
mod process;
mod side;
mod wait;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use limit::OneCoreEach;
pub use namespace::Namespace;
pub use observe::{Counters, DeviceCounters, Direction, Memory, memory_rollup, processor_busy};
pub use process::Process;
pub use rustix::process::Signal;
pub use side::Side;
pub use wait::wait_until;

/// The network that holds both pods' subnets.
pub const NETWORK: &str = "10.244.0.0/16";

/// The network that holds both pods' IPv6 subnets, each of which is a /64.
pub const NETWORK_V6: &str = "fd00:244::/32";

/// The router's address, towards both hosts.
const ROUTER_ADDRESS: &str = "10.168.0.1";

/// How frames cross the link between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Underlay {
    /// Frames are cut to the MTU before the link and joined by GRO behind it, as with a real card.
    Wire,
    /// A veth as it comes: frames of 64 KiB cross whole. Flatters the kernel's own paths.
    Super,
}

impl Underlay {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Underlay::Wire => "wire",
            Underlay::Super => "super",
        }
    }
}

/// How a pod hangs on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// On a veth whose host end carries the gateway address.
    Direct,
    /// Behind a bridge `cni0` that carries the gateway address, with connection tracking and
    /// masquerading of what leaves the network, as container runtimes set it up.
    Bridge,
    /// For the bare path. There are no pods: what runs in a pod otherwise runs on its host, which has the pod's address.
    #[value(skip)]
    NoPods,
}

impl Topology {
    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Topology::Direct => "direct",
            Topology::Bridge => "bridge",
            Topology::NoPods => "no-pods",
        }
    }
}

/// What a lab is to look like. [`LabOptions::default`] is the lab of the published figures.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// How frames cross the link between the hosts.
    pub underlay: Underlay,
    /// MTU of the link between the hosts, in bytes of IP packet.
    pub underlay_mtu: u32,
    /// MTU of the pods' links, in bytes of IP packet; the overlay's own MTU if all is well.
    pub pod_mtu: u32,
    /// `rp_filter` of the hosts: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// Whether pods get IPv6 addresses as well. The underlay stays IPv4.
    pub ipv6: bool,
    /// How the pods hang on the hosts.
    pub topology: Topology,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions {
            underlay: Underlay::Wire,
            underlay_mtu: 1500,
            pod_mtu: 1472,
            rp_filter: 0,
            ipv6: false,
            topology: Topology::Direct,
        }
    }
}

/// The namespaces and a directory for files. Dropping it ends what runs in the namespaces and
/// removes them, also when a test panics or the process is interrupted.
pub struct Lab {
    // Fields are dropped in this order: the namespaces need the directory for their output.
    pods: [Namespace; 2],
    hosts: [Namespace; 2],
    router: Option<Namespace>,
    directory: Directory,
    options: LabOptions,
}

impl Lab {
    /// Makes the namespaces, the links and the addresses. Needs root.
    pub fn new(options: LabOptions) -> Result<Lab> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "The lab makes network namespaces: run it as root"
        );
        cleanup::install_signal_handler();
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{number}", name_prefix());
        let directory = Directory::create(&prefix)?;
        let make = |name: &str| Namespace::create(&format!("{prefix}-{name}"), &directory.0);
        let hosts = [make("host1")?, make("host2")?];
        let pods = [make("pod1")?, make("pod2")?];
        let lab = Lab { pods, hosts, router: None, directory, options };
        lab.connect_hosts()?;
        for side in Side::BOTH {
            lab.connect_pod(side)?;
            lab.set_up_host(side)?;
        }
        Ok(lab)
    }

    /// What it was made from.
    pub fn options(&self) -> &LabOptions {
        &self.options
    }

    /// The namespace of a pod.
    pub fn pod(&self, side: Side) -> &Namespace {
        match self.options.topology {
            Topology::Direct | Topology::Bridge => &self.pods[side.index()],
            Topology::NoPods => self.host(side),
        }
    }

    /// The namespace of a host.
    pub fn host(&self, side: Side) -> &Namespace {
        &self.hosts[side.index()]
    }

    /// The namespace of the router, if there is one.
    pub fn router(&self) -> Option<&Namespace> {
        self.router.as_ref()
    }

    /// A directory for files, removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Waits until a pod gets an echo reply from `target`, asking again and again for at most `limit`.
    /// An error of `check`, which is called before each attempt, ends the wait.
    pub fn wait_for_reply(
        &self,
        side: Side,
        target: IpAddr,
        limit: Duration,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", &target.to_string()];
        wait_until(&format!("an echo reply from {target}"), limit, || {
            check()?;
            Ok(self.pod(side).run(&ping).ok().map(drop))
        })
    }

    /// Changes the MTU of both ends of the link between the hosts.
    pub fn set_underlay_mtu(&self, mtu: u32) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| {
            let device = side.underlay_device();
            self.host(side).ip(&["link", "set", device, "mtu", &mtu.to_string()]).map(drop)
        })
    }

    /// Replaces the link between the hosts by two links with a router between them. Its devices are
    /// called `u1` and `u2` as well, after the host that each one leads to.
    pub fn put_router_between(&mut self) -> Result<()> {
        let name = self.host(Side::One).name().replace("-host1", "-router");
        self.router = Some(Namespace::create(&name, &self.directory.0)?);
        self.host(Side::One).ip(&["link", "delete", "u1"])?;
        let router = self.router.as_ref().context("There is no router")?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        let mtu = self.options.underlay_mtu.to_string();
        for side in Side::BOTH {
            let (host, device) = (self.host(side), side.underlay_device());
            let peer = ["type", "veth", "peer", "name", device, "mtu", &mtu];
            let arguments = [&["link", "add", device, "mtu", &mtu], &peer[..]].concat();
            host.ip(&[&arguments[..], &["netns", router.name()]].concat())?;
            self.set_up_underlay_device(router, device, &format!("{ROUTER_ADDRESS}/32"))?;
            self.set_up_underlay_device(host, device, &format!("{}/24", side.underlay_address()))?;
            let (own, other) = (side.underlay_address(), side.other().underlay_address());
            router.ip(&["route", "add", &own.to_string(), "dev", device])?;
            let via = ["via", ROUTER_ADDRESS, "dev", device];
            host.ip(&[&["route", "add", &other.to_string()], &via[..]].concat())?;
        }
        Ok(())
    }

    /// Lets a host lose this share (1 to 99 percent) of what arrives over the link, at random.
    /// GRO is off from then on at that end, so that frames are lost one at a time, as on a real link. What a
    /// program at the ingress of the device takes (the shortcut of weft) is not lost: it comes first.
    pub fn lose_arrivals(&self, side: Side, percent: u32) -> Result<()> {
        let device = side.underlay_device();
        ensure!((1..100).contains(&percent), "A share of {percent} percent is no random loss");
        // nftables sees frames only after GRO has joined them.
        self.host(side).run(&["ethtool", "-K", device, "gro", "off"])?;
        let rules = format!(
            "table netdev loss {{
                chain arrivals {{
                    type filter hook ingress device {device} priority 0
                    numgen random mod 100 < {percent} drop
                }}
            }}"
        );
        self.host(side).run(&["nft", &rules]).map(drop)
    }

    /// Limits what a host sends over the link to `rate` (as tc writes it, for example `50mbit`),
    /// with a queue so long that the buffers of the sockets above it fill up first: one that dropped
    /// would make room for them.
    pub fn limit_departures(&self, side: Side, rate: &str) -> Result<()> {
        let device = side.underlay_device();
        let shaper = ["tbf", "rate", rate, "burst", "128kb", "limit", "256mb"];
        let mut arguments = vec!["qdisc", "replace", "dev", device, "root"];
        arguments.extend(shaper);
        self.host(side).tc(&arguments).map(drop)
    }

    /// Removes the lab and says what should not have been there any more: a program still running
    /// in a namespace, or a namespace that lives on.
    pub fn close(self) -> Result<()> {
        let all = || self.pods.iter().chain(&self.hosts).chain(&self.router);
        let inodes: Vec<u64> = all().map(Namespace::inode).collect();
        let strays: Vec<u32> = all().flat_map(Namespace::processes).collect();
        ensure!(strays.is_empty(), "Left behind in the lab's namespaces: processes {strays:?}");
        drop(self);
        let holders: Vec<u32> =
            inodes.into_iter().flat_map(cleanup::processes_with_network).collect();
        ensure!(holders.is_empty(), "Processes {holders:?} keep the lab's namespaces alive");
        Ok(())
    }

    fn connect_hosts(&self) -> Result<()> {
        let other = self.host(Side::Two).name();
        let peer = ["type", "veth", "peer", "name", "u2", "netns", other];
        let mut arguments = vec!["link", "add", "u1"];
        arguments.extend(peer);
        self.host(Side::One).ip(&arguments)?;
        self.set_underlay_mtu(self.options.underlay_mtu)?;
        for side in Side::BOTH {
            let address = format!("{}/24", side.underlay_address());
            self.set_up_underlay_device(self.host(side), side.underlay_device(), &address)?;
        }
        Ok(())
    }

    fn set_up_underlay_device(&self, at: &Namespace, device: &str, address: &str) -> Result<()> {
        if self.options.underlay == Underlay::Wire {
            at.run(&[&["ethtool", "-K", device], WIRE_FEATURES].concat())?;
        }
        at.ip(&["address", "add", address, "dev", device])?;
        at.ip(&["link", "set", device, "up"]).map(drop)
    }

    fn connect_pod(&self, side: Side) -> Result<()> {
        if self.options.topology == Topology::NoPods {
            let address = format!("{}/32", side.pod_address());
            return self.add_address(self.host(side), side.underlay_device(), &address);
        }
        let (host, pod, link) = (self.host(side), self.pod(side), side.pod_link());
        let mtu = self.options.pod_mtu.to_string();
        let peer = ["type", "veth", "peer", "name", "eth0", "mtu", &mtu, "netns", pod.name()];
        host.ip(&[&["link", "add", link, "mtu", &mtu], &peer[..]].concat())?;
        if self.options.topology == Topology::Bridge {
            host.ip(&["link", "add", "cni0", "mtu", &mtu, "type", "bridge", "forward_delay", "0"])?;
            host.ip(&["link", "set", link, "master", "cni0"])?;
            host.run(&["nft", BRIDGE_RULES])?;
        }
        let gateway_device = self.gateway_device(side);
        self.add_address(host, gateway_device, &format!("{}/24", side.gateway_address()))?;
        self.add_address(pod, "eth0", &format!("{}/24", side.pod_address()))?;
        if self.options.ipv6 {
            self.add_address(host, gateway_device, &format!("{}/64", side.gateway_address_v6()))?;
            self.add_address(pod, "eth0", &format!("{}/64", side.pod_address_v6()))?;
        }
        host.ip(&["link", "set", link, "up"])?;
        host.ip(&["link", "set", gateway_device, "up"])?;
        pod.ip(&["link", "set", "eth0", "up"])?;
        pod.ip(&["route", "add", "default", "via", &side.gateway_address().to_string()])?;
        if self.options.ipv6 {
            let gateway = side.gateway_address_v6().to_string();
            pod.ip(&["-6", "route", "add", "default", "via", &gateway, "dev", "eth0"])?;
        }
        Ok(())
    }

    /// The device of a host that carries its pod's gateway address.
    pub fn gateway_device(&self, side: Side) -> &'static str {
        match self.options.topology {
            Topology::Direct => side.pod_link(),
            Topology::Bridge => "cni0",
            Topology::NoPods => side.underlay_device(),
        }
    }

    fn add_address(&self, namespace: &Namespace, device: &str, address: &str) -> Result<()> {
        let mut arguments = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            // Without this the address could not be used for the first second.
            arguments.push("nodad");
        }
        namespace.ip(&arguments).map(drop)
    }

    fn set_up_host(&self, side: Side) -> Result<()> {
        let host = self.host(side);
        host.sysctl("net/ipv4/ip_forward", "1")?;
        if self.options.ipv6 {
            host.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        let rp_filter = self.options.rp_filter.to_string();
        // The larger of `all` and the device's own value counts, so both are written everywhere.
        let devices = ["all", "default", side.underlay_device()];
        for device in devices.into_iter().chain([self.gateway_device(side)]) {
            host.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), &rp_filter)?;
        }
        Ok(())
    }
}

/// The features that make a veth behave like a card with plain frames (see [`Underlay::Wire`]).
#[rustfmt::skip]
const WIRE_FEATURES: &[&str] = &[
    "tso", "off", "gso", "off", "gro", "on",
    "tx-udp-segmentation", "off",
    "tx-udp_tnl-segmentation", "off",
    "tx-udp_tnl-csum-segmentation", "off",
];

/// Connection tracking and masquerading as container runtimes have them.
const BRIDGE_RULES: &str = "table ip lab {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        ct state established,related accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
        ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade
    }
}";

/// What is left of this process's labs although all of them are closed: namespaces, processes that
/// were started and not collected, directories, control groups. Empty is good.
pub fn left_behind() -> Vec<String> {
    let mut found = Vec::new();
    let prefix = name_prefix();
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    found.extend(
        names.filter(|name| name.starts_with(&prefix)).map(|name| format!("namespace {name}")),
    );
    let owned = cleanup::owned();
    found.extend(owned.processes.iter().map(|process| format!("process {process}")));
    let directories = owned.directories.iter();
    found.extend(directories.map(|directory| format!("directory {}", directory.display())));
    found.extend(owned.groups.iter().map(|group| format!("group {}", group.display())));
    found
}

/// What the names of all labs of this process begin with.
fn name_prefix() -> String {
    format!("weft-{}-", std::process::id())
}

/// A directory of ours, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn create(name: &str) -> Result<Directory> {
        let path = std::env::temp_dir().join(name);
        let mut owned = cleanup::owned();
        std::fs::create_dir(&path)
            .with_context(|| format!("Cannot make the directory {}", path.display()))?;
        owned.directories.insert(path.clone());
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let mut owned = cleanup::owned();
        // If it cannot be removed it stays listed, and the check for things left behind names it.
        if std::fs::remove_dir_all(&self.0).is_ok() {
            owned.directories.remove(&self.0);
        }
    }
}
