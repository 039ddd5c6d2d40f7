//! How much memory this process may pin.
#![expect(unsafe_code, reason = "setrlimit has no safe wrapper in the standard library")]

use std::io;

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
