//! What only Kubernetes can get wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use weft_ctrl::config::{NetworkConfig, Subnets};
use weft_ctrl::identity;
use weft_ctrl::lease::{Attributes, Weft};
use weft_ctrl::source::acquire::{AcquireError, Acquired, Request, acquire, is_owned};
use weft_ctrl::source::kubernetes::{Access, Kubernetes, KubernetesOptions, NodeName, Patience};
use weft_ctrl::source::{Change, Network, Source, Update, Watch};

use super::apiserver::ApiServer;
use super::certificates::certificates;
use super::relay::{Relay, Wire};

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(90);

const CONFIG: &str = r#"{"Network":"10.244.0.0/16"}"#;

const PREFIX: &str = "flannel.alpha.coreos.com/";

/// Options with short waits for the node `own`, with all files in `place`.
pub(crate) fn options(server: &ApiServer, place: &Path) -> KubernetesOptions {
    KubernetesOptions {
        access: Access { url: Some(server.url()), ..Access::default() },
        node: NodeName::Known("own".into()),
        prefix: "flannel.alpha.coreos.com".parse().unwrap(),
        config: place.join("net-conf.json"),
        sets_condition: true,
        state_directory: place.to_owned(),
        patience: Patience {
            connect: Duration::from_secs(1),
            request: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            watch: Duration::from_secs(60),
            check: Duration::from_millis(300),
            config: Duration::from_millis(100),
        },
    }
}

/// What a node with this lease has as annotations, written by hand as flanneld and weft write them.
pub(crate) fn annotations_of(value: &str) -> Value {
    let value: Value = serde_json::from_str(value).unwrap();
    let mut annotations = json!({});
    let mut set =
        |suffix: &str, text: String| annotations[format!("{PREFIX}{suffix}")] = text.into();
    set("kube-subnet-manager", "true".into());
    set("backend-type", value["BackendType"].as_str().unwrap_or_default().into());
    set("backend-data", value["BackendData"].to_string());
    set("public-ip", value["PublicIP"].as_str().unwrap().into());
    if let Some(address) = value["PublicIPv6"].as_str() {
        set("public-ipv6", address.into());
        set("backend-v6-data", value["BackendV6Data"].to_string());
    }
    if !value["Weft"].is_null() {
        set("weft", value["Weft"].to_string());
    }
    annotations
}

/// A server with one node, and a place for the files of a source.
struct World {
    server: ApiServer,
    place: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let server = ApiServer::start();
        server.add_node("own", &["10.244.1.0/24"]);
        let place = tempfile::tempdir().unwrap();
        identity::load_or_create(place.path()).unwrap();
        Self { server, place }
    }

    fn source(&self) -> Kubernetes {
        Kubernetes::new(options(&self.server, self.place.path()))
    }

    fn attributes(&self) -> Attributes {
        let id = identity::load(self.place.path()).unwrap();
        Attributes {
            public_ip: [192, 0, 2, 1].into(),
            public_ipv6: None,
            backend_type: String::new(),
            backend_data: None,
            backend_v6_data: None,
            weft: Some(Weft { id, port: Some(8285), ..Weft::default() }),
        }
    }

    async fn acquire(&self, source: &Kubernetes, config: &str) -> Result<Acquired, AcquireError> {
        let config = NetworkConfig::parse_for(config.as_bytes(), Subnets::Given).unwrap();
        let attributes = self.attributes();
        let request = Request { config: &config, attributes: &attributes, previous: None };
        timeout(PATIENCE, acquire(source, &request)).await.unwrap()
    }

    /// A node beside ours that takes part.
    fn add_peer(&self, name: &str, pod_cidrs: &[&str]) {
        self.server.add_node(name, pod_cidrs);
        self.server.annotate(name, &annotations_of(r#"{"PublicIP":"192.0.2.9"}"#));
    }
}

async fn next(watch: &mut Watch) -> Update {
    loop {
        match timeout(PATIENCE, watch.next()).await.expect("an update") {
            Update::Config(_) => {}
            update => return update,
        }
    }
}

async fn snapshot(watch: &mut Watch) -> Vec<String> {
    loop {
        if let Update::Snapshot(records) = next(watch).await {
            return records.into_iter().map(|record| record.name).collect();
        }
    }
}

/// The names of what was put, and of what was deleted with a minus sign.
async fn changes(watch: &mut Watch) -> Vec<String> {
    let Update::Changes(changes) = next(watch).await else { panic!("another listing") };
    let name = |change| match change {
        Change::Put(record) => record.name,
        Change::Deleted { name, .. } => format!("-{name}"),
    };
    changes.into_iter().map(name).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "not {what}");
}

#[tokio::test]
async fn a_lease_is_written_as_flannels_annotations_through_the_status() {
    let world = World::new();
    let got = world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(
        (got.leaf.to_string(), &*got.record.name),
        ("10.244.1.0-24".into(), "10.244.1.0-24")
    );
    assert!(is_owned(&world.attributes(), &got.record.value));
    assert_eq!(got.record.value, world.attributes().to_json());
    let node = world.server.node("own");
    let id = identity::load(world.place.path()).unwrap().unwrap();
    assert_eq!(
        node["metadata"]["annotations"],
        json!({
            "node.alpha.kubernetes.io/ttl": "0",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "",
            "flannel.alpha.coreos.com/backend-data": "null",
            "flannel.alpha.coreos.com/public-ip": "192.0.2.1",
            "flannel.alpha.coreos.com/weft": format!(r#"{{"v":1,"id":"{id}","port":8285}}"#),
        })
    );
    let requests = world.server.requests();
    let writes: Vec<_> = requests.iter().filter(|text| !text.starts_with("get ")).collect();
    assert_eq!(writes, ["patch /api/v1/nodes/own/status"]);

    // Nothing is written that is there already.
    world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(world.server.requests().iter().filter(|text| text.starts_with("patch")).count(), 1);
}

#[tokio::test]
async fn a_node_is_known_by_its_name_whoever_wrote_its_annotations() {
    let world = World::new();
    let others =
        r#"{"PublicIP":"203.0.113.7","Weft":{"v":1,"id":"0123456789abcdef0123456789abcdef"}}"#;
    world.server.annotate("own", &annotations_of(others));
    let source = world.source();
    let record = source.given().await.unwrap().unwrap();
    assert!(is_owned(&world.attributes(), &record.value));
    world.acquire(&source, CONFIG).await.unwrap();
    assert_eq!(world.server.annotation("own", "public-ip").as_deref(), Some("192.0.2.1"));
}

#[tokio::test]
async fn the_first_subnet_of_the_network_and_any_length_are_right() {
    for pod_cidr in ["10.244.0.0/24", "10.244.8.0/21", "10.244.3.64/27"] {
        let world = World::new();
        world
            .server
            .patch_node("own", &json!({"spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]}}));
        let got = world.acquire(&world.source(), CONFIG).await.unwrap();
        assert_eq!(got.leaf.to_string(), pod_cidr.replace('/', "-"));
    }
}

#[tokio::test]
async fn a_family_that_is_off_is_left_out() {
    let world = World::new();
    let both = ["10.244.1.0/24", "fd00:1::/64"];
    world.server.patch_node("own", &json!({"spec": {"podCIDR": both[0], "podCIDRs": both}}));
    let got = world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(got.leaf.to_string(), "10.244.1.0-24");
    assert_eq!(got.record.name, "10.244.1.0-24&fd00:1::-64");
    let dual = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/16"}"#;
    let got = world.acquire(&world.source(), dual).await.unwrap();
    assert_eq!(got.leaf.to_string(), "10.244.1.0-24&fd00:1::-64");
}

#[tokio::test]
async fn what_cannot_be_is_told_with_the_remedy() {
    let world = World::new();
    let error = world.acquire(&world.source(), r#"{"Network":"10.5.0.0/16"}"#).await.unwrap_err();
    assert!(error.to_string().contains("--cluster-cidr"), "{error}");
    let v6 = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
    assert!(world.acquire(&world.source(), v6).await.is_err());

    let sentence = |error: AcquireError| match error {
        AcquireError::Source(error) => (error.sentence(), error.is_transient()),
        other => panic!("{other}"),
    };
    world.server.patch_node("own", &json!({"spec": null}));
    let told = sentence(world.acquire(&world.source(), CONFIG).await.unwrap_err());
    assert!(told.0.contains("no pod CIDR") && told.0.contains("--allocate-node-cidrs") && told.1);
    world.server.delete_node("own");
    let told = sentence(world.acquire(&world.source(), CONFIG).await.unwrap_err());
    assert!(told.0.contains("no node own") && told.0.contains("NODE_NAME") && told.1, "{told:?}");

    world.server.add_node("own", &["10.244.1.0/24"]);
    world.server.manners().rights.retain(|(verb, _)| verb != "patch");
    let told = sentence(world.acquire(&world.source(), CONFIG).await.unwrap_err());
    assert!(told.0.contains("cannot patch resource \"nodes/status\""), "{told:?}");
    assert!(told.0.contains("ClusterRole"), "{told:?}");
}

#[tokio::test]
async fn the_nodes_name_comes_from_the_pod_and_is_remembered() {
    let mut world = World::new();
    let options = || KubernetesOptions {
        node: NodeName::OfPod { namespace: "kube-flannel".into(), pod: "weft-x".into() },
        ..options(&world.server, world.place.path())
    };
    let error = Kubernetes::new(options()).given().await.unwrap_err();
    assert!(error.sentence().contains("kube-flannel/weft-x"), "{}", error.sentence());
    let pods = "/api/v1/namespaces/kube-flannel/pods";
    let pod = json!({"metadata": {"name": "weft-x"}, "spec": {"nodeName": "own"}});
    world.server.add(pods, pod);
    let record = Kubernetes::new(options()).given().await.unwrap().unwrap();
    assert_eq!(record.name, "10.244.1.0-24");
    Kubernetes::new(options()).public_addresses().await.unwrap();
    let away = Kubernetes::new(options());
    world.server.stop();
    assert!(away.public_addresses().await.unwrap().is_remembered);
}

#[tokio::test]
async fn an_operator_may_say_another_address() {
    let world = World::new();
    let name = |suffix: &str| format!("{PREFIX}{suffix}");
    world.server.annotate("own", &json!({name("public-ip-overwrite"): "203.0.113.9"}));
    let source = world.source();
    let got = world.acquire(&source, CONFIG).await.unwrap();
    assert_eq!(world.server.annotation("own", "public-ip").as_deref(), Some("203.0.113.9"));
    // It still is what was written, so that it is not written again and again.
    assert_eq!(got.record.value, world.attributes().to_json());
    let mut watch = source.watch();
    assert_eq!(snapshot(&mut watch).await, ["10.244.1.0-24"]);
    let value = world.attributes().to_json();
    // The node's own address, and what is no address, take an earlier wish back.
    let (own, nonsense) = (Some("192.0.2.1"), Some("203.0.113."));
    for (wish, expected) in [
        (Some("203.0.113.10"), Some("203.0.113.10")),
        (own, own),
        (Some("203.0.113.11"), Some("203.0.113.11")),
        (None, own),
        (Some("203.0.113.12"), Some("203.0.113.12")),
        (nonsense, own),
        (Some("203.0.113.13"), Some("203.0.113.13")),
    ] {
        world.server.annotate("own", &json!({name("public-ip-overwrite"): wish}));
        let Update::Changes(changes) = next(&mut watch).await else { panic!("another listing") };
        let [Change::Put(seen)] = &changes[..] else { panic!("{changes:?}") };
        assert_ne!(seen.value, value, "it has to be written again");
        assert!(is_owned(&world.attributes(), &seen.value), "{seen:?}");
        source.replace(seen, &value).await.unwrap().unwrap();
        let said = world.server.annotation("own", "public-ip");
        assert_eq!(said.as_deref(), expected, "{wish:?}");
        let Update::Changes(changes) = next(&mut watch).await else { panic!("another listing") };
        let [Change::Put(written)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(written.value, value, "it is as it has to be");
    }
    // A wish of a time when nothing ran is followed from the start on, a mistaken one is passed over.
    for (wish, expected) in
        [(own, own), (Some("203.0.113.14"), Some("203.0.113.14")), (nonsense, own)]
    {
        world.server.annotate("own", &json!({name("public-ip-overwrite"): wish}));
        world.acquire(&world.source(), CONFIG).await.unwrap();
        let said = world.server.annotation("own", "public-ip");
        assert_eq!(said.as_deref(), expected, "{wish:?}");
    }

    world.server.annotate("own", &json!({name("node-public-ip"): "192.0.2.77"}));
    let addresses = source.public_addresses().await.unwrap();
    assert_eq!((addresses.v4, addresses.is_remembered), (Some([192, 0, 2, 77].into()), false));
}

/// flanneld loses an update in which only one family has changed.
#[tokio::test]
async fn a_change_in_one_family_is_told() {
    let world = World::new();
    let both = ["10.244.2.0/24", "fd00:2::/64"];
    world.server.add_node("peer", &both);
    let value = r#"{"PublicIP":"192.0.2.9","PublicIPv6":"2001:db8::9","BackendType":"host-gw"}"#;
    world.server.annotate("peer", &annotations_of(value));
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, ["10.244.2.0-24&fd00:2::-64"]);
    for (suffix, address) in [("public-ipv6", "2001:db8::8"), ("public-ip", "192.0.2.8")] {
        world.server.annotate("peer", &json!({format!("{PREFIX}{suffix}"): address}));
        let Update::Changes(changes) = next(&mut watch).await else { panic!() };
        let [Change::Put(record)] = &changes[..] else { panic!("{changes:?}") };
        assert!(String::from_utf8_lossy(&record.value).contains(address));
    }
}

#[tokio::test]
async fn nodes_come_go_and_are_made_again() {
    let world = World::new();
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0], "no node takes part");
    world.add_peer("peer", &["10.244.2.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.2.0-24"]);
    // What a kubelet does all the time is no news.
    let heartbeat = json!({"status": {"conditions": [{"type": "Ready", "at": 2}]}});
    world.server.patch_node("peer", &heartbeat);
    world.server.delete_node("peer");
    assert_eq!(changes(&mut watch).await, ["-10.244.2.0-24"]);
    world.add_peer("peer", &["10.244.7.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.7.0-24"]);
    let none = json!({format!("{PREFIX}kube-subnet-manager"): null});
    world.server.annotate("peer", &none);
    assert_eq!(changes(&mut watch).await, ["-10.244.7.0-24"]);
    // The subnet of a node that was not in the list is asked for once.
    let requests = world.server.requests();
    let reads = requests.iter().filter(|text| *text == "get /api/v1/nodes/peer").count();
    assert_eq!(reads, 2, "{requests:?}");
}

#[tokio::test]
async fn this_node_given_another_subnet_is_told() {
    let world = World::new();
    let source = world.source();
    let got = world.acquire(&source, CONFIG).await.unwrap();
    world.server.delete_node("own");
    let error = source.create(&got.record.name, &got.record.value).await.unwrap_err();
    assert!(!error.is_renumbering() && error.sentence().contains("no node own"));
    world.server.add_node("own", &["10.244.9.0/24"]);
    let error = source.create(&got.record.name, &got.record.value).await.unwrap_err();
    assert!(error.is_renumbering() && error.sentence().contains("10.244.9.0-24"));
    assert_eq!(world.server.annotation("own", "kube-subnet-manager"), None);
}

/// Whoever lists again tells nothing new that could be missed; the receiver compares.
#[tokio::test]
async fn a_forgotten_history_means_another_listing() {
    let mut world = World::new();
    world.add_peer("a", &["10.244.2.0/24"]);
    let source = world.source();
    let mut watch = source.watch();
    assert_eq!(snapshot(&mut watch).await, ["10.244.2.0-24"]);
    world.server.stop();
    let health = watch.health();
    eventually("noticed", || health.borrow().problem.is_some()).await;
    world.add_peer("b", &["10.244.3.0/24"]);
    world.server.delete_node("a");
    world.server.compact();
    world.server.run();
    assert_eq!(snapshot(&mut watch).await, ["10.244.3.0-24"]);
    eventually("well again", || health.borrow().problem.is_none()).await;
    world.add_peer("c", &["10.244.4.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.4.0-24"]);
}

#[tokio::test]
async fn an_outage_without_compaction_loses_nothing_and_lists_nothing() {
    let mut world = World::new();
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
    world.server.stop();
    world.add_peer("b", &["10.244.3.0/24"]);
    sleep(Duration::from_millis(300)).await;
    world.server.run();
    assert_eq!(changes(&mut watch).await, ["10.244.3.0-24"]);
    assert_eq!(watch.health().borrow().listings, 1);
}

#[tokio::test]
async fn a_quiet_watch_is_kept_fresh_by_bookmarks() {
    let mut world = World::new();
    world.server.manners().bookmarks = Duration::from_millis(50);
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
    // Others change; only a bookmark tells this watch that time goes on.
    for number in 0..5 {
        world
            .server
            .add("/api/v1/namespaces/x/pods", json!({"metadata": {"name": format!("p{number}")}}));
    }
    sleep(Duration::from_millis(500)).await;
    world.server.compact();
    world.server.restart();
    world.add_peer("b", &["10.244.3.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.3.0-24"]);
    assert_eq!(watch.health().borrow().listings, 1, "the bookmark was newer than the compaction");
}

#[tokio::test]
async fn a_watch_that_tells_nothing_any_more_is_replaced() {
    let world = World::new();
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
    world.server.manners().is_mute = true;
    world.add_peer("b", &["10.244.3.0/24"]);
    // This node's kubelet tells the server something, as it does every few minutes.
    world.server.annotate("own", &json!({"heartbeat": "1"}));
    let health = watch.health();
    eventually("noticed", || {
        health.borrow().problem.as_ref().is_some_and(|problem| problem.contains("silent"))
    })
    .await;
    world.server.manners().is_mute = false;
    assert_eq!(changes(&mut watch).await, ["10.244.3.0-24"]);
}

#[tokio::test]
async fn a_server_that_is_not_well_is_told_of_and_asked_again() {
    let world = World::new();
    world.server.manners().failure = Some(500);
    let mut watch = world.source().watch();
    let health = watch.health();
    eventually("told", || health.borrow().problem.is_some()).await;
    let problem = health.borrow().problem.clone().unwrap();
    assert!(problem.contains("does not answer") && problem.contains("not well"), "{problem}");
    world.server.manners().failure = None;
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
}

/// Writes a kubeconfig with a token file, and returns its path.
fn kubeconfig(place: &Path, url: &str) -> std::path::PathBuf {
    let file = |name: &str| place.join(name).display().to_string();
    let text = json!({
        "clusters": [{"name": "c", "cluster": {
            "server": url, "certificate-authority": file("authority.pem"),
        }}],
        "users": [{"name": "u", "user": {"tokenFile": file("token")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    let path = place.join("kubeconfig");
    fs::write(&path, text.to_string()).unwrap();
    path
}

/// With TLS, a token, and a relay on the way to the server.
struct SecureWorld {
    server: ApiServer,
    relay: Relay,
    place: tempfile::TempDir,
}

impl SecureWorld {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let files = certificates(place.path(), "127.0.0.1");
        let server = ApiServer::start_encrypted(files);
        server.manners().tokens.insert("first".into());
        fs::write(place.path().join("token"), "first\n").unwrap();
        server.add_node("own", &["10.244.1.0/24"]);
        let relay = Relay::to(server.port()).await;
        Self { server, relay, place }
    }

    fn source(&self) -> Kubernetes {
        let url = self.relay.url().replace("http:", "https:");
        let access =
            Access { kubeconfig: Some(kubeconfig(self.place.path(), &url)), ..Access::default() };
        Kubernetes::new(KubernetesOptions { access, ..options(&self.server, self.place.path()) })
    }
}

#[tokio::test]
async fn certificates_and_tokens_that_were_replaced_on_disk_are_used() {
    let mut world = SecureWorld::new().await;
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);

    // Another authority, and so another certificate.
    certificates(world.place.path(), "127.0.0.1");
    world.server.restart();
    let peer = annotations_of(r#"{"PublicIP":"192.0.2.9"}"#);
    world.server.add_node("a", &["10.244.2.0/24"]);
    world.server.annotate("a", &peer);
    assert_eq!(changes(&mut watch).await, ["10.244.2.0-24"]);

    fs::write(world.place.path().join("token"), "second\n").unwrap();
    world.server.manners().tokens = ["second".to_owned()].into();
    let health = watch.health();
    eventually("asked with the new token", || {
        let health = health.borrow();
        health.problem.is_none() && world.server.requests().len() > 10
    })
    .await;
    world.server.restart();
    world.server.add_node("b", &["10.244.3.0/24"]);
    world.server.annotate("b", &peer);
    assert_eq!(changes(&mut watch).await, ["10.244.3.0-24"]);
    assert_eq!(health.borrow().listings, 1);

    // A token that is not accepted is told as such.
    fs::write(world.place.path().join("token"), "third\n").unwrap();
    let error = world.source().list().await.unwrap_err().sentence();
    assert!(error.contains("does not accept the token"), "{error}");
}

/// A program that gives the token when the file `release` is there, and notes each start.
const PLUGIN: &str = r#"
    echo >> "$0/started"
    for try in $(seq 6000); do [ -e "$0/release" ] && break; sleep 0.01; done
    echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"first"}}'
"#;

#[tokio::test]
async fn a_plugin_that_gives_the_token_holds_nobody_up() {
    let world = SecureWorld::new().await;
    let place = world.place.path();
    let source = |request| {
        let options = options(&world.server, place);
        let kubeconfig = Some(kubeconfig(place, &world.server.url()));
        let access = Access { kubeconfig, ..Access::default() };
        let patience = Patience { request, ..options.patience };
        Kubernetes::new(KubernetesOptions { access, patience, ..options })
    };
    let (patient, impatient) = (source(PATIENCE), source(Duration::from_secs(1)));
    let file = place.join("kubeconfig");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", PLUGIN, place],
        "interactiveMode": "Never",
    }});
    fs::write(&file, config.to_string()).unwrap();
    let starts = || {
        let text = fs::read_to_string(place.join("started")).unwrap_or_default();
        text.lines().count()
    };

    // One that does not end is told of, and not started again while it runs.
    for _ in 0..2 {
        let error = impatient.list().await.unwrap_err().sentence();
        assert!(error.contains("does not end"), "{error}");
    }
    assert_eq!(starts(), 1);

    // There is one thread here, so what the plugin waits for happens only if it is not waited for.
    let others = async {
        eventually("started", || starts() > 1).await;
        fs::write(place.join("release"), "").unwrap();
    };
    let (listed, ()) =
        timeout(PATIENCE, async { tokio::join!(patient.list(), others) }).await.unwrap();
    assert_eq!(listed.unwrap(), []);
    let answered = async {
        while impatient.list().await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, answered).await.unwrap();
    // For each client the library starts it twice: for a certificate, and for a token.
    assert_eq!(starts(), 4, "one that takes longer than any question is used all the same");
}

#[tokio::test]
async fn a_server_with_a_certificate_of_somebody_else_is_not_believed() {
    let world = SecureWorld::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    certificates(elsewhere.path(), "127.0.0.1");
    fs::copy(elsewhere.path().join("authority.pem"), world.place.path().join("authority.pem"))
        .unwrap();
    let error = world.source().list().await.unwrap_err().sentence();
    assert!(error.contains("certificate"), "{error}");
}

/// kube-proxy is broken, so the address of the service leads nowhere.
#[tokio::test]
async fn real_addresses_are_remembered_across_a_restart() {
    let world = SecureWorld::new().await;
    world.server.manners().rights.insert(("get".into(), "endpointslices".into()));
    let slice = json!({
        "metadata": {"name": "kubernetes"},
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": world.server.port()}],
    });
    world.server.add("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice);
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
    let memory = world.place.path().join("kubernetes");
    eventually("remembered", || {
        fs::read_to_string(&memory).is_ok_and(|text| text.contains("https://127.0.0.1:"))
    })
    .await;
    drop(watch);

    world.relay.set(Wire::Refuses);
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0]);
    let real = format!("https://127.0.0.1:{}", world.server.port());
    eventually("told who answers", || watch.health().borrow().server.as_deref() == Some(&real))
        .await;

    fs::remove_file(&memory).unwrap();
    let error = world.source().list().await.unwrap_err().sentence();
    assert!(error.contains("does not answer") && error.contains("kubeconfig"), "{error}");
}

#[tokio::test]
async fn a_config_that_changes_is_told_also_while_the_server_is_away() {
    let mut world = World::new();
    let file = world.place.path().join("net-conf.json");
    let mut watch = world.source().watch();
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap(), Update::Config(None));
    snapshot(&mut watch).await;
    world.server.stop();
    fs::write(world.place.path().join("aside"), CONFIG).unwrap();
    fs::rename(world.place.path().join("aside"), &file).unwrap();
    let told = timeout(PATIENCE, watch.next()).await.unwrap();
    assert_eq!(told, Update::Config(Some(CONFIG.as_bytes().to_vec())));
}

#[tokio::test]
async fn the_condition_is_set_beside_those_of_others() {
    let world = World::new();
    let source = world.source();
    source.announce(Network::Up).await.unwrap();
    let conditions = world.server.node("own")["status"]["conditions"].clone();
    assert_eq!(conditions[0], json!({"type": "Ready", "status": "True"}));
    let condition = &conditions[1];
    assert_eq!(condition["type"], "NetworkUnavailable");
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("FlannelIsUp"))
    );
    assert_eq!(condition["message"], "Flannel is running on this node");
    let time = condition["lastTransitionTime"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.starts_with("20"), "{time}");
    source.announce(Network::Down("no device".into())).await.unwrap();
    let conditions = world.server.node("own")["status"]["conditions"].clone();
    assert_eq!(conditions.as_array().unwrap().len(), 2);
    assert_eq!(
        (&conditions[1]["status"], &conditions[1]["message"]),
        (&json!("True"), &json!("no device"))
    );

    // A node that was made again gets it again, with its annotations.
    source.announce(Network::Up).await.unwrap();
    world.acquire(&source, CONFIG).await.unwrap();
    world.server.delete_node("own");
    world.server.add_node("own", &["10.244.1.0/24"]);
    source.create("10.244.1.0-24", &world.attributes().to_json()).await.unwrap().unwrap();
    assert_eq!(world.server.node("own")["status"]["conditions"][1]["reason"], "FlannelIsUp");

    let options = options(&world.server, world.place.path());
    let silent = Kubernetes::new(KubernetesOptions { sets_condition: false, ..options });
    let before = world.server.requests().len();
    silent.announce(Network::Up).await.unwrap();
    assert_eq!(world.server.requests().len(), before);
}

/// A kubelet changes its node between our reading and our writing.
#[tokio::test]
async fn writes_of_others_in_between_are_kept() {
    let world = World::new();
    let source = world.source();
    for round in 0..20 {
        let record = source.given().await.unwrap().unwrap();
        let weft = Weft { port: Some(round + 1), ..world.attributes().weft.unwrap() };
        let value = Attributes { weft: Some(weft), ..world.attributes() }.to_json();
        let ours = async {
            match source.replace(&record, &value).await.unwrap() {
                Some(record) => Some(record),
                None => source.create(&record.name, &value).await.unwrap(),
            }
        };
        let theirs = async {
            for beat in 0..3 {
                world.server.annotate("own", &json!({"beat": format!("{round}.{beat}")}));
                tokio::task::yield_now().await;
            }
        };
        let (written, ()) = tokio::join!(ours, theirs);
        assert_eq!(written.unwrap().value, value);
        assert_eq!(
            world.server.node("own")["metadata"]["annotations"]["beat"],
            format!("{round}.2")
        );
    }
}

#[tokio::test]
async fn five_thousand_nodes_are_followed_with_few_questions() {
    const COUNT: usize = 5000;
    let world = World::new();
    let value = annotations_of(r#"{"PublicIP":"192.0.2.9"}"#);
    for number in 0..COUNT {
        let (high, low) = (number / 250 + 2, number % 250);
        let mut node = json!({
            "metadata": {"name": format!("node-{number}"), "annotations": value},
            "spec": {"podCIDR": format!("10.{high}.{low}.0/24")},
        });
        node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] = "0".into();
        world.server.add("/api/v1/nodes", node);
    }
    let source = world.source();
    let mut watch = source.watch();
    assert_eq!(snapshot(&mut watch).await.len(), COUNT);
    for number in 0..COUNT {
        let address = format!("192.0.2.{}", number % 200 + 10);
        world
            .server
            .annotate(&format!("node-{number}"), &json!({format!("{PREFIX}public-ip"): address}));
    }
    let mut told = 0;
    while told < COUNT {
        told += changes(&mut watch).await.len();
    }
    assert_eq!(told, COUNT);
    let requests = world.server.requests();
    let lists = requests.iter().filter(|text| text.starts_with("list ")).count();
    assert_eq!(lists, (COUNT + 1).div_ceil(500), "pages of one listing");
    let reads = requests.iter().filter(|text| text.starts_with("get /api/v1/nodes/node-")).count();
    assert_eq!(reads, 0, "subnets are known from the list");
}
