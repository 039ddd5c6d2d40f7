//! Three hosts with all paths: two on a link, the third behind a router. One path breaks after the other,
//! and connections between pods outlive it all.
//!
//! ```text
//! pod -- cni0 [left] u1 --+
//!                         b0 [router] p3 -- u3 [third] cni0 -- pod
//! pod -- cni0 [right] u2 -+
//! ```

use std::time::{Duration, Instant};

use crate::host::{Daemon, Host};
use crate::paths::{ALL, Filter, LEFT_WITHIN, RETURNED_WITHIN};
use crate::pod::{Pod, ip};
use crate::stream::Stream;
use crate::world::{Families, World, join, pods};

/// What is not the engine's, on its way in at a host.
const PLAIN: &str = "ip saddr 10.244.0.0/16";
const VXLAN: &str = "udp dport 8472";

/// A host of the switch's network namespace, which routes to it.
fn behind_router(world: &World) -> Host {
    let third = Host::at(&world.switch, &world.leases, 3);
    let router = &world.switch.namespace;
    for words in [
        &["link", "set", "p3", "nomaster"][..],
        &["address", "add", "10.169.0.1/24", "dev", "p3"],
        &["address", "add", "fd10:169::1/64", "dev", "p3", "nodad"],
        &["address", "add", "fd10:168::1/64", "dev", "b0", "nodad"],
    ] {
        ip(&[&["-n", router], words].concat());
    }
    let forward = ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    ip(&[&["netns", "exec", router], &forward[..]].concat());
    for words in [
        &["address", "flush", "dev", "u3"][..],
        &["address", "add", "10.169.0.2/24", "dev", "u3"],
        &["address", "add", "fd10:169::2/64", "dev", "u3", "nodad"],
        &["route", "replace", "default", "via", "10.169.0.1", "dev", "u3"],
    ] {
        third.run(&[&["ip"], words].concat());
    }
    for (host, router) in [(&world.left, "168"), (&world.right, "168"), (&third, "169")] {
        let (via, device) = (format!("fd10:{router}::1"), host.underlay());
        host.run(&["ip", "route", "replace", "default", "via", &via, "dev", &device]);
    }
    third
}

/// The path that a host takes to a subnet.
fn path(daemon: &Daemon<'_>, subnet: &str) -> String {
    let peers = daemon.ask("peers")["peers"].clone();
    let found = peers.as_array().into_iter().flatten().find(|peer| peer["subnet"] == subnet);
    found.and_then(|peer| peer["path"].as_str()).unwrap_or_default().to_owned()
}

struct Scene<'a> {
    hosts: [&'a Host; 3],
    daemons: [&'a Daemon<'a>; 3],
    subnets: [String; 3],
    streams: Vec<Stream>,
    table: Vec<(String, Duration, Duration)>,
}

impl Scene<'_> {
    /// The path that one host takes to another.
    fn path(&self, from: usize, to: usize) -> String {
        path(self.daemons[from], &self.subnets[to])
    }

    /// Waits until left and right, and left and third, take these paths to each other, and notes how
    /// long each pair took after `fault`.
    fn wait_for(&mut self, fault: &str, [pair, routed]: [&str; 2], most: Duration) {
        let start = Instant::now();
        let mut times = [None; 2];
        while times.contains(&None) {
            let is_so = [
                self.path(0, 1) == pair && self.path(1, 0) == pair,
                self.path(0, 2) == routed && self.path(2, 0) == routed,
            ];
            for (time, is_so) in times.iter_mut().zip(is_so) {
                *time = if is_so { time.or(Some(start.elapsed())) } else { None };
            }
            let shown = || self.daemons.map(|daemon| daemon.show("peers")).join("\n");
            assert!(
                start.elapsed() < most,
                "{fault}: {pair}, {routed} after {most:?}: {}",
                shown()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let [pair, routed] = times.map(Option::unwrap);
        self.streams.iter().for_each(|stream| stream.check(fault));
        self.table.push((fault.to_owned(), pair, routed));
    }

    fn end(self) {
        println!("{:44} {:>8} {:>8}", "seconds until both ends have changed", "on link", "routed");
        for (fault, pair, routed) in &self.table {
            println!("{fault:44} {:>8.2} {:>8.2}", pair.as_secs_f64(), routed.as_secs_f64());
        }
        self.streams.into_iter().for_each(Stream::end);
    }
}

/// Starts all, with a stream from the left host's pod to each of the others in every family, and breaks
/// it.
fn run(families: Families, rp_filter: &str, breakage: fn(&mut Scene<'_>)) {
    let Some(world) = World::new(families, ALL) else { return };
    let third = behind_router(&world);
    let hosts = [&world.left, &world.right, &third];
    for host in hosts {
        for device in ["all", "default"] {
            let setting = format!("net.ipv4.conf.{device}.rp_filter={rp_filter}");
            host.run(&["sysctl", "-qw", &setting]);
        }
    }
    let mut daemons = hosts.map(|host| host.start(&[&format!("--iface={}", host.underlay())]));
    daemons.iter_mut().for_each(|daemon| join(daemon, 2));
    let daemons = daemons.each_ref();
    let subnets =
        daemons.map(|daemon| daemon.ask("status")["lease"]["subnet"].as_str().unwrap().to_owned());
    let (mut streams, mut bridged) = (Vec::new(), Vec::new());
    if families == Families::V4 {
        bridged.extend(hosts.into_iter().zip(1..).map(|(host, number)| Pod::behind(host, number)));
        let ends: Vec<_> =
            bridged.iter().map(|pod| (pod.namespace.as_str(), pod.address)).collect();
        streams.extend(ends[1..].iter().map(|to| Stream::across(ends[0], *to)));
    } else {
        let pods = [0, 1, 2].map(|at| pods(hosts[at], daemons[at]));
        for (at, family) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            let end = |at: usize| (hosts[at], pods[at][family]);
            streams.push(Stream::from_to(end(0), end(at)));
        }
    }
    let mut scene = Scene { hosts, daemons, subnets, streams, table: Vec::new() };
    scene.wait_for("the start", ["host-gw", "vxlan"], RETURNED_WITHIN);
    println!("rp_filter {rp_filter}, {families:?}");
    breakage(&mut scene);
    scene.end();
}

/// Leaves everything for the engine.
fn break_kernel_paths(scene: &mut Scene<'_>) {
    let [left, right, _] = scene.hosts;
    let _one_way = Filter::drop(right, &format!(r#"iifname "u2" {PLAIN}"#));
    scene.wait_for("plain routing dropped one way", ["vxlan", "vxlan"], RETURNED_WITHIN);
    let _tunnel = Filter::drop(left, &format!(r#"iifname "u1" {VXLAN}"#));
    scene.wait_for("and UDP 8472 blocked", ["udp", "udp"], RETURNED_WITHIN);
}

fn break_everything(scene: &mut Scene<'_>) {
    let [left, right, third] = scene.hosts;
    break_kernel_paths(scene);
    // Paths that were left prove themselves meanwhile, and are taken if there is nothing else.
    left.run(&["ip", "link", "delete", "flannel0"]);
    let start = Instant::now();
    while scene.path(0, 2) == "udp" || scene.path(0, 1) == "udp" {
        assert!(start.elapsed() < LEFT_WITHIN, "{}", scene.daemons[0].show("peers"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let moved = start.elapsed();
    scene.table.push(("the engine's device deleted".to_owned(), moved, moved));
    scene.wait_for("everything open again", ["host-gw", "vxlan"], RETURNED_WITHIN);
    {
        let _large = Filter::drop(right, &format!(r#"iifname "u2" {PLAIN} meta length > 1300"#));
        let _tunnel = Filter::drop(third, &format!(r#"iifname "u3" {VXLAN} meta length > 1300"#));
        scene.wait_for("large packets dropped", ["vxlan", "udp"], RETURNED_WITHIN);
        left.run(&["ip", "link", "delete", "flannel.1"]);
        scene.wait_for("the VXLAN device deleted", ["vxlan", "udp"], RETURNED_WITHIN);
    }
    scene.wait_for("everything open again", ["host-gw", "vxlan"], RETURNED_WITHIN);
}

/// IPv4 goes on where it was.
fn break_ipv6(scene: &mut Scene<'_>) {
    let [_, right, third] = scene.hosts;
    let _plain = Filter::drop(right, r#"iifname "u2" ip6 saddr fd44::/48"#);
    let _tunnel = Filter::drop(third, &format!(r#"iifname "u3" ip6 saddr fd10:168::/64 {VXLAN}"#));
    let fault = "IPv6: plain routing dropped, 8472 blocked";
    scene.wait_for(fault, ["host-gw, vxlan", "vxlan, udp"], RETURNED_WITHIN);
}

#[test]
fn connections_outlive_every_fault_between_three_hosts() {
    run(Families::V4, "1", break_everything);
}

/// The strictest filter is that of the test above; of the others, what differs is whether packets pass.
#[test]
fn without_a_reverse_path_filter_families_are_judged_apart() {
    run(Families::Both, "0", break_ipv6);
}

#[test]
fn with_a_loose_reverse_path_filter_connections_outlive_the_kernels_paths() {
    run(Families::V4, "2", break_kernel_paths);
}
