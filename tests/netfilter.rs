//! Netfilter rules of the running daemon, in network namespaces: compared with flanneld's as the tools
//! print them, damaged, and tried with packets. Needs root, `ip`, `iptables`, `nft` and
//! `/dev/net/tun`; without them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "shared/accounting.rs"]
mod accounting;
#[path = "daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod host;
#[path = "netfilter/packets.rs"]
mod packets;

use std::fs;
use std::process::Command;

use host::{Daemon, Host, Leases};

const CONFIG: &str = r#"{"Network": "10.244.0.0/16", "SubnetLen": 24, "Backend": {"Type": "udp"}}"#;
const CONFIG_NFT: &str = r#"{"Network": "10.244.0.0/16", "EnableNFTables": true}"#;

/// Rules are looked at every second, so that repairs need not be waited for.
const FLAGS: [&str; 3] = ["--iface=u1", "--ip-masq", "--iptables-resync=1"];

const NAT: &str = r#"-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"#;

const FILTER: &str = r#"-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"#;

const NFT: &str = include_str!("../ctrl/src/netfilter/nft/flannel-ipv4.nft");

/// False, said aloud, if the tests cannot run here.
fn can_run() -> bool {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !["iptables", "ip6tables", "iptables-legacy", "nft"].into_iter().all(has) {
        println!("SKIPPED: needs iptables of both kinds and nft");
        return false;
    }
    host::can_run()
}

macro_rules! needs_netfilter {
    () => {
        if !crate::can_run() {
            return;
        }
    };
}
use needs_netfilter;

/// One of the two kinds of iptables.
struct Kind {
    name: &'static str,
    directory: tempfile::TempDir,
}

impl Kind {
    const NAMES: [&str; 2] = ["nft", "legacy"];

    /// Under their plain names its programs are first on this path.
    fn new(name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for program in ["iptables", "ip6tables"] {
            for end in ["", "-save", "-restore"] {
                let there = Command::new("which").arg(format!("{program}-{name}{end}")).output();
                let there = String::from_utf8(there.unwrap().stdout).unwrap();
                let link = directory.path().join(format!("{program}{end}"));
                std::os::unix::fs::symlink(there.trim(), link).unwrap();
            }
        }
        Self { name, directory }
    }

    fn path(&self) -> String {
        format!("PATH={}:{}", self.directory.path().display(), std::env::var("PATH").unwrap())
    }

    fn start<'a>(&self, host: &'a Host, flags: &[&str]) -> Daemon<'a> {
        let mut daemon = host.spawn_by(&["env", &self.path()], flags);
        daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
        daemon
    }

    fn iptables(&self, host: &Host, arguments: &str) {
        let program = format!("iptables-{}", self.name);
        host.run(&["sh", "-c", &format!("{program} {arguments}")]);
    }

    /// Chains and rules of a table.
    fn save(&self, host: &Host, program: &str, table: &str) -> String {
        let text = host.run(&[&format!("{program}-{}-save", self.name), "-t", table]);
        text.lines().filter(|line| line.starts_with("-A")).map(|line| format!("{line}\n")).collect()
    }

    fn nat(&self, host: &Host) -> String {
        self.save(host, "iptables", "nat")
    }

    fn filter(&self, host: &Host) -> String {
        self.save(host, "iptables", "filter")
    }
}

fn ruleset(host: &Host) -> String {
    host.run(&["nft", "--stateless", "list", "ruleset"])
}

/// The table without the numbers that the kernel gives.
fn nft_json(host: &Host) -> Vec<serde_json::Value> {
    let text = host.run(&["nft", "-j", "--stateless", "list", "table", "ip", "flannel-ipv4"]);
    let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let objects = all["nftables"].as_array_mut().unwrap();
    for object in objects.iter_mut().flat_map(|one| one.as_object_mut().unwrap().values_mut()) {
        object.as_object_mut().unwrap().remove("handle");
    }
    std::mem::take(objects)
}

fn stop(daemon: Daemon<'_>) {
    daemon.signal("TERM");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn the_chains_are_flannels_to_the_byte_with_both_kinds_of_iptables() {
    needs_netfilter!();
    for kind in Kind::NAMES.map(Kind::new) {
        let leases = Leases::new(CONFIG);
        let host = Host::alone(&leases);
        let daemon = kind.start(&host, &FLAGS);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (NAT.into(), FILTER.into()));
        let (_, ready) = host.http("/readyz?verbose");
        assert!(ready.contains("[+]rules ok"), "{ready}");
        assert_eq!(daemon.ask("status")["problems"], serde_json::json!([]));
        // They stay when the daemon stops, and are the same after a start.
        stop(daemon);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (NAT.into(), FILTER.into()));
        let daemon = kind.start(&host, &FLAGS);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (NAT.into(), FILTER.into()));
        // What is asked for no longer goes.
        stop(daemon);
        let daemon = kind.start(&host, &["--iface=u1", "--iptables-forward-rules=false"]);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (String::new(), String::new()));
        stop(daemon);
        let flags = [&FLAGS[..], &["--ip-masq-fully-random-disable"]].concat();
        let _daemon = kind.start(&host, &flags);
        assert_eq!(kind.nat(&host), NAT.replace(" --random-fully", ""));
    }
}

#[test]
fn only_families_that_are_on_have_rules() {
    needs_netfilter!();
    let dual = r#"{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10::/48"}"#;
    let leases = Leases::new(dual);
    let host = Host::alone(&leases);
    host.run(&["ip", "address", "add", "fd00:1::2/64", "dev", "u1", "nodad"]);
    fs::write(
        host.subnet_file(),
        "FLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_SUBNET=fd00:10:0:1::1/64\n",
    )
    .unwrap();
    let kind = Kind::new("nft");
    let daemon = kind.start(&host, &FLAGS);
    let as_v6 = |text: &str| {
        text.replace("10.244.1.0/24", "fd00:10:0:1::/64")
            .replace("10.244.0.0/16", "fd00:10::/48")
            .replace("224.0.0.0/4", "ff00::/8")
    };
    let save_v6 = |table| kind.save(&host, "ip6tables", table);
    assert_eq!((kind.nat(&host), kind.filter(&host)), (NAT.into(), FILTER.into()));
    assert_eq!((save_v6("nat"), save_v6("filter")), (as_v6(NAT), as_v6(FILTER)));
    stop(daemon);
    // IPv6 is turned off while the daemon does not run: the file says what was there.
    let only = |config: &str| {
        config.replacen('{', r#"{"SubnetMin": "10.244.1.0", "SubnetMax": "10.244.1.0", "#, 1)
    };
    fs::remove_dir_all(leases.path().join("subnets")).unwrap();
    leases.write_config(&only(CONFIG));
    let daemon = kind.start(&host, &FLAGS);
    assert_eq!(kind.nat(&host), NAT);
    assert_eq!((save_v6("nat"), save_v6("filter")), (String::new(), String::new()));
    stop(daemon);
    fs::remove_dir_all(leases.path().join("subnets")).unwrap();
    leases
        .write_config(&dual.replace("fd00:10::/48\"", "fd00:10::/48\", \"EnableNFTables\": true"));
    fs::write(
        host.subnet_file(),
        "FLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_SUBNET=fd00:10:0:1::1/64\n",
    )
    .unwrap();
    let mut daemon = kind.start(&host, &FLAGS);
    let v6 = as_v6(NFT).replace("ip ", "ip6 ").replace("flannel-ipv4", "flannel-ipv6");
    daemon.wait_until("tidy", |_| !ruleset(&host).contains("FLANNEL"));
    let tables = ["ip flannel-ipv4", "ip6 flannel-ipv6"]
        .map(|table| host.run(&["sh", "-c", &format!("nft --stateless list table {table}")]));
    assert_eq!(tables, [NFT.to_owned(), v6]);
}

#[test]
fn what_somebody_damages_is_repaired_and_foreign_rules_stay() {
    needs_netfilter!();
    for kind in Kind::NAMES.map(Kind::new) {
        let leases = Leases::new(CONFIG);
        let host = Host::alone(&leases);
        kind.iptables(&host, "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE");
        let mut daemon = kind.start(&host, &FLAGS);
        kind.iptables(&host, "-t nat -A POSTROUTING -s 198.51.100.0/24 -j ACCEPT");
        kind.iptables(&host, "-A FORWARD -s 198.51.100.0/24 -j DROP");
        let around = |jump: &str| {
            format!(
                "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\n{jump}\
                 -A POSTROUTING -s 198.51.100.0/24 -j ACCEPT\n"
            )
        };
        let (jump, chain) = NAT.split_at(NAT.find('\n').unwrap() + 1);
        let nat = around(jump) + chain;
        let filter = FILTER.replacen('\n', "\n-A FORWARD -s 198.51.100.0/24 -j DROP\n", 1);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (nat.clone(), filter.clone()));
        let comment = r#"-m comment --comment "flanneld masq""#;
        let damages = [
            "-t nat -F FLANNEL-POSTRTG".to_owned(),
            "-t nat -D FLANNEL-POSTRTG 4".to_owned(),
            // Out of order.
            format!(
                "-t nat -D FLANNEL-POSTRTG 1 && iptables-{} -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN",
                kind.name
            ),
            "-t nat -I FLANNEL-POSTRTG -j RETURN".to_owned(),
            "-I FLANNEL-FWD -j DROP".to_owned(),
            "-F FLANNEL-FWD".to_owned(),
        ];
        for damage in damages {
            kind.iptables(&host, &damage);
            daemon.wait_until(&format!("repaired after {damage}"), |_| {
                (kind.nat(&host), kind.filter(&host)) == (nat.clone(), filter.clone())
            });
        }
        // The jump comes back at the end, and once.
        kind.iptables(&host, &format!("-t nat -D POSTROUTING {comment} -j FLANNEL-POSTRTG"));
        let at_end = around("") + jump + chain;
        daemon.wait_until("the jump is back", |_| kind.nat(&host) == at_end);
        kind.iptables(&host, &format!("-t nat -I POSTROUTING 1 {comment} -j FLANNEL-POSTRTG"));
        daemon.wait_until("the jump is there once", |_| kind.nat(&host) == at_end);
        assert!(daemon.log().contains("somebody has changed the netfilter rules"));
        // Everything at once.
        kind.iptables(
            &host,
            &format!("-F && iptables-{0} -t nat -F && iptables-{0} -t nat -X", kind.name),
        );
        daemon.wait_until("everything is back", |_| {
            (kind.nat(&host), kind.filter(&host)) == (NAT.into(), FILTER.into())
        });
        let (_, metrics) = host.http("/metrics");
        let repairs = metrics.lines().find(|line| line.starts_with("weft_rule_repairs_total"));
        assert!(repairs.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    }
}

#[test]
fn another_daemons_rules_in_the_same_chains_stay() {
    needs_netfilter!();
    let kind = Kind::new("nft");
    let (first, second) = (Leases::new(CONFIG), Leases::new(&CONFIG.replace("10.244", "10.9")));
    let host = Host::alone(&first);
    let theirs = |text: &str| text.replace("10.244.", "10.9.");
    // As the other daemon leaves them.
    let rest = |text: &str| theirs(text.split_once('\n').unwrap().1);
    let script = format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n{}COMMIT\n*filter\n:FLANNEL-FWD - [0:0]\n{}COMMIT\n",
        rest(NAT),
        rest(FILTER)
    );
    let file = host.file("rules");
    fs::write(&file, script).unwrap();
    host.run(&["iptables-nft-restore", "--noflush", &file]);
    let daemon = kind.start(&host, &FLAGS);
    let jump = |text: &str| text.split_once('\n').unwrap().0.to_owned() + "\n";
    let both = |text: &str| jump(text) + &rest(text) + text.split_once('\n').unwrap().1;
    assert_eq!((kind.nat(&host), kind.filter(&host)), (both(NAT), both(FILTER)));
    stop(daemon);
    drop(second);
}

#[test]
fn rules_of_versions_without_chains_are_replaced() {
    needs_netfilter!();
    for kind in Kind::NAMES.map(Kind::new) {
        let leases = Leases::new(CONFIG);
        let host = Host::alone(&leases);
        let comment = r#"-m comment --comment "flanneld masq""#;
        for rule in [
            "-t nat -A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
            "-t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            "-t nat -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN",
            "-t nat -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
            &format!(
                "-t nat -A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 {comment} -j MASQUERADE"
            ),
            "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
            "-A FORWARD -s 10.244.0.0/16 -j ACCEPT",
            "-A FORWARD -d 10.244.0.0/16 -j ACCEPT",
            "-A FORWARD -j DROP",
        ] {
            kind.iptables(&host, rule);
        }
        let _daemon = kind.start(&host, &FLAGS);
        let nat = NAT.replacen('\n', "\n-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\n", 1);
        let filter = FILTER.replacen('\n', "\n-A FORWARD -j DROP\n", 1);
        assert_eq!((kind.nat(&host), kind.filter(&host)), (nat, filter));
    }
}

#[test]
fn rules_of_another_network_go_when_it_changes() {
    needs_netfilter!();
    let kind = Kind::new("nft");
    let leases = Leases::new(&CONFIG.replace("10.244", "10.9"));
    let host = Host::alone(&leases);
    fs::write(host.subnet_file(), "FLANNEL_SUBNET=10.9.1.1/24\n").unwrap();
    let daemon = kind.start(&host, &FLAGS);
    assert_eq!(kind.nat(&host), NAT.replace("10.244", "10.9"));
    stop(daemon);
    // From the subnet file that is left, while the daemon does not run.
    leases.write_config(CONFIG);
    fs::remove_dir_all(leases.path().join("subnets")).unwrap();
    fs::write(
        leases.path().join("config"),
        CONFIG.replace(
            "\"SubnetLen\"",
            "\"SubnetMin\":\"10.244.1.0\",\"SubnetMax\":\"10.244.1.0\",\"SubnetLen\"",
        ),
    )
    .unwrap();
    let mut daemon = kind.start(&host, &FLAGS);
    assert_eq!((kind.nat(&host), kind.filter(&host)), (NAT.into(), FILTER.into()));
    // And while it runs.
    leases.write_config(
        r#"{"Network": "10.244.0.0/15", "SubnetLen": 24, "Backend": {"Type": "udp"}}"#,
    );
    daemon.wait_until("the rules follow", |_| {
        kind.nat(&host) == NAT.replace("10.244.0.0/16", "10.244.0.0/15")
            && kind.filter(&host) == FILTER.replace("10.244.0.0/16", "10.244.0.0/15")
    });
}

#[test]
fn the_tables_of_nft_are_flannels_and_repaired() {
    needs_netfilter!();
    let leases = Leases::new(CONFIG_NFT);
    let host = Host::alone(&leases);
    let foreign = "table inet mine {\n\tchain c {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip saddr 192.0.2.1 drop\n\t}\n}\n";
    let file = host.file("foreign");
    fs::write(&file, foreign).unwrap();
    host.run(&["nft", "-f", &file]);
    let mut daemon = host.start(&FLAGS);
    let whole = format!("{foreign}{NFT}");
    assert_eq!(ruleset(&host), whole);
    // Read as JSON, it is what nft makes of flannel's table, too.
    let by_hand = Host::alone(&leases);
    fs::write(&file, NFT).unwrap();
    by_hand.run(&["nft", "-f", &file]);
    assert_eq!(nft_json(&host), nft_json(&by_hand));
    for damage in [
        "nft flush chain ip flannel-ipv4 postrtg",
        "nft add rule ip flannel-ipv4 forward drop",
        "nft insert rule ip flannel-ipv4 postrtg return",
        "nft delete table ip flannel-ipv4",
        "nft 'delete chain ip flannel-ipv4 forward; add chain ip flannel-ipv4 forward { type filter hook input priority 0; }'",
    ] {
        host.run(&["sh", "-c", damage]);
        daemon.wait_until(&format!("repaired after {damage}"), |_| ruleset(&host) == whole);
    }
    stop(daemon);
    assert_eq!(ruleset(&host), whole);
    let flags = [
        "--iface=u1",
        "--ip-masq",
        "--iptables-forward-rules=false",
        "--ip-masq-fully-random-disable",
    ];
    let _daemon = host.start(&flags);
    let chain = NFT.find("\n\tchain forward").unwrap();
    let less = format!("{}}}\n", &NFT[..chain]).replace(" fully-random", "");
    assert_eq!(ruleset(&host), format!("{foreign}{less}"));
}

#[test]
fn one_kind_of_rules_follows_the_other() {
    needs_netfilter!();
    let kind = Kind::new("nft");
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let mut daemon = kind.start(&host, &FLAGS);
    kind.iptables(&host, "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE");
    let is_nft = |host: &Host| {
        host.run(&["nft", "--stateless", "list", "tables"]).contains("flannel-ipv4")
            && kind.nat(host) == "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\n"
            && kind.filter(host).is_empty()
            && !ruleset(host).contains("FLANNEL")
    };
    let is_iptables = |host: &Host| {
        kind.nat(host).contains("FLANNEL-POSTRTG") && !ruleset(host).contains("flannel-ipv4")
    };
    for _ in 0..2 {
        leases.write_config(CONFIG_NFT);
        daemon.wait_until("in tables of nft", |_| is_nft(&host));
        leases.write_config(CONFIG);
        daemon.wait_until("in chains of iptables", |_| is_iptables(&host));
    }
    // Between two runs.
    stop(daemon);
    leases.write_config(CONFIG_NFT);
    let mut daemon = kind.start(&host, &FLAGS);
    daemon.wait_until("in tables of nft", |_| is_nft(&host));
    stop(daemon);
    leases.write_config(CONFIG);
    let mut daemon = kind.start(&host, &FLAGS);
    daemon.wait_until("in chains of iptables", |_| is_iptables(&host));
}

/// A command that hides the programs of netfilter from the daemon.
const WITHOUT_PROGRAMS: [&str; 6] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /usr/sbin && exec \"$@\"", "sh"];

#[test]
fn a_missing_program_is_named_with_the_remedy() {
    needs_netfilter!();
    for (config, install) in [(CONFIG, "Install iptables"), (CONFIG_NFT, "Install nftables")] {
        let leases = Leases::new(config);
        let host = Host::alone(&leases);
        let daemon = host.spawn_by(&WITHOUT_PROGRAMS, &FLAGS);
        let log = host.file("log");
        assert_eq!(daemon.end().0, Some(1), "{}", fs::read_to_string(&log).unwrap());
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("Masquerading could not be set up") && log.contains(install), "{log}");
        // Forward rules are not worth ending for, and nobody needs a program that has nothing to do.
        let mut daemon = host.spawn_by(&WITHOUT_PROGRAMS, &["--iface=u1"]);
        daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
        let problems = daemon.ask("status")["problems"].to_string();
        assert!(problems.contains(install) && problems.contains("Forward rules"), "{problems}");
        stop(daemon);
        let flags = ["--iface=u1", "--iptables-forward-rules=false"];
        let mut daemon = host.spawn_by(&WITHOUT_PROGRAMS, &flags);
        daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
        assert_eq!(daemon.ask("status")["problems"], serde_json::json!([]));
        stop(daemon);
    }
}

#[test]
fn a_policy_to_drop_is_named_where_accepting_does_not_help() {
    needs_netfilter!();
    let drops = |daemon: &Daemon<'_>| daemon.ask("status")["problems"].to_string();
    for kind in Kind::NAMES.map(Kind::new) {
        let leases = Leases::new(CONFIG_NFT);
        let host = Host::alone(&leases);
        kind.iptables(&host, "-P FORWARD DROP");
        let mut daemon = kind.start(&host, &FLAGS);
        daemon.wait_until("named", |daemon| drops(daemon).contains("iptables -I FORWARD"));
        assert_eq!(daemon.ask("status")["ready"], true);
        stop(daemon);
        // What the sentence says is enough.
        kind.iptables(&host, "-I FORWARD -s 10.244.0.0/16 -j ACCEPT");
        kind.iptables(&host, "-I FORWARD -d 10.244.0.0/16 -j ACCEPT");
        let mut daemon = kind.start(&host, &FLAGS);
        daemon.wait_until("tidy", |daemon| daemon.ask("status")["ready"] == true);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(drops(&daemon), "[]");
        stop(daemon);
        kind.iptables(&host, "-F FORWARD");
        // In the chain of iptables our own rules accept.
        leases.write_config(CONFIG);
        let daemon = kind.start(&host, &FLAGS);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(drops(&daemon), "[]");
        stop(daemon);
        host.run(&["nft", "add table inet wall; add chain inet wall f { type filter hook forward priority 10; policy drop; }"]);
        let mut daemon = kind.start(&host, &FLAGS);
        daemon.wait_until("named", |daemon| drops(daemon).contains("inet wall f"));
    }
}

#[test]
fn the_blackhole_route_is_kept() {
    needs_netfilter!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let mut daemon = host.start(&["--iface=u1", "--iptables-resync=1", "--ip-blackhole-route"]);
    let routes = |_: &Daemon<'_>| host.run(&["ip", "route", "show", "type", "blackhole"]);
    let ours = "blackhole 10.244.1.0/24 proto 82 metric 4294967295 \n";
    daemon.wait_until("there", |daemon| routes(daemon) == ours);
    // Packets to this host's pods prefer the device of the pods.
    assert!(host.run(&["ip", "route", "get", "10.244.1.9"]).contains("dev c1"));
    // The keeper of the other routes leaves it alone.
    host.run(&["ip", "route", "add", "10.244.77.0/24", "dev", "c1"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(routes(&daemon), ours);
    host.run(&["ip", "route", "delete", "blackhole", "10.244.1.0/24", "metric", "4294967295"]);
    daemon.wait_until("back", |daemon| routes(daemon) == ours);
    stop(daemon);
    let mut daemon = host.start(&["--iface=u1"]);
    daemon.wait_until("gone", |daemon| routes(daemon).is_empty());
}

#[test]
fn uninstall_leaves_only_what_is_foreign() {
    needs_netfilter!();
    let weft = env!("CARGO_BIN_EXE_weft");
    for (config, kind) in [(CONFIG, "nft"), (CONFIG_NFT, "nft"), (CONFIG, "legacy")] {
        let kind = Kind::new(kind);
        let leases = Leases::new(config);
        let host = Host::alone(&leases);
        kind.iptables(&host, "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE");
        host.run(&["nft", "add table inet mine"]);
        let flags = [&FLAGS[..], &["--ip-blackhole-route"]].concat();
        let mut daemon = kind.start(&host, &flags);
        daemon.wait_until("blackhole", |_| {
            host.run(&["ip", "route"]).contains("blackhole 10.244.1.0/24")
        });
        let socket = host.file("weft.sock");
        let path = kind.path();
        let uninstall = ["env", &path, weft, "uninstall", "--admin-socket", &socket];
        let refused = host.command(&uninstall).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it first"));
        stop(daemon);
        let said = host.run(&uninstall);
        assert!(
            said.contains("removed") && said.contains("blackhole route to 10.244.1.0/24"),
            "{said}"
        );
        assert_eq!(kind.nat(&host), "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\n");
        assert_eq!(kind.filter(&host), "");
        let left = ruleset(&host);
        assert!(
            left.contains("table inet mine") && !left.to_lowercase().contains("flannel"),
            "{left}"
        );
        assert!(!host.run(&["ip", "route"]).contains("blackhole"));
        assert!(host.run(&uninstall).contains("nothing was left"));
    }
}
