//! Finding a peer in tables of several sizes.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use weft_forward::table::{Peer, Table, TableInput};

use super::harness::Harness;

/// Subnets of a network, ours included, so that the largest table is as large as a table can be.
pub(crate) const SUBNETS: [u32; 3] = [10, 1_000, 65_536];

/// Destinations of one pass: far more than a branch predictor can learn by heart.
pub(crate) const DESTINATIONS: usize = 1 << 18;

/// How destinations fall on the subnets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// The *n*th most popular subnet gets 1/*n* of what the first one gets: Zipf with exponent 1.
    Zipf,
    /// All alike.
    Uniform,
}

impl Spread {
    fn name(self) -> &'static str {
        match self {
            Spread::Zipf => "zipf",
            Spread::Uniform => "uniform",
        }
    }
}

/// A table and what is asked of it.
pub(crate) struct Case {
    table: Table,
    destinations: Vec<Ipv4Addr>,
}

impl Case {
    pub(crate) fn new(subnets: u32, spread: Spread) -> Case {
        let mut random = SmallRng::seed_from_u64(1);
        let mut by_rank: Vec<u32> = (1..subnets).collect();
        // Popular subnets are not neighbours, or one cache line would hold them all.
        by_rank.shuffle(&mut random);
        let weight = |rank: usize| match spread {
            Spread::Zipf => 1.0 / (rank + 1) as f64,
            Spread::Uniform => 1.0,
        };
        let weights = (0..by_rank.len()).scan(0.0, |sum, rank| {
            *sum += weight(rank);
            Some(*sum)
        });
        let cumulative: Vec<f64> = weights.collect();
        let total = cumulative.last().copied().expect("there is more than one subnet");
        let mut destination = || {
            let drawn = random.random_range(0.0..total);
            let rank = cumulative.partition_point(|sum| *sum <= drawn);
            Ipv4Addr::from_bits(subnet(by_rank[rank]).network().to_bits() | 2)
        };
        let destinations = (0..DESTINATIONS).map(|_| destination()).collect();
        Case { table: Table::new(input(subnets)).expect("no two peers are alike"), destinations }
    }

    /// Looks all destinations up, as a worker does, and sums what it reads of what it finds.
    pub(crate) fn pass(&self) -> usize {
        self.destinations.iter().fold(0, |sum: usize, &destination| {
            let route = self.table.route_for(IpAddr::V4(black_box(destination)));
            let route = route.expect("every destination has a peer");
            sum.wrapping_add(usize::from(route.slot) + route.generation as usize)
        })
    }
}

fn subnet(number: u32) -> Ipv4Net {
    let address = Ipv4Addr::from_bits(0x0a00_0000 | number << 8);
    Ipv4Net::new(address, 24).expect("24 is a prefix length")
}

/// A network in which subnet 0 is ours and the others are a peer's each.
pub(crate) fn input(subnets: u32) -> TableInput {
    let peer = |number: u32| {
        let outer = IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 | number));
        Peer {
            slot: u16::try_from(number - 1).expect("a table has no more peers"),
            generation: 1,
            outer: SocketAddr::new(outer, 8285),
            subnet_v4: Some(subnet(number)),
            subnet_v6: None,
            addresses: vec![outer],
            inner_v6: false,
            source_ports: false,
            shortcut: false,
            mtu: None,
        }
    };
    TableInput {
        epoch: 1,
        network_v4: Some("10.0.0.0/8".parse().expect("it is a network")),
        own_v4: Some(subnet(0)),
        peers: (1..subnets).map(peer).collect(),
        ..TableInput::default()
    }
}

/// Every case. An element is a lookup.
pub(crate) fn lookup(harness: &mut impl Harness) {
    for spread in [Spread::Zipf, Spread::Uniform] {
        for subnets in SUBNETS {
            let case = Case::new(subnets, spread);
            let name = format!("{}/{subnets}", spread.name());
            harness.case("lookup", &name, DESTINATIONS, || case.pass());
        }
    }
}
