//! The running daemon in network namespaces: what it leaves in the kernel, in files and on its
//! sockets, compared with what flanneld leaves there. Needs root, `ip` and `/dev/net/tun`; without
//! them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "shared/accounting.rs"]
mod accounting;
#[path = "daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of etcd")]
mod host;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use host::{Host, Leases, Pair};
use serde_json::json;

/// The config that flanneld's recorded state was made with.
const CONFIG: &str = r#"{"Network": "10.244.0.0/16", "SubnetLen": 24, "Backend": {"Type": "udp"}}"#;

/// The longest that a stop may take.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

macro_rules! needs_namespaces {
    () => {
        if !crate::host::can_run() {
            return;
        }
    };
}

#[path = "daemon/engine.rs"]
mod engine;

#[test]
fn the_kernel_state_is_that_of_flanneld() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    host.run(&["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"]);
    let _daemon = host.start(&["--iface=u1"]);

    // As flanneld 0.20.2 leaves it, but for the queue length and, in the route, the protocol.
    let address = host.run(&["ip", "address", "show", "dev", "flannel0"]);
    let (_, address) = address.split_once(": ").unwrap();
    let mut lines = address.lines();
    let qdisc = fs::read_to_string("/proc/sys/net/core/default_qdisc").unwrap();
    let device = format!(
        "flannel0: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1472 qdisc {} state \
         UNKNOWN group default qlen 4096",
        qdisc.trim()
    );
    assert_eq!(lines.next().unwrap(), device);
    assert_eq!(lines.next().unwrap(), "    link/none ");
    assert_eq!(lines.next().unwrap(), "    inet 10.244.1.0/32 scope global flannel0");
    assert_eq!(lines.next().unwrap(), "       valid_lft forever preferred_lft forever");
    assert_eq!(
        host.run(&["ip", "-d", "route", "show", "dev", "flannel0"]),
        "unicast 10.244.0.0/16 proto 82 scope global \n"
    );
    assert_eq!(host.run(&["sysctl", "-n", "net.ipv4.conf.flannel0.rp_filter"]), "2\n");
    let link = host.run(&["ip", "-d", "link", "show", "dev", "flannel0"]);
    assert!(link.contains("tun type tun pi off vnet_hdr on persist off"), "{link}");
}

#[test]
fn the_subnet_file_and_the_lease_are_those_of_flanneld() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let _daemon = host.start(&["--iface=u1"]);

    assert_eq!(
        fs::read_to_string(host.subnet_file()).unwrap(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ=false\n"
    );
    let all = leases.all();
    assert_eq!(all.len(), 1);
    let (name, mut value) = all[0].clone();
    assert_eq!(name, "10.244.1.0-24");
    let ours = value.as_object_mut().unwrap().remove("Weft").expect("our part of the lease");
    assert_eq!(ours["v"], 1);
    assert_eq!(value.to_string(), r#"{"PublicIP":"10.168.0.2","PublicIPv6":null}"#);
}

#[test]
fn the_sockets_are_bound_to_the_interface_address() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let _daemon = host.start(&["--iface=u1"]);
    let table = host.run(&["cat", "/proc/net/udp"]);
    let bound: Vec<&str> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(bound, ["0200A80A:205D"], "{table}");
}

#[test]
fn two_hosts_reach_each_other_and_questions_are_answered() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let pair = Pair::new(&leases);
    let mut left = pair.left.start(&["--iface=u1"]);
    let mut right = pair.right.start(&["--iface=u2"]);
    left.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);

    // Too long for the shortcut.
    let size = ["-s", "600", "-c", "3", "-i", "0.05", "-W", "2"];
    pair.left.run(&[&["ping", "-I", "10.244.1.1"][..], &size, &["10.244.2.1"]].concat());

    let status = left.ask("status");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], left.pid());
    assert_eq!(status["problems"], json!([]));
    assert_eq!(
        status["network"],
        json!({"ipv4": "10.244.0.0/16", "ipv6": null, "backend": "udp", "port": 8285, "paths": ["udp"]})
    );
    assert_eq!(status["interface"]["name"], "u1");
    assert_eq!(status["device"], json!({"name": "flannel0", "mtu": 1472}));
    assert_eq!(status["lease"]["subnet"], "10.244.1.0/24");
    assert_ne!(status["engine"]["name"], "");
    assert!(status["traffic"]["outbound"]["segments_out"].as_u64() >= Some(3), "{status}");
    assert!(status["traffic"]["inbound"]["segments_in"].as_u64() >= Some(3), "{status}");

    let peers = left.ask("peers");
    assert_eq!(peers["peers"].as_array().unwrap().len(), 1);
    let peer = &peers["peers"][0];
    assert_eq!(peer["subnet"], "10.244.2.0/24");
    assert_eq!(peer["outer"], "10.168.0.3:8285");
    assert_eq!(peer["segmentation"], true);

    assert!(left.show("status").contains("subnet"));
    assert!(left.show("peers").contains("10.244.2.0/24"));
    left.check_accounting();
    right.check_accounting();
}

#[test]
fn what_has_no_route_is_counted_with_its_reason() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let mut daemon = host.start(&["--iface=u1"]);
    let words = ["ping", "-c", "2", "-i", "0.05", "-W", "1", "-I", "10.244.1.1", "10.244.9.9"];
    assert!(!host.command(&words).output().unwrap().status.success());
    daemon.wait_until("counted", |daemon| {
        let drops = daemon.ask("drops");
        let lines = drops["outbound"].as_array().unwrap();
        lines.iter().any(|line| line["reason"] == "no_route" && line["count"] == 2)
    });
    assert!(daemon.show("drops").contains("No peer has a lease for the destination."));
    daemon.check_accounting();
}

#[test]
fn probes_are_answered_from_the_start() {
    needs_namespaces!();
    let leases = Leases::empty();
    let host = Host::alone(&leases);
    let mut daemon = host.spawn(&["--iface=u1"]);
    daemon.wait_until("up", |_| host.http("/healthz").1 == "flanneld is running");
    let not_ready =
        ("HTTP/1.1 503 Service Unavailable".to_owned(), "flanneld is not ready yet".to_owned());
    assert_eq!(host.http("/readyz"), not_ready);
    let status = daemon.ask("status");
    assert_eq!(status["ready"], false);
    assert!(status["problems"][0].as_str().unwrap().contains("config"), "{status}");
    assert!(!host.has_device());

    // A bad config is waited out like a missing one.
    leases.write_config("{");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.ask("status")["ready"], false);

    leases.write_config(CONFIG);
    daemon.wait_until("ready", |_| host.http("/readyz").1 == "flanneld is ready");
    assert_eq!(host.http("/readyz").0, "HTTP/1.1 200 OK");
}

#[test]
fn a_backend_that_is_not_built_ends_the_start() {
    needs_namespaces!();
    for backend in [r#"{"Type": "ipip"}"#, "{}"] {
        let config = format!(r#"{{"Network": "10.244.0.0/16", "Backend": {backend}}}"#);
        let host = Host::alone(&Leases::new(&config));
        let (code, text) = host.refused(&["--iface=u1"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.to_lowercase().contains("backend"), "{text}");
    }
}

#[test]
fn a_stop_takes_the_device_and_leaves_the_lease() {
    needs_namespaces!();
    for signal in ["TERM", "INT"] {
        let leases = Leases::new(CONFIG);
        let host = Host::alone(&leases);
        let daemon = host.start(&["--iface=u1"]);
        let before = (fs::read(host.subnet_file()).unwrap(), leases.all());
        assert!(host.has_device());
        daemon.signal(signal);
        let (code, took) = daemon.end();
        assert_eq!(code, Some(0));
        assert!(took < STOP_TIME_MAX, "{took:?}");
        assert!(!host.has_device());
        assert_eq!(host.run(&["ip", "route", "show", "10.244.0.0/16"]), "");
        assert_eq!(host.run(&["cat", "/proc/net/udp"]).lines().count(), 1);
        assert_eq!((fs::read(host.subnet_file()).unwrap(), leases.all()), before);
        assert!(!fs::exists(host.file("weft.sock")).unwrap());
    }
}

#[test]
fn a_daemon_that_waits_for_its_config_stops_at_once() {
    needs_namespaces!();
    let host = Host::alone(&Leases::empty());
    let mut daemon = host.spawn(&["--iface=u1"]);
    daemon.wait_until("up", |_| host.http("/healthz").1 == "flanneld is running");
    daemon.signal("TERM");
    let (code, took) = daemon.end();
    assert_eq!(code, Some(0));
    assert!(took < STOP_TIME_MAX, "{took:?}");
}

/// Two signals are there before the daemon can do anything about the first one. One thread takes two of
/// different sorts one after the other. Only one of a sort waits for a thread, so the other is for the
/// process, and if two threads take them in the same instant, neither is the second.
#[test]
fn a_second_signal_kills_at_once() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    for (first, second) in [("TERM", "INT"), ("INT", "TERM"), ("TERM", "TERM"), ("INT", "INT")] {
        let attempts = if first == second { 5 } else { 1 };
        let mut codes = Vec::new();
        while codes.len() < attempts && !codes.contains(&None) {
            let mut daemon = host.start(&["--iface=u1"]);
            daemon.signal("STOP");
            let stat = format!("/proc/{}/stat", daemon.pid());
            daemon.wait_until("stopped", |_| fs::read_to_string(&stat).unwrap().contains(") T "));
            if first == second {
                daemon.signal(first);
            } else if !signal_thread(daemon.pid(), first) {
                println!("SKIPPED: a signal to a single thread needs python3");
                return;
            }
            assert!(signal_thread(daemon.pid(), second), "no second signal");
            daemon.signal("CONT");
            codes.push(daemon.end().0);
        }
        assert!(codes.contains(&None), "{first}, and then {second}: {codes:?}");
    }
}

/// A second signal of one sort waits only beside one for the whole process.
fn signal_thread(thread: u32, name: &str) -> bool {
    let script = format!(
        "import ctypes, signal; \
         raise SystemExit(ctypes.CDLL(None).tgkill({thread}, {thread}, int(signal.SIG{name})))"
    );
    Command::new("python3").args(["-c", &script]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_hangup_has_its_default_action() {
    needs_namespaces!();
    // Under nohup the signal is ignored, and so it is by every child.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1 {
        println!("SKIPPED: SIGHUP is ignored in this session (nohup?)");
        return;
    }
    let host = Host::alone(&Leases::new(CONFIG));
    let daemon = host.start(&["--iface=u1"]);
    daemon.signal("HUP");
    assert_eq!(daemon.end().0, None);
}

#[test]
fn a_killed_daemon_can_be_started_again_at_once() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    for _ in 0..3 {
        let daemon = host.start(&["--iface=u1"]);
        daemon.signal("KILL");
        // The process is gone then, but device and port may still be taken by its ring.
        assert_eq!(daemon.end().0, None);
    }
    let daemon = host.start(&["--iface=u1"]);
    assert_eq!(daemon.ask("status")["lease"]["subnet"], "10.244.1.0/24");
    assert_eq!(leases.all().len(), 1);
}

#[test]
fn a_second_daemon_is_refused_with_a_sentence() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let first = host.start(&["--iface=u1"]);
    let owner = format!("process {}", first.pid());
    let (state, socket) = (host.file("other-state"), host.file("other.sock"));
    for (more, sentences) in [
        (vec![], vec!["state directory", owner.as_str()]),
        (vec![format!("--state-dir={state}")], vec!["admin socket", "weft.sock"]),
        (
            vec![
                format!("--state-dir={state}"),
                format!("--admin-socket={socket}"),
                "--healthz-port=8081".to_owned(),
            ],
            vec!["flannel0", owner.as_str()],
        ),
        (
            vec![format!("--state-dir={state}"), format!("--admin-socket={socket}")],
            vec!["health", "127.0.0.1:8080"],
        ),
    ] {
        let mut more: Vec<&str> = more.iter().map(String::as_str).collect();
        more.push("--iface=u1");
        let (code, text) = host.refused(&more);
        assert_eq!(code, Some(1), "{text}");
        for sentence in sentences {
            assert!(text.contains(sentence), "{sentence}: {text}");
        }
    }
    assert_eq!(first.ask("status")["ready"], true);
}

/// In a container its process has another number than for whoever asks from outside.
#[test]
fn a_daemon_in_a_container_is_not_in_its_own_way() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let mut daemon =
        host.spawn_by(&["unshare", "--pid", "--fork", "--kill-child"], &["--iface=u1"]);
    daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    assert_eq!(daemon.ask("status")["pid"], 1);
    let plan = |socket: &str| {
        let socket = format!("--admin-socket={}", host.file(socket));
        let mut command = host.command(&[env!("CARGO_BIN_EXE_weft"), "plan", "--iface=u1"]);
        let output = command.args(host.arguments()).arg(socket).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = plan("weft.sock");
    assert!(said.starts_with("udp over u1") && !said.contains("belongs to"), "{said}");
    // For a daemon that is to have another socket, it is one of others.
    let said = plan("another.sock");
    assert!(said.contains("! flannel0 belongs to weft (process "), "{said}");
}

#[test]
fn a_taken_port_is_named_with_its_owner() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('10.168.0.2', 8285))\nprint('bound', flush=True)\ntime.sleep(60)";
    let mut other =
        host.command(&["python3", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 5];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut line).unwrap();
    let (code, text) = host.refused(&["--iface=u1"]);
    let owner = format!("(process {})", other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("10.168.0.2:8285") && text.contains(&owner), "{text}");
    assert!(!host.has_device());
    assert!(leases.all().is_empty(), "a host that cannot carry packets claims no subnet");
}

#[test]
fn a_left_over_device_is_named() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    host.run(&["ip", "tuntap", "add", "dev", "flannel0", "mode", "tun"]);
    let (code, text) = host.refused(&["--iface=u1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("flannel0") && text.contains("ip link delete"), "{text}");
    assert!(host.has_device(), "what is not ours stays");
}

/// `unshare` hides the device node behind an empty `/dev/net`; `setpriv` takes the capability.
#[test]
fn missing_driver_and_capability_are_named() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let program = env!("CARGO_BIN_EXE_weft");
    let arguments = host.arguments().join(" ");
    let hidden =
        format!("mount -t tmpfs none /dev/net && exec timeout 20 {program} daemon {arguments}");
    let bounded = format!(
        "exec timeout 20 setpriv --bounding-set -net_admin --inh-caps -net_admin {program} daemon {arguments}"
    );
    for (words, sentence) in [
        (["unshare", "--mount", "sh", "-c", &hidden].as_slice(), "/dev/net/tun"),
        (["sh", "-c", &bounded].as_slice(), "CAP_NET_ADMIN"),
    ] {
        let output = host.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(sentence), "{text}");
    }
}

/// Containers may start with a limit of locked memory that is too small for a ring. It is raised as
/// far as it may be.
#[test]
fn a_small_limit_of_locked_memory_is_raised() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let arguments = host.arguments().join(" ");
    for (limits, sentence) in
        [("65536:1048576", "INFO ready"), ("65536:65536", "limit of locked memory")]
    {
        let line = format!(
            "exec prlimit --memlock={limits} timeout 20 setpriv \
             --bounding-set -ipc_lock,-sys_resource --inh-caps -ipc_lock,-sys_resource \
             {} daemon {arguments} --iface=u1 2>&1",
            env!("CARGO_BIN_EXE_weft")
        );
        let mut child = host.command(&["sh", "-c", &line]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = Vec::new();
        let found = loop {
            let Some(line) = lines.next() else { break false };
            text.push(line.unwrap());
            if text.iter().any(|line| line.contains(sentence)) {
                break true;
            }
        };
        // timeout(1) passes it on.
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        child.wait().unwrap();
        assert!(found, "{limits}: {text:?}");
    }
}

#[test]
fn the_supervisor_is_told() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let path = host.file("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command: Command = host.daemon_command(&["--iface=u1"]);
    let mut child = command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null()).spawn().unwrap();
    let receive = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(receive(), "READY=1");
    assert!(host.subnet_file().exists(), "the subnet file is there before");
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(receive(), "STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn features_that_were_forbidden_are_not_used() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let daemon = host.start(&["--iface=u1", "--without=tun-uso,udp-gso,udp-gro", "--engine=epoll"]);
    let engine = &daemon.ask("status")["engine"];
    assert_eq!(engine["reason"], "asked for");
    let features = &engine["features"];
    assert_eq!(features["device_uso"], false);
    assert_eq!(features["device_tso"], true);
    assert_eq!(features["segments_max"], 1);
    assert_eq!(features["joined_receive"], json!([false]));
}

#[test]
fn a_daemon_whose_device_is_deleted_ends_with_an_error() {
    needs_namespaces!();
    let host = Host::alone(&Leases::new(CONFIG));
    let mut daemon = host.start(&["--iface=u1"]);
    host.run(&["ip", "link", "delete", "flannel0"]);
    daemon.wait_until("over", |daemon| daemon.log().contains("ERROR"));
    let log = daemon.log();
    assert_eq!(daemon.end().0, Some(1), "{log}");
}

/// The numbers of a scrape are those that `weft status` and `weft drops` show, and the board asks
/// for nothing that is not there.
#[test]
fn a_scrape_says_what_status_and_drops_say() {
    needs_namespaces!();
    let leases = Leases::new(CONFIG);
    let pair = Pair::new(&leases);
    let mut left = pair.left.start(&["--iface=u1"]);
    let _right = pair.right.start(&["--iface=u2"]);
    left.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
    // As short as those that take the shortcut, and longer.
    for size in ["56", "600"] {
        let size = ["-s", size, "-c", "5", "-i", "0.05", "-W", "2"];
        pair.left.run(&[&["ping", "-I", "10.244.1.1"][..], &size, &["10.244.2.1"]].concat());
    }
    let nowhere = ["ping", "-c", "3", "-i", "0.05", "-W", "1", "-I", "10.244.1.1", "10.244.9.9"];
    assert!(!pair.left.command(&nowhere).output().unwrap().status.success());

    // Nothing else goes through the worker now.
    let (status, drops) = (left.ask("status"), left.ask("drops"));
    let (head, body) = pair.left.http("/metrics");
    assert_eq!(head, "HTTP/1.1 200 OK");
    let metrics = samples(&body);

    for (direction, part, series) in [
        ("outbound", "segments_in", "weft_segments_in_total"),
        ("outbound", "segments_out", "weft_segments_out_total"),
        ("outbound", "bytes_out", "weft_inner_bytes_total"),
        ("outbound", "trains_out", "weft_trains_total"),
        ("outbound", "segments_out", "weft_train_segments_sum"),
        ("outbound", "trains_out", "weft_train_segments_count"),
        ("inbound", "segments_in", "weft_segments_in_total"),
        ("inbound", "segments_out", "weft_segments_out_total"),
        ("inbound", "bytes_in", "weft_inner_bytes_total"),
        ("inbound", "segments_in", "weft_train_segments_sum"),
        ("inbound", "trains_in", "weft_train_segments_count"),
    ] {
        let series = format!("{series}{{direction=\"{direction}\"}}");
        let shown = status["traffic"][direction][part].as_f64().unwrap();
        assert_eq!(metrics.get(series.as_str()), Some(&shown), "{series} {part}: {body}");
        assert!(shown >= 5.0, "{series}: {body}");
    }
    for (direction, part) in [("outbound", "packets_out"), ("inbound", "packets_in")] {
        let series = format!("weft_shortcut_packets_total{{direction=\"{direction}\"}}");
        let shown = status["traffic"]["shortcut"][part].as_f64().unwrap();
        assert_eq!(metrics.get(series.as_str()), Some(&shown), "{series}: {body}");
    }
    for direction in ["outbound", "inbound"] {
        for drop in drops[direction].as_array().unwrap() {
            let series = format!(
                "weft_dropped_segments_total{{direction=\"{direction}\",reason={}}}",
                drop["reason"]
            );
            assert_eq!(metrics.get(series.as_str()), drop["count"].as_f64().as_ref(), "{series}");
        }
        let series = format!("weft_dropped_segments_total{{direction=\"{direction}\",");
        let all = metrics.iter().filter(|(name, _)| name.starts_with(&series));
        let sum: f64 = all.map(|(_, value)| value).sum();
        assert_eq!(Some(sum), status["traffic"][direction]["drops"].as_f64());
    }
    let no_route = r#"weft_dropped_segments_total{direction="outbound",reason="no_route"}"#;
    assert_eq!(metrics[no_route], 3.0);
    assert_eq!((metrics["weft_ready"], metrics["weft_peers"]), (1.0, 1.0));
    assert_eq!(metrics["weft_path_mtu_min_bytes"], 1472.0);
    assert!(metrics[r#"weft_worker_syscalls_total{worker="0"}"#] > 0.0, "{body}");
    let busy = metrics[r#"weft_worker_busy_seconds_total{worker="0"}"#];
    assert!(busy > 0.0 && busy < metrics["weft_uptime_seconds"] + 1.0, "{body}");

    assert_board_exists(&metrics);
}

/// Every sample by its name and labels.
fn samples(body: &str) -> HashMap<&str, f64> {
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let split = lines.map(|line| line.rsplit_once(' ').unwrap());
    split.map(|(series, value)| (series, value.parse().unwrap())).collect()
}

/// The board asks only for what a scrape has.
#[track_caller]
fn assert_board_exists(metrics: &HashMap<&str, f64>) {
    let board = include_str!("../scripts/grafana/weft.json");
    let is_part = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
    for name in board.split(|letter| !is_part(letter)).filter(|word| word.starts_with("weft_")) {
        let exists = metrics.keys().any(|series| series.split('{').next() == Some(name));
        // They need a peer behind a smaller path, a store in which leases run out, a bad lease, and
        // traffic that is sealed.
        let is_conditional = [
            "weft_peer_path_mtu_bytes",
            "weft_lease_remaining_seconds",
            "weft_lease_rejections_total",
        ]
        .contains(&name)
            || name.starts_with("weft_sealing_");
        assert!(exists || is_conditional, "{name}: {metrics:#?}");
    }
}
