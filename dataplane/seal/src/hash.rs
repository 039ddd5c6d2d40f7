//! BLAKE2s (RFC 7693) as WireGuard uses it: as a hash, with a key, in HMAC (RFC 2104) and in HKDF
//! (RFC 5869).

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac};
use hmac::SimpleHmac;

use crate::keys::Secret;

/// Length of a hash in bytes.
pub(crate) const HASH_LENGTH: usize = 32;
/// Length of a keyed hash (mac1, mac2, cookie) in bytes.
pub(crate) const MAC_LENGTH: usize = 16;

/// A hash of everything in `parts`, one behind the other.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; HASH_LENGTH] {
    let mut state = Blake2s256::default();
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// BLAKE2s's own keyed mode, with 16 bytes of output. The key has at most 32 bytes.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LENGTH] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .expect("keys of this module have at most 32 bytes");
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

fn hmac(key: &Secret, parts: &[&[u8]]) -> Secret {
    let mut state = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key.bytes())
        .expect("HMAC takes keys of every length");
    for part in parts {
        Mac::update(&mut state, part);
    }
    Secret::take(&mut state.finalize_fixed().into())
}

/// HKDF with `chain` as salt, without info: the first `N` outputs, of which there are at most three.
pub(crate) fn derive<const N: usize>(chain: &Secret, input: &[u8]) -> [Secret; N] {
    let extracted = hmac(chain, &[input]);
    let mut number = 0_u8;
    let mut last = Secret::default();
    [(); N].map(|()| {
        number += 1;
        let before: &[u8] = if number == 1 { &[] } else { last.bytes() };
        let output = hmac(&extracted, &[before, &[number]]);
        last = output.clone();
        output
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693 appendix B.
    #[test]
    fn hashes_as_the_rfc_says() {
        let expected = [
            0x50, 0x8c, 0x5e, 0x8c, 0x32, 0x7c, 0x14, 0xe2, 0xe1, 0xa7, 0x2b, 0xa3, 0x4e, 0xeb,
            0x45, 0x2f, 0x37, 0x45, 0x8b, 0x20, 0x9e, 0xd6, 0x3a, 0x29, 0x4d, 0x99, 0x9b, 0x4c,
            0x86, 0x67, 0x59, 0x82,
        ];
        assert_eq!(hash(&[b"abc"]), expected);
        assert_eq!(hash(&[b"a", b"", b"bc"]), expected);
    }

    /// Made with Python's hashlib and hmac, which are an implementation of their own.
    #[test]
    fn keyed_hash_and_derivation_agree_with_another_implementation() {
        let key: [u8; 32] = std::array::from_fn(|index| index as u8);
        assert_eq!(hex(&mac(&key, &[b"weft", b" seals"])), KEYED);
        assert_eq!(hex(&mac(&key[..16], &[b"weft seals"])), KEYED_SHORT);
        let chain = Secret::new(key);
        let [first, second, third] = derive::<3>(&chain, b"input");
        assert_eq!(hex(first.bytes()), DERIVED[0]);
        assert_eq!(hex(second.bytes()), DERIVED[1]);
        assert_eq!(hex(third.bytes()), DERIVED[2]);
        let [only] = derive::<1>(&chain, b"input");
        assert_eq!(only.bytes(), first.bytes());
    }

    const KEYED: &str = "0dc25224da59b91b298a68868e9dafbc";
    const KEYED_SHORT: &str = "27d8aa0e73bb2df5254be69bbbd6de7e";
    const DERIVED: [&str; 3] = [
        "87b7f70b24183c6db5dc4f6d9f4c47cdb203321aa2a0bef714896adb3107a040",
        "538a02e1eb2e31b7e4d4b82476d1fe2acf50085d3fb584537279195f5d1f5824",
        "9ad858025593be88de0f9442a589cfe84a88dc19e4753d93684d1c5efc4837f9",
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
