//! Pure packet logic: what a packet is, where it goes, how it is cut and joined, and why it is dropped.
//!
//! Nothing in here reads a clock, does I/O or allocates once set up; time and the fast checksum come
//! in as arguments. The package is built for a bare-metal target, which proves it.
//!
//! The way out is [`packet::parse`], [`table::Table::route_for`], [`segment::Plan`]; the way in is
//! [`packet::parse`], [`table::Table::check_inbound`], [`coalesce::Coalescer`]. Each step either hands
//! the packet on or names a [`drops::DropReason`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod coalesce;
pub mod counters;
pub mod drops;
pub mod fragment;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod mss;
pub mod packet;
pub mod segment;
pub mod table;
pub mod tcp;
pub mod udp;
pub mod virtio;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
