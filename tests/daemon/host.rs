//! Hosts made of network namespaces, and a daemon on each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accounting::accounting_gap;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// Longest wait for anything that a daemon does by itself.
const PATIENCE: Duration = Duration::from_secs(30);

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// False, said aloud, if namespaces cannot be made here.
pub(crate) fn can_run() -> bool {
    let works = Command::new("ip").args(["netns", "list"]).output().is_ok()
        && Path::new("/dev/net/tun").exists()
        && fs::metadata("/proc/self")
            .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !works {
        println!("SKIPPED: needs root, ip and /dev/net/tun");
    }
    works
}

/// One link: `u1` on the left host and `u2` on the right one, 10.168.0.2/24 and 10.168.0.3/24, each
/// with a pod address on a device of its own.
pub(crate) struct Pair {
    pub(crate) left: Host,
    pub(crate) right: Host,
}

impl Pair {
    pub(crate) fn new(leases: &Leases) -> Self {
        let (left, right) = (Host::bare(leases, 1), Host::bare(leases, 2));
        ip(&["link", "add", "u1", "netns", &left.namespace, "type", "veth", "peer", "name", "u2"]
            .into_iter()
            .chain(["netns", right.namespace.as_str()])
            .collect::<Vec<_>>());
        for host in [&left, &right] {
            host.configure();
        }
        Self { left, right }
    }
}

/// A bridge that hosts are plugged into, 10.168.0.1/24 itself.
pub(crate) struct Switch {
    pub(crate) namespace: String,
}

impl Switch {
    pub(crate) fn new() -> Self {
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("weft-switch-{}-{unique}", std::process::id());
        ip(&["netns", "add", &namespace]);
        for command in [
            &["link", "set", "lo", "up"][..],
            &["link", "add", "b0", "type", "bridge"],
            &["address", "add", "10.168.0.1/24", "dev", "b0"],
            &["link", "set", "b0", "up"],
        ] {
            ip(&[&["-n", &namespace], command].concat());
        }
        Self { namespace }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

/// A lease directory with a config, or the flags of another source. It stays as long as a host uses it.
#[derive(Clone)]
pub(crate) struct Leases(Arc<tempfile::TempDir>, Vec<String>);

impl Leases {
    pub(crate) fn new(config: &str) -> Self {
        let leases = Self::empty();
        leases.write_config(config);
        leases
    }

    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flag = format!("--lease-dir={}", directory.path().display());
        Self(Arc::new(directory), vec![flag])
    }

    /// Leases that are somewhere else.
    pub(crate) fn behind(flags: &[&str]) -> Self {
        Self(Self::empty().0, flags.iter().map(|flag| (*flag).to_owned()).collect())
    }

    pub(crate) fn write_config(&self, config: &str) {
        fs::write(self.path().join("config"), config).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a lease, complete from its first moment.
    pub(crate) fn put(&self, name: &str, value: &str) {
        let directory = self.path().join("subnets");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(".new"), value).unwrap();
        fs::rename(directory.join(".new"), directory.join(name)).unwrap();
    }

    /// Name and value of every lease.
    pub(crate) fn all(&self) -> Vec<(String, Value)> {
        let directory = fs::read_dir(self.path().join("subnets"));
        let mut all: Vec<_> = directory
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .filter(|(name, _)| !name.starts_with('.'))
            .map(|(name, path)| (name, serde_json::from_slice(&fs::read(path).unwrap()).unwrap()))
            .collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

/// A network namespace, removed with everything in it when this is dropped.
pub(crate) struct Host {
    pub(crate) namespace: String,
    number: u8,
    leases: Leases,
    files: tempfile::TempDir,
}

impl Host {
    /// A host of its own, with an underlay device that leads nowhere.
    pub(crate) fn alone(leases: &Leases) -> Self {
        let host = Self::bare(leases, 1);
        host.run(&["ip", "link", "add", "u1", "type", "veth", "peer", "name", "u1x"]);
        host.run(&["ip", "link", "set", "u1x", "up"]);
        host.configure();
        host
    }

    /// A host at a switch, with the address 10.168.0.`number + 1`.
    pub(crate) fn at(switch: &Switch, leases: &Leases, number: u8) -> Self {
        let host = Self::bare(leases, number);
        let (near, far) = (format!("u{number}"), format!("p{number}"));
        ip(&["link", "add", &near, "netns", &host.namespace, "type", "veth", "peer", "name", &far]
            .into_iter()
            .chain(["netns", switch.namespace.as_str()])
            .collect::<Vec<_>>());
        ip(&["-n", &switch.namespace, "link", "set", &far, "master", "b0", "up"]);
        host.configure();
        host
    }

    fn bare(leases: &Leases, number: u8) -> Self {
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("weft-daemon-{}-{unique}", std::process::id());
        ip(&["netns", "add", &namespace]);
        let (leases, files) = (leases.clone(), tempfile::tempdir().unwrap());
        let host = Self { namespace, number, leases, files };
        host.want_subnet(&format!("10.244.{number}.1/24"));
        host
    }

    fn configure(&self) {
        let (device, number) = (format!("u{}", self.number), self.number);
        let (outer, pod) = (format!("10.168.0.{}/24", number + 1), format!("10.244.{number}.1/24"));
        for command in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &outer, "dev", &device],
            &["link", "set", &device, "up"],
            &["route", "add", "default", "via", "10.168.0.1", "dev", &device],
            &["link", "add", "c1", "type", "veth", "peer", "name", "c1x"],
            &["link", "set", "c1x", "up"],
            &["address", "add", &pod, "dev", "c1"],
            &["link", "set", "c1", "up"],
        ] {
            self.run(&[&["ip"], command].concat());
        }
    }

    /// A subnet file of an earlier run makes the daemon ask for the same subnet.
    fn want_subnet(&self, subnet: &str) {
        let text = format!("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={subnet}\n");
        fs::write(self.subnet_file(), text).unwrap();
    }

    /// The device to the other hosts.
    pub(crate) fn underlay(&self) -> String {
        format!("u{}", self.number)
    }

    /// The address of its pod.
    pub(crate) fn pod(&self) -> std::net::IpAddr {
        [10, 244, self.number, 1].into()
    }

    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.files.path().join("subnet.env")
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    /// A command within the namespace.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(words);
        command
    }

    /// The output of a command within the namespace that must succeed.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts a command within the namespace that runs beside.
    pub(crate) fn beside(&self, words: &[&str]) -> Beside {
        Beside(self.command(words).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Forwards IPv4 from now on.
    pub(crate) fn forward(&self) {
        self.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    }

    /// The arguments of a daemon with everything of its own in this host's directory.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let subnet_file = self.subnet_file();
        let places = [
            ("--subnet-file", subnet_file.to_str().unwrap()),
            ("--admin-socket", &self.file("weft.sock")),
            ("--state-dir", &self.file("state")),
            ("--healthz-ip", "127.0.0.1"),
            ("--healthz-port", "8080"),
        ];
        let places = places.map(|(flag, value)| format!("{flag}={value}"));
        self.leases.1.iter().cloned().chain(places).collect()
    }

    pub(crate) fn daemon_command(&self, more: &[&str]) -> Command {
        let mut command = self.command(&[WEFT, "daemon"]);
        command.args(self.arguments()).args(more);
        command
    }

    /// Starts a daemon and does not wait for it.
    pub(crate) fn spawn(&self, more: &[&str]) -> Daemon<'_> {
        self.spawn_by(&[], more)
    }

    /// As [`Host::spawn`], started by a command that becomes the daemon.
    pub(crate) fn spawn_by(&self, starter: &[&str], more: &[&str]) -> Daemon<'_> {
        let log = self.file("log");
        let errors = fs::File::create(&log).unwrap();
        let mut command = self.command(&[starter, &[WEFT, "daemon"]].concat());
        command.args(self.arguments()).args(more).stderr(errors).stdout(Stdio::null());
        Daemon { host: self, child: command.spawn().unwrap(), log }
    }

    /// Starts a daemon and waits until it is ready.
    pub(crate) fn start(&self, more: &[&str]) -> Daemon<'_> {
        let mut daemon = self.spawn(more);
        daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
        daemon
    }

    /// The end of a daemon that cannot start: its exit code and what it said.
    pub(crate) fn refused(&self, more: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(&["timeout", "20", WEFT, "daemon"]);
        let output = command.args(self.arguments()).args(more).output().unwrap();
        (output.status.code(), text(&output.stderr))
    }

    pub(crate) fn has_device(&self) -> bool {
        self.command(&["ip", "link", "show", "flannel0"]).output().unwrap().status.success()
    }

    /// A line-free answer of an HTTP server in the namespace: status line and body.
    pub(crate) fn http(&self, path: &str) -> (String, String) {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8080 && \
             printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3"
        );
        let output = self.command(&["bash", "-c", &script]).output().unwrap();
        let answer = text(&output.stdout);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

/// Something that runs beside and says little, killed when this is dropped.
pub(crate) struct Beside(Child);

impl Beside {
    /// Waits until it says something.
    pub(crate) fn wait_for_word(&mut self) {
        let mut word = [0; 1];
        let output = self.0.stdout.as_mut().unwrap();
        std::io::Read::read_exact(output, &mut word).unwrap();
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon, killed when this is dropped.
pub(crate) struct Daemon<'a> {
    host: &'a Host,
    child: Child,
    log: String,
}

impl Daemon<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer of `weft <question> --json`, null if there is none.
    pub(crate) fn ask(&self, question: &str) -> Value {
        serde_json::from_slice(&self.question(question, &["--json"]).stdout).unwrap_or_default()
    }

    /// Waits until every segment that came in went out or was dropped for a named reason.
    pub(crate) fn check_accounting(&mut self) {
        self.wait_until("accounted for", |daemon| {
            accounting_gap(&daemon.ask("status"), &daemon.ask("drops")).is_none()
        });
    }

    /// What `weft <question>` prints for people.
    pub(crate) fn show(&self, question: &str) -> String {
        text(&self.question(question, &[]).stdout)
    }

    /// What `weft <question>` says when it fails.
    pub(crate) fn show_failure(&self, question: &str) -> String {
        let output = self.question(question, &[]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    }

    fn question(&self, question: &str, more: &[&str]) -> Output {
        let socket = self.host.file("weft.sock");
        let words = [&[WEFT, question, "--admin-socket", &socket], more].concat();
        self.host.command(&words).output().unwrap()
    }

    /// Everything that the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            let running = self.child.try_wait().unwrap().is_none();
            assert!(running && Instant::now() < end, "not {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end: the exit code (none after a signal) and how long it took.
    pub(crate) fn end(mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), start.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the daemon does not end: {}", self.log());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
