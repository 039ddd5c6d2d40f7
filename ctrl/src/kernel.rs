//! What of the kernel's state reaches peers without the engine: VXLAN devices with their neighbours
//! and forwarding entries, routes and rules.

mod mac;
pub mod object;
#[cfg(test)]
mod tests;

pub use mac::{MacAddress, NotMacAddress};
