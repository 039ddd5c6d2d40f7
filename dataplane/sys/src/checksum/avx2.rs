//! The form for x86-64 processors with AVX2: 128 bytes a round.
#![expect(unsafe_code, reason = "calls code for processor features that were detected")]

use std::arch::x86_64::{
    __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_add_epi32,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_set1_epi16, _mm256_setzero_si256, _mm256_xor_si256,
};

use super::SumFunction;
use super::portable::{fold, tail_sum};

const VECTOR: usize = size_of::<__m256i>();
const VECTORS_A_ROUND: usize = 4;

/// Bytes summed before the 32-bit lanes are emptied. All lanes together then hold at most
/// 2¹⁵ words of magnitude 2¹⁵, so nothing can overflow. Even, so that no word is cut, and longer
/// than any packet.
const BLOCK: usize = 1 << 16;

/// The function, if this processor has what it needs.
pub(super) fn detect() -> Option<SumFunction> {
    is_x86_feature_detected!("avx2").then_some(sum as SumFunction)
}

fn sum(data: &[u8]) -> u16 {
    let block_total = |block| {
        // SAFETY: `block_sum` may run only on a processor with AVX2. `detect` is the only place
        // that names `sum`, and hands it out only after having found AVX2.
        unsafe { block_sum(block) }
    };
    // The words were read in the processor's byte order; see `portable::sum`.
    u16::from_be(fold(data.chunks(BLOCK).map(block_total).sum()))
}

/// The sum of the native-endian words of at most [`BLOCK`] bytes.
///
/// The multiply-and-add instruction adds pairs of *signed* words into 32-bit lanes. Flipping the
/// top bit turns a word w into the signed number w − 2¹⁵, so the sum comes out too small by 2¹⁵
/// for each word, which is put right at the end.
#[target_feature(enable = "avx2")]
fn block_sum(data: &[u8]) -> u64 {
    let (vectors, rest) = data.as_chunks::<VECTOR>();
    let (rounds, single) = vectors.as_chunks::<VECTORS_A_ROUND>();
    // Several sums side by side, so that the processor need not wait for one to be ready.
    let mut sums = [_mm256_setzero_si256(); VECTORS_A_ROUND];
    for round in rounds {
        for (sum, vector) in sums.iter_mut().zip(round) {
            *sum = add_words(*sum, vector);
        }
    }
    for (sum, vector) in sums.iter_mut().zip(single) {
        *sum = add_words(*sum, vector);
    }
    let [first, second, third, fourth] = sums;
    let signed = horizontal_sum(_mm256_add_epi32(
        _mm256_add_epi32(first, second),
        _mm256_add_epi32(third, fourth),
    ));
    let words = vectors.len() * VECTOR / 2;
    let total = i64::from(signed) + ((words as i64) << 15);
    total.cast_unsigned() + tail_sum(rest)
}

#[target_feature(enable = "avx2")]
fn add_words(sum: __m256i, vector: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the load reads 32 bytes at any alignment, which are those of the array `vector`.
    let words = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
    let signed = _mm256_xor_si256(words, _mm256_set1_epi16(i16::MIN));
    _mm256_add_epi32(sum, _mm256_madd_epi16(signed, _mm256_set1_epi16(1)))
}

#[target_feature(enable = "avx2")]
fn horizontal_sum(lanes: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtsi128_si32(one)
}
