//! Host 2 as fifty peers of host 1, for packets that go to many.
//!
//! What many peers cost the sender is that its trains get short. So host 1 is told of fifty subnets
//! behind fifty addresses of the link. All of these are host 2's, whose own subnet is a quarter
//! of the network and holds the fifty, so that it takes what comes as usual. That costs it one
//! rewritten address a datagram, on every path alike.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use super::vxlan::{self, DEVICE};
use super::{PathKind, Programs, RunningPath, START_LIMIT, Weft, own, peer, route_through_hosts};
use crate::lab::{Lab, NETWORK, Side, wait_until};

/// How many there are.
pub(crate) const PEERS: u8 = 50;

/// What host 2 takes for the subnet of host 1, its own, and its first address.
const LOWER: &str = "10.244.0.0/18";
const UPPER: &str = "10.244.128.0/18";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 128, 1);

/// The addresses of the peers on the link.
const OUTER: &str = "10.168.1.0/24";

/// One peer: its subnet, one pod in it, and its address on the link.
struct Peer {
    subnet: String,
    pod: Ipv4Addr,
    outer: Ipv4Addr,
}

fn peers() -> impl Iterator<Item = Peer> {
    (0..PEERS).map(|number| Peer {
        subnet: format!("10.244.{}.0/24", 128 + number),
        pod: Ipv4Addr::new(10, 244, 128 + number, 2),
        outer: Ipv4Addr::new(10, 168, 1, 1 + number),
    })
}

/// An address in each peer's subnet that answers in pod 2.
pub fn pods() -> impl Iterator<Item = Ipv4Addr> {
    peers().map(|peer| peer.pod)
}

impl RunningPath {
    /// Like [`RunningPath::start`], but host 2 stands for fifty peers. Such a path ends with its lab.
    ///
    /// # Errors
    /// The path cannot be set up, or not with so many peers.
    pub fn start_to_many(lab: &Lab, kind: PathKind, programs: &Programs) -> Result<RunningPath> {
        share_link(lab)?;
        let mut path = RunningPath::of(kind);
        match kind {
            PathKind::HostGw => route_to_many(lab)?,
            PathKind::Vxlan => vxlan_to_many(lab)?,
            PathKind::Weft | PathKind::WeftEpoll | PathKind::Weft2 => {
                path.start_weft_to_many(lab, programs)?;
            }
            PathKind::PerPacket | PathKind::TokioUring => {
                let many = peers().map(|each| peer(&each.subnet, each.outer));
                let many: Vec<String> = many.chain([own(&Side::One.subnet())]).collect();
                path.start_forwarder(lab, Side::One, programs, &many)?;
                let one = peer(&Side::One.subnet(), Side::One.underlay_address());
                path.start_forwarder(lab, Side::Two, programs, &[own(UPPER), one])?;
            }
            _ => bail!("One host cannot stand for many peers on the path {}", kind.name()),
        }
        // The daemons drop replies that are not from the peer's own address, and rightly so.
        if path.nodes.is_empty() {
            pods().try_for_each(|pod| path.wait_for_traffic(lab, pod))?;
        }
        Ok(path)
    }

    fn start_weft_to_many(&mut self, lab: &Lab, programs: &Programs) -> Result<()> {
        let mut weft = Weft::new(&programs.weft);
        weft.flags = self.weft_flags(programs);
        let lease = |subnet: &str, outer: Ipv4Addr| {
            (subnet.replace('/', "-"), format!(r#"{{"PublicIP":"{outer}"}}"#))
        };
        let many: Vec<_> = peers().map(|peer| lease(&peer.subnet, peer.outer)).collect();
        let one = vec![lease(LOWER, Side::One.underlay_address())];
        let gateway = Side::One.gateway_address();
        self.nodes.push(weft.start_knowing(lab, Side::One, &format!("{gateway}/24"), &many)?);
        // Leases have the length that the config says.
        weft.config =
            format!(r#"{{"Network":"{NETWORK}","SubnetLen":18,"Backend":{{"Type":"udp"}}}}"#);
        self.nodes.push(weft.start_knowing(lab, Side::Two, &format!("{GATEWAY}/18"), &one)?);
        for (node, (side, known)) in self.nodes.iter().zip([(Side::One, PEERS), (Side::Two, 1)]) {
            wait_until("the peers in a daemon's table", START_LIMIT, || {
                let status = node.status(lab.host(side)).ok();
                Ok(status.filter(|status| status["peers"] == known).map(drop))
            })?;
        }
        Ok(())
    }
}

/// Host 2 has all the addresses, and its pod all the pods'.
fn share_link(lab: &Lab) -> Result<()> {
    let [one, two] = Side::BOTH.map(|side| lab.host(side));
    one.ip(&["route", "add", OUTER, "dev", Side::One.underlay_device()])?;
    two.ip(&["route", "add", "local", OUTER, "dev", "lo"])?;
    let pod = Side::Two.pod_address().to_string();
    two.ip(&["route", "add", UPPER, "via", &pod])?;
    lab.pod(Side::Two).ip(&["route", "add", "local", UPPER, "dev", "lo"])?;
    let own = Side::Two.underlay_address();
    // Sockets of daemons are bound to this address.
    let rules = format!(
        "table ip peers {{
            chain arrivals {{
                type filter hook prerouting priority raw
                ip daddr {OUTER} ip daddr set {own}
            }}
        }}"
    );
    two.run(&["nft", &rules]).map(drop)
}

fn route_to_many(lab: &Lab) -> Result<()> {
    route_through_hosts(lab)?;
    let (host, device) = (lab.host(Side::One), Side::One.underlay_device());
    peers().try_for_each(|Peer { subnet, outer, .. }| {
        let route = ["route", "add", &subnet, "via", &outer.to_string(), "dev", device];
        host.ip(&route).map(drop)
    })
}

/// Host 1's device takes the other host from the route: hardware addresses, by which it looks it up
/// otherwise, would have to be as many as the peers, and host 2's device has one.
fn vxlan_to_many(lab: &Lab) -> Result<()> {
    vxlan::set_up_external(lab)?;
    let (host, gateway) = (lab.host(Side::One), Side::Two.overlay_address().to_string());
    peers().try_for_each(|Peer { subnet, outer, .. }| {
        let outer = outer.to_string();
        #[rustfmt::skip]
        let route = [
            "route", "add", &subnet, "encap", "ip", "id", "1", "dst", &outer,
            "via", &gateway, "dev", DEVICE, "onlink",
        ];
        host.ip(&route).map(drop)
    })
}
