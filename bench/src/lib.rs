//! The namespace lab: two hosts with a pod each, built from network namespaces on one machine, and
//! the measurements that compare ways to carry packets between them.
//!
//! * [`lab`] makes the namespaces, runs programs in them and removes everything again. Integration
//!   tests use it too.
//! * [`path`] sets up one way of carrying the packets: routing, kernel VXLAN, weft, WireGuard, or one of
//!   the comparators in [`per_packet`] and [`per_await`].
//! * [`measure`] takes figures from a running path, [`report`] turns them into medians, ratios and
//!   bars, and [`run`] ties the rounds together.
//! * [`load`] sends numbered datagrams and counts what arrives of them.
//! * [`compare`] measures two builds of weft in turn and tells differences from noise.
//! * [`restart`] uses a [`train`] to measure for how long nothing gets through when a daemon is killed.
//! * [`flood`] measures what a stream keeps while somebody floods the daemon's port.
//! * [`soak`] loads two daemons for long and watches their memory.
//!
//! Everything here needs root, iproute2 and the load programs named in [`measure`]. No device, route
//! or address is ever made outside the lab's own namespaces.

pub mod compare;
pub mod flood;
pub mod lab;
pub mod load;
pub mod measure;
pub mod path;
pub mod per_await;
pub mod per_packet;
pub mod publish;
pub mod report;
pub mod restart;
pub mod run;
pub mod soak;
pub mod train;
