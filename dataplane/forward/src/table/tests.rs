use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::collection::vec as any_vec;
use proptest::prelude::*;

use super::*;

fn peer(slot: u16, subnet_v4: &str, outer: &str) -> Peer {
    Peer {
        slot,
        generation: 1,
        outer: SocketAddr::new(outer.parse().unwrap(), 8285),
        subnet_v4: Some(subnet_v4.parse().unwrap()),
        subnet_v6: None,
        addresses: Vec::new(),
        inner_v6: false,
        source_ports: false,
        shortcut: false,
        mtu: None,
    }
}

fn input() -> TableInput {
    TableInput {
        epoch: 7,
        network_v4: Some("10.244.0.0/16".parse().unwrap()),
        network_v6: Some("fd00::/48".parse().unwrap()),
        own_v4: Some("10.244.1.0/24".parse().unwrap()),
        own_v6: Some("fd00:0:0:1::/64".parse().unwrap()),
        own_addresses: vec![address("10.168.0.2"), address("10.1.1.1"), address("2001:db8::2")],
        allowed_sources: vec!["192.0.2.0/24".parse().unwrap()],
        strict_source: false,
        peers: vec![
            Peer {
                subnet_v6: Some("fd00:0:0:2::/64".parse().unwrap()),
                addresses: vec![address("10.168.0.3"), address("10.169.0.3")],
                ..peer(4, "10.244.2.0/24", "10.168.0.3")
            },
            peer(2, "10.244.9.0/24", "10.168.0.9"),
        ],
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn slot_for(table: &Table, destination: &str) -> Option<u16> {
    table.peer_for(address(destination)).map(|peer| peer.slot)
}

#[test]
fn peers_are_found_by_destination() {
    let table = Table::new(input()).unwrap();
    assert_eq!((table.epoch(), table.slots(), table.peers().len()), (7, 5, 2));
    assert_eq!(slot_for(&table, "10.244.2.0"), Some(4));
    assert_eq!(slot_for(&table, "10.244.2.255"), Some(4));
    assert_eq!(slot_for(&table, "10.244.9.1"), Some(2));
    assert_eq!(slot_for(&table, "fd00:0:0:2::1"), Some(4));
    let strangers = ["10.244.1.255", "10.244.3.0", "10.244.8.255", "10.244.10.0", "0.0.0.0"];
    for stranger in strangers.into_iter().chain(["255.255.255.255", "::", "fd00:0:0:3::", "fd00::"])
    {
        assert_eq!(slot_for(&table, stranger), None, "{stranger}");
    }
}

#[test]
fn an_empty_table_knows_nobody() {
    let table = Table::new(TableInput::default()).unwrap();
    assert_eq!(table.slots(), 0);
    for nobody in ["0.0.0.0", "10.0.0.1", "::", "::1", "0.0.0.1"] {
        assert_eq!(slot_for(&table, nobody), None);
        assert!(!table.is_ours(address(nobody)));
        assert_eq!(table.peer_from(address(nobody)), Sender::Unknown);
    }
}

#[test]
fn the_longest_prefix_wins() {
    let mut input = input();
    input.peers = vec![
        peer(0, "10.244.0.0/17", "10.168.0.3"),
        peer(1, "10.244.2.0/24", "10.168.0.4"),
        peer(2, "0.0.0.0/0", "10.168.0.5"),
        peer(3, "10.244.2.7/32", "10.168.0.6"),
    ];
    let table = Table::new(input).unwrap();
    assert_eq!(slot_for(&table, "10.244.2.7"), Some(3));
    assert_eq!(slot_for(&table, "10.244.2.8"), Some(1));
    assert_eq!(slot_for(&table, "10.244.3.8"), Some(0));
    assert_eq!(slot_for(&table, "10.244.128.8"), Some(2));
}

#[test]
fn senders_are_found_by_address() {
    let mut input = input();
    // The second peer claims the first one's address; only the first is reached there.
    input.peers[1].addresses = vec![address("10.168.0.3"), address("10.169.0.9")];
    let table = Table::new(input).unwrap();
    let slot = |from: &str| match table.peer_from(address(from)) {
        Sender::Peer(peer) | Sender::Proved(peer) => Some(peer.slot),
        Sender::Allowed | Sender::Unknown => None,
    };
    assert_eq!(slot("10.168.0.3"), Some(4));
    assert_eq!(slot("::ffff:10.168.0.3"), Some(4));
    assert_eq!(slot("10.169.0.3"), Some(4));
    assert_eq!(slot("10.168.0.9"), Some(2));
    assert_eq!(slot("10.169.0.9"), Some(2));
    assert_eq!(table.peer_from(address("192.0.2.200")), Sender::Allowed);
    assert_eq!(table.peer_from(address("192.0.3.1")), Sender::Unknown);
    assert_eq!(table.peer_from(address("10.244.2.1")), Sender::Unknown);
}

/// One lease that names another host's address must not silence that host.
#[test]
fn peers_at_one_address_do_not_silence_each_other() {
    let mut input = input();
    input.peers.insert(0, peer(5, "10.244.7.0/24", "10.168.0.9"));
    let table = Table::new(input).unwrap();
    let from = |outer: &str, inner: &str| {
        table.check_inbound(&table.peer_from(address(outer)), address(inner), address("10.244.1.5"))
    };
    assert_eq!(from("10.168.0.9", "10.244.7.1"), Ok(()));
    assert_eq!(from("10.168.0.9", "10.244.9.1"), Ok(()));
    assert_eq!(from("10.168.0.9", "10.244.2.1"), Err(DropReason::SourceSpoofed));
    assert_eq!(from("10.168.0.3", "10.244.9.1"), Err(DropReason::SourceSpoofed));
    // Where a key tells them apart, each speaks for itself alone.
    let proved = |slot: u16, inner: &str| {
        let sender = Sender::Proved(table.peer_in(slot, 1).unwrap());
        table.check_inbound(&sender, address(inner), address("10.244.1.5"))
    };
    assert_eq!(proved(5, "10.244.7.1"), Ok(()));
    assert_eq!(proved(5, "192.0.2.1"), Ok(()));
    assert_eq!(proved(5, "10.244.9.1"), Err(DropReason::SourceSpoofed));
    assert_eq!(proved(2, "10.244.9.1"), Ok(()));
    assert_eq!(proved(2, "10.244.7.1"), Err(DropReason::SourceSpoofed));
}

#[test]
fn what_may_come_in() {
    use DropReason::{
        DestinationNotOurs, SourceForbidden, SourceOutsideNetwork, SourceSpoofed, UnknownSender,
    };
    const HOME: &str = "10.244.1.5";
    const HOME_V6: &str = "fd00:0:0:1::5";
    // Outer source, inner source, inner destination, what happens, and what if strict.
    let rows = [
        ("10.168.0.3", "10.244.2.9", HOME, Ok(()), Ok(())),
        ("10.168.0.3", "10.244.2.0", "10.244.1.0", Ok(()), Ok(())),
        ("10.169.0.3", "fd00:0:0:2::1", HOME_V6, Ok(()), Ok(())),
        ("192.0.2.1", "10.244.2.9", HOME, Ok(()), Ok(())),
        ("10.168.0.3", "198.51.100.1", HOME, Ok(()), Err(SourceOutsideNetwork)),
        ("192.0.2.1", "2001:db8::1", HOME_V6, Ok(()), Err(SourceOutsideNetwork)),
        ("10.168.0.4", "10.244.2.9", HOME, Err(UnknownSender), Err(UnknownSender)),
        (
            "10.168.0.3",
            "10.244.2.9",
            "10.244.3.1",
            Err(DestinationNotOurs),
            Err(DestinationNotOurs),
        ),
        ("10.168.0.3", "10.244.2.9", "224.0.0.1", Err(DestinationNotOurs), Err(DestinationNotOurs)),
        ("10.168.0.3", "10.244.9.9", HOME, Err(SourceSpoofed), Err(SourceSpoofed)),
        ("10.168.0.3", "10.244.77.1", HOME, Err(SourceSpoofed), Err(SourceSpoofed)),
        ("192.0.2.1", "10.244.77.1", HOME, Err(SourceSpoofed), Err(SourceSpoofed)),
        ("10.168.0.9", "fd00:0:0:2::1", HOME_V6, Err(SourceSpoofed), Err(SourceSpoofed)),
        ("10.168.0.3", "10.244.1.9", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "10.168.0.2", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "10.1.1.1", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "2001:db8::2", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "127.0.0.1", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "0.1.2.3", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "239.0.0.1", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "255.255.255.255", HOME, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "fd00:0:0:1::9", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "::1", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "::", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "ff02::1", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
        ("10.168.0.3", "::ffff:10.244.2.9", HOME_V6, Err(SourceForbidden), Err(SourceForbidden)),
    ];
    let table = Table::new(input()).unwrap();
    let strict = Table::new(TableInput { strict_source: true, ..input() }).unwrap();
    for (outer, source, destination, loose_result, strict_result) in rows {
        for (table, expected) in [(&table, loose_result), (&strict, strict_result)] {
            let sender = table.peer_from(address(outer));
            let result = table.check_inbound(&sender, address(source), address(destination));
            assert_eq!(result, expected, "{outer} {source} {destination}");
        }
    }
}

#[test]
fn a_sender_of_an_older_table_is_known_by_slot_and_generation() {
    let old = Table::new(input()).unwrap();
    let sender = old.peer_from(address("10.168.0.3"));
    let check = |change: fn(&mut Peer)| {
        let mut input = input();
        input.peers[0].outer = "10.168.0.4:8285".parse().unwrap();
        change(&mut input.peers[0]);
        let new = Table::new(input).unwrap();
        new.check_inbound(&sender, address("10.244.2.9"), address("10.244.1.5"))
    };
    assert_eq!(check(|peer| peer.inner_v6 = true), Ok(()));
    assert_eq!(check(|peer| peer.generation += 1), Err(DropReason::SourceSpoofed));
    assert_eq!(check(|peer| peer.slot += 1), Err(DropReason::SourceSpoofed));
}

#[test]
fn mistakes_are_named() {
    let mut same_slot = input();
    same_slot.peers[1].slot = 4;
    assert_eq!(Table::new(same_slot).unwrap_err(), TableError::DuplicateSlot(4));
    let mut same_subnet = input();
    same_subnet.peers[1].subnet_v4 = same_subnet.peers[0].subnet_v4;
    let error = Table::new(same_subnet).unwrap_err();
    assert_eq!(error.to_string(), "Two peers have subnet 10.244.2.0/24");
    let mut same_v6 = input();
    same_v6.peers[1].subnet_v6 = same_v6.peers[0].subnet_v6;
    let error = Table::new(same_v6).unwrap_err();
    assert_eq!(error.to_string(), "Two peers have subnet fd00:0:0:2::/64");
    let template = peer(0, "10.244.2.0/24", "10.168.0.3");
    let nowhere = |slot| Peer { slot, subnet_v4: None, ..template.clone() };
    let peers: Vec<Peer> = (0..u16::MAX).map(nowhere).collect();
    let full = TableInput { peers, ..TableInput::default() };
    assert_eq!(Table::new(full.clone()).unwrap().slots(), PEERS_MAX);
    let mut over = full;
    over.peers.push(nowhere(u16::MAX));
    assert_eq!(Table::new(over).unwrap_err(), TableError::TooManyPeers);
}

/// Which of the subnets has the address, the slow way.
fn scan(peers: &[Peer], address: IpAddr) -> Option<u16> {
    let length = |peer: &&Peer| match address {
        IpAddr::V4(_) => peer.subnet_v4.map(|net| net.prefix_len()),
        IpAddr::V6(_) => peer.subnet_v6.map(|net| net.prefix_len()),
    };
    let has = |peer: &&Peer| match address {
        IpAddr::V4(address) => peer.subnet_v4.is_some_and(|net| net.contains(&address)),
        IpAddr::V6(address) => peer.subnet_v6.is_some_and(|net| net.contains(&address)),
    };
    peers.iter().filter(has).max_by_key(length).map(|peer| peer.slot)
}

/// Peers whose subnets have one length or any, and destinations in and around them.
fn populations() -> impl Strategy<Value = (Vec<Peer>, Vec<u32>)> {
    let lengths = prop_oneof![Just((24, 24)), Just((20, 28)), Just((0, 32)), Just((32, 32))];
    let spread = prop_oneof![Just(0xffffu32), Just(0xff_ffff), Just(u32::MAX)];
    (lengths, spread, any_vec(any::<(u32, u8)>(), 0..40), any_vec(any::<(usize, u32)>(), 50))
        .prop_map(|((shortest, longest), spread, subnets, probes)| {
            let bits = |seed: u32| (0x0af4_0000 & !spread) | (seed & spread);
            let mut peers: Vec<Peer> = Vec::new();
            for (slot, (seed, length)) in subnets.into_iter().enumerate() {
                let length = shortest + length % (longest - shortest + 1);
                let v4 = Ipv4Net::new(Ipv4Addr::from_bits(bits(seed)), length).unwrap().trunc();
                let v6 = Ipv6Net::new(widen(bits(seed)), length * 2).unwrap().trunc();
                let taken = |peer: &Peer| peer.subnet_v4 == Some(v4) || peer.subnet_v6 == Some(v6);
                if !peers.iter().any(taken) {
                    let mut added = peer(slot as u16, "0.0.0.0/0", "10.168.0.3");
                    (added.subnet_v4, added.subnet_v6) = (Some(v4), Some(v6));
                    peers.push(added);
                }
            }
            let near = |(index, seed): (usize, u32)| match peers.get(index % (peers.len() + 1)) {
                Some(peer) => peer
                    .subnet_v4
                    .unwrap()
                    .network()
                    .to_bits()
                    .wrapping_add(seed % 600)
                    .wrapping_sub(300),
                None => seed,
            };
            let probes = probes.into_iter().map(near).collect();
            (peers, probes)
        })
}

/// An IPv6 address whose first 64 bits grow with `bits`.
fn widen(bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(bits) << 96 | u128::from(bits) << 20)
}

proptest! {
    #[test]
    fn every_lookup_is_a_scan((peers, probes) in populations()) {
        let table = Table::new(TableInput { peers: peers.clone(), ..TableInput::default() }).unwrap();
        for bits in probes {
            for address in [IpAddr::V4(Ipv4Addr::from_bits(bits)), IpAddr::V6(widen(bits))] {
                let found = table.peer_for(address).map(|peer| peer.slot);
                let route = table.route_for(address);
                assert_eq!(route, table.peer_for(address).map(Route::from));
                prop_assert_eq!(found, scan(&peers, address), "{}", address);
            }
        }
    }
}
