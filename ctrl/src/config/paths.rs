//! `Paths`: the ways to a peer that nodes of the type `udp` open.

use std::fmt;

use crate::json::Fields;

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// weft's engine.
    Udp,
    /// The kernel's VXLAN device.
    Vxlan,
    /// A plain route by way of the peer's host.
    HostGw,
}

impl PathKind {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Udp, Self::Vxlan, Self::HostGw];

    /// As in configs and leases.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }

    /// The path of that name, which has to be written exactly so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|path| path.name() == name)
    }

    /// As in probes.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Udp => 0,
            Self::Vxlan => 1,
            Self::HostGw => 2,
        }
    }

    /// The path of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|path| path.number() == number)
    }

    /// Its place in an array of all paths.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.number())
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Reads the list. Everything that is wrong with it is a mistake.
pub(super) fn read(fields: &mut Fields<'_>) -> Vec<PathKind> {
    let Some(names) = fields.texts("Paths") else { return vec![PathKind::Udp] };
    let mut paths = Vec::new();
    for name in names {
        match PathKind::from_name(name) {
            None => {
                let text = format!(
                    "has {name:?}, which is no path. Paths are \"udp\", \"vxlan\" and \"host-gw\""
                );
                fields.mistake("Paths", &text);
            }
            Some(path) if paths.contains(&path) => {
                fields.mistake("Paths", &format!("lists {name:?} twice"));
            }
            Some(path) => paths.push(path),
        }
    }
    if !paths.contains(&PathKind::Udp) {
        fields.mistake(
            "Paths",
            "does not list \"udp\", which works where nothing else does. Add it, or use the Type \
             \"vxlan\" or \"host-gw\" to do without",
        );
    }
    paths
}
