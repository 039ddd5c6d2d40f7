//! The device's settings below `/proc/sys/net`, in the network namespace of the calling thread.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// A setting of the device that must not keep its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Accept a source address if any interface leads back to it, not only this one. The strict
    /// check drops what comes from hosts outside of the network, and 2 here wins over a strict
    /// `all` (Documentation/networking/ip-sysctl.rst).
    ReversePath,
    /// No IPv6 address of the link: nobody is there to talk to it, and flannel's peers read every
    /// packet as IPv4.
    LinkAddress,
    /// Nobody on this device may announce routers.
    RouterAdvertisements,
}

impl Setting {
    /// All, in the order in which they are set.
    pub const ALL: [Self; 3] = [Self::LinkAddress, Self::RouterAdvertisements, Self::ReversePath];

    /// The value that it should have.
    #[must_use]
    pub fn wanted(self) -> u8 {
        match self {
            Self::ReversePath => 2,
            // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
            Self::LinkAddress => 1,
            Self::RouterAdvertisements => 0,
        }
    }

    /// Whether packets are lost without it.
    pub(super) fn is_needed(self) -> bool {
        self == Self::ReversePath
    }

    /// The value that it has; `None` if the kernel has no such setting, as without IPv6.
    pub(super) fn read(self, device: &str) -> Option<u8> {
        fs::read_to_string(self.path(device)).ok()?.trim().parse().ok()
    }

    /// Gives it the value that it should have.
    pub(super) fn write(self, device: &str) -> io::Result<()> {
        fs::write(self.path(device), self.wanted().to_string())
    }

    fn path(self, device: &str) -> PathBuf {
        let family = if self == Self::ReversePath { "ipv4" } else { "ipv6" };
        ["/proc/sys/net", family, "conf", device, self.name()].iter().collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::ReversePath => "rp_filter",
            Self::LinkAddress => "addr_gen_mode",
            Self::RouterAdvertisements => "accept_ra",
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
