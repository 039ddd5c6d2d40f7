//! Daemons with Kubernetes as their source, in network namespaces: hosts at a switch, with an API server
//! behind it, encrypted and asking for a token: one of this process, or the real one where
//! `scripts/apiserver` has built it. Needs root, `ip`, `nft`, `/dev/net/tun` and openssl; without them a
//! test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
#[path = "../../ctrl/tests/kubernetes/apiserver.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod apiserver;
#[path = "../../ctrl/tests/etcd/certificates.rs"]
mod certificates;
#[path = "../../ctrl/tests/kubernetes/cluster.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod cluster;
mod faults;
#[path = "../daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the directory")]
mod host;
mod kubectl;
mod many;
mod outages;
#[path = "../shared/pings.rs"]
#[expect(dead_code, reason = "shared with the tests of other sources and of the package")]
mod pings;
#[path = "../../ctrl/tests/kubernetes/real.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod real;
#[path = "../../ctrl/tests/etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of etcd")]
mod server;
#[path = "../etcd/stream.rs"]
mod stream;
mod types;

use std::fs;

use serde_json::{Value, json};

use apiserver::ApiServer;
use certificates::certificates;
use cluster::{Cluster, kubeconfig};
use host::{Daemon, Host, Leases, Switch, can_run};
use real::KubeApiServer;

const CONFIG: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;

/// Two hosts and an API server.
struct WorldWith<S> {
    left: Host,
    right: Host,
    server: S,
    place: tempfile::TempDir,
    _leases: Leases,
    // Dropped last.
    switch: Switch,
}

/// Here it is one of this process.
type World = WorldWith<ApiServer>;

/// Here it is that of Kubernetes.
type RealWorld = WorldWith<KubeApiServer>;

impl<S: Cluster> WorldWith<S> {
    /// `None`, said aloud, where this cannot be made.
    fn new(config: &str) -> Option<Self> {
        Self::with(config, "10.168.0.1", true)
    }

    /// The server's certificate is for `address`. Hosts are told of it by a kubeconfig, or not at all.
    fn with(config: &str, address: &str, has_kubeconfig: bool) -> Option<Self> {
        if !can_run() || !S::can_run() {
            return None;
        }
        let switch = Switch::new();
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name).display().to_string();
        let files = certificates(place.path(), address);
        let server = S::start_for("secret", Some(&switch.namespace), "10.168.0.1:6443", files);
        fs::write(file("token"), "secret").unwrap();
        fs::write(file("net-conf.json"), config).unwrap();
        for (node, pod_cidr) in [("left", "10.244.1.0/24"), ("right", "10.244.2.0/24")] {
            server.add_node(node, &[pod_cidr]);
        }
        let user = json!({"tokenFile": file("token")});
        let text = kubeconfig(&server.url(), &file("authority.pem"), &user);
        fs::write(file("kubeconfig"), text).unwrap();
        let mut flags = vec![
            "--kube-subnet-mgr".to_owned(),
            format!("--net-config-path={}", file("net-conf.json")),
        ];
        if has_kubeconfig {
            flags.push(format!("--kubeconfig-file={}", file("kubeconfig")));
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let leases = Leases::behind(&flags);
        let left = Host::at(&switch, &leases, 1);
        let right = Host::at(&switch, &leases, 2);
        Some(Self { left, right, server, place, _leases: leases, switch })
    }

    /// Both daemons, ready and joined.
    fn start(&self) -> (Daemon<'_>, Daemon<'_>) {
        let mut left = start(&self.left, "left");
        let mut right = start(&self.right, "right");
        for daemon in [&mut left, &mut right] {
            daemon.wait_until("joined", |daemon| peers(daemon) == 1);
        }
        (left, right)
    }

    fn condition(&self, node: &str) -> Option<Value> {
        let conditions = self.server.node(node)["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|one| one["type"] == "NetworkUnavailable")
    }

    fn ping(&self) {
        let words = ["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", "10.244.1.1", "10.244.2.1"];
        self.left.run(&words);
    }
}

fn spawn<'a>(host: &'a Host, node: &str) -> Daemon<'a> {
    let interface = format!("--iface={}", host.underlay());
    host.spawn_by(&["env", &format!("NODE_NAME={node}")], &[&interface, "--ip-masq"])
}

fn start<'a>(host: &'a Host, node: &str) -> Daemon<'a> {
    let mut daemon = spawn(host, node);
    daemon.wait_until("ready", is_ready);
    daemon
}

fn is_ready(daemon: &Daemon<'_>) -> bool {
    daemon.ask("status")["ready"] == true
}

fn peers(daemon: &Daemon<'_>) -> u64 {
    daemon.ask("status")["peers"].as_u64().unwrap_or(0)
}

fn problems(daemon: &Daemon<'_>) -> String {
    daemon.ask("status")["problems"].to_string()
}

fn follows(daemon: &Daemon<'_>) -> bool {
    daemon.ask("status")["datastore"]["connected"] == true
}

/// What the left node says; not whether it has a shortcut, which is for its kernel to decide.
fn annotations_of_left<S: Cluster>(world: &WorldWith<S>) -> Value {
    let mut annotations = world.server.node("left")["metadata"]["annotations"].clone();
    if let Some(Value::String(weft)) = annotations.get_mut("flannel.alpha.coreos.com/weft") {
        *weft = weft.replace(r#","shortcut":true"#, "");
    }
    annotations
}

/// The sixth walkthrough with the backend of ours: what a node says, what its pods are told, and that
/// they reach each other.
fn walk_through<S: Cluster>(world: &WorldWith<S>) {
    let (mut left, _right) = world.start();
    let id = fs::read_to_string(world.left.file("state/id")).unwrap();
    assert_eq!(
        annotations_of_left(world),
        json!({
            "node.alpha.kubernetes.io/ttl": "0",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "",
            "flannel.alpha.coreos.com/backend-data": "null",
            "flannel.alpha.coreos.com/public-ip": "10.168.0.2",
            "flannel.alpha.coreos.com/weft": format!(
                r#"{{"v":1,"id":"{}","paths":["udp"],"port":8285,"ports":1,"mtu":1472}}"#,
                id.trim_end()
            ),
        })
    );
    assert_eq!(
        fs::read_to_string(world.left.subnet_file()).unwrap(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ=true\n"
    );
    world.ping();
    left.wait_until("told that pods have a network", |_| world.condition("left").is_some());
    let condition = world.condition("left").unwrap();
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("FlannelIsUp"))
    );
    let status = left.ask("status");
    assert!(status["source"].as_str().unwrap().starts_with("Kubernetes at "), "{status}");
    assert_eq!(status["datastore"]["server"], "https://10.168.0.1:6443");
    assert_eq!(status["lease"]["expires_in_seconds"], Value::Null);

    // A flanneld beside us, as it writes its node.
    world.server.add_node("old", &["10.244.7.0/24"]);
    let prefix = "flannel.alpha.coreos.com/";
    world.server.annotate(
        "old",
        &json!({
            format!("{prefix}kube-subnet-manager"): "true",
            format!("{prefix}backend-type"): "",
            format!("{prefix}backend-data"): "null",
            format!("{prefix}public-ip"): "10.168.0.7",
        }),
    );
    left.wait_until("joined by a flanneld", |daemon| peers(daemon) == 2);
    // One that says nonsense harms nobody.
    world.server.add_node("bad", &["10.244.8.0/24"]);
    world.server.annotate(
        "bad",
        &json!({
            format!("{prefix}kube-subnet-manager"): "true",
            format!("{prefix}public-ip"): "127.0.0.1",
        }),
    );
    left.wait_until("told", |daemon| {
        daemon.ask("status")["rejected"][0]["name"] == "10.244.8.0-24"
    });
    assert_eq!(peers(&left), 2);
}

#[test]
fn walkthrough_kubernetes() {
    if let Some(world) = World::new(CONFIG) {
        walk_through(&world);
    }
}

#[test]
fn walkthrough_kubernetes_with_a_real_server() {
    if let Some(world) = RealWorld::new(CONFIG) {
        walk_through(&world);
    }
}

/// The same with the kernel's VXLAN, as most clusters have it.
#[test]
fn walkthrough_kubernetes_vxlan() {
    let config = r#"{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}"#;
    let Some(world) = World::new(config) else { return };
    let (left, mut right) = world.start();
    assert_eq!(world.server.annotation("right", "backend-type").as_deref(), Some("vxlan"));
    let data = world.server.annotation("right", "backend-data").unwrap();
    let mac = data.strip_prefix(r#"{"VNI":1,"VtepMAC":""#).unwrap().strip_suffix("\"}").unwrap();
    right.wait_until("set up", |_| {
        world.left.run(&["bridge", "fdb", "show", "dev", "flannel.1"]).contains(mac)
            && world
                .left
                .run(&["ip", "route"])
                .contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1")
    });
    world.ping();
    assert!(fs::read_to_string(world.left.subnet_file()).unwrap().contains("FLANNEL_MTU=1450"));
    drop(left);
    // The pods are still there, and so are their peers.
    world.left.run(&["ping", "-c", "1", "-W", "2", "-I", "10.244.1.1", "10.244.2.1"]);
}

/// What a start would do is said without doing it.
#[test]
fn a_plan_names_what_would_be_written_on_the_node() {
    let Some(world) = World::new(CONFIG) else { return };
    let mut words = vec!["env", "NODE_NAME=left", env!("CARGO_BIN_EXE_weft"), "plan", "--iface=u1"];
    let arguments = world.left.arguments();
    words.extend(arguments.iter().map(String::as_str));
    let output = world.left.command(&words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("subnet 10.244.1.0-24") && text.contains("write on the node"), "{text}");
    assert_eq!(world.server.annotation("left", "kube-subnet-manager"), None);
}
