//! Who has the device or the port that we need. Best effort: it only makes an error message useful.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Names the process that has the TUN device `name` open, found by the line that the TUN driver
/// puts into `/proc/PID/fdinfo/FD`. The same name exists in other network namespaces too, so only
/// processes of ours are looked at.
pub(crate) fn of_device(name: &str) -> Option<String> {
    of_device_below(Path::new("/proc"), name)
}

/// Names the process that has a UDP socket bound to `address`, or to its port on every address.
pub(crate) fn of_udp_port(address: SocketAddr) -> Option<String> {
    of_udp_port_below(Path::new("/proc"), address)
}

fn of_device_below(proc: &Path, name: &str) -> Option<String> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let ours = namespace(&proc.join("self"));
    find_process(proc, |process| {
        let wanted = ["iff:", name];
        namespace(process) == ours
            && entries(&process.join("fdinfo")).any(|file| {
                fs::read_to_string(file)
                    .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().eq(wanted)))
            })
    })
}

fn of_udp_port_below(proc: &Path, address: SocketAddr) -> Option<String> {
    let table = if address.is_ipv4() { "net/udp" } else { "net/udp6" };
    let table = fs::read_to_string(proc.join(table)).ok()?;
    let inode = table.lines().skip(1).find_map(|line| inode_of(line, address))?;
    let wanted = format!("socket:[{inode}]");
    find_process(proc, |process| {
        entries(&process.join("fd"))
            .any(|file| fs::read_link(file).is_ok_and(|target| target.as_os_str() == &*wanted))
    })
}

/// The inode of a line of `/proc/net/udp` if the socket is in the way of `address`.
fn inode_of(line: &str, address: SocketAddr) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != address.port() {
        return None;
    }
    let everywhere = ip.bytes().all(|digit| digit == b'0');
    if !everywhere && ip != kernel_text(address.ip()) {
        return None;
    }
    fields.get(9)?.parse().ok()
}

/// The form of an address in `/proc/net/udp`: its 32-bit words in the processor's byte order.
fn kernel_text(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let word = u32::from_ne_bytes(word.try_into().expect("four bytes make a word"));
        format!("{word:08X}")
    });
    words.collect()
}

fn find_process(proc: &Path, holds: impl Fn(&Path) -> bool) -> Option<String> {
    let is_number = |name: &str| name.bytes().all(|digit| digit.is_ascii_digit());
    entries(proc).find_map(|process| {
        let number = process.file_name()?.to_str().filter(|name| is_number(name))?.to_owned();
        if !holds(&process) {
            return None;
        }
        let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
        Some(format!("{} (process {number})", command.trim()))
    })
}

/// Paths in a directory; none if it cannot be read, as with processes that end meanwhile.
fn entries(directory: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_owner_of_a_port_is_found() {
        for local in ["127.0.0.1:0", "0.0.0.0:0"] {
            let socket = UdpSocket::bind(local).unwrap();
            let port = socket.local_addr().unwrap().port();
            let owner = of_udp_port(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            assert!(owner.contains(&format!("(process {})", std::process::id())), "{owner}");
        }
    }

    #[test]
    fn a_free_port_has_no_owner() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(of_udp_port(SocketAddr::from(([127, 0, 0, 1], port))), None);
    }

    #[test]
    fn addresses_are_compared_in_both_families() {
        let line = |ip: &str| {
            format!("  1: {ip}:205D 00:0000 07 00000000:00000000 00:00000000 00000000 0 0 4711 2")
        };
        // Tables of a little-endian processor; the order of the words' bytes is the processor's.
        if cfg!(target_endian = "little") {
            let v4 = "10.168.0.2:8285".parse().unwrap();
            assert_eq!(inode_of(&line("0200A80A"), v4), Some(4711));
            assert_eq!(inode_of(&line("0300A80A"), v4), None);
            let v6 = "[fd00::1]:8285".parse().unwrap();
            assert_eq!(inode_of(&line("000000FD000000000000000001000000"), v6), Some(4711));
        }
        assert_eq!(inode_of(&line("00000000"), "10.168.0.2:8285".parse().unwrap()), Some(4711));
        assert_eq!(inode_of(&line("00000000"), "10.168.0.2:8286".parse().unwrap()), None);
        assert_eq!(inode_of("", "10.168.0.2:8285".parse().unwrap()), None);
    }

    #[test]
    fn the_owner_of_a_device_is_found_by_its_descriptor() {
        let proc = tempfile::tempdir().unwrap();
        for (process, namespace, comm) in
            [("self", "net:[1]", "weft"), ("66", "net:[2]", "far"), ("77", "net:[1]", "flanneld")]
        {
            let process = proc.path().join(process);
            fs::create_dir_all(process.join("fdinfo")).unwrap();
            fs::create_dir_all(process.join("ns")).unwrap();
            std::os::unix::fs::symlink(namespace, process.join("ns/net")).unwrap();
            let info = "pos:\t0\nflags:\t0104002\niff:\tflannel0\n";
            fs::write(process.join("fdinfo/5"), info).unwrap();
            fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
        }
        let owner = of_device_below(proc.path(), "flannel0");
        assert_eq!(owner.as_deref(), Some("flanneld (process 77)"));
        assert_eq!(of_device_below(proc.path(), "flannel"), None);
    }
}
