//! The daemon's settings: flags that were understood, checked against each other and against what
//! is built, as one value. Every mistake is reported at once.

mod source;
mod unbuilt;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_ctrl::config::SOURCE_PORTS_MAX;
use weft_ctrl::controller::{self, OnLeaseLoss};
use weft_ctrl::interface::InterfaceOptions;
use weft_ctrl::netfilter;
use weft_dataplane::EngineWish;
use weft_sys::ring::Without as WithoutRing;
use weft_sys::tun::WithoutOffloads;

use crate::flags::{Flags, Mistake, definition};

pub use source::{remarks, unused};

/// Where subcommands look for the daemon, and where it listens with flanneld's own subnet file.
pub const ADMIN_SOCKET: &str = "/run/weft/weft.sock";

/// Where the daemon keeps its state with flanneld's own subnet file.
pub const STATE_DIRECTORY: &str = "/var/lib/weft";

/// `subnet-lease-renew-margin` must be above 0 and below this: minutes of a lease's whole life.
const RENEW_MARGIN_END: i64 = 24 * 60;

// The config counts source ports, the sockets tell them apart.
const _: () = assert!(SOURCE_PORTS_MAX == weft_sys::udp::SOURCE_PORTS_MAX);

/// What the daemon was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the control loop needs.
    pub control: controller::Options,
    /// Where to answer health probes, if at all.
    pub health: Option<SocketAddr>,
    /// Where to answer subcommands.
    pub admin_socket: PathBuf,
    /// Which engine is to move the packets.
    pub engine: EngineWish,
    /// How many threads are to move packets, at most [`SOURCE_PORTS_MAX`].
    pub workers: u16,
    /// What not to use.
    pub without: Without,
}

/// Features of the kernel not to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Of io_uring.
    pub ring: WithoutRing,
    /// Of the device.
    pub tun: WithoutOffloads,
    /// Sending trains of datagrams.
    pub udp_gso: bool,
    /// Receiving trains of datagrams.
    pub udp_gro: bool,
    /// Looking for packets a little longer before sleeping.
    pub spin: bool,
    /// Taking precedence of others, and giving way in a flood.
    pub precedence: bool,
    /// Small packets past the workers.
    pub shortcut: bool,
}

impl Options {
    /// Checks the flags.
    pub fn check(flags: &Flags) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = unbuilt::refusals(flags);
        let mut checker = Checker { flags, mistakes: &mut mistakes };
        checker.renew_margin();
        let workers = checker.workers();
        let interface = checker.interface();
        let health = checker.health();
        let (admin_socket, state_directory) = checker.places();
        let source = checker.source(&state_directory);
        let netfilter = checker.netfilter();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let control = controller::Options {
            source: source.expect("only a mistake leaves it out"),
            state_directory,
            subnet_file: flags.text("subnet-file").into(),
            interface,
            netfilter,
            renew_margin: minutes(flags.integer("subnet-lease-renew-margin")),
            on_lease_loss: match flags.text("on-lease-loss") {
                "replace" => OnLeaseLoss::Replace,
                _ => OnLeaseLoss::Hold,
            },
            insecure_store: flags.boolean("insecure-store"),
        };
        let (engine, without) = (engine(flags), without(flags));
        Ok(Self { control, health, admin_socket, engine, workers, without })
    }
}

fn minutes(number: i64) -> Duration {
    Duration::from_secs(60 * number.unsigned_abs())
}

struct Checker<'a> {
    flags: &'a Flags,
    mistakes: &'a mut Vec<Mistake>,
}

impl Checker<'_> {
    fn mistake(&mut self, sentence: String) {
        self.mistakes.push(Mistake(sentence));
    }

    fn renew_margin(&mut self) {
        let margin = self.flags.integer("subnet-lease-renew-margin");
        if !(1..RENEW_MARGIN_END).contains(&margin) {
            self.mistake(format!(
                "--subnet-lease-renew-margin is {margin}; it must be above 0 and below \
                 {RENEW_MARGIN_END} minutes"
            ));
        }
    }

    fn netfilter(&mut self) -> netfilter::Options {
        let seconds = self.flags.integer("iptables-resync");
        if seconds < 1 {
            self.mistake(format!(
                "--iptables-resync is {seconds}; it must be at least 1 second between two checks of \
                 the netfilter rules"
            ));
        }
        netfilter::Options {
            masquerade: self.flags.boolean("ip-masq"),
            fully_random: !self.flags.boolean("ip-masq-fully-random-disable"),
            forward: self.flags.boolean("iptables-forward-rules"),
            resync: Duration::from_secs(seconds.unsigned_abs()),
            blackhole: self.flags.boolean("ip-blackhole-route"),
        }
    }

    fn workers(&mut self) -> u16 {
        let workers = self.flags.integer("workers");
        if !(1..=i64::from(SOURCE_PORTS_MAX)).contains(&workers) {
            self.mistake(format!(
                "--workers is {workers}; it must be at least 1 and at most {SOURCE_PORTS_MAX}"
            ));
        }
        u16::try_from(workers).unwrap_or(1)
    }

    fn interface(&mut self) -> InterfaceOptions {
        let can_reach: Option<IpAddr> = self.address("iface-can-reach", "an IP address");
        InterfaceOptions {
            iface: self.flags.list("iface").to_vec(),
            iface_regex: self.flags.list("iface-regex").to_vec(),
            can_reach: can_reach.map(|address| address.to_string()),
            public_ip: self.address("public-ip", "an IPv4 address"),
            public_ipv6: self.address("public-ipv6", "an IPv6 address"),
        }
    }

    /// The address in a flag; empty means none.
    fn address<A: std::str::FromStr>(&mut self, name: &str, wanted: &str) -> Option<A> {
        let text = self.flags.text(name);
        if text.is_empty() {
            return None;
        }
        let address = text.parse().ok();
        if address.is_none() {
            self.mistake(format!("--{name} is {text:?}; it must be {wanted}"));
        }
        address
    }

    fn health(&mut self) -> Option<SocketAddr> {
        let port = self.flags.integer("healthz-port");
        if port <= 0 {
            return None;
        }
        let Ok(port) = u16::try_from(port) else {
            self.mistake(format!("--healthz-port is {port}; it must be at most {}", u16::MAX));
            return None;
        };
        if self.flags.text("healthz-ip").is_empty() {
            return Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        }
        let ip: IpAddr = self.address("healthz-ip", "an IP address")?;
        Some(SocketAddr::new(ip, port))
    }

    /// Admin socket and state directory, each as given or by the stem of the subnet file.
    fn places(&mut self) -> (PathBuf, PathBuf) {
        let (socket, state) = default_places(Path::new(self.flags.text("subnet-file")))
            .unwrap_or_else(|| {
                let text = self.flags.text("subnet-file");
                self.mistake(format!("--subnet-file is {text:?}; it must name a file"));
                Default::default()
            });
        let given = |name: &str, default: PathBuf| match self.flags.text(name) {
            "" => default,
            path => path.into(),
        };
        (given("admin-socket", socket), given("state-dir", state))
    }
}

/// Several daemons on one host are told apart by their subnet files, as flanneld's users do it, so
/// the other places follow: `/vxlan.env` gives `/run/weft/vxlan.sock` and `/var/lib/weft/vxlan`.
fn default_places(subnet_file: &Path) -> Option<(PathBuf, PathBuf)> {
    let stem = subnet_file.file_stem()?;
    if subnet_file == Path::new(definition("subnet-file").default) {
        return Some((ADMIN_SOCKET.into(), STATE_DIRECTORY.into()));
    }
    let mut socket_name = stem.to_owned();
    socket_name.push(".sock");
    Some((
        Path::new(ADMIN_SOCKET).with_file_name(socket_name),
        Path::new(STATE_DIRECTORY).join(stem),
    ))
}

fn engine(flags: &Flags) -> EngineWish {
    match flags.text("engine") {
        "uring" => EngineWish::Uring,
        "epoll" => EngineWish::Epoll,
        _ => EngineWish::Auto,
    }
}

fn without(flags: &Flags) -> Without {
    let has = |feature: &str| flags.list("without").iter().any(|given| given == feature);
    Without {
        ring: WithoutRing { io_uring: has("uring"), multishot: has("multishot") },
        tun: WithoutOffloads {
            checksum: has("tun-csum"),
            tso: has("tun-tso"),
            uso: has("tun-uso"),
        },
        udp_gso: has("udp-gso"),
        udp_gro: has("udp-gro"),
        spin: has("spin"),
        precedence: has("precedence"),
        shortcut: has("shortcut"),
    }
}

#[cfg(test)]
mod tests;
