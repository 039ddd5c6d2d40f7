//! What is there, read from the kernel: one question for each sort of object, whatever their number.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::IpVersion;

use super::actual::{Actual, Device};
use super::object::{Fdb, RouteKind, State};
use super::{parse, plan};
use crate::device::{ROUTE_PROTOCOL, Setting};
use crate::interface::reader::{Netlink, ReadError, parsed};

/// Reads what `desired` has to be compared with. Gateways of earlier wishes are `former`.
pub(super) async fn read(
    netlink: &Netlink,
    desired: &State,
    former: &Actual,
) -> Result<Actual, ReadError> {
    let mut names = HashMap::new();
    let mut actual = Actual::default();
    let wanted = wanted_devices(desired);
    for (name, device) in links(netlink).await? {
        names.insert(device.index, name.clone());
        if device.vxlan.is_some() || wanted.contains(name.as_str()) {
            actual.devices.insert(name, device);
        }
    }
    add_addresses(netlink, &mut actual).await?;
    read_settings(&mut actual, desired);
    add_routes(netlink, &mut actual, desired, &names).await?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let answers = netlink.handle().rule().get(version).execute();
        actual.rules.extend(parsed(answers, |message| parse::rule(&message)).await?);
    }
    add_neighbours(netlink, &mut actual, desired).await?;
    actual.former_gateways = former_gateways(&actual, desired, former);
    Ok(actual)
}

async fn links(netlink: &Netlink) -> Result<Vec<(String, Device)>, ReadError> {
    let answers = netlink.handle().link().get().execute();
    parsed(answers, |message| Some(parse::link(&message))).await
}

/// The devices that the wanted objects name.
pub(super) fn wanted_devices(desired: &State) -> HashSet<&str> {
    let vxlans = desired.vxlans.iter().flat_map(|one| [&one.name, &one.underlay.name]);
    let routes = desired.routes.iter().filter_map(|route| match &route.kind {
        RouteKind::Unicast { device, .. } => Some(device),
        RouteKind::Blackhole | RouteKind::Unreachable => None,
    });
    vxlans.chain(routes).map(String::as_str).collect()
}

async fn add_addresses(netlink: &Netlink, actual: &mut Actual) -> Result<(), ReadError> {
    let mut by_link: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for address in netlink.addresses().await? {
        by_link.entry(address.link).or_default().push(address);
    }
    for device in actual.devices.values_mut().filter(|device| device.vxlan.is_some()) {
        device.addresses = by_link.remove(&device.index).unwrap_or_default();
    }
    Ok(())
}

fn read_settings(actual: &mut Actual, desired: &State) {
    actual.new_settings = Setting::ALL.map(|setting| setting.read("default"));
    for wanted in &desired.vxlans {
        if let Some(device) = actual.devices.get_mut(&wanted.name) {
            device.settings = Setting::ALL.map(|setting| setting.read(&wanted.name));
        }
    }
}

async fn add_routes(
    netlink: &Netlink,
    actual: &mut Actual,
    desired: &State,
    names: &HashMap<u32, String>,
) -> Result<(), ReadError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let answers = netlink.handle().route().get(question).execute();
        let name = |index| names.get(&index).cloned();
        let matters = |message: RouteMessage| {
            parse::route(&message, name).filter(|((destination, _), found)| {
                desired.is_inside(*destination) || found.protocol == ROUTE_PROTOCOL
            })
        };
        for (place, found) in parsed(answers, matters).await? {
            actual.routes.entry(place).or_default().push(found);
        }
    }
    Ok(())
}

async fn add_neighbours(
    netlink: &Netlink,
    actual: &mut Actual,
    desired: &State,
) -> Result<(), ReadError> {
    let wanted = desired.vxlans.iter().filter_map(|one| {
        let device = actual.devices.get(&one.name)?;
        Some((device.index, one.name.clone()))
    });
    let wanted: HashMap<u32, String> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in neighbours(netlink, family, &wanted).await? {
            if let Some((link, address, mac)) = parse::neighbour(&message) {
                actual.neighbours.insert((wanted[&link].clone(), address), mac);
            }
        }
    }
    for message in neighbours(netlink, AddressFamily::Bridge, &wanted).await? {
        if let Some((link, mac, destination)) = parse::fdb(&message) {
            actual.fdb.insert(Fdb { device: wanted[&link].clone(), mac, destination });
        }
    }
    Ok(())
}

async fn neighbours(
    netlink: &Netlink,
    family: AddressFamily,
    wanted: &HashMap<u32, String>,
) -> Result<Vec<NeighbourMessage>, ReadError> {
    let question = netlink.handle().neighbours().get().set_address_family(family);
    let is_on_wanted =
        |message: NeighbourMessage| wanted.contains_key(&message.header.ifindex).then_some(message);
    parsed(question.execute(), is_on_wanted).await
}

/// Those that are still in use. What is wanted now is among them, for the time when it is not any
/// more; so their number is bounded by that of the routes.
fn former_gateways(actual: &Actual, desired: &State, former: &Actual) -> BTreeSet<IpAddr> {
    let used: HashSet<_> =
        actual.routes.values().flatten().filter_map(|route| route.gateway()).collect();
    let known = plan::known(desired).chain(former.former_gateways.iter().copied());
    known.filter(|gateway| used.contains(gateway)).collect()
}
