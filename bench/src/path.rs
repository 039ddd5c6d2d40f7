//! Ways to carry packets between the two hosts of a lab, set up and taken down again.

mod vxlan;
mod weft;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

pub use weft::{EngineChoice, Weft, WeftNode, Work, weft_binary};

use crate::lab::{Lab, LabOptions, Memory, NETWORK, Process, Side, left_behind};

/// How long a path may take until the first packet crosses it.
const START_LIMIT: Duration = Duration::from_secs(15);

/// One way to carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Plain routes through the other host: what the kernel can do at best.
    HostGw,
    /// Kernel VXLAN, set up as flanneld does it.
    Vxlan,
    /// Two weft daemons with a shared lease directory.
    Weft,
    /// The same with the `epoll` engine.
    WeftEpoll,
    /// The comparator that stands for flannel's UDP mode.
    PerPacket,
}

impl PathKind {
    /// Those that are measured unless others are asked for, in the order of the report.
    pub const USUAL: [PathKind; 4] =
        [PathKind::HostGw, PathKind::Vxlan, PathKind::Weft, PathKind::PerPacket];

    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            PathKind::HostGw => "host-gw",
            PathKind::Vxlan => "vxlan",
            PathKind::Weft => "weft",
            PathKind::WeftEpoll => "weft-epoll",
            PathKind::PerPacket => "per-packet",
        }
    }

    /// The MTU that the path leaves of the underlay's, for IPv4 outside.
    pub fn mtu(self, underlay_mtu: u32) -> u32 {
        underlay_mtu
            - match self {
                PathKind::HostGw => 0,
                PathKind::Vxlan => 50,
                PathKind::Weft | PathKind::WeftEpoll | PathKind::PerPacket => 28,
            }
    }
}

/// Where the programs are that a path may need.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `weft` binary.
    pub weft: PathBuf,
    /// Further flags of its daemons.
    pub weft_flags: Vec<String>,
    /// The `weft-bench` binary, for its `per-packet` command.
    pub bench: PathBuf,
}

impl Programs {
    /// This program, and the `weft` given or the one beside this program.
    pub fn find(weft: Option<&Path>) -> Result<Programs> {
        let bench = std::env::current_exe().context("Cannot find this program's own path")?;
        Ok(Programs { weft: weft_binary(weft)?, weft_flags: Vec::new(), bench })
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
    let pod_mtu = kind.mtu(options.underlay_mtu);
    let lab = Lab::new(LabOptions { pod_mtu, ..options.clone() })?;
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
}

impl RunningPath {
    /// Sets the path up between the lab's hosts and waits until packets cross it.
    pub fn start(lab: &Lab, kind: PathKind, programs: &Programs) -> Result<RunningPath> {
        let mut path = RunningPath { kind, forwarders: Vec::new(), nodes: Vec::new() };
        match kind {
            PathKind::HostGw => route_through_hosts(lab)?,
            PathKind::Vxlan => vxlan::set_up(lab)?,
            PathKind::PerPacket => {
                for side in Side::BOTH {
                    path.forwarders.push(start_forwarder(lab, side, programs)?);
                }
            }
            PathKind::Weft => path.start_weft(lab, programs, EngineChoice::Auto)?,
            PathKind::WeftEpoll => path.start_weft(lab, programs, EngineChoice::Epoll)?,
        }
        path.wait_for_traffic(lab)?;
        Ok(path)
    }

    fn start_weft(&mut self, lab: &Lab, programs: &Programs, engine: EngineChoice) -> Result<()> {
        let mut weft = Weft::new(&programs.weft);
        weft.flags = [engine.flags(), programs.weft_flags.clone()].concat();
        for side in Side::BOTH {
            self.nodes.push(weft.start(lab, side)?);
        }
        Ok(())
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
            PathKind::HostGw => remove_routes(lab)?,
            PathKind::Vxlan => vxlan::remove(lab)?,
            PathKind::Weft | PathKind::WeftEpoll | PathKind::PerPacket => {}
        }
        Side::BOTH.into_iter().try_for_each(|side| check_clean(lab, side))
    }

    fn wait_for_traffic(&mut self, lab: &Lab) -> Result<()> {
        let target = Side::Two.pod_address().into();
        let check = || self.check_running();
        let waited = lab.wait_for_reply(Side::One, target, START_LIMIT, check);
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
        let subnet = side.other().subnet();
        let arguments = ["route", "add", &subnet, "via", &gateway.to_string(), "dev", device];
        lab.host(side).ip(&arguments)?;
    }
    Ok(())
}

fn remove_routes(lab: &Lab) -> Result<()> {
    Side::BOTH.into_iter().try_for_each(|side| {
        lab.host(side).ip(&["route", "delete", &side.other().subnet()]).map(drop)
    })
}

fn start_forwarder(lab: &Lab, side: Side, programs: &Programs) -> Result<Process> {
    let bench = programs.bench.to_str().context("The path of weft-bench is not UTF-8")?;
    let local = side.underlay_address().to_string();
    let peer = format!("{}={}", side.other().subnet(), side.other().underlay_address());
    let (own, mtu) = (side.subnet(), lab.options().underlay_mtu.to_string());
    #[rustfmt::skip]
    let arguments = [
        bench, "per-packet", "--local", &local, "--own", &own, "--peer", &peer,
        "--underlay-mtu", &mtu,
    ];
    let mut process = lab.host(side).spawn(&arguments)?;
    process.wait_for_output("ready", START_LIMIT)?;
    Ok(process)
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
