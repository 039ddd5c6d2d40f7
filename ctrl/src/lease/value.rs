//! The JSON value of a lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::identity::Identity;
use crate::json::{self, Fields, Object, Value};
use crate::kernel::MacAddress;
use crate::key::PublicKey;

/// The only version of the [`Weft`] key that is understood.
pub const WEFT_VERSION: u64 = 1;

/// A lease has some hundred bytes. A longer value than this is not read, so that nobody who may write
/// leases can fill the memory of all who read them.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// Mistakes that are told; a value of many mistakes needs no more to be recognized.
const MISTAKES_MAX: usize = 5;

/// Letters of a mistake that are told. It may quote what was written.
const MISTAKE_LENGTH_MAX: usize = 200;

/// More addresses than this are no node of ours; the bound keeps a hostile lease small.
const ADDRESSES_MAX: usize = 32;

/// The smallest MTU that a device can have with IPv4 (RFC 791). Inside of a small underlay less is
/// left than the 576 bytes that every host takes.
const MTU_MIN: u64 = 68;

/// What the owner of a lease says about itself. Serialized with flannel's keys in flannel's order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attributes {
    /// Where its datagrams go; `0.0.0.0` when it has no IPv4 address.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// The same for IPv6.
    #[serde(rename = "PublicIPv6")]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Empty for `udp`, which publishes none.
    #[serde(rename = "BackendType", skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    /// Data of other backends, unread.
    #[serde(rename = "BackendData", skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<serde_json::Value>,
    /// The same for IPv6.
    #[serde(rename = "BackendV6Data", skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<serde_json::Value>,
    /// Our own facts; `None` for a flanneld, or for a version that is not ours.
    #[serde(rename = "Weft", skip_serializing_if = "Option::is_none")]
    pub weft: Option<Weft>,
}

/// The `Weft` key. What does not apply is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Weft {
    /// [`WEFT_VERSION`].
    pub v: u64,
    /// Who wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Identity>,
    /// Paths that the node terminates, for example `udp`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// UDP port it receives on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Number of consecutive source ports, from `port` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<u16>,
    /// Outer source addresses besides the public ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addrs: Vec<IpAddr>,
    /// MTU of its tunnel device, bytes of inner packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// What others seal their traffic to it with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// MAC address of its VXLAN devices, if `vxlan` is one path of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep: Option<MacAddress>,
    /// It takes IPv6 inside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub v6: bool,
    /// Its kernel takes what ours sends in the place of our workers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shortcut: bool,
}

impl Default for Weft {
    /// This version, saying nothing.
    fn default() -> Self {
        Self {
            v: WEFT_VERSION,
            id: None,
            paths: Vec::new(),
            port: None,
            ports: None,
            addrs: Vec::new(),
            mtu: None,
            key: None,
            vtep: None,
            v6: false,
            shortcut: false,
        }
    }
}

/// Why a value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("; "))]
pub struct ValueError {
    /// What is wrong with it, as far as that can be told shortly.
    pub mistakes: Vec<String>,
}

impl Attributes {
    /// Reads a value with Go's rules. A missing `PublicIP` reads as `0.0.0.0`, as it does there.
    ///
    /// # Errors
    /// If it is not JSON, or a key has a value of the wrong kind.
    pub fn parse(value: &[u8]) -> Result<Self, ValueError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(one(format!("it has more than {VALUE_BYTES_MAX} bytes")));
        }
        let object = match json::parse(value) {
            Ok(Value::Object(object)) => object,
            Ok(other) => return Err(one(format!("it is {}, expected an object", other.kind()))),
            Err(error) => return Err(one(format!("it is not JSON ({error})"))),
        };
        let mut mistakes = Vec::new();
        let attributes = Self {
            public_ip: public_ip(&object, &mut mistakes),
            public_ipv6: public_ipv6(&object, &mut mistakes),
            backend_type: Fields::new(&object, "", &mut mistakes)
                .text("BackendType")
                .unwrap_or_default()
                .to_owned(),
            backend_data: plain(&object, "BackendData"),
            backend_v6_data: plain(&object, "BackendV6Data"),
            weft: weft(&object, &mut mistakes),
        };
        if mistakes.is_empty() { Ok(attributes) } else { Err(ValueError::of(mistakes)) }
    }

    /// The value as it is stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and addresses can always be written")
    }

    /// What traffic to its owner is sealed with.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        self.weft.as_ref().and_then(|weft| weft.key)
    }

    /// Who wrote this, if it was one of ours.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.weft.as_ref().and_then(|weft| weft.id)
    }
}

impl ValueError {
    fn of(mut mistakes: Vec<String>) -> Self {
        let untold = mistakes.len().saturating_sub(MISTAKES_MAX);
        mistakes.truncate(MISTAKES_MAX);
        mistakes.iter_mut().for_each(|mistake| *mistake = shortened(mistake, MISTAKE_LENGTH_MAX));
        if untold > 0 {
            mistakes.push(format!("and {untold} more"));
        }
        Self { mistakes }
    }
}

fn one(mistake: String) -> ValueError {
    ValueError::of(vec![mistake])
}

/// The beginning of a text, with a sign that it goes on.
pub(crate) fn shortened(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn plain(object: &Object, key: &str) -> Option<serde_json::Value> {
    object.last(key).filter(|value| **value != Value::Null).map(Value::to_plain)
}

/// `null` is a mistake here: flanneld's address type reads it as text.
fn public_ip(object: &Object, mistakes: &mut Vec<String>) -> Ipv4Addr {
    if object.all("PublicIP").any(|value| *value == Value::Null) {
        mistakes.push("PublicIP is null, expected an IPv4 address".into());
    }
    let mut fields = Fields::new(object, "", mistakes);
    let Some(text) = fields.text("PublicIP") else { return Ipv4Addr::UNSPECIFIED };
    text.parse().unwrap_or_else(|_| {
        fields.mistake("PublicIP", &format!("{text:?} is not an IPv4 address"));
        Ipv4Addr::UNSPECIFIED
    })
}

fn public_ipv6(object: &Object, mistakes: &mut Vec<String>) -> Option<Ipv6Addr> {
    let mut fields = Fields::new(object, "", mistakes);
    let text = fields.text("PublicIPv6")?;
    let address = text.parse().ok();
    if address.is_none() {
        fields.mistake("PublicIPv6", &format!("{text:?} is not an IPv6 address"));
    }
    address
}

/// An unknown version makes the peer a plain flannel node, so newer nodes can be added to a cluster.
/// Our own version with broken fields is a broken lease.
fn weft(object: &Object, mistakes: &mut Vec<String>) -> Option<Weft> {
    let Some(Value::Object(object)) = object.last("Weft") else { return None };
    let version = object.last("v").and_then(|value| match value {
        Value::Number(number) => number.as_u64(),
        _ => None,
    });
    if version != Some(WEFT_VERSION) {
        return None;
    }
    let mut fields = Fields::new(object, "Weft.", mistakes);
    Some(Weft {
        v: WEFT_VERSION,
        id: identity(&mut fields),
        paths: fields.texts("paths").unwrap_or_default().into_iter().map(str::to_owned).collect(),
        port: port(&mut fields, "port"),
        ports: port(&mut fields, "ports"),
        addrs: addresses(&mut fields),
        mtu: mtu(&mut fields),
        key: key(&mut fields),
        vtep: vtep(&mut fields),
        v6: fields.boolean("v6").unwrap_or(false),
        shortcut: fields.boolean("shortcut").unwrap_or(false),
    })
}

fn identity(fields: &mut Fields<'_>) -> Option<Identity> {
    let text = fields.text("id")?;
    let identity = text.parse().ok();
    if identity.is_none() {
        fields.mistake("id", "is not 32 hexadecimal digits");
    }
    identity
}

fn key(fields: &mut Fields<'_>) -> Option<PublicKey> {
    let text = fields.text("key")?;
    let key = text.parse().ok();
    if key.is_none() {
        fields.mistake("key", "is not 32 bytes in base64");
    }
    key
}

fn port(fields: &mut Fields<'_>, key: &str) -> Option<u16> {
    let port = u16::try_from(fields.unsigned(key)?).unwrap_or(0);
    if port == 0 {
        fields.mistake(key, "must be from 1 to 65535");
    }
    Some(port)
}

fn addresses(fields: &mut Fields<'_>) -> Vec<IpAddr> {
    let texts = fields.texts("addrs").unwrap_or_default();
    if texts.len() > ADDRESSES_MAX {
        fields.mistake("addrs", &format!("has more than {ADDRESSES_MAX} addresses"));
        return Vec::new();
    }
    let parsed: Result<Vec<IpAddr>, _> = texts.iter().map(|text| text.parse()).collect();
    parsed.unwrap_or_else(|_| {
        fields.mistake("addrs", "has an entry that is not an IP address");
        Vec::new()
    })
}

fn mtu(fields: &mut Fields<'_>) -> Option<u32> {
    let mtu = fields.unsigned("mtu")?;
    if !(MTU_MIN..=u64::from(u16::MAX)).contains(&mtu) {
        fields.mistake("mtu", &format!("must be from {MTU_MIN} to {}", u16::MAX));
    }
    u32::try_from(mtu).ok()
}

fn vtep(fields: &mut Fields<'_>) -> Option<MacAddress> {
    let text = fields.text("vtep")?;
    let mac = text.parse().ok().filter(|mac: &MacAddress| mac.is_unicast());
    if mac.is_none() {
        fields.mistake("vtep", "is not the MAC address of one device");
    }
    mac
}
