//! Against the running kernel. Each test makes a network namespace of its own, which goes away with
//! the test's thread; nothing outside is touched. Needs root, `/dev/net/tun` and `ip`; without
//! them a test says `SKIPPED` and why.
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "kernel/buffers.rs"]
mod buffers;
#[path = "kernel/limits.rs"]
mod limits;
#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "kernel/poll.rs"]
mod poll;
#[path = "kernel/ring.rs"]
mod ring;
#[path = "kernel/shortcut.rs"]
mod shortcut;
#[path = "kernel/steering.rs"]
mod steering;
#[path = "kernel/tun.rs"]
mod tun;
#[path = "kernel/udp.rs"]
mod udp;
