//! What the device looks like, read from the kernel.

use std::net::IpAddr;

use super::plan::{Actual, foreign_routes, is_left_over};
use super::settings::Setting;
use super::{DesiredDevice, ForeignRoute};
use crate::interface::reader::{Netlink, ReadError};
use crate::interface::snapshot::Route;

/// Reads the device; `None` if there is none with this name.
pub(super) async fn read(
    netlink: &Netlink,
    desired: &DesiredDevice,
) -> Result<Option<Actual>, ReadError> {
    let Some(link) = netlink.link_named(&desired.name).await? else { return Ok(None) };
    let mut addresses = netlink.addresses().await?;
    let on_host = |wanted: &IpAddr| addresses.iter().any(|address| address.local == *wanted);
    let underlay_gone = desired.underlay.iter().copied().filter(|one| !on_host(one)).collect();
    addresses.retain(|address| address.link == link.index);
    let mut routes = netlink.routes().await?;
    let is_inside =
        |route: &Route| desired.networks().any(|network| network.contains(&route.destination));
    routes.retain(|route| is_inside(route) || is_left_over(route, link.index));
    let settings = Setting::COMMON.map(|setting| setting.read(&desired.name));
    let (index, mtu, up) = (link.index, link.mtu, link.up);
    Ok(Some(Actual { index, mtu, up, settings, addresses, routes, underlay_gone }))
}

/// What a device would find that is made now. No device has the index 0.
pub(super) async fn new_device(
    netlink: &Netlink,
    desired: &DesiredDevice,
) -> Result<Actual, ReadError> {
    let mut routes = netlink.routes().await?;
    routes.retain(|route| desired.networks().any(|network| network.contains(&route.destination)));
    Ok(Actual {
        index: 0,
        mtu: 0,
        up: false,
        settings: [None; Setting::COMMON.len()],
        addresses: Vec::new(),
        routes,
        underlay_gone: Vec::new(),
    })
}

/// The foreign routes, with the names of their devices.
pub(super) async fn name_foreign_routes(
    netlink: &Netlink,
    actual: &Actual,
    desired: &DesiredDevice,
) -> Result<Vec<ForeignRoute>, ReadError> {
    let routes: Vec<&Route> = foreign_routes(actual, desired).collect();
    if routes.is_empty() {
        return Ok(Vec::new());
    }
    let links = netlink.links().await?;
    let name = |index: u32| links.iter().find(|link| link.index == index);
    let named = |route: &Route| {
        let device = route.hops.first().and_then(|hop| name(hop.link));
        ForeignRoute::new(route, device.map(|link| link.name.clone()))
    };
    Ok(routes.into_iter().map(named).collect())
}
