//! WireGuard between the hosts: the kernel's own, or a program with a TUN device. Keys are made for
//! the run; configuration is by `wg`, which talks to all of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{PathKind, Programs, START_LIMIT, program};
use crate::lab::{Lab, Process, Side, wait_until};

/// UDP port of both hosts.
const PORT: &str = "51820";

/// Where programs make the sockets through which they are configured.
const SOCKETS: &str = "/var/run/wireguard";

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Kernel,
    Go,
    Boringtun,
}

/// One host's end. Dropping it removes the socket that a killed program leaves behind.
pub(super) struct Tunnel {
    wg: String,
    device: String,
    socket: PathBuf,
    public_key: String,
    private_key: PathBuf,
}

impl Tunnel {
    /// Makes a host's device, by a program or without one, and its keys.
    pub(super) fn make(
        lab: &Lab,
        side: Side,
        flavour: Flavour,
        programs: &Programs,
    ) -> Result<(Tunnel, Option<Process>)> {
        let wg = text(&program::find("wg", programs)?)?;
        // Namespaces do not separate the sockets, so the name must be nobody else's.
        let device = format!("wg{}-{}", std::process::id(), side.number());
        let private_key = lab.directory().join(format!("{device}.key"));
        let make_keys = "umask 077; \"$0\" genkey | tee \"$1\" | \"$0\" pubkey";
        let public_key = lab.host(side).run(&["sh", "-c", make_keys, &wg, &text(&private_key)?])?;
        let public_key = public_key.trim().to_owned();
        let socket = Path::new(SOCKETS).join(format!("{device}.sock"));
        let tunnel = Tunnel { wg, device, socket, public_key, private_key };
        let process = tunnel.start(lab, side, flavour, programs)?;
        Ok((tunnel, process))
    }

    fn start(
        &self,
        lab: &Lab,
        side: Side,
        flavour: Flavour,
        programs: &Programs,
    ) -> Result<Option<Process>> {
        let (host, device) = (lab.host(side), self.device.as_str());
        let mut process = match flavour {
            Flavour::Kernel => {
                let made = host.ip(&["link", "add", device, "type", "wireguard"]);
                made.context("The kernel has no WireGuard (module wireguard)")?;
                return Ok(None);
            }
            Flavour::Go => {
                let program = text(&program::find("wireguard-go", programs)?)?;
                host.spawn(&[&program, "--foreground", device])?
            }
            Flavour::Boringtun => {
                let program = text(&program::find("boringtun-cli", programs)?)?;
                host.spawn(&[&program, "--foreground", "--disable-drop-privileges", device])?
            }
        };
        wait_until("WireGuard's device", START_LIMIT, || {
            process.check_running()?;
            Ok(host.run(&[&self.wg, "show", device]).ok().map(drop))
        })?;
        Ok(Some(process))
    }

    fn connect(&self, lab: &Lab, side: Side, peer_key: &str) -> Result<()> {
        let (host, peer, device) = (lab.host(side), side.other(), self.device.as_str());
        let key = text(&self.private_key)?;
        let endpoint = format!("{}:{PORT}", peer.underlay_address());
        #[rustfmt::skip]
        host.run(&[
            &self.wg, "set", device, "listen-port", PORT, "private-key", &key,
            "peer", peer_key, "endpoint", &endpoint, "allowed-ips", &peer.subnet(),
        ])?;
        let mtu = PathKind::Wireguard.mtu(lab.options().underlay_mtu).to_string();
        host.ip(&["link", "set", device, "mtu", &mtu, "up"])?;
        host.ip(&["route", "add", &peer.subnet(), "dev", device]).map(drop)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // Most programs have done so by themselves.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Tells both ends of each other and routes the pods' subnets through them.
pub(super) fn connect(lab: &Lab, tunnels: &[Tunnel]) -> Result<()> {
    for (side, tunnel) in Side::BOTH.into_iter().zip(tunnels) {
        tunnel.connect(lab, side, &tunnels[side.other().index()].public_key)?;
    }
    Ok(())
}

/// Removes the kernel's devices. Those of a program go with it.
pub(super) fn remove(lab: &Lab, tunnels: &[Tunnel]) -> Result<()> {
    Side::BOTH.into_iter().zip(tunnels).try_for_each(|(side, tunnel)| {
        lab.host(side).ip(&["link", "delete", &tunnel.device]).map(drop)
    })
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("A path is not UTF-8")?.to_owned())
}
