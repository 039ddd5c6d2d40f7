//! The shortcut of small packets past the workers: kept at the devices, addresses and peers of the day.
//!
//! It is an addition. Where it cannot be had, or not to a peer, the workers carry everything.

mod routes;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};
use weft_ctrl::controller::DEVICE_NAME;
use weft_forward::table::{Peer, Table};
use weft_sys::netlink::{Way, outbound_policies};
use weft_sys::shortcut::{
    Device, Habits, Shortcut, ShortcutCounts, ShortcutError, ShortcutOptions, ShortcutPeer,
};

use routes::Routes;

/// How often devices, routes and policies are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Pause after each time that it was kept, so that many tables within it cost no more than one.
const PAUSE: Duration = Duration::from_millis(50);

/// Peers whose route is looked at again in one period: two system calls each.
const ROUTES_EACH: usize = 500;

/// The shortcut of this daemon.
#[derive(Debug)]
pub(super) struct Shortcuts {
    keeper: Mutex<Keeper>,
    /// Something was changed that it follows.
    changed: Notify,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// Hosts do not reach each other as the programs do it.
    #[error("The interface between the hosts is no Ethernet device with an IPv4 address")]
    Underlay,
    /// The kernel's part.
    #[error(transparent)]
    Kernel(#[from] ShortcutError),
}

#[derive(Debug)]
struct Keeper {
    /// Number of the underlay's device.
    underlay: u32,
    /// Where datagrams are received, if that is an address of IPv4.
    local: Option<SocketAddrV4>,
    table: Arc<Table>,
    routes: Routes,
    /// IPsec decides about what leaves this host, and the programs send past it.
    has_policies: bool,
    shortcut: Option<Shortcut>,
    /// What those counted that are no more.
    earlier: ShortcutCounts,
    /// What was told last, so that it is told once.
    told: Option<String>,
    /// Stays out for good.
    stopped: bool,
}

impl Shortcuts {
    /// Finds out whether the kernel takes the programs between the tunnel device and the underlay's. They
    /// are put in once there is a lease, which says that they are.
    pub(super) fn probe(
        underlay: &str,
        addresses: &[SocketAddr],
        table: &Arc<Table>,
    ) -> Result<Self, Missing> {
        let local = local(addresses).ok_or(Missing::Underlay)?;
        let underlay = Device::named(underlay).map_err(|_| Missing::Underlay)?;
        let keeper = Keeper {
            underlay: underlay.index,
            local: Some(local),
            table: Arc::clone(table),
            routes: Routes::default(),
            has_policies: has_policies(),
            shortcut: None,
            earlier: ShortcutCounts::default(),
            told: None,
            stopped: false,
        };
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let options = keeper.between(nowhere, Ipv4Addr::UNSPECIFIED, 32);
        Shortcut::attach(options.ok_or(Missing::Underlay)?)?;
        Ok(Self { keeper: Mutex::new(keeper), changed: Notify::new() })
    }

    /// A table is in force. It is followed soon.
    pub(super) fn adopt(&self, table: &Arc<Table>) {
        self.keeper().table = Arc::clone(table);
        self.changed.notify_one();
    }

    /// Datagrams are received elsewhere from now on.
    pub(super) fn rebind(&self, addresses: &[SocketAddr]) {
        self.keeper().local = local(addresses);
        self.changed.notify_one();
    }

    /// The tunnel device is another one.
    pub(super) fn follow_device(&self) {
        self.changed.notify_one();
    }

    /// What took it until now.
    pub(super) fn counts(&self) -> ShortcutCounts {
        self.keeper().counts()
    }

    /// Whether there is one now.
    pub(super) fn is_there(&self) -> bool {
        self.keeper().shortcut.is_some()
    }

    /// Follows tables, addresses, devices that come and go, and routes that change.
    pub(super) async fn watch(&self) -> Infallible {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let again = tokio::select! {
                _ = ticks.tick() => {
                    self.keeper().has_policies = has_policies();
                    ROUTES_EACH
                }
                () = self.changed.notified() => 0,
            };
            self.keeper().follow(again);
            sleep(PAUSE).await;
        }
    }

    /// Nothing takes it any more.
    pub(super) fn stop(&self) {
        let mut keeper = self.keeper();
        keeper.take_out();
        keeper.stopped = true;
    }

    /// Nothing panics while it holds the lock in a way that would leave halves behind.
    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// `None` unless both devices are there, and the underlay's has the headers that are expected of it.
    fn between(&self, local: SocketAddrV4, own: Ipv4Addr, prefix: u8) -> Option<ShortcutOptions> {
        let device = Device::named(DEVICE_NAME).ok()?;
        let underlay = Device::numbered(self.underlay).ok().filter(|device| device.is_ethernet)?;
        Some(ShortcutOptions {
            device: device.index,
            underlay: underlay.index,
            local,
            own,
            prefix,
            habits: Habits::default(),
        })
    }

    fn wanted(&self) -> Option<ShortcutOptions> {
        let own = self.table.own_v4().filter(|_| !self.stopped)?;
        self.between(self.local?, own.network(), own.prefix_len())
    }

    /// Looks at the routes to new peers, and to so many again, and makes the shortcut what it should be.
    fn follow(&mut self, again: usize) {
        let looked = self.routes.look(&outer_of(&self.table), again);
        if let Some(local) = self.local {
            self.underlay = self.routes.device(*local.ip(), self.underlay);
        }
        match looked.map_err(ShortcutError::Missing).and_then(|()| self.keep()) {
            Ok(()) => self.told = None,
            Err(error) => self.tell(format!(
                "small packets are not all carried by the kernel, and some of peers may be lost: {error}"
            )),
        }
    }

    fn keep(&mut self) -> Result<(), ShortcutError> {
        let wanted = self.wanted();
        if self.shortcut.as_ref().map(|shortcut| *shortcut.options()) != wanted {
            self.take_out();
            self.shortcut = wanted.map(Shortcut::attach).transpose()?;
        }
        let Some(shortcut) = &mut self.shortcut else { return Ok(()) };
        let ShortcutOptions { underlay, local, prefix, .. } = *shortcut.options();
        let by = Way { device: underlay, source: *local.ip() };
        let sent_to = |outer: &SocketAddrV4| !self.has_policies && self.routes.lead_to(*outer, by);
        let peers = self.table.peers().iter().filter_map(|peer| peer_of(peer, prefix));
        let peers = peers.map(|peer| ShortcutPeer { outer: peer.outer.filter(sent_to), ..peer });
        let peers: Vec<_> = peers.collect();
        shortcut.set_peers(&peers)
    }

    fn take_out(&mut self) {
        self.earlier = self.counts();
        self.shortcut = None;
    }

    fn counts(&self) -> ShortcutCounts {
        let now = self.shortcut.as_ref().and_then(|shortcut| shortcut.counts().ok());
        let (earlier, now) = (self.earlier, now.unwrap_or_default());
        ShortcutCounts {
            packets_out: earlier.packets_out + now.packets_out,
            bytes_out: earlier.bytes_out + now.bytes_out,
            packets_in: earlier.packets_in + now.packets_in,
            bytes_in: earlier.bytes_in + now.bytes_in,
            lost: earlier.lost + now.lost,
        }
    }

    fn tell(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            warn!("{text}");
            self.told = Some(text);
        }
    }
}

/// One line where there is none, and the reason.
pub(super) fn log_missing(missing: &Missing) {
    info!(reason = %missing, "small packets go by the workers, too");
}

fn local(addresses: &[SocketAddr]) -> Option<SocketAddrV4> {
    addresses.iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(*address),
        SocketAddr::V6(_) => None,
    })
}

/// Whether there are any, as far as can be told.
fn has_policies() -> bool {
    outbound_policies().map_or(true, |count| count > 0)
}

/// Where the peers are that may be sent something on it.
fn outer_of(table: &Table) -> Vec<Ipv4Addr> {
    let peers = table.peers().iter().filter(|peer| peer.shortcut);
    let outer = peers.filter_map(|peer| match peer.outer.ip() {
        IpAddr::V4(outer) => Some(outer),
        IpAddr::V6(_) => None,
    });
    outer.collect()
}

/// What the programs know of a peer whose pods' subnet is as long as ours. It is heard also if its lease
/// does not say, as far as we know it, that it has a shortcut: that may have changed.
fn peer_of(peer: &Peer, prefix: u8) -> Option<ShortcutPeer> {
    let SocketAddr::V4(outer) = peer.outer else { return None };
    let subnet = peer.subnet_v4.filter(|subnet| subnet.prefix_len() == prefix)?;
    let sources = peer.addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let sources: BTreeSet<Ipv4Addr> = sources.chain([*outer.ip()]).collect();
    let sources = sources.into_iter().collect();
    Some(ShortcutPeer { subnet: subnet.network(), outer: peer.shortcut.then_some(outer), sources })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            slot: 0,
            generation: 1,
            outer: "192.0.2.2:8285".parse().unwrap(),
            subnet_v4: Some("10.5.2.0/24".parse().unwrap()),
            subnet_v6: None,
            addresses: vec!["198.51.100.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
            inner_v6: false,
            source_ports: false,
            shortcut: true,
            mtu: None,
        }
    }

    #[test]
    fn a_peer_sends_from_all_its_addresses() {
        let found = peer_of(&peer(), 24).unwrap();
        assert_eq!(found.subnet, Ipv4Addr::new(10, 5, 2, 0));
        assert_eq!(found.outer, Some("192.0.2.2:8285".parse().unwrap()));
        let expected: [Ipv4Addr; 2] =
            ["192.0.2.2", "198.51.100.2"].map(|text| text.parse().unwrap());
        assert_eq!(found.sources, expected);
    }

    #[test]
    fn peers_without_a_shortcut_are_left_to_the_workers() {
        let found = peer_of(&Peer { shortcut: false, ..peer() }, 24).unwrap();
        assert_eq!((found.outer, found.sources.len()), (None, 2), "it is heard all the same");
        let cases = [
            (Peer { subnet_v4: None, ..peer() }, "has no pods with IPv4"),
            (Peer { outer: "[2001:db8::2]:8285".parse().unwrap(), ..peer() }, "is not at IPv4"),
            (Peer { subnet_v4: Some("10.5.2.0/25".parse().unwrap()), ..peer() }, "another length"),
        ];
        for (peer, why) in cases {
            assert_eq!(peer_of(&peer, 24), None, "{why}");
        }
    }
}
