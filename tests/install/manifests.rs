//! The manifests say what Kubernetes understands, and nothing else.

use std::fs;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Affinity, ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weft::flags::{self, Flags};
use weft::options::Options;

use crate::repository;

/// Every object of the base.
fn objects() -> Vec<Value> {
    let directory = repository().join("scripts/deploy/kubernetes");
    let files = ["namespace.yaml", "rbac.yaml", "config.yaml", "daemonset.yaml"];
    let texts = files.map(|name| fs::read_to_string(directory.join(name)).unwrap());
    texts.iter().flat_map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

pub(crate) fn object(kind: &str) -> Value {
    objects().into_iter().find(|object| object["kind"] == kind).unwrap()
}

/// The object as its type keeps it; a key that the type does not have is lost.
fn kept(object: &Value) -> Value {
    fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone()).unwrap();
        serde_json::to_value(typed).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "Namespace" => through::<Namespace>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "Role" => through::<Role>(object),
        "RoleBinding" => through::<RoleBinding>(object),
        "ConfigMap" => through::<ConfigMap>(object),
        "DaemonSet" => through::<DaemonSet>(object),
        other => panic!("the type of {other} is not known here"),
    }
}

#[test]
fn every_key_is_known_to_the_type_of_its_object() {
    let objects = objects();
    assert_eq!(objects.len(), 8);
    for object in &objects {
        assert_eq!(&kept(object), object);
    }
    // And the comparison sees what is not known.
    let mut wrong = object("DaemonSet");
    wrong["spec"]["template"]["spec"]["hostNetworks"] = json!(true);
    assert_ne!(kept(&wrong), wrong);
}

/// The daemon understands these arguments and would start with them.
fn checked(arguments: &[String], variable: impl Fn(&str) -> Option<String>) -> Flags {
    let parsed = Flags::parse(arguments, variable);
    let Ok(flags::Command::Run(flags)) = parsed else { panic!("{arguments:?}: {parsed:?}") };
    let options = Options::check(&flags);
    assert!(options.is_ok(), "{arguments:?}: {options:?}");
    assert_eq!((flags.ignored(), flags.rejected()), (&[][..], &[][..]), "{arguments:?}");
    flags
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_daemon_takes_the_arguments_that_it_is_given() {
    let container = &object("DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let texts =
        |key: &str| -> Vec<String> { serde_json::from_value(container[key].clone()).unwrap() };
    assert_eq!(texts("command"), ["/usr/bin/weft", "daemon"]);
    let variables = container["env"].as_array().unwrap();
    let variable = |name: &str| {
        let is_set = variables.iter().any(|variable| variable["name"] == name);
        is_set.then(|| "a-node".to_owned())
    };
    let flags = checked(&texts("args"), variable);
    assert_eq!(flags.surrounding("NODE_NAME"), Some("a-node"));
    assert!(flags.boolean("kube-subnet-mgr") && flags.boolean("ip-masq"));
    let probe = &container["readinessProbe"]["httpGet"];
    assert_eq!(probe["port"], flags.integer("healthz-port"));
    assert_eq!(probe["host"], flags.text("healthz-ip"));
}

/// Every line that a reader copies, with the unit's own.
#[test]
fn the_daemon_takes_the_options_of_the_unit_and_of_the_documents() {
    let read = |name: &str| fs::read_to_string(repository().join(name)).unwrap();
    let unit = read("scripts/package.d/weft.service");
    assert!(unit.contains("\nExecStart=/usr/bin/weft daemon $WEFT_OPTIONS\n"));
    let files = ["scripts/package.d/weft.default", "README.md", "docs/install.md"];
    let mut count = 0;
    for text in files.map(read) {
        for line in text.lines() {
            let quoted =
                line.split_once("WEFT_OPTIONS=\"").and_then(|(_, rest)| rest.split_once('"'));
            let options = quoted.map(|(options, _)| options);
            let command = line.trim().strip_prefix("sudo weft daemon ");
            for options in [options, command].into_iter().flatten() {
                checked(&words(options), |_| None);
                count += 1;
            }
        }
    }
    assert_eq!(count, 6);
}

/// The patch that the guide has for flannel's own DaemonSet, and the nodes of the canary.
#[test]
fn the_guide_keeps_flannel_from_the_nodes_that_get_weft() {
    let guide = repository().join("docs/migrate-from-flannel.md");
    let text = fs::read_to_string(guide).unwrap();
    let (_, rest) = text.split_once("--patch '").unwrap();
    let patch: Value = serde_json::from_str(rest.split_once('\'').unwrap().0).unwrap();
    let affinity = &patch["spec"]["template"]["spec"]["affinity"];
    let typed: Affinity = serde_json::from_value(affinity.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&typed).unwrap(), affinity);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = &affinity["nodeAffinity"][required]["nodeSelectorTerms"];
    let ours = &object("DaemonSet")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    let linux = &ours[required]["nodeSelectorTerms"][0]["matchExpressions"][0];
    let weft = json!({"key": "weft", "operator": "DoesNotExist"});
    assert_eq!(terms, &json!([{"matchExpressions": [linux, weft]}]));
    assert!(text.contains("kubectl label node NODE weft=yes"));
}

#[test]
fn the_config_is_what_a_flannel_node_has() {
    let config = object("ConfigMap");
    let parse = |key: &str| -> Value {
        serde_json::from_str(config["data"][key].as_str().unwrap()).unwrap()
    };
    assert_eq!(
        parse("cni-conf.json"),
        json!({
            "name": "cbr0",
            "cniVersion": "0.3.1",
            "plugins": [
                {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
                {"type": "portmap", "capabilities": {"portMappings": true}}
            ]
        })
    );
    let network = config["data"]["net-conf.json"].as_str().unwrap();
    weft_ctrl::config::NetworkConfig::parse(network.as_bytes()).unwrap();
}

#[test]
fn volumes_and_accounts_fit_together() {
    let pod = &object("DaemonSet")["spec"]["template"]["spec"];
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let there = names(&pod["volumes"]);
    for container in ["initContainers", "containers"].map(|key| pod[key].as_array().unwrap()) {
        for mount in container.iter().flat_map(|one| names(&one["volumeMounts"])) {
            assert!(there.contains(&mount), "{mount}");
        }
    }
    let account = object("ServiceAccount")["metadata"]["name"].clone();
    assert_eq!(pod["serviceAccountName"], account);
    for binding in ["ClusterRoleBinding", "RoleBinding"] {
        assert_eq!(object(binding)["subjects"][0]["name"], account);
        let role = binding.strip_suffix("Binding").unwrap();
        assert_eq!(object(binding)["roleRef"]["name"], object(role)["metadata"]["name"]);
    }
}

/// What is applied is what is in the files, and the canary differs in its nodes alone.
#[test]
fn kustomize_gives_the_same_values() {
    let version = Command::new("kubectl").args(["version", "--client"]).output();
    // Before it told its version it was older than what the files are written for.
    if !version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("Kustomize Version")) {
        println!("SKIPPED: the test of the kustomize base needs kubectl 1.26 or later");
        return;
    }
    let built = |place: &str| -> Vec<Value> {
        let directory = repository().join("scripts/deploy").join(place);
        let output = Command::new("kubectl").arg("kustomize").arg(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        parse(&String::from_utf8(output.stdout).unwrap())
    };
    let version = env!("CARGO_PKG_VERSION");
    let with_image = |mut object: Value| {
        let pod = object.pointer_mut("/spec/template/spec");
        for list in pod.into_iter().flat_map(|pod| {
            pod.as_object_mut().unwrap().iter_mut().filter(|(key, _)| key.ends_with("ontainers"))
        }) {
            for container in list.1.as_array_mut().unwrap() {
                if container["image"] == "weft" {
                    container["image"] = json!(format!("weft:{version}"));
                }
            }
        }
        object
    };
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(|object| object["kind"].as_str().unwrap().to_owned());
        objects
    };
    let wanted = sorted(objects().into_iter().map(with_image).collect());
    assert_eq!(sorted(built("kubernetes")), wanted);
    let mut canary = sorted(built("canary"));
    for object in canary.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
        let pod = object.pointer_mut("/spec/template/spec").unwrap().as_object_mut().unwrap();
        assert_eq!(pod.remove("nodeSelector"), Some(json!({"weft": "yes"})));
    }
    assert_eq!(canary, wanted);
}
