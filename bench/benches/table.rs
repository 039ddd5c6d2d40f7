//! The table of peers: finding one, and what a new table costs.
//!
//! `cargo bench --bench table -- --assert-bars` measures the two promised figures by itself and ends
//! with status 1 unless they hold.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use ipnet::Ipv4Net;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use weft_forward::table::{Peer, Table, TableInput};

/// Subnets of a network, ours included, so that the largest table is as large as a table can be.
const SUBNETS: [u32; 3] = [10, 1_000, 65_536];

/// Destinations of one pass: far more than a branch predictor can learn by heart.
const DESTINATIONS: usize = 1 << 18;

/// Passes of each case with `--assert-bars`, the cases in turn. The median counts.
const PASSES: usize = 31;

/// How destinations fall on the subnets.
#[derive(Clone, Copy, Debug)]
enum Spread {
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
struct Case {
    table: Table,
    destinations: Vec<Ipv4Addr>,
}

impl Case {
    fn new(subnets: u32, spread: Spread) -> Case {
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
    fn pass(&self) -> usize {
        self.destinations.iter().fold(0, |sum: usize, &destination| {
            let route = self.table.route_for(IpAddr::V4(black_box(destination)));
            let route = route.expect("every destination has a peer");
            sum.wrapping_add(usize::from(route.slot) + route.generation as usize)
        })
    }

    /// Nanoseconds of one lookup, over one pass.
    fn nanoseconds(&self) -> f64 {
        let start = Instant::now();
        black_box(self.pass());
        start.elapsed().as_nanos() as f64 / DESTINATIONS as f64
    }
}

fn subnet(number: u32) -> Ipv4Net {
    let address = Ipv4Addr::from_bits(0x0a00_0000 | number << 8);
    Ipv4Net::new(address, 24).expect("24 is a prefix length")
}

/// A network in which subnet 0 is ours and the others are a peer's each.
fn input(subnets: u32) -> TableInput {
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

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(DESTINATIONS as u64));
    for spread in [Spread::Zipf, Spread::Uniform] {
        for subnets in SUBNETS {
            let case = Case::new(subnets, spread);
            group.bench_function(BenchmarkId::new(spread.name(), subnets), |bencher| {
                bencher.iter(|| case.pass());
            });
        }
    }
    group.finish();
}

/// A new table is made by the control thread while workers go on with the old one, which is freed
/// there as well: one of each for every change of the leases.
fn swap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("swap");
    for subnets in SUBNETS {
        let input = input(subnets);
        let mut table = Table::new(input.clone()).expect("no two peers are alike");
        group.bench_function(BenchmarkId::from_parameter(subnets), |bencher| {
            let fresh = || input.clone();
            let build = |input| table = Table::new(input).expect("no two peers are alike");
            bencher.iter_batched(fresh, build, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Measures the promised figures, prints them, and says whether they hold.
fn bars_hold() -> bool {
    let cases = [
        Case::new(10, Spread::Zipf),
        Case::new(65_536, Spread::Zipf),
        Case::new(65_536, Spread::Uniform),
    ];
    let mut passes = [const { Vec::new() }; 3];
    for _ in 0..PASSES {
        for (case, passes) in cases.iter().zip(&mut passes) {
            passes.push(case.nanoseconds());
        }
    }
    let [few, many, uniform] = passes.map(median);
    println!("ns a lookup, slot and generation read");
    println!("Zipf, 10 subnets          {few:7.2}");
    println!("Zipf, 65,536 subnets      {many:7.2}");
    println!("uniform, 65,536 subnets   {uniform:7.2}");
    let bars = [
        ("lookup, Zipf: 65,536 subnets / 10 subnets", many / few, 1.5),
        ("lookup, uniform: ns with 65,536 subnets", uniform, 5.0),
    ];
    for (name, value, limit) in bars {
        let verdict = if value <= limit { "holds" } else { "BROKEN" };
        println!("{name}: {value:.2} (at most {limit:.1}): {verdict}");
    }
    bars.iter().all(|(_, value, limit)| value <= limit)
}

fn median(mut passes: Vec<f64>) -> f64 {
    passes.sort_by(f64::total_cmp);
    passes[passes.len() / 2]
}

criterion_group!(benches, lookup, swap);

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--assert-bars") {
        return if bars_hold() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    ExitCode::SUCCESS
}
