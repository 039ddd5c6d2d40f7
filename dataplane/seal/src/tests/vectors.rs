//! Every message with fixed keys, randomness and time. The bytes come from a program in plain Python,
//! written from the paper and the RFCs, which shares no code with this package or with what it uses.

use std::net::SocketAddr;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use crate::aead::{Portable, Ring};
use crate::context::Context;
use crate::cookie::{Checker, MacKeys, Stamper};
use crate::handshake::{Claimed, Initiator, Keys, Remote};
use crate::keys::{PrivateKey, Secret};
use crate::message::{CookieReply, Initiation, Response};
use crate::session::{Load, Session, sealed_length};
use crate::timestamp::Timestamp;

const INITIATION: &str = "\
    01000000ce110a005dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef220a26599f\
    b2188bb723276fc173af67616c817fc32fd04d686d87ec152fac10eed2bda3bb3b6f1eded6977684082284d8\
    50fc41b4cbcf9deeba2039d1c21710e7081f158a3f5bb6ceb5c344e3da509dc1a248ecd2d44b37d05902cb53\
    5e704580dc13731ad0c9da4a9aa07e06";
const RESPONSE: &str = "\
    020000000b0b0000ce110a00ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10b\
    dad1dbbeb72c29c492bd43373a62c58b514b5a816b5bfeaccd7fb372fa5d2d5d000000000000000000000000\
    00000000";
const COOKIE_REPLY: &str = "\
    03000000ce110a00000102030405060708090a0b0c0d0e0f10111213141516174ae768200fc649c1a04f794f\
    e89b415d1b32760212a1698ae221777ce8adbef1";
const DATA: &str = "\
    040000000b0b00000000000000000000caaa96b07054e1d0302e5924ebbb4edbd83b4bd5a0f75a0756ae3fa0\
    2413523f9a020174d442e7eaf559cdf48ef0673f";
const KEEPALIVE: &str = "\
    04000000ce110a000000000000000000debc5ce8db9dfbdcc00a210e42229c06";

const MTU: usize = 1420;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn private(byte: u8) -> PrivateKey {
    PrivateKey::take(&mut [byte; 32])
}

fn remote(own: u8, other: u8) -> Remote {
    Remote::new(&private(own), private(other).public(), Secret::new([5; 32])).unwrap()
}

/// Both keys of the session, made anew by both sides.
fn handshake() -> (Initiation, Response, [Keys; 2]) {
    let stamp = Timestamp::from_bytes([7; 12]);
    let (initiator, initiation) =
        Initiator::begin(&private(1), &remote(1, 2), stamp, 0xa11ce, [3; 32]);
    let claimed = Claimed::read(&private(2), &initiation).unwrap();
    let verified = claimed.verify(&remote(2, 1)).unwrap();
    let (response, responders) = verified.respond(&remote(2, 1), 0xb0b, [4; 32]).unwrap();
    let initiators = initiator.finish(&private(1), &remote(1, 2), &response).unwrap();
    (initiation, response, [initiators, responders])
}

#[test]
fn handshake_messages() {
    let (mut initiation, mut response, _) = handshake();
    // A cookie of the vector, which its sealed form gave to the initiator.
    let mut stamper = Stamper::with_cookie(&private(2).public(), [6; 16]);
    stamper.stamp(&mut initiation, Duration::ZERO);
    assert_eq!(hex(initiation.as_bytes()), INITIATION);
    Stamper::new(&private(1).public()).stamp(&mut response, Duration::ZERO);
    assert_eq!(hex(response.as_bytes()), RESPONSE);
}

#[test]
fn cookie_reply() {
    let (mut initiation, ..) = handshake();
    let mut stamper = Stamper::new(&private(2).public());
    stamper.stamp(&mut initiation, Duration::ZERO);
    // The nonce is drawn first, then the secret that cookies are made with.
    let mut is_first = true;
    let mut random = |bytes: &mut [u8]| {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = if is_first { index as u8 } else { 8 };
        }
        is_first = false;
    };
    let mut context =
        Context { now: Duration::ZERO, since_1970: Duration::ZERO, random: &mut random };
    let from = SocketAddr::from(([192, 0, 2, 1], 8285));
    let keys = MacKeys::new(&private(2).public());
    let reply = Checker::new().reply(&mut context, &keys, &initiation, from);
    assert_eq!(hex(reply.as_bytes()), COOKIE_REPLY);
    let reply = CookieReply::ref_from_bytes(reply.as_bytes()).unwrap();
    assert_eq!(stamper.keep(reply, Duration::ZERO), Ok(()));
}

#[test]
fn data_messages() {
    let (_, _, [initiators, responders]) = handshake();
    let now = Duration::ZERO;
    let initiator = Session::<Ring>::new(&initiators, now);
    let responder = Session::<Portable>::new(&responders, now);
    let mut packet = vec![0x45, 0, 0, 20];
    packet.extend(0..16);
    let mut datagram = vec![0xff; sealed_length(packet.len(), MTU)];
    let counter = initiator.reserve(1, Load::Packet, now).unwrap().next().unwrap();
    initiator.seal(counter, &[&packet], &mut datagram, MTU);
    assert_eq!(hex(&datagram), DATA);
    assert!(responder.open(&mut datagram, now).is_ok());
    let mut datagram = [0xff; 32];
    let counter = responder.reserve(1, Load::Nothing, now).unwrap().next().unwrap();
    responder.seal(counter, &[], &mut datagram, MTU);
    assert_eq!(hex(&datagram), KEEPALIVE);
    assert!(initiator.open(&mut datagram, now).is_ok());
}
