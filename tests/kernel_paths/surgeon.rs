//! Does to a worker of a running daemon what only defects do: from outside, as a debugger would, so that
//! the daemon needs nothing for it.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::host::Daemon;

/// `io_uring_enter`, on every architecture.
const ENTER: u64 = 426;

/// A worker has something to hand to the kernel long before, if there is traffic.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether that can be done here.
pub(crate) fn can_operate(daemon: &Daemon<'_>) -> bool {
    let can = cfg!(target_arch = "x86_64") && daemon.ask("status")["engine"]["name"] == "uring";
    if !can {
        println!("SKIPPED: changing a worker's registers needs x86-64 and the engine uring");
    }
    can
}

/// A worker that is stopped while it has packets to hand to the kernel. The thread that has made this has
/// to use it up, since the kernel knows tracers by their threads. Dropping it lets the worker go on.
pub(crate) struct Stopped {
    worker: Pid,
}

impl Stopped {
    /// Stops the first worker of a daemon through which packets flow.
    pub(crate) fn first_of(daemon: &Daemon<'_>) -> Self {
        let worker = thread_of(daemon, "weft-worker-0");
        ptrace::seize(worker, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        let stopped = Self { worker };
        ptrace::interrupt(worker).unwrap();
        stopped.wait();
        let end = Instant::now() + PATIENCE;
        while !stopped.has_packets() {
            assert!(Instant::now() < end, "no packets came by");
            ptrace::syscall(worker, None).unwrap();
            stopped.wait();
        }
        stopped
    }

    fn wait(&self) {
        let status = waitpid(self.worker, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(!matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)), "{status:?}");
    }

    /// It is about to hand sends or writes to the kernel, or has just done so.
    fn has_packets(&self) -> bool {
        let registers = ptrace::getregs(self.worker).unwrap();
        registers.orig_rax == ENTER && registers.rsi > 0
    }

    /// The kernel refuses what it is doing, so that it ends.
    pub(crate) fn fail(self) {
        let mut registers = ptrace::getregs(self.worker).unwrap();
        // No system call has this number, so what is in the other register stays the answer.
        registers.orig_rax = u64::MAX;
        registers.rax = i64::from(-(Errno::EBADF as i32)).cast_unsigned();
        ptrace::setregs(self.worker, registers).unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It is gone with its daemon, perhaps.
        let _ = ptrace::detach(self.worker, None);
    }
}

fn thread_of(daemon: &Daemon<'_>, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut threads = tasks.map(|task| task.unwrap().path());
    let found = threads
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name));
    let found = found.unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(found.file_name().unwrap().to_str().unwrap().parse().unwrap())
}
