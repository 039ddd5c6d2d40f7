//! The calling thread's share of the processor (`sched(7)`).
#![expect(unsafe_code, reason = "sched_setattr and sched_getattr have no wrapper in any library")]

use std::{io, time::Duration};

/// How the scheduler treats a thread of the ordinary class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// −20 (takes most) to 19. Going below what it was needs `CAP_SYS_NICE`.
    pub nice: i32,
    /// How long the thread runs in one piece when others wait. A shorter one lets it run sooner
    /// after it has slept, and needs no privilege. Kernels before 6.12 ignore it; zero is the
    /// kernel's default.
    pub slice: Duration,
}

impl Scheduling {
    /// What the calling thread has. `None` if it is not of the ordinary class, because somebody
    /// who knows better has given it another.
    ///
    /// # Errors
    /// What `sched_getattr(2)` says.
    pub fn current() -> io::Result<Option<Scheduling>> {
        let mut attributes = empty();
        // SAFETY: the kernel writes at most `size` bytes to the address, which is a structure of
        // that size. Thread 0 is the caller.
        let result = unsafe {
            libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, attributes.size, 0)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let ordinary = attributes.sched_policy == libc::SCHED_OTHER as u32;
        let slice = Duration::from_nanos(attributes.sched_runtime);
        Ok(ordinary.then_some(Scheduling { nice: attributes.sched_nice, slice }))
    }

    /// Makes this hold for the calling thread.
    ///
    /// # Errors
    /// What `sched_setattr(2)` says: `EACCES` or `EPERM` if the nice value is not allowed, `EPERM`
    /// also where a sandbox forbids the call.
    pub fn apply(self) -> io::Result<()> {
        let mut attributes = empty();
        attributes.sched_policy = libc::SCHED_OTHER as u32;
        attributes.sched_nice = self.nice;
        attributes.sched_runtime = self.slice.as_nanos() as u64;
        // SAFETY: the kernel reads `size` bytes from the address, which is a structure of that
        // size. Thread 0 is the caller.
        let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn empty() -> libc::sched_attr {
    libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test changes a thread of its own.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().expect("the test passes");
    }

    #[test]
    fn what_was_applied_is_current() {
        on_a_thread(|| {
            let before = Scheduling::current().unwrap().expect("tests run in the ordinary class");
            // Going up needs no privilege.
            let nice = (before.nice + 3).min(19);
            Scheduling { nice, slice: Duration::from_micros(700) }.apply().unwrap();
            let now = Scheduling::current().unwrap().unwrap();
            assert_eq!(now.nice, nice);
            // Kernels before 6.12 know no slice and report none.
            assert!([Duration::from_micros(700), Duration::ZERO].contains(&now.slice), "{now:?}");
        });
    }

    #[test]
    fn a_value_out_of_range_is_bounded_or_refused() {
        on_a_thread(|| {
            let before = Scheduling::current().unwrap().unwrap();
            let far = Scheduling { nice: 100, ..before }.apply();
            assert!(far.is_err() || Scheduling::current().unwrap().unwrap().nice <= 19);
        });
    }
}
