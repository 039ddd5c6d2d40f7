//! System calls and `unsafe` of the packet side.
//!
//! This is the only package that talks to the kernel about packets, and the only one with
//! `unsafe` (besides the counting allocator of the benches). What it hands out is safe to misuse:
//!
//! * a [`ring::Ring`] owns everything that the kernel may touch while a request runs;
//! * a [`frame::Frame`] can be had only from a completion, and goes back to its buffer ring by
//!   being dropped;
//! * a [`gather::Gather`] is submitted by value and comes back with its completion;
//! * what the kernel offers ([`tun::Offloads`], segment limits, buffer sizes) is a value that was
//!   probed, so that callers do not branch on kernel versions.

mod bpf;
pub mod checksum;
pub mod clock;
pub mod frame;
pub mod gather;
pub mod limits;
pub mod netlink;
pub mod poll;
pub mod region;
pub mod ring;
pub mod scheduling;
pub mod shortcut;
pub mod tun;
pub mod udp;
pub mod wake;
