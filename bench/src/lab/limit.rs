//! Limits on the processor time of programs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::cleanup;

/// The period of a quota, in microseconds: what container runtimes use.
const PERIOD_US: u32 = 100_000;

/// How programs can be limited to the time of one processor each.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Method {
    /// A group with `cpu.max` below this directory.
    GroupV2(PathBuf),
    /// A group with `cpu.cfs_quota_us` below this directory.
    GroupV1(PathBuf),
    /// One processor that a program may run on.
    Affinity,
}

/// Programs that may each use the time of one processor. Dropping it lifts the limit.
pub struct OneCoreEach {
    groups: Vec<Group>,
    masks: Vec<(Pid, CpuSet)>,
}

impl OneCoreEach {
    /// How this machine limits programs, in words.
    pub fn method() -> &'static str {
        match method() {
            Method::GroupV2(_) => "cgroup v2, cpu.max",
            Method::GroupV1(_) => "cgroup v1, cpu.cfs_quota_us",
            Method::Affinity => "affinity to one processor",
        }
    }

    /// Limits each of these processes.
    pub fn apply(processes: impl IntoIterator<Item = u32>) -> Result<OneCoreEach> {
        let mut limit = OneCoreEach { groups: Vec::new(), masks: Vec::new() };
        for (index, process) in processes.into_iter().enumerate() {
            match method() {
                Method::GroupV2(root) => {
                    let quota = format!("{PERIOD_US} {PERIOD_US}");
                    limit.groups.push(Group::create(&root, &[("cpu.max", &quota)], process)?);
                }
                Method::GroupV1(root) => {
                    let period = PERIOD_US.to_string();
                    let settings = [("cpu.cfs_period_us", &*period), ("cpu.cfs_quota_us", &period)];
                    limit.groups.push(Group::create(&root, &settings, process)?);
                }
                Method::Affinity => limit.pin(process, index)?,
            }
        }
        Ok(limit)
    }

    /// Lets all threads of a process run on one processor: the one at `index`, counted round.
    fn pin(&mut self, process: u32, index: usize) -> Result<()> {
        let directory = format!("/proc/{process}/task");
        let threads = std::fs::read_dir(&directory);
        for entry in threads.with_context(|| format!("Cannot read {directory}"))? {
            let name = entry?.file_name();
            let thread = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let thread = thread.context("A thread has no number")?;
            let mask = sched_getaffinity(Some(thread)).context("Cannot read an affinity")?;
            let allowed: Vec<usize> =
                (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
            ensure!(!allowed.is_empty(), "A thread may run nowhere");
            let mut one = CpuSet::new();
            one.set(allowed[index % allowed.len()]);
            sched_setaffinity(Some(thread), &one).context("Cannot set an affinity")?;
            self.masks.push((thread, mask));
        }
        Ok(())
    }
}

impl Drop for OneCoreEach {
    fn drop(&mut self) {
        for (thread, mask) in &self.masks {
            // A thread that has ended needs no limit lifted.
            let _ = sched_setaffinity(Some(*thread), mask);
        }
    }
}

/// A control group of ours with one process in it.
struct Group {
    directory: PathBuf,
    process: u32,
    /// Where the process came from.
    origin: PathBuf,
}

impl Group {
    fn create(root: &Path, settings: &[(&str, &str)], process: u32) -> Result<Group> {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let directory = root.join(format!("{}group{number}", super::name_prefix()));
        let origin = root.join(origin_of(process, root)?);
        {
            let mut owned = cleanup::owned();
            std::fs::create_dir(&directory)
                .with_context(|| format!("Cannot make the group {}", directory.display()))?;
            owned.groups.insert(directory.clone());
        }
        let group = Group { directory, process, origin };
        let settings = settings.iter().copied();
        for (file, value) in settings.chain([("cgroup.procs", &*process.to_string())]) {
            let path = group.directory.join(file);
            std::fs::write(&path, value)
                .with_context(|| format!("Cannot write {value} to {}", path.display()))?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails if the process has ended, and then the group is empty as well.
        let _ = std::fs::write(self.origin.join("cgroup.procs"), self.process.to_string());
        let mut owned = cleanup::owned();
        // If it cannot be removed it stays listed, and the check for things left behind names it.
        if std::fs::remove_dir(&self.directory).is_ok() {
            owned.groups.remove(&self.directory);
        }
    }
}

/// The group of a process, relative to the root of its hierarchy.
fn origin_of(process: u32, root: &Path) -> Result<PathBuf> {
    let path = format!("/proc/{process}/cgroup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("Cannot read {path}"))?;
    let is_v2 = root.join("cgroup.controllers").exists();
    parse_origin(&text, is_v2).with_context(|| format!("{path} names no group"))
}

/// cgroups(7): `0::/path` for v2, and `4:cpu,cpuacct:/path` for a hierarchy of v1.
fn parse_origin(text: &str, is_v2: bool) -> Option<PathBuf> {
    let mut lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let (_, _, path) = lines.find(|(number, controllers, _)| {
        if is_v2 { *number == "0" } else { controllers.split(',').any(|name| name == "cpu") }
    })?;
    Some(PathBuf::from(path.trim_start_matches('/')))
}

fn method() -> Method {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    candidates(&mounts).into_iter().find(is_usable).unwrap_or(Method::Affinity)
}

/// What the mounts offer, best first. Mounts are `device directory type options …`.
fn candidates(mounts: &str) -> Vec<Method> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?, fields.next()?))
    };
    let mounts: Vec<(String, String, String)> = mounts.lines().filter_map(mount).collect();
    let v2 = mounts.iter().filter(|(_, kind, _)| kind == "cgroup2");
    let v2 = v2.map(|(directory, ..)| Method::GroupV2(directory.into()));
    let has_cpu = |options: &str| options.split(',').any(|option| option == "cpu");
    let v1 = mounts.iter().filter(|(_, kind, options)| kind == "cgroup" && has_cpu(options));
    v2.chain(v1.map(|(directory, ..)| Method::GroupV1(directory.into()))).collect()
}

/// Whether groups below the root of this hierarchy can have quotas, as it stands: to switch that on
/// would be a change to the whole machine.
fn is_usable(method: &Method) -> bool {
    match method {
        Method::GroupV2(root) => std::fs::read_to_string(root.join("cgroup.subtree_control"))
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu")),
        Method::GroupV1(root) => root.join("cpu.cfs_quota_us").exists(),
        Method::Affinity => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_looked_for_in_both_hierarchies() {
        let mounts = "proc /proc proc rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpuacct,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let expected = [
            Method::GroupV2("/sys/fs/cgroup/unified".into()),
            Method::GroupV1("/sys/fs/cgroup/cpu,cpuacct".into()),
        ];
        assert_eq!(candidates(mounts), expected);
        assert_eq!(candidates(""), []);
    }

    #[test]
    fn the_group_of_a_process_is_read_from_the_right_line() {
        let text = "9:name=systemd:/a\n4:cpu,cpuacct:/b/c\n3:cpuset:/\n0::/d:e\n";
        assert_eq!(parse_origin(text, true), Some("d:e".into()));
        assert_eq!(parse_origin(text, false), Some("b/c".into()));
        assert_eq!(parse_origin("3:cpuset:/\n", false), None);
    }
}
