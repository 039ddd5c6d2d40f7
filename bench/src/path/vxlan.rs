//! Kernel VXLAN exactly as flanneld's vxlan backend leaves it: one device with the subnet's first
//! address, and for each peer a permanent neighbour, a forwarding entry and an onlink route.

use anyhow::Result;

use crate::lab::{Lab, Side};
use crate::path::PathKind;

/// Its name: `flannel.` and the VNI.
pub(super) const DEVICE: &str = "flannel.1";

pub(super) fn set_up(lab: &Lab) -> Result<()> {
    Side::BOTH.into_iter().try_for_each(|side| make_flannels_device(lab, side))?;
    Side::BOTH.into_iter().try_for_each(|side| add_peer(lab, side))
}

/// A device on host 1 that is told by each route where packets go (`external`), and flannel's on host
/// 2. Host 1 has no route yet.
pub(super) fn set_up_external(lab: &Lab) -> Result<()> {
    make_device(lab, Side::One, &["external"])?;
    add_neighbour(lab, Side::One)?;
    make_flannels_device(lab, Side::Two)?;
    add_peer(lab, Side::Two)
}

pub(super) fn remove(lab: &Lab) -> Result<()> {
    Side::BOTH
        .into_iter()
        .try_for_each(|side| lab.host(side).ip(&["link", "delete", DEVICE]).map(drop))
}

fn make_flannels_device(lab: &Lab, side: Side) -> Result<()> {
    let local = side.underlay_address().to_string();
    make_device(lab, side, &["id", "1", "dev", side.underlay_device(), "local", &local])
}

fn make_device(lab: &Lab, side: Side, kind: &[&str]) -> Result<()> {
    let host = lab.host(side);
    let mtu = PathKind::Vxlan.mtu(lab.options().underlay_mtu).to_string();
    #[rustfmt::skip]
    let common = [
        "link", "add", DEVICE, "address", mac(side), "mtu", &mtu, "txqueuelen", "0",
        "type", "vxlan", "dstport", "8472", "nolearning",
    ];
    host.ip(&[&common, kind].concat())?;
    host.sysctl(&format!("net/ipv6/conf/{DEVICE}/accept_ra"), "0")?;
    host.ip(&["address", "add", &format!("{}/32", side.overlay_address()), "dev", DEVICE])?;
    host.ip(&["link", "set", DEVICE, "up"])?;
    Ok(())
}

/// The device of the other host, as the neighbour that routes lead through.
fn add_neighbour(lab: &Lab, side: Side) -> Result<()> {
    let peer = side.other();
    let address = peer.overlay_address().to_string();
    let neighbour = [&address, "lladdr", mac(peer), "dev", DEVICE, "nud", "permanent"];
    lab.host(side).ip(&[&["neighbour", "replace"], &neighbour[..]].concat()).map(drop)
}

fn add_peer(lab: &Lab, side: Side) -> Result<()> {
    add_neighbour(lab, side)?;
    let (host, peer) = (lab.host(side), side.other());
    let (address, outer) =
        (peer.overlay_address().to_string(), peer.underlay_address().to_string());
    let entry = [mac(peer), "dst", &outer, "dev", DEVICE, "self", "permanent"];
    host.bridge(&[&["fdb", "replace"], &entry[..]].concat())?;
    let route = [&peer.subnet(), "via", &address, "dev", DEVICE, "onlink"];
    host.ip(&[&["route", "replace"], &route[..]].concat())?;
    Ok(())
}

/// A locally administered address a side.
fn mac(side: Side) -> &'static str {
    match side {
        Side::One => "02:00:0a:f4:01:00",
        Side::Two => "02:00:0a:f4:02:00",
    }
}
