//! A real worker against the running kernel, in a network namespace of its own. Needs root and
//! `/dev/net/tun`; without them a test says `SKIPPED`.

use std::{
    io::{self, Write},
    net::UdpSocket as StdSocket,
    path::Path,
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use etherparse::{SlicedPacket, TransportSlice};
use nix::{
    errno::Errno as NixErrno,
    sched::{CloneFlags, unshare},
};
use weft_sys::{
    tun::{TunOptions, WithoutOffloads},
    udp::SocketOptions,
};

use super::*;
use crate::progress::{News, Phase};
use crate::testing::{Inner, table_input};

/// For everything that should happen at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// One at a time: a process forked by one test (for `ip`) holds the descriptors of all others
/// until it executes its program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !Path::new("/dev/net/tun").exists() {
        return skip(name, "there is no /dev/net/tun");
    }
    let body = move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {
            ip("link set lo up");
            test();
            true
        }
        Err(NixErrno::EPERM) => false,
        Err(error) => panic!("unshare failed: {error}"),
    };
    if !thread::spawn(body).join().expect("the test passes") {
        skip(name, "a network namespace cannot be made (not root)");
    }
}

fn skip(name: &str, why: &str) {
    // Past the test harness, which keeps what passing tests print to itself.
    io::stderr().write_all(format!("SKIPPED: {name}: {why}\n").as_bytes()).unwrap();
}

/// Runs `test` for one engine after the other.
fn with_each_engine(name: &'static str, test: impl Fn(EngineWish) + Copy + Send + 'static) {
    in_namespace(name, move || test(EngineWish::Epoll));
    in_namespace(name, move || match without_uring() {
        None => test(EngineWish::Uring),
        Some(reason) => skip(name, &format!("only with the engine epoll: {reason}")),
    });
}

/// Why this kernel gives no ring.
fn without_uring() -> Option<String> {
    let socket = large_socket("127.0.0.1:8285");
    let worker = try_start(EngineWish::Auto, socket, Without::default()).unwrap();
    let info = worker.info().clone();
    worker.stop(PATIENCE).unwrap();
    (info.engine == "epoll").then_some(info.reason)
}

fn ip(words: &str) {
    let output = process::Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn device_is_there() -> bool {
    let words = ["link", "show", "flannel0"];
    process::Command::new("ip").args(words).output().unwrap().status.success()
}

/// A worker on `flannel0` with 10.244.1.1/16, and a socket on 127.0.0.1:8285.
fn start(engine: EngineWish) -> Worker {
    start_with(engine, large_socket("127.0.0.1:8285"))
}

fn start_with(engine: EngineWish, socket: UdpSocket) -> Worker {
    let worker = try_start(engine, socket, Without::default()).unwrap();
    let expected = if engine == EngineWish::Uring { "uring" } else { "epoll" };
    assert_eq!((worker.info().engine, worker.info().reason.as_str()), (expected, "asked for"));
    worker
}

fn try_start(
    engine: EngineWish,
    socket: UdpSocket,
    without: Without,
) -> Result<Worker, StartError> {
    let options =
        TunOptions { name: "flannel0", queue_length: 500, without: WithoutOffloads::default() };
    let tun = Tun::open(&options).unwrap();
    ip("link set flannel0 addrgenmode none mtu 1472");
    ip("address add 10.244.1.1/16 dev flannel0");
    ip("link set flannel0 up");
    let options = WorkerOptions {
        number: 0,
        tun,
        segments_max: socket.segments_max(),
        joined_max: socket.kernel_segments_max(),
        sockets: vec![socket],
        senders: vec![],
        inner_mtu: 1472,
        table: Arc::new(Table::new(table_input()).unwrap()),
        engine,
        without,
        habits: Habits::default(),
        sealing: None,
    };
    spawn(options)
}

fn large_socket(address: &str) -> UdpSocket {
    sized_socket(address, 4 << 20)
}

fn sized_socket(address: &str, send_buffer: usize) -> UdpSocket {
    let options = SocketOptions {
        receive_buffer: 4 << 20,
        send_buffer,
        gro: true,
        gso: true,
        reuse_port: false,
    };
    UdpSocket::bind(address.parse().unwrap(), &options).unwrap()
}

fn socket(address: &str) -> StdSocket {
    let socket = StdSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Holds many packets, so that a test which has to wait for the processor loses none of them.
fn roomy_socket(address: &str) -> StdSocket {
    let options = SocketOptions {
        receive_buffer: 4 << 20,
        send_buffer: 4 << 20,
        gro: false,
        gso: false,
        reuse_port: false,
    };
    let socket = UdpSocket::bind(address.parse().unwrap(), &options).unwrap();
    let socket = socket.as_std().try_clone().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The UDP payload of an inner packet.
fn payload(packet: &[u8]) -> Vec<u8> {
    match SlicedPacket::from_ip(packet).unwrap().transport {
        Some(TransportSlice::Udp(udp)) => udp.payload().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn answer(payload: &[u8]) -> Vec<u8> {
    let answer = Inner::udp("10.244.2.7", "10.244.1.1", 0);
    answer.with(|packet| packet.payload = payload.to_vec()).build()
}

/// Offers a table until the worker takes it.
#[track_caller]
fn adopt(worker: &Worker, table: &Arc<Table>) {
    let start = Instant::now();
    while let Err(error) = worker.adopt(Arc::clone(table)) {
        assert_eq!(error, NotTold::Busy);
        assert!(start.elapsed() < PATIENCE, "the worker takes no table");
        thread::yield_now();
    }
}

#[track_caller]
fn assert_accounted(counters: &Counters) {
    let now = counters.snapshot();
    let (out, inward) = (now.outbound, now.inbound);
    assert_eq!(out.segments_in, out.segments_out + out.drops.total(), "{out:?}");
    assert_eq!(inward.segments_in, inward.segments_out + inward.drops.total(), "{inward:?}");
}

#[test]
fn packets_pass_both_ways_and_a_stop_leaves_nothing() {
    with_each_engine("packets_pass_both_ways_and_a_stop_leaves_nothing", |engine| {
        let worker = start(engine);
        let (pod, peer) = (socket("10.244.1.1:5201"), socket("127.0.0.2:8285"));
        let mut buffer = [0; 2000];
        for size in [0, 1, 100, 1000, 1444] {
            let sent = vec![size as u8; size];
            pod.send_to(&sent, "10.244.2.7:40000").unwrap();
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(from, "127.0.0.1:8285".parse().unwrap());
            assert_eq!(payload(&buffer[..length]), sent);

            peer.send_to(&answer(&sent), "127.0.0.1:8285").unwrap();
            let (length, from) = pod.recv_from(&mut buffer).unwrap();
            assert_eq!(from, "10.244.2.7:40000".parse().unwrap());
            assert_eq!(buffer[..length], sent);
        }
        assert!(worker.events().is_empty());
        let counters = worker.counters();
        assert_eq!(worker.stop(PATIENCE), Ok(()));
        assert!(!device_is_there());
        drop(socket("127.0.0.1:8285"));
        let now = counters.snapshot();
        assert_eq!((now.outbound.segments_out, now.inbound.segments_out), (5, 5));
        assert_accounted(&counters);
    });
}

#[test]
fn tables_change_under_traffic_without_a_loss() {
    with_each_engine("tables_change_under_traffic_without_a_loss", |engine| {
        let worker = start(engine);
        let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let (pod, peer) = (socket("10.244.1.1:5201"), socket("127.0.0.2:8285"));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 2000];
                while let Ok((length, _)) = peer.recv_from(&mut buffer) {
                    if length == 28 {
                        break;
                    }
                    peer.send_to(&answer(&payload(&buffer[..length])), "127.0.0.1:8285").unwrap();
                }
            });
            let traffic = scope.spawn(|| {
                let mut buffer = [0; 100];
                while !done.load(Ordering::Relaxed) {
                    let rounds = answered.load(Ordering::Relaxed);
                    pod.send_to(&rounds.to_be_bytes(), "10.244.2.7:40000").unwrap();
                    let length = pod.recv(&mut buffer).expect("an answer to every packet");
                    assert_eq!(buffer[..length], rounds.to_be_bytes());
                    answered.store(rounds + 1, Ordering::Relaxed);
                }
                // Ends the other side.
                pod.send_to(&[], "10.244.2.7:40000").unwrap();
            });
            for epoch in 2..1002 {
                let mut input = table_input();
                input.epoch = epoch;
                // Another peer comes and goes all the time.
                input.peers[2].generation = epoch as u32;
                adopt(&worker, &Arc::new(Table::new(input).unwrap()));
                // Traffic keeps up.
                let start = Instant::now();
                while answered.load(Ordering::Relaxed) < epoch / 10 && !traffic.is_finished() {
                    assert!(start.elapsed() < 2 * PATIENCE, "there is no traffic");
                    thread::yield_now();
                }
            }
            done.store(true, Ordering::Relaxed);
            traffic.join().unwrap();
        });
        let counters = worker.counters();
        assert_eq!(worker.stop(PATIENCE), Ok(()));
        assert_accounted(&counters);
        let now = counters.snapshot();
        assert_eq!((now.outbound.drops.total(), now.inbound.drops.total()), (0, 0));
    });
}

/// A flood in both directions, and a stop in the middle: every packet read is accounted for.
#[test]
fn a_stop_under_load_counts_everything() {
    with_each_engine("a_stop_under_load_counts_everything", |engine| {
        let worker = start(engine);
        let done = AtomicBool::new(false);
        let counters = worker.counters();
        let (pod, peer) = (socket("10.244.1.1:5201"), socket("127.0.0.2:8285"));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // The device goes away meanwhile.
                    let _ = pod.send_to(&[1; 700], "10.244.2.7:40000");
                    let _ = pod.send_to(&[1; 70], "10.244.99.7:40000");
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = peer.send_to(&answer(&[2; 700]), "127.0.0.1:8285");
                    let _ = peer.send_to(b"no packet", "127.0.0.1:8285");
                }
            });
            let start = Instant::now();
            let outbound = |now: &weft_forward::counters::Snapshot| now.outbound.segments_out;
            while {
                let now = counters.snapshot();
                outbound(&now) < 2000 || now.inbound.segments_out < 2000
            } {
                assert!(start.elapsed() < PATIENCE, "{:?}", counters.snapshot());
                thread::sleep(Duration::from_millis(1));
            }
            let stopped = worker.stop(PATIENCE);
            done.store(true, Ordering::Relaxed);
            assert_eq!(stopped, Ok(()));
        });
        assert_accounted(&counters);
        assert!(!device_is_there());
    });
}

#[test]
fn a_panic_is_reported_and_cleans_up() {
    with_each_engine("a_panic_is_reported_and_cleans_up", |engine| {
        let worker = start(engine);
        worker.command(Command::Panic).unwrap();
        let reason = "panic: told to".to_owned();
        let dead = Event::Dead { reason: reason.clone() };
        assert_eq!(worker.events().recv_timeout(PATIENCE), Ok(dead));
        let start = Instant::now();
        while worker.command(Command::Stop) != Err(NotTold::Ended) {
            assert!(start.elapsed() < PATIENCE, "the dead take commands");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(worker.stop(PATIENCE), Err(StopError::Died(reason)));
        assert!(!device_is_there());
        drop(socket("127.0.0.1:8285"));
    });
}

#[test]
fn a_device_that_is_taken_away_ends_the_worker() {
    with_each_engine("a_device_that_is_taken_away_ends_the_worker", |engine| {
        let worker = start(engine);
        ip("link delete flannel0");
        let Ok(Event::Dead { reason }) = worker.events().recv_timeout(PATIENCE) else {
            panic!("nobody was told");
        };
        assert!(reason.contains("flannel0"), "{reason}");
        assert_eq!(worker.stop(PATIENCE), Err(StopError::Died(reason)));
        drop(socket("127.0.0.1:8285"));
    });
}

#[test]
fn a_dropped_worker_ends_by_itself() {
    with_each_engine("a_dropped_worker_ends_by_itself", |engine| {
        drop(start(engine));
        let start = Instant::now();
        while device_is_there() {
            assert!(start.elapsed() < PATIENCE, "the device is still there");
            thread::sleep(Duration::from_millis(10));
        }
    });
}

/// More packets in one burst than there are writes and trains, and then silence: nothing may be
/// left lying until something else happens.
#[test]
fn a_burst_is_handled_without_anything_else_happening() {
    with_each_engine("a_burst_is_handled_without_anything_else_happening", |engine| {
        let worker = start(engine);
        let pod = large_socket("10.244.1.1:5201");
        let pod = pod.as_std();
        pod.set_nonblocking(false).unwrap();
        pod.set_read_timeout(Some(PATIENCE)).unwrap();
        let peer = socket("127.0.0.2:8285");
        let mut buffer = [0; 2000];
        for round in 0..20 {
            // Each size opens a train, and each datagram without DF and with a jumping id is a
            // write of its own.
            for size in 0..120 {
                pod.send_to(&vec![round; 300 + size], "10.244.2.7:40000").unwrap();
            }
            for id in 0..300 {
                let packet = Inner::udp("10.244.2.7", "10.244.1.1", 100)
                    .with(|packet| (packet.id, packet.dont_fragment) = (id * 2, false));
                peer.send_to(&packet.build(), "127.0.0.1:8285").unwrap();
            }
            for size in 0..120 {
                let length = peer.recv(&mut buffer).expect("the burst is sent");
                assert_eq!(length, 328 + size);
            }
            for _ in 0..300 {
                assert_eq!(pod.recv(&mut buffer).expect("the burst is written"), 100);
            }
        }
        let counters = worker.counters();
        assert_eq!(worker.stop(PATIENCE), Ok(()));
        assert_accounted(&counters);
    });
}

/// A slow link and a small send buffer: trains are refused all the time, frames run out, and still
/// every packet arrives, in order.
#[test]
fn order_holds_when_the_send_buffer_is_full() {
    with_each_engine("order_holds_when_the_send_buffer_is_full", |engine| {
        let words = "qdisc add dev lo root tbf rate 100mbit burst 20k limit 1000000";
        let limited = process::Command::new("tc").args(words.split(' ')).status();
        if !limited.is_ok_and(|status| status.success()) {
            skip("order_holds_when_the_send_buffer_is_full", "there is no tbf");
            return;
        }
        let worker = start_with(engine, sized_socket("127.0.0.1:8285", 20_000));
        let (pod, peer) = (socket("10.244.1.1:5201"), roomy_socket("127.0.0.2:8285"));
        let (sent, window) = (3000_u32, 400);
        let mut buffer = [0; 2000];
        for number in 0..sent + window {
            if number < sent {
                let mut packet = [0; 700];
                packet[..4].copy_from_slice(&number.to_be_bytes());
                // Sizes differ, so that many trains leave in one turn.
                let length = 600 + (number % 7 * 10) as usize;
                pod.send_to(&packet[..length], "10.244.2.7:40000").unwrap();
            }
            if let Some(expected) = number.checked_sub(window) {
                let (length, _) = peer.recv_from(&mut buffer).expect("the next packet");
                assert_eq!(payload(&buffer[..length])[..4], expected.to_be_bytes());
            }
        }
        let counters = worker.counters();
        assert_eq!(worker.stop(PATIENCE), Ok(()));
        assert_accounted(&counters);
        let now = counters.snapshot();
        assert_eq!(now.outbound.drops.total(), 0);
        let moved = |name: &str| now.fields().any(|(field, value)| field == name && value > 0);
        assert!(moved("send_retries") && moved("buffers_exhausted_tun"), "{now:?}");
    });
}

/// What is missing is told, and nothing of it is needed by the other engine.
#[test]
fn an_engine_is_chosen_by_what_is_there() {
    with_each_engine("an_engine_is_chosen_by_what_is_there", |engine| {
        let without = Without { multishot: true, ..Without::default() };
        let chosen = |engine| try_start(engine, large_socket("127.0.0.1:8285"), without);
        let named = |worker: &Worker| (worker.info().engine, worker.info().reason.clone());
        if engine == EngineWish::Uring {
            let error = chosen(engine).unwrap_err().to_string();
            assert!(error.contains("multishot reads") && error.contains("epoll"), "{error}");
            assert!(!device_is_there());
        }
        let worker = chosen(EngineWish::Auto).unwrap();
        let (name, reason) = named(&worker);
        assert_eq!(name, "epoll");
        assert!(reason.contains("multishot reads"), "{reason}");
    });
}

/// The control side must not wait for a worker that is stuck, and is told where it is stuck.
#[test]
fn a_turn_that_takes_too_long_is_seen_and_nobody_waits_for_it() {
    with_each_engine("a_turn_that_takes_too_long_is_seen_and_nobody_waits_for_it", |engine| {
        let worker = start(engine);
        let mut watch = worker.watch();
        let mut next_news = || {
            let start = Instant::now();
            loop {
                if let Some(news) = watch.look(Instant::now()) {
                    return news;
                }
                assert!(start.elapsed() < PATIENCE, "nothing was seen");
                thread::sleep(Duration::from_millis(20));
            }
        };
        worker.command(Command::Stall(Duration::from_secs(2))).unwrap();
        let before = Instant::now();
        let table = |epoch| {
            let input = weft_forward::table::TableInput { epoch, ..table_input() };
            Arc::new(Table::new(input).unwrap())
        };
        let refused = (2..100).find_map(|epoch| worker.adopt(table(epoch)).err());
        assert_eq!(refused, Some(NotTold::Busy));
        assert!(before.elapsed() < Duration::from_secs(1), "it was waited for");
        let News::Stalled { phase: Phase::Commands, lasted } = next_news() else {
            panic!("nothing stalls");
        };
        assert!(lasted >= crate::progress::TURN_MAX, "{lasted:?}");
        let News::Recovered { phase: Phase::Commands, .. } = next_news() else {
            panic!("it stalls again");
        };
        // What it had not taken before it takes now.
        adopt(&worker, &table(100));
        assert_eq!(worker.stop(PATIENCE), Ok(()));
    });
}
