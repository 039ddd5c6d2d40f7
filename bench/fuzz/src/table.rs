//! Lookups in a table of any peers, against walking through all of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_forward::table::{Peer, Sender, Table, TableInput};

use crate::input::Input;

const PEERS_MAX: usize = 24;

/// A table, and behind it addresses to look up.
pub fn table(data: &[u8]) {
    let mut input = Input::new(data);
    let count = usize::from(input.u8()) % PEERS_MAX;
    let switches = input.u8();
    let mut table = TableInput {
        epoch: 1,
        network_v4: Some(net_v4(&mut input)),
        network_v6: Some(net_v6(&mut input)),
        own_v4: Some(net_v4(&mut input)),
        own_v6: Some(net_v6(&mut input)),
        strict_source: switches & 1 != 0,
        ..TableInput::default()
    };
    for slot in 0..count {
        let slot = if switches & 2 == 0 { slot as u16 } else { u16::from(input.u8()) };
        table.peers.push(peer(&mut input, slot));
    }
    let peers = table.peers.clone();
    let Ok(built) = Table::new(table) else {
        assert!(has_duplicates(&peers), "a right table was refused");
        return;
    };
    assert!(!has_duplicates(&peers), "a wrong table was taken");
    assert!(peers.iter().all(|peer| usize::from(peer.slot) < built.slots()));
    while !input.is_empty() {
        check_lookups(&built, &peers, address(&mut input));
    }
    for peer in &peers {
        check_lookups(&built, &peers, peer.outer.ip());
    }
}

fn net_v4(input: &mut Input<'_>) -> Ipv4Net {
    // Close to each other, so that subnets meet.
    let address = Ipv4Addr::new(10, input.u8() & 3, input.u8(), 0);
    Ipv4Net::new(address, 8 + input.u8() % 25).expect("at most 32").trunc()
}

fn net_v6(input: &mut Input<'_>) -> Ipv6Net {
    let low = u16::from(input.u8());
    let address = Ipv6Addr::new(0xfd00, 0, u16::from(input.u8() & 3), low, 0, 0, 0, 0);
    Ipv6Net::new(address, input.u8() % 129).expect("at most 128").trunc()
}

fn address(input: &mut Input<'_>) -> IpAddr {
    match input.u8() & 3 {
        0 | 1 => Ipv4Addr::new(10, input.u8() & 3, input.u8(), input.u8()).into(),
        2 => {
            let (low, high) = (u16::from(input.u8()), u16::from(input.u8() & 3));
            Ipv6Addr::new(0xfd00, 0, high, low, 0, 0, 0, 1).into()
        }
        _ => Ipv4Addr::from(input.u32()).into(),
    }
}

fn peer(input: &mut Input<'_>, slot: u16) -> Peer {
    let families = input.u8();
    let outer = IpAddr::from([192, 0, 2, input.u8() & 15]);
    let more = IpAddr::from([192, 0, 2, input.u8() & 15]);
    Peer {
        slot,
        generation: 1,
        outer: (outer, 8285).into(),
        subnet_v4: (families & 1 == 0).then(|| net_v4(input)),
        subnet_v6: (families & 2 == 0).then(|| net_v6(input)),
        addresses: if families & 4 == 0 { vec![outer] } else { vec![outer, more] },
        inner_v6: true,
        source_ports: false,
        shortcut: false,
        mtu: None,
    }
}

fn has_duplicates(peers: &[Peer]) -> bool {
    let same = |left: &Peer, right: &Peer| {
        left.slot == right.slot
            || (left.subnet_v4.is_some() && left.subnet_v4 == right.subnet_v4)
            || (left.subnet_v6.is_some() && left.subnet_v6 == right.subnet_v6)
    };
    peers
        .iter()
        .enumerate()
        .any(|(index, left)| peers[..index].iter().any(|right| same(left, right)))
}

fn check_lookups(table: &Table, peers: &[Peer], address: IpAddr) {
    let subnet = |peer: &Peer| match address {
        IpAddr::V4(_) => peer.subnet_v4.map(IpNet::V4),
        IpAddr::V6(_) => peer.subnet_v6.map(IpNet::V6),
    };
    let owner = peers
        .iter()
        .filter(|peer| subnet(peer).is_some_and(|net| net.contains(&address)))
        .max_by_key(|peer| subnet(peer).map(|net| net.prefix_len()));
    assert_eq!(table.peer_for(address).map(|peer| peer.slot), owner.map(|peer| peer.slot));
    let sender = peers
        .iter()
        .find(|peer| peer.outer.ip() == address && peer.addresses.contains(&address))
        .or_else(|| peers.iter().find(|peer| peer.addresses.contains(&address)));
    match (table.peer_from(address), sender) {
        (Sender::Peer(found), Some(expected)) => assert_eq!(found.slot, expected.slot),
        (Sender::Unknown, None) => {}
        (found, expected) => panic!("{address}: {found:?}, not {expected:?}"),
    }
    let own = match address {
        IpAddr::V4(address) => table.own_v4().is_some_and(|net| net.contains(&address)),
        IpAddr::V6(address) => table.own_v6().is_some_and(|net| net.contains(&address)),
    };
    assert_eq!(table.is_ours(address), own);
}
