//! What the kernel thinks of its own clock.
#![expect(unsafe_code, reason = "adjtimex has no safe wrapper in the standard library")]

use std::{io, mem};

/// Whether something keeps the clock right, such as an NTP client: `STA_UNSYNC` is not set
/// (`include/uapi/linux/timex.h`). Changes nothing.
///
/// # Errors
///
/// What the kernel says; a filter may forbid the question.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: `struct timex` is made of integers, for which zeros are a value.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: with `modes` 0 the kernel only writes into one `struct timex`, which `state` is.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state.status & libc::STA_UNSYNC == 0)
}
