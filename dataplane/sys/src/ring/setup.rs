//! Making and restricting a ring.

#![expect(unsafe_code, reason = "registers memory with the kernel")]

use std::{io, os::fd::AsRawFd};

use io_uring::{IoUring, Probe, opcode, register::Restriction};

use super::{Files, Pools};
use crate::frame::FramePool;

/// Numbers of the registered files.
pub(super) mod fixed {
    pub(in crate::ring) const TUN: u32 = 0;
    pub(in crate::ring) const WAKE: u32 = 1;

    pub(in crate::ring) fn socket(number: usize) -> u32 {
        2 + number as u32
    }
}

/// Entries of the submission queue: every gather at once, and what is armed besides.
const SUBMISSIONS: u32 = 512;

/// Entries of the completion queue. Every frame and every gather can complete in one turn; the
/// rest is head-room, because an overflow ends multishot requests.
const COMPLETIONS: u32 = 2048;

/// Features to do without, as if the kernel had not got them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// All of io_uring.
    pub io_uring: bool,
    /// Multishot reads.
    pub multishot: bool,
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The kernel or a filter forbids io_uring.
    #[error(
        "The kernel refuses io_uring ({0}): set the sysctl kernel.io_uring_disabled to 0, and \
         allow the io_uring system calls in the container's seccomp profile"
    )]
    Forbidden(io::Error),
    /// The kernel has no io_uring, or not with what we need.
    #[error("The kernel has no {feature}: Linux {since} or newer is needed")]
    Missing {
        /// What is missing.
        feature: &'static str,
        /// The first version that has it.
        since: &'static str,
        /// What the kernel said, where it said something.
        source: Option<io::Error>,
    },
    /// It was asked to do without it.
    #[error("Told to do without {feature}")]
    Withheld {
        /// What is not to be used.
        feature: &'static str,
    },
    /// The kernel has no memory for the ring.
    #[error("The kernel has no memory for the ring ({0}): raise the limit of locked memory")]
    Memory(io::Error),
    /// Something else was refused.
    #[error("The kernel refused to {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The operations that a ring of ours uses, and which kernel has them first.
const OPERATIONS: [(u8, &str, &str); 6] = [
    (opcode::ReadMulti::CODE, MULTISHOT, "6.7"),
    (opcode::RecvMsgMulti::CODE, "multishot recvmsg in io_uring", "6.0"),
    (opcode::SendMsg::CODE, "sendmsg in io_uring", "5.3"),
    (opcode::Writev::CODE, "writev in io_uring", "5.1"),
    (opcode::PollAdd::CODE, "poll in io_uring", "5.1"),
    (opcode::AsyncCancel2::CODE, "cancellation in io_uring", "5.19"),
];

/// `IORING_UNREGISTER_FILES` (`include/uapi/linux/io_uring.h`): the one registration that a
/// running ring still needs, at its end.
const UNREGISTER_FILES: u8 = 3;

/// What io_uring as a whole is called.
const IO_URING: &str = "io_uring";

/// What multishot reads are called.
const MULTISHOT: &str = "multishot reads in io_uring";

/// Makes a ring that works on `files` and `pools`, and on nothing else. The first thing that is
/// missing ends it.
pub(super) fn ring(files: &Files, pools: &Pools, without: Without) -> Result<IoUring, SetupError> {
    if without.io_uring {
        return Err(SetupError::Withheld { feature: IO_URING });
    }
    let ring = build()?;
    check_operations(&ring, without)?;
    register(&ring, files, pools)?;
    Ok(ring)
}

/// Tells whether a ring of ours could be made here, as far as that shows without files and memory: the
/// first thing that is missing.
///
/// # Errors
/// What [`super::Ring::new`] would say.
pub fn probe() -> Result<(), SetupError> {
    check_operations(&build()?, Without::default())
}

fn build() -> Result<IoUring, SetupError> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_r_disabled()
        .setup_cqsize(COMPLETIONS)
        .dontfork()
        .build(SUBMISSIONS)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOSYS) => {
                SetupError::Missing { feature: IO_URING, since: "5.1", source: Some(source) }
            }
            Some(libc::EINVAL) => SetupError::Missing {
                feature: "deferred task work in io_uring",
                since: "6.1",
                source: Some(source),
            },
            _ => refused("set up io_uring")(source),
        })
}

/// What it means that a step was refused, whichever it was.
fn refused(step: &'static str) -> impl FnOnce(io::Error) -> SetupError {
    move |source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => SetupError::Forbidden(source),
        Some(libc::ENOMEM) => SetupError::Memory(source),
        _ => SetupError::Step { step, source },
    }
}

fn check_operations(ring: &IoUring, without: Without) -> Result<(), SetupError> {
    let mut probe = Probe::new();
    let listed = ring.submitter().register_probe(&mut probe);
    listed.map_err(refused("list the operations of io_uring"))?;
    for (operation, feature, since) in OPERATIONS {
        if !probe.is_supported(operation) {
            return Err(SetupError::Missing { feature, since, source: None });
        }
    }
    if without.multishot {
        return Err(SetupError::Withheld { feature: MULTISHOT });
    }
    Ok(())
}

/// Registers files and frame pools, restricts the ring to what it uses, and enables it.
fn register(ring: &IoUring, files: &Files, pools: &Pools) -> Result<(), SetupError> {
    let submitter = ring.submitter();

    let mut descriptors = vec![files.tun.as_raw_fd(), files.wake.as_raw_fd()];
    descriptors.extend(files.sockets.iter().map(AsRawFd::as_raw_fd));
    submitter.register_files(&descriptors).map_err(refused("register files with io_uring"))?;

    for pool in [&pools.tun, &pools.udp] {
        register_pool(ring, pool)?;
    }

    let mut allowed: Vec<Restriction> =
        OPERATIONS.iter().map(|(operation, ..)| Restriction::sqe_op(*operation)).collect();
    allowed.push(Restriction::register_op(UNREGISTER_FILES));
    allowed.push(Restriction::sqe_flags_allowed(
        (io_uring::squeue::Flags::FIXED_FILE
            | io_uring::squeue::Flags::BUFFER_SELECT
            | io_uring::squeue::Flags::IO_LINK)
            .bits(),
    ));
    submitter
        .register_restrictions(&mut allowed)
        .map_err(refused("restrict the operations of io_uring"))?;
    submitter.register_enable_rings().map_err(refused("enable io_uring"))
}

fn register_pool(ring: &IoUring, pool: &FramePool) -> Result<(), SetupError> {
    let (address, entries) = pool.ring_address();
    // SAFETY: the address is that of a page-aligned ring of `entries` entries, which the pool
    // owns and the `Ring` keeps until the kernel has no request left that could use it.
    let registered =
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, pool.group(), 0) };
    registered.map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => SetupError::Missing {
            feature: "provided-buffer rings in io_uring",
            since: "5.19",
            source: Some(source),
        },
        _ => refused("register a buffer ring with io_uring")(source),
    })?;
    pool.fill();
    Ok(())
}
