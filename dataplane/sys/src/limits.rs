//! What this process may do, and how much memory it may pin.
#![expect(
    unsafe_code,
    reason = "capget and setrlimit have no safe wrapper in the standard library"
)]

use std::io;
use std::ptr;

/// `_LINUX_CAPABILITY_VERSION_3` of `include/uapi/linux/capability.h`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `CAP_NET_ADMIN` of the same header.
const CAP_NET_ADMIN: u32 = 12;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    /// 0 is the calling thread.
    pid: i32,
}

/// `struct __user_cap_data_struct`; version 3 uses two, for 32 capabilities each.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Has the calling thread CAP_NET_ADMIN in effect, in its user namespace?
///
/// Good for an explanation, not for a decision: a network namespace may belong to another user
/// namespace. Only the system call itself knows.
///
/// # Errors
///
/// What the kernel says, such as a system call filter's refusal.
pub fn has_net_admin() -> io::Result<bool> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: with version 3 `capget` writes two `struct __user_cap_data_struct`, which is what
    // `data` is, and on an unknown version it writes the header's version. Both live on this stack
    // and are ours alone until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_capget, ptr::from_mut(&mut header), data.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(data[0].effective & (1 << CAP_NET_ADMIN) != 0)
}

/// Let this process pin at least `bytes` of memory, or as much as it may. Never lowers a limit.
///
/// Returns the limit reached, in bytes. Without CAP_IPC_LOCK the kernel counts a ring's own queues,
/// its buffer rings and registered buffers against `RLIMIT_MEMLOCK` (tried on Linux 6.18), for all
/// processes of one user together, and making a ring fails with `ENOMEM` beyond it. Containers may
/// start with as little as 64 KiB.
///
/// # Errors
///
/// What the kernel says. Not being allowed to go higher is no error.
pub fn raise_memlock(bytes: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `getrlimit` writes one `struct rlimit`, which `limit` is, during the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let higher =
        libc::rlimit { rlim_cur: limit.rlim_cur.max(bytes), rlim_max: limit.rlim_max.max(bytes) };
    // Going beyond the hard limit needs CAP_SYS_RESOURCE; going up to it needs nothing.
    set_memlock(higher).or_else(|error| match error.raw_os_error() {
        Some(libc::EPERM) => {
            let soft = higher.rlim_cur.min(limit.rlim_max);
            set_memlock(libc::rlimit { rlim_cur: soft, rlim_max: limit.rlim_max })
        }
        _ => Err(error),
    })
}

fn set_memlock(limit: libc::rlimit) -> io::Result<u64> {
    // SAFETY: `setrlimit` reads one `struct rlimit`, which `limit` is, during the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(limit.rlim_cur) }
}
