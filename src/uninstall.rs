//! `weft uninstall`: what stays in the kernel when the daemon ends, taken away.
//!
//! A daemon that runs would put it back, so it has to be stopped before. Files and the lease stay:
//! another daemon may go on with them.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tokio::runtime;
use weft_ctrl::netfilter;

/// What is not ours to remove, or may be wanted still.
const REST: &str = "\
Left as they are: the device of the pods (such as cni0), /run/flannel, /var/lib/weft, /var/lib/cni and
/etc/cni/net.d. A daemon in a tunnel mode takes its device and route along when it stops.
";

/// Removes it and tells what was removed.
pub(crate) fn run(admin_socket: &Path) -> ExitCode {
    match remove(admin_socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn remove(admin_socket: &Path) -> Result<()> {
    if UnixStream::connect(admin_socket).is_ok() {
        bail!("The daemon at {} is running; stop it first", admin_socket.display());
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let (removed, failures) = runtime.block_on(netfilter::uninstall());
    for what in &removed {
        println!("removed {what}");
    }
    if removed.is_empty() && failures.is_empty() {
        println!("nothing was left");
    }
    print!("{REST}");
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}. Run as root, or with CAP_NET_ADMIN", failures.join("; "))
}
