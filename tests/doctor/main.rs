//! `weft doctor` on hosts made of network namespaces on which something was broken on purpose. Needs
//! root, `ip`, `nft`, `setpriv` and `/dev/net/tun`; without them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
mod broken;
#[path = "../daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod host;
#[path = "../shared/kernel.rs"]
mod kernel;
mod machine;
mod said;

use std::fs;
use std::process::Command;

use serde_json::Value;

use host::{Host, Leases, Pair, can_run};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

const CONFIG: &str = r#"{"Network": "10.244.0.0/16"}"#;

/// What is so on every machine of tests and says nothing about the namespace.
const OF_THE_MACHINE: [&str; 3] = ["clock", "io_uring", "kernel"];

/// What was found, and the exit code.
struct Examined {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    /// The name of every finding, without those of the machine.
    fn names(&self) -> Vec<&str> {
        let all = self.findings.iter().map(|one| one["check"].as_str().unwrap());
        all.filter(|check| !OF_THE_MACHINE.contains(check)).collect()
    }

    fn has(&self, check: &str) -> bool {
        self.findings.iter().any(|one| one["check"] == check)
    }

    /// Expects a finding whose cause has this word, and which says what to do.
    fn expect(&self, severity: &str, check: &str, word: &str) {
        let is_it = |one: &&Value| {
            one["check"] == check && one["cause"].as_str().is_some_and(|cause| cause.contains(word))
        };
        let found = self.findings.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("{check} {word}: {:#?}", self.findings));
        assert_eq!(found["severity"], severity, "{found:#?}");
        for part in ["effect", "remedy"] {
            assert!(!found[part].as_str().unwrap().is_empty(), "{found:#?}");
        }
    }
}

/// Runs `weft doctor`, behind other programs if they are named.
fn examine(host: &Host, before: &[&str]) -> Examined {
    let socket = format!("--admin-socket={}", host.file("weft.sock"));
    let subnet_file = format!("--subnet-file={}", host.subnet_file().display());
    let state = format!("--state-dir={}", host.file("state"));
    let words = [before, &[WEFT, "doctor", "--json", &socket, &subnet_file, &state]].concat();
    let output = host.command(&words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{complaint}"));
    let findings = answer["findings"].as_array().unwrap().clone();
    Examined { code: output.status.code(), findings }
}

fn lacks(program: &str) -> bool {
    let is_missing = Command::new(program).arg("--version").output().is_err();
    if is_missing {
        println!("SKIPPED: a test of weft doctor needs {program}");
    }
    is_missing
}

#[test]
fn what_is_wrong_shows_without_a_daemon() {
    if !can_run() || lacks("nft") || lacks("setpriv") {
        return;
    }
    let host = Host::alone(&Leases::new(CONFIG));
    host.forward();
    let before = examine(&host, &[]);
    assert_eq!(before.names(), ["daemon"], "{:#?}", before.findings);
    assert_eq!(before.code, Some(3));

    fs::write(
        host.subnet_file(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
         FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:0:0:1::1/64\n\
         FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
    )
    .unwrap();
    fs::create_dir_all(host.file("state")).unwrap();
    break_sysctls_and_addresses(&host);
    break_rules(&host);
    let flanneld = host.file("flanneld");
    fs::copy("/bin/sleep", &flanneld).unwrap();
    let _daemon = host.beside(&[&flanneld, "60"]);
    let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('10.168.0.2', 8285))\nprint('bound', flush=True)\ntime.sleep(60)";
    let mut owner = host.beside(&["python3", "-c", script]);
    owner.wait_for_word();
    host.run(&["touch", "-d", "2 hours", &host.file("state/handshakes")]);

    let found = examine(&host, &[]);
    found.expect("error", "forwarding", "net.ipv4.ip_forward is 0");
    found.expect("error", "forwarding", "net.ipv6.conf.all.forwarding is 0");
    found.expect("error", "rp_filter", "flannel0");
    found.expect("error", "kube-ipvs0", "10.96.0.1");
    found.expect("warning", "local-route", "10.9.9.9 over u1");
    found.expect("warning", "mtu-bridge", "docker0 has an MTU of 1500");
    found.expect("warning", "mtu-pods", "p1");
    found.expect("error", "bridge-address", "10.244.9.1/24");
    found.expect("error", "forward-policy", "ip filter FORWARD");
    found.expect("warning", "firewall", "ip filter INPUT");
    found.expect("error", "other-daemon", "flanneld runs");
    found.expect("error", "port", "8285 belongs to python3");
    found.expect("error", "clock", "handshakes");
    if !std::path::Path::new("/proc/sys/net/bridge").exists() {
        found.expect("warning", "br_netfilter", "not loaded");
    }
    assert_eq!(found.code, Some(3));
}

/// Everything that only a device, an address or a number is needed for.
fn break_sysctls_and_addresses(host: &Host) {
    for command in [
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "ip link add flannel0 type bridge",
        "echo 1 > /proc/sys/net/ipv4/conf/flannel0/rp_filter",
        "ip link add kube-ipvs0 type bridge",
        "ip address add 10.96.0.1/32 dev kube-ipvs0",
        "ip route add local 10.9.9.9 dev u1 table local",
        "ip link add cni0 type bridge",
        "ip address add 10.244.9.1/24 dev cni0",
        "ip link add docker0 type bridge",
        "ip address add 10.244.1.1/24 dev docker0",
        "ip link add p1 mtu 1500 type veth peer name p1x",
        "ip link set p1 master docker0",
        "ip link set docker0 mtu 1500",
    ] {
        host.run(&["sh", "-c", command]);
    }
}

fn break_rules(host: &Host) {
    for chain in ["INPUT { type filter hook input", "FORWARD { type filter hook forward"] {
        let chain = format!("add chain ip filter {chain} priority 0 ; policy drop ; }}");
        host.run(&["nft", "add table ip filter"]);
        host.run(&["nft", &chain]);
    }
}

#[test]
fn what_the_process_may_not_do_is_named() {
    if !can_run() || lacks("setpriv") {
        return;
    }
    let host = Host::alone(&Leases::new(CONFIG));
    let missing = "-net_admin,-sys_nice,-ipc_lock,-sys_resource,-bpf";
    let few = ["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set", missing];
    let found = examine(&host, &few);
    found.expect("error", "capabilities", "CAP_NET_ADMIN");
    found.expect("note", "capabilities", "CAP_SYS_NICE");
    found.expect("note", "capabilities", "CAP_BPF");
    found.expect("warning", "memlock", "65536");
    // A device directory without the device.
    let hidden = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let found = examine(&host, &["unshare", "--mount", "sh", "-c", hidden, "sh"]);
    found.expect("error", "tun", "No such file");
}

#[test]
fn a_daemon_knows_more_and_other_hosts_are_asked() {
    if !can_run() || lacks("nft") {
        return;
    }
    let leases = Leases::new(CONFIG);
    let pair = Pair::new(&leases);
    for host in [&pair.left, &pair.right] {
        host.forward();
    }
    let mut left = pair.left.start(&["--iface=u1", "--iptables-forward-rules=false"]);
    let mut right = pair.right.start(&["--iface=u2", "--iptables-forward-rules=false"]);
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("joined", |daemon| {
            let status = daemon.ask("status");
            status["peers"] == 1 && status["ready"] == true
        });
    }
    let well = examine(&pair.left, &[]);
    assert_eq!(well.names(), [""; 0], "{:#?}", well.findings);
    assert_eq!(well.code, Some(0), "{:#?}", well.findings);

    let drop = "add rule ip filter in udp dport 8285 drop";
    for command in [
        "add table ip filter",
        "add chain ip filter in { type filter hook input priority 0 ; }",
        drop,
    ] {
        pair.right.run(&["nft", command]);
    }
    // A stranger on the link sends to the port.
    pair.right.run(&["ip", "address", "add", "10.168.0.77/24", "dev", "u2"]);
    let send = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                s.bind(('10.168.0.77', 0))\ns.sendto(b'x' * 40, ('10.168.0.2', 8285))";
    pair.right.run(&["python3", "-c", send]);
    left.wait_until("counted", |daemon| daemon.ask("drops")["inbound"] != serde_json::json!([]));
    examine(&pair.left, &[]).expect("note", "unknown-sender", "1 datagrams");
    let again = send.replace("s.sendto", "import time\nwhile not time.sleep(0.05): s.sendto");
    let _stranger = pair.right.beside(&["python3", "-c", &again]);
    left.wait_until("counted on", |daemon| {
        daemon.ask("drops")["inbound"][0]["count"].as_u64().is_some_and(|count| count > 1)
    });
    pair.left.run(&["ip", "link", "set", "u1", "mtu", "1400"]);
    fs::write(pair.left.subnet_file(), "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_MTU=1500\n")
        .unwrap();
    let route = ["ip", "route", "add", "10.244.0.0/16", "via", "10.168.0.1", "metric", "500"];
    pair.left.run(&route);
    left.wait_until("seen", |daemon| daemon.ask("status")["foreign"] != serde_json::json!([]));

    let found = examine(&pair.left, &[]);
    found.expect("error", "probe", "10.244.2.0 (at 10.168.0.3:8285)");
    found.expect("warning", "unknown-sender", "more keep coming");
    found.expect("error", "mtu-underlay", "u1 has an MTU of 1400");
    found.expect("warning", "mtu-file", "1500");
    found.expect("warning", "foreign-route", "10.244.0.0/16");
    assert_eq!(found.code, Some(3));
}
