//! The Internet checksum, as wide as the processor allows.
//!
//! All forms compute the same: the RFC 1071 one's-complement sum of the big-endian 16-bit words,
//! an odd last byte padded with a zero byte, folded to 16 bits and **not** inverted. It is 0 for
//! all-zero bytes only.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Sums any bytes, at any alignment. Safe to call on the processor that [`available`] ran on.
pub type SumFunction = fn(&[u8]) -> u16;

/// The widest form this processor has, and its name.
///
/// Choose once at start and keep the function: the choice itself is not for every packet.
#[must_use]
pub fn select() -> (SumFunction, &'static str) {
    let (name, sum) = available().pop().expect("the portable form is always there");
    (sum, name)
}

/// All forms this processor has, from the narrowest to the widest.
#[must_use]
pub fn available() -> Vec<(&'static str, SumFunction)> {
    let mut forms: Vec<(&'static str, SumFunction)> = vec![("portable", portable::sum)];
    #[cfg(target_arch = "x86_64")]
    {
        forms.extend(avx2::detect().map(|sum| ("avx2", sum)));
        forms.extend(avx512::detect().map(|sum| ("avx512", sum)));
    }
    forms
}

#[cfg(test)]
mod tests;
