//! What this process may do.
#![expect(unsafe_code, reason = "capget has no safe wrapper in the standard library")]

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
