//! The lab itself: what it builds works, and nothing of it stays. Needs root; run with one thread,
//! because `left_behind` looks at the whole process.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use weft_bench::lab::{
    Counters, DeviceCounters, Lab, LabOptions, OneCoreEach, Process, Side, Signal, Topology,
    Underlay, left_behind, wait_until,
};
use weft_bench::measure::{
    Congestion, Figure, Measure, MeasuredPath, Round, Step, ping_loss, steps,
};
use weft_bench::path::{PathKind, Programs, RunningPath};

fn programs() -> Programs {
    // No test of this file starts weft: it belongs to another package.
    Programs {
        weft: PathBuf::from("/nonexistent"),
        weft_flags: Vec::new(),
        bench: env!("CARGO_BIN_EXE_weft-bench").into(),
    }
}

fn small(kind: PathKind) -> LabOptions {
    LabOptions { pod_mtu: kind.mtu(1500), ..LabOptions::default() }
}

/// A process that ended but that nobody has collected yet has an empty command line.
fn is_running(process: u32) -> bool {
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn ping(lab: &Lab, target: &str) -> Result<String> {
    lab.pod(Side::One).run(&["ping", "-n", "-q", "-c", "3", "-i", "0.02", "-W", "2", target])
}

/// Starts the path, pings across it, stops it, and looks for what it left. Gives whether it has programs.
fn carry_packets(kind: PathKind) -> Result<bool> {
    let lab = Lab::new(kind.lab_options(&LabOptions::default()))?;
    let mut path = RunningPath::start(&lab, kind, &programs())?;
    assert_eq!(ping_loss(&lab)?, 0.0, "{}", kind.name());
    path.check_running()?;
    let has_programs = path.memory_mib()?.is_some();
    path.stop(&lab)?;
    assert!(ping(&lab, "10.244.2.2").is_err(), "{} still carries packets", kind.name());
    lab.close()?;
    assert_eq!(left_behind(), Vec::<String>::new());
    Ok(has_programs)
}

#[test]
fn every_kernel_path_and_forwarder_carries_packets_and_leaves_nothing() {
    let forwarders = [PathKind::PerPacket, PathKind::TokioUring];
    for kind in [PathKind::Bare, PathKind::HostGw, PathKind::Vxlan].iter().chain(&forwarders) {
        assert_eq!(carry_packets(*kind).unwrap(), forwarders.contains(kind), "{}", kind.name());
    }
}

#[test]
fn wireguard_carries_packets_and_leaves_nothing_or_says_why_it_cannot() {
    for kind in [PathKind::Wireguard, PathKind::WireguardGo, PathKind::BoringtunCli] {
        match carry_packets(kind) {
            Ok(has_programs) => assert_eq!(has_programs, kind != PathKind::Wireguard),
            Err(error) => {
                let text = error.to_string();
                let missing = ["run scripts/comparators", "The kernel has no WireGuard"];
                assert!(missing.iter().any(|reason| text.contains(reason)), "{error:?}");
                eprintln!("SKIPPED: {}: {text}", kind.name());
            }
        }
        assert_eq!(left_behind(), Vec::<String>::new());
    }
}

#[test]
fn a_path_whose_program_is_missing_says_so() {
    let lab = Lab::new(small(PathKind::Weft)).unwrap();
    let Err(error) = RunningPath::start(&lab, PathKind::Weft, &programs()) else {
        panic!("a program that does not exist was started");
    };
    assert!(error.to_string().contains("There is no weft binary at /nonexistent"));
}

#[test]
fn bridge_ipv6_mtu_and_filter_are_as_asked() {
    let options = LabOptions {
        underlay: Underlay::Super,
        underlay_mtu: 9000,
        pod_mtu: 8000,
        rp_filter: 2,
        ipv6: true,
        topology: Topology::Bridge,
    };
    let lab = Lab::new(options).unwrap();
    let path = RunningPath::start(&lab, PathKind::HostGw, &programs()).unwrap();
    for side in Side::BOTH {
        assert!(lab.host(side).has_device("cni0").unwrap());
        let filter = lab.host(side).run(&["cat", "/proc/sys/net/ipv4/conf/all/rp_filter"]);
        assert_eq!(filter.unwrap().trim(), "2");
        assert!(lab.host(side).run(&["nft", "list", "ruleset"]).unwrap().contains("masquerade"));
    }
    let large = ["ping", "-n", "-q", "-c", "1", "-W", "2", "-M", "do", "-s", "7972", "10.244.2.2"];
    lab.pod(Side::One).run(&large).unwrap();
    ping(&lab, "fd00:244:1::1").unwrap();
    // What leaves the network is masqueraded, or the other host could not answer.
    ping(&lab, "10.168.0.3").unwrap();
    path.stop(&lab).unwrap();
    lab.close().unwrap();
}

#[test]
fn the_underlay_loses_and_shapes_as_told() {
    let lab = Lab::new(small(PathKind::HostGw)).unwrap();
    let path = RunningPath::start(&lab, PathKind::HostGw, &programs()).unwrap();
    let before = Counters::read(lab.host(Side::Two)).unwrap();
    lab.lose_arrivals(Side::Two, 50).unwrap();
    let loss = ping_loss(&lab).unwrap();
    // With 25 packets the odds against this are a million to one.
    assert!((5.0..=95.0).contains(&loss), "{loss} percent lost");
    let growth = Counters::read(lab.host(Side::Two)).unwrap().since(&before);
    // Requests that got through and their replies; the kernel names the counter of both versions.
    assert!(growth.keys().any(|name| name.ends_with("ForwDatagrams")), "{growth:?}");
    lab.limit_departures(Side::One, "10mbit").unwrap();
    let shaped = lab.host(Side::One).tc(&["qdisc", "show", "dev", "u1"]).unwrap();
    assert!(shaped.contains("tbf") && shaped.contains("10Mbit"));
    lab.set_underlay_mtu(1280).unwrap();
    assert!(lab.host(Side::Two).ip(&["link", "show", "u2"]).unwrap().contains("mtu 1280"));
    assert!(DeviceCounters::read(lab.host(Side::One), "c1").unwrap().rx.packets > 0);
    path.stop(&lab).unwrap();
}

#[test]
fn a_router_stands_between_the_hosts_when_asked_for() {
    let mut lab = Lab::new(LabOptions::default()).unwrap();
    lab.put_router_between().unwrap();
    let host = lab.host(Side::One);
    // A lower TTL shows the router, and its MTU is what the other host can be sent.
    let reply = host.run(&["ping", "-n", "-c", "1", "-W", "2", "10.168.0.3"]).unwrap();
    assert!(reply.contains("ttl=63"), "{reply}");
    lab.router().unwrap().ip(&["link", "set", "u2", "mtu", "1300"]).unwrap();
    let large = ["ping", "-n", "-c", "2", "-W", "1", "-M", "do", "-s", "1400", "10.168.0.3"];
    assert!(host.run(&large).is_err());
    let route = host.ip(&["route", "get", "10.168.0.3"]).unwrap();
    assert!(route.contains("mtu 1300"), "{route}");
    lab.close().unwrap();
    assert_eq!(left_behind(), Vec::<String>::new());
}

#[test]
fn a_path_that_leaves_a_route_or_a_program_is_found_out() {
    let lab = Lab::new(small(PathKind::HostGw)).unwrap();
    let host = lab.host(Side::One);
    let path = RunningPath::start(&lab, PathKind::HostGw, &programs()).unwrap();
    host.ip(&["route", "add", "10.244.9.0/24", "dev", "u1"]).unwrap();
    let error = path.stop(&lab).unwrap_err().to_string();
    assert!(error.contains("routes") && error.contains("10.244.9.0/24"), "{error}");
    host.ip(&["route", "delete", "10.244.9.0/24"]).unwrap();

    let path = RunningPath::start(&lab, PathKind::HostGw, &programs()).unwrap();
    let stray = host.spawn(&["sleep", "60"]).unwrap();
    let error = path.stop(&lab).unwrap_err().to_string();
    assert!(error.contains(&format!("processes [{}]", stray.id())), "{error}");
    assert!(lab.close().unwrap_err().to_string().contains(&stray.id().to_string()));
}

#[test]
fn a_panic_removes_everything() {
    let panicked = std::thread::spawn(|| {
        let lab = Lab::new(LabOptions::default()).unwrap();
        let _process = lab.pod(Side::One).spawn(&["sleep", "60"]).unwrap();
        assert_eq!(left_behind().len(), 6);
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(left_behind(), Vec::<String>::new());
}

#[test]
fn an_interrupt_removes_everything() {
    for signal in ["-INT", "-TERM", "-HUP"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-bench"))
            .args(["lab", "--paths", "per-packet", "--secs", "30"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prefix = format!("weft-{}-", child.id());
        let forwards = || {
            let pods = std::fs::read_dir("/run/netns").unwrap().flatten();
            let hosts = pods.filter_map(|entry| entry.file_name().into_string().ok());
            let host =
                hosts.filter(|name| name.starts_with(&prefix)).find(|n| n.ends_with("host2"));
            let Some(host) = host else { return Ok(None) };
            let pids = Command::new("ip").args(["netns", "pids", &host]).output()?.stdout;
            Ok(String::from_utf8_lossy(&pids).trim().parse::<u32>().ok())
        };
        let forwarder = wait_until("the forwarder", Duration::from_secs(20), forwards).unwrap();
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let ended = || Ok(child.try_wait()?);
        let status = wait_until("the lab to end", Duration::from_secs(20), ended).unwrap();
        assert!(status.code().is_some_and(|code| code > 128), "{status}");
        let left: Vec<_> = std::fs::read_dir("/run/netns").unwrap().flatten().collect();
        assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(&prefix)));
        assert!(!is_running(forwarder), "process {forwarder} still runs");
        assert!(!std::env::temp_dir().join(format!("{prefix}0")).exists());
    }
}

#[test]
fn a_program_that_ignores_sigterm_is_ended_all_the_same() {
    let lab = Lab::new(LabOptions::default()).unwrap();
    let script = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    let mut deaf = lab.pod(Side::One).spawn(&["bash", "-c", script]).unwrap();
    deaf.wait_for_output("deaf", Duration::from_secs(5)).unwrap();
    deaf.signal(Signal::TERM).unwrap();
    deaf.check_running().unwrap();
    assert!(!deaf.stop().unwrap().success());
}

/// The Python peer on one side, the comparator on the other: two programs that share no code.
#[test]
fn the_python_peer_and_the_comparator_understand_each_other() {
    let lab = Lab::new(small(PathKind::PerPacket)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peer/flannel_peer.py");
    let bench = programs().bench;
    let mut comparator =
        start(&lab, Side::One, &[bench.to_str().unwrap(), "per-packet"], "--peer").unwrap();
    let mut peer = start(&lab, Side::Two, &["python3", script], "--route").unwrap();
    assert_eq!(ping_loss(&lab).unwrap(), 0.0);
    // Largest packet that fits, and one whose subnet nobody has.
    let large = ["ping", "-n", "-q", "-c", "2", "-W", "2", "-M", "do", "-s", "1444", "10.244.2.2"];
    lab.pod(Side::One).run(&large).unwrap();
    for side in Side::BOTH {
        wait_for_unreachable(&lab, side).unwrap();
    }
    // Two kernels and two forwarders on the way lower the TTL by one each.
    let reply = lab.pod(Side::One).run(&["ping", "-n", "-c", "1", "10.244.2.2"]).unwrap();
    assert!(reply.contains("ttl=60"), "{reply}");
    assert!(peer.stop().unwrap().success());
    comparator.stop().unwrap();
    lab.close().unwrap();
}

fn start(lab: &Lab, side: Side, program: &[&str], peer_flag: &str) -> Result<Process> {
    let local = side.underlay_address().to_string();
    let subnet = side.subnet();
    let peer = format!("{}={}", side.other().subnet(), side.other().underlay_address());
    let own_flag = if peer_flag == "--peer" { "--own" } else { "--subnet" };
    let flags = ["--local", &local, own_flag, &subnet, peer_flag, &peer];
    let mut process = lab.host(side).spawn(&[program, &flags].concat())?;
    process.wait_for_output("ready", Duration::from_secs(10))?;
    Ok(process)
}

/// A packet to a subnet without a route is answered by an ICMP error. Its source is the host's own
/// address, as with flanneld, and the kernel drops what comes from a device with such a source: so all
/// that can be seen is that the forwarder wrote a packet.
fn wait_for_unreachable(lab: &Lab, side: Side) -> Result<()> {
    let before = DeviceCounters::read(lab.host(side), "flannel0")?;
    let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                  s.sendto(b'x', ('10.244.9.9', 9))";
    lab.pod(side).run(&["python3", "-c", script])?;
    wait_until("an error about the packet", Duration::from_secs(5), || {
        let now = DeviceCounters::read(lab.host(side), "flannel0")?;
        Ok((now.rx.packets > before.rx.packets).then_some(()))
    })
}

/// What the kernel says about where a process may spend how much time.
fn place(process: u32) -> Result<String> {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
    Ok(format!("{groups}{allowed:?}"))
}

#[test]
fn a_limit_holds_until_it_is_lifted() {
    let lab = Lab::new(LabOptions::default()).unwrap();
    let programs = [1, 2].map(|_| lab.host(Side::One).spawn(&["sleep", "60"]).unwrap());
    let places = || programs.each_ref().map(|program| place(program.id()).unwrap());
    let before = places();
    let limit = OneCoreEach::apply(programs.iter().map(Process::id)).unwrap();
    let limited = places();
    assert!(before.iter().zip(&limited).all(|(before, limited)| before != limited));
    drop(limit);
    assert_eq!(places(), before, "limited by {}", OneCoreEach::method());
    // One that ends while it is limited leaves nothing either.
    let [mut program, other] = programs;
    let limit = OneCoreEach::apply([program.id()]).unwrap();
    program.stop().unwrap();
    drop((limit, other));
    lab.close().unwrap();
    assert_eq!(left_behind(), Vec::<String>::new());
}

/// Every load that the lab has, for a second each, on the path that needs no other program.
#[test]
fn every_step_gives_figures_or_says_why_not() {
    let lab = Lab::new(small(PathKind::HostGw)).unwrap();
    let path = RunningPath::start(&lab, PathKind::HostGw, &programs()).unwrap();
    let bench = programs().bench;
    let on = MeasuredPath { lab: &lab, path: &path, bench: &bench, seconds: 1 };
    let mut round = Round::default();
    let all = steps(&[Measure::Udp, Measure::Flows, Measure::Rtt], &[Congestion::Cubic]);
    let all = all.into_iter().filter(|step| *step != Step::Peers);
    for step in all.chain([Step::Tcp1Reverse, Step::Tcp1Limited]) {
        let figures = round.take(step, on);
        let is_missing = round.missing.contains_key(&step.name());
        assert_eq!(figures.iter().next().is_none(), is_missing, "{}", step.name());
        assert!(figures.iter().all(|(_, value)| value >= 0.0), "{figures:?}");
    }
    let missing: Vec<&str> = round.missing.keys().map(String::as_str).collect();
    // A busy machine may lose packets at any rate.
    assert!(missing.iter().all(|name| name.contains("lossless") || *name == "tcp1-limited"));
    assert!(round.missing["tcp1-limited"].contains("no daemon"));
    assert!(round.sample.get(Figure::FlowsKpps).is_some_and(|kpps| kpps > 0.0));
    path.stop(&lab).unwrap();
    lab.close().unwrap();
    assert_eq!(left_behind(), Vec::<String>::new());
}

/// Host 2 stands for fifty peers, and each gets a part of what is sent.
#[test]
fn many_peers_get_datagrams() {
    for kind in [PathKind::HostGw, PathKind::Vxlan, PathKind::PerPacket] {
        let lab = Lab::new(small(kind)).unwrap();
        // Packets to each peer, as they arrive.
        let counters: String =
            (1..=50).map(|n| format!("ip daddr 10.168.1.{n} counter\n")).collect();
        let hook = "type filter hook prerouting priority -350";
        let rules = format!("table ip counted {{ chain arrivals {{\n{hook}\n{counters}}}\n}}");
        lab.host(Side::Two).run(&["nft", &rules]).unwrap();
        let path = RunningPath::start_to_many(&lab, kind, &programs()).unwrap();
        let bench = programs().bench;
        let on = MeasuredPath { lab: &lab, path: &path, bench: &bench, seconds: 1 };
        let sample = on.peers().unwrap();
        let name = kind.name();
        assert!(sample.get(Figure::PeersKpps).is_some_and(|kpps| kpps > 1.0), "{name}: {sample:?}");
        assert!(sample.get(Figure::PeersLossPercent).is_some_and(|loss| loss < 95.0), "{name}");
        if kind != PathKind::HostGw {
            let counted = lab.host(Side::Two).run(&["nft", "list", "table", "ip", "counted"]);
            let counted = counted.unwrap();
            assert_eq!(counted.matches("counter packets").count(), 50, "{name}");
            assert!(!counted.contains("counter packets 0 "), "{name}: {counted}");
        }
        drop(path);
        lab.close().unwrap();
    }
    let unsuited = Lab::new(small(PathKind::WeftSealed)).unwrap();
    let refused = RunningPath::start_to_many(&unsuited, PathKind::WeftSealed, &programs());
    assert!(refused.err().unwrap().to_string().contains("cannot stand for many"));
    unsuited.close().unwrap();
    assert_eq!(left_behind(), Vec::<String>::new());
}
