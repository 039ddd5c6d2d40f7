//! Routes that carry nothing: the last of all to a destination, for what no other route takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use rtnetlink::RouteMessageBuilder;

use crate::device::ROUTE_PROTOCOL;
use crate::interface::snapshot::Route;
use crate::kernel::object::RouteKind;

/// Why nothing is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What is for the own subnet and for no pod in it would leave by the default route.
    NoPod,
    /// What is for the network would leave in clear while there is no tunnel.
    NoTunnel,
}

impl Refusal {
    /// Any other route comes before, and the own subnet's comes after the network's. Bridges have the
    /// same destination as the blackhole route of their subnet, and of two routes of one metric the
    /// kernel would prefer the older one.
    const fn metric(self) -> u32 {
        match self {
            Refusal::NoPod => u32::MAX,
            Refusal::NoTunnel => u32::MAX - 1,
        }
    }

    fn kind(self) -> RouteType {
        match self {
            Refusal::NoPod => RouteType::BlackHole,
            Refusal::NoTunnel => RouteType::Unreachable,
        }
    }

    /// Whether weft has made a route for this reason.
    pub(super) fn has_made(self, route: &Route) -> bool {
        !route.unicast && route.protocol == ROUTE_PROTOCOL && route.metric == self.metric()
    }

    pub(super) fn message(self, destination: IpNet) -> RouteMessage {
        let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let length = destination.prefix_len();
        match destination.network() {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, length)
                .kind(self.kind())
                .priority(self.metric())
                .protocol(protocol)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, length)
                .kind(self.kind())
                .priority(self.metric())
                .protocol(protocol)
                .build(),
        }
    }
}

/// Whether a route of ours is one of these. They are not among the paths to peers, and whoever looks
/// after those must leave them alone.
pub(crate) fn is_one(kind: Option<&RouteKind>, metric: u32) -> bool {
    match kind {
        Some(RouteKind::Blackhole) => metric == Refusal::NoPod.metric(),
        Some(RouteKind::Unreachable) => metric == Refusal::NoTunnel.metric(),
        Some(RouteKind::Unicast { .. }) | None => false,
    }
}
