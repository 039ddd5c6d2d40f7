//! The weft daemon on a host of the lab.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::SEALED;
use crate::lab::{Lab, NETWORK, NETWORK_V6, Namespace, Process, Side};

/// The engine of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The one that the daemon takes by itself.
    Auto,
    /// `io_uring`.
    Uring,
    /// `epoll`, with one system call for several packets.
    Epoll,
}

impl EngineChoice {
    /// What to tell the daemon.
    pub fn flags(self) -> Vec<String> {
        let name = match self {
            EngineChoice::Auto => return Vec::new(),
            EngineChoice::Uring => "uring",
            EngineChoice::Epoll => "epoll",
        };
        vec!["--engine".to_owned(), name.to_owned()]
    }
}

/// Which daemons a command runs.
#[derive(Args, Clone, Debug)]
pub struct DaemonArguments {
    /// The engine of the daemons
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto)]
    engine: EngineChoice,
    /// The weft binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    weft: Option<PathBuf>,
}

impl DaemonArguments {
    /// How the daemons are to be started.
    pub fn weft(&self) -> Result<Weft> {
        let mut weft = Weft::new(&weft_binary(self.weft.as_deref())?);
        weft.flags = self.engine.flags();
        Ok(weft)
    }
}

/// The `weft` binary: the one given, or the one beside this program. Absolute, since programs are
/// started in other namespaces.
pub fn weft_binary(given: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("Cannot find this program's own path")?;
    let weft = given.map_or_else(|| own.with_file_name("weft"), Path::to_owned);
    std::path::absolute(weft).context("Cannot find the weft binary's path")
}

/// How daemons are to be started. The same value starts both sides; tests change it in between.
#[derive(Clone, Debug)]
pub struct Weft {
    /// The binary.
    pub program: PathBuf,
    /// The network config that the shared lease directory gets, unless it has one already.
    pub config: String,
    /// Further flags of the daemon.
    pub flags: Vec<String>,
}

impl Weft {
    /// The daemon with flannel's UDP mode and nothing special.
    pub fn new(program: &Path) -> Weft {
        // As many source ports as any path here has workers; with one worker only one is used.
        Weft::with_backend(program, r#"{"Type":"udp","SourcePorts":2}"#)
    }

    /// The daemon with this `Backend` in the network config.
    pub fn with_backend(program: &Path, backend: &str) -> Weft {
        let config = format!(r#"{{"Network":"{NETWORK}","Backend":{backend}}}"#);
        Weft { program: program.to_owned(), config, flags: Vec::new() }
    }

    /// What the daemons send is to be sealed.
    pub fn seal(&mut self) {
        self.config = Weft::with_backend(&self.program, SEALED).config;
    }

    /// Starts the daemon on one host and returns at once, without waiting for it to be ready.
    ///
    /// Which subnet a host gets is fixed by writing, before the first start, the `subnet.env` of an
    /// imaginary earlier run: like flanneld, weft takes its previous subnet again if nobody has it.
    pub fn start(&self, lab: &Lab, side: Side) -> Result<WeftNode> {
        let files = Files::of(lab, side);
        files.prepare(lab, side, &format!("{}/24", side.gateway_address()), &self.config)?;
        self.start_in(lab, side, files)
    }

    /// Starts it with a lease directory of its own, in which others have these leases, name and
    /// value, and with this subnet, as `subnet.env` has it.
    pub fn start_knowing(
        &self,
        lab: &Lab,
        side: Side,
        subnet: &str,
        others: &[(String, String)],
    ) -> Result<WeftNode> {
        let mut files = Files::of(lab, side);
        files.leases.set_extension(side.number().to_string());
        let subnets = files.leases.join("subnets");
        std::fs::create_dir_all(&subnets).context("Cannot make a lease directory")?;
        for (name, value) in others {
            write_new(&subnets.join(name), value)?;
        }
        files.prepare(lab, side, subnet, &self.config)?;
        self.start_in(lab, side, files)
    }

    fn start_in(&self, lab: &Lab, side: Side, files: Files) -> Result<WeftNode> {
        let [leases, socket, state, subnet] =
            [&files.leases, &files.socket, &files.state, &files.subnet].map(|path| text(path));
        let program = text(&self.program);
        #[rustfmt::skip]
        let mut arguments = vec![
            &*program, "daemon", "--lease-dir", &leases, "--iface", side.underlay_device(),
            "--admin-socket", &socket, "--state-dir", &state, "--subnet-file", &subnet,
            "--healthz-port", "0",
            // The kernel's paths have no netfilter rules beside it either.
            "--iptables-forward-rules=false",
        ];
        arguments.extend(self.flags.iter().map(String::as_str));
        ensure!(self.program.is_file(), "There is no weft binary at {program}");
        let process = lab.host(side).spawn(&arguments)?;
        Ok(WeftNode { process, program: self.program.clone(), files })
    }
}

/// What workers have done: the price and what was had for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// System calls.
    pub calls: u64,
    /// Segments handed on, in both directions.
    pub segments: u64,
}

impl Work {
    /// System calls for each segment since `earlier`; `None` if there was no segment.
    pub fn calls_per_segment(self, earlier: Work) -> Option<f64> {
        let segments = self.segments.checked_sub(earlier.segments).filter(|count| *count > 0)?;
        Some(self.calls.saturating_sub(earlier.calls) as f64 / segments as f64)
    }
}

/// A daemon on one host. Dropping it ends the daemon.
pub struct WeftNode {
    process: Process,
    program: PathBuf,
    files: Files,
}

impl WeftNode {
    /// The daemon's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The daemon's process, to signal or to stop it.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The socket that `weft status` and its like talk to.
    pub fn admin_socket(&self) -> &Path {
        &self.files.socket
    }

    /// The daemon's state directory.
    pub fn state_directory(&self) -> &Path {
        &self.files.state
    }

    /// The daemon's `subnet.env`.
    pub fn subnet_file(&self) -> &Path {
        &self.files.subnet
    }

    /// The lease directory that both daemons share.
    pub fn lease_directory(&self) -> &Path {
        &self.files.leases
    }

    /// What `weft status` says.
    pub fn status(&self, namespace: &Namespace) -> Result<Value> {
        let answer = self.query(namespace, &["status", "--json"])?;
        serde_json::from_str(&answer).context("Cannot read the daemon's status")
    }

    /// The engine that it says it runs.
    pub fn engine(&self, namespace: &Namespace) -> Result<String> {
        let name = self.status(namespace)?["engine"]["name"].take();
        Ok(name.as_str().context("The daemon names no engine")?.to_owned())
    }

    /// What its worker has done so far; `None` from a daemon that does not count its system calls.
    pub fn work(&self, namespace: &Namespace) -> Result<Option<Work>> {
        let traffic = self.status(namespace)?["traffic"].take();
        let number = |part: &str, name: &str| traffic[part][name].as_u64();
        Ok(number("other", "syscalls").map(|calls| Work {
            calls,
            segments: ["outbound", "inbound"]
                .map(|part| number(part, "segments_out").unwrap_or_default())
                .iter()
                .sum(),
        }))
    }

    /// Removes what the stopped daemon left on its host.
    pub fn uninstall(&self, host: &Namespace) -> Result<()> {
        self.query(host, &["uninstall"]).map(drop)
    }

    /// Runs a subcommand such as `status` or `drops --json` against this daemon.
    pub fn query(&self, namespace: &Namespace, arguments: &[&str]) -> Result<String> {
        let (program, socket) = (text(&self.program), text(&self.files.socket));
        let mut command = vec![&*program];
        command.extend(arguments);
        command.extend(["--admin-socket", &socket]);
        namespace.run(&command)
    }
}

/// Where the files of one daemon are.
struct Files {
    leases: PathBuf,
    socket: PathBuf,
    state: PathBuf,
    subnet: PathBuf,
}

impl Files {
    fn of(lab: &Lab, side: Side) -> Files {
        let own = lab.directory().join(format!("host{}", side.number()));
        Files {
            leases: lab.directory().join("leases"),
            socket: own.join("weft.sock"),
            state: own.join("state"),
            subnet: own.join("subnet.env"),
        }
    }

    /// Makes what must exist before the first start, and leaves alone what exists already.
    fn prepare(&self, lab: &Lab, side: Side, subnet: &str, config: &str) -> Result<()> {
        let own = lab.directory().join(format!("host{}", side.number()));
        for directory in [&own, &self.leases] {
            std::fs::create_dir_all(directory).context("Cannot make a directory for weft")?;
        }
        write_new(&self.leases.join("config"), config)?;
        let ipv6 = if lab.options().ipv6 {
            let gateway = side.gateway_address_v6();
            format!("FLANNEL_IPV6_NETWORK={NETWORK_V6}\nFLANNEL_IPV6_SUBNET={gateway}/64\n")
        } else {
            String::new()
        };
        let previous = format!(
            "FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={subnet}\n{ipv6}FLANNEL_MTU=1472\n\
             FLANNEL_IPMASQ=false\n"
        );
        write_new(&self.subnet, &previous)
    }
}

fn write_new(path: &Path, content: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    std::fs::write(path, content).with_context(|| format!("Cannot write {}", path.display()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
