//! Masquerading and forward rules in flannel's chains, the blackhole route of the own subnet, and what
//! keeps packets out that are not sealed.
//!
//! *Ours* are flannel's chains and what leads into them, or flannel's tables of nft. A chain's content
//! is replaced in one transaction and only if it differs, so that packets never meet a host without
//! the rules. Rules of other daemons of this host in the same chains of iptables stay, as does
//! everything anywhere else. Nothing is removed when the daemon ends; [`uninstall`] does that.

mod blackhole;
mod bridge;
mod clamp;
mod command;
mod drops;
mod iptables;
mod keep;
mod nft;
mod preview;
pub(crate) mod refusal;
mod rules;
mod survey;
mod uninstall;
pub(crate) mod wall;

use std::time::Duration;

use tracing::error;

pub use command::CommandError;
pub(crate) use keep::keep;
pub(crate) use preview::preview;
pub use rules::{Family, Overlay, Treatment, treatment};
pub use survey::{forward_drops, input_drops, is_installed};
pub use uninstall::uninstall;
pub use wall::WallError;

use iptables::{Iptables, Place};
use nft::Nft;

use crate::status::{Concern, StatusHandle};

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--ip-masq`.
    pub masquerade: bool,
    /// Not `--ip-masq-fully-random-disable`.
    pub fully_random: bool,
    /// `--iptables-forward-rules`.
    pub forward: bool,
    /// `--iptables-resync`.
    pub resync: Duration,
    /// `--ip-blackhole-route`.
    pub blackhole: bool,
}

impl Options {
    fn places(&self) -> Vec<Place> {
        let is_wanted = |place: &Place| match place {
            Place::Masquerade => self.masquerade,
            Place::Forward => self.forward,
        };
        Place::ALL.into_iter().filter(is_wanted).collect()
    }
}

/// What the rules depend on and what may change at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Network and own subnet of each family that is on.
    pub overlays: Vec<Overlay>,
    /// `EnableNFTables`: nft's own tables instead of the chains of iptables.
    pub nftables: bool,
    /// `Encryption` is required: nothing of the network may pass but through the tunnel.
    pub sealed: bool,
}

impl Wanted {
    /// Where packets may take several paths, some are the kernel's.
    fn is_clamped(&self) -> bool {
        self.overlays.iter().any(|overlay| overlay.fixed_source)
    }

    fn overlay(&self, family: Family) -> Option<Overlay> {
        self.overlays.iter().copied().find(|overlay| overlay.family() == family)
    }
}

/// Masquerading could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("Masquerading could not be set up. {}. {}", .source, remedy(.source, *.nftables))]
pub struct NetfilterError {
    nftables: bool,
    source: CommandError,
}

fn remedy(error: &CommandError, nftables: bool) -> &'static str {
    match (error, nftables) {
        (CommandError::Missing { .. }, false) => {
            "Install iptables, or set EnableNFTables to true in the network config"
        }
        (CommandError::Missing { .. }, true) => {
            "Install nftables, or set EnableNFTables to false in the network config"
        }
        (CommandError::Stuck { .. }, false) => {
            "Another program may hold the lock /run/xtables.lock; see who has it open"
        }
        _ => "Run as root or with CAP_NET_ADMIN, on a kernel with nf_tables or ip_tables",
    }
}

/// The rules of this host, and what is known about them.
#[derive(Debug)]
pub(crate) struct Netfilter {
    options: Options,
    wanted: Wanted,
    /// What rules of an earlier process or an earlier config were made from, as long as some of them
    /// may still be there.
    past: Vec<Overlay>,
    iptables: [Iptables; 2],
    nft: Nft,
    status: StatusHandle,
}

/// What one look gave.
#[derive(Debug, Default)]
struct Pass {
    /// Something had to be changed.
    changed: bool,
    masquerade: Option<CommandError>,
    forward: Option<CommandError>,
}

impl Pass {
    fn add(&mut self, place: Place, outcome: Result<bool, CommandError>) {
        match outcome {
            Ok(changed) => self.changed |= changed,
            Err(error) => *self.slot(place) = Some(error),
        }
    }

    fn slot(&mut self, place: Place) -> &mut Option<CommandError> {
        match place {
            Place::Masquerade => &mut self.masquerade,
            Place::Forward => &mut self.forward,
        }
    }

    fn failures(&self, nftables: bool) -> Vec<String> {
        let sentence = |what: &str, error: &CommandError| {
            format!("{what} could not be set up. {error}. {}", remedy(error, nftables))
        };
        let masquerade = self.masquerade.iter().map(|error| sentence("Masquerading", error));
        let forward = self.forward.iter().map(|error| sentence("Forward rules", error));
        masquerade.chain(forward).collect()
    }
}

impl Netfilter {
    /// Puts the rules in place. `past` is what those of an earlier process were made from.
    ///
    /// # Errors
    /// Masquerading is asked for and impossible. Forward rules that fail are only told.
    pub(crate) async fn establish(
        options: Options,
        wanted: Wanted,
        past: Vec<Overlay>,
        status: StatusHandle,
    ) -> Result<Self, NetfilterError> {
        if !wanted.nftables {
            bridge::warn_without_filter(&wanted);
        }
        let iptables = Family::ALL.map(Iptables::new);
        let mut netfilter = Self { options, wanted, past, iptables, nft: Nft::default(), status };
        let masquerades = netfilter.options.masquerade.then_some(netfilter.options.fully_random);
        netfilter.status.change(|status| status.masquerade_fully_random = masquerades);
        let pass = netfilter.pass().await;
        let nftables = netfilter.wanted.nftables;
        for problem in pass.failures(nftables) {
            error!(problem, "netfilter rules are missing");
        }
        netfilter.show(&pass.failures(nftables));
        match pass.masquerade {
            Some(source) => Err(NetfilterError { nftables, source }),
            None => Ok(netfilter),
        }
    }

    fn places(&self) -> Vec<Place> {
        self.options.places()
    }

    /// What rules are or were made from.
    fn ours(&self) -> Vec<Overlay> {
        self.wanted.overlays.iter().chain(&self.past).copied().collect()
    }

    fn show(&self, problems: &[String]) {
        self.status.change(|status| status.set(Concern::Rules, problems));
    }

    /// Brings the rules of the wanted kind into order.
    async fn pass(&mut self) -> Pass {
        if self.wanted.nftables { self.pass_nft().await } else { self.pass_iptables().await }
    }

    async fn pass_iptables(&mut self) -> Pass {
        let (places, ours) = (self.places(), self.ours());
        let mut pass = Pass::default();
        for (family, iptables) in Family::ALL.into_iter().zip(&mut self.iptables) {
            let ours: Vec<_> =
                ours.iter().copied().filter(|overlay| overlay.family() == family).collect();
            if ours.is_empty() {
                continue;
            }
            let overlay = self.wanted.overlay(family);
            let needs = overlay.is_some() && !places.is_empty();
            let wanted = iptables::Wanted {
                overlay,
                places: &places,
                fully_random: self.options.fully_random,
                ours: &ours,
                keeps_others: true,
            };
            match iptables.apply(&wanted).await {
                Ok(outcome) => {
                    for (place, outcome) in Place::ALL.into_iter().zip(outcome) {
                        pass.add(place, outcome);
                    }
                }
                // Where nothing is wanted, a missing program cannot have left anything either.
                Err(error) if error.is_missing() && !needs => {}
                Err(error) => pass.add(*places.first().unwrap_or(&Place::Forward), Err(error)),
            }
        }
        pass
    }

    async fn pass_nft(&mut self) -> Pass {
        let places = self.places();
        let mut pass = Pass::default();
        for overlay in self.wanted.overlays.clone() {
            if places.is_empty() {
                continue;
            }
            let outcome = self.nft.apply(&overlay, &places, self.options.fully_random).await;
            pass.add(places[0], outcome);
        }
        pass
    }
}
