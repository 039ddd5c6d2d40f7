//! A route that drops what is for the own subnet and nothing more specific takes, so that it does not
//! go round by the default route or the overlay.

use ipnet::IpNet;

use super::refusal::Refusal;
use super::rules::Overlay;
use crate::interface::reader::Netlink;
use crate::interface::snapshot::Route;

const REFUSAL: Refusal = Refusal::NoPod;

/// Adds the routes to `subnets` that are missing and removes those of ours to other subnets of
/// `ours`. Returns a sentence for each failure.
pub(super) async fn keep(subnets: &[IpNet], ours: &[Overlay]) -> Vec<String> {
    let failed = |error: &dyn std::error::Error| vec![format!("The blackhole route: {error}")];
    let netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(error) => return failed(&error),
    };
    let routes = match netlink.routes().await {
        Ok(routes) => routes,
        Err(error) => return failed(&error),
    };
    let is_stale = |route: &&Route| {
        REFUSAL.has_made(route)
            && !subnets.contains(&route.destination)
            && ours.iter().any(|ours| ours.network.contains(&route.destination))
    };
    let stale: Vec<IpNet> = routes.iter().filter(is_stale).map(|route| route.destination).collect();
    let is_there =
        |subnet: &IpNet| routes.iter().any(|route| !route.unicast && route.destination == *subnet);
    let mut failures = Vec::new();
    for subnet in subnets.iter().filter(|subnet| !is_there(subnet)) {
        if let Err(error) = netlink.handle().route().add(REFUSAL.message(*subnet)).execute().await {
            failures.push(format!("The blackhole route to {subnet} could not be added: {error}"));
        }
    }
    failures.extend(delete(&netlink, &stale).await);
    failures
}

/// Removes all of ours; returns where they led to.
///
/// # Errors
/// A sentence that names what could not be removed.
pub(super) async fn remove_all() -> Result<Vec<IpNet>, String> {
    let failed = |error: &dyn std::error::Error| format!("Routes could not be read: {error}");
    let netlink = Netlink::open().map_err(|error| failed(&error))?;
    let routes = netlink.routes().await.map_err(|error| failed(&error))?;
    let ours: Vec<IpNet> = routes
        .iter()
        .filter(|route| REFUSAL.has_made(route))
        .map(|route| route.destination)
        .collect();
    let failures = delete(&netlink, &ours).await;
    if failures.is_empty() { Ok(ours) } else { Err(failures.join("; ")) }
}

async fn delete(netlink: &Netlink, subnets: &[IpNet]) -> Vec<String> {
    let mut failures = Vec::new();
    for subnet in subnets {
        if let Err(error) = netlink.handle().route().del(REFUSAL.message(*subnet)).execute().await {
            failures.push(format!("The blackhole route to {subnet} could not be removed: {error}"));
        }
    }
    failures
}
