//! What goes wrong on the way to the API server, and what is told then.

use std::fs;

use serde_json::json;

use super::cluster::Cluster;
use super::host::{Daemon, Host};
use super::{CONFIG, World, is_ready, problems};

/// The address of the service `kubernetes`.
const SERVICE: &str = "10.96.0.1";

/// A daemon in a pod: the files of its service account at their place, which only it sees, and the
/// variables that every pod has.
fn spawn_in_pod<'a>(world: &World, host: &'a Host) -> Daemon<'a> {
    let script = "mount -t tmpfs tmpfs /run
        account=/run/secrets/kubernetes.io/serviceaccount
        mkdir -p $account
        cp \"$1\"/authority.pem $account/ca.crt
        cp \"$1\"/token $account/token
        printf kube-flannel > $account/namespace
        shift
        exec env POD_NAME=weft-x POD_NAMESPACE=kube-flannel \
            KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 \"$@\"";
    let place = world.place.path().to_str().unwrap();
    host.spawn_by(&["sh", "-ec", script, "sh", place], &["--iface=u1"])
}

/// What kube-proxy does for the service.
fn start_proxy(host: &Host) {
    host.run(&["nft", "add", "table", "ip", "proxy"]);
    let chain = "{ type nat hook output priority -100; }";
    host.run(&["nft", "add", "chain", "ip", "proxy", "out", chain]);
    let rule = ["ip", "daddr", SERVICE, "tcp", "dport", "443", "dnat", "to", "10.168.0.1:6443"];
    host.run(&[&["nft", "add", "rule", "ip", "proxy", "out"][..], &rule].concat());
}

fn stop_proxy(host: &Host) {
    host.run(&["nft", "delete", "table", "ip", "proxy"]);
}

/// The first fault of the sixth walkthrough: kube-proxy is broken, so the service leads nowhere.
#[test]
fn a_broken_kube_proxy_stops_no_restart_and_is_named_at_a_first_start() {
    let Some(world) = World::with(CONFIG, SERVICE, false) else { return };
    let pod = json!({"metadata": {"name": "weft-x"}, "spec": {"nodeName": "left"}});
    world.server.add("/api/v1/namespaces/kube-flannel/pods", pod);
    world.server.manners().rights.insert(("get".into(), "endpointslices".into()));
    let slice = json!({
        "metadata": {"name": "kubernetes"},
        "endpoints": [{"addresses": ["10.168.0.1"]}],
        "ports": [{"name": "https", "port": 6443}],
    });
    world.server.add("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice);

    let mut left = spawn_in_pod(&world, &world.left);
    left.wait_until("told where to look", |daemon| {
        let text = problems(daemon);
        text.contains(SERVICE) && text.contains("kube-proxy") && text.contains("--kube-api-url")
    });
    start_proxy(&world.left);
    left.wait_until("ready", is_ready);
    assert_eq!(left.ask("status")["datastore"]["server"], "https://10.96.0.1");
    let memory = world.left.file("state/kubernetes");
    left.wait_until("remembered", |_| {
        fs::read_to_string(&memory).is_ok_and(|text| text.contains("https://10.168.0.1:6443"))
    });
    left.signal("TERM");
    left.end();

    stop_proxy(&world.left);
    let mut left = spawn_in_pod(&world, &world.left);
    left.wait_until("ready", is_ready);
    left.wait_until("told who answers", |daemon| {
        daemon.ask("status")["datastore"]["server"] == "https://10.168.0.1:6443"
    });
}

/// The second: what kube-proxy left behind holds the address of the service.
#[test]
fn a_left_over_service_address_is_named_with_its_remedy() {
    let Some(world) = World::with(CONFIG, SERVICE, false) else { return };
    world.left.run(&["ip", "link", "add", "kube-ipvs0", "type", "bridge"]);
    world.left.run(&["ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"]);
    let mut left = spawn_in_pod(&world, &world.left);
    left.wait_until("told", |daemon| {
        problems(daemon).contains("ip route delete table local local 10.96.0.1 dev kube-ipvs0")
    });
}
