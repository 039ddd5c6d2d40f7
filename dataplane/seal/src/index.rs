//! The indices by which a peer names our sessions and handshakes. The highest byte names a worker: it
//! is the last byte of a little-endian field, so that a BPF program on the socket can steer by it.

use crate::context::Context;

/// Bits of an index that tell the sessions of a worker apart.
const RANGE_BITS: u32 = 24;

/// The worker whose range an index lies in.
#[must_use]
pub fn worker(index: u32) -> u8 {
    (index >> RANGE_BITS) as u8
}

/// A random index in the range of `worker` for which `is_free` is true. A range is far larger than the
/// number of all sessions and handshakes together, so there is one.
pub(crate) fn allocate(
    context: &mut Context<'_>,
    worker: u8,
    is_free: impl Fn(u32) -> bool,
) -> u32 {
    let mask = (1 << RANGE_BITS) - 1;
    let start = u32::from_le_bytes(context.bytes());
    let prefix = u32::from(worker) << RANGE_BITS;
    (0..=mask)
        .map(|step| prefix | (start.wrapping_add(step) & mask))
        .find(|index| is_free(*index))
        .expect("peers have at most four indices each, and there are at most 65,536 peers")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn indices_name_their_worker_and_are_never_given_twice() {
        // The same randomness every time: the worst there can be.
        let mut random = |buffer: &mut [u8]| buffer.fill(0xff);
        let mut context =
            Context { now: Duration::ZERO, since_1970: Duration::ZERO, random: &mut random };
        let mut taken = HashSet::new();
        for number in 0..1000 {
            let index = allocate(&mut context, (number % 3) as u8, |index| !taken.contains(&index));
            assert_eq!(worker(index), (number % 3) as u8);
            assert!(taken.insert(index));
        }
    }
}
