//! The two hosts of the lab with a daemon on each, and what the daemons say about themselves.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{
    Lab, LabOptions, NETWORK, NETWORK_V6, Side, Signal, left_behind, wait_until,
};
use weft_bench::path::{Weft, WeftNode};

use crate::accounting::accounting_gap;
use crate::load::Between;

/// What the tests run besides weft.
pub(crate) const PROGRAMS: &[&str] = &["ip", "tc", "ethtool", "nft", "ping", "python3", "nstat"];

/// Longest wait for what a daemon does by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tests take turns: each one loads the whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// A lab, the daemons that were started in it, and the right to use the machine.
pub(crate) struct Cluster {
    // Dropped in this order: the daemons run in the lab's namespaces.
    nodes: [Option<WeftNode>; 2],
    pub(crate) lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// A lab without daemons. `None`, said aloud, where none can be made.
    pub(crate) fn bare(options: LabOptions) -> Option<Self> {
        if let Some(reason) = missing() {
            // Not `eprintln!`, which the harness holds back while a test passes.
            let line = format!("SKIPPED: a traffic test: {reason}\n");
            io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { nodes: [None, None], lab: Lab::new(options).unwrap(), _turn: turn })
    }

    /// A lab with a daemon on both hosts and packets flowing between the pods.
    pub(crate) fn start(options: LabOptions) -> Option<Self> {
        let mut cluster = Self::bare(options)?;
        let config = config(cluster.lab.options().ipv6);
        for side in Side::BOTH {
            cluster.start_weft(side, &config);
        }
        cluster.wait_for_traffic();
        Some(cluster)
    }

    /// Starts a daemon and waits until it is ready.
    pub(crate) fn start_weft(&mut self, side: Side, config: &str) {
        self.start_weft_with(side, config, &[]);
    }

    /// As [`Cluster::start_weft`], with further flags.
    pub(crate) fn start_weft_with(&mut self, side: Side, config: &str, flags: &[&str]) {
        let mut weft = Weft::new(Path::new(env!("CARGO_BIN_EXE_weft")));
        config.clone_into(&mut weft.config);
        weft.flags = flags.iter().map(ToString::to_string).collect();
        if let Some(engine) = engine_of_all().filter(|_| !flags.contains(&"--engine")) {
            weft.flags.extend(["--engine".to_owned(), engine]);
        }
        let node = self.nodes[index(side)].insert(weft.start(&self.lab, side).unwrap());
        let ready = || {
            node.process_mut().check_running()?;
            let answer = node.query(self.lab.host(side), &["status", "--json"]);
            let status: Value =
                serde_json::from_str(&answer.unwrap_or_default()).unwrap_or_default();
            Ok((status["ready"] == true).then_some(()))
        };
        let waited = wait_until("weft to be ready", PATIENCE, ready);
        waited.unwrap_or_else(|error| panic!("{error}: {}", node.process().complaint()));
    }

    /// Waits until the pods reach each other, in every family they have.
    pub(crate) fn wait_for_traffic(&self) {
        let mut targets: Vec<IpAddr> = vec![Side::Two.pod_address().into()];
        if self.lab.options().ipv6 {
            targets.push(Side::Two.pod_address_v6().into());
        }
        for target in targets {
            self.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
        }
    }

    /// Lets one processor take in everything that arrives anywhere. Without this the kernel itself
    /// reorders a flow now and then, when a program that sends moves to another processor and the
    /// two processors' queues are emptied at different times.
    pub(crate) fn keep_kernel_in_order(&self) {
        let script =
            "for mask in /sys/class/net/*/queues/rx-*/rps_cpus; do echo 1 > \"$mask\"; done";
        for side in Side::BOTH {
            for namespace in [self.lab.host(side), self.lab.pod(side)] {
                namespace.run(&["sh", "-c", script]).unwrap();
            }
        }
    }

    /// Takes a daemon out, which goes on.
    pub(crate) fn take_weft(&mut self, side: Side) -> WeftNode {
        self.nodes[index(side)].take().unwrap()
    }

    /// Kills a daemon. What is given back is still dying, perhaps; dropping it waits for the end.
    pub(crate) fn kill_weft(&mut self, side: Side) -> WeftNode {
        let mut node = self.take_weft(side);
        node.process_mut().signal(Signal::KILL).unwrap();
        node
    }

    /// Waits for a daemon to end by itself; its exit code and its log.
    pub(crate) fn wait_for_end(&mut self, side: Side) -> (Option<i32>, String) {
        let mut node = self.nodes[index(side)].take().unwrap();
        let status = node.process_mut().wait(PATIENCE).unwrap();
        (status.code(), node.process().stderr().unwrap())
    }

    /// From the pod of a side to the pod of the other side.
    pub(crate) fn pods_from(&self, side: Side) -> Between<'_> {
        let other = side.other();
        Between {
            from: self.lab.pod(side),
            to: self.lab.pod(other),
            address: other.pod_address().into(),
        }
    }

    /// As [`Cluster::pods_from`], over IPv6.
    pub(crate) fn pods_from_v6(&self, side: Side) -> Between<'_> {
        Between { address: side.other().pod_address_v6().into(), ..self.pods_from(side) }
    }

    pub(crate) fn node(&self, side: Side) -> &WeftNode {
        self.nodes[index(side)].as_ref().unwrap()
    }

    /// The answer of `weft <question> --json`.
    pub(crate) fn ask(&self, side: Side, question: &str) -> Value {
        let answer = self.node(side).query(self.lab.host(side), &[question, "--json"]).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// A counter of `weft status`: the part is `outbound`, `inbound` or `other`.
    pub(crate) fn counter(&self, side: Side, part: &str, name: &str) -> u64 {
        let status = self.ask(side, "status");
        let value = &status["traffic"][part][name];
        value.as_u64().unwrap_or_else(|| panic!("no counter {part} {name}: {status}"))
    }

    /// How many packets `weft drops` says were dropped for a reason.
    pub(crate) fn dropped(&self, side: Side, direction: &str, reason: &str) -> u64 {
        let drops = self.ask(side, "drops");
        let lines = drops[direction].as_array().unwrap();
        let line = lines.iter().find(|line| line["reason"] == reason);
        line.map_or(0, |line| line["count"].as_u64().unwrap())
    }

    /// Stops everything: every segment is accounted for, the daemons end as they should, and
    /// nothing stays behind.
    pub(crate) fn finish(mut self) {
        self.stop_daemons();
        self.lab.close().unwrap();
        assert_eq!(left_behind(), Vec::<String>::new());
    }

    /// Stops the daemons and keeps the lab: every segment is accounted for, and they end as they
    /// should. Gives what each one has logged.
    pub(crate) fn stop_daemons(&mut self) -> Vec<String> {
        for side in Side::BOTH {
            if self.nodes[index(side)].is_some() {
                self.check_accounting(side);
            }
        }
        let mut logs = Vec::new();
        for side in Side::BOTH {
            let Some(mut node) = self.nodes[index(side)].take() else { continue };
            let status = node.process_mut().stop().unwrap();
            let log = node.process().stderr().unwrap();
            assert_eq!(status.code(), Some(0), "{log}");
            assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
            assert!(!self.lab.host(side).has_device("flannel0").unwrap(), "flannel0 stays");
            logs.push(log);
        }
        logs
    }

    /// Waits until every segment that came in went out or was dropped for a named reason.
    fn check_accounting(&self, side: Side) {
        let gap = || accounting_gap(&self.ask(side, "status"), &self.ask(side, "drops"));
        let balanced = || Ok(gap().is_none().then_some(()));
        let waited = wait_until("the counters to add up", PATIENCE, balanced);
        waited.unwrap_or_else(|error| panic!("{error} on host {}: {:?}", side.number(), gap()));
    }
}

/// The network config; with IPv6 inside if the pods have it.
pub(crate) fn config(ipv6: bool) -> String {
    let ipv6 = if ipv6 {
        format!(r#""EnableIPv6":true,"IPv6Network":"{NETWORK_V6}","IPv6SubnetLen":64,"#)
    } else {
        String::new()
    };
    format!(r#"{{"Network":"{NETWORK}","SubnetLen":24,{ipv6}"Backend":{{"Type":"udp"}}}}"#)
}

/// The engine of the tests that do not ask for one: `WEFT_TEST_ENGINE`, or the daemon's own choice.
fn engine_of_all() -> Option<String> {
    std::env::var("WEFT_TEST_ENGINE").ok()
}

/// Why the tests cannot run here.
fn missing() -> Option<String> {
    if !std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    let program = PROGRAMS.iter().find(|program| !found(program))?;
    Some(format!("{program} is not installed"))
}

fn index(side: Side) -> usize {
    usize::from(side.number() - 1)
}
