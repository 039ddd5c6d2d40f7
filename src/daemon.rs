//! The daemon: the order of its start, what runs meanwhile, and how it ends.
//!
//! Everything but the packet worker runs on one thread, which never waits for anything but its
//! runtime. What can fail before the lease is taken is done before, so that a host that cannot
//! carry packets does not claim a subnet.

mod care;
mod degraded;
mod device;
mod events;
mod forwarding;
mod health;
mod kernel;
mod metrics;
pub(crate) mod owner;
mod patience;
mod sealing;
mod shortcut;
mod signals;
mod start;
mod state;
mod state_directory;
mod watchdog;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime;
use tracing::{debug, info};
use weft_ctrl::status::Check;

use crate::admin::server::{AdminSocket, OpenError};
use crate::options::Options;
use health::{Health, Probed};
use metrics::Metrics;
use patience::patiently;
use signals::StopSignals;
use state::State;
use state_directory::{StateDirectory, StateError};

/// The user who may ask over the admin socket.
const ROOT: u32 = 0;

/// What is left of the runtime after a stop, such as a name look-up, is not waited for longer.
const RUNTIME_PATIENCE: Duration = Duration::from_millis(100);

/// Runs until a signal asks to stop, or until it cannot go on.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let outcome = runtime.block_on(live(options));
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    outcome
}

async fn live(options: &Options) -> Result<()> {
    let mut signals = StopSignals::install().context("could not take over signals")?;
    let _state_directory = lock_state_directory(options).await?;
    let source = options.control.source.open().description();
    let state = State::new(source);
    let admin = open_admin_socket(options).await?;
    let outcome = tokio::select! {
        never = admin.serve(Arc::clone(&state) as _) => match never {},
        failure = serve_health(options, &state) => failure,
        failure = start::start_and_run(options, &state) => failure,
        signal = signals.first() => {
            info!(signal, "asked to stop");
            Ok(())
        }
    };
    let stopped = stop(&state).await;
    outcome.and(stopped)
}

async fn lock_state_directory(options: &Options) -> Result<StateDirectory, StateError> {
    let path = &options.control.state_directory;
    let is_taken = |error: &StateError| matches!(error, StateError::Taken { .. });
    patiently("state directory", || StateDirectory::open(path), is_taken).await
}

async fn open_admin_socket(options: &Options) -> Result<AdminSocket, OpenError> {
    let path = &options.admin_socket;
    let is_taken = |error: &OpenError| matches!(error, OpenError::Taken { .. });
    patiently("admin socket", || AdminSocket::open(path, ROOT), is_taken).await
}

/// Ends only if the port cannot be had.
async fn serve_health(options: &Options, state: &Arc<State>) -> Result<()> {
    let Some(address) = options.health else { return std::future::pending().await };
    let health = Health::open(address).await?;
    info!(address = %health.address().unwrap_or(address), "answering health probes");
    let (state, metrics) = (Arc::clone(state), Metrics::new(Arc::clone(state)));
    match health.serve(Arc::new(Probes { state, metrics })).await {}
}

/// What the health port answers from.
struct Probes {
    state: Arc<State>,
    metrics: Metrics,
}

impl Probed for Probes {
    fn is_ready(&self) -> bool {
        self.state.is_ready()
    }

    fn checks(&self) -> Vec<Check> {
        self.state.checks()
    }

    fn metrics(&self) -> (String, &'static str) {
        (self.metrics.text(), metrics::CONTENT_TYPE)
    }
}

/// Device and sockets are gone after this, and the route with the device. The lease and the subnet
/// file stay, so that the next start gets the same subnet.
async fn stop(state: &Arc<State>) -> Result<()> {
    tell_supervisor(sd_notify::NotifyState::Stopping);
    let Some(forwarding) = state.forwarding() else { return Ok(()) };
    let stopping = tokio::task::spawn_blocking(move || forwarding.stop());
    stopping.await.context("the thread that stops the worker ended")??;
    info!("stopped");
    Ok(())
}

/// Tells systemd, or whoever set `NOTIFY_SOCKET`. Without it nothing happens.
fn tell_supervisor(news: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[news]) {
        debug!(%error, "the supervisor was not told");
    }
}
