//! Devices with their addresses and settings.

use std::net::IpAddr;

use super::Planner;
use crate::device::Setting;
use crate::interface::snapshot::Address;
use crate::kernel::ALIAS;
use crate::kernel::action::{Action, Key};
use crate::kernel::actual::{Device, VxlanParameters};
use crate::kernel::object::Vxlan;

impl Planner<'_> {
    pub(super) fn links(&mut self) {
        let (actual, desired) = (self.actual, self.desired);
        for wanted in &desired.vxlans {
            match actual.devices.get(&wanted.name) {
                Some(Device { vxlan: None, .. }) => {
                    let sentence = format!(
                        "There is a device {0} that is no VXLAN device. Remove or rename it: ip \
                         link delete {0}",
                        wanted.name
                    );
                    self.plan.obstacles.push((Key::Device(wanted.name.clone()), sentence));
                    continue;
                }
                Some(Device { vxlan: Some(has), .. }) if !is_compatible(has, wanted) => {
                    self.plan.actions.push(Action::DeleteLink(wanted.name.clone()));
                    self.emptied.insert(&wanted.name);
                    self.new_link(wanted);
                }
                Some(device) => self.existing_link(wanted, device),
                None => self.new_link(wanted),
            }
            self.usable.insert(&wanted.name);
        }
    }

    fn new_link(&mut self, wanted: &Vxlan) {
        let name = || wanted.name.clone();
        let steps = &mut self.plan.actions;
        steps.push(Action::AddLink(wanted.clone()));
        steps.push(Action::SetAlias(name(), ALIAS.to_owned()));
        let is_right = |setting: &Setting| {
            self.actual.new_setting(*setting).is_some_and(|value| setting.is_right(value))
        };
        let wrong = wanted.settings().filter(|setting| !is_right(setting));
        steps.extend(wrong.map(|setting| Action::Set(name(), setting)));
        steps.push(Action::AddAddress(name(), wanted.address));
        steps.push(Action::SetUp(name()));
    }

    /// What flanneld or an earlier run left is taken over as it is, and put right without being
    /// removed.
    fn existing_link(&mut self, wanted: &Vxlan, device: &Device) {
        let name = || wanted.name.clone();
        let steps = &mut self.plan.actions;
        if device.alias.as_deref() != Some(ALIAS) {
            steps.push(Action::SetAlias(name(), ALIAS.to_owned()));
        }
        if device.mac != Some(wanted.mac) {
            steps.push(Action::SetMac(name(), wanted.mac));
            let kept = self.desired.vxlans.iter().find(|one| one.name == wanted.name);
            self.flushed.extend(kept.map(|one| one.name.as_str()));
        }
        if device.mtu != wanted.mtu {
            steps.push(Action::SetMtu(name(), wanted.mtu));
        }
        if device.vxlan.as_ref().is_some_and(|has| has.learning != wanted.learning) {
            steps.push(Action::SetLearning(name(), wanted.learning));
        }
        let is_wrong = |setting: &Setting| {
            device.setting(*setting).is_some_and(|value| !setting.is_right(value))
        };
        steps.extend(wanted.settings().filter(is_wrong).map(|one| Action::Set(name(), one)));
        steps.extend(add_address(device, wanted));
        if !device.up {
            steps.push(Action::SetUp(name()));
        }
        self.delete_addresses(wanted, device);
    }

    fn delete_addresses(&mut self, wanted: &Vxlan, device: &Device) {
        let is_too_much = |address: &&Address| {
            self.desired.is_inside(address.local.into())
                && !has_form(address, wanted.address)
                && !is_in_the_way(address, wanted.address)
        };
        let stale = device.addresses.iter().filter(is_too_much).cloned();
        self.stale.extend(stale.map(|address| Action::DeleteAddress(wanted.name.clone(), address)));
    }
}

/// As flanneld compares, without what can be changed on a living device. Absent values differ from
/// none (`IFLA_VXLAN_LINK`, `IFLA_VXLAN_LOCAL`).
fn is_compatible(has: &VxlanParameters, wanted: &Vxlan) -> bool {
    has.vni == wanted.vni
        && has.underlay.is_none_or(|index| index == wanted.underlay.index)
        && has.local.is_none_or(|local| local == wanted.local)
        && has.group.is_none()
        && has.port == wanted.port
        && has.gbp == wanted.gbp
        && [has.proxy, has.l2miss, has.l3miss] == [wanted.miss; 3]
}

/// IPv6 has an address only once per device, whatever its prefix length, so one of another form
/// has to go before. One that has only a lifetime too much loses that by being added again.
fn add_address(device: &Device, wanted: &Vxlan) -> Vec<Action> {
    let is_there = |address: &Address| has_form(address, wanted.address) && address.permanent;
    if device.addresses.iter().any(is_there) {
        return Vec::new();
    }
    let blocking = device.addresses.iter().filter(|one| is_in_the_way(one, wanted.address));
    let delete = blocking.map(|one| Action::DeleteAddress(wanted.name.clone(), one.clone()));
    delete.chain([Action::AddAddress(wanted.name.clone(), wanted.address)]).collect()
}

fn is_in_the_way(address: &Address, wanted: IpAddr) -> bool {
    wanted.is_ipv6() && address.local == wanted && !has_form(address, wanted)
}

fn has_form(address: &Address, wanted: IpAddr) -> bool {
    let length = if wanted.is_ipv4() { 32 } else { 128 };
    address.local == wanted && address.prefix_length == length && address.peer.is_none()
}
