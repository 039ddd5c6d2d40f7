//! The manifests, applied with `kubectl` as the documents say, and daemons that have what they grant and
//! no more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::apiserver::ApiServer;
use super::cluster::{Cluster, has_kubectl};
use super::real::KubeApiServer;
use super::{RealWorld, World, WorldWith, is_ready, problems, spawn};

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-weft/configmaps";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/kube-weft/daemonsets";
const NAMESPACES: &str = "/api/v1/namespaces";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// What the manifests make, in the words of `kubectl`.
const OBJECTS: [&str; 8] = [
    "clusterrole.rbac.authorization.k8s.io/weft",
    "clusterrolebinding.rbac.authorization.k8s.io/weft",
    "configmap/weft",
    "daemonset.apps/weft",
    "namespace/kube-weft",
    "role.rbac.authorization.k8s.io/weft-endpoints",
    "rolebinding.rbac.authorization.k8s.io/weft-endpoints",
    "serviceaccount/weft",
];

/// Which server has what.
pub(crate) trait Manifests: Cluster + Sized {
    /// Whether objects can be compared with what they may have.
    const VALIDATES: &'static str;

    /// What a new cluster has, if it is not there.
    fn furnish(&self) {}

    /// A token with the rights that the manifests give, and no more.
    fn token(&self) -> String;

    /// Whether the object is gone, or would be if somebody cleared up after it.
    fn is_deleted(&self, collection: &str, name: &str) -> bool {
        let object = self.object(collection, name);
        object.is_none_or(|object| !object["metadata"]["deletionTimestamp"].is_null())
    }
}

impl Manifests for KubeApiServer {
    const VALIDATES: &'static str = "--validate=true";

    fn token(&self) -> String {
        self.token_of("kube-weft", "weft")
    }
}

impl Manifests for ApiServer {
    // It has no schema; another test does that.
    const VALIDATES: &'static str = "--validate=false";

    fn furnish(&self) {
        for namespace in ["default", "kube-system"] {
            self.add(NAMESPACES, json!({"metadata": {"name": namespace}}));
        }
        let slice = json!({
            "metadata": {"name": "kubernetes"},
            "endpoints": [{"addresses": ["10.168.0.1"]}],
            "ports": [{"name": "https", "port": 6443}],
        });
        self.add("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice);
    }

    fn token(&self) -> String {
        let place = format!("{RBAC}/namespaces/default/roles");
        let roles = [(format!("{RBAC}/clusterroles"), "weft"), (place, "weft-endpoints")]
            .map(|(collection, name)| self.object(&collection, name).unwrap());
        let texts = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
        let rules = roles.iter().flat_map(|role| role["rules"].as_array().unwrap());
        let rights = rules.flat_map(|rule| {
            let resources = texts(&rule["resources"]);
            let of = move |verb: String| {
                resources.clone().into_iter().map(move |resource| (verb.clone(), resource))
            };
            texts(&rule["verbs"]).into_iter().flat_map(of)
        });
        self.manners().rights = rights.collect();
        "secret".to_owned()
    }
}

impl<S: Manifests> WorldWith<S> {
    /// What became of each object, in the order of [`OBJECTS`].
    fn apply(&self, directory: &Path) -> Vec<String> {
        let place = directory.to_str().unwrap();
        outcomes(&self.server.kubectl(&["apply", S::VALIDATES, "--kustomize", place]))
    }
}

/// The words behind the names of the objects.
fn outcomes(text: &str) -> Vec<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let pairs = lines.iter().zip(OBJECTS);
    let outcome = |(line, object): (&&str, &str)| {
        let rest = line.strip_prefix(object).unwrap_or_else(|| panic!("no {object}: {text}"));
        rest.trim().to_owned()
    };
    assert_eq!(lines.len(), OBJECTS.len(), "{text}");
    pairs.map(outcome).collect()
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy/kubernetes")
}

/// A copy with another network config.
fn changed_manifests(place: &Path) -> PathBuf {
    let copy = place.join("manifests");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(manifests()).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace(r#""Type": "udp""#, r#""Type": "vxlan""#);
        fs::write(copy.join(entry.file_name()), text).unwrap();
    }
    copy
}

fn apply_and_run<S: Manifests>(world: &WorldWith<S>) {
    world.server.furnish();
    assert_eq!(world.apply(&manifests()), ["created"; OBJECTS.len()]);
    assert_eq!(world.apply(&manifests()), ["unchanged"; OBJECTS.len()]);
    let changed = world.apply(&changed_manifests(world.place.path()));
    let expected = OBJECTS.map(|object| match object {
        "configmap/weft" => "configured",
        _ => "unchanged",
    });
    assert_eq!(changed, expected);

    // As a kubelet does with what it finds.
    let config = world.server.object(CONFIG_MAPS, "weft").unwrap();
    let config = config["data"]["net-conf.json"].as_str().unwrap();
    fs::write(world.place.path().join("net-conf.json"), config).unwrap();
    fs::write(world.place.path().join("token"), world.server.token()).unwrap();
    let (mut left, _right) = world.start();
    world.ping();
    assert_eq!(world.server.annotation("left", "backend-type").as_deref(), Some("vxlan"));
    left.wait_until("scheduled", |_| world.condition("left").is_some());
    let memory = world.left.file("state/kubernetes");
    left.wait_until("told where the API server is", |_| {
        fs::read_to_string(&memory).is_ok_and(|text| text.contains("https://10.168.0.1:6443"))
    });
}

/// The DaemonSet of a flannel, as far as the guide to the swap changes it.
fn add_flannel(server: &KubeApiServer) {
    server.add(NAMESPACES, json!({"metadata": {"name": "kube-flannel"}}));
    let labels = json!({"app": "flannel"});
    let terms = json!([{"matchExpressions": [
        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
    ]}]);
    let spec = json!({
        "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }},
        "containers": [{"name": "kube-flannel", "image": "flannel"}],
    });
    let set = json!({
        "kind": "DaemonSet",
        "apiVersion": "apps/v1",
        "metadata": {"name": "kube-flannel-ds"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    });
    server.add("/apis/apps/v1/namespaces/kube-flannel/daemonsets", set);
}

/// The patch that the guide has for it.
fn guides_patch() -> String {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migrate-from-flannel.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, rest) = guide.split_once("patch daemonset kube-flannel-ds --patch '").unwrap();
    rest.split_once('\'').unwrap().0.to_owned()
}

/// Node by node, as the guide has it: flannel's pods keep away, ours come to chosen nodes, then to all.
fn swap(world: &RealWorld) {
    let version = world.server.kubectl(&["version", "--client"]);
    if !version.contains("Kustomize Version") {
        println!("SKIPPED: the canary needs kubectl 1.26 or later");
        return;
    }
    add_flannel(&world.server);
    let words = ["--namespace=kube-flannel", "patch", "daemonset", "kube-flannel-ds", "--patch"];
    world.server.kubectl(&[&words[..], &[&guides_patch()]].concat());
    let flannel = "/apis/apps/v1/namespaces/kube-flannel/daemonsets";
    let flannel = world.server.object(flannel, "kube-flannel-ds").unwrap();
    let affinity = &flannel["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(
        terms[0]["matchExpressions"][1],
        json!({"key": "weft", "operator": "DoesNotExist"}),
        "{terms}"
    );

    for (directory, selector) in [("canary", json!({"weft": "yes"})), ("kubernetes", Value::Null)] {
        let outcomes = world.apply(&manifests().with_file_name(directory));
        let place = OBJECTS.iter().position(|object| *object == "daemonset.apps/weft").unwrap();
        assert_eq!(outcomes[place], "configured", "{directory}");
        let set = world.server.object(DAEMON_SETS, "weft").unwrap();
        assert_eq!(set["spec"]["template"]["spec"]["nodeSelector"], selector);
    }
}

fn delete<S: Manifests>(world: &WorldWith<S>) {
    let place = manifests();
    let words = ["delete", "--wait=false", "--kustomize", place.to_str().unwrap()];
    world.server.kubectl(&words);
    assert!(world.server.is_deleted(DAEMON_SETS, "weft"));
    assert!(world.server.is_deleted(NAMESPACES, "kube-weft"));
}

#[test]
fn the_applied_manifests_grant_what_a_daemon_needs() {
    if !has_kubectl() {
        println!("SKIPPED: the test of the applied manifests needs kubectl");
        return;
    }
    let Some(world) = World::new("") else { return };
    apply_and_run(&world);
    delete(&world);
}

/// The objects are judged by the schema of the server, and every right by its roles.
#[test]
fn a_real_server_takes_the_manifests_and_grants_what_a_daemon_needs() {
    let Some(world) = RealWorld::new("") else { return };
    apply_and_run(&world);

    // Who lacks a right is told which, and goes on as soon as it is there.
    world.server.kubectl(&["delete", "clusterrolebinding", "weft"]);
    let mut left = spawn(&world.left, "left");
    left.wait_until("told", |daemon| {
        let text = problems(daemon);
        let refusal = r#"User \"system:serviceaccount:kube-weft:weft\" cannot"#;
        text.contains(refusal) && text.contains("weft's ClusterRole")
    });
    world.server.kubectl(&["apply", "--kustomize", manifests().to_str().unwrap()]);
    left.wait_until("ready", is_ready);
    drop(left);
    swap(&world);
    delete(&world);
}
