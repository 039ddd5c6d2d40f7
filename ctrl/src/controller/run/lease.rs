//! A running node keeps its lease, takes another one, or gives it back.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::super::own::{Changed, Life, OwnLease, State, Tried};
use super::super::release::{RELEASE_PATIENCE, Release, remove_own};
use super::super::way::Way;
use super::super::{OnLeaseLoss, wanted_rules, with_cause};
use super::{Node, PERIOD};
use crate::lease::Attributes;
use crate::source::acquire::{Acquired as AcquiredLease, Origin, Request, acquire};
use crate::source::{Change, Update};
use crate::status::Concern;

impl<W: Way> Node<W> {
    pub(super) fn look_at(&self) -> Option<Instant> {
        // What is due already waits for the next tick: it cannot be done now, or it would have been.
        let deadline = Instant::from_std(self.own.deadline()?);
        (deadline > Instant::now()).then_some(deadline)
    }

    /// Before the first listing nothing is known about our lease but what was written.
    pub(super) fn keep_lease(&mut self, changed: Changed) {
        if !self.listed {
            return;
        }
        let now = Instant::now();
        let (state, step) = self.own.look(&self.book, changed, now.into_std());
        let is_writing = self.writing.is_some();
        if let Some(step) = step.filter(|_| !is_writing) {
            let source = Arc::clone(&self.source);
            self.writing = Some(self.own.try_step(source, step, now.into_std()));
        }
        self.show_lease(state);
    }

    pub(super) fn handle_tried(&mut self, tried: Tried) {
        self.writing = None;
        let now = Instant::now().into_std();
        if let Some(update) = self.own.handle(tried, now)
            && self.book.handle(update, now)
        {
            self.way.mark();
        }
        self.keep_lease(Changed::Later);
    }

    fn show_lease(&mut self, state: State) {
        self.is_unconfirmed &= state != State::Ours;
        let stored = self.book.present(self.own.name());
        let written_at = self.own.written_at();
        let expires_at = self.own.expires_at().filter(|_| stored.is_none_or(|one| one.expires));
        self.status.change(|status| {
            status.set_life(written_at, expires_at);
            status.clear(Concern::Renewal);
            match state {
                State::Ours => status.clear(Concern::Lease),
                State::Missing => {}
                State::Stuck(problem) => {
                    status.clear(Concern::Lease);
                    status.raise(Concern::Renewal, problem);
                }
                State::Lost(problem) | State::Taken(problem) => {
                    if !status.problems.contains(&problem) {
                        tracing::error!(problem, "the lease is lost; forwarding goes on");
                    }
                    status.raise(Concern::Lease, problem);
                }
            }
        });
    }

    pub(super) fn must_take_another(&self) -> bool {
        self.on_lease_loss == OnLeaseLoss::Replace
            && self.listed
            && matches!(
                self.own.look(&self.book, Changed::Later, Instant::now().into_std()).0,
                State::Taken(_)
            )
    }

    /// Every pod of this node has to be renumbered after this.
    pub(super) async fn take_another(&mut self) {
        self.writing = None;
        let lost = self.own.name().to_owned();
        loop {
            let began = Instant::now();
            let request = Request {
                config: &self.viewer.config,
                attributes: &self.attributes,
                previous: None,
            };
            match acquire(&*self.source, &request).await {
                Ok(lease) => {
                    warn!(
                        lost,
                        lease = lease.record.name,
                        "another lease was taken; restart the pods"
                    );
                    self.use_lease(lease, began);
                    return;
                }
                Err(error) => {
                    let problem = format!("The own lease {lost} was taken. {}", with_cause(&error));
                    self.status.change(|status| status.raise(Concern::Lease, problem));
                }
            }
            sleep_until(began + PERIOD).await;
        }
    }

    fn use_lease(&mut self, lease: AcquiredLease, began: Instant) {
        let leaf = lease.leaf;
        self.way.take_subnet(&leaf);
        self.viewer.own = leaf;
        let config = &self.viewer.config;
        let contents = &mut self.subnet_file.1;
        contents.v4 = config.network_v4().zip(leaf.v4);
        contents.v6 = config.network_v6().zip(leaf.v6);
        self.rules.send_replace(wanted_rules(config, &leaf));
        self.status.change(|status| status.set_lease(&leaf, self.viewer.identity));
        let record = lease.record.clone();
        self.own = own_lease(lease, &self.attributes, self.life, began.into_std());
        let change = Update::Changes(vec![Change::Put(record)]);
        self.book.handle(change, began.into_std());
        self.way.mark();
        self.write_subnet_file();
        self.keep_lease(Changed::Later);
    }

    /// Returns whether the lease is given back. Nothing of it is kept for the next start, either.
    pub(super) async fn release(&mut self, release: Release) -> bool {
        self.writing = None;
        let name = self.own.name().to_owned();
        let removing = remove_own(&*self.source, &name, &self.attributes);
        let outcome = match timeout(RELEASE_PATIENCE, removing).await {
            Ok(outcome) => outcome,
            Err(_) => Err("the store does not answer".to_owned()),
        };
        let done = outcome.is_ok();
        if done {
            info!(lease = name, "the own lease is given back");
            self.saver.forget().await;
        }
        release.tell(outcome.map(|()| name));
        done
    }
}

pub(super) async fn written(writing: &mut Option<BoxFuture<'static, Tried>>) -> Tried {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

pub(super) fn own_lease(
    lease: AcquiredLease,
    attributes: &Attributes,
    life: Life,
    began: std::time::Instant,
) -> OwnLease {
    let written = (lease.origin != Origin::Unconfirmed).then_some((lease.record.revision, began));
    OwnLease::new(lease.record.name, attributes.clone(), life, written)
}
