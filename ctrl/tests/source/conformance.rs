//! What every source promises.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use weft_ctrl::config::NetworkConfig;
use weft_ctrl::identity::Identity;
use weft_ctrl::lease::{Attributes, Weft};
use weft_ctrl::source::acquire::{AcquireError, Acquired, Origin, Request, acquire};
use weft_ctrl::source::directory::Directory;
use weft_ctrl::source::etcd::{Endpoints, Etcd, EtcdOptions};
use weft_ctrl::source::kubernetes::{Access, Kubernetes};
use weft_ctrl::source::{Change, Record, Source, Update, Watch};

use super::apiserver::ApiServer;
use super::cluster::Cluster;
use super::kubernetes::{annotations_of, options, start_real};
use super::server::{EtcdServer, can_run_etcd};

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A source, and a way past it for a foreign program.
struct World {
    source: Arc<dyn Source>,
    backdoor: Backdoor,
}

enum Backdoor {
    Directory(tempfile::TempDir),
    Etcd(EtcdServer),
    /// With a directory for the config and for what the source remembers.
    Kubernetes(Box<dyn Cluster>, tempfile::TempDir),
}

impl World {
    fn directory() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { source: Arc::new(Directory::new(root.path())), backdoor: Backdoor::Directory(root) }
    }

    fn etcd() -> Self {
        let server = EtcdServer::start();
        let endpoints = Endpoints::parse(&server.url(), false).unwrap().servers;
        let options = EtcdOptions {
            check_period: Duration::from_millis(200),
            ..EtcdOptions::new(endpoints, "/coreos.com/network")
        };
        Self { source: Arc::new(Etcd::new(options)), backdoor: Backdoor::Etcd(server) }
    }

    fn kubernetes() -> Self {
        let server = ApiServer::start();
        let access = Access { url: Some(server.url()), ..Access::default() };
        Self::cluster(server, tempfile::tempdir().unwrap(), access)
    }

    fn real_kubernetes() -> Option<Self> {
        let (server, place, access) = start_real()?;
        Some(Self::cluster(server, place, access))
    }

    /// This node is `own`, and has the subnet 10.5.1.0/24.
    fn cluster(server: impl Cluster + 'static, place: tempfile::TempDir, access: Access) -> Self {
        server.add_node("own", &["10.5.1.0/24"]);
        let source = Arc::new(Kubernetes::new(options(access, place.path())));
        Self { source, backdoor: Backdoor::Kubernetes(Box::new(server), place) }
    }

    /// As it was in the beginning, as far as a test sees it.
    fn clear(&self) {
        let Backdoor::Kubernetes(server, place) = &self.backdoor else { return };
        server.clear("10.5.1.0/24");
        let _ = fs::remove_file(place.path().join("net-conf.json"));
    }

    fn put(&self, name: &str, value: &str) {
        if let Backdoor::Kubernetes(server, _) = &self.backdoor {
            let node = node_of(name);
            if !server.node_names().contains(&node) {
                server.add_node(&node, &[&name.replace('-', "/")]);
            }
            server.annotate(&node, &annotations_of(value));
            return;
        }
        self.write(&format!("subnets/{name}"), value);
    }

    fn put_config(&self, value: &str) {
        self.write("config", value);
    }

    fn write(&self, path: &str, value: &str) {
        match &self.backdoor {
            Backdoor::Directory(root) => {
                fs::create_dir_all(root.path().join("subnets")).unwrap();
                fs::write(root.path().join("subnets/.aside"), value).unwrap();
                fs::rename(root.path().join("subnets/.aside"), root.path().join(path)).unwrap();
            }
            Backdoor::Etcd(server) => {
                server.ctl(&["put", &format!("/coreos.com/network/{path}"), "--", value]);
            }
            Backdoor::Kubernetes(_, place) => {
                let file = place.path().join("net-conf.json");
                fs::write(place.path().join("aside"), value).unwrap();
                fs::rename(place.path().join("aside"), file).unwrap();
            }
        }
    }

    fn delete(&self, name: &str) {
        match &self.backdoor {
            Backdoor::Directory(root) => {
                fs::remove_file(root.path().join("subnets").join(name)).unwrap();
            }
            Backdoor::Etcd(server) => {
                server.ctl(&["del", &format!("/coreos.com/network/subnets/{name}")]);
            }
            Backdoor::Kubernetes(server, _) => server.delete_node(&node_of(name)),
        }
    }

    async fn acquire(&self, config: &str, node: &Attributes, previous: Option<&str>) -> Acquired {
        self.try_acquire(config, node, previous).await.unwrap()
    }

    async fn try_acquire(
        &self,
        config: &str,
        attributes: &Attributes,
        previous: Option<&str>,
    ) -> Result<Acquired, AcquireError> {
        let config = NetworkConfig::parse(config.as_bytes()).unwrap();
        let previous = previous.map(|name| name.parse().unwrap());
        acquire(&*self.source, &Request { config: &config, attributes, previous }).await
    }

    async fn names(&self) -> Vec<String> {
        let records = self.source.list().await.unwrap();
        records.into_iter().map(|record| record.name).collect()
    }
}

/// A node for each subnet.
fn node_of(lease: &str) -> String {
    if lease == "10.5.1.0-24" { "own".to_owned() } else { format!("node-{lease}") }
}

const V4: &str = r#"{"Network":"10.5.0.0/16"}"#;
const SMALL: &str = r#"{"Network":"10.5.0.0/24","SubnetLen":28}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;

fn node(number: u8) -> Attributes {
    let id: Identity = format!("{number:032x}").parse().unwrap();
    Attributes {
        public_ip: [192, 0, 2, number].into(),
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft { id: Some(id), ..Weft::default() }),
    }
}

fn text(value: &Attributes) -> String {
    String::from_utf8(value.to_json()).unwrap()
}

/// Makes a test of each case for each source. Where subnets are given, none can be taken, and a value is
/// what annotations can say.
macro_rules! conformance {
    (every source { $($common:ident)* } where subnets are taken { $($case:ident)* }) => {
        /// One server for all, since its start takes longer than everything else.
        #[tokio::test]
        async fn a_real_kubernetes() {
            let Some(world) = World::real_kubernetes() else { return };
            $(
                world.clear();
                $common(&world).await;
            )*
        }
        mod kubernetes {
            $(#[tokio::test] async fn $common() {
                super::$common(&super::World::kubernetes()).await;
            })*
        }
        mod directory {
            $(#[tokio::test] async fn $common() {
                super::$common(&super::World::directory()).await;
            })*
            $(#[tokio::test] async fn $case() { super::$case(&super::World::directory()).await; })*
        }
        mod etcd {
            $(#[tokio::test] async fn $common() {
                if super::can_run_etcd() {
                    super::$common(&super::World::etcd()).await;
                }
            })*
            $(#[tokio::test] async fn $case() {
                if super::can_run_etcd() {
                    super::$case(&super::World::etcd()).await;
                }
            })*
        }
    };
}

conformance! {
    every source {
        a_config_is_read_as_it_is_stored
        only_what_was_seen_is_replaced_or_removed
        a_watch_tells_everything_and_then_each_change
    }
    where subnets are taken {
        own_then_previous_then_free
        a_lease_by_hand_is_found_by_its_address_and_stays_a_reservation
        what_the_config_no_longer_allows_is_given_back
        nobody_gets_what_somebody_has
        ipv6_alone_has_a_name_without_ipv4
        racing_nodes_get_different_subnets_until_none_is_left
        values_of_any_kind_come_through
    }
}

async fn a_config_is_read_as_it_is_stored(world: &World) {
    assert_eq!(world.source.config().await.unwrap(), None);
    assert!(world.source.config_remedy().contains("config"));
    world.put_config("{ \"Network\" : \"10.5.0.0/16\" }");
    let stored = world.source.config().await.unwrap().unwrap();
    assert_eq!(stored, b"{ \"Network\" : \"10.5.0.0/16\" }");
}

async fn own_then_previous_then_free(world: &World) {
    let first = world.acquire(V4, &node(1), None).await;
    assert_eq!(first.origin, Origin::New);
    let moved = Attributes { public_ip: [192, 0, 2, 99].into(), ..node(1) };
    let again = world.acquire(V4, &moved, Some("10.5.9.0-24")).await;
    assert_eq!((again.origin, again.leaf), (Origin::Own, first.leaf), "known by its identity");
    let stored = world.source.read(&again.record.name).await.unwrap().unwrap();
    assert_eq!(stored, again.record);
    assert_eq!(stored.value, moved.to_json());
    world.source.remove(&stored).await.unwrap();

    let previous = world.acquire(V4, &node(1), Some("10.5.9.0-24")).await;
    assert_eq!((previous.origin, &*previous.record.name), (Origin::Previous, "10.5.9.0-24"));
    let other = world.acquire(V4, &node(2), Some("10.5.9.0-24")).await;
    assert_eq!(other.origin, Origin::New, "it is another's");
    // One public address is not one node.
    let twin = Attributes { public_ip: node(1).public_ip, ..node(3) };
    let twin = world.acquire(V4, &twin, None).await;
    assert!(twin.leaf != previous.leaf && twin.origin == Origin::New);
}

async fn a_lease_by_hand_is_found_by_its_address_and_stays_a_reservation(world: &World) {
    world.put("10.5.7.0-24", r#"{"PublicIP":"192.0.2.1"}"#);
    let got = world.acquire(V4, &node(1), None).await;
    assert_eq!((got.origin, &*got.record.name), (Origin::Own, "10.5.7.0-24"));
    assert!(!got.record.expires);
    let again = world.acquire(V4, &node(1), None).await;
    assert!(!again.record.expires, "and does so for ever");
}

async fn what_the_config_no_longer_allows_is_given_back(world: &World) {
    world.put("10.6.7.0-24", &text(&node(1)));
    world.put("10.6.8.0-24", &text(&node(2)));
    let got = world.acquire(V4, &node(1), None).await;
    assert_eq!(got.origin, Origin::New);
    let names: BTreeSet<String> = world.names().await.into_iter().collect();
    assert_eq!(names, BTreeSet::from(["10.6.8.0-24".to_owned(), got.record.name]));
}

async fn nobody_gets_what_somebody_has(world: &World) {
    let create = async |name: &str| world.source.create(name, b"{}").await.unwrap().is_some();
    assert!(create("10.5.1.0-24").await);
    assert!(!create("10.5.1.0-24").await);
    assert!(!create("10.5.1.0-24&fd00:0:0:1::-64").await, "the same IPv4 subnet");
    assert!(create("10.5.11.0-24").await, "not the same, though it begins alike");
    assert!(create("0.0.0.0-0&fd00:0:0:2::-64").await);
    assert!(create("0.0.0.0-0&fd00:0:0:3::-64").await, "no IPv4 subnet is not a common one");
    let got = world.acquire(DUAL, &node(1), Some("10.5.1.0-24&fd00:0:0:9::-64")).await;
    assert_eq!(got.origin, Origin::New);
    assert_eq!(got.record.name, got.leaf.to_string());
    assert!(got.record.name.contains("-24&fd00:"), "{}", got.record.name);
}

/// flanneld cannot do this with etcd.
async fn ipv6_alone_has_a_name_without_ipv4(world: &World) {
    let config = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#;
    let v6 = |number: u16| Attributes {
        public_ip: [0, 0, 0, 0].into(),
        public_ipv6: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into()),
        ..node(u8::try_from(number).unwrap())
    };
    let first = world.acquire(config, &v6(1), None).await;
    assert!(first.record.name.starts_with("0.0.0.0-0&fd00:"), "{}", first.record.name);
    let stored = String::from_utf8(first.record.value.clone()).unwrap();
    assert!(stored.starts_with(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1""#), "{stored}");
    let second = world.acquire(config, &v6(2), None).await;
    assert_ne!(first.leaf, second.leaf);
    assert_eq!(world.acquire(config, &v6(1), None).await.origin, Origin::Own);
}

async fn only_what_was_seen_is_replaced_or_removed(world: &World) {
    let value = |port: u16| {
        let weft = Weft { port: Some(port), ..node(1).weft.unwrap() };
        Attributes { weft: Some(weft), ..node(1) }.to_json()
    };
    let seen = world.source.create("10.5.1.0-24", &value(1)).await.unwrap().unwrap();
    assert_eq!(world.source.create("10.5.1.0-24", &value(1)).await.unwrap(), None);
    let newer = world.source.replace(&seen, &value(2)).await.unwrap().unwrap();
    assert_eq!(newer.value, value(2));
    assert_eq!(newer.expires, seen.expires);
    assert_eq!(world.source.replace(&seen, &value(3)).await.unwrap(), None);
    assert!(!world.source.remove(&seen).await.unwrap());
    let theirs = text(&node(2));
    world.put("10.5.1.0-24", &theirs);
    assert_eq!(world.source.replace(&newer, &value(3)).await.unwrap(), None);
    let read = world.source.read("10.5.1.0-24").await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.value), theirs);
    assert!(world.source.remove(&read).await.unwrap());
    assert!(!world.source.remove(&read).await.unwrap());
    assert_eq!(world.source.replace(&read, &value(1)).await.unwrap(), None);
    assert_eq!(world.source.read("10.5.1.0-24").await.unwrap(), None);
}

async fn racing_nodes_get_different_subnets_until_none_is_left(world: &World) {
    let nodes: Vec<Attributes> = (1..=20).map(node).collect();
    let racing = nodes.iter().map(|node| world.try_acquire(SMALL, node, None));
    let ended = futures_util::future::join_all(racing).await;
    let won: BTreeSet<_> = ended.iter().flatten().map(|got| got.record.name.clone()).collect();
    assert_eq!(won.len(), 15, "sixteen subnets but the first");
    let lost = ended.iter().filter(|end| matches!(end, Err(AcquireError::OutOfSubnets { .. })));
    assert_eq!(lost.count(), 5);
    assert_eq!(world.names().await.into_iter().collect::<BTreeSet<_>>(), won);
}

/// The next update but a config that is not there.
async fn next(watch: &mut Watch) -> Update {
    loop {
        match timeout(PATIENCE, watch.next()).await.expect("an update") {
            Update::Config(None) => {}
            update => return update,
        }
    }
}

/// The next change that is not an expected listing again.
async fn next_changes(watch: &mut Watch) -> Vec<(String, Option<Vec<u8>>)> {
    loop {
        if let Update::Changes(changes) = next(watch).await {
            let change = |change| match change {
                Change::Put(Record { name, value, .. }) => (name, Some(value)),
                Change::Deleted { name, .. } => (name, None),
            };
            return changes.into_iter().map(change).collect();
        }
    }
}

async fn a_watch_tells_everything_and_then_each_change(world: &World) {
    let values: Vec<String> = (1..=3).map(|number| text(&node(number))).collect();
    world.put("10.5.1.0-24", &values[0]);
    let mut watch = world.source.watch();
    let Update::Snapshot(records) = next(&mut watch).await else { panic!("not a snapshot") };
    assert_eq!(records.len(), 1);
    assert_eq!(records, world.source.list().await.unwrap());

    let changed = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    world.put("10.5.2.0-24", &values[1]);
    assert_eq!(next_changes(&mut watch).await, [changed("10.5.2.0-24", &values[1])]);
    world.put("10.5.1.0-24", &values[2]);
    assert_eq!(next_changes(&mut watch).await, [changed("10.5.1.0-24", &values[2])]);
    world.delete("10.5.2.0-24");
    assert_eq!(next_changes(&mut watch).await, [("10.5.2.0-24".to_owned(), None)]);
    world.put_config(V4);
    loop {
        if let Update::Config(config) = next(&mut watch).await {
            assert_eq!(config.as_deref(), Some(V4.as_bytes()));
            break;
        }
    }
    let health = watch.health().borrow().clone();
    assert_eq!((health.problem, health.errors), (None, 0));
    assert!(health.listings >= 1 && health.events >= 4);
}

async fn values_of_any_kind_come_through(world: &World) {
    let huge = "x".repeat(300_000);
    for (name, value) in
        [("10.5.1.0-24", huge.as_str()), ("README", "hands off"), ("-", "\u{fffd}\n\t")]
    {
        match world.backdoor {
            // The command line of etcdctl is not as long.
            Backdoor::Etcd(_) if value.len() > 100_000 => world.put(name, &value[..100_000]),
            _ => world.put(name, value),
        }
        let read = world.source.read(name).await.unwrap().unwrap();
        assert!(value.as_bytes().starts_with(&read.value) && !read.value.is_empty());
    }
    assert_eq!(world.source.list().await.unwrap().len(), 3);
}
