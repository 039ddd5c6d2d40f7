use super::*;

/// A private key whose bytes all are `byte`.
fn private(byte: u8) -> PrivateKey {
    PrivateKey::take(&mut [byte; LENGTH])
}

struct Pair {
    alice: PrivateKey,
    bob: PrivateKey,
    to_bob: Remote,
    to_alice: Remote,
}

fn pair(preshared: [u8; 2]) -> Pair {
    let (alice, bob) = (private(1), private(2));
    let remote = |own, other: &PrivateKey, byte| {
        Remote::new(own, other.public(), Secret::new([byte; LENGTH])).unwrap()
    };
    let to_bob = remote(&alice, &bob, preshared[0]);
    let to_alice = remote(&bob, &alice, preshared[1]);
    Pair { alice, bob, to_bob, to_alice }
}

fn stamp() -> Timestamp {
    Timestamp::from_bytes([7; Timestamp::LENGTH])
}

impl Pair {
    fn begin(&self) -> (Initiator, Initiation) {
        Initiator::begin(&self.alice, &self.to_bob, stamp(), 0xa11ce, [3; LENGTH])
    }

    fn respond(&self, initiation: &Initiation) -> Result<(Response, Keys), Rejected> {
        let claimed = Claimed::read(&self.bob, initiation)?;
        assert_eq!(claimed.public(), self.alice.public());
        let verified = claimed.verify(&self.to_alice)?;
        assert_eq!(verified.stamp(), stamp());
        verified.respond(&self.to_alice, 0xb0b, [4; LENGTH])
    }
}

#[test]
fn both_sides_get_the_same_keys() {
    for preshared in [0, 5] {
        let pair = pair([preshared; 2]);
        let (initiator, initiation) = pair.begin();
        let (response, bob) = pair.respond(&initiation).unwrap();
        let alice = initiator.finish(&pair.alice, &pair.to_bob, &response).unwrap();
        assert!(alice.sending == bob.receiving && alice.receiving == bob.sending);
        assert!(alice.sending != alice.receiving);
        assert_eq!((alice.local, alice.remote), (0xa11ce, 0xb0b));
        assert_eq!((bob.local, bob.remote), (0xb0b, 0xa11ce));
        assert!(alice.is_initiator && !bob.is_initiator);
        // A response is not used up by being read: it is the index that is.
        assert!(initiator.finish(&pair.alice, &pair.to_bob, &response).is_ok());
    }
}

#[test]
fn preshared_keys_have_to_be_the_same() {
    let pair = pair([5, 6]);
    let (initiator, initiation) = pair.begin();
    let (response, _) = pair.respond(&initiation).unwrap();
    let refused = initiator.finish(&pair.alice, &pair.to_bob, &response);
    assert_eq!(refused.unwrap_err(), Rejected::BadHandshake);
}

#[test]
fn an_initiation_is_for_one_responder_only() {
    let pair = pair([0; 2]);
    let (_, initiation) = pair.begin();
    let refused = Claimed::read(&private(9), &initiation).err();
    assert_eq!(refused, Some(Rejected::BadHandshake));
}

#[test]
fn whoever_claims_a_key_must_have_it() {
    let pair = pair([0; 2]);
    let mallory = private(9);
    let stranger = Remote::new(&pair.bob, mallory.public(), Secret::default()).unwrap();
    let (_, initiation) = pair.begin();
    let claimed = Claimed::read(&pair.bob, &initiation).unwrap();
    assert_eq!(claimed.verify(&stranger).err(), Some(Rejected::BadHandshake));
}

/// Index fields are guarded by mac1, which is checked before: see the tests of the device.
#[test]
fn every_bit_of_the_noise_part_counts() {
    use zerocopy::{FromBytes, IntoBytes};
    let pair = pair([0; 2]);
    let (initiator, initiation) = pair.begin();
    let (response, _) = pair.respond(&initiation).unwrap();
    // The highest bit of a public key is masked when keys are agreed, but it is hashed.
    for bit in 8 * 8..116 * 8 {
        let mut bytes: [u8; 148] = initiation.as_bytes().try_into().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = pair.respond(Initiation::ref_from_bytes(&bytes).unwrap());
        assert_eq!(refused.err(), Some(Rejected::BadHandshake), "bit {bit} of the initiation");
    }
    for bit in 12 * 8..60 * 8 {
        let mut bytes: [u8; 92] = response.as_bytes().try_into().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let response = Response::ref_from_bytes(&bytes).unwrap();
        let refused = initiator.finish(&pair.alice, &pair.to_bob, response);
        assert_eq!(refused.err(), Some(Rejected::BadHandshake), "bit {bit} of the response");
    }
}

#[test]
fn ephemeral_keys_of_low_order_are_refused() {
    let pair = pair([0; 2]);
    let (initiator, mut initiation) = pair.begin();
    let (mut response, _) = pair.respond(&initiation).unwrap();
    for weak in [[0; LENGTH], {
        let mut one = [0; LENGTH];
        one[0] = 1;
        one
    }] {
        initiation.ephemeral = weak;
        assert_eq!(Claimed::read(&pair.bob, &initiation).err(), Some(Rejected::WeakKey));
        response.ephemeral = weak;
        let refused = initiator.finish(&pair.alice, &pair.to_bob, &response);
        assert_eq!(refused.err(), Some(Rejected::WeakKey));
    }
}

#[test]
fn keys_that_cannot_be_a_peers_are_refused() {
    let own = private(1);
    let refused = |public| Remote::new(&own, public, Secret::default()).err();
    assert_eq!(refused(own.public()), Some(KeyRefused::Own));
    assert_eq!(refused(PublicKey::new([0; LENGTH])), Some(KeyRefused::LowOrder));
    assert_eq!(refused(private(2).public()), None);
}

/// snow is an implementation of Noise of its own: it answers us, and we answer it, with one outcome.
mod oracle {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
    const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

    fn builder<'a>(private: &'a [u8; LENGTH], preshared: &'a [u8; LENGTH]) -> snow::Builder<'a> {
        let builder = snow::Builder::new(PATTERN.parse().unwrap());
        let builder = builder.prologue(PROLOGUE).unwrap();
        builder.local_private_key(private).unwrap().psk(2, preshared).unwrap()
    }

    /// What snow seals with its own transport, our keys open, and the other way round.
    fn same_keys(keys: &Keys, snow: snow::HandshakeState) {
        let transport = snow.into_stateless_transport_mode().unwrap();
        let mut bytes = [0; 64];
        let length = transport.write_message(77, b"from snow", &mut bytes).unwrap();
        let opened = Portable::new(keys.receiving.bytes()).open(77, &[], &mut bytes[..length]);
        assert_eq!(&bytes[..opened.unwrap()], b"from snow");
        let mut sealed = *b"from weft................";
        let tag = Portable::new(keys.sending.bytes()).seal(78, &[], &mut sealed[..9]);
        sealed[9..].copy_from_slice(&tag);
        let length = transport.read_message(78, &sealed, &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"from weft");
    }

    #[test]
    fn snow_answers_us() {
        let pair = pair([5; 2]);
        let (private, preshared) = ([2; LENGTH], [5; LENGTH]);
        let mut bob = builder(&private, &preshared).build_responder().unwrap();
        let (initiator, initiation) = pair.begin();
        let mut payload = [0; 64];
        let length = bob.read_message(&initiation.as_bytes()[8..116], &mut payload).unwrap();
        assert_eq!(&payload[..length], stamp().bytes());
        assert_eq!(bob.get_remote_static().unwrap(), pair.alice.public().bytes());
        let mut response = Response::empty(0xb0b, 0xa11ce);
        let noise = &mut response.as_mut_bytes()[12..60];
        assert_eq!(bob.write_message(&[], noise).unwrap(), 48);
        let keys = initiator.finish(&pair.alice, &pair.to_bob, &response).unwrap();
        same_keys(&keys, bob);
    }

    /// With the same randomness, both implementations write the same bytes.
    #[test]
    fn we_answer_snow() {
        let pair = pair([5; 2]);
        let (private, preshared, ephemeral) = ([1; LENGTH], [5; LENGTH], [3; LENGTH]);
        let remote = *pair.bob.public().bytes();
        let mut alice = builder(&private, &preshared)
            .remote_public_key(&remote)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral)
            .build_initiator()
            .unwrap();
        let mut bytes = [0; 148];
        bytes.copy_from_slice(Initiation::empty(0xa11ce).as_bytes());
        let length = alice.write_message(stamp().bytes(), &mut bytes[8..116]).unwrap();
        assert_eq!(length, 108);
        let (_, ours) = pair.begin();
        assert_eq!(bytes, ours.as_bytes());

        let (response, keys) = pair.respond(Initiation::ref_from_bytes(&bytes).unwrap()).unwrap();
        alice.read_message(&response.as_bytes()[12..60], &mut [0; 16]).unwrap();
        same_keys(&keys, alice);
    }
}
