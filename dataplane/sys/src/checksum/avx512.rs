//! The form for x86-64 processors with AVX-512 and its dot products (VNNI): 256 bytes a round, and
//! the rest of any length in masked loads, without a loop over bytes.
#![expect(unsafe_code, reason = "calls code for processor features that were detected")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
    _mm512_reduce_add_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_slli_epi32,
};

use super::SumFunction;
use super::portable::fold;

const VECTOR: usize = size_of::<__m512i>();
const VECTORS_A_ROUND: usize = 4;

/// Bytes summed before the 32-bit lanes are emptied. Together they then hold at most 2¹⁵ words of
/// at most 2¹⁶ − 1, which is below 2³¹. Even, so that no word is cut, and longer than any packet.
const BLOCK: usize = 1 << 16;

/// The function, if this processor has what it needs.
pub(super) fn detect() -> Option<SumFunction> {
    let has_all = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    has_all.then_some(sum as SumFunction)
}

fn sum(data: &[u8]) -> u16 {
    let block_total = |block| {
        // SAFETY: `block_sum` may run only on a processor with AVX-512 F, BW and VNNI. `detect` is
        // the only place that names `sum`, and hands it out only after having found all three.
        unsafe { block_sum(block) }
    };
    fold(data.chunks(BLOCK).map(block_total).sum())
}

/// Sums of the bytes with even and with odd index, in 32-bit lanes.
#[derive(Clone, Copy)]
struct Sums {
    even: __m512i,
    odd: __m512i,
}

/// The sum of the big-endian words of at most [`BLOCK`] bytes: 256 × the sum of the bytes with an
/// even index + the sum of those with an odd one.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn block_sum(data: &[u8]) -> u64 {
    let (vectors, rest) = data.as_chunks::<VECTOR>();
    let (rounds, single) = vectors.as_chunks::<VECTORS_A_ROUND>();
    // Several sums side by side, so that the processor need not wait for one to be ready.
    let zero = Sums { even: _mm512_setzero_si512(), odd: _mm512_setzero_si512() };
    let mut sums = [zero; VECTORS_A_ROUND];
    for round in rounds {
        for (sum, vector) in sums.iter_mut().zip(round) {
            *sum = add_bytes(*sum, load(vector));
        }
    }
    for (sum, vector) in sums.iter_mut().zip(single) {
        *sum = add_bytes(*sum, load(vector));
    }
    let [first, second, third, fourth] = sums;
    let last = add_bytes(fourth, load_rest(rest));
    let total = add_sums(add_sums(first, second), add_sums(third, last));
    let words = _mm512_add_epi32(_mm512_slli_epi32::<8>(total.even), total.odd);
    u64::from(_mm512_reduce_add_epi32(words).cast_unsigned())
}

/// The dot product multiplies four bytes with four weights and adds them to a 32-bit lane. The
/// weights choose the bytes: 1, 0, 1, 0 and 0, 1, 0, 1.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_bytes(sums: Sums, bytes: __m512i) -> Sums {
    Sums {
        even: _mm512_dpbusd_epi32(sums.even, bytes, _mm512_set1_epi32(0x0001_0001)),
        odd: _mm512_dpbusd_epi32(sums.odd, bytes, _mm512_set1_epi32(0x0100_0100)),
    }
}

#[target_feature(enable = "avx512f")]
fn add_sums(left: Sums, right: Sums) -> Sums {
    Sums {
        even: _mm512_add_epi32(left.even, right.even),
        odd: _mm512_add_epi32(left.odd, right.odd),
    }
}

#[target_feature(enable = "avx512f")]
fn load(vector: &[u8; VECTOR]) -> __m512i {
    // SAFETY: the load reads 64 bytes at any alignment, which are those of the array `vector`.
    unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) }
}

/// The bytes of `rest`, which is shorter than a vector, with zeros behind them.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_rest(rest: &[u8]) -> __m512i {
    debug_assert!(rest.len() < VECTOR, "the rest of chunks is shorter than a chunk");
    let mask = !(u64::MAX << (rest.len() % VECTOR));
    // SAFETY: the masked load touches only the bytes whose mask bit is set. These are the first
    // `rest.len() % VECTOR` ones, so never more than the slice has, whatever its length.
    unsafe { _mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast()) }
}
