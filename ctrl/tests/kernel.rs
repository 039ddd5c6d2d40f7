//! Against the running kernel. Each test makes a network namespace of its own, which goes away with
//! the test's thread; nothing outside is touched. Needs root, `ip` and `/dev/net/tun`; without
//! them a test says `SKIPPED` and why.
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "kernel/device.rs"]
mod device;
#[path = "kernel/interface.rs"]
mod interface;
#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "kernel/paths.rs"]
mod paths;
#[path = "kernel/paths_kept.rs"]
mod paths_kept;
#[path = "kernel/paths_made.rs"]
mod paths_made;
