//! Texts of `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Programs that make overlay networks. The kernel keeps fifteen letters of a name.
const OVERLAYS: [&str; 8] = [
    "flanneld",
    "calico-node",
    "cilium-agent",
    "kube-router",
    "weaver",
    "antrea-agent",
    "ovnkube",
    "canal",
];

/// The first two numbers of a kernel's version, such as `6.18.4-arch`.
pub(super) fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// `CapEff` of `/proc/PID/status`.
pub(super) fn capabilities(status: &str) -> u64 {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// The soft limit of locked memory in `/proc/PID/limits`; `None` is no limit, and an unreadable file.
pub(super) fn memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    // The daemon raises the soft limit to the hard one.
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Addresses of `/proc/net/ip_vs`: `TCP  0A600001:01BB rr`, `TCP  [2001:…]:01BB rr`.
pub(super) fn virtual_services(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let protocol = words.next()?;
        let (address, _port) = words.next()?.rsplit_once(':')?;
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            return None;
        }
        match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse().ok().map(IpAddr::V6),
            None => u32::from_str_radix(address, 16).ok().map(|v4| Ipv4Addr::from_bits(v4).into()),
        }
    };
    text.lines().filter_map(address).collect()
}

/// Other programs of overlay networks in this network namespace, with their numbers. weft under the
/// name `flanneld` is none.
pub(super) fn others(proc: &Path) -> Vec<(String, u32)> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let ours = namespace(&proc.join("self"));
    let own_program = fs::read_link(proc.join("self/exe")).ok();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let other = processes.filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
        let is_other = OVERLAYS.contains(&name.as_str())
            && namespace(&path) == ours
            && fs::read_link(path.join("exe")).ok() != own_program;
        is_other.then_some((name, process))
    });
    other.collect()
}

/// Every setting that is judged, if it can be read.
pub(super) fn sysctls<'a>(tunnels: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let devices = tunnels.chain(["all"]);
    let of_devices = devices.map(|device| format!("net/ipv4/conf/{device}/rp_filter"));
    let fixed = [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/bridge/bridge-nf-call-iptables",
    ];
    let paths = fixed.into_iter().map(str::to_owned).chain(of_devices);
    let read = |path: String| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(&path)).ok()?;
        Some((path, value))
    };
    paths.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(version("6.18.44-fc-v669\n"), (6, 18));
        assert_eq!(version("6.1"), (6, 1));
        assert_eq!(version(""), (0, 0));
        assert_eq!(capabilities("Name:\tx\nCapEff:\t0000000000001000\n"), 1 << 12);
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         65536                8388608              bytes\n";
        assert_eq!(memlock(limits), Some(8 << 20));
        assert_eq!(memlock("Max locked memory  unlimited  unlimited  bytes"), None);
        let services = "IP Virtual Server version 1.2.1 (size=4096)\n\
                        Prot LocalAddress:Port Scheduler Flags\n  \
                        -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
                        TCP  0A600001:01BB rr\n  \
                        -> C0A80002:192B      Masq    1      0          0\n\
                        UDP  [fd00:0000:0000:0000:0000:0000:0000:000a]:0035 rr\n";
        let expected: [IpAddr; 2] = ["10.96.0.1".parse().unwrap(), "fd00::a".parse().unwrap()];
        assert_eq!(virtual_services(services), expected);
    }

    #[test]
    fn other_daemons_of_this_namespace_are_found() {
        let proc = tempfile::tempdir().unwrap();
        let weft = "/usr/bin/weft";
        for (process, namespace, name, program) in [
            ("self", "net:[1]", "weft", weft),
            ("5", "net:[1]", "flanneld", "/opt/bin/flanneld"),
            ("6", "net:[1]", "flanneld", weft),
            ("7", "net:[2]", "flanneld", "/opt/bin/flanneld"),
            ("8", "net:[1]", "bash", "/bin/bash"),
        ] {
            let process = proc.path().join(process);
            fs::create_dir_all(process.join("ns")).unwrap();
            std::os::unix::fs::symlink(namespace, process.join("ns/net")).unwrap();
            std::os::unix::fs::symlink(program, process.join("exe")).unwrap();
            fs::write(process.join("comm"), format!("{name}\n")).unwrap();
        }
        assert_eq!(others(proc.path()), [("flanneld".to_owned(), 5)]);
    }
}
