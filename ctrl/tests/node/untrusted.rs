//! Values that no node of ours would write, made up by the hundred, among the leases of living peers.
//! Each is refused for its reason, and no published table ever lacks a living peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use etcd_client::Client;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::{sleep, timeout};
use weft_ctrl::source::Source;
use weft_ctrl::source::etcd::{Endpoints, Etcd, EtcdOptions};

use super::namespace::{in_new_namespace, ip};
use super::server::{EtcdServer, can_run_etcd};
use super::{Tables, World, read, until};

/// Subnets of 16 addresses: the first half of them is the test's, the other half the node's.
const CONFIG: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":28,"SubnetMin":"10.244.128.0",
    "EnableIPv6":true,"IPv6Network":"fd44::/48","IPv6SubnetMin":"fd44:0:0:8000::"}"#;

const PREFIX: &str = "/coreos.com/network/subnets";

/// Numbers of subnets that living peers have.
const LIVING: std::ops::Range<u16> = 1..11;

/// Numbers of subnets that a bad lease each is written for.
const BAD: std::ops::Range<u16> = 11..611;

/// Values of a mebibyte among them: more than one answer of the store holds.
const HUGE: u16 = 20;

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bad lease.
struct Bad {
    name: Vec<u8>,
    value: Vec<u8>,
    /// Why it has to be refused.
    reason: &'static str,
}

fn subnet_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + u32::from(number) * 16)
}

fn name(number: u16) -> String {
    format!("{}-28&fd44:0:0:{number:x}::-64", subnet_v4(number))
}

fn public(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 170, 0, 0)) + u32::from(number))
}

fn value(number: u16) -> String {
    let address = public(number);
    format!(r#"{{"PublicIP":"{address}","PublicIPv6":"2001:db8:1::{number:x}"}}"#)
}

fn with(v4: &str, v6: &str) -> Vec<u8> {
    format!(r#"{{"PublicIP":"{v4}","PublicIPv6":"{v6}"}}"#).into_bytes()
}

/// One bad lease for a subnet that is free otherwise. `own` is the node's identity.
fn bad(number: u16, own: &str, rng: &mut StdRng) -> Bad {
    let good = name(number);
    let lease = |value: Vec<u8>, reason| Bad { name: good.clone().into_bytes(), value, reason };
    if number < BAD.start + HUGE {
        return lease(huge(number), "value");
    }
    match number % 6 {
        0 => {
            let (value, reason) = address(number, rng);
            lease(value, reason)
        }
        1 => lease(wrong_type(number, rng), "value"),
        2 => lease(no_json(number, rng), "value"),
        3 => lease(
            format!(
                r#"{{"PublicIP":"10.170.9.9","PublicIPv6":null,"Weft":{{"v":1,"id":"{own}"}}}}"#
            )
            .into_bytes(),
            "own_identity",
        ),
        _ => {
            let (name, reason) = place(number, rng);
            Bad { name, value: value(number).into_bytes(), reason }
        }
    }
}

/// Addresses that nothing can be sent to, by family.
fn address(number: u16, rng: &mut StdRng) -> (Vec<u8>, &'static str) {
    let v4 = |text: &str| with(text, &format!("2001:db8:1::{number:x}"));
    let v6 = |text: &str| with(&public(number).to_string(), text);
    let unusable_v4 = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"];
    let unusable_v6 = ["::", "::1", "ff02::1", "fe80::1", "::ffff:10.170.0.1", "::FFFF:a.b.c.d"];
    match rng.random_range(0..7) {
        0 => (v4(unusable_v4.choose(rng).unwrap()), "public_ip_unusable"),
        1 => (v4("255.255.255.255"), "public_ip_unusable"),
        2 => match *unusable_v6.choose(rng).unwrap() {
            "::FFFF:a.b.c.d" => (v6("::FFFF:a.b.c.d"), "value"),
            text => (v6(text), "public_ip_unusable"),
        },
        3 => (v4("10.168.0.2"), "public_ip_ours"),
        4 => (v6("2001:db8::2"), "public_ip_ours"),
        5 => (v4(&format!("10.244.{}.9", rng.random::<u8>())), "public_ip_inside"),
        _ => (v6(&format!("fd44::{:x}", rng.random::<u16>())), "public_ip_inside"),
    }
}

/// JSON whose keys have the wrong kinds.
fn wrong_type(number: u16, rng: &mut StdRng) -> Vec<u8> {
    let rows = [
        r#"{"PublicIP":7}"#,
        r#"{"PublicIP":null}"#,
        r#"{"PublicIP":{}}"#,
        r#"{"PublicIP":["ADDRESS"]}"#,
        r#"{"PublicIP":true}"#,
        r#"{"PublicIP":""}"#,
        r#"{"PublicIP":" ADDRESS"}"#,
        r#"{"PublicIP":"ADDRESS/28"}"#,
        r#"{"PublicIP":"2001:db8::9"}"#,
        r#"{"PublicIP":"010.170.0.9"}"#,
        r#"{"PublicIP":"ADDRESS","PublicIP":null}"#,
        r#"{"PublicIP":5,"publicip":"ADDRESS"}"#,
        r#"{"PublicIP":"ADDRESS","PublicIPv6":false}"#,
        r#"{"PublicIP":"ADDRESS","PublicIPv6":"fe80::1%u1"}"#,
        r#"{"PublicIP":"ADDRESS","PublicIPv6":"10.170.0.9"}"#,
        r#"{"PublicIP":"ADDRESS","BackendType":{}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"port":99999999999999999999999999}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"port":-1}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"port":8285.0}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"mtu":1e3}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"ports":0}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"paths":"udp"}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"addrs":["ADDRESS","x"]}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"id":"0"}}"#,
        r#"{"PublicIP":"ADDRESS","Weft":{"v":1,"v6":1}}"#,
    ];
    rows.choose(rng).unwrap().replace("ADDRESS", &public(number).to_string()).into_bytes()
}

/// Values that are no object of JSON at all.
fn no_json(number: u16, rng: &mut StdRng) -> Vec<u8> {
    let good = value(number).into_bytes();
    match rng.random_range(0..8) {
        0 => good[..rng.random_range(0..good.len())].to_vec(),
        1 => [good.as_slice(), b"}"].concat(),
        2 => (0..rng.random_range(1..200)).map(|_| rng.random::<u8>()).collect(),
        3 => "[".repeat(rng.random_range(1..60_000)).into_bytes(),
        4 => format!("{}7{}", "{\"PublicIP\":".repeat(2000), "}".repeat(2000)).into_bytes(),
        5 => [b"{\"PublicIP\":\"\xff\xfe".as_slice(), &good].concat(),
        6 => br#"{"PublicIP":1e999999999}"#.to_vec(),
        _ => [&b"null"[..], b"[]", b"7", b"\"10.170.0.9\"", b"\x1b[2J\r\n"]
            .choose(rng)
            .unwrap()
            .to_vec(),
    }
}

/// Almost a mebibyte, in four ways; two of them would be good leases if they were shorter.
fn huge(number: u16) -> Vec<u8> {
    let long = "x".repeat(1 << 20);
    let good = value(number);
    match number % 4 {
        0 => format!(r#"{{"PublicIP":"{long}"}}"#),
        1 => "{\"PublicIP\":7,".repeat(70_000),
        2 => good.replacen('{', &format!(r#"{{"BackendData":"{long}","#), 1),
        _ => format!("{good}{}", " ".repeat(1 << 20)),
    }
    .into_bytes()
}

/// Names of subnets that nobody may have, and names that are none.
fn place(number: u16, rng: &mut StdRng) -> (Vec<u8>, &'static str) {
    let (v4, living) = (subnet_v4(number), rng.random_range(LIVING));
    let taken = subnet_v4(living);
    let text = match rng.random_range(0..16) {
        0 => (format!("{v4}-28").replacen("244", "245", 1), "outside_network"),
        1 => (format!("{v4}-28&fd45:0:0:{number:x}::-64"), "outside_network"),
        2 => (format!("{v4}-{}", rng.random_range(8..28)), "length"),
        3 => (format!("{v4}-29"), "length"),
        4 => (format!("{v4}-28&fd44:0:0:{number:x}::-65"), "length"),
        5 => (format!("10.244.{}.{}-28", v4.octets()[2], v4.octets()[3] + 3), "boundary"),
        6 => (format!("{v4}-28&fd44:0:0:{number:x}::1-64"), "boundary"),
        7 => (format!("{taken}-28&fd44:0:0:{number:x}::-64"), "overlaps_older"),
        8 => (format!("{v4}-28&fd44:0:0:{living:x}::-64"), "overlaps_older"),
        9 => (format!("{number}/{taken}-28"), "overlaps_older"),
        10 => (format!("{v4}-28&FD44:0:0:{number:X}::-64"), "name"),
        11 => (format!("{v4}-28&::ffff:10.244.1.0-120"), "name"),
        12 => (format!("{v4}-28&fd44:0:0:1:2:3:4:5:{number:x}-64"), "name"),
        13 => (format!("{v4}-32"), "name"),
        14 => (format!("{v4}-28 \u{1b}[31m"), "name"),
        _ => (format!("{v4}-28{}", "x".repeat(2000)), "name"),
    };
    let mut name = text.0.into_bytes();
    if text.1 == "name" && number.is_multiple_of(5) {
        name.push(0xff);
    }
    (name, text.1)
}

/// What is shown of a key.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let short: String = text.chars().take(100).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

fn key(name: &[u8]) -> Vec<u8> {
    [PREFIX.as_bytes(), b"/", name].concat()
}

async fn wait(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

/// Every table since all of them were there has every living peer where it belongs.
fn check_tables(tables: &Tables) {
    let all = tables.0.borrow();
    let has = |table: &weft_forward::table::Table, number: u16| {
        let inner = u32::from(subnet_v4(number)) + 1;
        let peer = table.peer_for(IpAddr::V4(inner.into()));
        let v6: Ipv6Addr = format!("fd44:0:0:{number:x}::1").parse().unwrap();
        let outer = SocketAddr::new(public(number).into(), 8285);
        peer.is_some_and(|peer| peer.outer == outer) && table.peer_for(v6.into()).is_some()
    };
    let first = all.iter().position(|table| LIVING.clone().all(|number| has(table, number)));
    for table in &all[first.expect("they were there once")..] {
        for number in LIVING {
            assert!(has(table, number), "table {} lacks peer {number}", table.epoch());
        }
    }
}

fn world(server: &EtcdServer) -> World {
    let endpoints = Endpoints::parse(&server.url(), false).unwrap().servers;
    let options = EtcdOptions::new(endpoints, "/coreos.com/network");
    World { etcd: Some(options), ..World::new() }
}

#[test]
fn no_made_up_lease_is_believed_or_harms_a_living_peer() {
    if !can_run_etcd() {
        return;
    }
    in_new_namespace("untrusted", || async {
        let server = EtcdServer::start();
        server.ctl(&["put", "/coreos.com/network/config", CONFIG]);
        let mut client = Client::connect([server.url()], None).await.unwrap();
        for number in LIVING {
            client.put(key(name(number).as_bytes()), value(number), None).await.unwrap();
        }
        let world = world(&server);
        ip("addr add 2001:db8::2/64 dev u1 nodad");
        world
            .run(async |_, tables| {
                until("ready", || world.status.is_ready()).await;
                wait("joined", || world.status().peers.len() == LIVING.len()).await;
                let own = read(&world.path("state/id")).trim().to_owned();
                let mut rng = StdRng::seed_from_u64(5);
                let mut bad: Vec<Bad> = BAD.map(|number| bad(number, &own, &mut rng)).collect();
                bad.shuffle(&mut rng);
                write_all(&mut client, &bad, &mut rng).await;
                let expected: BTreeMap<String, &str> =
                    bad.iter().map(|one| (shown(&one.name), one.reason)).collect();
                check_refused(&world, &expected).await;
                check_tables(tables);

                // Also a listing of all of them is read, and by a node that starts now.
                let endpoints = Endpoints::parse(&server.url(), false).unwrap().servers;
                let source = Etcd::new(EtcdOptions::new(endpoints, "/coreos.com/network"));
                let listed = source.list().await.unwrap();
                assert_eq!(listed.len(), LIVING.len() + expected.len() + 1);

                correct_all(&mut client, &world, &bad).await;
                check_tables(tables);
                for one in &bad {
                    client.delete(key(&one.name), None).await.unwrap();
                }
                wait("all deleted", || {
                    let status = world.status();
                    status.rejected.is_empty() && status.peers.len() == LIVING.len()
                })
                .await;
                check_tables(tables);
                assert!(world.status.is_ready());
            })
            .await;
    });
}

/// Between them living peers renew their leases, and stray keys come beside the leases' place.
async fn write_all(client: &mut Client, bad: &[Bad], rng: &mut impl Rng) {
    for (index, one) in bad.iter().enumerate() {
        client.put(key(&one.name), one.value.clone(), None).await.unwrap();
        if index % 10 == 0 {
            let living = rng.random_range(LIVING);
            client.put(key(name(living).as_bytes()), value(living), None).await.unwrap();
            client.put(format!("{PREFIX}-{index}"), "stray", None).await.unwrap();
            client.put(PREFIX, "{", None).await.unwrap();
        }
    }
}

async fn check_refused(world: &World, expected: &BTreeMap<String, &str>) {
    wait("all refused", || world.status().rejected.len() == expected.len()).await;
    let status = world.status();
    for one in &status.rejected {
        let wanted = expected.get(&one.name).copied();
        assert_eq!(wanted, Some(one.reason), "{}: {}", one.name, one.text);
        assert!(one.text.len() < 3000, "{}", one.text.len());
    }
    assert_eq!(status.rejections.values().sum::<u64>(), expected.len() as u64, "each is told once");
    assert_eq!(status.peers.len(), LIVING.len());
    assert!(status.ready, "{:?}", status.problems);
}

/// Where only the value was bad, a good one makes a peer.
async fn correct_all(client: &mut Client, world: &World, bad: &[Bad]) {
    let mut corrected = 0;
    for number in BAD {
        let name = name(number).into_bytes();
        if bad.iter().any(|one| one.name == name) {
            client.put(key(&name), value(number), None).await.unwrap();
            corrected += 1;
        }
    }
    assert!(corrected > bad.len() / 2, "{corrected}");
    wait("believed", || world.status().peers.len() == LIVING.len() + corrected).await;
    assert_eq!(world.status().rejected.len(), bad.len() - corrected);
}
