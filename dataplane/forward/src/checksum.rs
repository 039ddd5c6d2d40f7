//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo headers
//! (RFC 9293 section 3.1, RFC 8200 section 8.1).
//!
//! Sums are kept folded to 16 bits and *not* inverted until they are stored. A folded sum is zero only
//! if every byte was zero, so two ways to sum the same bytes always agree to the bit.

/// One's-complement sum of the 16-bit big-endian words of `bytes` (an odd tail is padded with a zero
/// byte), folded to 16 bits, not inverted. A faster implementation is passed in as such a value.
///
/// `sum(a ++ b) == add(sum(a), sum(b))` when the length of `a` is even.
pub type Sum = fn(&[u8]) -> u16;

/// The implementation for every machine: eight bytes at a time into one wide sum.
#[must_use]
pub fn portable(bytes: &[u8]) -> u16 {
    let (chunks, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    if let Some(start) = last.get_mut(..tail.len()) {
        start.copy_from_slice(tail);
    }
    // Words are summed in machine order and swapped once at the end (RFC 1071 section 2 B). A chunk
    // adds less than 2^33, so the wide sum cannot overflow for less than 2^31 chunks.
    let sum = chunks.iter().fold(halves(last), |sum, chunk| sum + halves(*chunk));
    u16::from_be(fold(sum))
}

/// Word by word, as the RFC tells it: the oracle for every faster implementation.
#[must_use]
pub fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0;
    for word in bytes.chunks(2) {
        let high = word.first().copied().unwrap_or(0);
        let low = word.get(1).copied().unwrap_or(0);
        sum = add(sum, u16::from_be_bytes([high, low]));
    }
    sum
}

/// Adds two sums with end-around carry.
#[inline]
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    if carry { sum + 1 } else { sum }
}

/// Updates a stored (inverted) checksum after one 16-bit word of the summed bytes changed from `old`
/// to `new`: RFC 1624 equation 3.
#[inline]
#[must_use]
pub fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// Sum of the IPv4 pseudo header; `length` is that of transport header and payload in bytes.
#[inline]
#[must_use]
pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> u16 {
    let addresses =
        halves_of(u32::from_be_bytes(source)) + halves_of(u32::from_be_bytes(destination));
    fold(u64::from(addresses + u32::from(protocol) + u32::from(length)))
}

/// Sum of the IPv6 pseudo header; `length` is that of transport header and payload in bytes.
#[inline]
#[must_use]
pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) -> u16 {
    let addresses = wide(source) + wide(destination);
    fold(addresses + u64::from(protocol) + u64::from(halves_of(length)))
}

/// Folds a wide sum of 16-bit words to 16 bits.
#[inline]
#[must_use]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The two 32-bit halves of eight bytes in machine order, added.
#[inline]
fn halves(chunk: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(chunk);
    (word & 0xffff_ffff) + (word >> 32)
}

/// The two 16-bit words of `word`, added.
#[inline]
const fn halves_of(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// An IPv6 address as a wide sum of 32-bit words.
#[inline]
fn wide(address: [u8; 16]) -> u64 {
    let bits = u128::from_be_bytes(address);
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(naive(&bytes), 0xddf2);
        assert_eq!(portable(&bytes), 0xddf2);
    }

    #[test]
    fn empty_odd_and_full() {
        for sum in [naive as Sum, portable] {
            assert_eq!(sum(&[]), 0);
            assert_eq!(sum(&[0xab]), 0xab00);
            assert_eq!(sum(&[0; 33]), 0);
            assert_eq!(sum(&[0xff; 65_535]), 0xff00);
            assert_eq!(sum(&[0xff; 65_536]), 0xffff);
        }
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: equation 3 does not give the other zero.
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn fold_takes_the_largest_sum() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0xffff_ffff_0000_0000), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(0), 0);
    }

    proptest! {
        #[test]
        fn portable_is_naive(bytes in vec(any::<u8>(), 0..3000), start in 0usize..8) {
            let bytes = bytes.get(start..).unwrap_or_default();
            prop_assert_eq!(portable(bytes), naive(bytes));
        }

        #[test]
        fn sums_add_up(words in vec(any::<[u8; 2]>(), 0..100), tail in vec(any::<u8>(), 0..100)) {
            let head: Vec<u8> = words.concat();
            let all: Vec<u8> = [&head[..], &tail].concat();
            prop_assert_eq!(add(portable(&head), portable(&tail)), portable(&all));
        }

        #[test]
        fn replacing_is_summing_again(mut words in vec(any::<u16>(), 2..40), new: u16, at: usize) {
            // A sum over nothing but zeros has two names; packets are never that.
            words.push(0x4500);
            let sum_all = |words: &[u16]| {
                words.iter().fold(0, |sum, word| add(sum, *word))
            };
            let at = at % (words.len() - 1);
            let before = !sum_all(&words);
            let old = core::mem::replace(&mut words[at], new);
            prop_assert_eq!(replace(before, old, new), !sum_all(&words));
        }

        #[test]
        fn pseudo_headers_are_sums(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) {
            let v6 = [
                &source[..], &destination, &length.to_be_bytes(), &[0, 0, 0, protocol],
            ].concat();
            prop_assert_eq!(pseudo_v6(source, destination, protocol, length), naive(&v6));
            let (short, to): ([u8; 4], [u8; 4]) =
                (source[..4].try_into().unwrap(), destination[..4].try_into().unwrap());
            let half = length as u16;
            let v4 = [&short[..], &to, &[0, protocol], &half.to_be_bytes()].concat();
            prop_assert_eq!(pseudo_v4(short, to, protocol, half), naive(&v4));
        }
    }
}
