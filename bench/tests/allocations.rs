//! A worker neither allocates nor frees memory once it runs. Two workers carry TCP and small UDP
//! both ways between two network namespaces, and the allocator counts what their threads ask of
//! it. Needs root and `/dev/net/tun`; without them the test says `SKIPPED`.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use weft_dataplane::{EngineWish, Habits, Worker, WorkerOptions, spawn};
use weft_forward::table::{Peer, Table, TableInput};
use weft_sys::ring::Without;
use weft_sys::tun::{Tun, TunOptions, WithoutOffloads};
use weft_sys::udp::{SocketOptions, UdpSocket};

/// Segments that both workers handle together before and while they are watched.
const WARM_UP: u64 = 50_000;
const WATCHED: u64 = 200_000;

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a call waits before it looks whether the test is over.
const TICK: Duration = Duration::from_millis(50);

/// The system's allocator, which counts the calls of some threads.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Threads that are watched; 0 is no thread.
static THREADS: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2];
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Counts a call if the calling thread is watched. Asks the kernel who it is, because
/// thread-local variables may allocate.
fn count() {
    if THREADS[0].load(Ordering::Relaxed) == 0 {
        return;
    }
    let this = rustix::thread::gettid().as_raw_nonzero().get();
    if THREADS.iter().any(|thread| thread.load(Ordering::Relaxed) == this) {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds for us what `System` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`, and `memory` came from `System`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn watch(threads: [i32; 2]) {
    for (place, thread) in THREADS.iter().zip(threads) {
        place.store(thread, Ordering::Relaxed);
    }
}

fn calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

#[test]
fn a_worker_allocates_nothing() {
    assert_that_the_counter_counts();
    if !Path::new("/dev/net/tun").exists() {
        return skip("there is no /dev/net/tun");
    }
    for engine in [EngineWish::Uring, EngineWish::Epoll] {
        assert_that_nothing_is_allocated(engine);
    }
}

fn assert_that_nothing_is_allocated(engine: EngineWish) {
    let sides = [Side::new(), Side::new()];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // However this ends, the others end too.
        let _finish = Finish(&done);
        for number in [0, 1] {
            let (sides, done) = (&sides, &done);
            scope.spawn(move || run_side(number, sides, engine, done));
        }
        let is_ready = |side: &Side| side.is_forbidden() || side.counters.get().is_some();
        assert!(wait_for(|| sides.iter().all(is_ready)), "both sides start");
        if sides.iter().any(Side::is_forbidden) {
            return skip("a network namespace cannot be made (not root)");
        }
        let (calls, segments) = watch_workers(&sides);
        assert!(segments >= WATCHED);
        assert_eq!(calls, 0, "{engine:?}, in {segments} segments");
    });
}

struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// False if it does not come true in time.
fn wait_for(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Else this test could not fail.
fn assert_that_the_counter_counts() {
    watch([rustix::thread::gettid().as_raw_nonzero().get(), 0]);
    drop(std::hint::black_box(vec![1_u8; 100]));
    watch([0, 0]);
    assert_eq!(CALLS.swap(0, Ordering::Relaxed), 2, "one call to allocate and one to free");
}

fn skip(why: &str) {
    // Past the test harness, which keeps what passing tests print to itself.
    io::stderr()
        .write_all(format!("SKIPPED: a_worker_allocates_nothing: {why}\n").as_bytes())
        .unwrap();
}

/// What one namespace tells the other and the test.
struct Side {
    /// The thread that is in it; 0 until it is.
    thread: AtomicI32,
    forbidden: AtomicBool,
    counters: std::sync::OnceLock<Arc<weft_forward::counters::Counters>>,
}

impl Side {
    fn new() -> Side {
        Side {
            thread: AtomicI32::new(0),
            forbidden: AtomicBool::new(false),
            counters: std::sync::OnceLock::new(),
        }
    }

    fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::SeqCst)
    }

    /// Segments handed on, both ways.
    fn segments(&self) -> u64 {
        let now = self.counters.get().unwrap().snapshot();
        now.outbound.segments_out + now.inbound.segments_out
    }
}

/// Calls that the workers' threads made while they handled the segments said.
fn watch_workers(sides: &[Side; 2]) -> (u64, u64) {
    let segments = || sides.iter().map(Side::segments).sum::<u64>();
    assert!(wait_for(|| segments() > WARM_UP), "traffic flows");
    watch(worker_threads());
    let (before, start) = (calls(), segments());
    assert!(wait_for(|| segments() >= start + WATCHED), "traffic flows on");
    let (after, end) = (calls(), segments());
    watch([0, 0]);
    (after - before, end - start)
}

/// The two threads that are named as workers are.
fn worker_threads() -> [i32; 2] {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let workers: Vec<i32> = tasks
        .map(|task| task.unwrap().path())
        .filter(|task| {
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            name.trim_end() == "weft-worker-0"
        })
        .map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    workers.try_into().expect("there are two workers")
}

fn run_side(number: usize, sides: &[Side; 2], engine: EngineWish, done: &AtomicBool) {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            let this = rustix::thread::gettid().as_raw_nonzero().get();
            sides[number].thread.store(this, Ordering::SeqCst);
        }
        Err(Errno::EPERM) => return sides[number].forbidden.store(true, Ordering::SeqCst),
        Err(error) => panic!("unshare failed: {error}"),
    }
    let other = &sides[1 - number];
    let is_known = || other.is_forbidden() || other.thread.load(Ordering::SeqCst) != 0;
    if !wait_for(is_known) || other.is_forbidden() {
        return;
    }
    let worker = start_worker(number, other.thread.load(Ordering::SeqCst), engine);
    assert!(sides[number].counters.set(worker.counters()).is_ok(), "a side starts once");
    traffic(number, done);
    worker.stop(PATIENCE).unwrap();
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn pod(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 244, number as u8 + 1, 1).into()
}

fn outer(number: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8 + 1], 8285))
}

/// A worker in this thread's namespace, connected with the namespace of thread `other`.
fn start_worker(number: usize, other: i32, engine: EngineWish) -> Worker {
    if number == 0 {
        ip(&format!("link add under type veth peer name under netns {other}"));
    }
    let is_up = || {
        let status = Command::new("ip").args(["link", "set", "under", "up"]).output();
        status.unwrap().status.success()
    };
    assert!(wait_for(is_up), "the underlay comes");
    ip(&format!("address add {}/24 dev under", outer(number).ip()));
    let options =
        TunOptions { name: "flannel0", queue_length: 2000, without: WithoutOffloads::default() };
    let tun = Tun::open(&options).unwrap();
    ip("link set flannel0 mtu 1472");
    ip(&format!("address add {}/16 dev flannel0", pod(number)));
    ip("link set flannel0 up");
    let options = SocketOptions {
        receive_buffer: 4 << 20,
        send_buffer: 4 << 20,
        gro: true,
        gso: true,
        reuse_port: false,
    };
    let socket = UdpSocket::bind(outer(number), &options).unwrap();
    let table = Arc::new(Table::new(table(number)).unwrap());
    let (segments_max, joined_max) = (socket.segments_max(), socket.kernel_segments_max());
    let sockets = vec![socket];
    let options = WorkerOptions {
        number: 0,
        tun,
        sockets,
        senders: vec![],
        segments_max,
        joined_max,
        inner_mtu: 1472,
        table,
        engine,
        without: Without::default(),
        habits: Habits::default(),
        sealing: None,
    };
    spawn(options).unwrap()
}

fn table(number: usize) -> TableInput {
    let subnet = |number: usize| format!("10.244.{}.0/24", number + 1).parse().unwrap();
    let other = 1 - number;
    let peer = Peer {
        slot: 0,
        generation: 1,
        outer: outer(other),
        subnet_v4: Some(subnet(other)),
        subnet_v6: None,
        addresses: vec![outer(other).ip()],
        inner_v6: false,
        source_ports: false,
        shortcut: false,
        mtu: None,
    };
    TableInput {
        epoch: 1,
        network_v4: Some("10.244.0.0/16".parse().unwrap()),
        own_v4: Some(subnet(number)),
        peers: vec![peer],
        ..TableInput::default()
    }
}

/// Sends and receives until it is done: a TCP connection to the other side and one from it, and
/// small datagrams of several sizes.
fn traffic(number: usize, done: &AtomicBool) {
    let other = pod(1 - number);
    let socket = StdSocket::bind((pod(number), 7000)).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    let listener = TcpListener::bind((pod(number), 5201)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let is_done = || done.load(Ordering::SeqCst);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done() {
                let address = (other, 5201).into();
                let Ok(stream) = TcpStream::connect_timeout(&address, TICK) else { continue };
                write_until(stream, is_done);
            }
        });
        scope.spawn(|| {
            while !is_done() {
                match listener.accept() {
                    Ok((stream, _)) => read_until(stream, is_done),
                    Err(_) => thread::sleep(TICK),
                }
            }
        });
        scope.spawn(|| {
            for size in (1..400).cycle() {
                if is_done() {
                    break;
                }
                // A full queue is not what this test is about.
                let _ = socket.send_to(&[1; 400][..size], (other, 7000));
                if size % 50 == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        scope.spawn(|| {
            let mut bytes = [0; 500];
            while !is_done() {
                let _ = socket.recv(&mut bytes);
            }
        });
    });
}

fn write_until(mut stream: TcpStream, is_done: impl Fn() -> bool) {
    stream.set_write_timeout(Some(TICK)).unwrap();
    let bytes = vec![7; 1 << 16];
    while !is_done() {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}

fn read_until(mut stream: TcpStream, is_done: impl Fn() -> bool) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    let mut bytes = vec![0; 1 << 16];
    while !is_done() {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}
