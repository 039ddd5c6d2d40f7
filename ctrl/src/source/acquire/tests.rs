use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::identity::Identity;
use crate::lease::Weft;
use crate::source::directory::Directory;

fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text.as_bytes()).unwrap()
}

fn v4() -> NetworkConfig {
    config(r#"{"Network":"10.5.0.0/16"}"#)
}

fn dual() -> NetworkConfig {
    config(r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48"}"#)
}

/// A node by its number: 192.0.2.`number` with an identity of its own.
fn node(number: u8) -> Attributes {
    Attributes {
        public_ip: [192, 0, 2, number].into(),
        public_ipv6: None,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft { id: Some(identity(number)), ..Weft::default() }),
    }
}

fn identity(number: u8) -> Identity {
    format!("{number:032x}").parse().unwrap()
}

fn flannel(number: u8) -> Attributes {
    Attributes { weft: None, ..node(number) }
}

struct World {
    root: tempfile::TempDir,
    config: NetworkConfig,
}

impl World {
    fn new(config: NetworkConfig, leases: &[(&str, Attributes)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("subnets")).unwrap();
        for (name, attributes) in leases {
            fs::write(root.path().join("subnets").join(name), attributes.to_json()).unwrap();
        }
        Self { root, config }
    }

    fn acquire(
        &self,
        attributes: &Attributes,
        previous: Option<&str>,
    ) -> Result<Acquired, AcquireError> {
        acquire_in(self.root.path(), &self.config, attributes, previous)
    }

    /// Name and origin, after checking that exactly our value is stored there.
    fn got(&self, attributes: &Attributes, previous: Option<&str>) -> (String, Origin) {
        let got = self.acquire(attributes, previous).unwrap();
        assert_eq!(got.record.name, got.leaf.to_string());
        let stored = fs::read(self.root.path().join("subnets").join(&got.record.name)).unwrap();
        assert_eq!(stored, attributes.to_json());
        (got.record.name, got.origin)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join("subnets")).unwrap();
        let names: BTreeSet<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.into_iter().collect()
    }
}

fn acquire_in(
    root: &Path,
    config: &NetworkConfig,
    attributes: &Attributes,
    previous: Option<&str>,
) -> Result<Acquired, AcquireError> {
    let previous = previous.map(|name| name.parse().unwrap());
    let request = Request { config, attributes, previous };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(acquire(&Directory::new(root), &request))
}

#[test]
fn a_free_one_is_taken_and_kept() {
    let world = World::new(v4(), &[]);
    let (name, origin) = world.got(&node(1), None);
    assert_eq!(origin, Origin::New);
    assert_eq!(world.got(&node(1), None), (name.clone(), Origin::Own));
    assert_eq!(world.got(&node(1), Some("10.5.9.0-24")), (name.clone(), Origin::Own));
    assert_eq!(world.names(), [name], "nothing is left aside");
}

#[test]
fn ours_is_found_by_identity_whatever_the_address() {
    let moved = Attributes { public_ip: [192, 0, 2, 99].into(), ..node(1) };
    let world = World::new(v4(), &[("10.5.7.0-24", moved)]);
    assert_eq!(world.got(&node(1), None), ("10.5.7.0-24".into(), Origin::Own));
}

#[test]
fn ours_is_found_by_address_only_without_another_identity() {
    let world = World::new(v4(), &[("10.5.7.0-24", flannel(1))]);
    assert_eq!(world.got(&node(1), None), ("10.5.7.0-24".into(), Origin::Own));
    let other = Attributes { public_ip: [192, 0, 2, 1].into(), ..node(2) };
    let world = World::new(v4(), &[("10.5.7.0-24", other.clone())]);
    let (name, origin) = world.got(&node(1), Some("10.5.7.0-24"));
    assert_eq!(origin, Origin::New);
    assert_ne!(name, "10.5.7.0-24");
    assert_eq!(fs::read(world.root.path().join("subnets/10.5.7.0-24")).unwrap(), other.to_json());
}

#[test]
fn of_two_of_ours_that_with_the_identity_stays() {
    let leases = [("10.5.6.0-24", flannel(1)), ("10.5.7.0-24", node(1))];
    let world = World::new(v4(), &leases);
    assert_eq!(world.got(&node(1), None), ("10.5.7.0-24".into(), Origin::Own));
    assert_eq!(world.names().len(), 2, "an allowed lease is not deleted");
}

#[test]
fn the_same_identity_twice_gives_the_same_lease_again() {
    let world = World::new(v4(), &[("10.5.6.0-24", node(1)), ("10.5.7.0-24", node(1))]);
    let first = world.got(&node(1), None);
    assert_eq!(first.1, Origin::Own);
    // Writing the same value again does not change the order of the two.
    assert_eq!(world.got(&node(1), None), first);
}

#[test]
fn ours_that_the_config_no_longer_allows_is_deleted() {
    let leases = [("10.6.7.0-24", node(1)), ("10.5.8.0-25", node(1)), ("10.5.9.0-24", node(2))];
    let world = World::new(v4(), &leases);
    let (name, origin) = world.got(&node(1), None);
    assert_eq!(origin, Origin::New);
    assert_eq!(world.names(), {
        let mut names = vec!["10.5.9.0-24".to_owned(), name];
        names.sort();
        names
    });
}

#[test]
fn turning_on_ipv6_takes_a_new_lease_and_may_keep_the_old_subnet() {
    let world = World::new(dual(), &[("10.5.7.0-24", node(1))]);
    let (name, origin) = world.got(&node(1), Some("10.5.7.0-24&fd00:0:0:7::-64"));
    assert_eq!((name.as_str(), origin), ("10.5.7.0-24&fd00:0:0:7::-64", Origin::Previous));
    assert_eq!(world.names().len(), 1);
}

#[test]
fn the_previous_one_is_taken_if_free_and_allowed() {
    let rows = [
        (v4(), "10.5.7.0-24", Origin::Previous),
        (v4(), "10.5.0.0-24", Origin::New),
        (v4(), "10.6.7.0-24", Origin::New),
        (v4(), "10.5.7.0-25", Origin::New),
        (v4(), "10.5.7.0-24&fd00:0:0:7::-64", Origin::New),
        (v4(), "10.5.9.0-24", Origin::New),
        (dual(), "10.5.7.0-24&fd00:0:0:7::-64", Origin::Previous),
        (dual(), "10.5.7.0-24&fd00:0:0:9::-64", Origin::New),
        (dual(), "10.5.7.0-24", Origin::New),
    ];
    for (config, previous, expected) in rows {
        let name = if config.v6.is_some() { "10.5.9.0-24&fd00:0:0:9::-64" } else { "10.5.9.0-24" };
        let world = World::new(config, &[(name, node(2))]);
        let (got, origin) = world.got(&node(1), Some(previous));
        assert_eq!(origin, expected, "{previous}");
        assert_eq!(got == previous, expected == Origin::Previous, "{previous}");
    }
}

#[test]
fn the_last_free_one_is_found_and_then_there_is_none() {
    let config = config(r#"{"Network":"10.5.0.0/24"}"#);
    let leases = [("10.5.0.64-26", node(2)), ("10.5.0.192-26", node(3))];
    let world = World::new(config, &leases);
    assert_eq!(world.got(&node(1), None), ("10.5.0.128-26".into(), Origin::New));
    let error = world.acquire(&node(4), None).unwrap_err();
    assert!(matches!(error, AcquireError::OutOfSubnets { length: 26, .. }));
    let text = error.to_string();
    assert!(text.contains("10.5.0.64") && text.contains("10.5.0.192"), "{text}");
    // Who has one keeps it.
    assert_eq!(world.got(&node(1), None).1, Origin::Own);
}

#[test]
fn what_cannot_be_read_is_taken_all_the_same() {
    let config = config(r#"{"Network":"10.5.0.0/24"}"#);
    let world = World::new(config, &[("10.5.0.64-26", node(2))]);
    fs::write(world.root.path().join("subnets/10.5.0.128-26"), "{").unwrap();
    fs::write(world.root.path().join("subnets/.10.5.0.192-26"), "{").unwrap();
    fs::write(world.root.path().join("subnets/README"), "hands off").unwrap();
    assert_eq!(world.got(&node(1), None).0, "10.5.0.192-26");
}

#[test]
fn every_free_index_can_come_out_and_no_other() {
    let range = config(r#"{"Network":"10.5.0.0/24","SubnetLen":28}"#).v4.unwrap();
    let taken: Vec<Leaf> = ["10.5.0.0-28", "10.5.0.48-28", "10.5.0.32-27", "10.5.0.240-28"]
        .iter()
        .map(|name| name.parse().unwrap())
        .collect();
    let mut rng = StdRng::seed_from_u64(1);
    let found: BTreeSet<u128> =
        (0..1000).map(|_| free_index(&range, &taken, &mut rng).unwrap()).collect();
    // 10.5.0.16 is index 0; 32 and 48 are taken by the /27, 240 by the last.
    assert_eq!(found, BTreeSet::from_iter([0].into_iter().chain(3..14)));
}

#[test]
fn racing_nodes_get_different_subnets_until_none_is_left() {
    let world = World::new(config(r#"{"Network":"10.5.0.0/24","SubnetLen":28}"#), &[]);
    let (root, config) = (world.root.path(), &world.config);
    let names: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=20)
            .map(|number| scope.spawn(move || acquire_in(root, config, &node(number), None)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let won: BTreeSet<_> = names.iter().flatten().map(|got| got.record.name.clone()).collect();
    assert_eq!(won.len(), 15, "sixteen subnets but the first");
    let lost = names.iter().filter(|got| matches!(got, Err(AcquireError::OutOfSubnets { .. })));
    assert_eq!(lost.count(), 5);
    assert_eq!(world.names(), won.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_missing_directory_is_an_error_with_a_remedy() {
    let error = acquire_in(Path::new("/nonexistent-weft"), &v4(), &node(1), None).unwrap_err();
    let AcquireError::Source(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("--lease-dir"), "{error}");
}
