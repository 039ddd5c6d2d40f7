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
#![expect(unsafe_code, reason = "bpf has no wrapper in the standard library")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

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
pub struct Steering(OwnedFd);

impl Steering {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// [`SteeringError`] says what is missing.
    pub fn load() -> Result<Steering, SteeringError> {
        load(&program()).map(Steering).map_err(explain)
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

/// `struct bpf_insn` of `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    /// Destination and source register, four bits each.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` has to have.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

const _: () = assert!(size_of::<Instruction>() == 8 && size_of::<Load>() == 48);

/// `BPF_PROG_LOAD` of `enum bpf_cmd`.
const PROG_LOAD: libc::c_int = 5;

/// `BPF_PROG_TYPE_SOCKET_FILTER` of `enum bpf_prog_type`.
const SOCKET_FILTER: u32 = 1;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: SOCKET_FILTER,
        instruction_count: u32::try_from(program.len()).expect("the program is short"),
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `size` bytes from the second argument, which is the size of
    // `attributes`, and through it as many instructions as `program` has and a text that ends with
    // a zero. All outlive the call, none is written to, and no address is kept.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, ptr::from_ref(&attributes), size_of::<Load>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).expect("a descriptor is an int");
    // SAFETY: `fd` was returned by `bpf` just now and not shown to anybody, so this is its only
    // owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The registers, by what is in them. A load of packet bytes wants its context in the sixth, puts
/// its result into the first and leaves the sixth to the ninth alone.
const RESULT: u8 = 0;
const ARGUMENT: u8 = 1;
const CONTEXT: u8 = 6;
const SUM: u8 = 7;
const HEADER: u8 = 8;
const PROTOCOL: u8 = 9;

/// An odd number whose products spread well (2³² divided by the golden ratio, twice).
const FACTOR: i32 = 0x61c8_8647;

/// More fragments, or an offset.
const FRAGMENT: i32 = 0x3fff;

/// What jumps of the program lead to: places in it, which `program` asserts.
const IPV6: usize = 19;
const PORTS: usize = 39;
const LOAD_PORTS: usize = 42;
const MIX: usize = 46;
const NO_PACKET: usize = 50;

/// The hash, over `struct sk_buff` of a TUN device, whose data begins with the IP header. A load
/// behind the packet's end ends the program with 0.
#[rustfmt::skip]
fn program() -> Vec<Instruction> {
    let mut all = vec![
        copy(CONTEXT, ARGUMENT),
        byte(0),
        copy(HEADER, RESULT),
        shift_right(RESULT, 4),
        if_equal(RESULT, 6, 4, IPV6),
        if_not_equal(RESULT, 4, 5, NO_PACKET),
        and(HEADER, 15),
        shift_left(HEADER, 2),
        word(12), copy(SUM, RESULT),
        word(16), add(SUM, RESULT),
        byte(9), copy(PROTOCOL, RESULT),
        half_word(6), and(RESULT, FRAGMENT),
        multiply(SUM, FACTOR),
        if_not_equal(RESULT, 0, 17, MIX),
        jump(18, PORTS),
    ];
    assert_eq!(all.len(), IPV6);
    all.extend([set(HEADER, 40), word(8), copy(SUM, RESULT)]);
    for offset in [12, 16, 20, 24, 28, 32, 36] {
        all.extend([word(offset), add(SUM, RESULT)]);
    }
    all.extend([byte(6), copy(PROTOCOL, RESULT), multiply(SUM, FACTOR)]);
    assert_eq!(all.len(), PORTS);
    all.extend([
        if_equal(PROTOCOL, libc::IPPROTO_TCP, 39, LOAD_PORTS),
        if_equal(PROTOCOL, libc::IPPROTO_UDP, 40, LOAD_PORTS),
        if_not_equal(PROTOCOL, libc::IPPROTO_SCTP, 41, MIX),
    ]);
    assert_eq!(all.len(), LOAD_PORTS);
    all.extend([
        half_word_behind(HEADER, 0), add(SUM, RESULT),
        half_word_behind(HEADER, 2), add(SUM, RESULT),
    ]);
    assert_eq!(all.len(), MIX);
    all.extend([multiply(SUM, FACTOR), shift_right(SUM, 32), copy(RESULT, SUM), exit()]);
    assert_eq!(all.len(), NO_PACKET);
    all.extend([set(RESULT, 0), exit()]);
    all
}

/// Classes, sizes and modes of `include/uapi/linux/bpf_common.h` and `bpf.h`.
const LD: u8 = 0x00;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const W: u8 = 0x00;
const H: u8 = 0x08;
const B: u8 = 0x10;
const ABS: u8 = 0x20;
const IND: u8 = 0x40;
const FROM_REGISTER: u8 = 0x08;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    // Bit fields: the first one is in the low bits where bytes are little-endian.
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    Instruction { code, registers, offset, immediate }
}

fn byte(offset: i32) -> Instruction {
    instruction(LD | B | ABS, 0, 0, 0, offset)
}

fn half_word(offset: i32) -> Instruction {
    instruction(LD | H | ABS, 0, 0, 0, offset)
}

fn word(offset: i32) -> Instruction {
    instruction(LD | W | ABS, 0, 0, 0, offset)
}

/// The half word `offset` bytes behind the place that a register has.
fn half_word_behind(place: u8, offset: i32) -> Instruction {
    instruction(LD | H | IND, 0, place, 0, offset)
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(ALU64 | 0xb0 | FROM_REGISTER, to, from, 0, 0)
}

fn set(to: u8, value: i32) -> Instruction {
    instruction(ALU64 | 0xb0, to, 0, 0, value)
}

fn add(to: u8, from: u8) -> Instruction {
    instruction(ALU64 | FROM_REGISTER, to, from, 0, 0)
}

fn multiply(to: u8, value: i32) -> Instruction {
    instruction(ALU64 | 0x20, to, 0, 0, value)
}

fn and(to: u8, value: i32) -> Instruction {
    instruction(ALU64 | 0x50, to, 0, 0, value)
}

fn shift_left(to: u8, bits: i32) -> Instruction {
    instruction(ALU64 | 0x60, to, 0, 0, bits)
}

fn shift_right(to: u8, bits: i32) -> Instruction {
    instruction(ALU64 | 0x70, to, 0, 0, bits)
}

fn exit() -> Instruction {
    instruction(JMP | 0x90, 0, 0, 0, 0)
}

/// Jumps are counted from the instruction behind them. `at` is the jump's own place.
fn distance(at: usize, to: usize) -> i16 {
    i16::try_from(to - at - 1).expect("jumps lead forward, and the program is short")
}

fn jump(at: usize, to: usize) -> Instruction {
    instruction(JMP, 0, 0, distance(at, to), 0)
}

fn if_equal(register: u8, value: i32, at: usize, to: usize) -> Instruction {
    instruction(JMP | 0x10, register, 0, distance(at, to), value)
}

fn if_not_equal(register: u8, value: i32, at: usize, to: usize) -> Instruction {
    instruction(JMP | 0x50, register, 0, distance(at, to), value)
}
