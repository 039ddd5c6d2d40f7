//! Ways to carry packets between the two hosts of a lab, set up and taken down again.

pub mod many;
mod program;
mod vxlan;
mod weft;
mod wireguard;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use wireguard::{Flavour, Tunnel};

pub use weft::{DaemonArguments, EngineChoice, Weft, WeftNode, Work, weft_binary};

use crate::lab::{
    Lab, LabOptions, Memory, NETWORK, Process, Side, Topology, left_behind, wait_until,
};

/// The `Backend` of sealed traffic, and of those that the kernel carries.
const SEALED: &str = r#"{"Type":"udp","Encryption":"wireguard"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
const VXLAN: &str = r#"{"Type":"vxlan"}"#;

/// How long a path may take until the first packet crosses it.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long the kernel may take to put away what a program had.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// One way to carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Host to host, without pods and without an overlay: the base line.
    Bare,
    /// Plain routes through the other host: what the kernel can do at best.
    HostGw,
    /// Kernel VXLAN, set up as flanneld does it.
    Vxlan,
    /// Two weft daemons with a shared lease directory.
    Weft,
    /// The same with the `epoll` engine.
    WeftEpoll,
    /// Two weft daemons with two workers each.
    #[value(name = "weft-2")]
    #[serde(rename = "weft-2")]
    Weft2,
    /// Two weft daemons that seal what they send.
    WeftSealed,
    /// Two weft daemons with the backend `host-gw`, whose routes the kernel follows.
    WeftHostGw,
    /// Two weft daemons with the backend `vxlan`, whose devices the kernel has.
    WeftVxlan,
    /// The comparator that stands for flannel's UDP mode.
    PerPacket,
    /// A forwarder that waits for one packet at a time, on tokio-uring.
    TokioUring,
    /// The kernel's own WireGuard.
    Wireguard,
    /// WireGuard's program in Go.
    WireguardGo,
    /// Cloudflare's WireGuard program in Rust.
    BoringtunCli,
}

impl PathKind {
    /// Those that are measured unless others are asked for, in the order of the report.
    pub const USUAL: [PathKind; 4] =
        [PathKind::HostGw, PathKind::Vxlan, PathKind::Weft, PathKind::PerPacket];

    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            PathKind::Bare => "bare",
            PathKind::HostGw => "host-gw",
            PathKind::Vxlan => "vxlan",
            PathKind::Weft => "weft",
            PathKind::WeftEpoll => "weft-epoll",
            PathKind::Weft2 => "weft-2",
            PathKind::WeftSealed => "weft-sealed",
            PathKind::WeftHostGw => "weft-host-gw",
            PathKind::WeftVxlan => "weft-vxlan",
            PathKind::PerPacket => "per-packet",
            PathKind::TokioUring => "tokio-uring",
            PathKind::Wireguard => "wireguard",
            PathKind::WireguardGo => "wireguard-go",
            PathKind::BoringtunCli => "boringtun-cli",
        }
    }

    /// The MTU that the path leaves of the underlay's, for IPv4 outside. WireGuard's is the usual
    /// one, which leaves room for IPv6 outside.
    pub fn mtu(self, underlay_mtu: u32) -> u32 {
        underlay_mtu
            - match self {
                PathKind::Bare | PathKind::HostGw | PathKind::WeftHostGw => 0,
                PathKind::Vxlan | PathKind::WeftVxlan => 50,
                PathKind::Weft | PathKind::WeftEpoll | PathKind::Weft2 => 28,
                PathKind::PerPacket | PathKind::TokioUring => 28,
                PathKind::WeftSealed => 80,
                PathKind::Wireguard | PathKind::WireguardGo | PathKind::BoringtunCli => 80,
            }
    }

    /// The lab that suits the path: pods with the right MTU, or none.
    pub fn lab_options(self, options: &LabOptions) -> LabOptions {
        let pod_mtu = self.mtu(options.underlay_mtu);
        let topology = if self == PathKind::Bare { Topology::NoPods } else { options.topology };
        LabOptions { pod_mtu, topology, ..options.clone() }
    }
}

/// Where the programs are that a path may need.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `weft` binary.
    pub weft: PathBuf,
    /// Further flags of its daemons.
    pub weft_flags: Vec<String>,
    /// The `weft-bench` binary, for its forwarders.
    pub bench: PathBuf,
}

impl Programs {
    /// This program, and the `weft` given or the one beside this program.
    pub fn find(weft: Option<&Path>) -> Result<Programs> {
        let bench = std::env::current_exe().context("Cannot find this program's own path")?;
        Ok(Programs { weft: weft_binary(weft)?, weft_flags: Vec::new(), bench })
    }

    /// Where a program of others is.
    pub fn locate(&self, name: &str) -> Result<PathBuf> {
        program::find(name, self)
    }
}

/// Makes a fresh lab, sets the path up in it, lets `measure` do what it likes, takes both down, and
/// checks that neither left anything behind.
pub fn in_fresh_lab<T>(
    kind: PathKind,
    options: &LabOptions,
    programs: &Programs,
    measure: impl FnOnce(&Lab, &mut RunningPath) -> Result<T>,
) -> Result<T> {
    let lab = Lab::new(kind.lab_options(options))?;
    let mut path = RunningPath::start(&lab, kind, programs)?;
    let measured = measure(&lab, &mut path)?;
    path.check_running()?;
    path.stop(&lab)?;
    lab.close()?;
    let rest = left_behind();
    ensure!(rest.is_empty(), "Left behind: {}", rest.join(", "));
    Ok(measured)
}

/// A path that carries packets at the moment. Dropping it ends its programs.
pub struct RunningPath {
    kind: PathKind,
    forwarders: Vec<Process>,
    nodes: Vec<WeftNode>,
    tunnels: Vec<Tunnel>,
}

impl RunningPath {
    /// Sets the path up between the lab's hosts and waits until packets cross it.
    pub fn start(lab: &Lab, kind: PathKind, programs: &Programs) -> Result<RunningPath> {
        let mut path = RunningPath::of(kind);
        match kind {
            PathKind::Bare | PathKind::HostGw => route_through_hosts(lab)?,
            PathKind::Vxlan => vxlan::set_up(lab)?,
            PathKind::PerPacket | PathKind::TokioUring => {
                for side in Side::BOTH {
                    let other = side.other();
                    let peer = peer(&other.subnet(), other.underlay_address());
                    path.start_forwarder(lab, side, programs, &[own(&side.subnet()), peer])?;
                }
            }
            PathKind::Weft | PathKind::WeftEpoll | PathKind::Weft2 => {
                path.start_weft(lab, Weft::new(&programs.weft), programs)?;
            }
            PathKind::WeftSealed => path.start_weft_with(lab, programs, SEALED)?,
            PathKind::WeftHostGw => path.start_weft_with(lab, programs, HOST_GW)?,
            PathKind::WeftVxlan => path.start_weft_with(lab, programs, VXLAN)?,
            PathKind::Wireguard => path.start_wireguard(lab, programs, Flavour::Kernel)?,
            PathKind::WireguardGo => path.start_wireguard(lab, programs, Flavour::Go)?,
            PathKind::BoringtunCli => path.start_wireguard(lab, programs, Flavour::Boringtun)?,
        }
        path.wait_for_traffic(lab, Side::Two.pod_address())?;
        Ok(path)
    }

    fn of(kind: PathKind) -> RunningPath {
        let (forwarders, nodes, tunnels) = (Vec::new(), Vec::new(), Vec::new());
        RunningPath { kind, forwarders, nodes, tunnels }
    }

    /// With another `Backend` than the usual one.
    fn start_weft_with(&mut self, lab: &Lab, programs: &Programs, backend: &str) -> Result<()> {
        self.start_weft(lab, Weft::with_backend(&programs.weft, backend), programs)
    }

    fn start_weft(&mut self, lab: &Lab, mut weft: Weft, programs: &Programs) -> Result<()> {
        weft.flags = self.weft_flags(programs);
        for side in Side::BOTH {
            self.nodes.push(weft.start(lab, side)?);
        }
        Ok(())
    }

    /// The flags of the kind's daemons, and those that were asked for.
    fn weft_flags(&self, programs: &Programs) -> Vec<String> {
        let flags: &[&str] = match self.kind {
            PathKind::WeftEpoll => &["--engine", "epoll"],
            PathKind::Weft2 => &["--workers", "2"],
            _ => &[],
        };
        let flags = flags.iter().map(|&flag| flag.to_owned());
        flags.chain(programs.weft_flags.iter().cloned()).collect()
    }

    /// Starts the comparator that the kind names on one host, with these subnets: its own and its
    /// peers', as [`own`] and [`peer`] write them.
    fn start_forwarder(
        &mut self,
        lab: &Lab,
        side: Side,
        programs: &Programs,
        subnets: &[String],
    ) -> Result<()> {
        let bench = programs.bench.to_str().context("The path of weft-bench is not UTF-8")?;
        let command = if self.kind == PathKind::TokioUring { "per-await" } else { "per-packet" };
        let local = side.underlay_address().to_string();
        let mtu = lab.options().underlay_mtu.to_string();
        let mut arguments = vec![bench, command, "--local", &local, "--underlay-mtu", &mtu];
        arguments.extend(subnets.iter().map(String::as_str));
        let mut process = lab.host(side).spawn(&arguments)?;
        process.wait_for_output("ready", START_LIMIT)?;
        self.forwarders.push(process);
        Ok(())
    }

    fn start_wireguard(&mut self, lab: &Lab, programs: &Programs, flavour: Flavour) -> Result<()> {
        for side in Side::BOTH {
            let (tunnel, process) = Tunnel::make(lab, side, flavour, programs)?;
            self.tunnels.push(tunnel);
            self.forwarders.extend(process);
        }
        wireguard::connect(lab, &self.tunnels)
    }

    /// What the workers of both daemons have done so far; `None` if the path has no daemons, or
    /// they do not count it.
    pub fn work(&self, lab: &Lab) -> Result<Option<Work>> {
        let mut sum = Work::default();
        for (node, side) in self.nodes.iter().zip(Side::BOTH) {
            let Some(work) = node.work(lab.host(side))? else { return Ok(None) };
            sum.calls += work.calls;
            sum.segments += work.segments;
        }
        Ok((!self.nodes.is_empty()).then_some(sum))
    }

    /// The daemons, if the path is weft's: of host 1 and of host 2.
    pub fn nodes(&self) -> &[WeftNode] {
        &self.nodes
    }

    /// An error if one of the path's programs has ended.
    pub fn check_running(&mut self) -> Result<()> {
        let nodes = self.nodes.iter_mut().map(WeftNode::process_mut);
        nodes.chain(&mut self.forwarders).try_for_each(Process::check_running)
    }

    /// The path's programs; none if the kernel does the work alone.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.nodes.iter().map(WeftNode::process).chain(&self.forwarders)
    }

    /// Memory of the path's largest program in MiB; `None` if the kernel does the work alone.
    pub fn memory_mib(&self) -> Result<Option<f64>> {
        let memory = self.processes().map(|process| Memory::read(process.id()));
        let totals = memory.map(|read| read.map(|memory| memory.total_mib()));
        let totals: Vec<f64> = totals.collect::<Result<_>>()?;
        Ok(totals.into_iter().reduce(f64::max))
    }

    /// Takes the path down and checks that the hosts are as they were before it: no program of its
    /// own runs on, and no device or route of its own is left.
    pub fn stop(mut self, lab: &Lab) -> Result<()> {
        let nodes = self.nodes.iter_mut().map(WeftNode::process_mut);
        for process in nodes.chain(&mut self.forwarders) {
            process.stop()?;
        }
        match self.kind {
            // The kernel goes on without the daemons.
            PathKind::Bare | PathKind::HostGw | PathKind::WeftHostGw => remove_routes(lab)?,
            PathKind::Vxlan | PathKind::WeftVxlan => vxlan::remove(lab)?,
            PathKind::Wireguard => wireguard::remove(lab, &self.tunnels)?,
            PathKind::TokioUring => wait_for_device_to_go(lab)?,
            // What keeps packets from leaving in clear stays until it is told to go.
            PathKind::WeftSealed => {
                for (node, side) in self.nodes.iter().zip(Side::BOTH) {
                    node.uninstall(lab.host(side))?;
                }
            }
            // The device of a program goes with it.
            _ => {}
        }
        Side::BOTH.into_iter().try_for_each(|side| check_clean(lab, side))
    }

    fn wait_for_traffic(&mut self, lab: &Lab, pod: Ipv4Addr) -> Result<()> {
        let check = || self.check_running();
        let waited = lab.wait_for_reply(Side::One, pod.into(), START_LIMIT, check);
        waited.with_context(|| self.complaints())
    }

    /// What the path's programs have printed, for the message about a failure.
    fn complaints(&self) -> String {
        let complaints: Vec<String> = self.processes().map(Process::complaint).collect();
        format!("The {} path does not come up. {}", self.kind.name(), complaints.join("\n"))
    }
}

fn route_through_hosts(lab: &Lab) -> Result<()> {
    for side in Side::BOTH {
        let (gateway, device) = (side.other().underlay_address(), side.underlay_device());
        let (subnet, gateway) = (side.other().subnet(), gateway.to_string());
        let (own, mut arguments) = (side.pod_address().to_string(), vec!["route", "add", &subnet]);
        arguments.extend(["via", &gateway, "dev", device]);
        if lab.options().topology == Topology::NoPods {
            // Else a server would answer from the host's other address.
            arguments.extend(["src", &own]);
        }
        lab.host(side).ip(&arguments)?;
    }
    Ok(())
}

fn remove_routes(lab: &Lab) -> Result<()> {
    Side::BOTH.into_iter().try_for_each(|side| {
        lab.host(side).ip(&["route", "delete", &side.other().subnet()]).map(drop)
    })
}

/// The kernel ends what a killed program had in its ring a moment after the program is gone, and
/// until then the device stays.
fn wait_for_device_to_go(lab: &Lab) -> Result<()> {
    Side::BOTH.into_iter().try_for_each(|side| {
        let is_gone = || Ok((!lab.host(side).has_device("flannel0")?).then_some(()));
        wait_until("the end of flannel0", STOP_LIMIT, is_gone)
    })
}

/// How a forwarder is told of its own subnet.
fn own(subnet: &str) -> String {
    format!("--own={subnet}")
}

/// How a forwarder is told of a peer.
fn peer(subnet: &str, address: Ipv4Addr) -> String {
    format!("--peer={subnet}={address}")
}

/// An error if a host still has a device or a route of a path, or if a program runs in it.
fn check_clean(lab: &Lab, side: Side) -> Result<()> {
    let host = lab.host(side);
    let known = ["lo", side.underlay_device(), side.pod_link(), lab.gateway_device(side)];
    let devices = host.devices()?;
    let strange: Vec<&String> =
        devices.iter().filter(|device| !known.contains(&device.as_str())).collect();
    ensure!(strange.is_empty(), "Left behind on host {}: devices {strange:?}", side.number());
    let routes = host.ip(&["route", "show", "root", NETWORK])?;
    let own = side.subnet();
    let strange: Vec<&str> = routes.lines().filter(|route| !route.starts_with(&own)).collect();
    ensure!(strange.is_empty(), "Left behind on host {}: routes {strange:?}", side.number());
    let processes = host.processes();
    ensure!(processes.is_empty(), "Left behind on host {}: processes {processes:?}", side.number());
    Ok(())
}
