//! The `Backend` object of the network config.

use ipnet::IpNet;

use super::{ConfigError, PathKind, paths};
use crate::json::{Fields, Object, Value};
use crate::key::PresharedKey;

/// Port of the `udp` backend when the config names none.
pub const PORT_DEFAULT: u16 = 8285;

/// Port of the `vxlan` backend when the config names none: the kernel's own default
/// (`IANA_VXLAN_UDP_PORT` came later).
pub const VXLAN_PORT_DEFAULT: u16 = 8472;

/// The identifier of a VXLAN has 24 bits (RFC 7348).
const VNI_MAX: u64 = (1 << 24) - 1;

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
    /// `Paths`: the ways to peers that are open, the one to be preferred first. `udp` is among them.
    pub paths: Vec<PathKind>,
    /// `VXLAN`: the device of the path `vxlan`, if that is open. The underlay's MTU is that of `MTU`.
    pub vxlan: Option<VxlanBackend>,
    /// `Encryption`: what travels between the nodes is sealed.
    pub sealing: Option<Sealing>,
}

/// How traffic is sealed: keys of `Backend` beside `"Encryption": "wireguard"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// `EncryptionMode`: what becomes of traffic with nodes without a key.
    pub mode: SealingMode,
    /// `PSK`: a secret that all nodes have beside their keys.
    pub preshared: Option<PresharedKey>,
}

/// What becomes of traffic with nodes that have no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealingMode {
    /// `require`: there is none.
    #[default]
    Require,
    /// `offer`: it travels unsealed, as long as they have none.
    Offer,
}

impl Default for UdpBackend {
    fn default() -> Self {
        Self {
            port: PORT_DEFAULT,
            source_ports: 1,
            mtu: None,
            allowed_sources: Vec::new(),
            strict_source: false,
            sealing: None,
            paths: vec![PathKind::Udp],
            vxlan: None,
        }
    }
}

/// Keys of `Backend` for the type `vxlan`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanBackend {
    /// `VNI`: the network's identifier, 24 bits. The devices are named after it.
    pub vni: u32,
    /// `Port`: the UDP port of every node.
    pub port: u16,
    /// `MTU` of the underlay in bytes; the interface's own if absent.
    pub mtu: Option<u32>,
    /// `GBP`: packets carry the mark of the group policy extension.
    pub gbp: bool,
    /// `Learning`: the device learns senders' addresses from what arrives.
    pub learning: bool,
    /// `DirectRouting`: a peer on the same link is routed to without a tunnel.
    pub direct_routing: bool,
    /// `OnDemand`: what the kernel needs for a peer is made when packets to it are there.
    pub on_demand: bool,
}

impl Default for VxlanBackend {
    fn default() -> Self {
        Self {
            vni: 1,
            port: VXLAN_PORT_DEFAULT,
            mtu: None,
            gbp: false,
            learning: false,
            direct_routing: false,
            on_demand: false,
        }
    }
}

/// How packets travel between the nodes, with the type's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `udp`: weft's own engine.
    Udp(Box<UdpBackend>),
    /// `vxlan`: the kernel's VXLAN device.
    Vxlan(VxlanBackend),
    /// `host-gw`: plain routes by way of the peers.
    HostGw,
}

impl Default for Backend {
    fn default() -> Self {
        Self::Udp(Box::default())
    }
}

impl Backend {
    /// The type as flannel writes it, which leases of that type carry (those of `udp` carry none).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
        }
    }

    /// The keys of `udp`, if it is that.
    #[must_use]
    pub fn udp(&self) -> Option<&UdpBackend> {
        match self {
            Self::Udp(backend) => Some(backend),
            _ => None,
        }
    }

    /// How traffic is sealed, if it is.
    #[must_use]
    pub fn sealing(&self) -> Option<&Sealing> {
        self.udp()?.sealing.as_ref()
    }

    /// Whether nothing may travel that is not sealed.
    #[must_use]
    pub fn requires_seal(&self) -> bool {
        self.sealing().is_some_and(|sealing| sealing.mode == SealingMode::Require)
    }

    /// The keys of `vxlan`, if it is that.
    #[must_use]
    pub fn vxlan(&self) -> Option<&VxlanBackend> {
        match self {
            Self::Vxlan(backend) => Some(backend),
            _ => None,
        }
    }

    /// The VXLAN device, whether it carries everything or is one path of several.
    #[must_use]
    pub fn tunnel(&self) -> Option<&VxlanBackend> {
        match self {
            Self::Udp(backend) => backend.vxlan.as_ref(),
            Self::Vxlan(backend) => Some(backend),
            Self::HostGw => None,
        }
    }

    /// The ways to peers that are open, the one to be preferred first.
    #[must_use]
    pub fn paths(&self) -> &[PathKind] {
        match self {
            Self::Udp(backend) => &backend.paths,
            Self::Vxlan(_) => &[PathKind::Vxlan],
            Self::HostGw => &[PathKind::HostGw],
        }
    }

    /// The UDP port between the nodes, where there is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Udp(backend) => Some(backend.port),
            Self::Vxlan(backend) => Some(backend.port),
            Self::HostGw => None,
        }
    }

    /// `MTU` of the underlay in bytes; the interface's own if absent.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Self::Udp(backend) => backend.mtu,
            Self::Vxlan(backend) => backend.mtu,
            Self::HostGw => None,
        }
    }
}

/// Reads the object; `None` (no such key) means udp with its defaults. Mistakes in its values go to
/// `mistakes`, a type that cannot be used is the error.
pub(super) fn read(
    value: Option<&Value>,
    mistakes: &mut Vec<String>,
) -> Result<Backend, ConfigError> {
    let object = match value {
        None => return Ok(Backend::default()),
        Some(Value::Null) => return Err(ConfigError::BackendTypeMissing),
        Some(Value::Object(object)) => object,
        Some(other) => {
            mistakes.push(format!("Backend is {}, expected an object", other.kind()));
            return Ok(Backend::default());
        }
    };
    let kind = Fields::new(object, "Backend.", mistakes).text("Type").unwrap_or("").to_lowercase();
    match kind.as_str() {
        "udp" => Ok(Backend::Udp(Box::new(read_udp(object, mistakes)))),
        "vxlan" => Ok(Backend::Vxlan(read_vxlan(object, mistakes))),
        "host-gw" => {
            refuse_sealing(object, mistakes);
            Ok(Backend::HostGw)
        }
        "" => Err(ConfigError::BackendTypeMissing),
        _ => match way_out(&kind) {
            Some(instead) => Err(ConfigError::BackendNotHere { kind, instead }),
            None => Err(ConfigError::BackendUnknown { kind }),
        },
    }
}

/// What to use in place of a type that flannel has and this program does not.
fn way_out(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "wireguard" | "ipsec" => {
            "Use \"vxlan\" over a network that encrypts by itself, or stay with flanneld"
        }
        "ipip" => "Use \"vxlan\" with \"DirectRouting\": true, or \"host-gw\"",
        "extension" => "Use \"vxlan\", and run the commands from outside, or stay with flanneld",
        "alloc" => "Use \"host-gw\", which needs no device, or stay with flanneld",
        "tencent-vpc" => "Use \"vxlan\", which needs nothing of the cloud, or stay with flanneld",
        _ => return None,
    })
}

fn read_vxlan(object: &Object, mistakes: &mut Vec<String>) -> VxlanBackend {
    let mut fields = Fields::new(object, "Backend.", mistakes);
    let (vni, port) = vni_and_port(&mut fields);
    let backend = VxlanBackend {
        vni,
        port,
        mtu: underlay_mtu(&mut fields),
        gbp: fields.boolean("GBP").unwrap_or(false),
        learning: fields.boolean("Learning").unwrap_or(false),
        direct_routing: fields.boolean("DirectRouting").unwrap_or(false),
        on_demand: fields.boolean("OnDemand").unwrap_or(false),
    };
    refuse_sealing(object, mistakes);
    backend
}

fn vni_and_port(fields: &mut Fields<'_>) -> (u32, u16) {
    let defaults = VxlanBackend::default();
    let vni = fields.unsigned("VNI").unwrap_or(u64::from(defaults.vni));
    if vni > VNI_MAX {
        fields.mistake("VNI", &format!("{vni} must be from 0 to {VNI_MAX}"));
    }
    // flannel hands 0 to the kernel, which then takes its default.
    let port = match fields.unsigned("Port").map(u16::try_from) {
        None | Some(Ok(0)) => defaults.port,
        Some(Ok(port)) => port,
        Some(Err(_)) => {
            fields.mistake("Port", "must be from 0 to 65535");
            defaults.port
        }
    };
    (u32::try_from(vni).unwrap_or(defaults.vni), port)
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
    let sealing = sealing(&mut fields);
    let paths = paths::read(&mut fields);
    let is_required = sealing.as_ref().is_some_and(|one| one.mode == SealingMode::Require);
    if is_required && paths.len() > 1 {
        fields.mistake(
            "Paths",
            "has more than \"udp\" beside Encryption, and packets would travel unsealed there; leave \
             out one of them, or set EncryptionMode to \"offer\"",
        );
    }
    let vxlan = path_vxlan(object, &paths, mtu, mistakes);
    UdpBackend { port, source_ports, mtu, allowed_sources, strict_source, sealing, paths, vxlan }
}

/// A mistake here must not end in traffic that is not sealed, and never shows the secret.
fn sealing(fields: &mut Fields<'_>) -> Option<Sealing> {
    let is_on = match fields.text("Encryption") {
        None | Some("") => false,
        Some("wireguard") => true,
        Some(other) => {
            fields.mistake("Encryption", &format!("{other:?} is unknown; use \"wireguard\""));
            true
        }
    };
    let asked_for = fields.text("EncryptionMode").filter(|mode| !mode.is_empty());
    let mode = match asked_for {
        None | Some("require") => SealingMode::Require,
        Some("offer") => SealingMode::Offer,
        Some(other) => {
            let text = format!("{other:?} is unknown; use \"require\" or \"offer\"");
            fields.mistake("EncryptionMode", &text);
            SealingMode::Require
        }
    };
    let text = fields.text("PSK").filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.parse::<PresharedKey>().is_err()) {
        fields.mistake("PSK", "is not 32 bytes in base64, as `wg genpsk` writes them");
    }
    if !is_on && (asked_for.is_some() || text.is_some()) {
        fields.mistake(
            "Encryption",
            "is missing beside PSK or EncryptionMode; add \"Encryption\": \"wireguard\"",
        );
    }
    is_on.then(|| Sealing { mode, preshared: text.and_then(|text| text.parse().ok()) })
}

/// The kernel's paths carry packets as they are.
fn refuse_sealing(object: &Object, mistakes: &mut Vec<String>) {
    for key in ["Encryption", "EncryptionMode", "PSK"] {
        if object.all(key).any(|value| *value != Value::Null && !is_empty(value)) {
            mistakes.push(format!(
                "Backend.{key} needs the type \"udp\", which is the only one that seals"
            ));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.is_empty())
}

/// The device of the path `vxlan`.
fn path_vxlan(
    object: &Object,
    paths: &[PathKind],
    mtu: Option<u32>,
    mistakes: &mut Vec<String>,
) -> Option<VxlanBackend> {
    let is_open = paths.contains(&PathKind::Vxlan);
    let keys = match object.last("VXLAN") {
        None | Some(Value::Null) => &Object::default(),
        Some(Value::Object(keys)) => keys,
        Some(other) => {
            mistakes.push(format!("Backend.VXLAN is {}, expected an object", other.kind()));
            return None;
        }
    };
    if !is_open && object.last("VXLAN").is_some_and(|value| *value != Value::Null) {
        mistakes.push("Backend.VXLAN is set, but Backend.Paths does not list \"vxlan\"".into());
    }
    let (vni, port) = vni_and_port(&mut Fields::new(keys, "Backend.VXLAN.", mistakes));
    is_open.then(|| VxlanBackend { vni, port, mtu, ..VxlanBackend::default() })
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
