//! The manifests, applied with `kubectl` as the documents say, and daemons that have what they grant and
//! no more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{World, peers, start};

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

/// The rights of an administrator, as far as they are needed.
fn administrator() -> BTreeSet<(String, String)> {
    let verbs = ["create", "delete", "get", "patch"];
    let resources = [
        "clusterrolebindings",
        "clusterroles",
        "configmaps",
        "daemonsets",
        "namespaces",
        "rolebindings",
        "roles",
        "serviceaccounts",
    ];
    let pair = |verb: &str, resource: &str| (verb.to_owned(), resource.to_owned());
    let of = |verb| resources.into_iter().map(move |resource| pair(verb, resource));
    verbs.into_iter().flat_map(of).collect()
}

impl World {
    /// Runs `kubectl` beside the API server, for an administrator.
    fn kubectl(&self, words: &[&str]) -> String {
        let granted = std::mem::replace(&mut self.server.manners().rights, administrator());
        let place = self.place.path();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.switch.namespace, "kubectl"]).args(words);
        command.arg("--kubeconfig").arg(place.join("kubeconfig")).env("HOME", place);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        self.server.manners().rights = granted;
        String::from_utf8(output.stdout).unwrap()
    }

    /// What became of each object, in the order of [`OBJECTS`].
    fn apply(&self, directory: &Path) -> Vec<String> {
        // The API server of the tests has no schema to validate with; another test does that.
        let place = directory.to_str().unwrap();
        let text = self.kubectl(&["apply", "--validate=false", "--kustomize", place]);
        outcomes(&text)
    }

    fn grant(&self) {
        let roles = [
            self.server.object(&format!("{RBAC}/clusterroles"), "weft").unwrap(),
            self.server
                .object(&format!("{RBAC}/namespaces/default/roles"), "weft-endpoints")
                .unwrap(),
        ];
        let texts = |list: &Value| -> Vec<String> { serde_json::from_value(list.clone()).unwrap() };
        let rules = roles.iter().flat_map(|role| role["rules"].as_array().unwrap());
        let rights = rules.flat_map(|rule| {
            let resources = texts(&rule["resources"]);
            let of = move |verb: String| {
                resources.clone().into_iter().map(move |resource| (verb.clone(), resource))
            };
            texts(&rule["verbs"]).into_iter().flat_map(of)
        });
        self.server.manners().rights = rights.collect();
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

#[test]
fn the_applied_manifests_grant_what_a_daemon_needs() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        println!("SKIPPED: the test of the applied manifests needs kubectl");
        return;
    }
    let Some(world) = World::new("") else { return };
    for namespace in ["default", "kube-system"] {
        world.server.add(NAMESPACES, json!({"metadata": {"name": namespace}}));
    }
    let slice = json!({
        "metadata": {"name": "kubernetes"},
        "endpoints": [{"addresses": ["10.168.0.1"]}],
        "ports": [{"name": "https", "port": 6443}],
    });
    world.server.add("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice);

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
    world.grant();
    let mut left = start(&world.left, "left");
    let mut right = start(&world.right, "right");
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("joined", |daemon| peers(daemon) == 1);
    }
    world.left.run(&["ping", "-c", "3", "-i", "0.05", "-W", "2", "-I", "10.244.1.1", "10.244.2.1"]);
    assert_eq!(world.server.annotation("left", "backend-type").as_deref(), Some("vxlan"));
    left.wait_until("scheduled", |_| world.condition("left").is_some());
    let memory = world.left.file("state/kubernetes");
    left.wait_until("told where the API server is", |_| {
        fs::read_to_string(&memory).is_ok_and(|text| text.contains("https://10.168.0.1:6443"))
    });

    let place = manifests();
    let words = ["delete", "--wait=false", "--kustomize", place.to_str().unwrap()];
    world.kubectl(&words);
    assert_eq!(world.server.object(DAEMON_SETS, "weft"), None);
    assert_eq!(world.server.object(NAMESPACES, "kube-weft"), None);
}
