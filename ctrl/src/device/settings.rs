//! The device's settings below `/proc/sys/net`, in the network namespace of the calling thread.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The one value of `rp_filter` that demands the way back to lead through the same device.
const STRICT: u8 = 1;

/// A setting of the device that must not keep its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// No strict check of the way back to a source address, which drops what comes from hosts outside of
    /// the network. Where one is in force, 2 here wins over a strict `all`: then any interface may lead
    /// back. Where none is, it stays so: every packet would pay for a look into the routes.
    ReversePath,
    /// No IPv6 address of the link: nobody is there to talk to it, and flannel's peers read every
    /// packet as IPv4.
    LinkAddress,
    /// Nobody on this device may announce routers.
    RouterAdvertisements,
    /// How often the kernel asks programs for a neighbour that it does not know (`RTM_GETNEIGH`).
    AskPrograms {
        /// For IPv6 instead of IPv4.
        v6: bool,
    },
    /// How often it asks the network after that.
    AskNetwork {
        /// For IPv6 instead of IPv4.
        v6: bool,
    },
}

impl Setting {
    /// Those of every device, in the order in which they are set.
    pub const COMMON: [Self; 3] =
        [Self::LinkAddress, Self::RouterAdvertisements, Self::ReversePath];

    /// All, those of every device first.
    pub const ALL: [Self; 7] = {
        let [first, second, third] = Self::COMMON;
        let [ask_v4, quiet_v4] = Self::on_demand(false);
        let [ask_v6, quiet_v6] = Self::on_demand(true);
        [first, second, third, ask_v4, quiet_v4, ask_v6, quiet_v6]
    };

    /// Those of a device whose neighbours are made when the kernel asks for them.
    #[must_use]
    pub const fn on_demand(v6: bool) -> [Self; 2] {
        [Self::AskPrograms { v6 }, Self::AskNetwork { v6 }]
    }

    /// The value that it gets where the one in force is not right.
    #[must_use]
    pub fn wanted(self) -> u8 {
        match self {
            Self::ReversePath => 2,
            // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
            Self::LinkAddress => 1,
            Self::RouterAdvertisements | Self::AskNetwork { .. } => 0,
            // A second apart, and then the packets that wait are dropped.
            Self::AskPrograms { .. } => 3,
        }
    }

    /// Whether a value may stay as it is.
    #[must_use]
    pub fn is_right(self, value: u8) -> bool {
        match self {
            Self::ReversePath => value != STRICT,
            _ => value == self.wanted(),
        }
    }

    /// Whether packets are lost without it, so a container whose `/proc/sys` cannot be written mostly
    /// works as it is.
    pub(crate) fn is_needed(self, device: &str) -> bool {
        match self {
            Self::ReversePath => self.read(device).is_none_or(|value| !self.is_right(value)),
            Self::LinkAddress | Self::RouterAdvertisements => false,
            Self::AskPrograms { .. } | Self::AskNetwork { .. } => true,
        }
    }

    /// The value in force; `None` if the kernel has no such setting, as without IPv6. Of the reverse-path
    /// checks, the greater one of the device's and the common one is
    /// (Documentation/networking/ip-sysctl.rst).
    pub(crate) fn read(self, device: &str) -> Option<u8> {
        let read = |device| fs::read_to_string(self.path(device)).ok()?.trim().parse().ok();
        match self {
            Self::ReversePath => in_force(read(device), read("all")),
            _ => read(device),
        }
    }

    /// Gives it the value that it should have.
    pub(crate) fn write(self, device: &str) -> io::Result<()> {
        fs::write(self.path(device), self.wanted().to_string())
    }

    fn path(self, device: &str) -> PathBuf {
        let (family, part) = match self {
            Self::ReversePath => ("ipv4", "conf"),
            Self::LinkAddress | Self::RouterAdvertisements => ("ipv6", "conf"),
            Self::AskPrograms { v6 } | Self::AskNetwork { v6 } => {
                (if v6 { "ipv6" } else { "ipv4" }, "neigh")
            }
        };
        ["/proc/sys/net", family, part, device, self.name()].iter().collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::ReversePath => "rp_filter",
            Self::LinkAddress => "addr_gen_mode",
            Self::RouterAdvertisements => "accept_ra",
            Self::AskPrograms { .. } => "app_solicit",
            Self::AskNetwork { .. } => "mcast_solicit",
        }
    }
}

/// A value that cannot be read may be anything, and so may then what is in force.
fn in_force(device: Option<u8>, all: Option<u8>) -> Option<u8> {
    device.zip(all).map(|(device, all)| device.max(all))
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_strict_and_the_greater_one_holds() {
        let rows = [(0, 0, false), (0, 1, true), (1, 0, true), (1, 1, true), (1, 2, false)];
        for (device, all, expected) in rows {
            let value = in_force(Some(device), Some(all)).unwrap();
            assert_eq!(!Setting::ReversePath.is_right(value), expected, "{device} {all}");
        }
        assert_eq!([in_force(None, Some(0)), in_force(Some(0), None)], [None; 2]);
    }

    #[test]
    fn only_a_strict_check_is_wrong() {
        let rights = [0, 1, 2].map(|value| Setting::ReversePath.is_right(value));
        assert_eq!(rights, [true, false, true]);
        assert!(Setting::ReversePath.is_right(Setting::ReversePath.wanted()));
        let rights = [0, 1, 2].map(|value| Setting::LinkAddress.is_right(value));
        assert_eq!(rights, [false, true, false]);
    }
}
