//! `Paths`: the ways to a peer that nodes of the type `udp` open.

use std::fmt;

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
