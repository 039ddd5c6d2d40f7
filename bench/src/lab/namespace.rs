//! One network namespace with a name, and programs run inside it.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cleanup;
use super::process::Process;

/// How long a program that only sets something up or asks for something may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// A network namespace of ours, deleted when dropped, together with whatever still runs in it.
pub struct Namespace {
    name: String,
    directory: PathBuf,
    inode: u64,
    programs: AtomicU32,
}

impl Namespace {
    /// Makes the namespace with its loopback device up. Output of programs goes to `directory`.
    pub(super) fn create(name: &str, directory: &Path) -> Result<Namespace> {
        {
            let mut owned = cleanup::owned();
            let output = Command::new("ip").args(["netns", "add", name]).output();
            let output = output.context("Cannot run ip (is iproute2 installed?)")?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "Cannot make a namespace (root?): {}",
                complaint.trim()
            );
            owned.namespaces.insert(name.to_owned());
        }
        let inode = std::fs::metadata(format!("/run/netns/{name}")).map_or(0, |found| found.ino());
        let namespace = Namespace {
            name: name.to_owned(),
            directory: directory.to_owned(),
            inode,
            programs: AtomicU32::new(0),
        };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Inode number that identifies the namespace, also after its name is gone.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Starts a program inside.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Process> {
        let program = arguments.first().context("No program was named")?;
        let mut command = Command::new("ip");
        // `ip netns exec` replaces itself by the program, so the child's number is the program's.
        command.args(["netns", "exec", &self.name]).args(arguments);
        self.start(command, program)
    }

    /// Runs a program inside, for at most a minute, and gives its standard output. A status other
    /// than 0 is an error that repeats what the program complained about.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_within(RUN_LIMIT, arguments)
    }

    /// As [`Namespace::run`], with another limit.
    pub fn run_within(&self, limit: Duration, arguments: &[&str]) -> Result<String> {
        finish(self.spawn(arguments)?, limit, arguments)
    }

    /// Runs `ip` on this namespace (without entering it, which is quicker).
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        self.tool("ip", arguments)
    }

    /// Runs `bridge` on this namespace.
    pub fn bridge(&self, arguments: &[&str]) -> Result<String> {
        self.tool("bridge", arguments)
    }

    /// Runs `tc` on this namespace.
    pub fn tc(&self, arguments: &[&str]) -> Result<String> {
        self.tool("tc", arguments)
    }

    /// Sets a sysctl, named by its path below `/proc/sys` (device names may contain dots).
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let script = "echo \"$1\" > \"/proc/sys/$0\"";
        self.run(&["sh", "-c", script, path, value]).map(drop)
    }

    /// True if a device of that name exists.
    pub fn has_device(&self, device: &str) -> Result<bool> {
        Ok(self.devices()?.iter().any(|found| found == device))
    }

    /// The names of all devices.
    pub fn devices(&self) -> Result<Vec<String>> {
        let text = self.ip(&["-json", "link", "show"])?;
        let links: serde_json::Value =
            serde_json::from_str(&text).context("Cannot read ip's JSON")?;
        let names = links.as_array().into_iter().flatten();
        Ok(names.filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect())
    }

    /// The processes that are inside at the moment.
    pub fn processes(&self) -> Vec<u32> {
        cleanup::processes_in(&self.name)
    }

    /// Opens a UDP socket inside, at any free port. It stays inside, whoever uses it.
    pub fn udp_socket(&self, address: IpAddr) -> Result<UdpSocket> {
        self.udp_socket_at((address, 0).into())
    }

    /// The same at a port of the caller's choice.
    pub fn udp_socket_at(&self, address: SocketAddr) -> Result<UdpSocket> {
        let inside = File::open(format!("/run/netns/{}", self.name));
        let inside = inside.context("Cannot open a namespace")?;
        let open = || {
            move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))
                .context("Cannot enter a namespace")?;
            UdpSocket::bind(address).with_context(|| format!("Cannot bind {address}"))
        };
        // Being inside is a property of a thread, so this one must not be used for anything else.
        std::thread::scope(|scope| scope.spawn(open).join())
            .map_err(|_| anyhow!("The thread that opens a socket has panicked"))?
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(tool);
        command.args(["-netns", &self.name]).args(arguments);
        let mut shown = vec![tool];
        shown.extend(arguments);
        finish(self.start(command, tool)?, RUN_LIMIT, &shown)
    }

    fn start(&self, command: Command, program: &str) -> Result<Process> {
        let number = self.programs.fetch_add(1, Ordering::Relaxed);
        let base = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
        let stem = self.directory.join(format!("{}-{number}-{base}.out", self.name));
        Process::start(command, &base, &stem)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut owned = cleanup::owned();
        cleanup::remove_namespace(&self.name);
        owned.namespaces.remove(&self.name);
    }
}

fn finish(mut process: Process, limit: Duration, arguments: &[&str]) -> Result<String> {
    let status = process.wait(limit)?;
    if !status.success() {
        bail!("`{}` failed ({status}): {}", arguments.join(" "), process.complaint());
    }
    process.stdout()
}
