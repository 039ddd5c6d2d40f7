//! Two hosts whose traffic is sealed: it arrives, nobody on the way can read it, and nothing gets past.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_bench::lab::{
    LabOptions, NETWORK, NETWORK_V6, Namespace, Process, Side, Signal, wait_until,
};
use weft_bench::train::Train;

use crate::cluster::Cluster;
use crate::load::{Between, Capture, Flows};

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing is expected to happen.
const QUIET: Duration = Duration::from_millis(500);

/// Made by `wg genpsk`.
pub(crate) const PSK: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

/// The bytes of every ping, and what they are as text.
const PATTERN: [&str; 2] = ["736563726574776f7264736f6674776f", "secretwordsoftwo"];

pub(crate) fn config() -> String {
    let backend = format!(r#"{{"Type":"udp","Encryption":"wireguard","PSK":"{PSK}"}}"#);
    format!(r#"{{"Network":"{NETWORK}","SubnetLen":24,"Backend":{backend}}}"#)
}

/// Two sealed hosts with packets flowing. `None`, said aloud, where there cannot be any.
fn start(engine: &str) -> Option<Cluster> {
    let mut cluster = Cluster::bare(LabOptions::default())?;
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config(), &["--engine", engine]);
    }
    cluster.wait_for_traffic();
    Some(cluster)
}

fn ping_secretly(cluster: &Cluster, count: u32) -> f64 {
    let between = cluster.pods_from(Side::One);
    between.burst_loss(count, &["-s", "500", "-p", PATTERN[0]])
}

/// What the daemon says about its only peer.
fn peer(cluster: &Cluster, side: Side) -> Value {
    cluster.ask(side, "peers")["peers"][0].take()
}

fn traffic_arrives_sealed(engine: &str) {
    let Some(cluster) = start(engine) else { return };
    let wire = Side::One.underlay_device();
    let on_wire = Capture::start(cluster.lab.host(Side::One), wire, PATTERN[1]);
    let inside = Capture::start(cluster.lab.host(Side::One), "flannel0", PATTERN[1]);
    assert_eq!(ping_secretly(&cluster, 10), 0.0);
    let (seen, inside) = (on_wire.finish(), inside.finish());
    assert!(inside.clear >= 20, "pings are not as they should be: {inside:?}");
    assert_eq!((seen.clear, seen.others), (0, 0), "{seen:?}");
    // Not as many as pings: a train is seen as one.
    assert!(seen.messages > 0, "{seen:?}");
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(4, 64 << 20);
        between.echo(0, 1392);
        between.echo_in_fragments(1300, 1500);
        let flows = Flows { count: 300, sizes: &[10, 700, 1392, 64], ..Flows::default() };
        between.datagrams(flows).assert_intact();
        assert_eq!(cluster.ask(side, "status")["device"]["mtu"], 1420);
    }
    cluster.finish();
}

#[test]
fn uring_seals_what_it_sends() {
    traffic_arrives_sealed("uring");
}

#[test]
fn epoll_seals_what_it_sends() {
    traffic_arrives_sealed("epoll");
}

/// Whoever is not a peer is not listened to, whatever address he has.
#[test]
fn what_is_not_sealed_is_dropped_and_counted() {
    let Some(cluster) = start("uring") else { return };
    let socket = cluster.lab.host(Side::One).udp_socket(Side::One.underlay_address().into());
    let socket = socket.unwrap();
    let target = (Side::Two.underlay_address(), 8285);
    let pod = Side::Two.pod_address().octets();
    let from = Side::One.pod_address().octets();
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.iter().chain(&pod).chain(&[0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0]));
    let before = cluster.dropped(Side::Two, "inbound", "not_sealed");
    for _ in 0..10 {
        socket.send_to(&packet, target).unwrap();
    }
    socket
        .send_to(
            &[
                4, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                12, 13, 14, 15, 16,
            ],
            target,
        )
        .unwrap();
    let counted = || {
        let plain = cluster.dropped(Side::Two, "inbound", "not_sealed") - before;
        let stray = cluster.dropped(Side::Two, "inbound", "no_session_here");
        Ok((plain == 10 && stray >= 1).then_some(()))
    };
    wait_until("the drops to be counted", PATIENCE, counted).unwrap();
    cluster.finish();
}

/// By plain routing somebody on the host's own link could reach the pods, or speak for them.
#[test]
fn what_comes_past_the_tunnel_is_dropped() {
    let Some(mut cluster) = start("uring") else { return };
    let (stranger, victim) = (cluster.lab.host(Side::One), cluster.lab.host(Side::Two));
    let via = Side::Two.underlay_address().to_string();
    let target = Side::Two.pod_address().to_string();
    // More specific than the way through the tunnel: the packet leaves as it is.
    stranger.ip(&["route", "add", &target, "via", &via]).unwrap();
    let past = Capture::start(victim, Side::Two.underlay_device(), PATTERN[1]);
    let inside = Capture::start(victim, Side::Two.pod_link(), PATTERN[1]);
    assert_eq!(ping_secretly(&cluster, 5), 100.0, "the pod is reached past the tunnel");
    let between = Between {
        from: cluster.lab.host(Side::One),
        to: cluster.lab.pod(Side::Two),
        address: Side::Two.pod_address().into(),
    };
    assert_eq!(between.burst_loss(3, &["-p", PATTERN[0]]), 100.0);
    assert!(past.finish().clear >= 8, "nothing was tried");
    assert_eq!(inside.finish().clear, 0);
    let listed = cluster.lab.host(Side::Two).run(&["nft", "list", "chain", "inet", "weft", "wall"]);
    let listed = listed.unwrap();
    let dropped = listed.lines().filter(|line| line.contains("drop"));
    assert!(dropped.clone().any(|line| !line.contains("packets 0 ")), "{listed}");
    let told = || {
        let drops = cluster.ask(Side::Two, "drops");
        let mut lines = drops["kernel"].as_array().into_iter().flatten();
        let line = lines.find(|line| line["reason"] == "past_the_tunnel");
        Ok(line.and_then(|line| line["count"].as_u64()).filter(|count| *count >= 8))
    };
    wait_until("the drops to be told", PATIENCE, told).unwrap();
    cluster.lab.host(Side::One).ip(&["route", "del", &target, "via", &via]).unwrap();
    cluster.pods_from(Side::One).ping(3, &[]);
    cluster.stop_daemons();
    cluster.finish();
}

/// Says each change of a route, from now on.
fn watch_routes(host: &Namespace) -> Process {
    let process = host.spawn(&["ip", "monitor", "route"]).unwrap();
    let is_watching = || {
        for action in ["add", "del"] {
            host.ip(&["route", action, "blackhole", "198.51.100.0/24"])?;
        }
        Ok(process.stdout()?.contains("198.51.100.0").then_some(()))
    };
    wait_until("the watch of routes", PATIENCE, is_watching).unwrap();
    process
}

/// Without a tunnel nothing goes out by the default route, whether the daemon was stopped or killed.
#[test]
fn nothing_leaves_in_clear_while_no_daemon_runs() {
    let Some(mut cluster) = start("uring") else { return };
    let default = Side::Two.underlay_address().to_string();
    for side in Side::BOTH {
        let other = side.other().underlay_address().to_string();
        cluster.lab.host(side).ip(&["route", "replace", "default", "via", &other]).unwrap();
    }
    let wire = Side::One.underlay_device();
    let on_wire = Capture::start(cluster.lab.host(Side::One), wire, PATTERN[1]);
    let dying = cluster.kill_weft(Side::One);
    drop(dying);
    assert_eq!(ping_secretly(&cluster, 5), 100.0);
    let mut routes = watch_routes(cluster.lab.host(Side::One));
    cluster.start_weft(Side::One, &config());
    cluster.wait_for_traffic();
    // Not even for a moment: the time is too short to see a packet in it.
    routes.signal(Signal::TERM).unwrap();
    routes.wait(PATIENCE).unwrap();
    let changes = routes.stdout().unwrap();
    assert!(changes.contains("dev flannel0"), "{changes}");
    assert!(!changes.contains("Deleted unreachable"), "{changes}");
    cluster.stop_daemons();
    assert_eq!(ping_secretly(&cluster, 5), 100.0);
    let seen = on_wire.finish();
    assert!(seen.messages > 0 && seen.clear == 0 && seen.others == 0, "{seen:?} {default}");
    cluster.finish();
}

/// A daemon that is killed makes new sessions with everybody as soon as it is back.
fn comes_back_after_kills(engine: &str) {
    let Some(mut cluster) = start(engine) else { return };
    let train = Train::start(&cluster.lab).unwrap();
    for side in [Side::One, Side::Two, Side::Two] {
        let dying = cluster.kill_weft(side);
        drop(dying);
        let started = Instant::now();
        cluster.start_weft_with(side, &config(), &["--engine", engine]);
        let reply = || Ok(train.first_reply_after(started));
        let took = wait_until("a reply", PATIENCE, reply).unwrap();
        eprintln!("host {}: traffic {:?} after the start", side.number(), took - started);
    }
    drop(train);
    for side in Side::BOTH {
        cluster.pods_from(side).tcp(2, 16 << 20);
    }
    cluster.finish();
}

#[test]
fn uring_comes_back_after_kills() {
    comes_back_after_kills("uring");
}

#[test]
fn epoll_comes_back_after_kills() {
    comes_back_after_kills("epoll");
}

/// Who has no lease any more has no session either, however authentic his packets are.
#[test]
fn a_peer_without_a_lease_has_no_session() {
    let Some(mut cluster) = start("uring") else { return };
    // Nobody puts the lease back.
    let dying = cluster.kill_weft(Side::Two);
    drop(dying);
    let leases = cluster.node(Side::One).lease_directory().join("subnets");
    let name = Side::Two.subnet().replace('/', "-");
    let path = leases.join(&name);
    let lease = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let is_gone =
        || Ok((cluster.ask(Side::One, "peers")["peers"] == Value::Array(vec![])).then_some(()));
    wait_until("the peer to be gone", PATIENCE, is_gone).unwrap();
    let sealing =
        || Ok((cluster.ask(Side::One, "status")["sealing"]["sessions"] == 0).then_some(()));
    wait_until("its sessions to be gone", PATIENCE, sealing).unwrap();
    // A lease without a key is none that anything is sent to.
    std::fs::write(&path, lease.replace("\"key\"", "\"kez\"")).unwrap();
    let rejected = || {
        let status = cluster.ask(Side::One, "status");
        Ok((status["rejected"][0]["reason"] == "key_missing").then_some(()))
    };
    wait_until("the lease to be rejected", PATIENCE, rejected).unwrap();
    std::thread::sleep(QUIET);
    assert_eq!(cluster.ask(Side::One, "status")["sealing"]["sessions"], 0);
    std::fs::write(&path, lease).unwrap();
    cluster.start_weft(Side::Two, &config());
    cluster.wait_for_traffic();
    cluster.finish();
}

/// Sessions with the new key follow those with the old one, and the streams go on.
#[test]
fn a_key_is_replaced_under_traffic() {
    let Some(cluster) = start("uring") else { return };
    let key = |cluster: &Cluster| peer(cluster, Side::Two)["sealing"]["key"].take();
    let before = key(&cluster);
    let between = cluster.pods_from(Side::One);
    between.tcp_meanwhile(2, 256 << 20, || {
        let socket = cluster.node(Side::One).admin_socket();
        let socket = socket.to_str().unwrap();
        let weft = env!("CARGO_BIN_EXE_weft");
        let host = cluster.lab.host(Side::One);
        let said = host.run(&[weft, "keys", "rotate", "--admin-socket", socket]).unwrap();
        let replaced = || {
            let now = key(&cluster);
            Ok(said.contains(now.as_str().unwrap_or("no key")).then_some(()))
        };
        wait_until("the peer to know the key", PATIENCE, replaced).unwrap();
    });
    assert_ne!(key(&cluster), before);
    cluster.pods_from(Side::Two).tcp(1, 1 << 20);
    cluster.finish();
}

/// Whatever a daemon tells, its secrets are not in it, in any form.
#[test]
fn no_secret_is_told() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config(), &["--v", "10", "--healthz-port", "8280"]);
    }
    cluster.wait_for_traffic();
    cluster.pods_from(Side::One).tcp(1, 1 << 20);
    let mut texts = Vec::new();
    for question in [
        &["status"][..],
        &["status", "--json"],
        &["peers"],
        &["peers", "--json"],
        &["drops"],
        &["drops", "--json"],
    ] {
        texts.push(cluster.node(Side::One).query(cluster.lab.host(Side::One), question).unwrap());
    }
    let address = format!("http://{}:8280/metrics", Side::One.underlay_address());
    let fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())";
    let metrics = cluster.lab.host(Side::Two).run(&["python3", "-c", fetch, &address]).unwrap();
    assert!(metrics.contains("weft_sealing_sessions"), "{metrics}");
    texts.push(metrics);
    let id = cluster.node(Side::One).process().id();
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("/proc/{id}/{file}")).unwrap();
        texts.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    let state = cluster.node(Side::One).state_directory().to_owned();
    let key = std::fs::read_to_string(state.join("key")).unwrap();
    texts.push(std::fs::read_to_string(state.join("handshakes")).unwrap());
    texts.extend(cluster.stop_daemons());
    for secret in [key.trim(), PSK] {
        let bytes = weft_ctrl::key::decode(secret).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let raw = String::from_utf8_lossy(&*bytes).into_owned();
        for text in &texts {
            assert!(!text.contains(&secret[..12]), "{text}");
            assert!(!text.to_lowercase().contains(&hex[..12]), "{text}");
            assert!(!text.contains(&raw), "{text}");
        }
    }
    cluster.finish();
}

/// A crash of a daemon that seals leaves nothing of its memory on any disk.
#[test]
fn no_core_of_a_sealing_daemon_is_written() {
    let Some(mut cluster) = start("uring") else { return };
    let mut node = cluster.take_weft(Side::One);
    let host = cluster.lab.host(Side::One);
    // A truncated core is one as well.
    let dumps = |process: &mut Process| {
        host.run(&["prlimit", "--pid", &process.id().to_string(), "--core=65536"]).unwrap();
        process.signal(Signal::ABORT).unwrap();
        process.wait(PATIENCE).unwrap().core_dumped()
    };
    let directory = cluster.lab.directory().to_str().unwrap();
    let sleep = ["sh", "-c", "cd \"$0\" && echo ready && exec sleep 1000", directory];
    let mut other = host.spawn(&sleep).unwrap();
    other.wait_for_output("ready", PATIENCE).unwrap();
    if !dumps(&mut other) {
        let line = b"SKIPPED: no program leaves a core here, so none can be missing\n";
        std::io::stderr().write_all(line).unwrap();
    } else {
        // The kernel's own answer to whether a core may be written: nobody else may look inside either.
        assert!(!dumps(node.process_mut()), "a core was written");
    }
    drop((node, other));
    cluster.finish();
}

/// A host without IPv4 is reached over IPv6.
#[test]
fn hosts_seal_over_an_ipv6_underlay() {
    let options = LabOptions { ipv6: true, pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    crate::ipv6::add_underlay_addresses(&cluster);
    let config = format!(
        r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{NETWORK_V6}","IPv6SubnetLen":64,
            "Backend":{{"Type":"udp","Encryption":"wireguard","PSK":"{PSK}"}}}}"#
    );
    for side in Side::BOTH {
        // A subnet of IPv4 beside it would be another lease.
        let own = cluster.lab.directory().join(format!("host{}", side.number()));
        let gateway = side.gateway_address_v6();
        let before =
            format!("FLANNEL_IPV6_NETWORK={NETWORK_V6}\nFLANNEL_IPV6_SUBNET={gateway}/64\n");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("subnet.env"), before).unwrap();
        cluster.start_weft(side, &config);
    }
    let target = Side::Two.pod_address_v6().into();
    cluster.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
    let host = cluster.lab.host(Side::One);
    let capture = Capture::start(host, Side::One.underlay_device(), PATTERN[1]);
    for side in Side::BOTH {
        let between = cluster.pods_from_v6(side);
        between.ping(10, &["-s", "500", "-p", PATTERN[0]]);
        between.tcp(4, 32 << 20);
        // 48 bytes of IPv6 and UDP headers.
        between.echo(1300, 1420 - 48);
        between.echo_in_fragments(1400, 1500);
        let flows = Flows { count: 300, sizes: &[10, 700, 1372, 64], ..Flows::default() };
        between.datagrams(flows).assert_intact();
        assert_eq!(cluster.ask(side, "status")["device"]["mtu"], 1420);
        let endpoint = peer(&cluster, side)["sealing"]["endpoint"].take();
        assert_eq!(endpoint, format!("[fd00:168::{}]:8285", side.other().number() + 1));
    }
    let seen = capture.finish();
    assert!(seen.clear == 0 && seen.others == 0 && seen.messages > 0, "{seen:?}");
    cluster.finish();
}

/// What keeps unsealed packets out is put back if somebody removes it, and stays until it is taken down.
#[test]
fn the_wall_stays_until_it_is_taken_down() {
    let Some(mut cluster) = start("uring") else { return };
    let there = |cluster: &Cluster| {
        let host = cluster.lab.host(Side::One);
        let tables = host.run(&["nft", "list", "tables"]).unwrap();
        let routes = host.ip(&["route", "show", "type", "unreachable"]).unwrap();
        (tables.contains("table inet weft"), routes.contains(&NETWORK.to_string()))
    };
    assert_eq!(there(&cluster), (true, true));
    cluster.lab.host(Side::One).run(&["nft", "flush", "chain", "inet", "weft", "wall"]).unwrap();
    cluster.lab.host(Side::One).ip(&["route", "flush", "type", "unreachable"]).unwrap();
    let is_back = || {
        let host = cluster.lab.host(Side::One);
        let chain = host.run(&["nft", "list", "chain", "inet", "weft", "wall"]).unwrap();
        Ok((chain.contains("drop") && there(&cluster).1).then_some(()))
    };
    wait_until("the wall to be back", PATIENCE, is_back).unwrap();
    let socket = cluster.node(Side::One).admin_socket().to_owned();
    cluster.stop_daemons();
    assert_eq!(there(&cluster), (true, true), "it stays after a stop");
    let weft = env!("CARGO_BIN_EXE_weft");
    let socket = socket.to_str().unwrap();
    cluster.lab.host(Side::One).run(&[weft, "uninstall", "--admin-socket", socket]).unwrap();
    assert_eq!(there(&cluster), (false, false));
    cluster.finish();
}

/// Each worker sends from a port of its own; that is no reason to answer there.
#[test]
fn two_workers_seal_both_families() {
    let options = LabOptions { ipv6: true, pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    crate::ipv6::add_underlay_addresses(&cluster);
    let sealed = r#""Type":"udp","SourcePorts":2,"Encryption":"wireguard""#;
    let config = crate::cluster::config(true).replace(r#""Type":"udp""#, sealed);
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config, &["--workers", "2"]);
    }
    cluster.wait_for_traffic();
    for side in Side::BOTH {
        cluster.pods_from(side).tcp(8, 32 << 20);
        cluster.pods_from_v6(side).tcp(8, 32 << 20);
        let flows = Flows { flows: 8, count: 100, sizes: &[64, 1000], ..Flows::default() };
        cluster.pods_from(side).datagrams(flows).assert_intact();
        let endpoint = peer(&cluster, side)["sealing"]["endpoint"].take();
        assert_eq!(endpoint, format!("{}:8285", side.other().underlay_address()));
    }
    cluster.finish();
}

/// What a router between host one and the others does: it gives every port another number, and lets in
/// only what answers.
const TRANSLATION: &str = "table ip translation {
    chain arrivals {
        type filter hook prerouting priority raw;
        iifname \"u1\" udp dport 8285-8286 drop
    }
    chain departures {
        type nat hook postrouting priority srcnat;
        oifname \"u1\" udp sport 8285 snat to :31000
        oifname \"u1\" udp sport 8286 snat to :32000
    }
}";

/// Its workers are behind ports that nobody has told, of which one receives.
#[test]
fn two_workers_seal_through_a_translation_of_ports() {
    let options = LabOptions { pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    cluster.lab.host(Side::One).run(&["nft", TRANSLATION]).unwrap();
    let sealed = r#""Type":"udp","SourcePorts":2,"Encryption":"wireguard""#;
    let config = crate::cluster::config(false).replace(r#""Type":"udp""#, sealed);
    for side in [Side::Two, Side::One] {
        cluster.start_weft_with(side, &config, &["--workers", "2"]);
    }
    cluster.wait_for_traffic();
    for side in Side::BOTH {
        cluster.pods_from(side).tcp(8, 32 << 20);
        let flows = Flows { flows: 8, count: 100, sizes: &[64, 1000], ..Flows::default() };
        cluster.pods_from(side).datagrams(flows).assert_intact();
    }
    let endpoint = peer(&cluster, Side::Two)["sealing"]["endpoint"].take();
    assert_eq!(endpoint, format!("{}:31000", Side::One.underlay_address()));
    cluster.finish();
}
