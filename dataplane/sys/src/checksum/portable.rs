//! The form for every processor, written so that the compiler can vectorise it.

/// Bytes of one round: eight 32-bit words, each with its own 64-bit accumulator.
const ROUND: usize = 32;

/// The sum of `data`. See the module above for what exactly it is.
pub(super) fn sum(data: &[u8]) -> u16 {
    // Words are read in native byte order; the sum of swapped words is the swapped sum (RFC 1071,
    // section 2 B), so one swap at the end does for all.
    u16::from_be(fold(native_sum(data)))
}

/// An unfolded sum of the native-endian words of `data`, congruent to it modulo 2¹⁶ − 1, and 0
/// only if all bytes are. Below 2⁶³ for anything that fits in memory.
pub(super) fn native_sum(data: &[u8]) -> u64 {
    let mut lanes = [0_u64; ROUND / 4];
    let (rounds, rest) = data.as_chunks::<ROUND>();
    for round in rounds {
        let (words, _) = round.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().sum::<u64>() + tail_sum(rest)
}

/// [`native_sum`] of a few bytes.
pub(super) fn tail_sum(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    if let [pair] = pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    total
}

/// Add the upper parts to the lower ones until 16 bits are left. The first addition of each pair may
/// carry into the next bit; the second then cannot.
pub(super) fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total as u16
}
