//! The `load` command: sends numbered datagrams as fast as it can or at a given rate, and counts
//! what arrives.
//!
//! Many datagrams a system call, so that the load costs little beside what it measures. The lab runs
//! both ends in its pods; each prints one line of JSON when it is done.

mod datagram;
mod pace;
mod send;
mod sink;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use weft_sys::udp::{SocketOptions, UdpSocket};

pub use datagram::{BYTES_MAX, BYTES_MIN};
pub use send::{SendArguments, Sent};
pub use sink::{Arrived, SinkArguments};

/// Sends or receives numbered datagrams.
#[derive(Args, Clone, Debug)]
pub struct LoadArguments {
    #[command(subcommand)]
    end: End,
}

#[derive(Subcommand, Clone, Debug)]
enum End {
    /// Send, and print how much that was
    Send(SendArguments),
    /// Print `ready` and the port, receive until nothing comes any more, and print what arrived
    Sink(SinkArguments),
}

/// Runs one end of a load.
pub fn run(arguments: &LoadArguments) -> Result<()> {
    match &arguments.end {
        End::Send(arguments) => print(&send::run(arguments)?),
        End::Sink(arguments) => print(&sink::run(arguments)?),
    }
}

fn print(result: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(result).context("Cannot put results into JSON")?;
    writeln!(std::io::stdout().lock(), "{line}").context("Cannot print")
}

/// A socket of this load at `port`, 0 for any. Trains are taken apart by the kernel on arrival, as
/// for most applications.
fn open(port: u16, buffer_bytes: usize) -> Result<UdpSocket> {
    let options = SocketOptions {
        receive_buffer: buffer_bytes,
        send_buffer: buffer_bytes,
        gro: false,
        gso: true,
        reuse_port: false,
    };
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    UdpSocket::bind(local, &options).with_context(|| format!("Cannot open UDP port {port}"))
}

/// Waits until a socket can be read from or written to; false if that took longer than a limit.
fn wait_for(socket: &UdpSocket, what: PollFlags, limit_ms: u32) -> Result<bool> {
    let limit = Timespec {
        tv_sec: i64::from(limit_ms / 1000),
        tv_nsec: i64::from(limit_ms % 1000) * 1_000_000,
    };
    match poll(&mut [PollFd::new(socket, what)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error).context("Cannot wait for a socket"),
    }
}
