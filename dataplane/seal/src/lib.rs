//! WireGuard's protocol (Noise_IKpsk2, ChaCha20-Poly1305) as pure machines.
//!
//! Nothing in here does I/O, starts a thread or reads a clock: time and randomness are arguments. Times
//! are durations since a start of the caller's choice that never go back; only TAI64N stamps come from
//! the wall clock.
//!
//! [`device::Device`] joins everything: datagrams and packets in, datagrams, packets and sessions out.
//! It belongs to one thread. A [`session::Session`] is shared with the packet workers, which seal and
//! open data messages with it and touch nothing else.

#![forbid(unsafe_code)]

pub mod aead;
pub mod context;
pub mod device;
pub mod handshake;
pub mod index;
pub mod keys;
pub mod limits;
pub mod message;
pub mod rejected;
pub mod session;
pub mod timers;
pub mod timestamp;
pub mod window;

mod bucket;
mod cookie;
mod hash;
mod peer;
mod sessions;
mod source;

#[cfg(test)]
mod tests;
