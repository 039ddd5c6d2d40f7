//! The control loop with many leases in a real etcd: how long until all are in a table, how long a
//! change takes while many come, what that costs in processor time and memory.
//!
//! `cargo bench --package weft-ctrl --bench scale -- --leases 5000 --rate 1000 --secs 60` measures;
//! `--assert-bars` makes it fail where it misses what is promised. Without `--bench`, as in tests, it
//! runs for a moment and its figures mean nothing. Needs root, `ip`, `/dev/net/tun` and etcd.
#![expect(clippy::unwrap_used, reason = "a bench whose helper fails must fail")]

#[path = "../tests/kernel/namespace.rs"]
mod namespace;
#[path = "../tests/etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod server;

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use etcd_client::{Client, Txn, TxnOp};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep};
use weft_ctrl::controller::{
    DEVICE_NAME, OnLeaseLoss, Options, PeerKeys, Rebinding, TableSink, begin,
};
use weft_ctrl::interface::InterfaceOptions;
use weft_ctrl::netfilter;
use weft_ctrl::source::SourceOptions;
use weft_ctrl::source::etcd::{Endpoints, EtcdOptions};
use weft_ctrl::status::{Status, StatusHandle};
use weft_forward::table::Table;

use namespace::{in_new_namespace, ip};
use server::{EtcdServer, can_run_etcd};

const PREFIX: &str = "/coreos.com/network";

/// The node draws its own subnet from the upper half; the leases of others are in the lower.
const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.128.0.0"}"#;

/// Leases in one transaction.
const PART: usize = 1000;

/// Writes that etcd works on at once. It commits many with one write to its disk.
const WRITES_MAX: usize = 256;

/// What is promised.
const FULL_TABLE_MAX: Duration = Duration::from_secs(1);
const CHANGE_P99_MAX: Duration = Duration::from_millis(50);
const CORES_MAX: f64 = 1.0;

/// Bounds the wait for the first table against a hang.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
struct Size {
    leases: usize,
    rate: usize,
    secs: usize,
    assert_bars: bool,
}

impl Size {
    fn from_arguments() -> Self {
        let words: Vec<String> = std::env::args().collect();
        let measured = words.iter().any(|word| word == "--bench");
        let number = |name: &str| {
            let place = words.iter().position(|word| word == name)?;
            Some(words[place + 1].parse().unwrap())
        };
        let or = |name, full, smoke| number(name).unwrap_or(if measured { full } else { smoke });
        Self {
            leases: or("--leases", 5000, 200),
            rate: or("--rate", 1000, 100),
            secs: or("--secs", 60, 2),
            assert_bars: words.iter().any(|word| word == "--assert-bars"),
        }
    }
}

/// A change on its way: which lease gets which port, and when it was asked for.
#[derive(Clone, Copy, Debug)]
struct Change {
    lease: usize,
    port: u16,
    at: Instant,
}

/// Where tables go, and which changes arrive in them.
struct Seen {
    table: Option<Arc<Table>>,
    changes: Receiver<Change>,
    pending: Vec<Change>,
    delays: Vec<Duration>,
}

#[derive(Clone)]
struct Sink(Rc<RefCell<Seen>>);

impl TableSink for Sink {
    fn publish(&mut self, table: Arc<Table>) {
        let now = Instant::now();
        let seen = &mut *self.0.borrow_mut();
        seen.pending.extend(seen.changes.try_iter());
        let delays = &mut seen.delays;
        seen.pending.retain(|change| {
            let peer = table.peer_for(pod(change.lease));
            let arrived = peer.is_some_and(|peer| peer.outer.port() == change.port);
            if arrived {
                delays.push(now - change.at);
            }
            !arrived
        });
        seen.table = Some(table);
    }

    fn seal(&mut self, _: PeerKeys) {}

    fn rebind(&mut self, _: Vec<SocketAddr>) -> Rebinding {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn subnet(lease: usize) -> [u8; 3] {
    [10, u8::try_from(lease / 250).unwrap(), u8::try_from(lease % 250).unwrap()]
}

fn pod(lease: usize) -> IpAddr {
    let [a, b, c] = subnet(lease);
    Ipv4Addr::new(a, b, c, 9).into()
}

fn key(lease: usize) -> String {
    let [a, b, c] = subnet(lease);
    format!("{PREFIX}/subnets/{a}.{b}.{c}.0-24")
}

fn value(lease: usize, port: u16) -> String {
    let [_, b, c] = subnet(lease);
    format!(
        "{{\"PublicIP\":\"172.16.{b}.{}\",\"PublicIPv6\":null,\"Weft\":{{\"v\":1,\
         \"id\":\"{lease:032x}\",\"paths\":[\"udp\"],\"port\":{port},\"ports\":1,\"mtu\":1472}}}}",
        c + 1
    )
}

/// Nanoseconds that this thread was on a processor.
fn thread_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

async fn write_all(url: &str, leases: usize) {
    let mut client = Client::connect([url], None).await.unwrap();
    client.put(format!("{PREFIX}/config"), CONFIG, None).await.unwrap();
    let all: Vec<usize> = (0..leases).collect();
    for part in all.chunks(PART) {
        let puts = part.iter().map(|lease| TxnOp::put(key(*lease), value(*lease, 8285), None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
}

/// Changes leases at a steady rate, from a thread of its own.
fn change_leases(url: String, size: Size, changes: Sender<Change>) -> std::thread::JoinHandle<()> {
    let work = async move {
        let client = Client::connect([url], None).await.unwrap();
        let room = Arc::new(Semaphore::new(WRITES_MAX));
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(size.rate).unwrap());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..size.rate * size.secs {
            ticks.tick().await;
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let port = 1024 + u16::try_from(number % 60_000).unwrap();
            let lease = number * 7 % size.leases;
            changes.send(Change { lease, port, at: Instant::now() }).unwrap();
            let mut client = client.kv_client();
            tokio::spawn(async move {
                client.put(key(lease), value(lease, port), None).await.unwrap();
                drop(permit);
            });
        }
        let _all = room.acquire_many(u32::try_from(WRITES_MAX).unwrap()).await.unwrap();
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work);
    })
}

fn options(place: &std::path::Path, url: &str) -> Options {
    let endpoints = Endpoints::parse(url, false).unwrap().servers;
    Options {
        source: SourceOptions::Etcd(Box::new(EtcdOptions::new(endpoints, PREFIX))),
        state_directory: place.join("state"),
        subnet_file: place.join("subnet.env"),
        interface: InterfaceOptions { iface: vec!["u1".into()], ..Default::default() },
        netfilter: netfilter::Options {
            masquerade: false,
            fully_random: false,
            forward: false,
            resync: Duration::from_secs(3600),
            blackhole: false,
        },
        renew_margin: Duration::from_secs(3600),
        on_lease_loss: OnLeaseLoss::Hold,
        insecure_store: false,
    }
}

/// What was measured.
struct Figures {
    full_table: Duration,
    kib_per_lease: f64,
    delays: Vec<Duration>,
    missing: usize,
    cores: f64,
    status: Status,
}

async fn measure(size: Size) -> Figures {
    for words in [
        "link add u1 type veth peer name u2",
        "link set u1 up",
        "link set u2 up",
        "addr add 192.168.77.2/24 dev u1",
        "tuntap add dev flannel0 mode tun",
    ] {
        ip(words);
    }
    let etcd = EtcdServer::start_with(&["--max-txn-ops=10000"]);
    write_all(&etcd.url(), size.leases).await;
    let place = tempfile::tempdir().unwrap();
    let status = StatusHandle::new();
    let begun = begin(options(place.path(), &etcd.url()), status.clone()).await.unwrap();
    let acquired = begun.acquire().await.unwrap();
    let line = ip(&format!("-oneline link show {DEVICE_NAME}"));
    let index = line.split(':').next().unwrap().parse().unwrap();
    let running = acquired.configure(DEVICE_NAME, index).await.unwrap();
    let (sender, changes) = channel();
    let seen = Seen { table: None, changes, pending: Vec::new(), delays: Vec::new() };
    let seen = Rc::new(RefCell::new(seen));
    let before = resident_kib();
    let script = async {
        let began = Instant::now();
        let is_full = |seen: &Seen| {
            seen.table.as_ref().is_some_and(|table| table.peers().len() == size.leases)
        };
        while !is_full(&seen.borrow()) {
            assert!(began.elapsed() < PATIENCE, "no table: {:?}", status.snapshot().problems);
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(50)).await;
        let full_table = status.snapshot().delays.longest;
        let kib = resident_kib().saturating_sub(before);
        let (began, cpu) = (Instant::now(), thread_time());
        let writer = change_leases(etcd.url(), size, sender);
        while !writer.is_finished() {
            sleep(Duration::from_millis(100)).await;
        }
        let cores = (thread_time() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        sleep(Duration::from_secs(1)).await;
        writer.join().unwrap();
        let seen = seen.borrow();
        Figures {
            full_table,
            kib_per_lease: kib as f64 / size.leases as f64,
            delays: seen.delays.clone(),
            missing: seen.pending.len() + seen.changes.try_iter().count(),
            cores,
            status: status.snapshot(),
        }
    };
    let run = running.run(Sink(Rc::clone(&seen)), std::future::pending());
    tokio::select! {
        outcome = run => panic!("the loop has ended: {outcome:?}"),
        figures = script => figures,
    }
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn report(size: Size, mut figures: Figures) {
    figures.delays.sort_unstable();
    let changes = size.rate * size.secs;
    let (p50, p99) = (quantile(&figures.delays, 0.5), quantile(&figures.delays, 0.99));
    let delays = figures.status.delays;
    println!("leases                     {}", size.leases);
    println!("snapshot to full table     {:?}", figures.full_table);
    println!("memory of a lease          {:.2} KiB", figures.kib_per_lease);
    println!("changes                    {changes}, {} a second", size.rate);
    println!("write to table             p50 {p50:?}, p99 {p99:?}");
    println!(
        "longest event to table     {:?}; {} of {} tables late",
        delays.longest, delays.late, delays.tables
    );
    println!("control thread             {:.2} cores", figures.cores);
    // A lease that is changed twice before a table is made shows only its last change.
    assert!(figures.missing * 100 <= changes, "{} changes never arrived", figures.missing);
    if size.assert_bars {
        assert!(figures.full_table <= FULL_TABLE_MAX, "the full table took too long");
        assert!(p99 <= CHANGE_P99_MAX, "changes took too long");
        assert!(figures.cores < CORES_MAX, "the control thread took too much");
    }
}

fn main() {
    if !can_run_etcd() {
        return;
    }
    let size = Size::from_arguments();
    in_new_namespace("scale", move || async move { report(size, measure(size).await) });
}
