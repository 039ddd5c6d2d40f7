//! `scripts/package` around the program of this build: installed, upgraded and removed below another root,
//! and the image's tree run as a container would be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Host, Leases, can_run};
use crate::{lacks, repository};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// Capabilities of `scripts/deploy/kubernetes/daemonset.yaml`, and what `chroot` takes.
const CAPABILITIES: &str = "-all,+net_admin,+net_raw,+sys_nice,+sys_chroot";

/// The package and the image's tree, made once for a test.
pub(crate) struct Packed {
    directory: tempfile::TempDir,
    pub(crate) package: PathBuf,
    image: PathBuf,
}

impl Packed {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = run(Command::new(repository().join("scripts/package"))
            .args(["--binary", WEFT, "--output"])
            .arg(directory.path())
            // What is compressed here is thrown away.
            .envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")]));
        let mut lines = text.lines().map(PathBuf::from);
        let (package, image) = (lines.next().unwrap(), lines.next().unwrap());
        Self { directory, package, image }
    }

    fn place(&self, name: &str) -> PathBuf {
        let place = self.directory.path().join(name);
        fs::create_dir_all(&place).unwrap();
        place
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// dpkg on another root. Its scripts run here and are told the root by `DPKG_ROOT`.
fn dpkg(root: &Path, arguments: &[&str]) -> String {
    run(Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .args(["--force-script-chrootless", "--force-not-root", "--force-bad-path"])
        .args(arguments))
}

/// The same package with a higher version.
pub(crate) fn newer(packed: &Packed) -> PathBuf {
    let tree = packed.place("newer");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(&packed.package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let version = format!("Version: {}", env!("CARGO_PKG_VERSION"));
    let text = fs::read_to_string(&control).unwrap();
    assert!(text.contains(&version), "{text}");
    fs::write(&control, text.replace(&version, "Version: 99.0.0")).unwrap();
    let package = packed.directory.path().join("newer.deb");
    run(Command::new("dpkg-deb").args(["-Zgzip", "-z1", "--build"]).arg(&tree).arg(&package));
    package
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_package_is_installed_upgraded_and_removed() {
    if lacks("dpkg-deb", "the test of the package") || !can_run() {
        return;
    }
    let packed = Packed::new();
    let root = packed.place("root");
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    dpkg(&root, &["--install", packed.package.to_str().unwrap()]);
    let version = run(Command::new(root.join("usr/bin/weft")).arg("--version"));
    assert_eq!(version, format!("weft {}\n", env!("CARGO_PKG_VERSION")));
    check_files(&root);

    // What the operator wrote stays, and so does the host's identity.
    let (config, identity) = (root.join("etc/default/weft"), root.join("var/lib/weft/id"));
    fs::write(&config, "WEFT_OPTIONS=\"--lease-dir=/etc/weft/leases\"\n").unwrap();
    fs::create_dir_all(identity.parent().unwrap()).unwrap();
    fs::write(&identity, "x").unwrap();
    dpkg(&root, &["--force-confold", "--install", newer(&packed).to_str().unwrap()]);
    assert!(dpkg(&root, &["--status", "weft"]).contains("Version: 99.0.0"));
    assert!(fs::read_to_string(&config).unwrap().contains("lease-dir"));
    assert!(identity.exists());

    dpkg(&root, &["--remove", "weft"]);
    assert!(!root.join("usr/bin/weft").exists());
    assert!(!root.join("lib/systemd/system/weft.service").exists());
    assert!(config.exists() && identity.exists(), "a removal is no purge");
    dpkg(&root, &["--purge", "weft"]);
    assert!(!config.exists() && !identity.exists());
}

fn check_files(root: &Path) {
    assert_eq!(mode(&root.join("usr/bin/weft")), 0o755);
    for page in ["weft.1.gz", "weft-daemon.1.gz", "weft-doctor.1.gz", "weft-plan.1.gz"] {
        assert_eq!(mode(&root.join("usr/share/man/man1").join(page)), 0o644);
    }
    let page = root.join("usr/share/man/man1/weft-daemon.1.gz");
    let text = run(Command::new("gzip").args(["--decompress", "--stdout"]).arg(page));
    assert!(text.contains("lease\\-dir"), "the flags are in the page");
    let completions = root.join("usr/share/bash-completion/completions/weft");
    run(Command::new("bash").arg("-n").arg(&completions));
    check_pages(&root.join("usr/share/man/man1"));
    check_unit(root);
}

/// groff finds nothing to say against any page.
fn check_pages(directory: &Path) {
    if lacks("man", "the check of the manual") {
        return;
    }
    for page in fs::read_dir(directory).unwrap() {
        let page = page.unwrap().path();
        let mut command = Command::new("man");
        command.args(["--warnings", "--local-file"]).arg(&page).env("MANWIDTH", "80");
        let said = command.env("LC_ALL", "C.UTF-8").output().unwrap().stderr;
        assert_eq!(String::from_utf8_lossy(&said), "", "{}", page.display());
    }
}

/// The unit as systemd reads it, with the program in its place.
fn check_unit(root: &Path) {
    if lacks("systemd-analyze", "the check of the unit") {
        return;
    }
    let unit = root.join("lib/systemd/system/weft.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains("\nType=notify\n"));
    let copy = root.join("weft.service");
    let program = root.join("usr/bin/weft");
    fs::write(&copy, text.replace("/usr/bin/weft", program.to_str().unwrap())).unwrap();
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let about_it: Vec<&str> = said.lines().filter(|line| line.contains("weft.service")).collect();
    assert_eq!(about_it, [""; 0], "{said}");
    fs::remove_file(copy).unwrap();
}

#[test]
fn the_tree_of_the_image_runs_with_the_rights_of_its_manifest() {
    if !can_run() || lacks("setpriv", "the test of the image") || lacks("tar", "the same") {
        return;
    }
    let packed = Packed::new();
    let root = packed.place("image");
    run(Command::new("tar").arg("--extract").arg("--file").arg(&packed.image).arg("-C").arg(&root));
    let programs: Vec<_> = fs::read_dir(root.join("usr/bin")).unwrap().flatten().collect();
    assert_eq!(programs.len(), 1, "there is no shell");
    let host = Host::alone(&Leases::new(r#"{"Network": "10.244.0.0/16"}"#));
    let files = Path::new(&host.file("")).to_owned();
    // What a runtime mounts; the volumes of the manifest are this host's directory.
    let mount = "root=$1; places=$2; leases=$3; shift 3; mkdir -p \"$root/proc\" \"$root/dev\" \
                 \"$root/run\" \"$root$places\" \"$root$leases\" && mount --bind /proc \"$root/proc\" && \
                 mount --bind /dev \"$root/dev\" && mount -t tmpfs none \"$root/run\" && \
                 mount --bind \"$places\" \"$root$places\" && \
                 mount --bind \"$leases\" \"$root$leases\" && exec \"$@\"";
    let leases = host.arguments()[0].strip_prefix("--lease-dir=").unwrap().to_owned();
    let (root, places) = (root.to_str().unwrap(), files.to_str().unwrap());
    let starter = ["unshare", "--mount", "sh", "-c", mount, "sh", root, places, &leases];
    let confined = ["setpriv", "--no-new-privs", "--bounding-set", CAPABILITIES, "chroot", root];
    let program = ["/opt/bin/flanneld", "--iface=u1", "--ip-masq"];
    let mut command = host.command(&[&starter[..], &confined, &program].concat());
    let log = fs::File::create(host.file("log")).unwrap();
    let mut daemon = command.args(host.arguments()).stderr(log).spawn().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while host.http("/readyz").1 != "flanneld is ready" {
        let said = fs::read_to_string(host.file("log")).unwrap();
        assert!(daemon.try_wait().unwrap().is_none(), "{said}");
        assert!(std::time::Instant::now() < end, "{said}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(host.run(&["nft", "list", "ruleset"]).contains("FLANNEL-POSTRTG"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
