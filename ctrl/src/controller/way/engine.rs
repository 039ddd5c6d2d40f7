//! `udp`: the workers get a table, and the tunnel device is looked after.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use weft_forward::table::{Peer, Table};

use super::{Found, Learnt, Published, Way};
use crate::controller::change::Ground;
use crate::controller::publish::Publisher;
use crate::controller::{
    KeylessPeer, PeerKeys, RunError, SealedPeer, TableSink, underlay, with_cause,
};
use crate::desired::{Accepted, Book, Slots, Viewer};
use crate::device::{self, DesiredDevice, Report};
use crate::lease::Leaf;
use crate::status::PeerStatus;

/// From the end of a device to the next look. Who moves packets notices it earlier.
const GONE_PAUSE: Duration = Duration::from_millis(200);

/// See [`Way`].
pub(in crate::controller) struct EngineWay<S> {
    publisher: Publisher<S>,
    slots: Slots,
    desired: DesiredDevice,
    reports: Arc<watch::Sender<Report>>,
    /// What the paths to peers' subnets take, in bytes, where that is known to be less than the devices
    /// take.
    pub(super) narrow: BTreeMap<IpNet, u16>,
}

impl<S: TableSink> EngineWay<S> {
    /// The device was `desired` and reported; workers have the first table.
    pub(in crate::controller) fn new(
        sink: S,
        first: &Arc<Table>,
        desired: DesiredDevice,
        report: Report,
    ) -> Self {
        Self {
            publisher: Publisher::new(sink, first),
            slots: Slots::default(),
            desired,
            reports: Arc::new(watch::Sender::new(report)),
            narrow: BTreeMap::new(),
        }
    }
}

impl<S> EngineWay<S> {
    /// As [`Way::keep`], but a device that was deleted is only told. The program makes another one, which
    /// is there at the latest when packets are moved again, and which is looked after then.
    pub(super) fn keep_again(
        &self,
        mut works: watch::Receiver<bool>,
    ) -> impl Future<Output = Infallible> + use<S> + 'static {
        let (desired, reports) = (self.desired.clone(), Arc::clone(&self.reports));
        async move {
            loop {
                let gone = device::keep(&desired, &reports).await;
                warn!(%gone, "the device was deleted; it is made anew");
                reports.send_modify(|report| report.failures = vec![gone.to_string()]);
                sleep(GONE_PAUSE).await;
                works.wait_for(|works| *works).await.expect("the way outlives what it keeps");
            }
        }
    }
}

impl<S: TableSink> Way for EngineWay<S> {
    type Report = Report;

    fn mark(&mut self) {
        self.publisher.mark();
    }

    fn deadline(&self) -> Option<Instant> {
        self.publisher.deadline()
    }

    fn publish(&mut self, viewer: &Viewer, book: &Book) -> Option<Published> {
        let began = Instant::now();
        let view = viewer.view(book, &mut self.slots);
        if viewer.own_key.is_some() {
            self.publisher.seal(peer_keys(&view.accepted));
        }
        let mut input = viewer.table_input(&view, self.publisher.next_epoch());
        input.peers.iter_mut().for_each(|peer| limit(peer, &self.narrow));
        let epoch = self.publisher.publish(input);
        let peers = view.accepted.iter().filter_map(PeerStatus::of_engine).collect();
        self.publisher.spend(began.elapsed());
        Some(Published { view, peers, epoch, switches: Vec::new() })
    }

    /// The device's reports tell of addresses that are gone.
    async fn learn(&mut self) -> Learnt {
        std::future::pending().await
    }

    fn keep(&self) -> impl Future<Output = RunError> + 'static {
        let (desired, reports) = (self.desired.clone(), Arc::clone(&self.reports));
        async move { device::keep(&desired, &reports).await.into() }
    }

    fn reports(&self) -> watch::Receiver<Report> {
        self.reports.subscribe()
    }

    /// A foreign route is a problem where packets take it instead of ours.
    fn found(report: &Report) -> Found {
        let winners = report.foreign.iter().filter(|route| route.wins());
        let sentence =
            |route| format!("Somebody else routes our network ({route}). Delete that route");
        Found {
            foreign: report.foreign.iter().map(ToString::to_string).collect(),
            device: report.failures.clone(),
            routes: winners.map(sentence).collect(),
            peers: Vec::new(),
            is_stranded: !report.underlay_gone.is_empty(),
        }
    }

    fn take_subnet(&mut self, leaf: &Leaf) {
        self.desired.address_v4 = leaf.v4.map(|net| net.network());
        self.desired.address_v6 = leaf.v6.map(|net| net.network());
    }

    async fn go_over(&mut self, before: &Ground, now: &Ground) -> Result<(), String> {
        let addresses = underlay::bind_addresses(&now.interface, &now.config);
        let wanted = DesiredDevice {
            network_v4: now.config.network_v4(),
            network_v6: now.config.network_v6(),
            underlay: addresses.iter().map(SocketAddr::ip).collect(),
            ..self.desired.clone()
        };
        if !wanted.networks().eq(self.desired.networks()) {
            let checked = device::check_before(&wanted, &now.interface).await;
            checked.map_err(|error| with_cause(&error))?;
        }
        if addresses != underlay::bind_addresses(&before.interface, &before.config) {
            self.publisher.rebind(addresses.clone()).await?;
            info!(?addresses, "packets are sent from and received at another address");
        }
        self.desired = wanted;
        Ok(())
    }
}

/// The peer takes no larger packets than the way to it.
fn limit(peer: &mut Peer, narrow: &BTreeMap<IpNet, u16>) {
    let subnets = [peer.subnet_v4.map(IpNet::V4), peer.subnet_v6.map(IpNet::V6)];
    let found = subnets.iter().flatten().filter_map(|subnet| narrow.get(subnet)).copied();
    peer.mtu = found.chain(peer.mtu).min();
}

/// A lease without a key is accepted only where that is allowed.
fn peer_keys(accepted: &[Accepted]) -> PeerKeys {
    let mut keys = PeerKeys::default();
    for one in accepted {
        let Some(peer) = one.peer() else { continue };
        let attributes = &one.lease.attributes;
        let ports = attributes.weft.as_ref().and_then(|weft| weft.ports);
        let (slot, generation) = (peer.slot, peer.generation);
        match attributes.key() {
            Some(key) => keys.with.push(SealedPeer {
                slot,
                generation,
                outer: peer.outer,
                has_several_ports: ports.is_some_and(|count| count > 1),
                key,
            }),
            None => keys.without.push(KeylessPeer { slot, generation }),
        }
    }
    keys
}
