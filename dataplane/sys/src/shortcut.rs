//! The shortcut: two programs in the kernel that carry a small packet which comes alone, in the same wire
//! format, without waking a worker.
//!
//! A worker is a thread, and a thread has to be scheduled: beside a busy stream a packet waits for that
//! longer than the way itself takes. The kernel's own tunnels have no such wait, since the sender itself
//! carries its packet through them. So does the shortcut:
//!
//! * at the egress of the tunnel device, a packet gets its outer headers and goes out of the underlay's;
//! * at the ingress of the underlay's device, the outer headers of such a datagram are taken away, and
//!   what is left comes in by the tunnel device.
//!
//! Anything else is left to the workers: super-packets, packets of more than [`LENGTH_MAX`] bytes,
//! fragments, IPv6, flows that send much, peers that are not [set](Shortcut::set_peers), and all that is
//! odd in any way. See `egress` for how a flow keeps its order.
//!
//! A datagram of the shortcut has no UDP checksum (RFC 768 allows that with IPv4), which no worker's is
//! without. That tells the receiver which of them are its program's. The checksum inside may have been left
//! to a device (`CHECKSUM_PARTIAL`), and over a virtual link it arrives as it is: a worker could not
//! read that from its socket. So only peers get such datagrams that say that they have a shortcut.

mod egress;
mod ingress;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

use crate::bpf::Register::{R0, R1, R2, R3, R4, R6, R10};
use crate::bpf::{
    Assembler, Helper, Hook, Link, Map, MapKind, Program, ProgramKind, Register, Size,
};
use crate::tun::request::{Request, control_socket};

/// Bytes of the longest packet that takes it. With the outer headers it is shorter than what the kernel
/// believes every path to take (`net.ipv4.route.min_pmtu`, 552), so that no path is too small for it.
pub const LENGTH_MAX: u16 = 512;

/// More peers than these are left to the workers.
const PEERS_MAX: u32 = 16 << 10;

/// They may have several addresses.
const SENDERS_MAX: u32 = 4 * PEERS_MAX;

/// Why there is no shortcut, or a part of it. The texts have their causes in them.
#[derive(Debug, thiserror::Error)]
pub enum ShortcutError {
    /// Not allowed to load programs.
    #[error(
        "The kernel does not let us load programs ({0}): the capabilities CAP_BPF and CAP_NET_ADMIN are \
         needed. Run as root; in a container add them (`--cap-add BPF`)"
    )]
    Forbidden(io::Error),
    /// The kernel has no such thing.
    #[error(
        "The kernel does not take our programs ({0}): Linux 6.6 or newer with CONFIG_BPF_SYSCALL and \
         CONFIG_NET_XGRESS is needed"
    )]
    Missing(io::Error),
    /// More peers than there are places for.
    #[error("There are more than {PEERS_MAX} peers, and the others have none")]
    Full,
    /// Memory, mostly.
    #[error("The kernel did not take a peer in ({0})")]
    Refused(io::Error),
}

/// Between what and what it leads. All of it is written into the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortcutOptions {
    /// Number of the tunnel device.
    pub device: u32,
    /// Number of the underlay's device, which has Ethernet headers.
    pub underlay: u32,
    /// The own address on the underlay.
    pub local: SocketAddrV4,
    /// First address of this node's pods.
    pub own: Ipv4Addr,
    /// Bits that the pods of one node have in common.
    pub prefix: u8,
    /// What is left to the workers.
    pub habits: Habits,
}

/// Which packets are left to the workers for their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// Packets of a flow within about a millisecond. A flow that waits for an answer before it goes on has
    /// fewer than the default, since no way there and back takes only 10 us; one of more is cheaper in trains.
    pub burst: u16,
    /// How long a flow stays with the workers: longer than they hold a packet, also where others want the
    /// processor. All times are below two seconds.
    pub hold: Duration,
    /// The same for packets that have only followed others.
    pub gap: Duration,
    /// After this time a flow of small packets that never pauses so long leaves the workers all the same.
    pub leave: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            burst: 100,
            hold: Duration::from_millis(50),
            gap: Duration::from_millis(20),
            leave: Duration::from_secs(1),
        }
    }
}

/// A peer that has a shortcut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortcutPeer {
    /// First address of its pods, whose subnet is as long as ours.
    pub subnet: Ipv4Addr,
    /// Where its datagrams are sent to, if they may be.
    pub outer: Option<SocketAddrV4>,
    /// Where they come from.
    pub sources: Vec<Ipv4Addr>,
}

/// What took the shortcut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortcutCounts {
    /// Packets sent.
    pub packets_out: u64,
    /// Their bytes, without outer headers.
    pub bytes_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Their bytes, without outer headers.
    pub bytes_in: u64,
    /// Packets of both directions that were lost, since the kernel could not change their headers.
    pub lost: u64,
}

impl ShortcutCounts {
    /// Every number with its name.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, u64); 5] {
        [
            ("packets_out", self.packets_out),
            ("bytes_out", self.bytes_out),
            ("packets_in", self.packets_in),
            ("bytes_in", self.bytes_in),
            ("lost", self.lost),
        ]
    }
}

/// Both programs in their places. Dropping this takes them out, as does the end of the process.
#[derive(Debug)]
pub struct Shortcut {
    options: ShortcutOptions,
    maps: Maps,
    _links: [Link; 2],
    /// What is in the maps.
    routes: BTreeMap<Ipv4Addr, SocketAddrV4>,
    senders: BTreeMap<[u8; SENDER], ()>,
}

/// Bytes of the outer headers, and of what comes with them: see `egress`.
const ROUTE: usize = 32;

/// Bytes of an outer and an inner source.
const SENDER: usize = 8;

/// Bytes of what is known of a flow: see `egress`.
const FLOW: usize = 24;

/// What the programs know and count.
#[derive(Debug)]
struct Maps {
    /// From the first address of a peer's pods to its outer headers.
    routes: Map<4, ROUTE>,
    /// The outer sources of peers, each with the first address of its pods.
    senders: Map<SENDER, 4>,
    /// What was sent of late, by the hash of its flow.
    flows: Map<4, FLOW>,
    /// Of both directions: packets, bytes, and packets lost.
    counts: Map<4, 24>,
}

/// The places in `counts`.
const OUT: u32 = 0;
const IN: u32 = 1;

impl Maps {
    fn create() -> io::Result<Maps> {
        Ok(Maps {
            routes: Map::create(MapKind::Hash, PEERS_MAX)?,
            senders: Map::create(MapKind::Hash, SENDERS_MAX)?,
            flows: Map::create(MapKind::Array, egress::FLOWS)?,
            counts: Map::create(MapKind::Array, IN + 1)?,
        })
    }
}

impl Shortcut {
    /// Puts the programs in. No packet takes the shortcut before there are peers.
    ///
    /// # Errors
    ///
    /// [`ShortcutError`] says what is missing. After an error nothing of it is left behind.
    pub fn attach(options: ShortcutOptions) -> Result<Shortcut, ShortcutError> {
        attach(options).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ShortcutError::Forbidden(error),
            _ => ShortcutError::Missing(error),
        })
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> &ShortcutOptions {
        &self.options
    }

    /// These peers have a shortcut, and no others.
    ///
    /// # Errors
    ///
    /// [`ShortcutError::Full`] or [`ShortcutError::Refused`]. Some have one then.
    pub fn set_peers(&mut self, peers: &[ShortcutPeer]) -> Result<(), ShortcutError> {
        self.exchange_peers(peers).map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => ShortcutError::Full,
            _ => ShortcutError::Refused(error),
        })
    }

    fn exchange_peers(&mut self, peers: &[ShortcutPeer]) -> io::Result<()> {
        let routes = peers.iter().filter_map(|peer| Some((peer.subnet, peer.outer?)));
        let routes: BTreeMap<_, _> = routes.collect();
        let sender = |source: &Ipv4Addr, subnet: Ipv4Addr| {
            let mut key = [0; SENDER];
            key[..4].copy_from_slice(&source.octets());
            key[4..].copy_from_slice(&subnet.octets());
            key
        };
        let senders: BTreeMap<_, ()> = peers
            .iter()
            .flat_map(|peer| peer.sources.iter().map(|source| (sender(source, peer.subnet), ())))
            .collect();
        // Those that are gone make room. Who may send comes before who is sent to.
        take(&mut self.routes, &routes, |subnet| self.maps.routes.remove(&subnet.octets()))?;
        take(&mut self.senders, &senders, |key| self.maps.senders.remove(key))?;
        put(&mut self.senders, &senders, |key, ()| self.maps.senders.set(key, &[0; 4]))?;
        let local = self.options.local;
        put(&mut self.routes, &routes, |subnet, outer| {
            self.maps.routes.set(&subnet.octets(), &egress::route(local, *outer))
        })
    }

    /// What took it until now.
    ///
    /// # Errors
    ///
    /// None that is known of; the kernel is asked.
    pub fn counts(&self) -> io::Result<ShortcutCounts> {
        let count = |place: u32| -> io::Result<[u64; 3]> {
            let value = self.maps.counts.get(&place.to_ne_bytes())?;
            let number = |at: i16| {
                let at = usize::from(at.unsigned_abs());
                u64::from_ne_bytes(value[at..at + 8].try_into().expect("eight bytes"))
            };
            Ok([count::PACKETS, count::BYTES, count::LOST].map(number))
        };
        let [packets_out, bytes_out, lost_out] = count(OUT)?;
        let [packets_in, bytes_in, lost_in] = count(IN)?;
        Ok(ShortcutCounts {
            packets_out,
            bytes_out,
            packets_in,
            bytes_in,
            lost: lost_out + lost_in,
        })
    }
}

fn attach(options: ShortcutOptions) -> io::Result<Shortcut> {
    let maps = Maps::create()?;
    let egress = Program::load(ProgramKind::Classifier, &egress::program(&options, &maps))?;
    let ingress = Program::load(ProgramKind::Classifier, &ingress::program(&options, &maps))?;
    let links = [
        ingress.attach(Hook::Ingress, options.underlay)?,
        egress.attach(Hook::Egress, options.device)?,
    ];
    let (routes, senders) = (BTreeMap::new(), BTreeMap::new());
    Ok(Shortcut { options, maps, _links: links, routes, senders })
}

/// Puts in what is new or another.
fn put<K: Ord + Clone, V: PartialEq + Clone>(
    there: &mut BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    mut put: impl FnMut(&K, &V) -> io::Result<()>,
) -> io::Result<()> {
    for (key, value) in wanted {
        if there.get(key) != Some(value) {
            put(key, value)?;
            there.insert(key.clone(), value.clone());
        }
    }
    Ok(())
}

/// Takes out what is not wanted any more.
fn take<K: Ord + Clone, V>(
    there: &mut BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    mut take: impl FnMut(&K) -> io::Result<()>,
) -> io::Result<()> {
    let gone: Vec<K> = there.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
    for key in gone {
        take(&key)?;
        there.remove(&key);
    }
    Ok(())
}

/// A device of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number of it.
    pub index: u32,
    /// Its packets have Ethernet headers.
    pub is_ethernet: bool,
}

impl Device {
    /// The device of that name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn named(name: &str) -> io::Result<Device> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let mut request = Request::new(name).ok_or_else(invalid)?;
        let control = control_socket()?;
        let index = request.index(control.as_fd())?;
        Ok(Device { index, is_ethernet: request.is_ethernet(control.as_fd())? })
    }

    /// The device of that number.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn numbered(index: u32) -> io::Result<Device> {
        let control = control_socket()?;
        let mut request = Request::named_by(control.as_fd(), index)?;
        Ok(Device { index, is_ethernet: request.is_ethernet(control.as_fd())? })
    }
}

/// Fields of `struct __sk_buff` (`include/uapi/linux/bpf.h`).
mod context {
    pub(super) const LENGTH: i16 = 0;
    pub(super) const TO_WHOM: i16 = 4;
    pub(super) const MARK: i16 = 8;
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const SEGMENT_LENGTH: i16 = 176;
}

/// Places in an entry of `counts`.
mod count {
    pub(super) const PACKETS: i16 = 0;
    pub(super) const BYTES: i16 = 8;
    pub(super) const LOST: i16 = 16;
}

/// Where a program has the packet: a call leaves this one alone.
const CONTEXT: Register = R6;

/// Where a program has the key that it looks for, counted from the end of its stack.
const KEY: i16 = -8;

/// Finds the entry of the key on the stack. R0 is zero then, or leads to the value.
fn look_up(p: &mut Assembler, map: RawFd) {
    p.map(R1, map);
    p.copy(R2, R10);
    p.add(R2, i32::from(KEY));
    p.call(Helper::MapLookup);
}

/// Loads `length` bytes of the packet from `from` on to a place on the stack. R0 is zero if it has as many.
fn load_packet(p: &mut Assembler, from: i32, to: i16, length: i32) {
    p.copy(R1, CONTEXT);
    p.copy(R2, from);
    p.copy(R3, R10);
    p.add(R3, i32::from(to));
    p.copy(R4, length);
    p.call(Helper::LoadPacket);
}

/// Folds a sum of words in R0 to 16 bits (RFC 1071), whatever the order of bytes.
fn fold_sum(p: &mut Assembler) {
    for _ in 0..2 {
        p.copy(R1, R0);
        p.shift_right(R1, 16);
        p.and(R0, 0xffff);
        p.add(R0, R1);
    }
}

/// Finds what is counted of a direction. R0 is zero then, or leads to it.
fn find_counts(p: &mut Assembler, maps: &Maps, direction: u32) {
    p.store_value(Size::Word, R10, KEY, direction.cast_signed());
    look_up(p, maps.counts.as_raw_fd());
}

/// Counts a packet that is on its way, of as many bytes as a register has that a call leaves alone.
fn count_packet(p: &mut Assembler, maps: &Maps, direction: u32, bytes: Register) {
    find_counts(p, maps, direction);
    p.if_equal(R0, 0, "counted");
    p.copy(R1, 1);
    p.add_shared(R0, count::PACKETS, R1);
    p.add_shared(R0, count::BYTES, bytes);
    p.label("counted");
}

/// The verdict at `drop`, counted.
fn drop_packet(p: &mut Assembler, maps: &Maps, direction: u32) {
    p.label("drop");
    find_counts(p, maps, direction);
    p.if_equal(R0, 0, "dropped");
    p.copy(R1, 1);
    p.add_shared(R0, count::LOST, R1);
    p.label("dropped");
    p.copy(R0, DROP);
    p.exit();
}

/// `ETH_P_IP`, as it stands in the packet.
const IPV4: i32 = u16::from_be_bytes([0x08, 0x00]).to_be() as i32;

/// Bytes of an Ethernet header, and of the outer IPv4 and UDP headers behind it.
const ETHERNET: i32 = 14;
const OUTER: i32 = 28;

/// `BPF_ADJ_ROOM_MAC`: where room is made or taken away.
const BEHIND_ETHERNET: i32 = 1;

/// Verdicts (`enum tcx_action_base`): the next program or IP decides; the packet is dropped.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// The bits of an address that tell nodes apart, as they stand in a packet.
fn mask(prefix: u8) -> i32 {
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    in_packet(Ipv4Addr::from_bits(bits))
}

/// An address as it stands in a packet, loaded into a register.
fn in_packet(address: Ipv4Addr) -> i32 {
    i32::from_ne_bytes(address.octets())
}

/// A half word of a packet.
fn half_in_packet(value: u16) -> i32 {
    i32::from(value.to_be())
}
