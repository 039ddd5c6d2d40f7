//! `udp` with several `Paths`: one breaks after the other, and a connection outlives it all.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Daemon, Host};
use crate::pod::{Pod, ip};
use crate::stream::Stream;
use crate::world::{Families, World, ping, pods, routes};

pub(crate) const ALL: &str = r#"{"Type":"udp","Paths":["host-gw","vxlan","udp"]}"#;

/// A dead path is left within three seconds; what takes longer here is the machine's load.
pub(crate) const LEFT_WITHIN: Duration = Duration::from_secs(30);

/// A path that was left often is returned to after minutes. This is after the first few times.
pub(crate) const RETURNED_WITHIN: Duration = Duration::from_secs(60);

/// Drops packets that come in at a host, or lets them through again.
pub(crate) struct Filter<'a>(&'a Host);

impl<'a> Filter<'a> {
    pub(crate) fn drop(host: &'a Host, rule: &str) -> Self {
        host.run(&["nft", "add", "table", "inet", "fault"]);
        let hook = "{ type filter hook prerouting priority -400; }";
        host.run(&["nft", "add", "chain", "inet", "fault", "in", hook]);
        host.run(&["nft", "add", "rule", "inet", "fault", "in", &format!("{rule} drop")]);
        Self(host)
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        self.0.run(&["nft", "delete", "table", "inet", "fault"]);
    }
}

pub(crate) fn path(daemon: &Daemon<'_>) -> String {
    daemon.ask("peers")["peers"][0]["path"].as_str().unwrap_or_default().to_owned()
}

/// Waits until both take a path; how long that took.
pub(crate) fn wait_for(daemons: [&Daemon<'_>; 2], wanted: &str, most: Duration) -> Duration {
    let start = Instant::now();
    while daemons.iter().any(|daemon| path(daemon) != wanted) {
        let shown = daemons.map(|daemon| daemon.show("peers"));
        assert!(start.elapsed() < most, "{wanted} after {most:?}: {} {}", shown[0], shown[1]);
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

fn start(world: &World) -> (Daemon<'_>, Daemon<'_>) {
    let (left, right) = world.start();
    wait_for([&left, &right], "host-gw", Duration::from_secs(15));
    (left, right)
}

#[test]
fn a_connection_outlives_every_path_but_one() {
    let Some(world) = World::new(Families::V4, ALL) else { return };
    let (left, right) = start(&world);
    let both = [&left, &right];
    let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
    assert_eq!(
        routes(&world.left, "-4", "10.244.2.0/24"),
        ["10.244.2.0/24 via 10.168.0.3 dev u1 proto 82 src 10.244.1.0"]
    );
    let stream = Stream::from_to((&world.left, near), (&world.right, far));
    let mut times = Vec::new();
    let plain = r#"iifname "u2" ip saddr 10.244.0.0/16"#;
    {
        let _plain = Filter::drop(&world.right, plain);
        times.push(("plain routing blocked one way", wait_for(both, "vxlan", LEFT_WITHIN)));
        stream.check("plain routing blocked one way");
    }
    {
        let rule = r#"iifname "u2" ip saddr { 10.244.0.0/16, 10.168.0.0/24 } udp dport != 8285"#;
        let _udp = Filter::drop(&world.right, rule);
        // UDP 8472 is gone, and with it probes of plain routing; TCP of pods is not.
        times.push(("UDP port 8472 blocked", wait_for(both, "udp", LEFT_WITHIN)));
        stream.check("UDP port 8472 blocked");
        assert!(routes(&world.left, "-4", "10.244.2.0/24").is_empty());
    }
    times.push(("everything open again", wait_for(both, "host-gw", RETURNED_WITHIN)));
    stream.check("everything open again");
    {
        let _large = Filter::drop(&world.right, &format!("{plain} meta length > 1300"));
        times.push(("large packets dropped", wait_for(both, "vxlan", LEFT_WITHIN)));
        stream.check("large packets dropped");
        world.left.run(&["ip", "link", "delete", "flannel.1"]);
        stream.check("the device deleted");
    }
    stream.end();
    ping(&world.left, near, far);
    let text = left.show("peers");
    assert!(text.contains("host-gw") && text.contains("ROUND TRIP"), "{text}");
    for (fault, time) in times {
        println!("{fault:40} {:>8.2} s", time.as_secs_f64());
    }
}

#[test]
fn strict_reverse_path_filters_let_every_path_pass() {
    for rp_filter in ["0", "1", "2"] {
        let Some(world) = World::new(Families::V4, ALL) else { return };
        for host in [&world.left, &world.right] {
            for device in ["all", "default"] {
                let setting = format!("net.ipv4.conf.{device}.rp_filter={rp_filter}");
                host.run(&["sysctl", "-qw", &setting]);
            }
        }
        let (left, right) = start(&world);
        let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
        ping(&world.left, near, far);
        let _blocked = Filter::drop(&world.right, r#"iifname "u2" ip saddr 10.244.0.0/16"#);
        wait_for([&left, &right], "vxlan", LEFT_WITHIN);
        ping(&world.left, near, far);
    }
}

#[test]
fn both_families_take_the_best_path() {
    let Some(world) = World::new(Families::Both, ALL) else { return };
    let (left, right) = start(&world);
    let (near, far) = (pods(&world.left, &left), pods(&world.right, &right));
    let _blocked = Filter::drop(&world.right, r#"iifname "u2" ip6 saddr fd44::/48"#);
    wait_for([&left, &right], "host-gw, vxlan", LEFT_WITHIN);
    for (near, far) in near.into_iter().zip(far) {
        ping(&world.left, near, far);
        ping(&world.right, far, near);
    }
}

/// No path takes large packets, and nobody on the way says so. The workers learn it from the probes, and
/// when there are none any more, the route to the peer says it.
#[test]
fn what_a_narrow_path_takes_is_known_to_who_carries_it() {
    let backend = r#"{"Type":"udp","Paths":["host-gw","udp"]}"#;
    let Some(world) = World::new(Families::V4, backend) else { return };
    // Each packet by itself, as on a wire, so that the filter sees how large they are.
    let off = ["gso", "off", "tso", "off", "gro", "off", "tx-udp-segmentation", "off"];
    let whole = [&["ethtool", "-K", "u1"], &off[..]].concat();
    if !world.left.command(&whole).output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: needs ethtool, and a link that can do without offloads");
        return;
    }
    let (left, _right) = start(&world);
    let (near, far) = (Pod::behind(&world.left, 1), Pod::behind(&world.right, 2));
    let ends = [&near, &far].map(|pod| (pod.namespace.as_str(), pod.address));
    let stream = Stream::across(ends[0], ends[1]);
    let _narrow = Filter::drop(&world.right, r#"iifname "u2" meta length > 1228"#);
    // 28 bytes are the engine's.
    let learnt = |text: &str| (1192..=1200).any(|mtu| text.contains(&format!("above {mtu} bytes")));
    wait_until("learnt", &left, || path(&left) == "udp" && learnt(&left.show("peers")));
    stream.check("a path that takes small packets only");
    stream.end();
    // And one whose ends agree on a size.
    Stream::across(ends[0], ends[1]).end();
    let counted = left.ask("status")["traffic"]["other"].clone();
    // Whoever sends was told.
    assert!(counted["icmp_sent"].as_u64().is_some_and(|sent| sent > 0), "{counted}");

    let dead = ["iifname", "u2", "udp", "dport", "8285", "drop"];
    world.right.run(&[&["nft", "add", "rule", "inet", "fault", "in"], &dead[..]].concat());
    let routed = || routed_mtu(&world.left).filter(|mtu| (1220..=1228).contains(mtu));
    wait_until("routed by a route with what it takes", &left, || routed().is_some());
    check_narrow_route(&near, &far, routed().unwrap());
    world.right.run(&["nft", "flush", "chain", "inet", "fault", "in"]);
    wait_until("as wide as before", &left, || routed_mtu(&world.left).is_none());
}

fn wait_until(what: &str, daemon: &Daemon<'_>, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < RETURNED_WITHIN, "not {what}: {}", daemon.show("peers"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the route to the right host's subnet says of the largest packet.
fn routed_mtu(host: &Host) -> Option<u32> {
    let routes = routes(host, "-4", "10.244.2.0/24");
    routes.first()?.split_once(" mtu ")?.1.split(' ').next()?.parse().ok()
}

/// The kernel tells who sends, and fragments what may be fragmented.
fn check_narrow_route(near: &Pod, far: &Pod, mtu: u32) {
    // Of this address the pod has not been told anything yet.
    let target = "10.244.2.3";
    ip(&["-n", &far.namespace, "address", "add", &format!("{target}/24"), "dev", "c1x"]);
    let ping = |more: &str| {
        let words = ["netns", "exec", &near.namespace, "ping", "-n", "-c", "2", "-W", "2"];
        let sized = ["-s", "1372", "-M", more, target];
        let output = Command::new("ip").args(words).args(sized).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (passes, said) = ping("dont");
    assert!(passes, "{said}");
    let (passes, said) = ping("do");
    assert!(!passes && said.contains(&format!("mtu = {mtu}")), "{mtu}: {said}");
    let ends = (near.namespace.as_str(), near.address);
    Stream::across(ends, (&far.namespace, target.parse().unwrap())).end();
}
