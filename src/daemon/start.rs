//! flanneld's start-up sequence with our device, sockets and worker in it, and what runs after it.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tracing::{info, warn};
use weft_ctrl::controller::{self, Begun};
use weft_dataplane::{EngineWish, Habits, WorkerInfo};
use weft_forward::table::{Table, TableInput};

use super::care;
use super::degraded;
use super::device;
use super::forwarding::{Equipment, Forwarding, Tables};
use super::sealing::Keys;
use super::shortcut::{self, Shortcuts};
use super::state::State;
use super::tell_supervisor;
use super::watchdog;
use super::workers::Crew;
use crate::options::Options;

/// Comes back only with what ends the daemon.
pub(super) async fn start_and_run(options: &Options, state: &State) -> Result<()> {
    let begun = controller::begin(options.control.clone(), state.control()).await?;
    match begun.config().backend.udp().map(|udp| udp.source_ports) {
        Some(source_ports) => move_packets(begun, options, source_ports, state).await,
        None => leave_to_kernel(begun, state).await,
    }
}

/// The types whose packets the kernel carries: no device, sockets or workers of ours.
async fn leave_to_kernel(begun: Begun, state: &State) -> Result<()> {
    let backend = begun.config().backend.name();
    info!(backend, "packets are carried by the kernel");
    let running = begun.acquire().await?.leave_to_kernel();
    let wishes = state.take_wishes();
    tokio::select! {
        outcome = running.run_releasable(std::future::pending(), wishes) => outcome?,
        never = announce_readiness(state) => match never {},
    }
    Ok(())
}

/// The type whose packets our workers carry.
async fn move_packets(
    mut begun: Begun,
    options: &Options,
    source_ports: u16,
    state: &State,
) -> Result<()> {
    let keys = load_keys(&mut begun, options)?;
    let mut opened = open(&begun, options, source_ports).await?;
    opened.keys = keys;
    begun.set_source_ports(opened.crew.count);
    let device = opened.queues.first().context("the device has no queue")?;
    let (name, index) = (device.name().to_owned(), device.index());
    opened.shortcuts = probe_shortcut(&begun, options, &opened);
    if opened.shortcuts.is_some() {
        begun.set_shortcut();
    }
    // With an empty table, so that a kernel that refuses the engine is found out before the lease
    // is taken.
    let (forwarding, mut events) = Forwarding::start(opened)?;
    log_engine(options, forwarding.info());
    degraded::log(forwarding.info(), options.without);
    state.set_forwarding(Arc::clone(&forwarding));
    let wishes = state.take_wishes();
    let has_other_paths = begun.config().backend.paths().len() > 1;
    let acquired = begun.acquire().await?;
    forwarding.adopt(&acquired.first_table())?;
    let running = acquired.configure(&name, index).await?;
    let tables = Tables { forwarding: Arc::clone(&forwarding), without: options.without };
    let (without, forwarding) = (options.without, &forwarding);
    let care = care::Care { state, forwarding, has_other_paths, without };
    tokio::select! {
        outcome = running.run_releasable(tables, std::future::pending(), wishes) => outcome?,
        failure = care.look_after(&mut events) => match failure? {},
        never = announce_readiness(state) => match never {},
        never = watchdog::watch(forwarding, state) => match never {},
        never = forwarding.watch_shortcuts() => match never {},
    }
    Ok(())
}

async fn open(begun: &Begun, options: &Options, source_ports: u16) -> Result<Equipment> {
    let without = options.without;
    let mut crew = Crew::wanted(options.workers, source_ports);
    let queues = device::open_device(&mut crew, without).await?;
    crew.log();
    let sockets = device::open_sockets(&begun.bind_addresses(), crew.count, without).await?;
    let inner_mtu = u16::try_from(begun.mtu()).context("the MTU is too large for IP")?;
    let table = Table::new(TableInput::default()).context("the empty table was refused")?;
    Ok(Equipment {
        crew,
        queues,
        sockets,
        inner_mtu,
        engine: options.engine,
        without: without.ring,
        habits: Habits { spin: !without.spin, precedence: !without.precedence },
        keys: None,
        shortcuts: None,
        table: Arc::new(table),
    })
}

/// `None` where it is not wanted or cannot be had. What is sealed has none: only workers seal.
fn probe_shortcut(begun: &Begun, options: &Options, opened: &Equipment) -> Option<Shortcuts> {
    if options.without.shortcut || opened.keys.is_some() {
        return None;
    }
    let (name, addresses) = (&begun.interface().name, begun.bind_addresses());
    let probed = Shortcuts::probe(name, &addresses, &opened.table);
    probed.inspect_err(shortcut::log_missing).ok()
}

/// Where traffic is sealed, the lease says our key, so it has to be there before.
fn load_keys(begun: &mut Begun, options: &Options) -> Result<Option<Keys>> {
    let Some(sealing) = begun.config().backend.sealing() else { return Ok(None) };
    // No other process looks into our memory, and no core of it is written.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    hidden.context("could not keep the keys out of core dumps")?;
    let keys = Keys::load(sealing, &options.control.state_directory)?;
    begun.set_key(keys.public());
    Ok(Some(keys))
}

/// A warning if the kernel left no choice.
fn log_engine(options: &Options, info: &WorkerInfo) {
    let (engine, reason) = (info.engine, &info.reason);
    let wanted_all =
        options.engine == EngineWish::Auto && options.without.ring == Default::default();
    if wanted_all && engine == "epoll" {
        warn!(engine, reason, "packets are moved by the second best engine");
    } else {
        info!(engine, reason, "packets are moved");
    }
}

/// Tells the supervisor once, and everybody who reads the log at every change.
async fn announce_readiness(state: &State) -> std::convert::Infallible {
    let mut statuses = state.control().subscribe();
    let (mut was_ready, mut told) = (false, false);
    loop {
        let (ready, problems) = {
            let status = statuses.borrow_and_update();
            (status.ready, status.problems.clone())
        };
        if ready && !was_ready {
            info!("ready");
        } else if was_ready && !ready {
            warn!(?problems, "not ready any more");
        }
        if ready && !told {
            tell_supervisor(sd_notify::NotifyState::Ready);
            told = true;
        }
        was_ready = ready;
        statuses.changed().await.expect("the handle outlives this loop");
    }
}
