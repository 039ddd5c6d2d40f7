//! The first questions to the source, and what is done while it does not answer them.

use std::io::Write;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::{Begun, StartError};
use crate::config::{ConfigError, NetworkConfig, Subnets};
use crate::lease::{Attributes, Lease};
use crate::saved::{Saved, wall_clock};
use crate::source::acquire::{
    AcquireError, Acquired, Origin, Request, acquire as acquire_from, is_owned,
};
use crate::source::{Answer, PublicAddresses, Record, Source};
use crate::status::{Concern, StatusHandle};
use crate::subnet_file;

/// How often a missing or invalid config is read again, and a source that does not answer is asked.
const PERIOD: Duration = Duration::from_secs(1);

/// How long the source may take to answer while what it said last would do as well.
const PATIENCE_WITH_SAVED: Duration = Duration::from_millis(500);

/// Giving out a lease takes several answers.
const ACQUIRE_PATIENCE_WITH_SAVED: Duration = Duration::from_secs(2);

/// A config to start with.
pub(super) struct Found {
    pub(super) config: NetworkConfig,
    pub(super) document: String,
    /// The source did not answer; the config is the saved one.
    pub(super) source_is_away: bool,
}

/// Waits until there is a config that can be used.
pub(super) async fn wait_for_config(
    source: &dyn Source,
    saved: Option<&Saved>,
    status: &StatusHandle,
) -> Result<Found, ConfigError> {
    let mut said = String::new();
    loop {
        let problem = match ask_for_config(source, saved).await {
            Asked::Config(Ok((config, document))) => {
                return Ok(Found { config, document, source_is_away: false });
            }
            Asked::Config(Err(error)) if error.is_fatal() => return Err(error),
            Asked::Config(Err(error)) => error.to_string(),
            Asked::None => source.config_remedy(),
            Asked::NoAnswer(problem) => {
                match saved.and_then(|saved| usable(saved, source.subnets())) {
                    Some(found) => {
                        warn!(problem, "starting with what was known last");
                        status.change(|status| status.raise(Concern::LeaseSource, problem));
                        return Ok(found);
                    }
                    None => problem,
                }
            }
        };
        if said != problem {
            error!(problem, "waiting for a network config");
            status.change(|status| status.raise(Concern::Start, problem.clone()));
            said = problem;
        }
        // flanneld prints this at every failure, and tools wait for it. That nobody reads it any
        // more is no reason to end.
        let _ = writeln!(std::io::stdout(), "timed out");
        sleep(PERIOD).await;
    }
}

/// Waits until it is known where the source wants this node to be reached.
pub(super) async fn public_addresses(
    source: &dyn Source,
    status: &StatusHandle,
) -> PublicAddresses {
    until_answered(status, || source.public_addresses()).await
}

/// What is stored as this node's lease by a source that gives the subnets. Who was here before has kept
/// it.
pub(super) async fn given(begun: &Begun) -> Option<Record> {
    if begun.source.subnets() != Subnets::Given {
        return None;
    }
    if let Some(saved) = &begun.saved {
        return own_record(saved);
    }
    if begun.source_is_away {
        return None;
    }
    until_answered(&begun.status, || begun.source.given()).await
}

/// Asks what is stored of this node until there is an answer.
async fn until_answered<'a, T>(status: &StatusHandle, ask: impl Fn() -> Answer<'a, T>) -> T {
    let mut said = String::new();
    loop {
        let problem = match ask().await {
            Ok(answer) => return answer,
            Err(error) => error.sentence(),
        };
        if said != problem {
            error!(problem, "waiting for what is stored of this node");
            status.change(|status| status.raise(Concern::Start, problem.clone()));
            said = problem;
        }
        sleep(PERIOD).await;
    }
}

enum Asked {
    Config(Result<(NetworkConfig, String), ConfigError>),
    None,
    NoAnswer(String),
}

async fn ask_for_config(source: &dyn Source, saved: Option<&Saved>) -> Asked {
    let answer = match saved {
        None => source.config().await,
        Some(_) => match timeout(PATIENCE_WITH_SAVED, source.config()).await {
            Ok(answer) => answer,
            Err(_) => return Asked::NoAnswer(no_answer(source)),
        },
    };
    match answer {
        Ok(Some(document)) => {
            let text = String::from_utf8_lossy(&document).into_owned();
            let config = NetworkConfig::parse_for(&document, source.subnets());
            Asked::Config(config.map(|config| (config, text)))
        }
        Ok(None) => Asked::None,
        Err(error) => Asked::NoAnswer(error.sentence()),
    }
}

/// A saved state is of use if its config is good and our lease is in it.
fn usable(saved: &Saved, subnets: Subnets) -> Option<Found> {
    let config = NetworkConfig::parse_for(saved.config.as_bytes(), subnets).ok()?;
    own_record(saved)?;
    Some(Found { config, document: saved.config.clone(), source_is_away: true })
}

fn own_record(saved: &Saved) -> Option<Record> {
    let mut records = saved.records(wall_clock()).into_iter();
    records.find(|record| record.name == saved.own)
}

/// Takes a lease, or goes on with the one that was ours, or waits.
pub(super) async fn acquire(
    begun: &Begun,
    attributes: &Attributes,
) -> Result<Acquired, StartError> {
    let unconfirmed = begun.saved.as_ref().and_then(|saved| own_lease(begun, saved, attributes));
    if begun.source_is_away
        && let Some(lease) = unconfirmed
    {
        return Ok(lease);
    }
    let previous = subnet_file::previous(&begun.options.subnet_file);
    let request = Request { config: &begun.config, attributes, previous };
    let mut said = String::new();
    loop {
        let taking = acquire_from(&*begun.source, &request);
        let taken = match &unconfirmed {
            None => taking.await,
            Some(lease) => match timeout(ACQUIRE_PATIENCE_WITH_SAVED, taking).await {
                Ok(taken) => taken,
                Err(_) => return Ok(lease.clone()),
            },
        };
        let problem = match (taken, &unconfirmed) {
            (Ok(lease), _) => return Ok(lease),
            (Err(AcquireError::Source(error)), Some(lease)) if error.is_transient() => {
                info!(problem = error.sentence(), "the lease that was ours is used");
                return Ok(lease.clone());
            }
            (Err(AcquireError::Source(error)), None) if error.is_transient() => error.sentence(),
            (Err(error), _) => return Err(error.into()),
        };
        if said != problem {
            error!(problem, "waiting for a lease");
            begun.status.change(|status| status.raise(Concern::Start, problem.clone()));
            said = problem;
        }
        sleep(PERIOD).await;
    }
}

/// Our lease as it was saved, if it is still good.
fn own_lease(begun: &Begun, saved: &Saved, attributes: &Attributes) -> Option<Acquired> {
    let request = Request { config: &begun.config, attributes, previous: None };
    let record = own_record(saved).filter(|record| is_owned(attributes, &record.value))?;
    let leaf = begun.config.part_of(Lease::read(&record.name, &record.value).ok()?.leaf);
    request.is_compatible(&leaf).then_some(Acquired { leaf, record, origin: Origin::Unconfirmed })
}

pub(super) fn unconfirmed(name: &str) -> String {
    format!(
        "The own lease {name} is unconfirmed: it was ours when the store was seen last. Packets are \
         forwarded; the node becomes ready when the store answers"
    )
}

fn no_answer(source: &dyn Source) -> String {
    format!("No answer from {}", source.description())
}
