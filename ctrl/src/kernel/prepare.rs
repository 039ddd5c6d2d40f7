//! What is needed of devices before there is a lease.

use std::collections::{BTreeMap, BTreeSet};

use super::MacAddress;
use super::action::{Action, Key};
use super::actual::Actual;
use super::execute::{Failure, execute};
use super::object::{State, Vxlan};
use super::plan::plan;
use super::read::read;
use crate::interface::reader::{Netlink, ReadError};

/// The hardware addresses of the VXLAN devices that are there, by name.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn vxlan_macs() -> Result<BTreeMap<String, MacAddress>, ReadError> {
    let netlink = Netlink::open()?;
    let actual = read(&netlink, &State::default(), &Actual::default()).await?;
    let vxlans = actual.devices.into_iter().filter(|(_, device)| device.vxlan.is_some());
    Ok(vxlans.filter_map(|(name, device)| Some((name, device.mac?))).collect())
}

/// Makes the devices, or adopts those that are there, without their addresses. What is on them, and
/// everything else, stays as it is. Gives what could not be done.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn make_devices(vxlans: &[Vxlan]) -> Result<Vec<Failure>, ReadError> {
    let netlink = Netlink::open()?;
    let desired = State { vxlans: vxlans.to_vec(), ..State::default() };
    let names: BTreeSet<&String> = vxlans.iter().map(|vxlan| &vxlan.name).collect();
    let is_about_one = |action: &Action| match action.key() {
        Key::Device(name) => names.contains(&name),
        _ => false,
    };
    let mut failures = Vec::new();
    // What a new device still needs is known when it is there.
    for _ in 0..2 {
        let mut actual = read(&netlink, &desired, &Actual::default()).await?;
        let mut actions = plan(&actual, &desired).actions;
        actions.retain(is_about_one);
        let executed = execute(&netlink, &mut actual, actions).await?;
        let failed = executed.failed.into_iter();
        failures =
            failed.map(|(action, sentence)| Failure { key: action.key(), sentence }).collect();
        if !executed.look_again {
            break;
        }
    }
    Ok(failures)
}
