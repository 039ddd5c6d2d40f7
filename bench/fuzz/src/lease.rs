//! Leases, which anybody who can write to the datastore writes.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use weft_ctrl::config::NetworkConfig;
use weft_ctrl::desired::{Book, Slots, Viewer};
use weft_ctrl::identity::Identity;
use weft_ctrl::lease::{Attributes, Leaf, Lease, Limits};
use weft_ctrl::source::{Change, Record, Update};
use weft_forward::table::Table;

use crate::input::Input;

static CONFIG: LazyLock<NetworkConfig> = LazyLock::new(|| {
    let text = br#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48",
        "IPv6SubnetLen":64,"Backend":{"Type":"udp"}}"#;
    NetworkConfig::parse(text).expect("the config is right")
});

const OWN: &str = "10.5.1.0-24&fd00:5:0:1::-64";

static OWN_ADDRESSES: LazyLock<Vec<IpAddr>> =
    LazyLock::new(|| vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("a constant")]);

/// The name of a lease: a key of the datastore, or a file name.
pub fn leaf(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    let Ok(leaf) = name.parse::<Leaf>() else { return };
    let written = leaf.to_string();
    assert_eq!(written.parse(), Ok(leaf), "{written}");
    assert!(leaf.subnets().count() <= 2);
    let _ = leaf.overlaps(&OWN.parse().expect("a constant"));
}

/// The value of a lease. What is written of it reads as the same.
pub fn lease(data: &[u8]) {
    let Ok(attributes) = Attributes::parse(data) else { return };
    let again = Attributes::parse(&attributes.to_json()).expect("it was written by us");
    assert_eq!(without_data(again), without_data(attributes.clone()));
    for name in ["10.5.2.0-24", "10.5.2.0-24&fd00:5:0:2::-64", "0.0.0.0-0&fd00:5:0:2::-64"] {
        let lease = Lease::read(name, data).expect("name and value are right");
        let own = OWN.parse().expect("a constant");
        let limits = Limits { config: &CONFIG, own, own_addresses: &OWN_ADDRESSES };
        if let Err(rejection) = limits.check(&lease) {
            assert!(!rejection.to_string().is_empty() && !rejection.name().is_empty());
            continue;
        }
        let v4 = attributes.public_ip;
        assert!(!OWN_ADDRESSES.contains(&v4.into()) && !v4.is_loopback() && !v4.is_multicast());
        assert!(!CONFIG.networks().any(|network| network.contains(&IpAddr::from(v4))));
    }
}

/// Data of other backends is handed on, but fractions in it may lose their last digit.
fn without_data(mut attributes: Attributes) -> Attributes {
    for data in [&mut attributes.backend_data, &mut attributes.backend_v6_data] {
        *data = data.take().map(|_| true.into());
    }
    attributes
}

/// A history of a datastore: leases written, deleted, listed, and time going by. Whatever it is, it
/// leads to a table, and what is not believed is said.
pub fn leases(data: &[u8]) {
    let mut input = Input::new(data);
    let viewer = Viewer {
        config: CONFIG.clone(),
        own: OWN.parse().expect("a constant"),
        identity: "00000000000000000000000000000001".parse().expect("a constant"),
        own_addresses: OWN_ADDRESSES.clone(),
        outer_v6: input.u8() & 1 != 0,
        own_macs: Vec::new(),
        own_key: None,
    };
    let (mut book, mut slots) = (Book::default(), Slots::default());
    let mut now = Instant::now();
    let mut steps = 0;
    while !input.is_empty() && steps < 16 {
        steps += 1;
        now += Duration::from_secs(u64::from(input.u8()));
        book.handle(update(&mut input), now);
        book.handle_time(now);
        check_view(&viewer, &book, &mut slots);
    }
}

fn update(input: &mut Input<'_>) -> Update {
    match input.u8() % 4 {
        0 | 1 => Update::Changes(vec![Change::Put(record(input))]),
        2 => Update::Changes(vec![Change::Deleted { name: name(input), revision: 0 }]),
        _ => Update::Snapshot((0..input.u8() % 4).map(|_| record(input)).collect()),
    }
}

fn record(input: &mut Input<'_>) -> Record {
    Record::lasting(name(input), value(input))
}

/// Often one of a few subnets, so that leases meet; else any text.
fn name(input: &mut Input<'_>) -> String {
    let choice = input.u8();
    let number = choice >> 2 & 7;
    match choice & 3 {
        0 => format!("10.5.{number}.0-24"),
        1 => format!("10.5.{number}.0-24&fd00:5:0:{number}::-64"),
        2 => format!("0.0.0.0-0&fd00:5:0:{number}::-64"),
        _ => {
            let length = usize::from(input.u8() % 64);
            String::from_utf8_lossy(input.take(length)).into_owned()
        }
    }
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    let choice = input.u8();
    let host = choice >> 3 & 7;
    let identity = u128::from(choice >> 6);
    let text = match choice & 7 {
        0..=2 => format!(r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":null}}"#),
        3 => format!(r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":"2001:db8::{host}"}}"#),
        4 | 5 => format!(
            r#"{{"PublicIP":"192.0.2.{host}","Weft":{{"v":1,"id":"{identity:032x}","v6":true,"mtu":1400}}}}"#
        ),
        6 => format!(r#"{{"PublicIP":"192.0.2.{host}","BackendType":"vxlan"}}"#),
        _ => {
            let length = usize::from(input.u8());
            return input.take(length).to_vec();
        }
    };
    text.into_bytes()
}

fn check_view(viewer: &Viewer, book: &Book, slots: &mut Slots) {
    let view = viewer.view(book, slots);
    for rejected in &view.rejected {
        assert!(!rejected.reason.to_string().is_empty());
    }
    for accepted in &view.accepted {
        assert!(!accepted.leaf.overlaps(&viewer.own));
        let peer = accepted.peer().expect("the config has the type udp");
        assert!(!viewer.own_addresses.contains(&peer.outer.ip()));
        assert_ne!(accepted.lease.attributes.identity(), Some::<Identity>(viewer.identity));
        assert_eq!(peer.outer.is_ipv6(), viewer.outer_v6);
    }
    let table = Table::new(viewer.table_input(&view, 1));
    let table = table.expect("what was checked makes a table");
    for accepted in &view.accepted {
        for net in accepted.leaf.subnets() {
            let found = table.peer_for(net.addr()).map(|peer| peer.slot);
            assert_eq!(found, accepted.peer().map(|peer| peer.slot));
        }
    }
    // Asked again, nothing changes.
    assert_eq!(viewer.view(book, slots), view);
}
