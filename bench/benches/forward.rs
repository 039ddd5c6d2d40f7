//! Time of the packet logic by itself. Figures are for each wire packet.

mod cases {
    pub(crate) mod forward;
    pub(crate) mod harness;
}

use cases::forward;
use criterion::{criterion_group, criterion_main};

criterion_group!(benches, forward::all);
criterion_main!(benches);
