//! What was read of a host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use weft_ctrl::interface::snapshot::Snapshot;
use weft_ctrl::netfilter::Overlay;

use crate::admin::{Peers, Status};

/// Everything that findings are made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) kernel: Kernel,
    pub(super) snapshot: Snapshot,
    /// Single addresses of the table `local`, with the index of the device.
    pub(super) local_addresses: Vec<(IpAddr, u32)>,
    /// Values below `/proc/sys`, by their path; what is missing could not be read.
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) subnet_file: SubnetFile,
    pub(super) bridges: Vec<Bridge>,
    pub(super) netfilter: Netfilter,
    /// Addresses that IPVS serves.
    pub(super) virtual_services: Vec<IpAddr>,
    /// Programs of this network namespace that make overlay networks: name and process.
    pub(super) others: Vec<(String, u32)>,
    /// Who has the port of the tunnel, as a sentence names it.
    pub(super) port_owner: Option<String>,
    pub(super) rights: Rights,
    pub(super) clock: Clock,
    /// Names of the files in `/etc/cni/net.d` that a container runtime would read, in its order.
    pub(super) cni_files: Vec<String>,
    pub(super) daemon: Answer,
    pub(super) echoes: Echoes,
    pub(super) strangers: Strangers,
}

/// The kernel and what it lets this process have.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// First two numbers of its version.
    pub(super) version: (u32, u32),
    /// Why there is no io_uring that serves.
    pub(super) no_ring: Option<String>,
    /// Datagrams that it cuts one send into; 1 is none.
    pub(super) segments_max: u16,
    /// Why `/dev/net/tun` cannot be opened.
    pub(super) no_tun: Option<String>,
}

/// What the subnet file says.
#[derive(Clone, Debug, Default)]
pub(super) struct SubnetFile {
    pub(super) path: PathBuf,
    pub(super) is_there: bool,
    pub(super) overlays: Vec<Overlay>,
    pub(super) mtu: Option<u32>,
}

/// A bridge that pods may be plugged into.
#[derive(Clone, Debug, Default)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IpNet>,
    /// Names and MTUs of what is plugged in.
    pub(super) ports: Vec<(String, u32)>,
}

/// What other programs' rules do.
#[derive(Clone, Debug, Default)]
pub(super) struct Netfilter {
    /// A sentence each, with the remedy.
    pub(super) forward_drops: Vec<String>,
    /// Chains that drop what comes to the tunnel's port.
    pub(super) input_drops: Vec<String>,
    /// Why that is not known.
    pub(super) unread: Option<String>,
    /// `iptables` or `nft` is installed.
    pub(super) has_program: bool,
}

/// What the daemon may do, or this process where there is no daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Rights {
    /// Bits of `CapEff` (`linux/capability.h`).
    pub(super) capabilities: u64,
    /// Bytes that may be locked; `None` is no limit.
    pub(super) memlock: Option<u64>,
}

/// What time it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    /// Seconds since 1970.
    pub(super) now: u64,
    /// The youngest file of the state directory and when it was written.
    pub(super) newest_file: Option<(PathBuf, u64)>,
    /// Something keeps it right; `None` if that is not known.
    pub(super) synchronised: Option<bool>,
}

/// The daemon's answers, or why there are none.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    None(String),
    Some(Box<(Status, Peers)>),
}

impl Default for Answer {
    fn default() -> Self {
        Self::None(String::new())
    }
}

/// What came of asking the other hosts through the network.
#[derive(Clone, Debug, Default)]
pub(super) struct Echoes {
    /// Each with whether it answered.
    pub(super) peers: Vec<Echo>,
    /// Why nobody was asked.
    pub(super) untried: Option<String>,
}

/// Datagrams from addresses that are in no lease.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strangers {
    /// Since the daemon's start.
    pub(super) total: u64,
    /// During this look.
    pub(super) lately: u64,
}

/// One other host.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    /// Its address inside of the network.
    pub(super) inner: IpAddr,
    /// Where packets for it are sent.
    pub(super) outer: String,
    pub(super) answered: bool,
}

impl Facts {
    pub(super) fn status(&self) -> Option<&Status> {
        match &self.daemon {
            Answer::Some(answers) => Some(&answers.0),
            Answer::None(_) => None,
        }
    }

    /// A number below `/proc/sys`.
    pub(super) fn sysctl(&self, path: &str) -> Option<i64> {
        self.sysctls.get(path)?.trim().parse().ok()
    }

    /// Devices that are ways into the network.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = &str> {
        let names = self.snapshot.links.iter().map(|link| link.name.as_str());
        names.filter(|name| name.starts_with("flannel"))
    }

    /// Bridges with an address of this host's own subnets.
    pub(super) fn pod_bridges(&self) -> impl Iterator<Item = &Bridge> {
        let is_ours = |address: &IpNet| {
            let overlays = &self.subnet_file.overlays;
            overlays.iter().any(|overlay| overlay.subnet.contains(&address.addr()))
        };
        self.bridges.iter().filter(move |bridge| bridge.addresses.iter().any(is_ours))
    }

    /// UDP port of the tunnel, as far as that can be known.
    pub(super) fn port(&self) -> Option<u16> {
        match self.status() {
            Some(status) => status.network.as_ref()?.port,
            None if self.tunnels().any(|name| name.starts_with("flannel.")) => Some(8472),
            None => Some(8285),
        }
    }
}
