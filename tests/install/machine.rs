//! A machine with systemd, in namespaces of its own: `tests/install/boot` makes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host::Host;
use crate::repository;

/// Longest wait for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before the next look.
const STEP: Duration = Duration::from_millis(20);

/// Seconds that a command may take. The service's start has no end of its own.
const COMMAND_SECONDS: &str = "120";

/// Where the machine has the leases.
pub(crate) const LEASES: &str = "/etc/weft/leases";

/// Where the daemon's lines go on it, in place of a journal.
const LOG: &str = "/var/log/weft.log";

pub(crate) struct Machine {
    /// The process that waits for the machine's first one, which dies with it.
    keeper: Child,
    first: u32,
    cgroup: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Machine {
    /// Boots in the network namespace of `host`, with a directory of leases at [`LEASES`]. `None`, said
    /// aloud, where that cannot be done.
    pub(crate) fn boot(host: &Host, leases: &Path) -> Option<Self> {
        if !Path::new("/lib/systemd/systemd").exists() {
            println!("SKIPPED: a machine with systemd needs systemd, which is not installed");
            return None;
        }
        let Some(cgroup) = cgroup_for(&host.namespace) else {
            println!("SKIPPED: a machine with systemd needs a cgroup2 file system to write to");
            return None;
        };
        let scratch = tempfile::tempdir().unwrap();
        let keeper = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", host.namespace))
            .arg(repository().join("tests/install/boot"))
            .args([&cgroup, scratch.path(), leases, Path::new(LEASES)])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut machine = Self { keeper, first: 0, cgroup, _scratch: scratch };
        machine.first = machine.await_first();
        machine.wait_for("a systemd that answers", |machine| {
            (machine.text("systemctl is-active empty.target") == "active").then_some(())
        });
        machine.write(
            "/etc/systemd/system/weft.service.d/log.conf",
            &format!("[Service]\nStandardError=append:{LOG}\n"),
        );
        Some(machine)
    }

    fn await_first(&mut self) -> u32 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(first) = self.child_of_keeper() {
                return first;
            }
            let ended = self.keeper.try_wait().unwrap();
            assert_eq!(ended, None, "the machine has ended before its first process ran");
            assert!(Instant::now() < end, "there is not its first process");
            std::thread::sleep(STEP);
        }
    }

    fn child_of_keeper(&self) -> Option<u32> {
        let keeper = self.keeper.id();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        let child = children.split_whitespace().next()?.parse().ok()?;
        // Before, the child is the shell that prepares the machine.
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "systemd").then_some(child)
    }

    /// Waits for something, by asking again and again.
    pub(crate) fn wait_for<T>(&self, what: &str, find: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            assert!(Instant::now() < end, "there is not {what}: {}", self.log());
            std::thread::sleep(STEP);
        }
    }

    /// A command of the shell on the machine. One that takes too long fails.
    pub(crate) fn try_run(&self, line: &str) -> Output {
        let first = self.first.to_string();
        let mut command = Command::new("timeout");
        command.args([COMMAND_SECONDS, "nsenter"]);
        command.args(["--target", &first, "--mount", "--uts", "--ipc", "--net", "--pid"]);
        command.args(["--cgroup", "sh", "-c", line]);
        command.env("DEBIAN_FRONTEND", "noninteractive").output().unwrap()
    }

    /// The output of a command that must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {complaint} {}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says, without white space around it, however it ends.
    pub(crate) fn text(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.try_run(line).stdout).trim().to_owned()
    }

    /// A file of the machine as it is seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let place = self.path(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }

    /// Program and unit, without the package.
    pub(crate) fn install_unpacked(&self) {
        let unit = fs::read_to_string(repository().join("scripts/package.d/weft.service")).unwrap();
        self.write("/lib/systemd/system/weft.service", &unit);
        fs::copy(env!("CARGO_BIN_EXE_weft"), self.path("/usr/bin/weft")).unwrap();
        self.run("systemctl daemon-reload");
    }

    /// The options of the daemon's next start.
    pub(crate) fn set_options(&self, options: &str) {
        self.write("/etc/default/weft", &format!("WEFT_OPTIONS=\"{options}\"\n"));
    }

    /// The answer of `weft <question> --json`, null if there is none.
    pub(crate) fn ask(&self, question: &str) -> Value {
        serde_json::from_str(&self.text(&format!("weft {question} --json"))).unwrap_or_default()
    }

    /// A property of the service.
    pub(crate) fn property(&self, name: &str) -> String {
        self.text(&format!("systemctl show --value --property {name} weft"))
    }

    /// Everything that daemons have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path(LOG)).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let end = Instant::now() + PATIENCE;
        // Its processes need a moment to be gone.
        while self.cgroup.exists() && Instant::now() < end {
            remove_cgroup(&self.cgroup);
            std::thread::sleep(STEP);
        }
    }
}

/// A new cgroup, which is removed with the machine.
fn cgroup_for(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    let cgroup = Path::new(mount[1]).join(name);
    fs::create_dir(&cgroup).ok()?;
    Some(cgroup)
}

fn remove_cgroup(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
