//! Answers as tables for people.

use serde_json::{Map, Value};
use weft_ctrl::status::PathSwitches;

use super::{
    Datastore, Drop, Drops, OnDemand, PeerSealing, Peers, Released, Rotated, Sealing, Status,
    Traffic, UnusedLease, Worker, Workers,
};

/// `weft status`.
pub fn status(status: &Status) -> String {
    let mut rows = vec![
        ("version".to_owned(), status.version.clone()),
        ("process".to_owned(), format!("{}, up {}", status.pid, duration(status.uptime_seconds))),
        ("ready".to_owned(), if status.ready { "yes" } else { "no" }.to_owned()),
    ];
    rows.extend(status.problems.iter().map(|problem| ("  problem".to_owned(), problem.clone())));
    rows.push(("source".to_owned(), status.source.clone()));
    rows.push(("  connected".to_owned(), connection(&status.datastore)));
    if let Some(network) = &status.network {
        rows.push(("network".to_owned(), join([&network.ipv4, &network.ipv6])));
        let port = network.port.map_or_else(String::new, |port| format!(", port {port}"));
        rows.push(("backend".to_owned(), format!("{}{port}", network.backend)));
    }
    if let Some(interface) = &status.interface {
        let name = format!("{}, MTU {}", interface.name, interface.mtu);
        rows.push(("interface".to_owned(), name));
        rows.push(("addresses".to_owned(), list(&interface.addresses)));
        rows.push(("public addresses".to_owned(), list(&interface.public_addresses)));
    }
    if let Some(lease) = &status.lease {
        rows.push(("subnet".to_owned(), join([&lease.subnet, &lease.ipv6_subnet])));
        if let Some(left) = lease.expires_in_seconds {
            rows.push(("  runs out in".to_owned(), duration(left)));
        }
        rows.push(("identity".to_owned(), lease.id.clone()));
    }
    if let Some(device) = &status.device {
        rows.push(("device".to_owned(), format!("{}, MTU {}", device.name, device.mtu)));
    }
    if let Some(stalled) = &status.stalled {
        let text = format!("in {}, for {} ms", stalled.phase, stalled.milliseconds);
        rows.push(("stalled".to_owned(), text));
    }
    if let Some(engine) = &status.engine {
        rows.push(("engine".to_owned(), format!("{} ({})", engine.name, engine.reason)));
        rows.extend(named("  ", &engine.features));
    }
    rows.extend(status.sealing.iter().flat_map(sealing_rows));
    rows.extend(status.workers.iter().flat_map(worker_rows));
    rows.push(("peers".to_owned(), format!("{}, table {}", status.peers, status.epoch)));
    rows.extend(status.on_demand.iter().map(|asked| {
        let OnDemand { addresses, answered, unknown, refused } = asked;
        let text = format!(
            "{addresses} addresses; asked for {answered}, {unknown} of no lease, {refused} refused"
        );
        ("  on demand".to_owned(), text)
    }));
    rows.extend(path_rows(status));
    rows.extend(remarks(status));
    if let Some(traffic) = &status.traffic {
        rows.extend(traffic_rows(traffic));
    }
    columns(&rows)
}

fn sealing_rows(sealing: &Sealing) -> Vec<(String, String)> {
    let Sealing { mode, key, sessions, handshakes, given_up, .. } = sealing;
    let refused = sealing.rejected.values().filter_map(Value::as_u64).sum::<u64>();
    let made =
        format!("{sessions}, {handshakes} handshakes, {given_up} given up, {refused} refused");
    let mut rows = vec![("sealing".to_owned(), mode.clone()), ("  sessions".to_owned(), made)];
    if sealing.plain_peers > 0 {
        rows.push(("  hosts without a key".to_owned(), sealing.plain_peers.to_string()));
    }
    rows.extend(key.iter().map(|key| ("  public key".to_owned(), key.clone())));
    rows.extend(named("  refused ", &sealing.rejected));
    rows
}

fn worker_rows(workers: &Workers) -> Vec<(String, String)> {
    let Workers { count, asked_for, .. } = workers;
    let number = match &workers.fewer_because {
        None => count.to_string(),
        Some(reason) => format!("{count} instead of {asked_for}: {reason}"),
    };
    let mut rows = vec![("workers".to_owned(), number)];
    rows.extend(workers.each.iter().map(|worker| {
        let Worker { outbound_segments, inbound_segments, drops, .. } = worker;
        let text = format!(
            "{}, outbound {outbound_segments}, inbound {inbound_segments}, drops {drops}, busy \
             {} ms",
            worker.engine, worker.busy_milliseconds
        );
        (format!("  worker {}", worker.number), text)
    }));
    rows
}

fn connection(datastore: &Datastore) -> String {
    match (datastore.connected, &datastore.server) {
        (false, _) => "no".to_owned(),
        (true, None) => "yes".to_owned(),
        (true, Some(server)) => format!("to {server}"),
    }
}

/// `weft peers`.
pub fn peers(peers: &Peers) -> String {
    if peers.peers.is_empty() {
        return "No peers: no other host has a lease.\n".to_owned();
    }
    if peers.peers.iter().all(|peer| peer.slot.is_none()) {
        return kernel_peers(peers);
    }
    let head = ["SUBNET", "SENT TO", "PATH", "KIND", "IPV6 INSIDE", "PATH MTU", "SEGMENTATION"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let is_sealed = peers.peers.iter().any(|peer| peer.sealing.is_some());
    rows[0].extend(is_sealed.then(|| "SESSION".to_owned()));
    rows.extend(peers.peers.iter().map(|peer| {
        let mut row = vec![
            join([&peer.subnet, &peer.ipv6_subnet]),
            peer.outer.clone(),
            peer.path.clone(),
            if peer.id.is_some() { "weft" } else { "flannel" }.to_owned(),
            if peer.takes_ipv6 { "yes" } else { "no" }.to_owned(),
            peer.path_mtu.map_or_else(|| "full".to_owned(), |mtu| mtu.to_string()),
            if peer.segmentation { "kernel" } else { "off" }.to_owned(),
        ];
        row.extend(is_sealed.then(|| session(peer.sealing.as_ref())));
        row
    }));
    let mut text = table(&rows);
    if peers.peers.iter().any(|peer| !peer.paths.is_empty()) {
        text.push('\n');
        text.push_str(&paths(peers));
    }
    text
}

/// The paths to peers that have several, and why one of them is taken.
fn paths(peers: &Peers) -> String {
    let head = ["SUBNET", "PATH", "TAKEN", "WRONG WITH IT", "ROUND TRIP", "LOSS", "MTU"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for path in peers.peers.iter().flat_map(|peer| &peer.paths) {
        let dash = || "-".to_owned();
        let round_trip = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
        rows.push(vec![
            path.subnet.clone(),
            path.path.clone(),
            if path.chosen { "yes" } else { "no" }.to_owned(),
            path.problem.clone(),
            path.round_trip_us.map_or_else(dash, round_trip),
            path.loss.map_or_else(dash, |loss| format!("{:.1} %", loss * 100.0)),
            path.mtu.map_or_else(dash, |mtu| mtu.to_string()),
        ]);
    }
    let mut text = table(&rows);
    for peer in &peers.peers {
        if let Some(reason) = &peer.reason {
            let subnets = join([&peer.subnet, &peer.ipv6_subnet]);
            text.push_str(&format!("{subnets} takes {}: {reason}\n", peer.path));
        }
    }
    text
}

/// Peers that the kernel reaches: nothing is known about paths beyond their choice.
fn kernel_peers(peers: &Peers) -> String {
    let mut rows =
        vec![["SUBNET", "SENT TO", "PATH", "KIND", "BECAUSE"].map(str::to_owned).to_vec()];
    rows.extend(peers.peers.iter().map(|peer| {
        vec![
            join([&peer.subnet, &peer.ipv6_subnet]),
            list(&peer.addresses),
            peer.path.clone(),
            if peer.id.is_some() { "weft" } else { "flannel" }.to_owned(),
            peer.reason.clone().unwrap_or_else(|| "the config says so".to_owned()),
        ]
    }));
    table(&rows)
}

/// `weft drops`.
pub fn drops(drops: &Drops) -> String {
    if let Some(note) = &drops.note {
        return format!("{note}\n\n{}", section("Dropped by the device", &drops.kernel));
    }
    let sections = [
        ("Outbound, from the device to the peers", &drops.outbound),
        ("Inbound, from the peers to the device", &drops.inbound),
        ("Dropped by the kernel around us", &drops.kernel),
        ("Kernel counters that are not loss of ours", &drops.not_loss),
    ];
    let shown: Vec<String> = sections.map(|(title, lines)| section(title, lines)).into();
    shown.join("\n")
}

/// `weft release`.
pub fn released(released: &Released) -> String {
    format!("The lease {} is given back, and the daemon ends.\n", released.lease)
}

fn session(sealing: Option<&PeerSealing>) -> String {
    match sealing.map(|sealing| sealing.session_age_seconds) {
        None => "plain".to_owned(),
        Some(None) => "none".to_owned(),
        Some(Some(age)) => format!("{} old", duration(age)),
    }
}

/// `weft keys rotate`.
pub fn rotated(rotated: &Rotated) -> String {
    format!("This host's key is now {}. Its lease says so.\n", rotated.key)
}

/// Which paths peers are reached on, and how often that has changed.
fn path_rows(status: &Status) -> Vec<(String, String)> {
    let mut rows: Vec<_> = status
        .paths
        .iter()
        .map(|(path, count)| (format!("  on {path}"), count.to_string()))
        .collect();
    rows.extend(status.path_switches.iter().map(|switches| {
        let PathSwitches { from, to, reason, count } = switches;
        let why = if reason == "none" { "a better path" } else { reason };
        ("  other path".to_owned(), format!("{count} times from {from} to {to}: {why}"))
    }));
    rows
}

/// What is not as somebody may expect it, though nothing is broken.
fn remarks(status: &Status) -> Vec<(String, String)> {
    let unused = |title: &str, leases: &[UnusedLease]| -> Vec<_> {
        let line = |lease: &UnusedLease| format!("{}: {}", lease.name, lease.text);
        leases.iter().map(|lease| (title.to_owned(), line(lease))).collect()
    };
    let mut rows = unused("  rejected", &status.rejected);
    rows.extend(unused("  skipped", &status.skipped));
    rows.extend(status.foreign.iter().map(|route| ("foreign route".to_owned(), route.clone())));
    rows.extend(status.config_change.iter().map(|note| ("config".to_owned(), note.clone())));
    rows
}

fn section(title: &str, lines: &[Drop]) -> String {
    if lines.is_empty() {
        return format!("{title}: nothing\n");
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| vec![format!("  {}", line.count), line.reason.clone(), line.text.clone()])
        .collect();
    format!("{title}:\n{}", table(&rows))
}

fn traffic_rows(traffic: &Traffic) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let parts = [
        ("outbound", &traffic.outbound),
        ("inbound", &traffic.inbound),
        ("other", &traffic.other),
        ("shortcut", &traffic.shortcut),
    ];
    for (title, numbers) in parts.into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        rows.push((title.to_owned(), String::new()));
        rows.extend(named("  ", numbers));
    }
    rows
}

fn named(indent: &str, values: &Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    values
        .iter()
        .map(|(name, value)| (format!("{indent}{}", name.replace('_', " ")), text(value)))
        .collect()
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn join(parts: [&Option<String>; 2]) -> String {
    parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
}

fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days == 0 { clock } else { format!("{days} d {clock}") }
}

fn columns(rows: &[(String, String)]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    table(&rows)
}

/// Columns two blanks apart, as wide as their longest cell. Names of leases are what others have
/// written, so nothing in a cell may steer the terminal.
fn table(rows: &[Vec<String>]) -> String {
    let plain = |cell: &String| -> String {
        let shown = |letter: char| match letter.is_control() {
            true => letter.escape_default().collect(),
            false => letter.to_string(),
        };
        cell.chars().map(shown).collect()
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&format!("{cell:<width$}  ", width = width(column).unwrap_or(0)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
