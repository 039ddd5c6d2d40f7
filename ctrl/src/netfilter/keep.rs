//! Keeps the rules as they should be.

use std::convert::Infallible;

use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};
use tracing::{info, warn};

use super::command::CommandError;
use super::iptables::{self, Iptables};
use super::rules::{Family, Overlay};
use super::{Netfilter, Wanted, blackhole, clamp, drops, nft, wall};

/// How often other programs' chains are looked at.
const DROPS_PERIOD: Duration = Duration::from_secs(30);

/// As many passes with repairs one after the other are a quarrel.
const QUARREL: u32 = 3;

/// Keeps the rules, and follows what is wanted of them. May be dropped at any time; a transaction that
/// is under way is done or not.
pub(crate) async fn keep(netfilter: Netfilter, mut wishes: watch::Receiver<Wanted>) -> Infallible {
    let mut keeper = Keeper {
        netfilter,
        is_tidy: false,
        repairs_in_a_row: 0,
        missing: Vec::new(),
        drops: Vec::new(),
        drops_due: Instant::now(),
    };
    keeper.look_around().await;
    loop {
        let is_new = tokio::select! {
            () = sleep(keeper.netfilter.options.resync) => false,
            Ok(()) = wishes.changed() => keeper.take(&wishes.borrow_and_update()),
        };
        keeper.repair(is_new).await;
        keeper.look_around().await;
    }
}

struct Keeper {
    netfilter: Netfilter,
    /// Nothing is left of the other kind of rules, nor of earlier networks.
    is_tidy: bool,
    repairs_in_a_row: u32,
    /// Why our own rules are not there.
    missing: Vec<String>,
    drops: Vec<String>,
    drops_due: Instant,
}

impl Keeper {
    fn take(&mut self, wanted: &Wanted) -> bool {
        let netfilter = &mut self.netfilter;
        if netfilter.wanted == *wanted {
            return false;
        }
        let before = std::mem::replace(&mut netfilter.wanted, wanted.clone());
        netfilter.past.extend(before.overlays);
        (self.is_tidy, self.drops_due) = (false, Instant::now());
        true
    }

    async fn repair(&mut self, is_new: bool) {
        let pass = self.netfilter.pass().await;
        let failures = pass.failures(self.netfilter.wanted.nftables);
        for problem in failures.iter().filter(|one| !self.missing.contains(one)) {
            warn!(problem, "netfilter rules could not be put in order; trying again");
        }
        self.missing = failures;
        match (pass.changed, is_new) {
            (true, true) => info!("netfilter rules follow the network config"),
            (true, false) => self.count_repair(),
            (false, _) => self.repairs_in_a_row = 0,
        }
    }

    fn count_repair(&mut self) {
        self.repairs_in_a_row = self.repairs_in_a_row.saturating_add(1);
        self.netfilter.status.change(|status| status.rule_repairs += 1);
        // A quarrel is told in the status.
        if self.repairs_in_a_row < QUARREL {
            warn!("somebody has changed the netfilter rules; they are in order again");
        }
    }

    /// Everything besides our own rules.
    async fn look_around(&mut self) {
        let mut problems = Vec::new();
        let (is_first, ours) = (!self.is_tidy, self.netfilter.ours());
        if is_first || self.netfilter.wanted.sealed {
            problems.extend(self.keep_wall().await);
            self.count_wall_drops().await;
        }
        if is_first || self.netfilter.wanted.is_clamped() {
            clamp::keep(&self.netfilter.wanted).await;
        }
        if is_first || self.netfilter.options.blackhole {
            problems.extend(self.keep_blackholes(&ours).await);
        }
        if is_first {
            problems.extend(self.netfilter.tidy().await);
            if problems.is_empty() && self.missing.is_empty() {
                self.is_tidy = true;
                self.netfilter.past.clear();
            }
        }
        if self.drops_due <= Instant::now() {
            self.drops = drops::find(&self.netfilter.wanted).await;
            self.drops_due = Instant::now() + DROPS_PERIOD;
        }
        if self.repairs_in_a_row >= QUARREL {
            let kind = "Another program changes the netfilter rules of weft again and again; \
                        is a second daemon for the same network running?";
            problems.push(kind.to_owned());
        }
        problems.extend(self.missing.iter().chain(&self.drops).cloned());
        self.netfilter.show(&problems);
    }

    async fn keep_wall(&mut self) -> Option<String> {
        match wall::keep(&self.netfilter.wanted).await {
            Ok(true) if self.netfilter.wanted.sealed => {
                self.netfilter.status.change(|status| status.rule_repairs += 1);
                warn!("somebody has changed what keeps unsealed packets out; it is in order again");
                None
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    async fn count_wall_drops(&self) {
        let dropped = match self.netfilter.wanted.sealed {
            true => wall::dropped().await,
            false => None,
        };
        self.netfilter.status.change(|status| status.wall_drops = dropped);
    }

    async fn keep_blackholes(&self, ours: &[Overlay]) -> Vec<String> {
        let Netfilter { options, wanted, .. } = &self.netfilter;
        let subnets = wanted.overlays.iter().filter(|_| options.blackhole);
        let subnets: Vec<_> = subnets.map(|overlay| overlay.subnet).collect();
        blackhole::keep(&subnets, ours).await
    }
}

impl Netfilter {
    /// Removes rules of the other kind, and those of families that are off. Returns a sentence for
    /// each failure.
    async fn tidy(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        let has_rules = !self.places().is_empty();
        let is_needless = |family: &Family| {
            !self.wanted.nftables || !has_rules || self.wanted.overlay(*family).is_none()
        };
        let needless: Vec<_> = Family::ALL.into_iter().filter(is_needless).collect();
        failures.extend(unless_missing(nft::remove(&needless).await).err());
        if self.wanted.nftables {
            let ours = self.ours();
            for iptables in &mut self.iptables {
                failures.extend(remove_chains(iptables, &ours).await.err());
            }
        }
        let sentence = |error| format!("Old netfilter rules could not be removed. {error}");
        failures.iter().map(sentence).collect()
    }
}

async fn remove_chains(iptables: &mut Iptables, ours: &[Overlay]) -> Result<(), CommandError> {
    let wanted = iptables::Wanted {
        overlay: None,
        places: &[],
        fully_random: false,
        ours,
        keeps_others: true,
    };
    match unless_missing(iptables.apply(&wanted).await)? {
        Some(outcome) => outcome.into_iter().try_for_each(|one| one.map(drop)),
        None => Ok(()),
    }
}

/// A program that is missing has left nothing to remove.
pub(super) fn unless_missing<T>(
    outcome: Result<T, CommandError>,
) -> Result<Option<T>, CommandError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
