//! `weft uninstall`: what stays in the kernel when the daemon ends, taken away: first what leads
//! packets to peers, then the netfilter rules.
//!
//! A daemon that runs would put it back, so it has to be stopped before. Files and the lease stay:
//! another daemon may go on with them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::runtime;
use weft_ctrl::kernel;
use weft_ctrl::netfilter;

/// Routes and rules carry a protocol of ours, whatever network they were for.
const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

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
    let (removed, failures) = runtime.block_on(remove_all());
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

/// What was removed, and a sentence for each failure.
async fn remove_all() -> (Vec<String>, Vec<String>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    match kernel::remove_all(&EVERYWHERE).await {
        Ok(outcome) => {
            removed.extend(outcome.done);
            failures.extend(outcome.failures);
        }
        Err(error) => failures.push(format!("The kernel's state could not be read: {error}")),
    }
    let (rules, unremoved) = netfilter::uninstall().await;
    removed.extend(rules);
    failures.extend(unremoved);
    (removed, failures)
}
