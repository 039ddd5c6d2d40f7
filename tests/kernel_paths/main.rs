//! Daemons of the types whose packets the kernel carries, `vxlan` and `host-gw`, in network namespaces:
//! hosts at a switch, with real traffic between them. Needs root, `ip`, `bridge` and `/dev/net/tun`;
//! without them a test says `SKIPPED` and why.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "../shared/accounting.rs"]
mod accounting;
mod direct;
mod engine;
mod faults;
mod flannel;
mod golden;
#[path = "../daemon/host.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod host;
mod killed;
mod load;
mod masquerade;
mod offered;
mod on_demand;
mod paths;
mod plan;
mod pod;
mod refused;
#[path = "../etcd/stream.rs"]
#[expect(dead_code, reason = "shared with the tests with etcd")]
mod stream;
mod surgeon;
mod swap;
mod three;
mod trace;
mod traffic;
mod two;
mod world;
