//! Real traffic through two daemons (or one, and a peer that shares no code with it) in network
//! namespaces. Needs root, `/dev/net/tun`, and the programs named in [`cluster::PROGRAMS`]; without
//! them a test says `SKIPPED` and why. The tests take turns, however many threads the harness has.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
mod bridge;
mod cluster;
mod datagrams;
mod degrade;
mod errors;
mod faults;
mod features;
mod flooded;
mod host;
mod hostile;
mod integrity;
mod interop;
mod ipv6;
#[path = "../shared/kernel.rs"]
mod kernel;
mod load;
mod many;
mod matrix;
mod mtu;
mod netem;
mod offered;
mod peer;
mod rekey;
mod relay;
mod restart;
mod sealed;
mod shortcut;
mod wall;
mod workers;
