//! Initiations of handshakes by strangers who know a host's public key.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use weft_seal::aead::Ring;
use weft_seal::context::Context;
use weft_seal::device::{Device, DeviceConfig, Output, PeerConfig};
use weft_seal::keys::{PrivateKey, PublicKey, Secret};
use weft_seal::timestamp::Timestamp;

/// One initiation of each of `strangers` (at most 255) to the host with this key, which is text as `wg`
/// writes it. Each is authentic but for its sender, whom the host does not know.
///
/// # Errors
/// The text is no key.
pub fn initiations(key: &str, strangers: usize) -> Result<Vec<Vec<u8>>> {
    let key = STANDARD.decode(key).ok().and_then(|bytes| bytes.try_into().ok());
    let host = PublicKey::new(key.context("The host's key is no key")?);
    (1..=u8::MAX).take(strangers).map(|stranger| initiation(host, stranger)).collect()
}

fn initiation(host: PublicKey, stranger: u8) -> Result<Vec<u8>> {
    let mut device = Device::<Ring>::new(DeviceConfig {
        private: PrivateKey::take(&mut [stranger; 32]),
        workers: 1,
        mtu: 1420,
        greatest_sent: Timestamp::default(),
    });
    let peer = PeerConfig {
        public: host,
        preshared: Secret::default(),
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
        keepalive: None,
        greatest: None,
    };
    device.add_peer(0, peer).context("Nobody can talk with this host")?;
    let mut random = |buffer: &mut [u8]| buffer.fill(stranger);
    let (now, since_1970) = (Duration::ZERO, Duration::from_secs(u64::from(stranger)));
    let mut context = Context { now, since_1970, random: &mut random };
    device.handle_wanted(&mut context, 0);
    match device.poll_output() {
        Some(Output::Send { datagram, .. }) => Ok(datagram),
        _ => anyhow::bail!("A handshake did not begin"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_seal::message::Message;

    #[test]
    fn each_stranger_begins_a_handshake_of_his_own() {
        let made = initiations("HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", 20).unwrap();
        assert_eq!(made.len(), 20);
        for (number, one) in made.iter().enumerate() {
            assert!(matches!(Message::parse(one), Ok(Message::Initiation(_))));
            assert!(!made[..number].contains(one));
        }
        assert!(initiations("HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8yk", 1).is_err());
    }
}
