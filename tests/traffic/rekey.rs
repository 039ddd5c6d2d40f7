//! Keys are replaced while they are used, in real time: three hosts with `wireguard-go`. With two of them
//! weft has begun, one behind a relay that loses datagrams, while the third has begun with weft.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{LabOptions, Side, wait_until};

use crate::cluster::Cluster;
use crate::interop::{Other, Seat, at, installed, make_keys, own_key, write_lease};
use crate::load::{Between, Capture};
use crate::relay::{Relay, relayed_address};
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The relay's port.
const RELAYED_PORT: u16 = 8290;

/// Longer than a session is used before whoever began it begins another one (`REKEY_AFTER_TIME` in the
/// protocol's paper, section 6.1), in pings and seconds between two of them.
const PINGS: [&str; 4] = ["-c", "650", "-i", "0.2"];

/// A session older than this was not replaced, in seconds.
const AGE_MAX: u64 = 60;

/// Pings that may be lost, in percent: what is on its way when a busy machine falls behind, and where one
/// of a hundred datagrams is lost each way.
const LOSS_MAX: f64 = 1.0;
const LOSS_MAX_RELAYED: f64 = 6.0;

fn sealing(cluster: &Cluster, subnet: &str) -> Value {
    let peers = cluster.ask(Side::One, "peers");
    let mut peers = peers["peers"].as_array().unwrap().iter();
    peers.find(|peer| peer["subnet"] == subnet).map_or(Value::Null, |peer| peer["sealing"].clone())
}

#[test]
fn whoever_has_begun_replaces_the_keys_after_two_minutes() {
    let Some(program) = installed("wireguard-go") else { return };
    let options = LabOptions { pod_mtu: 1420, ..LabOptions::default() };
    let Some(mut cluster) = Cluster::bare(options) else { return };
    cluster.start_weft(Side::One, &sealed::config());
    let relay = Relay::start(&cluster, RELAYED_PORT);
    let relayed = |side| SocketAddr::from((relayed_address(side), RELAYED_PORT));
    let direct = at(Side::One);
    let seats = [(2, relayed(Side::One)), (3, direct), (4, direct)];
    let seats = seats.map(|(number, weft_at)| Seat { number, weft_at });
    let places = seats.map(|seat| match seat.number {
        2 => relayed(Side::Two),
        _ => (Side::Two.underlay_address(), seat.port()).into(),
    });
    let mut others = Vec::new();
    for (seat, place) in seats.into_iter().zip(places) {
        let key = make_keys(&cluster, seat);
        others.push(Other::start(&cluster, &program, (&own_key(&cluster), seat)));
        write_lease(&cluster, (&key, &seat.subnet()), place);
    }
    let pod_two: IpAddr = Side::Two.pod_address().into();
    let [third, fourth] = [seats[1], seats[2]].map(|seat| seat.address().parse().unwrap());
    for target in [pod_two, third, fourth] {
        cluster.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
    }
    // Without its sessions it has to begin.
    let forgetful = others.remove(1);
    others.push(forgetful.restart(&cluster, &own_key(&cluster)));
    wait_for_handshake_of(&cluster, seats[1]);

    let wire = Side::One.underlay_device();
    let capture = Capture::start(cluster.lab.host(Side::One), wire, "nobody says this");
    let host = cluster.lab.host(Side::Two);
    let from_pod = |address| Between { from: cluster.lab.pod(Side::One), to: host, address };
    let from_host = Between { from: host, to: host, address: Side::One.pod_address().into() };
    let third_text = seats[1].address();
    let as_third = [&PINGS[..], &["-I", &third_text]].concat();
    let flows = [
        (from_pod(pod_two), PINGS.to_vec(), LOSS_MAX_RELAYED),
        (cluster.pods_from(Side::Two), PINGS.to_vec(), LOSS_MAX_RELAYED),
        (from_pod(third), PINGS.to_vec(), LOSS_MAX),
        (from_host, as_third, LOSS_MAX),
        (from_pod(fourth), PINGS.to_vec(), LOSS_MAX),
    ];
    std::thread::scope(|scope| {
        let losses = flows
            .map(|(between, pings, most)| scope.spawn(move || (between.ping_loss(&pings), most)));
        for loss in losses {
            let (loss, most) = loss.join().unwrap();
            assert!(loss <= most, "{loss} % of the pings are lost");
        }
    });
    check_initiations(&capture.finish().initiations, places);
    for seat in seats {
        let age = sealing(&cluster, &seat.subnet())["session_age_seconds"].as_u64();
        assert!(age.is_some_and(|age| age < AGE_MAX), "{age:?}");
    }
    drop(others);
    relay.finish();
    cluster.finish();
}

/// Waits until a program that has no session any more has begun one.
fn wait_for_handshake_of(cluster: &Cluster, seat: Seat) {
    let host = cluster.lab.host(Side::Two);
    let pod = Side::One.pod_address().to_string();
    let (address, before) = (seat.address(), sealing(cluster, &seat.subnet()));
    let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-I", &address, &pod];
    let replies = || Ok(host.run(&ping).ok().map(drop));
    wait_until("a reply to who has forgotten", PATIENCE, replies).unwrap();
    let begun = || {
        let now = sealing(cluster, &seat.subnet())["handshakes"].as_u64();
        Ok((now > before["handshakes"].as_u64()).then_some(()))
    };
    wait_until("who has forgotten to begin", PATIENCE, begun).unwrap();
}

/// Whoever had begun has begun again, and nobody else, but where a datagram may have been lost.
fn check_initiations(begun: &BTreeMap<String, u64>, [second, third, fourth]: [SocketAddr; 3]) {
    let weft = at(Side::One);
    let count =
        |from: SocketAddr, to: SocketAddr| begun.get(&format!("{from} {to}")).copied().unwrap_or(0);
    assert!(count(weft, second) > 0, "{begun:?}");
    assert!(count(third, weft) > 0 && count(weft, third) == 0, "{begun:?}");
    assert!(count(weft, fourth) > 0 && count(fourth, weft) == 0, "{begun:?}");
}
