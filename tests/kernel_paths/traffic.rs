//! Every type with every address family: traffic in both directions, and the kernel's state as the
//! walkthroughs of flannel show it.

use std::fs;

use serde_json::Value;

use crate::host::{Daemon, Host};
use crate::stream::Stream;
use crate::world::{Families, World, entries, json, link, mac, neighbours, ping, pods, routes};

#[test]
fn every_type_carries_traffic_in_every_family() {
    for kind in ["vxlan", "host-gw"] {
        for families in Families::ALL {
            let backend = format!(r#"{{"Type":"{kind}"}}"#);
            let Some(world) = World::new(families, &backend) else { return };
            let (left, right) = world.start();
            let (near, far) = (pods(&world.left, &left), pods(&world.right, &right));
            assert_eq!(near.len(), if families == Families::Both { 2 } else { 1 });
            for (near, far) in near.into_iter().zip(far) {
                ping(&world.left, near, far);
                ping(&world.right, far, near);
                Stream::from_to((&world.left, near), (&world.right, far)).end();
            }
            check_answers(&world, &left, kind);
        }
    }
}

/// What the daemon says about itself.
fn check_answers(world: &World, daemon: &Daemon<'_>, kind: &str) {
    let status = daemon.ask("status");
    assert_eq!(status["network"]["backend"], kind);
    assert_eq!(status["network"]["port"], if kind == "vxlan" { 8472.into() } else { Value::Null });
    assert_eq!((&status["engine"], &status["traffic"]), (&Value::Null, &Value::Null));
    let device = status["device"]["name"].as_str().map(|name| name.starts_with("flannel"));
    assert_eq!(device, (kind == "vxlan").then_some(true));
    let peers = daemon.ask("peers");
    assert_eq!(peers["peers"][0]["path"], kind);
    assert!(daemon.show("peers").contains("the config says so"), "{}", daemon.show("peers"));
    assert!(daemon.show("drops").contains("The kernel carries the packets"));
    assert_eq!(world.left.http("/readyz"), ("HTTP/1.1 200 OK".into(), "flanneld is ready".into()));
    let verbose = world.left.http("/readyz?verbose").1;
    assert!(verbose.contains("[+]routes ok") && !verbose.contains("[-]"), "{verbose}");
    assert!(!verbose.contains("engine"), "{verbose}");
    let metrics = world.left.http("/metrics").1;
    assert!(metrics.contains(&format!(r#"weft_path_peers{{path="{kind}"}} 1"#)), "{metrics}");
    assert!(!world.left.has_device(), "there is no tunnel device");
    let sockets = world.left.run(&["ss", "-Huanp"]);
    assert!(!sockets.contains("weft"), "{sockets}");
}

/// A peer's subnet, its device's MAC address and its host: of the right host, as the left one sees it.
struct Far {
    subnet: String,
    mac: String,
    host: &'static str,
}

fn check_vxlan(host: &Host, device: &str, family: &str, far: &Far) {
    let first = far.subnet.split_once('/').unwrap().0;
    assert_eq!(
        routes(host, family, &far.subnet),
        [format!("{} via {first} dev {device} proto 82 onlink", far.subnet)]
    );
    assert_eq!(neighbours(host, device), [format!("{first} lladdr {}", far.mac)]);
    assert_eq!(entries(host, device), [format!("{} dst {}", far.mac, far.host)]);
}

#[test]
fn vxlan_looks_as_flannels() {
    let Some(world) = World::new(Families::Both, r#"{"Type":"vxlan"}"#) else { return };
    let (left, right) = world.start();
    let subnet = |daemon: &Daemon<'_>, family: &str| {
        daemon.ask("status")["lease"][family].as_str().unwrap().to_owned()
    };
    let device = link(&world.left, "flannel.1");
    let data = &device["linkinfo"]["info_data"];
    assert_eq!((&device["mtu"], &device["linkinfo"]["info_kind"]), (&1450.into(), &"vxlan".into()));
    assert_eq!(
        (&data["id"], &data["port"], &data["link"]),
        (&1.into(), &8472.into(), &"u1".into())
    );
    assert_eq!((&data["local"], &data["learning"]), (&"10.168.0.2".into(), &false.into()));
    for off in ["proxy", "rsc", "l2miss", "l3miss", "gbp"] {
        assert_ne!(data[off], true, "{off}: {data}");
    }
    assert_eq!(data["udp_csum"], true);
    let device = link(&world.left, "flannel-v6.1");
    assert_eq!(device["mtu"], 1430, "IPv6 outside takes 20 bytes more");
    assert_eq!(device["linkinfo"]["info_data"]["local6"], "fd10:168::2");
    let addresses = json(&world.left, &["ip", "-j", "address", "show", "dev", "flannel.1"]);
    let own = subnet(&left, "subnet");
    let found = addresses[0]["addr_info"].as_array().unwrap();
    let found: Vec<_> = found.iter().filter(|one| one["family"] == "inet").collect();
    assert_eq!((found.len(), &found[0]["prefixlen"]), (1, &32.into()));
    assert_eq!(found[0]["local"], own.split_once('/').unwrap().0);

    let far = |family: &str, device: &str, host| Far {
        subnet: subnet(&right, family),
        mac: mac(&world.right, device),
        host,
    };
    check_vxlan(&world.left, "flannel.1", "-4", &far("subnet", "flannel.1", "10.168.0.3"));
    let far = far("ipv6_subnet", "flannel-v6.1", "fd10:168::3");
    check_vxlan(&world.left, "flannel-v6.1", "-6", &far);

    let env = fs::read_to_string(world.left.subnet_file()).unwrap();
    assert!(env.contains("FLANNEL_MTU=1430\n"), "what fits in both families: {env}");
    check_lease(&world, &own);
}

/// The lease tells both devices, with flannel's keys first.
fn check_lease(world: &World, subnet: &str) {
    let name = subnet.replace('/', "-");
    let all = world.leases.all();
    let (_, value) = all.iter().find(|(one, _)| one.starts_with(&name)).unwrap();
    let id = fs::read_to_string(world.left.file("state/id")).unwrap();
    let expected = format!(
        r#"{{"PublicIP":"10.168.0.2","PublicIPv6":"fd10:168::2","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{}"}},"Weft":{{"v":1,"id":"{}","paths":["vxlan"],"mtu":1430,"v6":true}}}}"#,
        mac(&world.left, "flannel.1"),
        mac(&world.left, "flannel-v6.1"),
        id.trim_end(),
    );
    assert_eq!(value.to_string(), expected);
}

#[test]
fn host_gw_looks_as_flannels() {
    let Some(world) = World::new(Families::V4, r#"{"Type":"host-gw"}"#) else { return };
    let (_left, _right) = world.start();
    assert_eq!(
        routes(&world.left, "-4", "10.244.2.0/24"),
        ["10.244.2.0/24 via 10.168.0.3 dev u1 proto 82"]
    );
    assert_eq!(routes(&world.left, "-4", "proto 82").len(), 1);
    let vxlans = world.left.run(&["ip", "-d", "link", "show", "type", "vxlan"]);
    assert_eq!(vxlans, "");
    let env = fs::read_to_string(world.left.subnet_file()).unwrap();
    assert!(env.contains("FLANNEL_MTU=1500\n"), "{env}");
    let leases = world.leases.all();
    assert!(
        leases[0].1.to_string().starts_with(
            r#"{"PublicIP":"10.168.0.2","PublicIPv6":null,"BackendType":"host-gw","Weft":"#
        ),
        "{leases:?}"
    );
}
