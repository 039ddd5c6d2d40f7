//! The two sides of the lab and their names and addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One host with its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that starts the load.
    One,
    /// The side that runs the servers.
    Two,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Side; 2] = [Side::One, Side::Two];

    /// The opposite side.
    pub fn other(self) -> Side {
        match self {
            Side::One => Side::Two,
            Side::Two => Side::One,
        }
    }

    /// 1 or 2, as in the names.
    pub fn number(self) -> u8 {
        match self {
            Side::One => 1,
            Side::Two => 2,
        }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.number() - 1)
    }

    /// The pod's address, 10.244.n.2.
    pub fn pod_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number(), 2)
    }

    /// The host's address in its own subnet, 10.244.n.1.
    pub fn gateway_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number(), 1)
    }

    /// The first address of the subnet, 10.244.n.0, which an overlay's device carries.
    pub fn overlay_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number(), 0)
    }

    /// The subnet, 10.244.n.0/24.
    pub fn subnet(self) -> String {
        format!("{}/24", self.overlay_address())
    }

    /// The pod's IPv6 address, fd00:244:n::2.
    pub fn pod_address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x244, u16::from(self.number()), 0, 0, 0, 0, 2)
    }

    /// The host's IPv6 address in its own subnet, fd00:244:n::1.
    pub fn gateway_address_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x244, u16::from(self.number()), 0, 0, 0, 0, 1)
    }

    /// The host's address on the link between the hosts, 10.168.0.n+1.
    pub fn underlay_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 168, 0, self.number() + 1)
    }

    /// The host's device on the link between the hosts.
    pub fn underlay_device(self) -> &'static str {
        match self {
            Side::One => "u1",
            Side::Two => "u2",
        }
    }

    /// The host's end of the link to its pod.
    pub fn pod_link(self) -> &'static str {
        match self {
            Side::One => "c1",
            Side::Two => "c2",
        }
    }
}
