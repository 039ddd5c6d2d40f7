//! The machines of a worker, with the test in the place of the kernel.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crossbeam_channel::{Receiver, bounded};
use weft_forward::{
    checksum,
    counters::Counters,
    table::{Peer, Table, TableInput},
    virtio,
};
use weft_sys::{
    gather::Gather,
    ring::{Datagram, Errno, Pools},
    tun::Offloads,
    udp::Received,
};

use crate::{
    framer::{Framer, Plain},
    inbound::{self, Inbound},
    memory::{self, TRAIN_ARENA_SEALED, TRAINS},
    outbound::{Departure, Outbound},
    peers::Peers,
    progress::Progress,
    shared::Shared,
    worker::Event,
    writes::Writes,
};

/// Peers of the table. Peer *n* has 10.244.*(n + 2)*.0/24 and sends from 127.0.0.*(n + 2)*, so
/// that asking the kernel for the path stays on this host. The last one takes no IPv6, and is the
/// only one that takes several source ports.
const PEERS: u16 = 3;

/// What the device takes joined, and how many segments.
pub(crate) const ALL: Offloads = Offloads { checksum: true, tso: true, tso_ecn: true, uso: true };
const JOINED_MAX: u16 = 128;

/// Our own subnet is 10.244.1.0/24 and fd00:244:0:1::/64.
pub(crate) fn table_input() -> TableInput {
    TableInput {
        epoch: 1,
        network_v4: Some("10.244.0.0/16".parse().unwrap()),
        network_v6: Some("fd00:244::/48".parse().unwrap()),
        own_v4: Some("10.244.1.0/24".parse().unwrap()),
        own_v6: Some("fd00:244:0:1::/64".parse().unwrap()),
        peers: (0..PEERS).map(peer).collect(),
        ..TableInput::default()
    }
}

fn peer(slot: u16) -> Peer {
    let number = slot + 2;
    let outer: SocketAddr = format!("127.0.0.{number}:8285").parse().unwrap();
    Peer {
        slot,
        generation: 1,
        outer,
        subnet_v4: Some(format!("10.244.{number}.0/24").parse().unwrap()),
        subnet_v6: Some(format!("fd00:244:0:{number}::/64").parse().unwrap()),
        addresses: vec![outer.ip()],
        inner_v6: slot + 1 < PEERS,
        source_ports: slot + 1 == PEERS,
        shortcut: false,
        mtu: None,
    }
}

/// A train that the outbound machine handed to the engine.
#[derive(Debug)]
pub(crate) struct Sent {
    gather: Gather,
    pub to: SocketAddr,
    pub socket: usize,
    pub segment: Option<u16>,
    pub linked: bool,
    pub bytes: Vec<u8>,
}

impl Sent {
    fn new(departure: Departure) -> Sent {
        let Departure { gather, socket, segment, linked } = departure;
        let to = gather.name().to_socket_addr().unwrap();
        let bytes = bytes_of(&gather);
        Sent { gather, to, socket, segment, linked, bytes }
    }

    /// What the kernel would put on the wire.
    pub(crate) fn datagrams(&self) -> Vec<Vec<u8>> {
        let size = self.segment.map_or(self.bytes.len(), usize::from);
        self.bytes.chunks(size).map(<[u8]>::to_vec).collect()
    }
}

fn bytes_of(gather: &Gather) -> Vec<u8> {
    // Longer than needed and dirty: nothing but the gather's bytes may be written.
    let mut out = vec![0xa5; gather.len() + 1];
    gather.copy_out(0..gather.len(), &mut out);
    assert_eq!(out.pop(), Some(0xa5));
    out
}

/// Outbound and inbound machine with what they share.
pub(crate) struct Rig<F = Plain> {
    pub outbound: Outbound<F>,
    pub inbound: Inbound<F>,
    pub shared: Shared,
    pub events: Receiver<Event>,
    pools: Pools,
    seen: Vec<(String, u64)>,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(64, ALL)
    }

    pub(crate) fn with(segments_max: u16, offloads: Offloads) -> Rig {
        Rig::joining(JOINED_MAX, segments_max, offloads)
    }

    /// On a kernel that takes so many segments in one packet.
    pub(crate) fn joining(joined_max: u16, segments_max: u16, offloads: Offloads) -> Rig {
        Rig::framing(|| Plain, (joined_max, segments_max), offloads)
    }
}

impl<F: Framer> Rig<F> {
    /// With datagrams of another format, on a kernel that joins and cuts so many.
    pub(crate) fn framing(
        framer: impl Fn() -> F,
        (joined_max, segments_max): (u16, u16),
        offloads: Offloads,
    ) -> Rig<F> {
        let (pools, mut gathers) = memory::lay_out(TRAIN_ARENA_SEALED).unwrap();
        let for_writes = gathers.split_off(usize::from(TRAINS));
        let (event_queue, events) = bounded(8);
        let table = Arc::new(Table::new(table_input()).unwrap());
        let inner_mtu = 1472;
        let shared = Shared {
            peers: Peers::new(&table, inner_mtu),
            table,
            counters: Arc::new(Counters::default()),
            events: event_queue,
            writes: Writes::new(for_writes),
            sum: checksum::portable,
            inner_mtu,
            locals: vec![IpAddr::from([127, 0, 0, 1]); 2],
            now_ms: 0,
            progress: Progress::new(Arc::default()),
            icmp_limits: crate::shared::IcmpLimits::new(),
        };
        let outbound = Outbound::new(framer(), gathers, segments_max, 2);
        let inbound = Inbound::new(framer(), offloads, joined_max, checksum::portable);
        Rig { outbound, inbound, shared, events, pools, seen: Vec::new() }
    }

    /// The device gives a packet. False if no frame is free, as when the kernel says `ENOBUFS`.
    pub(crate) fn read(&mut self, header: virtio::Header, packet: &[u8]) -> bool {
        let mut space = [0; virtio::LENGTH];
        header.write(&mut space);
        self.read_raw(&[&space, packet].concat())
    }

    /// The device gives these bytes, which should begin with a virtio header.
    pub(crate) fn read_raw(&mut self, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.pools.tun.free_frame() else { return false };
        frame.narrow(0..bytes.len());
        frame.bytes_mut().unwrap().copy_from_slice(bytes);
        self.outbound.handle_frame(frame);
        true
    }

    /// The device gives a complete packet.
    pub(crate) fn read_plain(&mut self, packet: &[u8]) {
        assert!(self.read(virtio::Header::NONE, packet), "a frame is free");
    }

    /// The outbound half of a turn: the trains that leave.
    pub(crate) fn send(&mut self) -> Vec<Sent> {
        self.outbound.run(&mut self.shared);
        let mut sent = Vec::new();
        self.outbound.departures(|departure| sent.push(Sent::new(departure)));
        sent
    }

    /// The kernel says what became of a train. Gives the socket to watch, if one is full.
    pub(crate) fn sent(&mut self, train: Sent, result: Result<u32, Errno>) -> Option<usize> {
        self.outbound.handle_sent(train.gather, result, &mut self.shared)
    }

    /// The kernel takes these trains.
    pub(crate) fn accept(&mut self, trains: Vec<Sent>) {
        for train in trains {
            let bytes = train.bytes.len() as u32;
            assert_eq!(self.sent(train, Ok(bytes)), None);
        }
    }

    /// A socket gives a datagram, or a train of them. False if no frame is free.
    pub(crate) fn receive(&mut self, from: &str, bytes: &[u8], segment: Option<u16>) -> bool {
        self.receive_as(from, bytes, segment, false)
    }

    pub(crate) fn receive_as(
        &mut self,
        from: &str,
        bytes: &[u8],
        segment: Option<u16>,
        truncated: bool,
    ) -> bool {
        let Some(mut payload) = self.pools.udp.free_frame() else { return false };
        payload.narrow(0..bytes.len());
        payload.bytes_mut().unwrap().copy_from_slice(bytes);
        let control = Received { segment_size: segment, overflow: None };
        let sender = from.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 8285));
        self.inbound.handle_datagram(Datagram { payload, sender, control, truncated });
        true
    }

    /// The inbound half of a turn; the device answers every write with `result`. Gives what was
    /// written, ICMP errors of the outbound half included.
    pub(crate) fn write(&mut self, result: Result<u32, Errno>) -> Vec<Vec<u8>> {
        self.inbound.run(&mut self.shared);
        let ready: Vec<Gather> = self.shared.writes.drain().collect();
        let bytes = ready.iter().map(bytes_of).collect();
        for gather in ready {
            inbound::handle_written(gather, result, &mut self.shared);
        }
        bytes
    }

    /// As [`Rig::write`]; every write is one complete packet, given without its virtio header.
    pub(crate) fn write_plain(&mut self) -> Vec<Vec<u8>> {
        let written = self.write(Ok(0));
        let packet = |bytes: Vec<u8>| {
            let (header, packet) = bytes.split_at(virtio::LENGTH);
            assert_eq!(header, [0; virtio::LENGTH]);
            packet.to_vec()
        };
        written.into_iter().map(packet).collect()
    }

    /// Another table, as the engine adopts it.
    pub(crate) fn adopt(&mut self, input: TableInput) {
        let table = Arc::new(Table::new(input).unwrap());
        let mut peers = Peers::new(&table, self.shared.inner_mtu);
        peers.inherit(&mut self.shared.peers);
        self.shared.peers = peers;
        self.shared.table = table;
    }

    /// The worker stops; what the engine never got is counted as it does.
    pub(crate) fn stop(&mut self) {
        self.outbound.stop(&mut self.shared);
        self.inbound.stop(&mut self.shared);
    }

    /// Frames in use: for the device, for the sockets.
    pub(crate) fn held(&self) -> (u16, u16) {
        (self.pools.tun.held(), self.pools.udp.held())
    }

    /// Asserts that since the last call exactly these counters have moved, by this much.
    #[track_caller]
    pub(crate) fn assert_moved(&mut self, expected: &[(&str, u64)]) {
        let now = self.counters();
        let value = |name: &str| {
            self.seen.iter().find(|(seen, _)| seen == name).map_or(0, |(_, value)| *value)
        };
        let mut moved: Vec<(&str, u64)> = now
            .iter()
            .map(|(name, count)| (name.as_str(), *count - value(name)))
            .filter(|(_, change)| *change != 0)
            .collect();
        let mut expected = expected.to_vec();
        moved.sort_unstable();
        expected.sort_unstable();
        assert_eq!(moved, expected);
        self.seen = now;
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let snapshot = self.shared.counters.snapshot();
        let named = |prefix: &'static str| {
            move |(name, value): (&'static str, u64)| (format!("{prefix}{name}"), value)
        };
        let mut all: Vec<_> = snapshot.fields().map(named("")).collect();
        all.extend(snapshot.outbound.fields().map(named("out.")));
        all.extend(snapshot.inbound.fields().map(named("in.")));
        let drops =
            |(reason, value): (weft_forward::drops::DropReason, u64)| (reason.name(), value);
        all.extend(snapshot.outbound.drops.iter().map(drops).map(named("out.drop.")));
        all.extend(snapshot.inbound.drops.iter().map(drops).map(named("in.drop.")));
        all
    }

    /// Asserts that every segment taken in was handed on or dropped, in both directions.
    #[track_caller]
    pub(crate) fn assert_accounted(&self) {
        let now = self.shared.counters.snapshot();
        let (out, inward) = (now.outbound, now.inbound);
        assert_eq!(out.segments_in, out.segments_out + out.drops.total(), "outbound: {out:?}");
        let handed = inward.segments_out + inward.drops.total();
        assert_eq!(inward.segments_in, handed, "inbound: {inward:?}");
    }
}

/// Answers trains as the kernel does: in order, and what is linked behind a failure is cancelled.
/// `choose` says what becomes of a train that is tried. Gives what was taken.
pub(crate) fn deliver(
    rig: &mut Rig,
    trains: Vec<Sent>,
    mut choose: impl FnMut(&Sent) -> Result<(), Errno>,
) -> Vec<(SocketAddr, Vec<Vec<u8>>)> {
    let mut taken = Vec::new();
    let mut cancelled = false;
    for train in trains {
        let linked = train.linked;
        let result = if cancelled { Err(Errno::CANCELED) } else { choose(&train) };
        cancelled = linked && result.is_err();
        if result.is_ok() {
            taken.push((train.to, train.datagrams()));
        }
        let bytes = train.bytes.len() as u32;
        rig.sent(train, result.map(|()| bytes));
    }
    taken
}
