//! Reads the facts. What cannot be read is missing, and judged as such; only a kernel that answers no
//! question about its devices ends the look.

mod echo;
mod proc;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::DeserializeOwned;
use weft_ctrl::interface::reader::Netlink;
use weft_ctrl::interface::snapshot::{LinkKind, Snapshot};
use weft_ctrl::netfilter::{self, Family, Overlay};
use weft_ctrl::subnet_file::previous_overlays;
use weft_sys::{clock, ring, udp};

use super::facts::{
    Answer, Bridge, Clock, Echo, Echoes, Facts, Kernel, Netfilter, Rights, Strangers, SubnetFile,
};
use crate::admin::client::{AskError, ask, decode};
use crate::admin::{Drops, Peers, Question, Status};
use crate::daemon::owner;

/// Where to look for what the daemon has.
pub(super) struct Places<'a> {
    pub(super) admin_socket: &'a Path,
    pub(super) subnet_file: &'a Path,
    pub(super) state_directory: &'a Path,
}

/// Directory of the network configs that container runtimes read.
const CNI_DIRECTORY: &str = "/etc/cni/net.d";

/// The name of the drops of datagrams from addresses that are in no lease.
const UNKNOWN_SENDER: &str = "unknown_sender";

/// Long enough for what is sent all the time.
const MOMENT: Duration = Duration::from_secs(1);

/// Hosts that are asked at most, so that a large cluster is not asked by every look.
const ECHOES_MAX: usize = 64;

/// Everything about this host. Takes about two seconds if another host does not answer.
pub(super) async fn facts(places: &Places<'_>) -> Result<Facts> {
    let daemon = daemon(places.admin_socket);
    let netlink = Netlink::open()?;
    let snapshot = netlink.snapshot().await?;
    let mut facts = Facts {
        kernel: kernel(),
        local_addresses: netlink.local_addresses().await?,
        bridges: bridges(&snapshot),
        virtual_services: proc::virtual_services(&read("/proc/net/ip_vs")),
        others: proc::others(Path::new("/proc")),
        clock: time(places.state_directory),
        cni_files: cni_files(Path::new(CNI_DIRECTORY)),
        subnet_file: subnet_file(places.subnet_file),
        snapshot,
        daemon,
        ..Facts::default()
    };
    if let Some(status) = facts.status() {
        let pid = status.pid;
        let told = overlays(status);
        facts.rights = rights(&pid.to_string());
        if facts.subnet_file.overlays.is_empty() {
            facts.subnet_file.overlays = told;
        }
    } else {
        facts.rights = rights("self");
    }
    facts.sysctls = proc::sysctls(facts.tunnels());
    facts.port_owner = port_owner(&facts);
    facts.netfilter = rules(&facts).await;
    if let Answer::Some(answers) = &facts.daemon {
        facts.echoes = echoes(&answers.0, &answers.1);
        facts.strangers = strangers(places.admin_socket).await.unwrap_or_default();
    }
    Ok(facts)
}

fn answer<T: DeserializeOwned>(socket: &Path, question: Question) -> Result<T, AskError> {
    decode(&ask(socket, question)?)
}

/// Some are counted while a daemon starts, before it knows the leases. Whether more come shows after a
/// moment.
async fn strangers(socket: &Path) -> Result<Strangers, AskError> {
    let count = || -> Result<u64, AskError> {
        let drops: Drops = answer(socket, Question::Drops)?;
        let unknown = drops.inbound.iter().find(|drop| drop.reason == UNKNOWN_SENDER);
        Ok(unknown.map_or(0, |drop| drop.count))
    };
    let before = count()?;
    if before == 0 {
        return Ok(Strangers::default());
    }
    tokio::time::sleep(MOMENT).await;
    let total = count()?;
    Ok(Strangers { total, lately: total.saturating_sub(before) })
}

fn daemon(socket: &Path) -> Answer {
    let all = || -> Result<_, AskError> {
        Ok((answer(socket, Question::Status)?, answer(socket, Question::Peers)?))
    };
    match all() {
        Ok(answers) => Answer::Some(Box::new(answers)),
        Err(error) => Answer::None(error.to_string()),
    }
}

fn overlays(status: &Status) -> Vec<Overlay> {
    let (Some(network), Some(lease)) = (&status.network, &status.lease) else { return Vec::new() };
    let fixed_source = status.network.iter().any(|network| network.paths.len() > 1);
    let pairs = [(&network.ipv4, &lease.subnet), (&network.ipv6, &lease.ipv6_subnet)];
    let overlay = |(network, subnet): (&Option<String>, &Option<String>)| {
        let (network, subnet) = (network.as_ref()?.parse().ok()?, subnet.as_ref()?.parse().ok()?);
        Some(Overlay { network, subnet, fixed_source })
    };
    pairs.into_iter().filter_map(overlay).collect()
}

fn kernel() -> Kernel {
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    Kernel {
        version: proc::version(&read("/proc/sys/kernel/osrelease")),
        no_ring: ring::probe().err().map(|error| error.to_string()),
        segments_max: udp::probe_segments_max(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        no_tun: tun.err().map(|error| error.to_string()),
    }
}

fn bridges(snapshot: &Snapshot) -> Vec<Bridge> {
    let links = snapshot.links.iter().filter(|link| link.kind == LinkKind::Bridge);
    let bridge = links.map(|link| {
        let own = snapshot.addresses.iter().filter(|address| address.link == link.index);
        let port = |name: String| Some((name.clone(), snapshot.link_named(&name)?.mtu));
        Bridge {
            name: link.name.clone(),
            mtu: link.mtu,
            addresses: own
                .filter_map(|one| IpNet::new(one.local, one.prefix_length).ok())
                .collect(),
            ports: names(Path::new(&format!("/sys/class/net/{}/brif", link.name)))
                .into_iter()
                .filter_map(port)
                .collect(),
        }
    });
    bridge.collect()
}

fn subnet_file(path: &Path) -> SubnetFile {
    let text = fs::read_to_string(path).ok();
    let mtu = |text: &String| {
        text.lines().find_map(|line| line.strip_prefix("FLANNEL_MTU=")?.trim().parse().ok())
    };
    SubnetFile {
        path: path.to_owned(),
        is_there: text.is_some(),
        overlays: previous_overlays(path),
        mtu: text.as_ref().and_then(mtu),
    }
}

fn port_owner(facts: &Facts) -> Option<String> {
    let port = facts.port()?;
    let addresses = facts.snapshot.addresses.iter().map(|address| address.local);
    addresses.into_iter().find_map(|ip| owner::of_udp_port(SocketAddr::new(ip, port)))
}

fn rights(process: &str) -> Rights {
    Rights {
        capabilities: proc::capabilities(&read(&format!("/proc/{process}/status"))),
        memlock: proc::memlock(&read(&format!("/proc/{process}/limits"))),
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock itself is looked at")]
fn time(state_directory: &Path) -> Clock {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let files = fs::read_dir(state_directory).into_iter().flatten().flatten();
    let written = files.filter_map(|file| {
        let modified = file.metadata().ok()?.modified().ok()?;
        Some((file.path(), seconds(modified)))
    });
    Clock {
        now: seconds(SystemTime::now()),
        newest_file: written.max_by_key(|(_, written)| *written),
        synchronised: clock::is_synchronised().ok(),
    }
}

fn cni_files(directory: &Path) -> Vec<String> {
    let is_read = |name: &String| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut files: Vec<String> = names(directory).into_iter().filter(is_read).collect();
    files.sort_unstable();
    files
}

async fn rules(facts: &Facts) -> Netfilter {
    let overlays = &facts.subnet_file.overlays;
    let mut found = Netfilter {
        forward_drops: netfilter::forward_drops(overlays).await,
        has_program: netfilter::is_installed("iptables").await
            || netfilter::is_installed("nft").await,
        ..Netfilter::default()
    };
    // What carries the packets of both families between hosts is of one family.
    let outer = facts.status().and_then(|status| status.interface.as_ref()?.addresses.first());
    let family = if outer.is_some_and(IpAddr::is_ipv6) { Family::V6 } else { Family::V4 };
    if let Some(port) = facts.port() {
        match netfilter::input_drops(family, port).await {
            Ok(chains) => found.input_drops = chains,
            Err(error) => found.unread = Some(error.to_string()),
        }
    }
    found
}

/// Asks every peer whose first address is known to be on a device there, which plain routing alone
/// does not give.
fn echoes(status: &Status, peers: &Peers) -> Echoes {
    let network = status.network.as_ref();
    if network.is_none_or(|network| network.backend == "host-gw") {
        return Echoes::default();
    }
    let mut asked: Vec<Echo> = Vec::new();
    for peer in peers.peers.iter().take(ECHOES_MAX) {
        let v4 = peer.subnet.as_ref().and_then(|net| net.parse::<Ipv4Net>().ok());
        let v6 = peer.ipv6_subnet.as_ref().and_then(|net| net.parse::<Ipv6Net>().ok());
        let v6 = v6.filter(|_| peer.takes_ipv6);
        let first = v4.map(|net| IpAddr::V4(net.network()));
        let first = first.into_iter().chain(v6.map(|net| IpAddr::V6(net.network())));
        let outer = &peer.outer;
        asked.extend(first.map(|inner| Echo { inner, outer: outer.clone(), answered: false }));
    }
    let targets: Vec<IpAddr> = asked.iter().map(|echo| echo.inner).collect();
    match echo::ask(&targets) {
        Ok(answered) => {
            for (echo, answered) in asked.iter_mut().zip(answered) {
                echo.answered = answered;
            }
            Echoes { peers: asked, untried: None }
        }
        Err(error) => Echoes { peers: Vec::new(), untried: Some(error.to_string()) },
    }
}

/// What is missing is empty.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
