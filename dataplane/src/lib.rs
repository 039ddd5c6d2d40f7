//! The packet workers.
//!
//! A worker is one thread with one engine. It moves packets between the TUN device and the UDP
//! sockets, obeys the table it was given last, and never waits for anybody: the control side sends
//! bounded commands, reads counters, and receives bounded events.
//!
//! *Outbound* (TUN → UDP) and *inbound* (UDP → TUN) are machines without I/O: they take frames and
//! make [gathers](weft_sys::gather::Gather), and are told what became of them. An engine does the
//! I/O: `uring` where the kernel has what that takes and lets us use it, else `epoll`.

mod choice;
mod engine;
mod epoll;
mod framer;
pub mod handshakes;
mod inbound;
mod memory;
mod outbound;
mod peers;
mod precedence;
pub mod progress;
pub mod sealing;
mod shared;
mod spin;
#[cfg(test)]
mod testing;
mod uring;
mod worker;
mod writes;

pub use self::{
    memory::{BUFFERS, Buffers, MEMORY},
    worker::{
        EngineWish, Event, Habits, NotTold, StartError, StopError, Worker, WorkerInfo,
        WorkerOptions, spawn,
    },
};
