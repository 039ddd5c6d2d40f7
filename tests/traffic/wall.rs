//! What keeps unsealed packets out: when it is put up, and when it is taken down.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{LabOptions, NETWORK, Side, wait_until};
use weft_bench::path::Weft;

use crate::cluster::{self, Cluster};
use crate::load::Capture;
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bytes of every ping, and what they are as text.
const PATTERN: [&str; 2] = ["736563726574776f7264736f6674776f", "secretwordsoftwo"];

/// The chain drops, and the last route says unreachable.
fn stands(cluster: &Cluster, side: Side) -> [bool; 2] {
    let host = cluster.lab.host(side);
    let chain = host.run(&["nft", "list", "chain", "inet", "weft", "wall"]).unwrap_or_default();
    let routes = host.ip(&["route", "show", "type", "unreachable"]).unwrap();
    [chain.contains("drop"), routes.contains(NETWORK)]
}

fn wait_until_down(cluster: &Cluster, side: Side) {
    let is_down = || Ok((stands(cluster, side) == [false, false]).then_some(()));
    wait_until("the wall to be gone", PATIENCE, is_down).unwrap();
}

fn ping_loss(cluster: &Cluster, side: Side) -> f64 {
    cluster.pods_from(side).burst_loss(5, &["-s", "500", "-p", PATTERN[0]])
}

/// A host that gets no lease has let nothing in or out before either.
#[test]
fn the_wall_of_a_first_start_stands_before_the_lease() {
    let Some(cluster) = Cluster::bare(LabOptions::default()) else { return };
    let leases = cluster.lab.directory().join("leases/subnets");
    std::fs::create_dir_all(&leases).unwrap();
    let stranger = r#"{"PublicIP":"10.168.0.77","PublicIPv6":null}"#;
    std::fs::write(leases.join("10.244.1.0-24"), stranger).unwrap();
    let mut weft = Weft::new(Path::new(env!("CARGO_BIN_EXE_weft")));
    let only = r#""SubnetMin":"10.244.1.0","SubnetMax":"10.244.1.0","Backend""#;
    weft.config = sealed::config().replace(r#""Backend""#, only);
    let default = Side::Two.underlay_address().to_string();
    let host = cluster.lab.host(Side::One);
    host.ip(&["route", "add", "default", "via", &default]).unwrap();
    let mut node = weft.start(&cluster.lab, Side::One).unwrap();
    let is_up = || Ok((stands(&cluster, Side::One) == [true, true]).then_some(()));
    wait_until("the wall", PATIENCE, is_up).unwrap();
    let wire = Side::One.underlay_device();
    let capture = Capture::start(host, wire, PATTERN[1]);
    assert_eq!(ping_loss(&cluster, Side::One), 100.0);
    assert_eq!(capture.finish().clear, 0, "a packet of the network has left by the default route");
    assert!(host.run(&["cat", &node.subnet_file().display().to_string()]).is_ok());
    let lease = node.status(host).map(|mut status| status["lease"].take());
    assert!(lease.is_err() || lease.is_ok_and(|lease| lease.is_null()), "it has no lease");
    let log = node.process().stderr().unwrap();
    // It has ended by itself, or is asked to.
    let _ = node.process_mut().stop();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(stands(&cluster, Side::One), [true, true], "it stays after the end");
    node.uninstall(host).unwrap();
    assert_eq!(stands(&cluster, Side::One), [false, false]);
    drop(node);
    cluster.finish();
}

/// A host with the config of before is outside until all have it; those that require a seal neither
/// take its packets nor send it any.
#[test]
fn a_config_that_no_longer_seals_opens_no_other_host() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.start_weft(side, &sealed::config());
    }
    cluster.wait_for_traffic();
    let config = cluster.lab.directory().join("leases/config");
    std::fs::write(config.with_extension("new"), cluster::config(false)).unwrap();
    std::fs::rename(config.with_extension("new"), config).unwrap();
    for side in Side::BOTH {
        let is_told = || {
            let note = cluster.ask(side, "status")["config_change"].take();
            Ok(note.as_str().is_some_and(|note| note.contains("Encryption")).then_some(()))
        };
        wait_until("the change to be told", PATIENCE, is_told).unwrap();
        assert_eq!(stands(&cluster, side), [true, true], "nothing follows without a restart");
    }
    let host = cluster.lab.host(Side::One);
    let capture = Capture::start(host, Side::One.underlay_device(), PATTERN[1]);
    assert_eq!(ping_loss(&cluster, Side::Two), 0.0);
    drop(cluster.kill_weft(Side::One));
    assert_eq!(stands(&cluster, Side::One), [true, true]);
    let seen = capture.finish();
    assert!(seen.clear == 0 && seen.messages > 0, "{seen:?}");

    cluster.start_weft(Side::One, "");
    wait_until_down(&cluster, Side::One);
    let refused = || {
        let status = cluster.ask(Side::Two, "status");
        Ok((status["rejected"][0]["reason"] == "key_missing").then_some(()))
    };
    wait_until("the lease without a key to be refused", PATIENCE, refused).unwrap();
    let host = cluster.lab.host(Side::Two);
    let on_wire = Capture::start(host, Side::Two.underlay_device(), PATTERN[1]);
    assert_eq!(ping_loss(&cluster, Side::Two), 100.0);
    assert_eq!(on_wire.finish().clear, 0, "who requires a seal sends nothing without one");
    let inside = Capture::start(host, Side::Two.pod_link(), PATTERN[1]);
    assert_eq!(ping_loss(&cluster, Side::One), 100.0);
    assert_eq!(inside.finish().clear, 0, "who requires a seal lets nothing in without one");
    let dropped = || Ok((cluster.dropped(Side::Two, "inbound", "not_sealed") > 0).then_some(()));
    wait_until("the drops to be counted", PATIENCE, dropped).unwrap();
    assert_eq!(stands(&cluster, Side::Two), [true, true]);

    drop(cluster.kill_weft(Side::Two));
    cluster.start_weft(Side::Two, "");
    cluster.wait_for_traffic();
    wait_until_down(&cluster, Side::Two);
    assert_eq!(cluster.ask(Side::Two, "status")["sealing"], Value::Null);
    cluster.finish();
}
