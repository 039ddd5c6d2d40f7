//! What only Kubernetes can get wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use weft_ctrl::config::{NetworkConfig, Subnets};
use weft_ctrl::identity;
use weft_ctrl::lease::{Attributes, Weft};
use weft_ctrl::source::acquire::{AcquireError, Acquired, Request, acquire};
use weft_ctrl::source::kubernetes::{Access, Kubernetes, KubernetesOptions, NodeName, Patience};
use weft_ctrl::source::{Change, Network, Source, Update, Watch};

use super::apiserver::ApiServer;
use super::certificates::certificates;
use super::cluster::{Cluster, kubeconfig};
use super::real::KubeApiServer;
use super::relay::{Relay, Wire};

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const CONFIG: &str = r#"{"Network":"10.244.0.0/16"}"#;

/// The subnet of this node where a test gives it no other.
pub(crate) const POD_CIDR: &str = "10.244.1.0/24";

pub(crate) const PREFIX: &str = "flannel.alpha.coreos.com/";

/// Options with short waits for the node `own`, with all files in `place`.
pub(crate) fn options(access: Access, place: &Path) -> KubernetesOptions {
    KubernetesOptions {
        access,
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

/// The real server, asking for a token, with a kubeconfig for a source among the files in the directory.
pub(crate) fn start_real() -> Option<(KubeApiServer, tempfile::TempDir, Access)> {
    if !KubeApiServer::can_run() {
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let files = certificates(place.path(), "127.0.0.1");
    let server = KubeApiServer::start_for("secret", None, "127.0.0.1:0", files);
    fs::write(place.path().join("token"), "secret").unwrap();
    let kubeconfig = Some(write_kubeconfig(place.path(), &server.url()));
    Some((server, place, Access { kubeconfig, ..Access::default() }))
}

/// A server with one node, and a place for the files of a source.
pub(crate) struct WorldWith<S> {
    pub(crate) server: S,
    place: tempfile::TempDir,
    pub(crate) access: Access,
}

pub(crate) type World = WorldWith<ApiServer>;

impl World {
    pub(crate) fn new() -> Self {
        let server = ApiServer::start();
        let access = Access { url: Some(server.url()), ..Access::default() };
        Self::begin(server, tempfile::tempdir().unwrap(), access)
    }
}

impl WorldWith<KubeApiServer> {
    pub(crate) fn real() -> Option<Self> {
        let (server, place, access) = start_real()?;
        Some(Self::begin(server, place, access))
    }
}

impl<S: Cluster> WorldWith<S> {
    fn begin(server: S, place: tempfile::TempDir, access: Access) -> Self {
        server.add_node("own", &[POD_CIDR]);
        identity::load_or_create(place.path()).unwrap();
        Self { server, place, access }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(crate) fn source(&self) -> Kubernetes {
        Kubernetes::new(self.options())
    }

    pub(crate) fn options(&self) -> KubernetesOptions {
        options(self.access.clone(), self.path())
    }

    pub(crate) fn attributes(&self) -> Attributes {
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

    pub(crate) async fn acquire(
        &self,
        source: &Kubernetes,
        config: &str,
    ) -> Result<Acquired, AcquireError> {
        let config = NetworkConfig::parse_for(config.as_bytes(), Subnets::Given).unwrap();
        let attributes = self.attributes();
        let request = Request { config: &config, attributes: &attributes, previous: None };
        timeout(PATIENCE, acquire(source, &request)).await.unwrap()
    }

    /// A watch that has been told of the node `b`, which was made while the wire was cut, and did not
    /// have to list again for it.
    pub(crate) async fn watch_over(&self, relay: &Relay) -> Watch {
        let mut watch = self.source().watch();
        assert_eq!(snapshot(&mut watch).await, [""; 0]);
        let health = watch.health();
        relay.set(Wire::Refuses);
        eventually("noticed", || health.borrow().problem.is_some()).await;
        self.add_peer("b", &["10.244.3.0/24"]);
        relay.set(Wire::Whole);
        assert_eq!(changes(&mut watch).await, ["10.244.3.0-24"]);
        assert_eq!(health.borrow().listings, 1);
        watch
    }

    /// A node beside ours that takes part.
    pub(crate) fn add_peer(&self, name: &str, pod_cidrs: &[&str]) {
        self.server.add_node(name, pod_cidrs);
        self.server.annotate(name, &annotations_of(r#"{"PublicIP":"192.0.2.9"}"#));
    }
}

pub(crate) async fn next(watch: &mut Watch) -> Update {
    loop {
        match timeout(PATIENCE, watch.next()).await.expect("an update") {
            Update::Config(_) => {}
            update => return update,
        }
    }
}

pub(crate) async fn snapshot(watch: &mut Watch) -> Vec<String> {
    loop {
        if let Update::Snapshot(records) = next(watch).await {
            return records.into_iter().map(|record| record.name).collect();
        }
    }
}

/// The names of what was put, and of what was deleted with a minus sign.
pub(crate) async fn changes(watch: &mut Watch) -> Vec<String> {
    let Update::Changes(changes) = next(watch).await else { panic!("another listing") };
    let name = |change| match change {
        Change::Put(record) => record.name,
        Change::Deleted { name, .. } => format!("-{name}"),
    };
    changes.into_iter().map(name).collect()
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "not {what}");
}

#[tokio::test]
async fn only_what_changes_is_written_and_only_through_the_status() {
    let world = World::new();
    world.acquire(&world.source(), CONFIG).await.unwrap();
    let requests = world.server.requests();
    let writes: Vec<_> = requests.iter().filter(|text| !text.starts_with("get ")).collect();
    assert_eq!(writes, ["patch /api/v1/nodes/own/status"]);

    // Nothing is written that is there already.
    world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(world.server.requests().iter().filter(|text| text.starts_with("patch")).count(), 1);
}

#[tokio::test]
async fn a_right_that_is_not_there_is_named() {
    let world = World::new();
    world.server.manners().rights.retain(|(verb, _)| verb != "patch");
    let error = world.acquire(&world.source(), CONFIG).await.unwrap_err();
    let AcquireError::Source(error) = error else { panic!("{error}") };
    let told = error.sentence();
    assert!(told.contains("cannot patch resource \"nodes/status\""), "{told}");
    assert!(told.contains("ClusterRole"), "{told}");
}

#[tokio::test]
async fn the_nodes_name_comes_from_the_pod_and_is_remembered() {
    let mut world = World::new();
    let options = || KubernetesOptions {
        node: NodeName::OfPod { namespace: "kube-flannel".into(), pod: "weft-x".into() },
        ..world.options()
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

/// The subnet of a node that was not in the list is asked for.
#[tokio::test]
async fn a_new_node_is_read_once() {
    let world = World::new();
    let mut watch = world.source().watch();
    snapshot(&mut watch).await;
    world.add_peer("peer", &["10.244.2.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.2.0-24"]);
    let heartbeat = json!({"status": {"conditions": [{"type": "Ready", "at": 2}]}});
    world.server.patch_node("peer", &heartbeat);
    world.server.delete_node("peer");
    assert_eq!(changes(&mut watch).await, ["-10.244.2.0-24"]);
    let requests = world.server.requests();
    let reads = requests.iter().filter(|text| *text == "get /api/v1/nodes/peer").count();
    assert_eq!(reads, 1, "{requests:?}");
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

/// What the wire keeps back is no reason to read everything again; a server that was started since then
/// is, because it knows nothing of what was before.
#[tokio::test]
async fn only_a_new_start_of_the_server_means_another_listing() {
    let mut world = World::new();
    let relay = Relay::to(world.server.port()).await;
    world.access.url = Some(relay.url());
    let mut watch = world.watch_over(&relay).await;
    world.server.stop();
    world.add_peer("c", &["10.244.4.0/24"]);
    world.server.run();
    assert_eq!(snapshot(&mut watch).await, ["10.244.3.0-24", "10.244.4.0-24"]);
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
pub(crate) fn write_kubeconfig(place: &Path, url: &str) -> std::path::PathBuf {
    let file = |name: &str| place.join(name).display().to_string();
    let user = json!({"tokenFile": file("token")});
    let text = kubeconfig(url, &file("authority.pem"), &user);
    let path = place.join("kubeconfig");
    fs::write(&path, text).unwrap();
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
        let access = Access {
            kubeconfig: Some(write_kubeconfig(self.place.path(), &url)),
            ..Access::default()
        };
        Kubernetes::new(options(access, self.place.path()))
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
        let kubeconfig = Some(write_kubeconfig(place, &world.server.url()));
        let options = options(Access { kubeconfig, ..Access::default() }, place);
        let patience = Patience { request, ..options.patience };
        Kubernetes::new(KubernetesOptions { patience, ..options })
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
async fn nobody_is_told_of_the_network_where_that_is_off() {
    let world = World::new();
    let silent = KubernetesOptions { sets_condition: false, ..world.options() };
    Kubernetes::new(silent).announce(Network::Up).await.unwrap();
    assert_eq!(world.server.requests(), [""; 0]);
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
