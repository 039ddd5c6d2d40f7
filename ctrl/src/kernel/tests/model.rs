//! A plan applied to a model of the kernel leaves what is wanted, nothing to plan, and what is
//! foreign as it was.

use ipnet::IpNet;
use proptest::prelude::*;

use super::text::{actual, new_device, state};
use crate::kernel::action::Action;
use crate::kernel::actual::{Actual, FoundRoute};
use crate::kernel::object::{Route, State};
use crate::kernel::plan::plan;

fn obey(actual: &mut Actual, actions: &[Action]) {
    for action in actions {
        actual.apply(action);
        if let Action::AddLink(vxlan) = action {
            assert!(!actual.devices.contains_key(&vxlan.name), "{action}: it is there");
            actual.devices.insert(vxlan.name.clone(), new_device(vxlan));
        }
    }
}

/// Links, and for a few peers each sort of object in several variants, right and wrong ones.
fn text() -> impl Strategy<Value = String> {
    let peer = (2..5_u8, 1..3_u8, 1..3_u8, 0..8_u8, any::<bool>());
    let peers = prop::collection::vec(peer, 0..6);
    (any::<bool>(), any::<bool>(), peers).prop_map(|(v4, v6, peers)| {
        let mut lines = Vec::new();
        lines.extend(v4.then(|| "link flannel.1".to_owned()));
        lines.extend(v6.then(|| "link flannel-v6.1".to_owned()));
        for (number, mac, host, variant, is_v6) in peers {
            lines.extend(peer_lines(number, mac, host, (variant, is_v6)));
        }
        lines.join("\n")
    })
}

fn peer_lines(number: u8, mac: u8, host: u8, (variant, is_v6): (u8, bool)) -> Vec<String> {
    let (inner, outer, length, device) = if is_v6 {
        (format!("fd00:244:0:{number}::"), format!("fd01::{number}{host}"), 64, "flannel-v6.1")
    } else {
        (format!("10.244.{number}.0"), format!("10.168.{number}.{host}"), 24, "flannel.1")
    };
    let overlay = || {
        vec![
            format!("neigh {inner} lladdr 0a:00:00:00:0{number}:0{mac} dev {device}"),
            format!("fdb 0a:00:00:00:0{number}:0{mac} dev {device} dst {outer} self"),
        ]
    };
    let to = format!("route {inner}/{length}");
    match variant {
        0..3 => {
            let mut lines = overlay();
            lines.push(format!("{to} via {inner} dev {device} onlink"));
            lines
        }
        3 => overlay(),
        4 => vec![format!("{to} via {outer} dev u1")],
        5 => vec![format!("{to} via {outer} dev u1 metric {}", 10 * u32::from(host))],
        6 => vec![format!("route blackhole {inner}/{length} metric 9999")],
        _ => vec![format!("{to} via {outer} dev u1 table 99")],
    }
}

/// Routes of all sorts of origins for the same destinations, and some outside of the networks.
fn origins() -> impl Strategy<Value = String> {
    let one = (2..6_u8, 1..3_u8, prop::sample::select(vec![2, 3, 4, 82, 186]), 0..4_u8);
    prop::collection::vec(one, 0..6).prop_map(|routes| {
        let lines = routes.into_iter().map(|(number, host, protocol, variant)| {
            let end = format!("via 10.168.{number}.{host} dev u1 proto {protocol}");
            match variant {
                0 => format!("route 10.99.{number}.0/24 {end}"),
                1 => format!("route 10.244.{number}.0/24 {end} metric {}", 10 * u32::from(host)),
                2 => format!("route fd00:244:0:{number}::/64 via fd01::{number}{host} dev u1 metric 5 proto {protocol}"),
                _ => format!("route 10.244.{number}.0/24 {end}"),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// Keeps the first of several objects with one key, as a wish has to be.
fn wish(text: &str) -> State {
    let mut wish = state(text);
    first_of(&mut wish.routes, |one| (one.destination, one.table));
    first_of(&mut wish.neighbours, |one| (one.device.clone(), one.address));
    first_of(&mut wish.fdb, |one| (one.device.clone(), one.mac));
    let names: Vec<String> = wish.vxlans.iter().map(|vxlan| vxlan.name.clone()).collect();
    wish.neighbours.retain(|one| names.contains(&one.device));
    wish.fdb.retain(|one| names.contains(&one.device));
    wish.routes.retain(|one| {
        let text = one.to_string();
        !text.contains("dev flannel") || names.iter().any(|name| text.contains(name))
    });
    wish
}

fn first_of<T, K: PartialEq>(all: &mut Vec<T>, key: impl Fn(&T) -> K) {
    let mut seen = Vec::new();
    all.retain(|one| {
        let is_new = !seen.contains(&key(one));
        seen.push(key(one));
        is_new
    });
}

/// The kernel has no two equal routes, and one for each metric with IPv4.
fn possible(text: &str) -> Actual {
    let mut there = actual(text);
    for ((destination, _), routes) in &mut there.routes {
        first_of(routes, |one| match destination {
            IpNet::V4(_) => (one.metric, None),
            IpNet::V6(_) => (one.metric, one.kind.clone()),
        });
    }
    let names: Vec<String> = there.devices.keys().cloned().collect();
    let exists =
        |route: &FoundRoute| route.device().is_none_or(|name| names.iter().any(|one| one == name));
    there.routes.values_mut().for_each(|routes| routes.retain(exists));
    there.routes.retain(|_, routes| !routes.is_empty());
    there.neighbours.retain(|(device, _), _| names.contains(device));
    there.fdb.retain(|entry| names.contains(&entry.device));
    there
}

/// Certainly not ours: made by a routing daemon or the kernel, or outside.
fn foreign(there: &Actual, wanted: &State) -> Vec<(IpNet, FoundRoute)> {
    let all = there.routes.iter().flat_map(|((to, _), routes)| routes.iter().map(|one| (*to, one)));
    let is_foreign = |to: IpNet, route: &FoundRoute| {
        route.device() == Some("u1")
            && (!wanted.is_inside(to) || [2, 4, 186].contains(&route.protocol))
    };
    all.filter(|(to, one)| is_foreign(*to, one)).map(|(to, one)| (to, one.clone())).collect()
}

fn is_there(there: &Actual, route: &Route) -> bool {
    let found = there.routes.get(&(route.destination, route.table));
    found.is_some_and(|all| {
        all.iter()
            .any(|one| FoundRoute { link: None, ..one.clone() } == FoundRoute::of(route, None))
    })
}

proptest! {
    #[test]
    fn a_plan_leads_to_what_is_wanted(before in text(), origins in origins(), wanted in text()) {
        let wanted = wish(&wanted);
        let mut there = possible(&format!("{before}\n{origins}"));
        let foreign_before = foreign(&there, &wanted);
        let first = plan(&there, &wanted);
        obey(&mut there, &first.actions);
        let again = plan(&there, &wanted);
        prop_assert_eq!(&again.actions, &[]);
        prop_assert_eq!(&again.foreign, &first.foreign);
        prop_assert_eq!(foreign(&there, &wanted), foreign_before);

        let blocked: Vec<IpNet> = first.foreign.iter().map(|one| one.destination).collect();
        for route in &wanted.routes {
            let rivals = there.routes.get(&(route.destination, route.table)).into_iter().flatten();
            let has_rival = rivals.clone().any(|one| one.protocol != 82);
            let blocked = blocked.contains(&route.destination) || has_rival;
            prop_assert!(blocked || is_there(&there, route), "{} is missing", route);
        }
        for wish in &wanted.neighbours {
            let has = there.neighbours.get(&(wish.device.clone(), wish.address));
            prop_assert_eq!(has, Some(&wish.mac));
        }
        for wish in &wanted.vxlans {
            prop_assert!(there.devices[&wish.name].up);
        }
        let on_ours = there.fdb.iter().filter(|one| wanted.vxlans.iter().any(|v| v.name == one.device));
        let mut fdb = wanted.fdb.clone();
        fdb.sort();
        prop_assert_eq!(on_ours.cloned().collect::<Vec<_>>(), fdb);
    }
}
