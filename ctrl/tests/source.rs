//! Every source keeps the same promises: one suite for the directory, etcd and Kubernetes, then what
//! only one of them can get wrong. etcd is the real one, on loopback; without it a test says `SKIPPED`.
//! The API server of Kubernetes is one in this process, and the real one where `scripts/apiserver` has
//! built it.
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "kubernetes/apiserver.rs"]
mod apiserver;
#[path = "etcd/certificates.rs"]
mod certificates;
#[path = "kubernetes/cluster.rs"]
mod cluster;
#[path = "source/conformance.rs"]
mod conformance;
#[path = "source/either.rs"]
mod either;
#[path = "source/etcd.rs"]
mod etcd;
#[path = "source/kubernetes.rs"]
mod kubernetes;
#[path = "kubernetes/real.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod real;
#[path = "etcd/relay.rs"]
mod relay;
#[path = "etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon")]
mod server;
