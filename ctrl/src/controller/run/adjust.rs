//! A running node follows its network config and the addresses of its host.
//!
//! What fails leaves what was in force, is told, and is tried again.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::super::change::{Ground, Verdict, judge, moved};
use super::super::underlay::{self, Facts};
use super::super::way::{Found, Way};
use super::super::{wanted_rules, with_cause};
use super::{Changed, Node, PERIOD};
use crate::config::NetworkConfig;
use crate::device;
use crate::interface::{self, Chosen, Families, Interface, InterfaceError, InterfaceOptions};
use crate::key::PublicKey;
use crate::status::Concern;

/// How often the host is looked at while the address that is needed is gone.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What was found, with subnets of it that our network cannot live beside.
type Looked = Result<(Chosen, Vec<String>), InterfaceError>;

/// What is about to change.
pub(super) struct Adjustment {
    options: InterfaceOptions,
    /// What stays.
    facts: Facts,
    /// A look at the host that is under way.
    looking: Option<BoxFuture<'static, Looked>>,
    /// The address that datagrams are sent from is gone.
    is_stranded: bool,
    /// What to go by instead of what is in force: config and document, interface.
    config: Option<(NetworkConfig, String)>,
    interface: Option<Interface>,
    /// When to try that next.
    due_at: Instant,
}

impl Adjustment {
    pub(super) fn new(options: InterfaceOptions, facts: Facts) -> Self {
        Self {
            options,
            facts,
            looking: None,
            is_stranded: false,
            config: None,
            interface: None,
            due_at: Instant::now(),
        }
    }

    /// When to go over to something else.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.config.is_some() || self.interface.is_some()).then_some(self.due_at)
    }

    /// What a look gave.
    pub(super) async fn looked(&mut self) -> Looked {
        match &mut self.looking {
            Some(looking) => looking.await,
            None => std::future::pending().await,
        }
    }
}

impl<W: Way> Node<W> {
    pub(super) fn handle_found(&mut self, found: &Found) {
        self.show_found(found);
        self.adjustment.is_stranded = found.is_stranded;
        if self.adjustment.is_stranded {
            self.look_at_host(Duration::ZERO);
        }
    }

    /// Looks at the host's addresses, unless that is being done.
    pub(super) fn look_at_host(&mut self, pause: Duration) {
        if self.adjustment.looking.is_some() {
            return;
        }
        let options = self.adjustment.options.clone();
        let config = &self.ground.config;
        let families = Families { v4: config.v4.is_some(), v6: config.v6.is_some() };
        let networks: Vec<_> = config.networks().collect();
        let looking = async move {
            sleep(pause).await;
            let chosen = interface::select(&options, families).await?;
            let overlaps = device::overlaps(&networks, &chosen.interface).await?;
            let sentences = overlaps.iter().map(ToString::to_string).collect();
            Ok((chosen, sentences))
        };
        self.adjustment.looking = Some(looking.boxed());
    }

    pub(super) fn handle_looked(&mut self, looked: Looked) {
        self.adjustment.looking = None;
        match looked {
            Ok((chosen, overlaps)) => {
                self.show_overlaps(&overlaps);
                let interface = moved(&self.ground.interface, chosen.interface.clone())
                    .filter(|_| overlaps.is_empty());
                // The choice is made often, so only one that matters is explained, and once.
                if interface.is_some() && interface != self.adjustment.interface {
                    chosen.log_refusals();
                }
                self.adjustment.interface = interface;
                self.adjustment.due_at = Instant::now();
            }
            Err(error) => debug!(problem = with_cause(&error), "no interface at the moment"),
        }
        if self.adjustment.is_stranded && self.adjustment.interface.is_none() {
            self.look_at_host(LOOK_PAUSE);
        }
    }

    /// A start would be refused with these. A running node goes on as it was and says so.
    fn show_overlaps(&self, overlaps: &[String]) {
        let is_new = !overlaps.is_empty() && !self.status.has(Concern::Underlay);
        if is_new {
            warn!(?overlaps, "the interface has a subnet that the network cannot live beside");
        }
        self.status.change(|status| status.set(Concern::Underlay, overlaps));
    }

    pub(super) fn handle_config(&mut self, document: Option<&[u8]>) {
        let source_ports = self.adjustment.facts.source_ports;
        let verdict = judge(document, &self.ground.config, &self.viewer.own, source_ports);
        self.adjustment.config = None;
        let note = match verdict {
            Verdict::Same => None,
            Verdict::Applicable(config) => {
                let document = String::from_utf8_lossy(document.unwrap_or_default()).into_owned();
                self.adjustment.config = Some((config, document));
                self.adjustment.due_at = Instant::now();
                None
            }
            Verdict::Unusable(note) => Some(note),
        };
        self.show_config_note(note);
    }

    fn show_config_note(&self, note: Option<String>) {
        self.status.change(|status| {
            if let Some(note) = note.as_ref().filter(|_| status.config_change != note) {
                warn!("{note}");
            }
            status.config_change = note;
        });
    }

    /// Goes over to what is wanted, or leaves everything as it is.
    pub(super) async fn adjust(&mut self) {
        let mut ground = self.ground.clone();
        if let Some((config, document)) = &self.adjustment.config {
            (ground.config, ground.document) = (config.clone(), document.clone());
        }
        if let Some(interface) = &self.adjustment.interface {
            ground.interface = interface.clone();
        }
        match self.go_over(ground).await {
            Ok(()) => {
                if self.adjustment.config.take().is_some() {
                    info!("the changed network config is in force");
                    self.show_config_note(None);
                }
                self.adjustment.interface = None;
            }
            Err(problem) if self.adjustment.config.is_some() => {
                self.show_config_note(Some(format!(
                    "The network config has changed, but could not be put in force, which is tried \
                     again: {problem}"
                )));
            }
            Err(problem) => warn!(problem, "the new address cannot be used; it is tried again"),
        }
        self.adjustment.due_at = Instant::now() + PERIOD;
    }

    async fn go_over(&mut self, ground: Ground) -> Result<(), String> {
        self.way.go_over(&self.ground, &ground).await?;
        self.take_up(ground);
        Ok(())
    }

    /// Our lease says another key; peers that seal with it come from their own reading of the lease.
    pub(super) fn take_up_key(&mut self, key: PublicKey) {
        self.adjustment.facts.key = Some(key);
        self.viewer.own_key = Some(key);
        self.take_up(self.ground.clone());
    }

    /// Everything that says what the node goes by says the new thing; the own subnet stays.
    fn take_up(&mut self, ground: Ground) {
        let Ground { config, interface, .. } = &ground;
        self.viewer.config = config.clone();
        self.viewer.own_addresses = underlay::own_addresses(interface);
        self.viewer.outer_v6 = interface.address_v4.is_none();
        self.attributes = underlay::attributes(interface, config, &self.adjustment.facts);
        self.own.say(self.attributes.clone());
        // It wrote what is to be said no more.
        self.writing = None;
        self.status.change(|status| {
            status.set_config(config);
            status.set_interface(interface);
        });
        let own = self.viewer.own;
        self.rules.send_replace(wanted_rules(config, &own));
        let contents = &mut self.subnet_file.1;
        let before = (contents.v4, contents.v6);
        contents.v4 = config.network_v4().zip(own.v4);
        contents.v6 = config.network_v6().zip(own.v6);
        if before != (contents.v4, contents.v6) {
            self.write_subnet_file();
        }
        self.ground = ground;
        self.adjustment.is_stranded = false;
        self.way.mark();
        self.keep_lease(Changed::Now);
    }
}
