//! The table of peers: finding one, and what a new table costs.
//!
//! `cargo bench --bench table -- --assert-bars` measures the two promised figures by itself and ends
//! with status 1 unless they hold.

mod cases {
    pub(crate) mod harness;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group};
use weft_forward::table::Table;

use cases::table::{Case, DESTINATIONS, SUBNETS, Spread, input, lookup};

/// Passes of each case with `--assert-bars`, the cases in turn. The median counts.
const PASSES: usize = 31;

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
            passes.push(nanoseconds(case));
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

/// Nanoseconds of one lookup, over one pass.
fn nanoseconds(case: &Case) -> f64 {
    let start = Instant::now();
    black_box(case.pass());
    start.elapsed().as_nanos() as f64 / DESTINATIONS as f64
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
