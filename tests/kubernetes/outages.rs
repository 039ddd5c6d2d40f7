//! Traffic goes on whatever happens to the API server and to nodes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::certificates::certificates;
use super::cluster::Cluster;
use super::host::Daemon;
use super::pings::Pings;
use super::stream::Stream;
use super::{
    CONFIG, RealWorld, World, WorldWith, follows, is_ready, peers, problems, spawn, start,
};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(20);

fn is_lost(daemon: &Daemon<'_>) -> bool {
    daemon.ask("status")["datastore"]["connected"] == false
}

impl<S: Cluster> WorldWith<S> {
    fn nft(&self, words: &str) {
        let script = format!("ip netns exec {} nft '{words}'", self.switch.namespace);
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// The hosts do not reach the API server, and are told so.
    fn cut_off(&self) {
        self.nft("add table inet cut");
        self.nft("add chain inet cut in { type filter hook input priority 0; }");
        self.nft("add rule inet cut in iifname b0 meta l4proto tcp reject with tcp reset");
    }

    fn join(&self) {
        self.nft("delete table inet cut");
    }
}

/// Cut off, compacted, back with another certificate of another authority, and with another token.
fn break_the_server<S: Cluster>(world: &mut WorldWith<S>) {
    let mut left = start(&world.left, "left");
    let mut right = start(&world.right, "right");
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("joined", |daemon| peers(daemon) == 1);
    }
    let pings = Pings::start(&world.left, &world.right, INTERVAL);

    world.server.stop();
    left.wait_until("cut off", is_lost);
    right.wait_until("cut off", is_lost);
    left.wait_until("told why", |daemon| problems(daemon).contains("does not answer"));
    assert!(is_ready(&left), "{}", problems(&left));
    world.cut_off();
    certificates(world.place.path(), "10.168.0.1");
    world.server.accept("another");
    fs::write(world.place.path().join("token"), "another").unwrap();
    world.server.run();
    let server = &world.server;
    server.add_node("third", &["10.244.3.0/24"]);
    let prefix = "flannel.alpha.coreos.com/";
    server.annotate(
        "third",
        &serde_json::json!({
            format!("{prefix}kube-subnet-manager"): "true",
            format!("{prefix}public-ip"): "10.168.0.9",
        }),
    );
    server.compact();
    world.join();
    for daemon in [&mut left, &mut right] {
        daemon.wait_until("back", follows);
        daemon.wait_until("joined by a third", |daemon| peers(daemon) == 2);
    }

    // What somebody removed from a node is written again.
    server.annotate("left", &serde_json::json!({format!("{prefix}kube-subnet-manager"): null}));
    left.wait_until("written again", |_| {
        server.annotation("left", "kube-subnet-manager").as_deref() == Some("true")
    });
    right.wait_until("joined again", |daemon| peers(daemon) == 2);
    // And what somebody made unreadable.
    server.annotate("left", &serde_json::json!({format!("{prefix}public-ip"): "10.168.0."}));
    left.wait_until("repaired", |daemon| {
        server.annotation("left", "public-ip").as_deref() == Some("10.168.0.2")
            && daemon.log().contains("no other node can read them")
    });
    right.wait_until("joined once more", |daemon| peers(daemon) == 2);
    assert!(is_ready(&left), "{}", problems(&left));
    let (sent, _) = pings.end();
    assert!(sent > 0);

    // Nothing is lost while only the server is away.
    let pings = Pings::start(&world.left, &world.right, INTERVAL);
    world.server.restart();
    std::thread::sleep(Duration::from_secs(1));
    left.wait_until("back", follows);
    let (sent, lost) = pings.end();
    assert!(sent > 20 && lost == 0, "{lost} of {sent} lost");
}

#[test]
fn traffic_outlives_every_fault_of_the_api_server() {
    if let Some(mut world) = World::new(CONFIG) {
        break_the_server(&mut world);
    }
}

#[test]
fn traffic_outlives_every_fault_of_a_real_api_server() {
    if let Some(mut world) = RealWorld::new(CONFIG) {
        lose_a_node(&world);
        break_the_server(&mut world);
    }
}

/// The server is away when a daemon that was killed starts again.
#[test]
fn a_start_without_the_api_server_forwards_and_is_not_ready() {
    let Some(mut world) = World::new(CONFIG) else { return };
    let server = &mut world.server;
    let _left = start(&world.left, "left");
    let mut right = start(&world.right, "right");
    let saved = world.right.file("state/leases");
    right.wait_until("saved", |_| {
        fs::read_to_string(&saved).is_ok_and(|text| text.contains("10.244.1.0-24"))
    });
    server.stop();
    right.signal("KILL");
    right.end();
    let mut right = spawn(&world.right, "right");
    right.wait_until("forwarding", |_| {
        let words = ["ping", "-c", "1", "-W", "1", "-I", "10.244.2.1", "10.244.1.1"];
        world.right.command(&words).output().unwrap().status.success()
    });
    let text = problems(&right);
    assert!(!is_ready(&right) && text.contains("unconfirmed"), "{text}");
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.2.0/24");
    server.run();
    right.wait_until("confirmed", is_ready);
}

/// Somebody deletes a node by mistake; its kubelet makes it again, and the cluster gives it its subnet.
fn lose_a_node<S: Cluster>(world: &WorldWith<S>) {
    let (mut left, mut right) = world.start();
    let stream = Stream::between(&world.left, &world.right);
    world.server.delete_node("right");
    left.wait_until("gone at once", |daemon| peers(daemon) == 0);
    world.server.add_node("right", &["10.244.2.0/24"]);
    left.wait_until("joined again", |daemon| peers(daemon) == 1);
    stream.check("the return of its node");
    right.wait_until("well again", |daemon| is_ready(daemon) && follows(daemon));
    right.wait_until("scheduled again", |_| world.condition("right").is_some());
    stream.end();
}

#[test]
fn a_connection_outlives_a_node_that_was_made_again() {
    if let Some(world) = World::new(CONFIG) {
        lose_a_node(&world);
    }
}

#[test]
fn a_node_that_was_made_again_with_another_subnet() {
    let Some(world) = World::new(CONFIG) else { return };
    let (mut left, mut right) = world.start();
    world.server.delete_node("right");
    left.wait_until("gone at once", |daemon| peers(daemon) == 0);
    world.server.add_node("right", &["10.244.9.0/24"]);
    right.wait_until("told", |daemon| {
        let text = problems(daemon);
        text.contains("was given 10.244.9.0-24 instead of 10.244.2.0-24") && text.contains("drain")
    });
    assert!(!is_ready(&right));
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.2.0/24", "no pod is renumbered");
    assert_eq!(world.server.annotation("right", "kube-subnet-manager"), None);
    right.signal("TERM");
    right.end();
    let right = start(&world.right, "right");
    assert_eq!(right.ask("status")["lease"]["subnet"], "10.244.9.0/24");
    left.wait_until("joined", |daemon| {
        daemon.ask("peers")["peers"][0]["subnet"] == "10.244.9.0/24"
    });
    let file = fs::read_to_string(world.right.subnet_file()).unwrap();
    assert!(file.contains("FLANNEL_SUBNET=10.244.9.1/24"), "{file}");
    let pod = [10, 244, 9, 1].into();
    world.right.run(&["ip", "address", "add", "10.244.9.1/24", "dev", "c1"]);
    Stream::from_to((&world.left, world.left.pod()), (&world.right, pod)).end();
}
