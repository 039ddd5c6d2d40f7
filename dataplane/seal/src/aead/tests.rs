use super::*;

/// AES-256-GCM with a nonce of its own, to show that a session takes any AEAD.
struct Gcm(ring::aead::LessSafeKey);

impl Aead for Gcm {
    const NAME: &'static str = "aes-256-gcm";

    fn new(key: &[u8; KEY_LENGTH]) -> Self {
        let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key).unwrap();
        Self(ring::aead::LessSafeKey::new(key))
    }

    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; TAG_LENGTH] {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(counter));
        let associated = ring::aead::Aad::from(associated);
        let tag = self.0.seal_in_place_separate_tag(nonce, associated, text).unwrap();
        tag.as_ref().try_into().unwrap()
    }

    fn open(&self, counter: u64, associated: &[u8], sealed: &mut [u8]) -> Result<usize, Forged> {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce(counter));
        let associated = ring::aead::Aad::from(associated);
        self.0.open_in_place(nonce, associated, sealed).map(|text| text.len()).map_err(|_| Forged)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len() / 2)
        .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
        .collect()
}

/// RFC 8439 appendix A.5, whose nonce begins with four zero bytes like ours.
fn opens_the_rfc_vector<A: Aead>() {
    let key = bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
    let associated = bytes("f33388860000000000004e91");
    let counter = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
    let sealed = bytes(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2
         4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf
         332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855
         9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4
         b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e
         af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a
         0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10
         49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29
         a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38",
    );
    let expected = "Internet-Drafts are draft documents valid for a maximum of six months and may \
                    be updated, replaced, or obsoleted by other documents at any time. It is \
                    inappropriate to use Internet-Drafts as reference material or to cite them \
                    other than as /\u{201c}work in progress./\u{201d}";
    let aead = A::new(key.as_slice().try_into().unwrap());
    let mut text = sealed.clone();
    let length = aead.open(counter, &associated, &mut text).unwrap();
    assert_eq!(std::str::from_utf8(&text[..length]).unwrap(), expected, "{}", A::NAME);
    let tag = aead.seal(counter, &associated, &mut text[..length]);
    assert_eq!(text[..length], sealed[..length], "{}", A::NAME);
    assert_eq!(tag, sealed[length..], "{}", A::NAME);
}

fn refuses_what_was_changed<A: Aead>() {
    let aead = A::new(&[3; KEY_LENGTH]);
    let mut sealed = vec![0x55; 100];
    let tag = aead.seal(7, b"more", &mut sealed);
    sealed.extend_from_slice(&tag);
    let open = |counter, associated: &[u8], mut sealed: Vec<u8>| {
        aead.open(counter, associated, &mut sealed).map(|length| sealed[..length].to_vec())
    };
    assert_eq!(open(7, b"more", sealed.clone()), Ok(vec![0x55; 100]));
    assert_eq!(open(8, b"more", sealed.clone()), Err(Forged));
    assert_eq!(open(7, b"less", sealed.clone()), Err(Forged));
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(7, b"more", changed), Err(Forged), "{} bit {bit}", A::NAME);
    }
    for length in 0..sealed.len() {
        assert_eq!(open(7, b"more", sealed[..length].to_vec()), Err(Forged));
    }
}

#[test]
fn every_implementation_gives_the_known_answer() {
    opens_the_rfc_vector::<Ring>();
    opens_the_rfc_vector::<Portable>();
}

#[test]
fn every_implementation_refuses_what_was_changed() {
    refuses_what_was_changed::<Ring>();
    refuses_what_was_changed::<Portable>();
    refuses_what_was_changed::<Gcm>();
}

#[test]
fn implementations_open_what_others_sealed() {
    let key = [9; KEY_LENGTH];
    for length in [0, 1, 15, 16, 64, 255, 256, 511, 512, 1000, 1420, 9000] {
        let text: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let mut sealed = text.clone();
        let tag = Ring::new(&key).seal(1 << 40, &[], &mut sealed);
        let mut other = text.clone();
        assert_eq!(Portable::new(&key).seal(1 << 40, &[], &mut other), tag);
        assert_eq!(sealed, other);
        sealed.extend_from_slice(&tag);
        assert_eq!(Portable::new(&key).open(1 << 40, &[], &mut sealed), Ok(length));
        assert_eq!(sealed[..length], text);
    }
}
