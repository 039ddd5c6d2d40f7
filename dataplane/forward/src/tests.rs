//! Tests that go through several parts.

mod hostile;
mod oracle;
mod round_trip;
mod strictness;
mod third;
mod wire;
