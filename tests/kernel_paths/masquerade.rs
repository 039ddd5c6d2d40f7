//! `udp` with several `Paths` and `--ip-masq`: connections whose source this host changes outlive another
//! path, too.
//!
//! ```text
//! outside 10.168.0.1 -- u1 [left 10.168.0.2] ... paths ... [right] c1 -- 10.244.2.1, 10.244.2.2
//! ```

use std::process::Command;
use std::time::Duration;

use crate::host::Host;
use crate::paths::{ALL, Filter, LEFT_WITHIN, wait_for};
use crate::stream::Stream;
use crate::world::{Families, World, pods};

/// Until the best path carries packets at the start.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);

/// Sources of TCP connections that come to a host from the network.
fn sources(host: &Host) -> Vec<String> {
    let text = host.run(&["ss", "-Htn", "state", "established", "sport", "=", "7000"]);
    let peer = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    let mut all: Vec<String> = text.lines().filter_map(peer).collect();
    all.sort();
    all
}

#[test]
fn masqueraded_connections_outlive_another_path() {
    for nftables in [false, true] {
        let program = if nftables { "nft" } else { "iptables" };
        if Command::new(program).arg("--version").output().is_err() {
            println!("SKIPPED: masquerading by {program}, which is not here");
            continue;
        }
        let Some(world) = World::new(Families::V4, ALL) else { return };
        let config = Families::V4.config(ALL);
        let nft = format!("{},\"EnableNFTables\":{nftables}}}", config.strip_suffix('}').unwrap());
        world.leases.write_config(&nft);
        // A client that is told of a shorter way would pass by what is tried here.
        for setting in ["conf.all.send_redirects=0", "conf.u1.send_redirects=0", "ip_forward=1"] {
            world.left.run(&["sysctl", "-qw", &format!("net.ipv4.{setting}")]);
        }
        outlive(&world);
    }
}

fn outlive(world: &World) {
    let (left, right) = world.start_with(&["--ip-masq"]);
    let both = [&left, &right];
    wait_for(both, "host-gw", BEGUN_WITHIN);
    let far = pods(&world.right, &right)[0];
    let second = "10.244.2.2".parse().unwrap();
    world.right.run(&["ip", "address", "add", "10.244.2.2/24", "dev", "c1"]);
    let outside = &world.switch.namespace;
    let route = ["-n", outside, "route", "add", "10.244.2.0/24", "via", "10.168.0.2"];
    assert!(Command::new("ip").args(route).status().unwrap().success());

    let (client, host) = ("10.168.0.1".parse().unwrap(), "10.168.0.2".parse().unwrap());
    let from_outside = Stream::across((outside, client), (&world.right.namespace, far));
    let from_host = Stream::from_to((&world.left, host), (&world.right, second));
    let check = |after: &str| {
        from_outside.check(after);
        from_host.check(after);
    };
    let before = sources(&world.right);
    let is_ours = |source: &String| source.starts_with("10.244.1.0:");
    assert!(before.len() == 2 && before.iter().all(is_ours), "{before:?}");
    {
        let _plain = Filter::drop(&world.right, r#"iifname "u2" ip saddr 10.244.0.0/16"#);
        wait_for(both, "vxlan", LEFT_WITHIN);
        check("plain routing blocked one way");
    }
    let rule = r#"iifname "u2" ip saddr { 10.244.0.0/16, 10.168.0.0/24 } udp dport != 8285"#;
    let _rest = Filter::drop(&world.right, rule);
    wait_for(both, "udp", LEFT_WITHIN);
    check("everything blocked but the engine");
    assert_eq!(sources(&world.right), before, "the same connections");
    from_outside.end();
    from_host.end();
}
