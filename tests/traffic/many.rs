//! A host that sends to fifty peers, as the lab makes them for its figures.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_bench::lab::{LabOptions, Side};
use weft_bench::path::{PathKind, Programs, RunningPath, many};

use crate::cluster::Cluster;

const PORT: u16 = 9000;

#[test]
fn each_of_many_peers_gets_its_own() {
    let Some(cluster) = Cluster::bare(LabOptions::default()) else { return };
    let programs = Programs {
        weft: PathBuf::from(env!("CARGO_BIN_EXE_weft")),
        weft_flags: Vec::new(),
        bench: PathBuf::new(),
    };
    let path = RunningPath::start_to_many(&cluster.lab, PathKind::Weft, &programs).unwrap();
    let [one, two] = Side::BOTH.map(|side| cluster.lab.pod(side));
    let everywhere = "0.0.0.0".parse::<IpAddr>().unwrap();
    let receiver = two.udp_socket_at((everywhere, PORT).into()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let sender = one.udp_socket(Side::One.pod_address().into()).unwrap();
    for pod in many::pods() {
        sender.send_to(&pod.octets(), (pod, PORT)).unwrap();
    }
    let expected: BTreeSet<_> = many::pods().map(|pod| pod.octets()).collect();
    let received: BTreeSet<[u8; 4]> = (0..expected.len())
        .map(|_| {
            let mut address = [0; 4];
            assert_eq!(receiver.recv(&mut address).unwrap(), address.len());
            address
        })
        .collect();
    assert_eq!(received, expected);
    // Each of them is a host of its own.
    let peers = path.nodes()[0].query(cluster.lab.host(Side::One), &["peers", "--json"]).unwrap();
    assert_eq!(peers.matches(r#""outer":"10.168.1."#).count(), expected.len(), "{peers}");
    drop(path);
    cluster.finish();
}
