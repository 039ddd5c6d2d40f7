//! Messages of path probes: read from any bytes, and written with any contents.

use weft_ctrl::health::message::{Key, LENGTH, Message};
use weft_ctrl::identity::Identity;

/// What is read is written as the same bytes. Any bytes behind a proper message make it none, but for
/// zeros, which its hash counts.
pub fn probe(data: &[u8]) {
    let [one, other]: [Identity; 2] =
        [1, 2].map(|last| format!("{last:032x}").parse().expect("32 digits are an identity"));
    let key = Key::new(one, other);
    let Some(message) = Message::parse(data, &key) else { return };
    assert_eq!(message.emit(&key, data.len()), data);
    assert_eq!(Message::parse(data, &Key::new(other, one)), None);
    for changed in 0..LENGTH {
        let mut bytes = data.to_vec();
        bytes[changed] ^= 1;
        assert_eq!(Message::parse(&bytes, &key), None, "byte {changed}");
    }
    assert_eq!(Message::parse(&[data, &[0]].concat(), &key), None);
}

/// A request without and with padding, and a reply, as weft writes them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use weft_ctrl::config::PathKind;
    use weft_ctrl::health::message::{Heard, Kind};

    let [one, other] =
        [1, 2].map(|last| format!("{last:032x}").parse().expect("32 digits are an identity"));
    let key = Key::new(one, other);
    let message = |kind| Message {
        kind,
        path: PathKind::Vxlan,
        usable: [true, false, true],
        session: 7,
        sequence: 9,
        nonce: 11,
        heard: Heard { session: 13, sequences: [1, 2, 3] },
    };
    [(Kind::Request, 0), (Kind::Request, 100), (Kind::Reply, 0)]
        .map(|(kind, length)| message(kind).emit(&key, length))
        .to_vec()
}
