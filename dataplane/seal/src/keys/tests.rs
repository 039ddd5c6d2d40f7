use super::*;

fn bytes(hex: &str) -> [u8; LENGTH] {
    std::array::from_fn(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
}

/// RFC 7748 section 6.1.
#[test]
fn agrees_as_the_rfc_says() {
    let alice = PrivateKey::take(&mut bytes(
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
    ));
    let bob = PrivateKey::take(&mut bytes(
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    ));
    let alice_public =
        PublicKey(bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
    let bob_public =
        PublicKey(bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let shared = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    // Compared outside `assert_eq`, which would only show "Secret(..)".
    assert_eq!(alice.public().bytes(), alice_public.bytes());
    assert_eq!(bob.public().bytes(), bob_public.bytes());
    assert_eq!(alice.agree(&bob_public).unwrap().bytes(), &shared);
    assert_eq!(bob.agree(&alice_public).unwrap().bytes(), &shared);
}

/// The points of order 1, 2, 4 and 8 of the curve and of its twist, and their forms above the prime:
/// the list of <https://cr.yp.to/ecdh.html>, "Do I need to validate public keys?".
const LOW_ORDER: [&str; 12] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

/// Of the last five, which have the highest bit set, RFC 7748 makes other points: that bit is masked.
#[test]
fn nothing_is_agreed_with_a_point_of_low_order() {
    let key = PrivateKey::take(&mut [0x42; LENGTH]);
    for (index, hex) in LOW_ORDER.into_iter().enumerate() {
        let public = PublicKey(bytes(hex));
        let masked = index >= 7;
        assert_eq!(key.agree(&public).is_none(), !masked, "{hex}");
        let mut with_high_bit = public;
        with_high_bit.0[31] |= 0x80;
        assert_eq!(key.agree(&with_high_bit).is_none(), !masked, "{hex} with the highest bit");
    }
}

#[test]
fn secrets_are_not_shown_and_are_overwritten() {
    let mut bytes = [0xab; LENGTH];
    let secret = Secret::take(&mut bytes);
    assert_eq!(bytes, [0; LENGTH]);
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    let mut bytes = [0xab; LENGTH];
    let key = PrivateKey::take(&mut bytes);
    assert_eq!(bytes, [0; LENGTH]);
    let shown = format!("{key:?}");
    assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    let mut secret = secret;
    secret.zeroize();
    assert_eq!(secret, Secret::default());
    assert_ne!(Secret::new([1; LENGTH]), Secret::default());
}
