//! Where leases and the network config are kept.
//!
//! A source hands out raw records; whether they are believed is decided elsewhere, so that every
//! source treats bad ones alike. It also only offers single steps, each of which happens wholly or not
//! at all: which subnet to take, and when to write it again, is decided once for all of them, in
//! [`acquire`] and in the controller. A source whose nodes are given their subnet by somebody else
//! offers that subnet as a record of this node, so that there is nothing to choose.
//!
//! A source may be slow, hang or fail at any time. So every answer is a future that nothing else waits
//! for, and whoever asks bounds the wait or goes on meanwhile.

pub mod acquire;
pub mod directory;
pub mod etcd;
pub mod kubernetes;

mod back_off;
mod watch;

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

pub use watch::{Health, Watch};

use crate::config::Subnets;

use directory::{Directory, DirectoryError};
use etcd::{Etcd, EtcdError, EtcdOptions};
use kubernetes::{Kubernetes, KubernetesError, KubernetesOptions};

/// What a question to a source gives, some time.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, SourceError>>;

/// Keeps the network config and the leases of a cluster.
///
/// Any number of answers may be waited for at once, and any may be dropped: then it is unknown whether
/// the change was made, which is what comparing with what was last seen is for.
pub trait Source: Debug + Send + Sync {
    /// What it is, for people; without secrets. Two sources with equal descriptions hold the same
    /// leases.
    fn description(&self) -> String;

    /// The sentence that says how to write a missing config.
    fn config_remedy(&self) -> String;

    /// How long a lease lives after it was written; `None` if leases do not expire.
    fn lifetime(&self) -> Option<Duration>;

    /// The network config as stored, if there is one.
    fn config(&self) -> Answer<'_, Option<Vec<u8>>>;

    /// All leases, who was there first before the others.
    fn list(&self) -> Answer<'_, Vec<Record>>;

    /// One lease.
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>>;

    /// Writes a lease if nobody has its subnets; `None` if somebody does.
    fn create<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Option<Record>>;

    /// Writes a lease again, for another lifetime, unless it is not any more as it was `seen`; then
    /// `None`. One that does not expire goes on not expiring.
    fn replace<'a>(&'a self, seen: &'a Record, value: &'a [u8]) -> Answer<'a, Option<Record>>;

    /// Deletes a lease unless it is not any more as it was `seen`; then `false`.
    fn remove<'a>(&'a self, seen: &'a Record) -> Answer<'a, bool>;

    /// Follows config and leases from now on, in a task of its own.
    fn watch(&self) -> Watch;

    /// Who decides which subnet a node has.
    fn subnets(&self) -> Subnets {
        Subnets::Taken
    }

    /// The lease of this node as it is, or as it would be before this node has written it; `None` in a
    /// source that gives no subnets.
    fn given(&self) -> Answer<'_, Option<Record>> {
        ready(Ok(None)).boxed()
    }

    /// The addresses that the source wants this node to be reached by.
    fn public_addresses(&self) -> Answer<'_, PublicAddresses> {
        ready(Ok(PublicAddresses::default())).boxed()
    }

    /// Tells whether the pods of this node have a network, where somebody waits for that.
    fn announce(&self, _network: Network) -> Answer<'_, ()> {
        ready(Ok(())).boxed()
    }
}

/// Addresses that stand in for `--public-ip` and `--public-ipv6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicAddresses {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
    /// The source did not answer; it said so last.
    pub is_remembered: bool,
}

/// Whether the pods of a node have a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// They have.
    Up,
    /// They have not, for this reason.
    Down(String),
}

/// Which source, as the command line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOptions {
    /// `--lease-dir`.
    Directory(PathBuf),
    /// `--etcd-endpoints` and its kin.
    Etcd(Box<EtcdOptions>),
    /// `--kube-subnet-mgr` and its kin.
    Kubernetes(Box<KubernetesOptions>),
}

impl SourceOptions {
    /// Makes the source. Nothing is connected or touched yet.
    #[must_use]
    pub fn open(&self) -> Arc<dyn Source> {
        match self {
            Self::Directory(path) => Arc::new(Directory::new(path)),
            Self::Etcd(options) => Arc::new(Etcd::new(EtcdOptions::clone(options))),
            Self::Kubernetes(options) => {
                Arc::new(Kubernetes::new(KubernetesOptions::clone(options)))
            }
        }
    }

    /// A server that is asked over a connection that others on the way can read and change. Blocks for
    /// the length of a small file.
    #[must_use]
    pub fn unprotected(&self) -> Option<String> {
        match self {
            Self::Directory(_) => None,
            Self::Etcd(options) => {
                let is_open =
                    |server: &&etcd::Endpoint| !server.is_encrypted() && !server.is_loopback();
                options.endpoints.iter().find(is_open).map(|server| server.url().to_owned())
            }
            Self::Kubernetes(options) => options.access.unprotected(),
        }
    }
}

/// A lease as it is stored, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The last part of its key or file name.
    pub name: String,
    /// The JSON value.
    pub value: Vec<u8>,
    /// Grows with every change of the store; 0 in a source that does not count.
    pub revision: u64,
    /// It goes away by itself some time after it was written. A reservation does not.
    pub expires: bool,
}

impl Record {
    /// A record of a source that neither counts changes nor lets leases expire.
    pub fn lasting(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: value.into(), revision: 0, expires: false }
    }
}

/// What a watched source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Everything that exists now. Told when changes may have been missed; what is absent may have
    /// been deleted, or the store may have lost it.
    Snapshot(Vec<Record>),
    /// Changes that were seen happening, in order.
    Changes(Vec<Change>),
    /// The network config as it is now; `None` if there is none.
    Config(Option<Vec<u8>>),
}

/// One change of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written, or written again.
    Put(Record),
    /// Deleted.
    Deleted {
        /// Its name.
        name: String,
        /// When, as in [`Record::revision`].
        revision: u64,
    },
}

/// Why a source did not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// etcd cannot be used.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Kubernetes cannot be used.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}

impl SourceError {
    /// Whether waiting may help without anybody doing something on this host.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Etcd(_) | Self::Kubernetes(_))
    }

    /// Whether the node was given another subnet than the one of the lease.
    #[must_use]
    pub fn is_renumbering(&self) -> bool {
        matches!(self, Self::Kubernetes(KubernetesError::Renumbered { .. }))
    }

    /// The sentence with its causes.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            sentence.push_str(&format!(" ({error})"));
            cause = error.source();
        }
        sentence
    }
}

/// The deepest cause. The texts that client libraries put around it are long and say little.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_its_causes() {
        let error = Directory::new("/nonexistent-weft").list().unwrap_err();
        let error = SourceError::from(error);
        assert!(!error.is_transient());
        let sentence = error.sentence();
        assert!(
            sentence.contains("--lease-dir") && sentence.contains("No such file"),
            "{sentence}"
        );
    }
}
