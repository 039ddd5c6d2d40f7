//! What the kernel counts: packets lost around the hosts, processor time, memory.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::namespace::Namespace;

/// Units of `/proc/stat` (`USER_HZ`, the same on every Linux architecture we run on).
const TICKS_PER_SECOND: u64 = 100;

/// The kernel's network counters of one namespace, by their `nstat` names.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads them all.
    pub fn read(namespace: &Namespace) -> Result<Counters> {
        #[derive(Deserialize)]
        struct Output {
            kernel: BTreeMap<String, u64>,
        }
        let text = namespace.run(&["nstat", "--json", "--ignore", "--noupdate", "--zeros"])?;
        let output: Output = serde_json::from_str(&text).context("Cannot read nstat's JSON")?;
        Ok(Counters(output.kernel))
    }

    /// One counter; 0 when this kernel does not have it.
    pub fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Those that grew since `earlier`, with their growth.
    pub fn since(&self, earlier: &Counters) -> BTreeMap<String, u64> {
        let growth = |(name, now): (&String, &u64)| {
            let grown = now.saturating_sub(earlier.value(name));
            (grown > 0).then(|| (name.clone(), grown))
        };
        self.0.iter().filter_map(growth).collect()
    }
}

/// Packets of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Direction {
    /// Bytes handed on.
    pub bytes: u64,
    /// Packets handed on.
    pub packets: u64,
    /// Packets refused with an error.
    pub errors: u64,
    /// Packets dropped, for example by a full queue.
    pub dropped: u64,
}

/// The two directions of one device, as the host sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DeviceCounters {
    /// Into the host.
    pub rx: Direction,
    /// Out of the host.
    pub tx: Direction,
}

impl DeviceCounters {
    /// Reads the counters of `device`.
    pub fn read(namespace: &Namespace, device: &str) -> Result<DeviceCounters> {
        let devices = DeviceCounters::show(namespace, &["dev", device])?;
        devices.first().copied().context("ip named no device")
    }

    /// Reads the counters of all devices.
    pub fn read_all(namespace: &Namespace) -> Result<Vec<DeviceCounters>> {
        DeviceCounters::show(namespace, &[])
    }

    fn show(namespace: &Namespace, which: &[&str]) -> Result<Vec<DeviceCounters>> {
        #[derive(Deserialize)]
        struct Link {
            stats64: DeviceCounters,
        }
        let show = ["-json", "-statistics", "link", "show"];
        let text = namespace.ip(&[&show[..], which].concat())?;
        let links: Vec<Link> = serde_json::from_str(&text).context("Cannot read ip's JSON")?;
        Ok(links.into_iter().map(|link| link.stats64).collect())
    }
}

/// The time that all processors together have spent on anything but idling since boot.
pub fn processor_busy() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("Cannot read /proc/stat")?;
    parse_busy(&text).context("/proc/stat has an unknown form")
}

/// proc(5): `cpu user nice system idle iowait irq softirq steal …`.
fn parse_busy(text: &str) -> Option<Duration> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    let ticks = user + nice + system + irq + softirq;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `VmRSS`: resident.
    pub resident_kib: u64,
    /// `VmLck`: locked with mlock.
    pub locked_kib: u64,
    /// `VmPin`: pinned by the kernel, for example as registered buffers.
    pub pinned_kib: u64,
}

impl Memory {
    /// Reads it from `/proc/<process>/status`.
    pub fn read(process: u32) -> Result<Memory> {
        let path = format!("/proc/{process}/status");
        let text = std::fs::read_to_string(&path).with_context(|| format!("Cannot read {path}"))?;
        let fields = parse_kib(&text);
        let field = |name: &str| fields.get(name).copied().unwrap_or(0);
        let resident_kib = field("VmRSS");
        Ok(Memory { resident_kib, locked_kib: field("VmLck"), pinned_kib: field("VmPin") })
    }

    /// Resident and locked memory together, in MiB. Pages that are both count twice, so this is
    /// never less than what the process holds.
    pub fn total_mib(&self) -> f64 {
        (self.resident_kib + self.locked_kib) as f64 / 1024.0
    }
}

/// The sums over all mappings of a process (`/proc/<process>/smaps_rollup`), in KiB by name.
pub fn memory_rollup(process: u32) -> Result<BTreeMap<String, u64>> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("Cannot read {path}"))?;
    Ok(parse_kib(&text))
}

/// Lines of the form `Name:   123 kB`; others are left out.
fn parse_kib(text: &str) -> BTreeMap<String, u64> {
    let parse = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().strip_suffix(" kB")?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        let text = "cpu  100 20 30 9999 8888 4 6 77 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(parse_busy(text), Some(Duration::from_millis(1600)));
        assert_eq!(parse_busy("cpu  1 2 3\n"), None);
        assert_eq!(parse_busy(""), None);
    }

    #[test]
    fn memory_lines_are_read_by_name() {
        let text = "Name:\tweft\nVmLck:\t     128 kB\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        let fields = parse_kib(text);
        assert_eq!(fields.get("VmRSS"), Some(&2048));
        assert_eq!(fields.get("VmLck"), Some(&128));
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn locked_memory_is_added() {
        let memory = Memory { resident_kib: 2048, locked_kib: 1024, pinned_kib: 7 };
        assert!((memory.total_mib() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn only_growth_is_reported() {
        let set = |pairs: &[(&str, u64)]| {
            Counters(pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
        };
        let earlier = set(&[("UdpInErrors", 5), ("UdpInDatagrams", 9)]);
        let now = set(&[("UdpInErrors", 7), ("UdpInDatagrams", 9), ("New", 1)]);
        let growth = now.since(&earlier);
        assert_eq!(
            growth.into_iter().collect::<Vec<_>>(),
            [("New".into(), 1), ("UdpInErrors".into(), 2)]
        );
    }
}
