//! The MAC addresses of this node's VXLAN devices, which outlive restarts: the kernels of all peers
//! know them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::kernel::MacAddress;
use crate::lease::{Attributes, vtep};

/// Names of the files in the state directory, by family.
const FILE_NAME_V4: &str = "vtep-mac";
const FILE_NAME_V6: &str = "vtep-mac-v6";

/// One for each family that the network config turns on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Macs {
    pub(super) v4: Option<MacAddress>,
    pub(super) v6: Option<MacAddress>,
}

impl Macs {
    /// IPv4's first.
    pub(super) fn iter(&self) -> impl Iterator<Item = MacAddress> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// A MAC address that is not kept would be another one after the next start.
#[derive(Debug, thiserror::Error)]
#[error("Could not {action} {}. Check that the state directory can be written", .path.display())]
pub struct MacsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The address of a family's device: the one that peers know, else that of the last start, else a new
/// one. Blocks.
pub(super) fn load_or_create(
    directory: &Path,
    is_v6: bool,
    known: Option<MacAddress>,
) -> Result<MacAddress, MacsError> {
    let path = path_in(directory, is_v6);
    let kept = read(&path)?;
    let mac = chosen(known, kept);
    if kept != Some(mac) {
        write(&path, mac).map_err(failed("write", &path))?;
    }
    Ok(mac)
}

/// The same, but nothing is written: an address that would be new is another one each time.
pub(super) fn foresee(
    directory: &Path,
    is_v6: bool,
    known: Option<MacAddress>,
) -> Result<MacAddress, MacsError> {
    let kept = read(&path_in(directory, is_v6))?;
    Ok(chosen(known, kept))
}

fn chosen(known: Option<MacAddress>, kept: Option<MacAddress>) -> MacAddress {
    known.or(kept).unwrap_or_else(MacAddress::random)
}

/// What peers know as the address of a family's device: that of the device that is `there`, else the one
/// that was `told` in this node's lease, which outlives the device and the state directory.
pub(super) fn known(
    there: Option<MacAddress>,
    told: Option<&Attributes>,
    is_v6: bool,
) -> Option<MacAddress> {
    let of_lease = |told: &Attributes| {
        let data = if is_v6 { &told.backend_v6_data } else { &told.backend_data };
        let of_both = told.weft.as_ref().and_then(|weft| weft.vtep);
        vtep::mac(data.as_ref()).ok().or(of_both.filter(|_| !is_v6))
    };
    there.filter(|mac| mac.is_unicast()).or_else(|| told.and_then(of_lease))
}

fn path_in(directory: &Path, is_v6: bool) -> PathBuf {
    directory.join(if is_v6 { FILE_NAME_V6 } else { FILE_NAME_V4 })
}

/// A damaged file costs the address, which peers learn anew from the lease.
fn read(path: &Path) -> Result<Option<MacAddress>, MacsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mac: Option<MacAddress> = text.trim_end().parse().ok();
    let mac = mac.filter(|mac| mac.is_unicast());
    if mac.is_none() {
        warn!(path = %path.display(), "the kept MAC address is damaged; a new one is made");
    }
    Ok(mac)
}

fn write(path: &Path, mac: MacAddress) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    writeln!(file, "{mac}")?;
    file.sync_all()?;
    fs::rename(aside, path)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MacsError {
    let path = path.to_owned();
    move |source| MacsError { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn it_is_kept_for_each_family() {
        let directory = tempfile::tempdir().unwrap();
        let load = |is_v6, adopted| load_or_create(directory.path(), is_v6, adopted).unwrap();
        let (v4, v6) = (load(false, None), load(true, None));
        assert_ne!(v4, v6);
        assert_eq!((load(false, None), load(true, None)), (v4, v6));
    }

    #[test]
    fn one_that_peers_know_is_used_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let load = |known| load_or_create(directory.path(), false, known).unwrap();
        load(None);
        assert_eq!(load(Some(mac(7))), mac(7));
        assert_eq!(load(None), mac(7));
    }

    #[test]
    fn peers_know_that_of_the_device_and_else_that_of_the_lease() {
        let told = |value: &str| Attributes::parse(value.as_bytes()).unwrap();
        let lease = told(
            r#"{"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:04"},
                "BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}}"#,
        );
        assert_eq!(known(Some(mac(7)), Some(&lease), false), Some(mac(7)));
        assert_eq!(known(Some(MacAddress([0xff; 6])), Some(&lease), false), Some(mac(4)));
        assert_eq!(known(None, Some(&lease), true), Some(mac(6)));
        assert_eq!(known(None, None, false), None);
        let path_of_several = told(r#"{"Weft":{"v":1,"vtep":"02:00:00:00:00:08"}}"#);
        assert_eq!(known(None, Some(&path_of_several), false), Some(mac(8)));
        assert_eq!(known(None, Some(&path_of_several), true), None, "two devices, two addresses");
        let other_type = told(r#"{"BackendType":"wireguard","BackendData":{"PublicKey":"x"}}"#);
        assert_eq!(known(None, Some(&other_type), false), None);
    }

    #[test]
    fn a_damaged_file_gives_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME_V4);
        for damaged in [&b""[..], b"x\n", b"\xff\xfe", b"01:00:00:00:00:01\n"] {
            fs::write(&path, damaged).unwrap();
            let made = load_or_create(directory.path(), false, None).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{made}\n"));
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = load_or_create(directory.path(), false, None).unwrap_err();
        assert!(error.to_string().contains("vtep-mac"), "{error}");
    }
}
