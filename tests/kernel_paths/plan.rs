//! `weft plan` against what a start then really does, and `weft uninstall` against what is left.

use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::flannel::{set_up_device, set_up_peer};
use crate::host::{Daemon, Host};
use crate::world::{Families, World, entries, link, mac, pods, routes};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

const NEAR_MAC: &str = "5a:5a:7b:f6:cb:01";

/// Longest wait for what happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The exit code of a plan that changes something.
const CHANGES: i32 = 3;

fn plan(host: &Host, more: &[&str]) -> Output {
    let arguments = host.arguments();
    let arguments = arguments.iter().map(String::as_str).chain(more.iter().copied());
    let words: Vec<&str> = [WEFT, "plan"].into_iter().chain(arguments).collect();
    host.command(&words).output().unwrap()
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Everything of the kernel that a daemon could touch.
fn everything(host: &Host) -> String {
    let commands: [&[&str]; 8] = [
        &["ip", "-d", "address", "show"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "rule", "show"],
        &["ip", "-6", "rule", "show"],
        &["ip", "neigh", "show", "nud", "permanent"],
        &["bridge", "fdb", "show"],
        &["nft", "list", "ruleset"],
    ];
    commands.iter().map(|words| host.run(words)).collect()
}

/// The same, once the addresses of links are no longer tentative, which lasts a second or two after a
/// device was set up and shows.
fn everything_settled(host: &Host) -> String {
    let end = Instant::now() + PATIENCE;
    while !host.run(&["ip", "-6", "address", "show", "tentative"]).is_empty() {
        assert!(Instant::now() < end, "addresses stay tentative");
        sleep(Duration::from_millis(20));
    }
    everything(host)
}

/// An earlier flanneld's state: a peer, and one that is gone.
fn imitate_flanneld(world: &World, far_mac: &str) {
    set_up_device(&world.left, "flannel.1", NEAR_MAC, "10.168.0.2", "10.244.1.0/32");
    set_up_peer(&world.left, "flannel.1", "10.244.2.0/24", far_mac, "10.168.0.3");
    set_up_peer(&world.left, "flannel.1", "10.244.9.0/24", "5a:5a:7b:f6:cb:09", "10.168.0.9");
}

#[test]
fn a_plan_says_what_a_start_does_and_changes_nothing() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let right = world.right.start(&["--iface=u2"]);
    let far_mac = mac(&world.right, "flannel.1");
    imitate_flanneld(&world, &far_mac);
    let before = everything_settled(&world.left);
    let leases = world.leases.all();

    let output = plan(&world.left, &["--iface=u1"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(CHANGES), "{said}");
    for line in [
        "vxlan over u1, MTU 1450, subnet 10.244.1.0-24",
        "lease: take 10.244.1.0-24, which this host had before",
        "kernel: link set flannel.1 alias weft",
        "kernel: route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "kernel: route delete 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(said.lines().any(|line| line.starts_with("netfilter: iptables-restore")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("file: write ")), "{said}");
    assert!(!said.contains("neigh replace 10.244.2.0"), "it is right already: {said}");
    assert_eq!(everything(&world.left), before, "nothing of the kernel is changed");
    assert_eq!(world.leases.all(), leases, "no lease is taken");
    assert!(!std::path::Path::new(&world.left.file("state")).exists(), "no file is made");

    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("in order", |_| entries(&world.left, "flannel.1").len() == 1);
    left.wait_until("nothing to do", |_| {
        plan(&world.left, &["--iface=u1"]).status.code() == Some(0)
    });
    let output = plan(&world.left, &["--iface=u1", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["backend"], &answer["lease"]), (&"vxlan".into(), &"10.244.1.0-24".into()));
    assert_eq!((answer["steps"].as_array().unwrap().len(), output.status.code()), (0, Some(0)));
    drop(right);
}

#[test]
fn a_plan_for_the_engine_and_one_for_nothing() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"udp"}"#) else { return };
    world.left.run(&["ip", "route", "add", "10.244.0.0/16", "via", "10.168.0.9", "dev", "u1"]);
    let said = text(&plan(&world.left, &["--iface=u1"]));
    for line in [
        "! Somebody else has the route 10.244.0.0/16 via 10.168.0.9 dev u1 proto 3 metric 0",
        "kernel: flannel0: set the device up",
        "kernel: flannel0: add the route to fd44::/48",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    world.left.run(&["ip", "route", "delete", "10.244.0.0/16"]);
    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("nothing to do", |_| {
        plan(&world.left, &["--iface=u1"]).status.code() == Some(0)
    });

    std::fs::remove_file(world.leases.path().join("config")).unwrap();
    let output = plan(&world.left, &["--iface=u1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("config"), "{}", text(&output));
    assert_eq!(plan(&world.left, &["--nonsense"]).status.code(), Some(2));
}

/// What stands in the table that is only weft's is part of the plan: the clamp of several paths, and what
/// keeps unsealed packets out.
#[test]
fn a_plan_has_the_rules_that_are_only_wefts() {
    let sealed = r#"{"Type":"udp","Encryption":"wireguard"}"#;
    let Some(world) = World::new(Families::V4, sealed) else { return };
    let drops = "netfilter: nft add rule inet weft wall ip saddr 10.244.0.0/16 counter drop\n";
    let clamps = "netfilter: nft add rule inet weft mss ip daddr 10.244.0.0/16 tcp flags syn tcp option maxseg size set rt mtu\n";
    let has = |said: &str| [drops, clamps].map(|line| said.contains(line));
    let said = text(&plan(&world.left, &["--iface=u1"]));
    assert_eq!(has(&said), [true, false], "{said}");
    let several = r#"{"Type":"udp","Paths":["vxlan","udp"]}"#;
    world.leases.write_config(&Families::V4.config(several));
    let said = text(&plan(&world.left, &["--iface=u1"]));
    assert_eq!(has(&said), [false, true], "{said}");

    let mut left = world.left.start(&["--iface=u1"]);
    left.wait_until("nothing to do", |_| {
        plan(&world.left, &["--iface=u1"]).status.code() == Some(0)
    });
    end(left);
    world.leases.write_config(&Families::V4.config(sealed));
    let said = text(&plan(&world.left, &["--iface=u1"]));
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("{line}: {said}"));
    assert!(at("nft delete table inet weft\n") < at("nft add table inet weft\n"), "{said}");
}

fn uninstall(host: &Host) -> Output {
    let socket = format!("--admin-socket={}", host.file("weft.sock"));
    host.command(&[WEFT, "uninstall", &socket]).output().unwrap()
}

fn end(daemon: Daemon<'_>) {
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn nothing_is_left_after_an_uninstall() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"vxlan"}"#) else { return };
    let by_hand = ["10.99.0.0/16", "via", "10.168.0.1", "dev", "u1", "proto", "static"];
    world.left.run(&[&["ip", "route", "add"], &by_hand[..]].concat());
    world.left.run(&["ip", "link", "add", "flannel.9", "type", "vxlan", "id", "9", "dstport", "0"]);
    let before = everything_settled(&world.left);
    let (left, right) = world.start();
    pods(&world.right, &right);
    // What probes of several paths have besides.
    let rule = ["from", "10.244.1.0/32", "ipproto", "udp", "sport", "8287", "lookup", "8287"];
    world.left.run(&[&["ip", "rule", "add"], &rule[..], &["protocol", "82"]].concat());
    let route = ["10.244.2.0/24", "via", "10.168.0.3", "dev", "u1", "table", "8287"];
    world.left.run(&[&["ip", "route", "add"], &route[..], &["proto", "82"]].concat());

    let output = uninstall(&world.left);
    assert_eq!(output.status.code(), Some(1), "a daemon would put it all back");
    assert!(text(&output).contains("stop it first"), "{}", text(&output));
    assert_eq!(link(&world.left, "flannel.1")["ifname"], "flannel.1");
    end(left);

    let output = uninstall(&world.left);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("removed link delete flannel.1\n"), "{said}");
    assert!(said.contains("removed link delete flannel-v6.1\n"), "{said}");
    let is_steady =
        |line: &&str| !line.contains("nf_tables") && !line.trim().starts_with("valid_lft");
    let steady = |line: &str| line.replace(" tentative", "");
    let lines = |text: &str| text.lines().filter(is_steady).map(steady).collect::<Vec<_>>();
    let after = lines(&everything(&world.left));
    let extra: Vec<_> = after.iter().filter(|line| !lines(&before).contains(line)).collect();
    let ours = extra.iter().filter(|line| {
        ["flannel.1", "flannel-v6", "proto 82", "8287", "FLANNEL", "weft"]
            .iter()
            .any(|mark| line.contains(mark))
    });
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&&String>::new());
    for line in lines(&before) {
        assert!(after.contains(&line), "gone: {line}");
    }
    assert!(text(&uninstall(&world.left)).contains("nothing was left"));

    // flanneld's own commands find an empty place.
    imitate_flanneld(&world, &mac(&world.right, "flannel.1"));
    assert_eq!(routes(&world.left, "-4", "10.244.2.0/24").len(), 1);
}
