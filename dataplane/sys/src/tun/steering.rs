//! Which queue of a device takes a packet: a hash of its flow, fixed for good.
//!
//! Left alone, the kernel chooses by what it has learnt from packets in the other direction, and
//! may move a flow that is under way, which reorders it. The program here is asked for every packet
//! instead (`TUNSETSTEERINGEBPF`, Linux 4.16); the kernel takes its answer modulo the number of
//! queues (`tun_ebpf_select_queue` of `drivers/net/tun.c`).
//!
//! A flow is source, destination and, for TCP, UDP and SCTP, both ports. Both directions of a flow
//! have one hash, so hosts with as many queues use queues of the same number for it. Fragments have no
//! ports, or only the first one has, so all of them go by their addresses.
#![expect(unsafe_code, reason = "TUNSETSTEERINGEBPF has no wrapper in the standard library")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::bpf::Register::{R0, R1, R6, R7, R8, R9};
use crate::bpf::{Assembler, Instruction, Program, ProgramKind, Register, Size};

/// Why there is no steering. The texts have their causes in them.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// Not allowed to load programs.
    #[error(
        "The kernel does not let us load the program that spreads flows over queues ({0}): the \
         capability CAP_BPF is missing. Run as root; in a container add it (`--cap-add BPF`)"
    )]
    Forbidden(io::Error),
    /// The kernel has no such thing.
    #[error(
        "The kernel cannot spread flows over queues by a program ({0}): Linux 4.16 or newer with \
         CONFIG_BPF_SYSCALL is needed"
    )]
    Missing(io::Error),
}

/// The program, loaded and not yet in use. Closed when dropped; devices that use it keep it.
#[derive(Debug)]
pub struct Steering(Program);

impl Steering {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// [`SteeringError`] says what is missing.
    pub fn load() -> Result<Steering, SteeringError> {
        Program::load(ProgramKind::SocketFilter, &program()).map(Steering).map_err(explain)
    }

    /// Makes the device behind a queue ask the program.
    pub(super) fn attach(&self, tun: BorrowedFd<'_>) -> Result<(), SteeringError> {
        let program = self.0.as_raw_fd();
        // SAFETY: TUNSETSTEERINGEBPF reads one `int`, a descriptor, from its argument during the
        // call; `program` is an `int` that outlives the call. The kernel takes a reference of its
        // own to the program.
        let result = unsafe {
            libc::ioctl(tun.as_raw_fd(), libc::TUNSETSTEERINGEBPF, ptr::from_ref(&program))
        };
        if result < 0 { Err(explain(io::Error::last_os_error())) } else { Ok(()) }
    }
}

fn explain(error: io::Error) -> SteeringError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => SteeringError::Forbidden(error),
        _ => SteeringError::Missing(error),
    }
}

/// What the registers have. A load of packet bytes wants its context in the sixth, puts its result into
/// the first and leaves the sixth to the ninth alone.
const CONTEXT: Register = R6;
const SUM: Register = R7;
const HEADER: Register = R8;
const PROTOCOL: Register = R9;

/// An odd number whose products spread well (2³² divided by the golden ratio, twice).
const FACTOR: i32 = 0x61c8_8647;

/// More fragments, or an offset.
const FRAGMENT: i32 = 0x3fff;

/// The hash, over `struct sk_buff` of a TUN device, whose data begins with the IP header.
fn program() -> Vec<Instruction> {
    let mut p = Assembler::default();
    p.copy(CONTEXT, R1);
    p.load_packet(Size::Byte, 0);
    p.copy(HEADER, R0);
    p.shift_right(R0, 4);
    p.if_equal(R0, 6, "IPv6");
    p.if_not_equal(R0, 4, "no packet");
    p.and(HEADER, 15);
    p.shift_left(HEADER, 2);
    p.load_packet(Size::Word, 12);
    p.copy(SUM, R0);
    p.load_packet(Size::Word, 16);
    p.add(SUM, R0);
    p.load_packet(Size::Byte, 9);
    p.copy(PROTOCOL, R0);
    p.load_packet(Size::Half, 6);
    p.and(R0, FRAGMENT);
    p.multiply(SUM, FACTOR);
    p.if_not_equal(R0, 0, "mix");
    p.jump("ports");

    p.label("IPv6");
    p.copy(HEADER, 40);
    p.load_packet(Size::Word, 8);
    p.copy(SUM, R0);
    for offset in [12, 16, 20, 24, 28, 32, 36] {
        p.load_packet(Size::Word, offset);
        p.add(SUM, R0);
    }
    p.load_packet(Size::Byte, 6);
    p.copy(PROTOCOL, R0);
    p.multiply(SUM, FACTOR);

    p.label("ports");
    p.if_equal(PROTOCOL, libc::IPPROTO_TCP, "load ports");
    p.if_equal(PROTOCOL, libc::IPPROTO_UDP, "load ports");
    p.if_not_equal(PROTOCOL, libc::IPPROTO_SCTP, "mix");
    p.label("load ports");
    for offset in [0, 2] {
        p.load_packet_behind(Size::Half, HEADER, offset);
        p.add(SUM, R0);
    }

    p.label("mix");
    p.multiply(SUM, FACTOR);
    p.shift_right(SUM, 32);
    p.copy(R0, SUM);
    p.exit();

    p.label("no packet");
    p.copy(R0, 0);
    p.exit();
    p.finish()
}
