//! What runs the cases: criterion, which takes their time, or the counter of instructions.

use criterion::{BenchmarkId, Criterion, Throughput};

/// Something that measures cases.
pub(crate) trait Harness {
    /// Measures `routine`, a run of which handles `elements` packets or lookups.
    fn case<Output>(
        &mut self,
        group: &str,
        name: &str,
        elements: usize,
        routine: impl FnMut() -> Output,
    );
}

impl Harness for Criterion {
    fn case<Output>(
        &mut self,
        group: &str,
        name: &str,
        elements: usize,
        mut routine: impl FnMut() -> Output,
    ) {
        let mut group = self.benchmark_group(group);
        group.throughput(Throughput::Elements(elements as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(&mut routine);
        });
        group.finish();
    }
}
