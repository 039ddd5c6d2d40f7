//! What else is on the host, what the daemon may do, and what time it is.

use super::{Finding, error, note, warning};
use crate::doctor::facts::Facts;

/// Numbers of capabilities (`linux/capability.h`).
const NET_ADMIN: u64 = 12;
const IPC_LOCK: u64 = 14;
const SYS_NICE: u64 = 23;
const BPF: u64 = 39;
const SYS_RESOURCE: u64 = 24;

/// Bytes of locked memory that a worker asks for.
const MEMLOCK: u64 = 8 << 20;

/// 2026: this program is younger than any clock that says less.
const YEAR_OF_THIS_PROGRAM: u64 = 1_767_225_600;

/// Seconds by which clocks may step while they are being corrected.
const STEP: u64 = 60;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = others(facts);
    findings.extend(port(facts));
    findings.extend(rights(facts));
    findings.extend(clock(facts));
    findings
}

fn others(facts: &Facts) -> Vec<Finding> {
    let own = facts.status().map(|status| status.pid);
    let strangers = facts.others.iter().filter(|(_, process)| Some(*process) != own);
    let finding = |(name, process): &(String, u32)| {
        error("other-daemon", format!("{name} runs on this host (process {process}).")).with(
            "Two daemons of overlay networks quarrel about devices, ports, routes and rules.",
            format!("Stop {name}, and see that nothing starts it again, before weft is started."),
        )
    };
    strangers.map(finding).collect()
}

/// Where the daemon runs, it has the port, or has said why not.
fn port(facts: &Facts) -> Option<Finding> {
    let owner = facts.port_owner.as_ref().filter(|_| facts.status().is_none())?;
    let port = facts.port()?;
    Some(error("port", format!("UDP port {port} belongs to {owner}.")).with(
        "weft cannot start with the backend udp.",
        "Stop that program, or set Backend.Port of the network config, which all hosts share.",
    ))
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let has = |capability: u64| facts.rights.capabilities >> capability & 1 == 1;
    let whose = if facts.status().is_some() { "The daemon" } else { "This process" };
    let mut findings = Vec::new();
    if !has(NET_ADMIN) {
        findings.push(error("capabilities", format!("{whose} lacks CAP_NET_ADMIN.")).with(
            "Devices, routes and rules cannot be made.",
            "Run as root; in a container, add the capability.",
        ));
    }
    if !has(SYS_NICE) {
        findings.push(note("capabilities", format!("{whose} lacks CAP_SYS_NICE.")).with(
            "Packet workers wait longer for a processor beside other busy programs.",
            "Add the capability.",
        ));
    }
    if !has(BPF) {
        findings.push(note("capabilities", format!("{whose} lacks CAP_BPF.")).with(
            "Small packets wait for a packet worker beside busy streams.",
            "Add the capability.",
        ));
    }
    if let Some(bytes) = facts.rights.memlock
        && bytes < MEMLOCK
        && !has(IPC_LOCK)
        && !has(SYS_RESOURCE)
    {
        let cause = format!("{whose} may lock {bytes} bytes of memory.");
        findings.push(warning("memlock", cause).with(
            "io_uring may not get its buffers; then packets are moved by the slower engine.",
            format!(
                "Allow {MEMLOCK} bytes for each worker: LimitMEMLOCK=8M in the unit, or ulimit -l."
            ),
        ));
    }
    findings
}

fn clock(facts: &Facts) -> Vec<Finding> {
    let clock = &facts.clock;
    let mut findings = Vec::new();
    if clock.now < YEAR_OF_THIS_PROGRAM {
        findings.push(error("clock", "The clock is years behind.").with(
            "Certificates of the store are not valid yet, and other hosts refuse handshakes.",
            "Set the clock, and keep it right with an NTP client.",
        ));
    }
    let is_ahead = |(_, written): &&(_, u64)| *written > clock.now + STEP;
    if let Some((path, written)) = clock.newest_file.as_ref().filter(is_ahead) {
        let cause = format!(
            "The clock went back: {} was written {} seconds from now.",
            path.display(),
            written - clock.now
        );
        findings.push(error("clock", cause).with(
            "Where traffic is sealed, other hosts refuse this host's handshakes until that time.",
            "Set the clock. If it is right now, wait, or let the other hosts restart weft.",
        ));
    }
    if clock.synchronised == Some(false) {
        findings.push(note("clock", "Nothing keeps the clock right, says the kernel.").with(
            "It drifts until certificates or handshakes are refused.",
            "Run an NTP client such as chrony or systemd-timesyncd.",
        ));
    }
    findings
}
