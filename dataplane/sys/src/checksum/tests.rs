use proptest::collection::vec;
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::{available, select};

/// The definition, word by word.
fn naive(data: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for pair in data.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        total += u64::from(u16::from_be_bytes([pair[0], low]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Bytes without a pattern that could hide a swapped or skipped lane (xorshift, fixed seed).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn sums_the_example_of_rfc_1071() {
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    for (name, sum) in available() {
        assert_eq!(sum(&data), 0xddf2, "{name}");
    }
}

#[test]
fn pads_an_odd_byte_on_the_right() {
    for (name, sum) in available() {
        assert_eq!(sum(&[0x12]), 0x1200, "{name}");
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x6834, "{name}");
        assert_eq!(sum(&[]), 0, "{name}");
    }
}

#[test]
fn agrees_at_every_length() {
    let data = noise(4096 + 64);
    // Aligned to everything, to single bytes, and just beside the width of each register.
    for start in [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63] {
        for length in 0..=4096 {
            let part = &data[start..start + length];
            let expected = naive(part);
            for (name, sum) in available() {
                assert_eq!(sum(part), expected, "{name}, {length} bytes at {start}");
            }
        }
    }
}

#[test]
fn agrees_at_every_alignment() {
    let data = noise(2048);
    let lengths = [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 511, 576, 1420, 1500];
    for (name, sum) in available() {
        for (offset, length) in (0..64).flat_map(|o| lengths.map(|length| (o, length))) {
            let part = &data[offset..offset + length];
            assert_eq!(sum(part), naive(part), "{name}, {length} bytes at {offset}");
        }
    }
}

/// The extremes of every lane, across more than one block of the wide forms.
#[test]
fn does_not_overflow() {
    for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        for length in [65_534, 65_535, 65_536, 65_537, 131_072, 1_000_001] {
            let data = vec![byte; length];
            for (name, sum) in available() {
                assert_eq!(sum(&data), naive(&data), "{name}, {length} bytes of {byte:#x}");
            }
        }
    }
}

/// One's complement has two zeros: only zero bytes give 0, all others that vanish give 0xffff.
#[test]
fn tells_the_two_zeros_apart() {
    for length in [2, 64, 300, 1420] {
        let mut data = vec![0; length];
        for (name, sum) in available() {
            assert_eq!(sum(&data), 0, "{name}");
        }
        data[length - 2..].fill(0xff);
        for (name, sum) in available() {
            assert_eq!(sum(&data), 0xffff, "{name}");
        }
    }
}

#[test]
fn selects_the_widest() {
    let (sum, name) = select();
    let (last_name, _) = available().pop().unwrap();
    assert_eq!(name, last_name);
    assert_eq!(sum(&[0x12, 0x34]), 0x1234);
}

/// So that a run on a machine with wide registers cannot pass by testing the portable form only.
#[cfg(target_arch = "x86_64")]
#[test]
fn finds_the_forms_of_this_processor() {
    let names: Vec<_> = available().into_iter().map(|(name, _)| name).collect();
    let has_avx512 = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
    assert_eq!(names.contains(&"avx2"), is_x86_feature_detected!("avx2"));
    assert_eq!(names.contains(&"avx512"), has_avx512);
}

proptest! {
    #[test]
    fn agrees_with_the_definition(data in vec(any::<u8>(), 0..4096), offset in 0..64_usize) {
        let part = &data[offset.min(data.len())..];
        for (name, sum) in available() {
            prop_assert_eq!(sum(part), naive(part), "{}", name);
        }
    }
}
