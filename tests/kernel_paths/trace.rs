//! `weft trace`: compared with what packets really do.

use serde_json::Value;

use crate::host::{Daemon, Host};
use crate::world::{Families, World, join, ping, pods};

/// The exit code, the answer as JSON, and what was said when there is none.
fn trace(host: &Host, source: &str, destination: &str) -> (Option<i32>, Value, String) {
    let socket = host.file("weft.sock");
    let weft = env!("CARGO_BIN_EXE_weft");
    let words = [weft, "trace", "--json", "--admin-socket", &socket, source, destination];
    let output = host.command(&words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// A daemon that masquerades, and its peer.
fn start(world: &World) -> (Daemon<'_>, Daemon<'_>) {
    let mut left = world.left.start(&["--iface=u1", "--ip-masq"]);
    let mut right = world.right.start(&["--iface=u2"]);
    join(&mut left, 1);
    join(&mut right, 1);
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        world.left.run(&["sysctl", "-qw", setting]);
    }
    (left, right)
}

#[test]
fn every_type_tells_the_way_of_a_packet() {
    let sealed = r#","Encryption":"wireguard""#;
    for (kind, more, device, device_v6) in [
        ("udp", "", "flannel0", "flannel0"),
        ("udp", sealed, "flannel0", "flannel0"),
        ("vxlan", "", "flannel.1", "flannel-v6.1"),
        ("host-gw", "", "u1", "u1"),
    ] {
        let backend = format!(r#"{{"Type":"{kind}"{more}}}"#);
        let Some(world) = World::new(Families::Both, &backend) else { return };
        let (left, right) = start(&world);
        let (near, far) = (pods(&world.left, &left), pods(&world.right, &right));
        let lease = left.ask("status")["lease"].clone();
        // Addresses of pods, which are none of the host.
        let pods = ["subnet", "ipv6_subnet"].map(|family| {
            let (first, _) = lease[family].as_str().unwrap().split_once('/').unwrap();
            first.strip_suffix('0').unwrap_or(first).to_owned() + "9"
        });
        for (place, device) in [device, device_v6].into_iter().enumerate() {
            ping(&world.left, near[place], far[place]);
            let far = far[place].to_string();
            let near = pods[place].as_str();
            let (code, told, said) = trace(&world.left, near, &far);
            assert_eq!(code, Some(0), "{kind} {far}: {told} {said}");
            assert_eq!((&told["path"], &told["dropped"]), (&kind.into(), &Value::Null), "{told}");
            let route = told["route"].as_str().unwrap();
            assert!(route.ends_with(&format!("dev {device}")), "{told}");
            let expected = (&(!more.is_empty()).into(), &false.into());
            assert_eq!((&told["is_sealed"], &told["is_masqueraded"]), expected, "{told}");
            assert_eq!(told["source_is"], "a pod of this host");
            let mtu = world.left.run(&["cat", &format!("/sys/class/net/{device}/mtu")]);
            assert_eq!(told["mtu"].to_string(), mtu.trim());
            assert_eq!(told["remarks"], serde_json::json!([]), "{told}");
            // The other direction.
            let (code, told, said) = trace(&world.left, &far, near);
            assert_eq!(code, Some(0), "{kind} from {far}: {told} {said}");
            assert!(told["route"].as_str().unwrap().ends_with("dev c1"), "{told}");
        }
        // To the outside.
        let (code, told, _) = trace(&world.left, &pods[0], "10.168.0.1");
        assert_eq!((code, &told["is_masqueraded"]), (Some(0), &true.into()), "{told}");
        // What nobody has a lease for.
        let (code, told, _) = trace(&world.left, &pods[0], "10.244.0.1");
        let expected =
            if kind == "udp" { (Some(3), "no_route".into()) } else { (Some(0), Value::Null) };
        assert_eq!((code, told["dropped"]["reason"].clone()), expected, "{told}");
    }
}

#[test]
fn what_cannot_be_said_or_does_not_arrive_has_a_cause() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"vxlan"}"#) else { return };
    let (_left, _right) = start(&world);
    for (source, destination, part) in [
        ("10.244.2.9", "10.244.2.8", "Ask on a host that has one of them"),
        ("192.0.2.1", "10.244.2.8", "is an address of this host"),
        ("10.244.1.9", "fd44::1", "different families"),
        ("10.244.1.9", "224.0.0.1", "multicast"),
        ("10.244.1.9", "0.0.0.0", "unspecified"),
    ] {
        let (code, _, said) = trace(&world.left, source, destination);
        assert!(code == Some(1) && said.contains(part), "{source} {destination}: {code:?} {said}");
    }
    assert_eq!(trace(&world.left, "10.244.1.9", "nonsense").0, Some(2));

    world.left.run(&["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    let (code, told, said) = trace(&world.left, "10.244.1.9", "10.244.2.1");
    let reason = told["dropped"]["reason"].clone();
    assert_eq!((code, reason), (Some(3), "forwarding_off".into()), "{told} {said}");
    world.left.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    world.left.run(&["ip", "route", "add", "blackhole", "10.244.78.0/24"]);
    let (code, told, said) = trace(&world.left, "10.244.1.9", "10.244.78.1");
    let reason = told["dropped"]["reason"].clone();
    assert_eq!((code, reason), (Some(3), "blackhole".into()), "{told} {said}");
}

/// The peer's packets come in by another device than those to it leave by.
#[test]
fn what_a_reverse_path_filter_drops_is_named() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"host-gw"}"#) else { return };
    let (left, _right) = start(&world);
    assert_eq!(trace(&world.left, "10.244.2.9", "10.244.1.9").0, Some(0));
    world.left.run(&["sysctl", "-qw", "net.ipv4.conf.u1.rp_filter=1"]);
    assert_eq!(trace(&world.left, "10.244.2.9", "10.244.1.9").0, Some(0));
    world.left.run(&["ip", "route", "replace", "10.244.2.0/24", "dev", "c1", "proto", "static"]);
    let (code, told, said) = trace(&world.left, "10.244.2.9", "10.244.1.9");
    let reason = told["dropped"]["reason"].clone();
    assert_eq!((code, reason), (Some(3), "reverse_path".into()), "{told} {said} {}", left.log());
    // And the way there is told to be somebody else's.
    let (_, told, _) = trace(&world.left, "10.244.1.9", "10.244.2.9");
    assert!(told["route"].as_str().unwrap().ends_with("dev c1"), "{told}");
}
