//! The hardware address of a VXLAN device.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use serde::{Serialize, Serializer};

/// Set in the first byte of an address that is for a group (IEEE 802).
const GROUP: u8 = 1;
/// Set in the first byte of an address that no vendor assigned (IEEE 802).
const LOCAL: u8 = 2;

/// Six bytes, printed as flannel does: lower-case pairs with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// A new address of a single device that no vendor assigned.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes: [u8; 6] = rand::rng().random();
        bytes[0] = (bytes[0] | LOCAL) & !GROUP;
        Self(bytes)
    }

    /// Whether one device can have it: neither a group's nor zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & GROUP == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC address of six pairs of hexadecimal digits with colons in between")]
pub struct NotMacAddress(String);

impl FromStr for MacAddress {
    type Err = NotMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parsed(text).ok_or_else(|| NotMacAddress(text.to_owned()))
    }
}

fn parsed(text: &str) -> Option<MacAddress> {
    let mut parts = text.split(':');
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        let part = parts.next()?;
        // `from_str_radix` alone would take a sign and a single digit.
        let is_pair = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| is_pair)?;
    }
    parts.next().is_none().then_some(MacAddress(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_as_flannel_does_and_read_back() {
        let address = MacAddress([0x0a, 0xff, 0, 1, 0xb2, 0x3c]);
        assert_eq!(address.to_string(), "0a:ff:00:01:b2:3c");
        assert_eq!("0a:ff:00:01:b2:3c".parse(), Ok(address));
        assert_eq!("0A:FF:00:01:B2:3C".parse(), Ok(address));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "0a:ff:00:01:b2", "0a:ff:00:01:b2:3c:00", "a:ff:00:01:b2:3c", "+a:ff:00:01:b2:3c"]
        {
            assert_eq!(text.parse::<MacAddress>(), Err(NotMacAddress(text.to_owned())));
        }
    }

    #[test]
    fn a_random_one_is_local_and_of_one_device() {
        for _ in 0..200 {
            let MacAddress(bytes) = MacAddress::random();
            assert_eq!(bytes[0] & (GROUP | LOCAL), LOCAL);
        }
        assert_ne!(MacAddress::random(), MacAddress::random());
    }

    #[test]
    fn groups_and_zero_are_not_of_one_device() {
        let first = |byte| MacAddress([byte, 0, 0, 0, 0, 1]);
        assert!(first(2).is_unicast() && first(0).is_unicast());
        assert!(!first(1).is_unicast() && !first(0xff).is_unicast());
        assert!(!MacAddress([0; 6]).is_unicast());
    }
}
