//! A whole node against the running kernel: from an empty lease directory to a table with peers. Each
//! test makes a network namespace of its own. Needs root, `ip` and `/dev/net/tun`; without them a test
//! says `SKIPPED` and why.
#![expect(clippy::unwrap_used, reason = "a test whose helper fails must fail")]

#[path = "node/life.rs"]
mod life;
#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "etcd/relay.rs"]
mod relay;
#[path = "etcd/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the sources")]
mod server;
#[path = "node/untrusted.rs"]
mod untrusted;

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use weft_ctrl::controller::{
    Acquired, Begun, DEVICE_NAME, OnLeaseLoss, Options, PeerKeys, Rebinding, RunError, StartError,
    TableSink, begin,
};
use weft_ctrl::interface::InterfaceOptions;
use weft_ctrl::netfilter;
use weft_ctrl::source::SourceOptions;
use weft_ctrl::source::etcd::EtcdOptions;
use weft_ctrl::status::{Phase, Status, StatusHandle};
use weft_forward::table::Table;

use namespace::{in_new_namespace, ip};

/// Our own subnet is drawn from the upper half, so that it is never one of those that the tests give
/// to others.
const CONFIG: &str = r#"{"Network":"10.244.0.0/16","SubnetLen":24,"SubnetMin":"10.244.128.0","Backend":{"Type":"udp"}}"#;

/// A lease as flanneld writes it.
const FLANNEL: &str = r#"{"PublicIP":"10.168.0.3","PublicIPv6":null}"#;

/// Bounds a wait against a hang. What nothing tells of is looked at every ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// As flanneld is mostly run.
const NETFILTER: netfilter::Options = netfilter::Options {
    masquerade: true,
    fully_random: true,
    forward: true,
    resync: Duration::from_secs(5),
    blackhole: false,
};

#[derive(Clone, Default)]
struct Tables(
    Rc<RefCell<Vec<Arc<Table>>>>,
    Rc<RefCell<Vec<Vec<SocketAddr>>>>,
    Rc<RefCell<Vec<PeerKeys>>>,
);

impl TableSink for Tables {
    fn publish(&mut self, table: Arc<Table>) {
        self.0.borrow_mut().push(table);
    }

    fn seal(&mut self, peers: PeerKeys) {
        self.2.borrow_mut().push(peers);
    }

    fn rebind(&mut self, addresses: Vec<SocketAddr>) -> Rebinding {
        self.1.borrow_mut().push(addresses);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Tables {
    fn last(&self) -> Option<Arc<Table>> {
        self.0.borrow().last().cloned()
    }
}

struct World {
    root: tempfile::TempDir,
    status: StatusHandle,
    /// Instead of the directory.
    etcd: Option<EtcdOptions>,
    renew_margin: Duration,
}

impl World {
    /// A host with an interface `u1`, whose other end is `u2`, and a tunnel device.
    fn new() -> Self {
        ip("link add u1 type veth peer name u2");
        ip("link set u1 up");
        ip("link set u2 up");
        ip("addr add 10.168.0.2/24 dev u1");
        ip("tuntap add dev flannel0 mode tun");
        Self {
            root: tempfile::tempdir().unwrap(),
            status: StatusHandle::new(),
            etcd: None,
            renew_margin: Duration::from_secs(3600),
        }
    }

    fn with_config(config: &str) -> Self {
        let world = Self::new();
        fs::write(world.root.path().join("config"), config).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn options(&self) -> Options {
        Options {
            source: match &self.etcd {
                None => SourceOptions::Directory(self.root.path().into()),
                Some(options) => SourceOptions::Etcd(Box::new(options.clone())),
            },
            state_directory: self.path("state"),
            subnet_file: self.path("run/subnet.env"),
            interface: InterfaceOptions { iface: vec!["u1".into()], ..Default::default() },
            netfilter: NETFILTER,
            renew_margin: self.renew_margin,
            on_lease_loss: OnLeaseLoss::Hold,
            insecure_store: false,
        }
    }

    async fn begin(&self) -> Result<Begun, StartError> {
        begin(self.options(), self.status.clone()).await
    }

    async fn acquired(&self) -> Acquired {
        self.begin().await.unwrap().acquire().await.unwrap()
    }

    fn status(&self) -> Status {
        self.status.snapshot()
    }

    /// Runs a node that was started until `script` is over.
    async fn run(&self, script: impl AsyncFnOnce(&str, &Tables)) {
        self.run_acquired(self.acquired().await, script).await;
    }

    async fn run_acquired(&self, acquired: Acquired, script: impl AsyncFnOnce(&str, &Tables)) {
        let lease = acquired.lease().record.name.clone();
        let running = acquired.configure(DEVICE_NAME, index_of(DEVICE_NAME)).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let tables = Tables::default();
        let scripted = async {
            script(&lease, &tables).await;
            stop.send(()).unwrap();
        };
        let run = running.run(tables.clone(), async { stopped.await.unwrap() });
        let (outcome, ()) = tokio::join!(run, scripted);
        outcome.unwrap();
    }
}

fn index_of(device: &str) -> u32 {
    let line = ip(&format!("-oneline link show {device}"));
    line.split(':').next().unwrap().parse().unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "not within {PATIENCE:?}: {what}");
}

fn subnet_file(lease: &str) -> String {
    let subnet = lease.replace(".0-24", ".1/24");
    format!(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"
    )
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_node_waits_for_its_config_and_then_starts_in_flannels_order() {
    in_new_namespace("start", || async {
        let world = World::new();
        let write = async {
            until("told", || world.status().problems[0].contains("config")).await;
            assert_eq!(world.status().phase, Phase::Config);
            fs::write(world.path("config"), r#"{"Network":"10.244.0.0/99"}"#).unwrap();
            until("told again", || world.status().problems[0].contains("invalid")).await;
            fs::write(world.path("config"), CONFIG).unwrap();
        };
        let (begun, ()) = tokio::join!(world.begin(), write);
        let begun = begun.unwrap();
        assert_eq!(begun.mtu(), 1472);
        assert_eq!(begun.bind_addresses(), ["10.168.0.2:8285".parse().unwrap()]);
        assert!(!world.path("subnets").exists(), "nothing is claimed yet");

        let acquired = begun.acquire().await.unwrap();
        let lease = acquired.lease().record.name.clone();
        let stored = read(&world.path("subnets").join(&lease));
        let id = read(&world.path("state/id"));
        let expected = format!(
            "{{\"PublicIP\":\"10.168.0.2\",\"PublicIPv6\":null,\"Weft\":{{\"v\":1,\"id\":\"{}\",\
             \"paths\":[\"udp\"],\"port\":8285,\"ports\":1,\"mtu\":1472}}}}",
            id.trim_end()
        );
        assert_eq!(stored, expected);
        let first = acquired.first_table();
        assert_eq!((first.epoch(), first.peers().len()), (1, 0));
        assert!(!world.path("run/subnet.env").exists(), "the device is not there yet");

        let running = acquired.configure(DEVICE_NAME, index_of(DEVICE_NAME)).await.unwrap();
        let address = lease.replace("-24", "/32");
        assert!(
            ip("addr show flannel0").contains(&format!("inet {address} scope global flannel0"))
        );
        assert!(ip("link show flannel0").contains("mtu 1472"));
        let route = ip("-details route show 10.244.0.0/16");
        assert!(route.starts_with("unicast 10.244.0.0/16 dev flannel0 proto 82 scope"), "{route}");
        assert!(!world.status.is_ready());

        let run = running.run(Tables::default(), until("ready", || world.status.is_ready()));
        run.await.unwrap();
        assert_eq!(read(&world.path("run/subnet.env")), subnet_file(&lease));
        assert!(world.path("subnets").join(&lease).exists(), "the lease outlives a stop");
        assert_eq!(world.acquired().await.lease().record.name, lease);
    });
}

/// They are said from the start, and also once the lease is written again.
#[test]
fn several_source_ports_are_told_in_the_lease() {
    in_new_namespace("ports", || async {
        let config = CONFIG.replace(r#""udp"}"#, r#""udp","SourcePorts":4}"#);
        let world = World::with_config(&config);
        let mut begun = world.begin().await.unwrap();
        assert_eq!(begun.config().backend.udp().unwrap().source_ports, 4);
        begun.set_source_ports(3);
        let acquired = begun.acquire().await.unwrap();
        let script = async |lease: &str, _: &Tables| {
            let says = |part: &str| read(&world.path("subnets").join(lease)).contains(part);
            assert!(says(r#""port":8285,"ports":3,"mtu""#));
            let moved = config.replace("4}", r#"4,"Port":9000}"#);
            fs::write(world.path("config"), moved).unwrap();
            until("the new port is told", || says(r#""port":9000,"ports":3,"mtu""#)).await;
        };
        world.run_acquired(acquired, script).await;
    });
}

#[test]
fn peers_come_change_and_go() {
    in_new_namespace("peers", || async {
        let world = World::with_config(CONFIG);
        let peer = "10.244.7.0-24";
        // Whatever subnet the node takes, it is not the peer's.
        fs::create_dir(world.path("subnets")).unwrap();
        fs::write(world.path("subnets").join(peer), FLANNEL).unwrap();
        world
            .run(async |_, tables| {
                let outer = || {
                    let table = tables.last()?;
                    Some(table.peer_for("10.244.7.9".parse().unwrap())?.outer.to_string())
                };
                until("the first list", || outer().as_deref() == Some("10.168.0.3:8285")).await;
                assert!(world.status.is_ready());
                let moved = FLANNEL.replace("0.3", "0.4");
                fs::write(world.path("subnets").join(peer), moved).unwrap();
                until("the change", || outer().as_deref() == Some("10.168.0.4:8285")).await;
                fs::write(world.path("subnets/10.244.300.0-24"), "?").unwrap();
                until("a bad lease", || world.status().rejected.len() == 1).await;
                assert_eq!(world.status().rejections["name"], 1);
                assert_eq!(world.status().peers.len(), 1);
                fs::remove_file(world.path("subnets").join(peer)).unwrap();
                until("the deletion", || outer().is_none()).await;
                let epochs: Vec<u64> = tables.0.borrow().iter().map(|one| one.epoch()).collect();
                assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
            })
            .await;
    });
}

#[test]
fn a_storm_of_leases_is_merged() {
    in_new_namespace("storm", || async {
        let world = World::with_config(r#"{"Network":"10.244.0.0/16","SubnetLen":26}"#);
        world
            .run(async |own, tables| {
                until("ready", || world.status.is_ready()).await;
                let names = (1..=200).map(|number| format!("10.244.{number}.64-26"));
                let mut written = 0;
                for name in names.filter(|name| name != own) {
                    fs::write(world.path("subnets").join(name), FLANNEL).unwrap();
                    written += 1;
                }
                until("all", || tables.last().is_some_and(|table| table.peers().len() == written))
                    .await;
                assert!(tables.0.borrow().len() < 20, "{}", tables.0.borrow().len());
            })
            .await;
    });
}

#[test]
fn what_is_deleted_by_hand_comes_back() {
    in_new_namespace("repair", || async {
        let world = World::with_config(CONFIG);
        world
            .run(async |lease, _| {
                until("ready", || world.status.is_ready()).await;
                ip("route del 10.244.0.0/16");
                until("the route", || !ip("route show 10.244.0.0/16").is_empty()).await;
                ip(&format!("addr del {} dev flannel0", lease.replace("-24", "/32")));
                until("the address", || ip("addr show flannel0").contains("inet 10.244.")).await;
                ip("link set flannel0 mtu 1400");
                until("the MTU", || ip("link show flannel0").contains("mtu 1472")).await;
                ip("link add other type veth peer name end");
                ip("link set other up");
                ip("route replace 10.244.0.0/16 dev other");
                until("not ready", || !world.status.is_ready()).await;
                assert!(world.status.snapshot().problems[0].contains("10.244.0.0/16 dev other"));
                ip("route del 10.244.0.0/16 dev other");
                ip("route add 10.244.0.0/16 dev other metric 9");
                until("ready", || world.status.is_ready()).await;
                until("the other one", || !world.status.snapshot().foreign.is_empty()).await;
                let path = world.path("subnets").join(lease);
                let stored = read(&path);
                fs::remove_file(&path).unwrap();
                until("the lease", || read(&path) == stored).await;
                assert!(world.status.is_ready());
            })
            .await;
    });
}

#[test]
fn a_taken_lease_is_held_and_told() {
    in_new_namespace("taken", || async {
        let world = World::with_config(CONFIG);
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let path = world.path("subnets").join(lease);
                let ours = read(&path);
                fs::write(&path, FLANNEL).unwrap();
                until("not ready", || !world.status.is_ready()).await;
                assert!(world.status().problems[0].contains("taken"), "{:?}", world.status());
                assert_eq!(read(&path), FLANNEL, "theirs stays");
                fs::write(world.path("subnets/10.244.7.0-24"), FLANNEL).unwrap();
                until("peers still come", || tables.last().is_some()).await;
                fs::write(&path, ours).unwrap();
                until("ready again", || world.status.is_ready()).await;
            })
            .await;
    });
}

#[test]
fn a_changed_config_is_applied_or_told() {
    in_new_namespace("config", || async {
        let world = World::with_config(CONFIG);
        let write = |config: &str| fs::write(world.path("config"), config).unwrap();
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let note = || world.status().config_change.unwrap_or_default();
                write(&CONFIG.replace("24", "25"));
                until("told", || note().contains("Restart")).await;
                write("{");
                until("told that it is bad", || note().contains("not usable")).await;
                write(CONFIG);
                until("forgotten", || note().is_empty()).await;

                write(&CONFIG.replace(r#""udp"}"#, r#""udp","Port":8286,"StrictSource":true}"#));
                until("the port", || read(&world.path("subnets").join(lease)).contains("8286"))
                    .await;
                let bound = || tables.1.borrow().last().map(|last| last[0].to_string());
                assert_eq!(bound().as_deref(), Some("10.168.0.2:8286"));
                until("the table", || {
                    tables.last().is_some_and(|table| table.input().strict_source)
                })
                .await;
                assert_eq!(world.status().config.unwrap().port, Some(8286));

                // A wider network with the same subnets: the route of the narrower one goes.
                write(&CONFIG.replace("10.244.0.0/16", "10.244.0.0/15"));
                until("the route", || ip("route show 10.244.0.0/15").contains("proto 82")).await;
                until("no left-over", || ip("route show 10.244.0.0/16").is_empty()).await;
                until("the file", || {
                    read(&world.path("run/subnet.env")).contains("FLANNEL_NETWORK=10.244.0.0/15\n")
                })
                .await;
                // One that something is in the way of.
                ip("route add 10.240.0.0/12 dev u2");
                write(&CONFIG.replace("10.244.0.0/16", "10.240.0.0/12"));
                until("told what is in the way", || note().contains("10.240.0.0/12")).await;
                assert!(ip("route show 10.244.0.0/15").contains("proto 82"));
                assert!(world.status.is_ready());
            })
            .await;
    });
}

#[test]
fn another_address_is_used_when_the_first_is_gone() {
    in_new_namespace("moved", || async {
        let world = World::with_config(CONFIG);
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let stored = || read(&world.path("subnets").join(lease));
                let id = read(&world.path("state/id"));
                // Of the host's own address no other host can say that it has it.
                let peer = FLANNEL.replace("0.3", "0.9");
                fs::write(world.path("subnets/10.244.7.0-24"), peer).unwrap();
                until("a peer", || world.status().peers.len() == 1).await;
                ip("addr add 10.168.0.9/24 dev u1");
                until("the new address is known", || world.status().rejected.len() == 1).await;
                assert!(tables.1.borrow().is_empty(), "the first one is still there");
                ip("addr del 10.168.0.2/24 dev u1");
                ip("addr replace 10.168.0.9/24 dev u1");
                until("the new address is told", || stored().contains("10.168.0.9")).await;
                assert!(stored().contains(id.trim_end()), "{}", stored());
                let bound = tables.1.borrow().last().unwrap().clone();
                assert_eq!(bound, ["10.168.0.9:8285".parse().unwrap()]);
                until("ready again", || world.status.is_ready()).await;
                let interface = world.status().interface.unwrap();
                assert_eq!(interface.addresses[0].to_string(), "10.168.0.9");
                assert_eq!(world.status().lease.unwrap().name, lease);
            })
            .await;
    });
}

/// What would end a start is named while the node runs, and taken up only when it is gone.
#[test]
fn an_address_whose_subnet_overlaps_the_network_is_named_and_not_used() {
    in_new_namespace("overlap", || async {
        let world = World::with_config(CONFIG);
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let stored = || read(&world.path("subnets").join(lease));
                let before = stored();
                ip("addr del 10.168.0.2/24 dev u1");
                ip("addr add 10.244.7.9/24 dev u1");
                let named = || {
                    let problems = world.status().problems;
                    problems.iter().any(|one| one.contains("overlaps the subnet 10.244.7.0/24"))
                };
                until("named", named).await;
                assert!(!world.status.is_ready());
                let checks = world.status().checks();
                let routes = checks.iter().find(|check| check.name == "routes").unwrap();
                assert!(routes.problem.as_ref().unwrap().contains("overlaps"), "{routes:?}");
                assert!(tables.1.borrow().is_empty(), "nothing is sent from it");
                assert_eq!(stored(), before, "and nobody is told of it");

                ip("addr del 10.244.7.9/24 dev u1");
                ip("addr add 10.168.0.9/24 dev u1");
                until("another address is told", || stored().contains("10.168.0.9")).await;
                until("ready again", || world.status.is_ready()).await;
                assert!(!named());
            })
            .await;
    });
}

#[test]
fn a_deleted_device_ends_the_run() {
    in_new_namespace("deleted", || async {
        let world = World::with_config(CONFIG);
        let acquired = world.acquired().await;
        let running = acquired.configure(DEVICE_NAME, index_of(DEVICE_NAME)).await.unwrap();
        let delete = async {
            until("ready", || world.status.is_ready()).await;
            ip("link del flannel0");
        };
        let run = timeout(PATIENCE, running.run(Tables::default(), std::future::pending()));
        let (outcome, ()) = tokio::join!(run, delete);
        assert!(matches!(outcome, Ok(Err(RunError::DeviceGone(_)))));
    });
}

#[test]
fn both_families() {
    in_new_namespace("dual", || async {
        let world = World::with_config(
            r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48"}"#,
        );
        ip("addr add 2001:db8::2/64 dev u1 nodad");
        world
            .run(async |lease, _| {
                until("ready", || world.status.is_ready()).await;
                let stored = read(&world.path("subnets").join(lease));
                assert!(stored.contains(r#""PublicIPv6":"2001:db8::2","Weft""#), "{stored}");
                assert!(stored.ends_with(r#""mtu":1472,"v6":true}}"#), "{stored}");
                let file = read(&world.path("run/subnet.env"));
                assert!(file.contains("FLANNEL_IPV6_NETWORK=fd44::/48\nFLANNEL_IPV6_SUBNET=fd44:"));
                assert!(ip("-6 route show fd44::/48").contains("dev flannel0 proto 82"));
                let addresses = ip("-6 addr show flannel0");
                assert!(addresses.contains("::/128 scope global"), "{addresses}");
            })
            .await;
    });
}

#[test]
fn starts_that_cannot_be() {
    in_new_namespace("refused", || async {
        let world = World::with_config(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"ipip"}}"#);
        let text = |error: StartError| error.to_string();
        let error = world.begin().await.unwrap_err();
        assert!(text(error).contains("does not have flannel's backend type"));

        let write = |config: &str| fs::write(world.path("config"), config).unwrap();
        write(r#"{"Network":"10.168.0.0/16"}"#);
        assert!(matches!(world.begin().await, Err(StartError::Device(_))));

        write(CONFIG);
        ip("route add 10.244.0.0/16 dev u2");
        assert!(matches!(world.begin().await, Err(StartError::Device(_))));
        ip("route del 10.244.0.0/16 dev u2");

        write(r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48"}"#);
        ip("addr add 2001:db8::2/64 dev u1 nodad");
        ip("link set u1 mtu 1300");
        assert!(matches!(world.begin().await, Err(StartError::Mtu { mtu: 1272, .. })));

        write(CONFIG);
        assert_eq!(world.begin().await.unwrap().mtu(), 1272);
        let options = Options { subnet_file: world.path("config/subnet.env"), ..world.options() };
        let error = begin(options, world.status.clone()).await.unwrap_err();
        assert!(text(error).contains("--subnet-file"));
        let options = Options { state_directory: world.path("config/state"), ..world.options() };
        let error = begin(options, world.status.clone()).await.unwrap_err();
        assert!(matches!(error, StartError::Identity(_)));
        let options = Options {
            interface: InterfaceOptions { iface: vec!["u9".into()], ..Default::default() },
            ..world.options()
        };
        assert!(matches!(
            begin(options, world.status.clone()).await,
            Err(StartError::Interface(_))
        ));
    });
}
