//! What every API server of Kubernetes has to bear out: that of this process, and the real one.

use std::fs;

use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use serde_json::{Value, json};
use weft_ctrl::identity;
use weft_ctrl::lease::{Attributes, Weft};
use weft_ctrl::source::acquire::{AcquireError, is_owned};
use weft_ctrl::source::{Change, Network, Source, Update};

use super::cluster::{Cluster, NODES};
use super::kubernetes::{
    CONFIG, POD_CIDR, PREFIX, WorldWith, annotations_of, changes, eventually, next, snapshot,
    write_kubeconfig,
};
use super::real::KubeApiServer;
use super::relay::{Relay, Wire};

/// Makes a test of each case for the server of this process, and one of all for the real one, whose
/// start takes longer than they do.
macro_rules! cases {
    ($($case:ident)*) => {
        mod here {
            $(#[tokio::test] async fn $case() { super::$case(&super::WorldWith::new()).await; })*
        }

        #[tokio::test]
        async fn all_of_it_is_so_with_a_real_server() {
            let Some(world) = WorldWith::real() else { return };
            $(
                world.server.clear(POD_CIDR);
                $case(&world).await;
            )*
        }
    };
}

cases! {
    a_lease_is_written_as_flannels_annotations_through_the_status
    a_node_is_known_by_its_name_whoever_wrote_its_annotations
    the_first_subnet_of_the_network_and_any_length_are_right
    a_family_that_is_off_is_left_out
    what_cannot_be_is_told_with_the_remedy
    an_operator_may_say_another_address
    own_annotations_that_nobody_can_read_are_written_again
    a_change_in_one_family_is_told
    nodes_come_go_and_are_made_again
    this_node_given_another_subnet_is_told
    the_condition_is_set_beside_those_of_others
    writes_of_others_in_between_are_kept
}

async fn a_lease_is_written_as_flannels_annotations_through_the_status<S: Cluster>(
    world: &WorldWith<S>,
) {
    let got = world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(
        (got.leaf.to_string(), &*got.record.name),
        ("10.244.1.0-24".into(), "10.244.1.0-24")
    );
    assert!(is_owned(&world.attributes(), &got.record.value));
    assert_eq!(got.record.value, world.attributes().to_json());
    let node = world.server.node("own");
    let id = identity::load(world.path()).unwrap().unwrap();
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
}

async fn a_node_is_known_by_its_name_whoever_wrote_its_annotations<S: Cluster>(
    world: &WorldWith<S>,
) {
    let others =
        r#"{"PublicIP":"203.0.113.7","Weft":{"v":1,"id":"0123456789abcdef0123456789abcdef"}}"#;
    world.server.annotate("own", &annotations_of(others));
    let source = world.source();
    let record = source.given().await.unwrap().unwrap();
    assert!(is_owned(&world.attributes(), &record.value));
    world.acquire(&source, CONFIG).await.unwrap();
    assert_eq!(world.server.annotation("own", "public-ip").as_deref(), Some("192.0.2.1"));
}

async fn the_first_subnet_of_the_network_and_any_length_are_right<S: Cluster>(
    world: &WorldWith<S>,
) {
    for pod_cidr in ["10.244.0.0/24", "10.244.8.0/21", "10.244.3.64/27"] {
        world.server.make_again("own", &[pod_cidr]);
        let got = world.acquire(&world.source(), CONFIG).await.unwrap();
        assert_eq!(got.leaf.to_string(), pod_cidr.replace('/', "-"));
    }
}

async fn a_family_that_is_off_is_left_out<S: Cluster>(world: &WorldWith<S>) {
    let both = ["10.244.1.0/24", "fd00:1::/64"];
    world.server.make_again("own", &both);
    let got = world.acquire(&world.source(), CONFIG).await.unwrap();
    assert_eq!(got.leaf.to_string(), "10.244.1.0-24");
    assert_eq!(got.record.name, "10.244.1.0-24&fd00:1::-64");
    let dual = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/16"}"#;
    let got = world.acquire(&world.source(), dual).await.unwrap();
    assert_eq!(got.leaf.to_string(), "10.244.1.0-24&fd00:1::-64");
}

async fn what_cannot_be_is_told_with_the_remedy<S: Cluster>(world: &WorldWith<S>) {
    let error = world.acquire(&world.source(), r#"{"Network":"10.5.0.0/16"}"#).await.unwrap_err();
    assert!(error.to_string().contains("--cluster-cidr"), "{error}");
    let v6 = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
    assert!(world.acquire(&world.source(), v6).await.is_err());

    let sentence = |error: AcquireError| match error {
        AcquireError::Source(error) => (error.sentence(), error.is_transient()),
        other => panic!("{other}"),
    };
    world.server.make_again("own", &[]);
    let told = sentence(world.acquire(&world.source(), CONFIG).await.unwrap_err());
    assert!(told.0.contains("no pod CIDR") && told.0.contains("--allocate-node-cidrs") && told.1);
    world.server.delete_node("own");
    let told = sentence(world.acquire(&world.source(), CONFIG).await.unwrap_err());
    assert!(told.0.contains("no node own") && told.0.contains("NODE_NAME") && told.1, "{told:?}");
}

async fn an_operator_may_say_another_address<S: Cluster>(world: &WorldWith<S>) {
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

/// What an operator broke by hand stays ours, whether it is found at the start or while weft runs.
async fn own_annotations_that_nobody_can_read_are_written_again<S: Cluster>(world: &WorldWith<S>) {
    let name = |suffix: &str| format!("{PREFIX}{suffix}");
    let value = world.attributes().to_json();
    let source = world.source();
    world.acquire(&source, CONFIG).await.unwrap();
    let good = world.server.node("own")["metadata"]["annotations"].clone();
    let mut watch = source.watch();
    snapshot(&mut watch).await;
    for (suffix, nonsense) in [
        ("public-ip", "203.0.113.".to_owned()),
        ("public-ip", String::new()),
        ("public-ipv6", "192.0.2.1".to_owned()),
        ("weft", r#"{"v":1,"port":"x"}"#.to_owned()),
        ("backend-data", format!("{:?}", "x".repeat(70_000))),
        ("backend-type", "x".repeat(70_000)),
        // Too long only with the identity that is added to what is left of it.
        ("backend-data", format!("{:?}", "x".repeat(65_448))),
        ("weft", format!(r#"{{"v":1,"other":"{}"}}"#, "x".repeat(65_460))),
    ] {
        world.server.annotate("own", &json!({name(suffix): nonsense}));
        let Update::Changes(changes) = next(&mut watch).await else { panic!("another listing") };
        let [Change::Put(seen)] = &changes[..] else { panic!("{changes:?}") };
        assert!(is_owned(&world.attributes(), &seen.value), "{suffix} of {} bytes", nonsense.len());
        assert_ne!(seen.value, value, "it has to be written again");
        source.replace(seen, &value).await.unwrap().unwrap();
        assert_eq!(world.server.node("own")["metadata"]["annotations"], good, "{suffix}");
        let Update::Changes(changes) = next(&mut watch).await else { panic!("another listing") };
        assert!(matches!(&changes[..], [Change::Put(written)] if written.value == value));

        world.server.annotate("own", &json!({name(suffix): nonsense}));
        next(&mut watch).await;
        world.acquire(&world.source(), CONFIG).await.unwrap();
        assert_eq!(world.server.node("own")["metadata"]["annotations"], good, "{suffix}");
        next(&mut watch).await;
    }
}

/// flanneld loses an update in which only one family has changed.
async fn a_change_in_one_family_is_told<S: Cluster>(world: &WorldWith<S>) {
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

async fn nodes_come_go_and_are_made_again<S: Cluster>(world: &WorldWith<S>) {
    let mut watch = world.source().watch();
    assert_eq!(snapshot(&mut watch).await, [""; 0], "no node takes part");
    world.add_peer("peer", &["10.244.2.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.2.0-24"]);
    // What a kubelet does all the time is no news.
    world.server.annotate("peer", &json!({"heartbeat": "2"}));
    world.server.delete_node("peer");
    assert_eq!(changes(&mut watch).await, ["-10.244.2.0-24"]);
    world.add_peer("peer", &["10.244.7.0/24"]);
    assert_eq!(changes(&mut watch).await, ["10.244.7.0-24"]);
    let none = json!({format!("{PREFIX}kube-subnet-manager"): null});
    world.server.annotate("peer", &none);
    assert_eq!(changes(&mut watch).await, ["-10.244.7.0-24"]);
}

async fn this_node_given_another_subnet_is_told<S: Cluster>(world: &WorldWith<S>) {
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

/// The condition of this type, whichever place it has.
fn condition<S: Cluster>(world: &WorldWith<S>, kind: &str) -> Value {
    let node = world.server.node("own");
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let mut found = conditions.iter().filter(|condition| condition["type"] == kind);
    let condition = found.next().unwrap().clone();
    assert!(found.next().is_none(), "{node}");
    condition
}

async fn the_condition_is_set_beside_those_of_others<S: Cluster>(world: &WorldWith<S>) {
    let source = world.source();
    source.announce(Network::Up).await.unwrap();
    assert_eq!(condition(world, "Ready")["status"], "True");
    let up = condition(world, "NetworkUnavailable");
    assert_eq!((&up["status"], &up["reason"]), (&json!("False"), &json!("FlannelIsUp")));
    assert_eq!(up["message"], "Flannel is running on this node");
    let time = up["lastTransitionTime"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.starts_with("20"), "{time}");
    source.announce(Network::Down("no device".into())).await.unwrap();
    assert_eq!(condition(world, "Ready")["status"], "True");
    let down = condition(world, "NetworkUnavailable");
    assert_eq!((&down["status"], &down["message"]), (&json!("True"), &json!("no device")));

    // A node that was made again gets it again, with its annotations.
    source.announce(Network::Up).await.unwrap();
    world.acquire(&source, CONFIG).await.unwrap();
    world.server.make_again("own", &["10.244.1.0/24"]);
    source.create("10.244.1.0-24", &world.attributes().to_json()).await.unwrap().unwrap();
    assert_eq!(condition(world, "NetworkUnavailable")["reason"], "FlannelIsUp");
}

/// A kubelet changes its node between our reading and our writing.
async fn writes_of_others_in_between_are_kept<S: Cluster>(world: &WorldWith<S>) {
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

/// Where the server has no memory of its own, a watch goes on as long as etcd still knows what was missed;
/// what etcd has forgotten is 410 Gone.
#[tokio::test]
async fn a_real_server_tells_what_was_missed_until_it_is_compacted() {
    let Some(mut world) = WorldWith::real() else { return };
    world.server.forgo_memory();
    let relay = Relay::to(world.server.port()).await;
    let url = relay.url().replace("http:", "https:");
    world.access.kubeconfig = Some(write_kubeconfig(world.path(), &url));
    let mut watch = world.watch_over(&relay).await;
    let health = watch.health();

    eventually("well again", || health.borrow().problem.is_none()).await;
    relay.set(Wire::Refuses);
    eventually("noticed again", || health.borrow().problem.is_some()).await;
    world.server.delete_node("b");
    world.add_peer("c", &["10.244.4.0/24"]);
    world.server.compact();
    relay.set(Wire::Whole);
    assert_eq!(snapshot(&mut watch).await, ["10.244.4.0-24"]);

    fs::write(world.path().join("token"), "unknown").unwrap();
    let error = world.source().list().await.unwrap_err().sentence();
    assert!(error.contains("does not accept the token"), "{error}");
}

/// Adds nodes that take part, sooner than `kubectl` could.
async fn add_many(server: &KubeApiServer, count: usize) {
    let file = Kubeconfig::read_from(server.administrator()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let annotations = annotations_of(r#"{"PublicIP":"192.0.2.9"}"#);
    for number in 0..count {
        let node = json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": format!("node-{number}"), "annotations": annotations},
            "spec": {"podCIDR": format!("10.{}.{}.0/24", number / 250, number % 250)},
        });
        let request = Request::new(NODES).create(&PostParams::default(), node.to_string().into());
        client.request::<Value>(request.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_real_server_lists_more_nodes_than_are_asked_for_at_once() {
    const COUNT: usize = 1100;
    let Some(world) = WorldWith::real() else { return };
    add_many(&world.server, COUNT).await;
    let mut watch = world.source().watch();
    let mut names = snapshot(&mut watch).await;
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COUNT, "pages of five hundred");
    world.server.delete_node("node-700");
    assert_eq!(changes(&mut watch).await, ["-10.2.200.0-24"]);
}
