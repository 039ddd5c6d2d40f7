//! What becomes of a daemon whose workers have ended: with other paths to all peers it starts workers
//! anew; else it ends, and its supervisor starts it anew.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{error, info};
use weft_ctrl::config::PathKind;
use weft_ctrl::controller::TableSink;
use weft_dataplane::Event;

use super::forwarding::{Forwarding, Tables, Told};
use super::state::State;
use crate::options::Without;

/// The control loop moves peers to other paths within this.
const MOVING_PATIENCE: Duration = Duration::from_secs(1);

/// Pauses before workers are started anew.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Workers that went on for so long have earned a short pause again.
const CALM: Duration = Duration::from_secs(120);

/// What successors need.
#[derive(Clone, Debug)]
pub(super) struct Care {
    /// Where the sockets are bound.
    pub(super) addresses: Vec<SocketAddr>,
    /// Peers may be reached without workers.
    pub(super) has_other_paths: bool,
    pub(super) without: Without,
}

/// Comes back only with what ends the daemon.
pub(super) async fn look_after(
    events: &mut mpsc::Receiver<Told>,
    state: &State,
    forwarding: &Arc<Forwarding>,
    care: Care,
) -> Result<Infallible> {
    let mut tables = Tables { forwarding: Arc::clone(forwarding), without: care.without };
    let mut pause = PAUSE_FIRST;
    loop {
        let started = Instant::now();
        let reason = follow_events(events, state, care.has_other_paths).await;
        if !care.has_other_paths {
            bail!("A packet worker has ended: {reason}");
        }
        error!(reason, "a packet worker has ended; peers are reached on other paths");
        state.set_dead_worker(true);
        forwarding.set_works(false);
        if started.elapsed() > CALM {
            pause = PAUSE_FIRST;
        }
        sleep(MOVING_PATIENCE).await;
        loop {
            let stranded = stranded(state);
            if stranded > 0 {
                bail!(
                    "A packet worker has ended ({reason}), and {stranded} peers have no other path"
                );
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
            match tables.rebind(care.addresses.clone()).await {
                Ok(()) => break,
                Err(problem) => error!(problem, "no new packet workers; it is tried again"),
            }
        }
        info!("new packet workers have begun");
        state.set_dead_worker(false);
        forwarding.set_works(true);
    }
}

/// Ends with the reason when a worker has ended by itself. Where workers are replaced, the end of one
/// that was replaced means nothing.
async fn follow_events(
    events: &mut mpsc::Receiver<Told>,
    state: &State,
    are_replaced: bool,
) -> String {
    while let Some(told) = events.recv().await {
        match told.event {
            Event::Dead { reason } if !are_replaced || state.is_current(told.worker) => {
                return reason;
            }
            Event::Dead { .. } => {}
            _ => state.handle_event(&told),
        }
    }
    "it left no reason".to_owned()
}

/// How many peers only the workers can reach.
fn stranded(state: &State) -> usize {
    let peers = state.control().snapshot().peers;
    let only_engine = |path: &str| path.split(", ").any(|one| one == PathKind::Udp.name());
    peers.iter().filter(|peer| only_engine(&peer.path)).count()
}
