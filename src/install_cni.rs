//! `weft install-cni`: puts the network config for container runtimes in its place, for the step before
//! the daemon in Kubernetes. A runtime that reads at any moment sees the old file or the new one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The file could not be put there.
#[derive(Debug, thiserror::Error)]
#[error("Could not {action} {}; see that it exists and that the directory can be written", .path.display())]
struct InstallError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Replaces `target` by a copy of `source`, with its mode, at once. Its directory is made if it is
/// missing.
pub(crate) fn run(source: &Path, target: &Path) -> ExitCode {
    match install(source, target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn install(source: &Path, target: &Path) -> Result<(), InstallError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| InstallError { action, path, source }
    };
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(failed("create", directory))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // A dot keeps runtimes from reading it, and the process number two of us apart.
    let aside = directory.join(format!(".{name}.{}", std::process::id()));
    let written = || File::open(&aside)?.sync_all();
    let copied = fs::copy(source, &aside)
        .map_err(failed("copy", source))
        .and_then(|_| written().map_err(failed("write", &aside)))
        .and_then(|()| fs::rename(&aside, target).map_err(failed("replace", target)));
    if copied.is_err() {
        let _ = fs::remove_file(&aside);
    }
    copied
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_replaced_with_its_mode_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (source, net) =
            (directory.path().join("cni-conf.json"), directory.path().join("net.d"));
        let target = net.join("10-flannel.conflist");
        for text in ["old", "new"] {
            fs::write(&source, text).unwrap();
            fs::set_permissions(&source, PermissionsExt::from_mode(0o640)).unwrap();
            install(&source, &target).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
        }
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(&net).unwrap().count(), 1);
        let missing = install(&directory.path().join("no"), &target).unwrap_err();
        assert!(missing.to_string().starts_with("Could not copy"), "{missing}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(fs::read_dir(&net).unwrap().count(), 1);
    }
}
