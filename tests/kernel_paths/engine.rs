//! `udp` with several `Paths`: the engine ends or is stuck, and a connection that it carries goes on.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::host::Daemon;
use crate::paths::{LEFT_WITHIN, RETURNED_WITHIN, wait_for};
use crate::stream::Stream;
use crate::surgeon::{Stopped, can_operate};
use crate::world::{Families, World, pods};

/// The engine comes first, and the kernel's path needs nothing of it.
const ENGINE_FIRST: &str = r#"{"Type":"udp","Paths":["udp","vxlan"]}"#;

/// Until the engine carries packets at the start.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);

struct Scene<'a> {
    world: &'a World,
    left: Daemon<'a>,
    right: Daemon<'a>,
    near: IpAddr,
    far: IpAddr,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Self {
        let (left, right) = world.start();
        wait_for([&left, &right], "udp", BEGUN_WITHIN);
        let (near, far) = (pods(&world.left, &left)[0], pods(&world.right, &right)[0]);
        Self { world, left, right, near, far }
    }

    fn stream(&self) -> Stream {
        Stream::from_to((&self.world.left, self.near), (&self.world.right, self.far))
    }

    fn wait_for(&self, path: &str, most: Duration) -> Duration {
        wait_for([&self.left, &self.right], path, most)
    }
}

/// Twice, so that successors are known to be looked after, too.
#[test]
fn a_connection_outlives_the_end_of_the_engine() {
    let Some(world) = World::new(Families::V4, ENGINE_FIRST) else { return };
    let mut scene = Scene::new(&world);
    if !can_operate(&scene.left) {
        return;
    }
    let stream = scene.stream();
    for times in ["once", "twice"] {
        Stopped::first_of(&scene.left).fail();
        let left = scene.wait_for("vxlan", LEFT_WITHIN);
        stream.check(times);
        let back = scene.wait_for("udp", RETURNED_WITHIN);
        stream.check("new workers");
        println!("the engine ended {times}: left after {left:.2?}, back after {back:.2?}");
    }
    stream.end();
    assert!(scene.left.log().contains("new packet workers have begun"), "{}", scene.left.log());
    scene.left.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    let text = scene.left.show("peers");
    assert!(text.contains("it is the first path that both nodes have"), "{text}");
    scene.left.check_accounting();
}

/// It is given up while it is stuck, and when it goes on its successor has its place.
#[test]
fn a_connection_outlives_a_worker_that_is_stuck() {
    let Some(world) = World::new(Families::V4, ENGINE_FIRST) else { return };
    let mut scene = Scene::new(&world);
    if !can_operate(&scene.left) {
        return;
    }
    let stream = scene.stream();
    let stuck = Stopped::first_of(&scene.left);
    let left = scene.wait_for("vxlan", LEFT_WITHIN);
    stream.check("a stuck worker");
    scene.left.wait_until("unready", |daemon| daemon.ask("status")["ready"] == false);
    let back = scene.wait_for("udp", RETURNED_WITHIN);
    stream.check("a successor");
    drop(stuck);
    scene.left.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    stream.check("the end of the one that was stuck");
    stream.end();
    assert_eq!(scene.left.ask("peers")["peers"][0]["path"], "udp");
    println!("the worker was stuck: left after {left:.2?}, back after {back:.2?}");
}

#[test]
fn a_deleted_device_is_made_anew() {
    for paths in [r#"["udp","vxlan"]"#, r#"["udp","host-gw"]"#] {
        let backend = format!(r#"{{"Type":"udp","Paths":{paths}}}"#);
        let Some(world) = World::new(Families::Both, &backend) else { return };
        let mut scene = Scene::new(&world);
        let stream = scene.stream();
        let config = |host: &crate::host::Host| {
            let text = host.run(&["ip", "address", "show", "dev", "flannel0"]);
            // The first line has the number of the device, and IPv6 an address by chance.
            let is_ours = |line: &&str| line.contains("inet") && !line.contains("fe80:");
            text.lines().filter(is_ours).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = config(&world.left);
        assert_eq!(before.len(), 2, "{before:?}");
        world.left.run(&["ip", "link", "delete", "flannel0"]);
        // Without a VXLAN device it has the first address of the subnet alone, so that even other paths
        // have to wait for its successor.
        if paths.contains("vxlan") {
            let left = scene.wait_for("vxlan", LEFT_WITHIN);
            println!("flannel0 deleted: left after {left:.2?}");
        }
        let has_begun =
            |daemon: &Daemon<'_>| daemon.log().contains("new packet workers have begun");
        scene.left.wait_until("begun anew", has_begun);
        stream.check("the device deleted");
        let back = scene.wait_for("udp", RETURNED_WITHIN);
        stream.check("the device made anew");
        stream.end();
        scene.left.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
        assert_eq!(config(&world.left), before);
        println!("flannel0 deleted, {paths}: back after {back:.2?}");
    }
}

/// What the config says of the engine's port has changed meanwhile.
#[test]
fn new_workers_have_the_newest_port() {
    let Some(world) = World::new(Families::V4, ENGINE_FIRST) else { return };
    let mut scene = Scene::new(&world);
    let moved = r#"{"Type":"udp","Port":8290,"Paths":["udp","vxlan"]}"#;
    world.leases.write_config(&Families::V4.config(moved));
    let listens = |port: &str| {
        let sockets = world.left.run(&["ss", "-Huan", "sport", "=", port]);
        !sockets.trim().is_empty()
    };
    scene.left.wait_until("at the new port", |_| listens("8290") && !listens("8285"));
    let has_moved = |daemon: &Daemon<'_>| {
        daemon.ask("peers")["peers"][0]["outer"].as_str().is_some_and(|to| to.ends_with(":8290"))
    };
    scene.left.wait_until("told", has_moved);
    scene.right.wait_until("told", has_moved);
    scene.wait_for("udp", RETURNED_WITHIN);
    let stream = scene.stream();
    world.left.run(&["ip", "link", "delete", "flannel0"]);
    scene.wait_for("vxlan", LEFT_WITHIN);
    scene.wait_for("udp", RETURNED_WITHIN);
    stream.check("new workers at the new port");
    stream.end();
    assert!(listens("8290") && !listens("8285"));
}

/// A host that runs flanneld has one path only.
#[test]
fn an_engine_that_somebody_needs_ends_the_daemon() {
    let Some(world) = World::new(Families::V4, ENGINE_FIRST) else { return };
    let mut scene = Scene::new(&world);
    let lease = world.leases.path().join("subnets/10.244.9.0-24");
    fs::write(lease, r#"{"PublicIP":"10.168.0.99"}"#).unwrap();
    scene.left.wait_until("two peers", |daemon| daemon.ask("status")["peers"] == 2);
    world.left.run(&["ip", "link", "delete", "flannel0"]);
    scene.left.wait_until("over", |daemon| daemon.log().contains("1 peers have no other path"));
    assert_eq!(scene.left.end().0, Some(1));
}
