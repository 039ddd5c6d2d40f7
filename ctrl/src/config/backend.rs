//! The `Backend` object of the network config.

use ipnet::IpNet;

use super::ConfigError;
use crate::json::{Fields, Object, Value};

/// Port of the `udp` backend when the config names none.
pub const PORT_DEFAULT: u16 = 8285;

/// Most source ports that a node can have, and so workers that can be told apart by them.
pub const SOURCE_PORTS_MAX: u16 = 64;

/// The smallest underlay MTU: every IPv4 host takes datagrams of 576 bytes (RFC 791).
const MTU_MIN: u64 = 576;
/// The largest IP packet.
const MTU_MAX: u64 = 65_535;

/// Keys of `Backend` for the type `udp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpBackend {
    /// `Port`: the UDP port of every node, local and remote.
    pub port: u16,
    /// `SourcePorts`: how many ports, from `port` on, a node may send from.
    pub source_ports: u16,
    /// `MTU` of the underlay in bytes; the interface's own if absent.
    pub mtu: Option<u32>,
    /// `AllowedSources`: outer sources accepted besides the peers' own addresses.
    pub allowed_sources: Vec<IpNet>,
    /// `StrictSource`: drop inner sources outside Network.
    pub strict_source: bool,
}

impl Default for UdpBackend {
    fn default() -> Self {
        Self {
            port: PORT_DEFAULT,
            source_ports: 1,
            mtu: None,
            allowed_sources: Vec::new(),
            strict_source: false,
        }
    }
}

/// Reads the object; `None` (no such key) means udp with its defaults. Mistakes in its values go to
/// `mistakes`, a type that cannot be used is the error.
pub(super) fn read(
    value: Option<&Value>,
    mistakes: &mut Vec<String>,
) -> Result<UdpBackend, ConfigError> {
    let object = match value {
        None => return Ok(UdpBackend::default()),
        Some(Value::Null) => return Err(ConfigError::BackendTypeMissing),
        Some(Value::Object(object)) => object,
        Some(other) => {
            mistakes.push(format!("Backend is {}, expected an object", other.kind()));
            return Ok(UdpBackend::default());
        }
    };
    let kind = Fields::new(object, "Backend.", mistakes).text("Type").unwrap_or("").to_lowercase();
    match kind.as_str() {
        "udp" => Ok(read_udp(object, mistakes)),
        "" => Err(ConfigError::BackendTypeMissing),
        "vxlan" | "host-gw" => Err(ConfigError::BackendNotBuilt { kind }),
        _ => Err(ConfigError::BackendUnknown { kind }),
    }
}

fn read_udp(object: &Object, mistakes: &mut Vec<String>) -> UdpBackend {
    let mut fields = Fields::new(object, "Backend.", mistakes);
    let port = match fields.unsigned("Port").map(u16::try_from) {
        None => PORT_DEFAULT,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => {
            fields.mistake("Port", "must be from 1 to 65535");
            PORT_DEFAULT
        }
    };
    let source_ports = source_ports(&mut fields, port);
    let mtu = underlay_mtu(&mut fields);
    let allowed_sources = allowed_sources(&mut fields);
    let strict_source = fields.boolean("StrictSource").unwrap_or(false);
    refuse_unbuilt(object, mistakes);
    UdpBackend { port, source_ports, mtu, allowed_sources, strict_source }
}

/// All of them are ports.
fn source_ports(fields: &mut Fields<'_>, port: u16) -> u16 {
    let Some(asked_for) = fields.unsigned("SourcePorts") else { return 1 };
    let most = u64::from((u16::MAX - port).saturating_add(1).min(SOURCE_PORTS_MAX));
    if !(1..=most).contains(&asked_for) {
        fields.mistake("SourcePorts", &format!("{asked_for} must be from 1 to {most}"));
    }
    u16::try_from(asked_for).unwrap_or(1)
}

/// Flannel's other backends read 0 as "that of the interface", so it means the same here.
fn underlay_mtu(fields: &mut Fields<'_>) -> Option<u32> {
    let mtu = fields.unsigned("MTU").filter(|mtu| *mtu != 0)?;
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        fields.mistake("MTU", &format!("{mtu} must be from {MTU_MIN} to {MTU_MAX}"));
    }
    u32::try_from(mtu).ok()
}

fn allowed_sources(fields: &mut Fields<'_>) -> Vec<IpNet> {
    let mut sources = Vec::new();
    for text in fields.texts("AllowedSources").unwrap_or_default() {
        match text.parse::<IpNet>() {
            Ok(net) => sources.push(net.trunc()),
            Err(_) => fields.mistake(
                "AllowedSources",
                &format!("has {text:?}, expected a CIDR like 10.0.0.0/8"),
            ),
        }
    }
    sources
}

/// Keys whose function does not exist yet are refused unless they say what happens anyway, so that
/// nobody believes traffic to be sealed when it is not.
fn refuse_unbuilt(object: &Object, mistakes: &mut Vec<String>) {
    let mut refuse = |key: &str, default: fn(&Value) -> bool| {
        if object.all(key).any(|value| *value != Value::Null && !default(value)) {
            mistakes
                .push(format!("Backend.{key} asks for something that is not built yet; remove it"));
        }
    };
    let empty = |value: &Value| matches!(value, Value::Text(text) if text.is_empty());
    refuse(
        "Paths",
        |value| matches!(value, Value::Array(items) if items.as_slice() == [Value::Text("udp".into())]),
    );
    refuse("VXLAN", |_| false);
    refuse("Encryption", empty);
    refuse("EncryptionMode", empty);
    refuse("PSK", empty);
}
