//! The control loop: from leases in a datastore to a published lookup table and a configured device.
//!
//! Contract: everything here runs on one thread with a tokio `current_thread` runtime and may be
//! slow; nothing here is called from a packet worker. What a worker needs leaves as an immutable
//! table through [`controller::TableSink`], and what people need as a [`status::Status`].
//!
//! - [`config`]: the network config with flannel's rules.
//! - [`lease`]: names and values of leases, and which of other nodes' leases are believed.
//! - [`identity`]: who this node is, across restarts.
//! - [`source`]: where leases are kept.
//! - [`interface`]: the interface that carries the traffic between hosts.
//! - [`device`]: addresses, routes and settings of the tunnel device.
//! - [`kernel`]: kernel state that reaches peers without the engine.
//! - [`netfilter`]: masquerading, forward rules and the blackhole route.
//! - [`health`]: which path to a peer works (pure).
//! - [`subnet_file`]: the file that container runtimes read.
//! - [`desired`]: leases and config to a table (pure).
//! - [`status`]: what is known, for people.
//! - [`controller`]: the order of it all.

mod bucket;
mod json;
mod saved;

pub mod config;
pub mod controller;
pub mod desired;
pub mod device;
pub mod health;
pub mod identity;
pub mod interface;
pub mod kernel;
pub mod key;
pub mod lease;
pub mod netfilter;
pub mod source;
pub mod status;
pub mod subnet_file;
