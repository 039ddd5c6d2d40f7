//! What of the kernel's state reaches peers without the engine: VXLAN devices with their neighbours
//! and forwarding entries, routes and rules.
//!
//! *Ours* is a route with protocol [`ROUTE_PROTOCOL`](crate::device::ROUTE_PROTOCOL) whose
//! destination is inside our networks, a rule with that protocol whose source is, and everything
//! inside them on a VXLAN device that carries the alias [`ALIAS`] and an address inside them.

pub mod action;
pub mod actual;
mod events;
mod execute;
mod keep;
pub mod lookup;
mod mac;
pub mod misses;
pub mod object;
mod on_link;
mod parse;
pub mod plan;
mod prepare;
mod read;
mod request;
#[cfg(test)]
mod tests;

pub use execute::Failure;
pub use keep::{PERIOD, Removed, Report, apply, keep, preview, remove_all};
pub use mac::{MacAddress, NotMacAddress};
pub use on_link::{is_on_link, on_link_device};
pub use prepare::{make_devices, vxlan_macs};

/// Marks our devices (`IFLA_IFALIAS`).
pub const ALIAS: &str = "weft";
