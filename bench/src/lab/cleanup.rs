//! What this process has made on the machine, so that an interrupt can remove it.
//!
//! Values that own something (a namespace, a process, a directory) remove it when they are dropped,
//! which also covers a panic. A signal does not unwind, so the same things are listed here, and a
//! thread that waits for the signals removes them before it ends the process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process may take to end after SIGTERM before it gets SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Everything of ours that still exists.
#[derive(Default)]
pub(super) struct Owned {
    pub(super) processes: BTreeSet<u32>,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) groups: BTreeSet<PathBuf>,
}

static OWNED: Mutex<Owned> = Mutex::new(Owned {
    processes: BTreeSet::new(),
    namespaces: BTreeSet::new(),
    directories: BTreeSet::new(),
    groups: BTreeSet::new(),
});

/// The list, locked. Whoever makes or removes something holds the lock meanwhile, so that a signal
/// never finds a thing that is made but not yet listed.
pub(super) fn owned() -> MutexGuard<'static, Owned> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts, once a process, the thread that cleans up on SIGINT, SIGTERM and SIGHUP.
pub(super) fn install_signal_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new().name("lab-signals".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let number = runtime.block_on(wait_for_signal(&ready));
            if let Some(number) = number {
                eprintln!("lab: interrupted, cleaning up");
                // The guard is kept until the process is gone: nothing new can be made.
                let mut everything = owned();
                remove_all(&mut everything);
                std::process::exit(128 + number);
            }
        });
        if spawned.is_ok() {
            // An error means that the thread ended early: the lab then works without a handler.
            let _ = is_ready.recv();
        }
    });
}

/// The number of the first signal that arrives, or `None` when they cannot be caught.
async fn wait_for_signal(ready: &std::sync::mpsc::Sender<()>) -> Option<i32> {
    let mut interrupt = signal(SignalKind::interrupt()).ok()?;
    let mut terminate = signal(SignalKind::terminate()).ok()?;
    let mut hangup = signal(SignalKind::hangup()).ok()?;
    ready.send(()).ok()?;
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        _ = hangup.recv() => SignalKind::hangup(),
    };
    Some(kind.as_raw_value())
}

fn remove_all(everything: &mut Owned) {
    let processes: Vec<u32> = everything.processes.iter().copied().collect();
    end_processes(&processes);
    for name in std::mem::take(&mut everything.namespaces) {
        remove_namespace(&name);
    }
    for group in std::mem::take(&mut everything.groups) {
        let _ = std::fs::remove_dir(group);
    }
    for directory in std::mem::take(&mut everything.directories) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// SIGTERM to all, SIGKILL to those that are still there after [`GRACE`].
fn end_processes(processes: &[u32]) {
    processes.iter().for_each(|&process| send(process, Signal::TERM));
    let deadline = Instant::now() + GRACE;
    while processes.iter().any(|&process| is_running(process)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    processes.iter().filter(|&&process| is_running(process)).for_each(|&p| send(p, Signal::KILL));
}

/// Sends a signal to a process that we started and have not reaped, so its number is still its own.
pub(super) fn send(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // The only error that can happen is that it has ended already.
        let _ = kill_process(pid, signal);
    }
}

/// True while the process exists and is more than an entry that waits for its parent.
pub(super) fn is_running(process: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // The name is in brackets and may itself hold brackets: the state follows the last one.
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Ends whatever still runs in one of our namespaces and deletes it. Returns what was still there.
pub(super) fn remove_namespace(name: &str) -> Vec<u32> {
    let strays = processes_in(name);
    end_processes(&strays);
    let _ = quiet("ip").args(["netns", "del", name]).status();
    strays
}

/// The processes whose network namespace is the named one.
pub(super) fn processes_in(name: &str) -> Vec<u32> {
    let output = quiet("ip").args(["netns", "pids", name]).stdout(Stdio::piped()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Every process that is in the network namespace with this inode number.
pub(super) fn processes_with_network(inode: u64) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let inode_of = |path: &Path| std::fs::metadata(path).map(|found| found.ino()).ok();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| {
            inode_of(&PathBuf::from(format!("/proc/{process}/ns/net"))) == Some(inode)
        })
        .collect()
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
