//! Every source keeps the same promises: one suite for the directory and for etcd, then what only etcd
//! can get wrong. etcd is the real one, on loopback; without it a test says `SKIPPED`.
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "etcd/certificates.rs"]
mod certificates;
#[path = "source/conformance.rs"]
mod conformance;
#[path = "source/etcd.rs"]
mod etcd;
#[path = "etcd/relay.rs"]
mod relay;
#[path = "etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod server;
