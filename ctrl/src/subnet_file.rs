//! The subnet file, `subnet.env`: what container runtimes and CNI plugins read to learn this node's
//! subnet, byte for byte as flanneld writes it.
//!
//! ```text
//! FLANNEL_NETWORK=10.244.0.0/16
//! FLANNEL_SUBNET=10.244.1.1/24
//! FLANNEL_MTU=1472
//! FLANNEL_IPMASQ=true
//! ```

mod dotenv;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::lease::Leaf;
use crate::netfilter::Overlay;

const MODE: u32 = 0o644;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The IPv4 network and our subnet of it, if IPv4 is on.
    pub v4: Option<(Ipv4Net, Ipv4Net)>,
    /// The same for IPv6.
    pub v6: Option<(Ipv6Net, Ipv6Net)>,
    /// MTU of the tunnel device in bytes.
    pub mtu: u32,
    /// `--ip-masq`.
    pub ip_masq: bool,
}

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "Could not {action} {}. Check that its directory can be written, or choose another --subnet-file",
    .path.display()
)]
pub struct SubnetFileError {
    /// What was tried.
    action: &'static str,
    /// The file.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

impl fmt::Display for Contents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((network, subnet)) = self.v4 {
            writeln!(formatter, "FLANNEL_NETWORK={}", network.trunc())?;
            writeln!(formatter, "FLANNEL_SUBNET={}", first_host(subnet.into()))?;
        }
        if let Some((network, subnet)) = self.v6 {
            writeln!(formatter, "FLANNEL_IPV6_NETWORK={}", network.trunc())?;
            writeln!(formatter, "FLANNEL_IPV6_SUBNET={}", first_host(subnet.into()))?;
        }
        writeln!(formatter, "FLANNEL_MTU={}", self.mtu)?;
        writeln!(formatter, "FLANNEL_IPMASQ={}", self.ip_masq)
    }
}

/// The address after the subnet's own, with the subnet's length. A lease holds four addresses at
/// least, so there is one.
fn first_host(subnet: IpNet) -> IpNet {
    let address: IpAddr = match subnet.network() {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() | 1).into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() | 1).into(),
    };
    IpNet::new(address, subnet.prefix_len()).expect("the length is that of a subnet")
}

/// Shows that the file can be written, before anything else of the host is changed. Makes its
/// directory, with mode 0755.
///
/// # Errors
/// If it could not be written later.
pub fn probe(path: &Path) -> Result<(), SubnetFileError> {
    make_directory(path)?;
    let aside = aside(path);
    let probed = OpenOptions::new().write(true).create_new(true).open(&aside).map(drop);
    let _ = fs::remove_file(&aside);
    probed.map_err(failed("write beside", path))
}

/// Replaces the file at once: a reader sees the old contents or the new. An existing regular file
/// keeps its mode; a new one has 0644 whatever the umask says.
///
/// # Errors
/// If it cannot be written; then the old file is as it was.
pub fn write(path: &Path, contents: &Contents) -> Result<(), SubnetFileError> {
    make_directory(path)?;
    let aside = aside(path);
    let written = write_aside(&aside, path, contents).map_err(failed("write", path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write_aside(aside: &Path, path: &Path, contents: &Contents) -> io::Result<()> {
    let mode = match fs::symlink_metadata(path) {
        Ok(data) if data.is_file() => data.permissions().mode() & 0o7777,
        _ => MODE,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    file.write_all(contents.to_string().as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(aside, path)?;
    directory_of(path).map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn make_directory(path: &Path) -> Result<(), SubnetFileError> {
    let Some(directory) = directory_of(path) else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(failed("make the directory of", path))
}

fn directory_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{:016x}", rand::random::<u64>()))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SubnetFileError {
    let path = path.to_owned();
    move |source| SubnetFileError { action, path, source }
}

/// The subnets that an earlier process wrote, if there are any. A file that cannot be read has none.
#[must_use]
pub fn previous(path: &Path) -> Option<Leaf> {
    subnets(&fs::read_to_string(path).ok()?)
}

/// Network and subnet of each family that an earlier process wrote. A file that cannot be read has
/// none.
#[must_use]
pub fn previous_overlays(path: &Path) -> Vec<Overlay> {
    let variables = dotenv::parse(&fs::read_to_string(path).unwrap_or_default());
    let net = |name: &str| -> Option<IpNet> {
        variables.get(name).and_then(|text| only(text)).map(|net: IpNet| net.trunc())
    };
    let overlay = |(network, subnet): (&str, &str)| {
        let (network, subnet) = (net(network)?, net(subnet)?);
        let overlay = Overlay { network, subnet, fixed_source: false };
        overlay.network.contains(&overlay.subnet).then_some(overlay)
    };
    [("FLANNEL_NETWORK", "FLANNEL_SUBNET"), ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET")]
        .into_iter()
        .filter_map(overlay)
        .collect()
}

/// The subnets that a subnet file's text names. Of each family there must be exactly one readable
/// subnet.
#[must_use]
pub fn subnets(text: &str) -> Option<Leaf> {
    let variables = dotenv::parse(text);
    let v4: Option<Ipv4Net> = variables.get("FLANNEL_SUBNET").and_then(|text| only(text));
    let v6: Option<Ipv6Net> = variables.get("FLANNEL_IPV6_SUBNET").and_then(|text| only(text));
    let leaf = Leaf { v4: v4.map(|net| net.trunc()), v6: v6.map(|net| net.trunc()) };
    leaf.subnets().next().is_some().then_some(leaf)
}

fn only<T: std::str::FromStr>(text: &str) -> Option<T> {
    let mut found = text.split(',').filter_map(|part| part.trim().parse().ok());
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a running flanneld wrote it.
    const RECORDED: &str = include_str!("../tests/data/subnet-udp.env");

    fn recorded() -> Contents {
        Contents {
            v4: Some(("10.244.0.0/16".parse().unwrap(), "10.244.1.0/24".parse().unwrap())),
            v6: None,
            mtu: 1472,
            ip_masq: true,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_flannels_byte_for_byte() {
        assert_eq!(recorded().to_string(), RECORDED);
        let dual = Contents {
            v6: Some(("2001:cafe::/32".parse().unwrap(), "2001:cafe:42::/64".parse().unwrap())),
            ip_masq: false,
            ..recorded()
        };
        let expected = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                        FLANNEL_IPV6_NETWORK=2001:cafe::/32\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\n\
                        FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";
        assert_eq!(dual.to_string(), expected);
        let only_v6 = Contents { v4: None, ..dual };
        assert_eq!(only_v6.to_string(), expected.split_once("24\n").unwrap().1);
    }

    #[test]
    fn it_is_written_whole_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/subnet.env");
        probe(&path).unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        assert_eq!(previous(&path), None);
        write(&path, &recorded()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), RECORDED);
        assert_eq!(previous(&path), Some("10.244.1.0-24".parse().unwrap()));
        let [overlay] = previous_overlays(&path)[..] else { panic!("one family") };
        assert_eq!(overlay.to_string(), "10.244.1.0/24 of 10.244.0.0/16");
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_keeps_its_mode_and_a_link_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, &recorded()).unwrap();
        assert_eq!(mode(&path), 0o640);
        let link = root.path().join("link.env");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write(&link, &recorded()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(mode(&link), 0o644);
    }

    #[test]
    fn what_cannot_be_written_is_told_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let path = file.join("subnet.env");
        assert!(probe(&path).unwrap_err().to_string().contains("--subnet-file"));
        assert!(write(&path, &recorded()).is_err());
    }

    #[test]
    fn previous_subnets_in_many_writings() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        let rows = [
            ("FLANNEL_SUBNET=10.5.72.1/24", Some("10.5.72.0-24")),
            ("# note\nexport FLANNEL_SUBNET=\"10.5.72.1/24\" # ours\n", Some("10.5.72.0-24")),
            ("FLANNEL_SUBNET='10.5.72.1/24,what'\n", Some("10.5.72.0-24")),
            ("FLANNEL_SUBNET=10.5.72.1/24,10.5.73.1/24\n", None),
            ("FLANNEL_SUBNET=\n", None),
            ("FLANNEL_SUBNET=fd00::1/64\n", None),
            (
                "FLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64\nFLANNEL_SUBNET=10.5.7.1/24\n",
                Some("10.5.7.0-24&fd00:0:0:7::-64"),
            ),
            ("FLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64\n", Some("0.0.0.0-0&fd00:0:0:7::-64")),
        ];
        for (text, expected) in rows {
            fs::write(&path, text).unwrap();
            let found = previous(&path).map(|leaf| leaf.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
