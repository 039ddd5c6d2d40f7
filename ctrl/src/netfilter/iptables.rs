//! flannel's chains by the programs of iptables, whichever of its two kinds is installed.
//!
//! Everything is read with one `iptables-save` and written with one `iptables-restore --noflush` a
//! table, and only what differs.

mod dump;
mod plan;
#[cfg(test)]
mod tests;

use std::fs;

use ipnet::IpNet;
use tracing::debug;

use super::command::{CommandError, run};
use super::rules::{Family, Overlay};
use super::survey;
use dump::Dump;
use plan::Wish;

pub(super) use plan::Place;

/// A look may be out of date when its consequence is tried.
const ATTEMPTS: usize = 3;

/// Tells whether `iptables-restore` has the options of version 1.6.2, both of them younger than any
/// other that is used. Nothing of it is done.
const PROBE: &str =
    "*nat\n:FLANNEL-PROBE - [0:0]\n-A FLANNEL-PROBE -j MASQUERADE --random-fully\nCOMMIT\n";

/// One family's programs, and what is known about them.
#[derive(Debug)]
pub(super) struct Iptables {
    family: Family,
    /// They know `--wait` and `--random-fully`, once that was asked.
    is_modern: Option<bool>,
}

/// What is wanted of one family.
pub(super) struct Wanted<'a> {
    /// The network that the rules are for, if this family is on.
    pub(super) overlay: Option<Overlay>,
    /// The chains that are wanted.
    pub(super) places: &'a [Place],
    /// Whether `--random-fully` may be used.
    pub(super) fully_random: bool,
    /// What rules are or were made from.
    pub(super) ours: &'a [Overlay],
    /// Whether rules of other networks in the chains stay.
    pub(super) keeps_others: bool,
}

/// What became of the chains, in the order of [`Place::ALL`]: whether something had to be changed.
pub(super) type Outcome = [Result<bool, CommandError>; 2];

impl Iptables {
    pub(super) fn new(family: Family) -> Self {
        Self { family, is_modern: None }
    }

    /// Brings both chains into the wanted form.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub(super) async fn apply(&mut self, wanted: &Wanted<'_>) -> Result<Outcome, CommandError> {
        let dump = self.dump().await?;
        let mut outcome = [Ok(false), Ok(false)];
        for (place, outcome) in Place::ALL.into_iter().zip(&mut outcome) {
            *outcome = self.apply_place(place, wanted, &dump).await;
        }
        Ok(outcome)
    }

    /// The lines that [`Iptables::apply`] would give to `iptables-restore`.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub(super) async fn preview(
        &mut self,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<String>, CommandError> {
        let dump = self.dump().await?;
        let mut lines = Vec::new();
        for place in Place::ALL {
            let script = self.wish(place, wanted).await?.plan(dump.table(place.table()));
            let program = self.program("restore");
            let changes = script.as_deref().unwrap_or_default().lines();
            let changes = changes.filter(|line| !line.starts_with('*') && *line != "COMMIT");
            lines.extend(changes.map(|line| format!("{program} {}: {line}", place.table())));
        }
        Ok(lines)
    }

    async fn wish<'a>(
        &mut self,
        place: Place,
        wanted: &Wanted<'a>,
    ) -> Result<Wish<'a>, CommandError> {
        let overlay = wanted.overlay.filter(|_| wanted.places.contains(&place));
        let fully_random = place == Place::Masquerade
            && overlay.is_some()
            && wanted.fully_random
            && self.is_modern().await?;
        let rules = overlay.map(|overlay| place.rules(&overlay, fully_random)).unwrap_or_default();
        let (ours, keeps_others) = (wanted.ours, wanted.keeps_others);
        Ok(Wish { place, rules, ours, keeps_others })
    }

    async fn apply_place(
        &mut self,
        place: Place,
        wanted: &Wanted<'_>,
        dump: &Dump,
    ) -> Result<bool, CommandError> {
        let wish = self.wish(place, wanted).await?;
        let Some(mut script) = wish.plan(dump.table(place.table())) else { return Ok(false) };
        for _ in 1..ATTEMPTS {
            match self.restore(&script).await {
                Err(CommandError::Refused { said, .. }) => {
                    debug!(said, "the rules have changed meanwhile, perhaps; looking again");
                }
                outcome => return outcome.map(|()| true),
            }
            match wish.plan(self.dump().await?.table(place.table())) {
                Some(again) => script = again,
                None => return Ok(true),
            }
        }
        self.restore(&script).await.map(|()| true)
    }

    /// Whether the older kind of iptables drops forwarded packets of a network, with nothing that
    /// accepts them.
    pub(super) async fn drops(&self, network: IpNet) -> Result<bool, CommandError> {
        let dump = self.legacy_dump().await?;
        let filter = dump.table(Place::Forward.table());
        Ok(filter.is_some_and(|table| plan::drops_forwarded(table, network)))
    }

    /// Whether the older kind of iptables drops what comes to this host, and seems not to accept UDP
    /// to `port`.
    pub(super) async fn drops_input(&self, port: u16) -> Result<bool, CommandError> {
        let dump = self.legacy_dump().await?;
        let drops = |table: &dump::Table| {
            let is_admitted = || table.all_rules().any(|rule| survey::admits(rule, port));
            table.policy("INPUT") == Some("DROP") && !is_admitted()
        };
        Ok(dump.table(Place::Forward.table()).is_some_and(drops))
    }

    /// The rules of the older kind, if both are installed.
    async fn legacy_dump(&self) -> Result<Dump, CommandError> {
        match run(&format!("{}-legacy-save", self.family.iptables()), &[], "").await {
            Err(error) if error.is_missing() => self.dump().await,
            text => Ok(Dump::parse(&text?)),
        }
    }

    async fn dump(&self) -> Result<Dump, CommandError> {
        Ok(Dump::parse(&run(&self.program("save"), &[], "").await?))
    }

    async fn restore(&mut self, script: &str) -> Result<(), CommandError> {
        let arguments: &[&str] =
            if self.is_modern().await? { &["--noflush", "--wait"] } else { &["--noflush"] };
        run(&self.program("restore"), arguments, script).await.map(drop)
    }

    async fn is_modern(&mut self) -> Result<bool, CommandError> {
        if let Some(known) = self.is_modern {
            return Ok(known);
        }
        let arguments = ["--test", "--noflush", "--wait"];
        let is_modern = match run(&self.program("restore"), &arguments, PROBE).await {
            Ok(_) => true,
            Err(CommandError::Refused { said, .. }) => {
                debug!(said, "iptables is older than 1.6.2; masquerading takes no random ports");
                false
            }
            Err(error) => return Err(error),
        };
        self.is_modern = Some(is_modern);
        Ok(is_modern)
    }

    fn program(&self, what: &str) -> String {
        format!("{}-{what}", self.family.iptables())
    }
}

/// Whether rules of the older kind of iptables filter this network namespace, which nft does not show.
pub(super) fn legacy_filters(family: Family) -> bool {
    let path = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}
