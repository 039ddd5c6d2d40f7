use std::time::Duration;

use super::*;
use crate::config::NetworkConfig;
use crate::desired::{Book, Slots, Viewer};
use crate::source::{Record, Update};

const SECOND: Duration = Duration::from_secs(1);
const AGEING: Duration = Duration::from_secs(300);

fn lease(number: u16) -> Record {
    let (high, low) = (number / 256, number % 256);
    let name = format!("10.{}.{low}.0-24&fd00:0:0:{number:x}::-64", 64 + high);
    let value = format!(
        r#"{{"PublicIP":"192.0.{high}.{low}","PublicIPv6":"2001:db8::{number:x}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:04:{high:02x}:{low:02x}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"0a:00:00:06:{high:02x}:{low:02x}"}}}}"#
    );
    Record::lasting(&*name, &*value)
}

/// A node that knows these leases.
fn demand(numbers: impl IntoIterator<Item = u16>) -> (Demand, Instant) {
    let config = r#"{"Network":"10.64.0.0/10","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan","OnDemand":true}}"#;
    let viewer = Viewer {
        config: NetworkConfig::parse(config.as_bytes()).unwrap(),
        own: "10.64.1.0-24&fd00:0:0:1::-64".parse().unwrap(),
        identity: format!("{:032x}", 1).parse().unwrap(),
        own_addresses: vec!["198.51.100.1".parse().unwrap()],
        outer_v6: false,
        own_macs: Vec::new(),
        own_key: None,
    };
    let now = Instant::now();
    let mut book = Book::default();
    book.handle(Update::Snapshot(numbers.into_iter().map(lease).collect()), now);
    let view = viewer.view(&book, &mut Slots::default());
    assert_eq!(view.rejected, []);
    let mut demand = Demand::new(now);
    demand.set_peers(&view, &viewer.own);
    (demand, now)
}

fn address(text: &str) -> Miss {
    Miss::Address(text.parse().unwrap())
}

fn needed(demand: &Demand) -> Vec<String> {
    demand.asked.keys().map(ToString::to_string).collect()
}

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

#[test]
fn what_a_lease_has_is_needed_once_it_is_asked_for() {
    let (mut demand, now) = demand([2, 3]);
    assert!(demand.handle_miss(address("10.64.2.7"), now));
    assert!(!demand.handle_miss(address("10.64.2.7"), now), "it is being made");
    assert!(demand.handle_miss(address("fd00:0:0:3::9"), now));
    assert!(demand.handle_miss(Miss::Mac(mac("0a:00:00:04:00:03")), now), "its first address");
    assert_eq!(needed(&demand), ["10.64.2.7", "10.64.3.0", "fd00:0:0:3::9"]);
    let of = |subnet: &str| demand.asked_in(subnet.parse().unwrap()).count();
    assert_eq!([of("10.64.2.0/24"), of("10.64.4.0/24"), of("fd00:0:0:3::/64")], [1, 0, 1]);
    assert_eq!(demand.counts(), Counts { answered: 3, ..Counts::default() });
}

#[test]
fn what_no_lease_has_is_counted_and_nothing_else() {
    let (mut demand, now) = demand([2]);
    for question in [
        address("10.64.3.1"),
        address("10.63.255.255"),
        address("203.0.113.1"),
        address("fd00:0:0:3::1"),
        address("::1"),
        Miss::Mac(mac("0a:00:00:04:00:09")),
    ] {
        assert!(!demand.handle_miss(question, now), "{question:?}");
    }
    assert_eq!(demand.counts(), Counts { unknown: 6, ..Counts::default() });
    assert!(!demand.handle_miss(address("10.64.1.5"), now), "a pod of this host");
    assert_eq!(demand.counts().unknown, 6);
    assert_eq!(needed(&demand), [""; 0]);
}

#[test]
fn only_so_many_are_added_a_second() {
    let (mut demand, now) = demand(2..1000);
    let ask = |demand: &mut Demand, number: u32, now| {
        let [high, low] = u16::try_from(number % 998 + 2).unwrap().to_be_bytes();
        let last = u8::try_from(number / 998).unwrap();
        demand.handle_miss(Miss::Address([10, 64 + high, low, last].into()), now)
    };
    let answered = (0..3000).filter(|number| ask(&mut demand, *number, now)).count();
    assert_eq!(answered, usize::try_from(BURST).unwrap());
    assert_eq!(demand.counts().refused, 2000);
    let later = now + SECOND;
    let answered = (0..3000).filter(|number| ask(&mut demand, *number, later)).count();
    assert_eq!(answered, usize::try_from(PER_SECOND).unwrap());

    // However long it goes on, there are only so many; those asked for last are there.
    for second in 2..60 {
        for number in 0..PER_SECOND {
            ask(&mut demand, 3000 + second * PER_SECOND + number, now + second * SECOND);
        }
        assert!(demand.addresses() <= ASKED_MAX);
    }
    assert!(demand.addresses() > ASKED_MAX / 2);
    assert!(!ask(&mut demand, 3000 + 60 * PER_SECOND - 1, now + 60 * SECOND), "is there");
}

#[test]
fn what_is_not_used_goes_with_everything_of_its_peer() {
    let (mut demand, start) = demand([2, 3]);
    for text in ["10.64.2.7", "10.64.2.8", "10.64.3.1", "10.64.200.1"] {
        demand.handle_miss(address(text), start);
    }
    // Of a peer that has gone meanwhile.
    demand.adopt(&["10.64.9.9".parse().unwrap()], start);
    let unused = |two: u64, three: u64| Usage {
        unused: [("0a:00:00:04:00:02", two), ("0a:00:00:04:00:03", three)]
            .into_iter()
            .map(|(text, seconds)| (mac(text), Duration::from_secs(seconds)))
            .collect(),
        ageing: AGEING,
        ..Usage::default()
    };
    assert!(!demand.handle_usage(&unused(0, 0), start + AGEING));
    assert!(!demand.handle_usage(&Usage { ageing: AGEING, ..Usage::default() }, start + AGEING));
    assert!(demand.handle_usage(&unused(300, 301), start + AGEING + SECOND));
    assert_eq!(needed(&demand), ["10.64.2.7", "10.64.2.8"], "frames were sent to one of both");
    assert!(!demand.handle_miss(address("10.64.2.8"), start + 2 * AGEING));
    assert!(!demand.handle_usage(&unused(900, 900), start + 3 * AGEING), "asked for again");
    assert!(demand.handle_usage(&unused(900, 900), start + 3 * AGEING + SECOND));
    assert_eq!(needed(&demand), [""; 0]);
    assert!(demand.handle_miss(address("10.64.2.8"), start + 4 * AGEING));
}

#[test]
fn nothing_is_known_to_be_needed_before_the_leases_are_known() {
    let now = Instant::now();
    let mut demand = Demand::new(now);
    assert!(!demand.handle_miss(address("10.64.2.7"), now));
    assert_eq!(demand.counts(), Counts::default(), "it is asked again");
}
