use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::message::{Initiation, Response};

const PEER: PublicKey = PublicKey::new([7; 32]);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Calls `with` at `seconds`, with randomness that never repeats.
fn at<T>(seconds: u64, with: impl FnOnce(&mut Context<'_>) -> T) -> T {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut random = |buffer: &mut [u8]| {
        for byte in buffer {
            *byte = (NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9) >> 13) as u8;
        }
    };
    with(&mut Context {
        now: Duration::from_secs(seconds),
        since_1970: Duration::ZERO,
        random: &mut random,
    })
}

fn initiation(stamper: &mut Stamper, seconds: u64) -> Initiation {
    let mut message = Initiation::empty(5);
    stamper.stamp(&mut message, Duration::from_secs(seconds));
    message
}

/// Made with Python's hashlib: BLAKE2s keyed with the hash of the label and the key.
#[test]
fn mac1_is_the_papers() {
    let mut message = Initiation::empty(0x0102_0304);
    Stamper::new(&PEER).stamp(&mut message, Duration::ZERO);
    let shown: String = message.mac1.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(shown, "d6cc933b8d5fe50e4f919e5e3124e985");
    assert_eq!(message.mac2, [0; MAC_LENGTH]);
}

#[test]
fn mac1_guards_every_bit() {
    let keys = MacKeys::new(&PEER);
    let message = initiation(&mut Stamper::new(&PEER), 0);
    assert_eq!(keys.check(&message), Ok(()));
    for bit in 0..132 * 8 {
        let mut bytes: [u8; 148] = message.as_bytes().try_into().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let changed = Initiation::ref_from_bytes(&bytes).unwrap();
        assert_eq!(keys.check(changed), Err(Rejected::BadMac1), "bit {bit}");
    }
    let mut response = Response::empty(1, 2);
    Stamper::new(&PEER).stamp(&mut response, Duration::ZERO);
    assert_eq!(keys.check(&response), Ok(()));
    assert_eq!(MacKeys::new(&PublicKey::new([8; 32])).check(&response), Err(Rejected::BadMac1));
}

#[test]
fn a_cookie_proves_an_address_for_two_minutes() {
    let (mut checker, keys, mut stamper) =
        (Checker::new(), MacKeys::new(&PEER), Stamper::new(&PEER));
    let from = address("192.0.2.1:8285");
    let first = initiation(&mut stamper, 10);
    assert!(!at(10, |context| checker.has_cookie(context, &first, from)));
    let reply = at(10, |context| checker.reply(context, &keys, &first, from));
    assert_eq!(reply.receiver.get(), 5);
    stamper.keep(&reply, Duration::from_secs(11)).unwrap();

    let second = initiation(&mut stamper, 15);
    assert_ne!(second.mac2, [0; MAC_LENGTH]);
    assert!(at(15, |context| checker.has_cookie(context, &second, from)));
    for other in ["192.0.2.1:8286", "192.0.2.2:8285", "[2001:db8::1]:8285"] {
        assert!(!at(15, |context| checker.has_cookie(context, &second, address(other))));
    }
    let mut changed = second;
    changed.mac2[0] ^= 1;
    assert!(!at(15, |context| checker.has_cookie(context, &changed, from)));
    changed = second;
    changed.mac1[0] ^= 1;
    assert!(!at(15, |context| checker.has_cookie(context, &changed, from)));

    assert!(at(129, |context| checker.has_cookie(context, &second, from)));
    assert!(!at(130, |context| checker.has_cookie(context, &second, from)));
    assert_ne!(initiation(&mut stamper, 125).mac2, [0; MAC_LENGTH]);
    assert_eq!(initiation(&mut stamper, 126).mac2, [0; MAC_LENGTH]);
}

#[test]
fn forged_cookies_are_refused() {
    let (mut checker, keys, mut stamper) =
        (Checker::new(), MacKeys::new(&PEER), Stamper::new(&PEER));
    let from = address("[2001:db8::1]:8285");
    let now = Duration::from_secs(10);
    let message = initiation(&mut stamper, 10);
    let reply = at(10, |context| checker.reply(context, &keys, &message, from));
    for bit in 8 * 8..64 * 8 {
        let mut bytes: [u8; 64] = reply.as_bytes().try_into().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let forged = CookieReply::ref_from_bytes(&bytes).unwrap();
        assert_eq!(stamper.keep(forged, now), Err(Rejected::BadCookie), "bit {bit}");
    }
    let other = initiation(&mut Stamper::new(&PEER), 10);
    assert_eq!(other.mac1, message.mac1, "the same message has the same mac1");
    let mut other = Initiation::empty(6);
    Stamper::new(&PEER).stamp(&mut other, now);
    let for_other = at(10, |context| checker.reply(context, &keys, &other, from));
    assert_eq!(stamper.keep(&for_other, now), Err(Rejected::BadCookie));
    assert_eq!(Stamper::new(&PEER).keep(&reply, now), Err(Rejected::BadCookie));
    assert_eq!(stamper.keep(&reply, now), Ok(()));
    assert_eq!(stamper.keep(&reply, now), Err(Rejected::BadCookie), "one message, one cookie");
}
