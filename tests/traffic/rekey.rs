//! Keys are replaced while they are used, in real time: two hosts with `wireguard-go`, one of which weft
//! has begun with, while the other has begun with weft.

use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{LabOptions, Side, wait_until};

use crate::cluster::Cluster;
use crate::interop::{Other, Seat, at, installed, make_keys, own_key, write_lease};
use crate::load::{Between, Capture};
use crate::sealed;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than a session is used before whoever began it begins another one (`REKEY_AFTER_TIME` in the
/// protocol's paper, section 6.1), in pings and seconds between two of them.
const PINGS: [&str; 4] = ["-c", "650", "-i", "0.2"];

/// A session older than this was not replaced, in seconds.
const AGE_MAX: u64 = 60;

/// Pings that may be lost, in percent: what is on its way when a busy machine falls behind.
const LOSS_MAX: f64 = 1.0;

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
    let seats = [2, 3].map(|number| Seat { number, weft_at: at(Side::One) });
    let mut others = Vec::new();
    for seat in seats {
        let key = make_keys(&cluster, seat);
        others.push(Other::start(&cluster, &program, (&own_key(&cluster), seat)));
        let there = (Side::Two.underlay_address(), seat.port()).into();
        write_lease(&cluster, (&key, &seat.subnet()), there);
    }
    let pod_two: std::net::IpAddr = Side::Two.pod_address().into();
    let third: std::net::IpAddr = seats[1].address().parse().unwrap();
    for target in [pod_two, third] {
        cluster.lab.wait_for_reply(Side::One, target, PATIENCE, || Ok(())).unwrap();
    }
    // Without its sessions it has to begin.
    let forgetful = others.pop().unwrap();
    others.push(forgetful.restart(&cluster, &own_key(&cluster)));
    let host = cluster.lab.host(Side::Two);
    let pod_one = Side::One.pod_address().to_string();
    let (third_text, before) = (third.to_string(), sealing(&cluster, &seats[1].subnet()));
    let ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-I", &third_text, &pod_one];
    let replies = || Ok(host.run(&ping).ok().map(drop));
    wait_until("a reply to the third", PATIENCE, replies).unwrap();
    let begun = || {
        let now = sealing(&cluster, &seats[1].subnet())["handshakes"].as_u64();
        Ok((now > before["handshakes"].as_u64()).then_some(()))
    };
    wait_until("the third to begin", PATIENCE, begun).unwrap();

    let wire = Side::One.underlay_device();
    let capture = Capture::start(cluster.lab.host(Side::One), wire, "nobody says this");
    let from = |from, address| Between { from, to: from, address };
    let from_pod = |address| from(cluster.lab.pod(Side::One), address);
    let flows = [
        (from_pod(pod_two), PINGS.to_vec()),
        (from_pod(third), PINGS.to_vec()),
        (cluster.pods_from(Side::Two), PINGS.to_vec()),
        (from(host, Side::One.pod_address().into()), [&PINGS[..], &["-I", &third_text]].concat()),
    ];
    std::thread::scope(|scope| {
        let losses = flows.map(|(between, pings)| scope.spawn(move || between.ping_loss(&pings)));
        for loss in losses {
            let loss = loss.join().unwrap();
            assert!(loss <= LOSS_MAX, "{loss} % of the pings are lost");
        }
    });
    let begun = capture.finish().initiations;
    let weft = at(Side::One);
    let [second, third] = seats.map(|seat| (Side::Two.underlay_address(), seat.port()));
    let count = |from: &str, to: &str| begun.get(&format!("{from} {to}")).copied().unwrap_or(0);
    let text = |(address, port): (std::net::Ipv4Addr, u16)| format!("{address}:{port}");
    let (weft, second, third) = (weft.to_string(), text(second), text(third));
    assert!(count(&weft, &second) > 0 && count(&second, &weft) == 0, "{begun:?}");
    assert!(count(&third, &weft) > 0 && count(&weft, &third) == 0, "{begun:?}");
    for seat in seats {
        let age = sealing(&cluster, &seat.subnet())["session_age_seconds"].as_u64();
        assert!(age.is_some_and(|age| age < AGE_MAX), "{age:?}");
    }
    drop(others);
    cluster.finish();
}
