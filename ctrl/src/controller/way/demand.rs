//! Entries on demand for `vxlan`: listens to what the kernel asks for, and looks what it uses.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::controller::{Begun, with_cause};
use crate::desired::View;
use crate::desired::demand::Demand;
use crate::desired::kernel::device_name;
use crate::interface::reader::ReadError;
use crate::kernel::misses::{Misses, Usage, usage};
use crate::lease::Leaf;
use crate::status::{OnDemandStatus, StatusHandle};

/// Between two looks at what is used, unless the devices let entries be unused for a short time only.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
const LOOK_PERIOD_MIN: Duration = Duration::from_secs(1);

pub(super) struct OnDemand {
    demand: Demand,
    status: StatusHandle,
    devices: Vec<String>,
    misses: Misses,
    looking: Option<BoxFuture<'static, Result<Usage, ReadError>>>,
    look_at: Instant,
    /// What an earlier daemon left has been seen.
    has_looked: bool,
}

impl OnDemand {
    /// `None` if the config does not ask for it.
    pub(super) fn new(begun: &Begun) -> Option<Self> {
        let devices = device_names(begun)?;
        let now = Instant::now();
        Some(Self {
            demand: Demand::new(now.into_std()),
            status: begun.status.clone(),
            devices,
            misses: Misses::default(),
            looking: None,
            look_at: now,
            has_looked: false,
        })
    }

    /// What is needed by these peers; `None` while it is not known what is there already.
    pub(super) fn demand(&mut self, view: &View, own: &Leaf) -> Option<&Demand> {
        self.demand.set_peers(view, own);
        self.has_looked.then_some(&self.demand)
    }

    /// Waits until something was learnt, and says whether entries have to be made or removed. May be
    /// dropped at any time.
    pub(super) async fn learn(&mut self) -> bool {
        let looked = look_in_time(&mut self.looking, &self.devices, self.look_at);
        let is_news = tokio::select! {
            misses = self.misses.next(&self.devices) => {
                let now = Instant::now().into_std();
                let news = misses.into_iter().map(|miss| self.demand.handle_miss(miss, now));
                news.fold(false, |any, one| any | one)
            }
            looked = looked => {
                self.looking = None;
                self.look_at = Instant::now() + LOOK_PERIOD;
                match looked {
                    Ok(usage) => self.handle_usage(&usage),
                    Err(error) => {
                        debug!(problem = with_cause(&error), "what is used could not be read");
                        false
                    }
                }
            }
        };
        self.show();
        is_news
    }

    fn handle_usage(&mut self, usage: &Usage) -> bool {
        let now = Instant::now();
        self.look_at = now + (usage.ageing / 2).clamp(LOOK_PERIOD_MIN, LOOK_PERIOD);
        if std::mem::replace(&mut self.has_looked, true) {
            return self.demand.handle_usage(usage, now.into_std());
        }
        self.demand.adopt(&usage.neighbours, now.into_std());
        true
    }

    fn show(&self) {
        let (counts, addresses) = (self.demand.counts(), self.demand.addresses());
        self.status.change(|status| status.on_demand = Some(OnDemandStatus { addresses, counts }));
    }
}

/// The devices that ask; `None` without entries on demand.
pub(super) fn device_names(begun: &Begun) -> Option<Vec<String>> {
    let config = &begun.config;
    let backend = config.backend.vxlan().filter(|backend| backend.on_demand)?;
    let families = config.networks().map(|network| network.network().is_ipv6());
    Some(families.map(|is_v6| device_name(backend.vni, is_v6)).collect())
}

/// The answer to the question under way, or to the next one.
async fn look_in_time(
    looking: &mut Option<BoxFuture<'static, Result<Usage, ReadError>>>,
    devices: &[String],
    look_at: Instant,
) -> Result<Usage, ReadError> {
    if looking.is_none() {
        sleep_until(look_at).await;
    }
    let ask = || {
        let devices = devices.to_vec();
        async move { usage(&devices).await }.boxed()
    };
    looking.get_or_insert_with(ask).await
}
