//! One function for every reader of foreign bytes. Each takes any bytes, calls the reader through its
//! public interface, and panics if what comes back breaks a rule.
//!
//! The programs in `fuzz_targets/` give them to libFuzzer (`scripts/fuzz`); `replay` runs the same
//! functions over the stored corpora and over simple mutations of them, without a nightly compiler.

mod admin;
mod checksum;
mod coalesce;
mod config;
mod control;
mod flags;
mod input;
mod lease;
pub mod mutate;
mod oversize;
mod packet;
mod packets;
mod path;
mod probe;
mod seal;
pub mod seeds;
mod segment;
mod table;

pub use admin::{admin_request, admin_socket};
pub use checksum::checksum;
pub use coalesce::coalesce;
pub use config::{config, subnet_file};
pub use control::{address, control};
pub use flags::flags;
pub use lease::{leaf, lease, leases};
pub use oversize::{fragment, icmp, mss};
pub use packet::packet;
pub use path::{inbound, outbound};
pub use probe::probe;
pub use seal::{seal_device, seal_message, seal_open};
pub use segment::segment;
pub use table::table;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name: that of its program, its corpus and its row in reports.
pub const TARGETS: &[(&str, Target)] = &[
    ("packet", packet),
    ("segment", segment),
    ("coalesce", coalesce),
    ("fragment", fragment),
    ("icmp", icmp),
    ("mss", mss),
    ("checksum", checksum),
    ("control", control),
    ("address", address),
    ("inbound", inbound),
    ("outbound", outbound),
    ("table", table),
    ("leaf", leaf),
    ("lease", lease),
    ("leases", leases),
    ("config", config),
    ("subnet_file", subnet_file),
    ("admin_request", admin_request),
    ("admin_socket", admin_socket),
    ("flags", flags),
    ("probe", probe),
    ("seal_message", seal_message),
    ("seal_open", seal_open),
    ("seal_device", seal_device),
];
