//! The forms of the checksum against each other and against the definition.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_sys::checksum::{SumFunction, available};

/// An IPv4 header, a small packet, the smallest MTU, a full segment and a joined packet.
const LENGTHS: [usize; 5] = [20, 64, 576, 1420, 65_000];

/// Where the bytes start in a cache line: behind headers, so at no boundary.
const OFFSET: usize = 42;

fn naive(data: &[u8]) -> u16 {
    let mut total: u32 = 0;
    for pair in data.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        total += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn checksum(criterion: &mut Criterion) {
    let longest = LENGTHS.into_iter().max().expect("there are lengths");
    let data: Vec<u8> = (0..longest + OFFSET).map(|index| (index * 31 + 7) as u8).collect();
    let mut forms: Vec<(&str, SumFunction)> = vec![("naive", naive)];
    forms.extend(available());
    for length in LENGTHS {
        let mut group = criterion.benchmark_group(format!("checksum/{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        for (name, sum) in &forms {
            let part = &data[OFFSET..OFFSET + length];
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| sum(black_box(part)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, checksum);
criterion_main!(benches);
