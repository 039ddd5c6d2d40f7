//! Leases in etcd v3, in flanneld's form.
//!
//! ```text
//! PREFIX/config                  the network config
//! PREFIX/subnets/10.5.34.0-24    a lease, attached to an etcd lease of a day
//! ```
//!
//! Unlike flanneld's, every write names the revision that it replaces, so two nodes cannot write over
//! each other, and a key that has no etcd lease is a reservation and stays one.

mod connection;
mod endpoint;
mod follow;
mod keys;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse,
};
use futures_util::FutureExt;

use super::{Answer, Record, Source, SourceError, Watch};
use crate::lease::VALUE_BYTES_MAX;
use connection::{Connection, is_refusal};
use follow::Follower;
use keys::Keys;

pub use connection::{EtcdError, Patience};
pub use endpoint::{Endpoint, EndpointError, Endpoints, without_credentials};

/// How long a lease lives after each write: flanneld's 24 hours.
pub const LIFETIME: Duration = Duration::from_secs(86_400);

/// Leases in one answer. With values of some hundred bytes it stays far below
/// [`ANSWER_BYTES_MAX`]. Where huge values are among them, pages become smaller.
const PAGE: i64 = 2000;

/// Bytes of one answer. etcd takes values of up to 1.5 megabytes unless it is told otherwise, and one
/// of them has to fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What the command line says about etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `--etcd-endpoints`; at least one.
    pub endpoints: Vec<Endpoint>,
    /// `--etcd-prefix`.
    pub prefix: String,
    /// `--etcd-cafile` and its kin.
    pub tls: TlsFiles,
    /// `--etcd-username` and `--etcd-password`.
    pub credentials: Option<Credentials>,
    /// How long a lease lives after each write; [`LIFETIME`] outside of tests.
    pub lifetime: Duration,
    /// Ends of waiting.
    pub patience: Patience,
    /// How often the connection, the cluster and the config are looked at.
    pub check_period: Duration,
    /// How often everything is listed although nothing seems to be missed.
    pub list_period: Duration,
}

impl EtcdOptions {
    /// Options with every default but the servers'.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, prefix: impl Into<String>) -> Self {
        Self {
            endpoints,
            prefix: prefix.into(),
            tls: TlsFiles::default(),
            credentials: None,
            lifetime: LIFETIME,
            patience: Patience::default(),
            check_period: Duration::from_secs(10),
            list_period: Duration::from_secs(600),
        }
    }
}

/// Files for encrypted connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that sign servers' certificates; the system's if none.
    pub authority: Option<PathBuf>,
    /// Our own certificate, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's own authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password.
    pub password: Secret,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// The source. Cheap to clone; nothing is connected before the first question.
#[derive(Clone, Debug)]
pub struct Etcd {
    connection: Arc<Connection>,
    keys: Keys,
}

/// Everything at one moment of the store.
struct Listing {
    records: Vec<Record>,
    moment: Moment,
}

/// A point in the history of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    cluster: u64,
    /// Counts elections; never falls in one history.
    term: u64,
    revision: i64,
}

impl Moment {
    fn of(header: Option<&etcd_client::ResponseHeader>) -> Result<Self, EtcdError> {
        let header = header.ok_or(EtcdError::Incomplete("a header"))?;
        Ok(Self {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        })
    }
}

impl Etcd {
    /// Names the cluster.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let keys = Keys::new(&options.prefix);
        Self { connection: Arc::new(Connection::new(options)), keys }
    }

    /// The config, read from a majority, and when that was.
    async fn read_config(&self) -> Result<(Option<Vec<u8>>, Moment), EtcdError> {
        let key = self.keys.config();
        let ask = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let answer = self.connection.ask(ask).await?;
        let moment = Moment::of(answer.header())?;
        Ok((answer.kvs().first().map(|pair| pair.value().to_vec()), moment))
    }

    /// All leases as they were at `revision`, or as they are now. Read in pages of one moment.
    async fn list_at(&self, revision: Option<i64>) -> Result<Listing, EtcdError> {
        let mut revision = revision.unwrap_or(0);
        let mut start = self.keys.leases().into_bytes();
        let mut limit = PAGE;
        let mut pairs = Vec::new();
        let mut moment = None;
        loop {
            let mut answer = match self.page(&start, revision, limit).await {
                Err(error) if limit > 1 && error.is_too_large() => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            let now = Moment::of(answer.header())?;
            if revision == 0 {
                revision = now.revision;
            }
            moment.get_or_insert(Moment { revision, ..now });
            let more = answer.more();
            let page = answer.take_kvs();
            if let Some(last) = page.last().filter(|_| more) {
                start = [last.key(), &[0]].concat();
            }
            let ended = page.is_empty() || !more;
            pairs.extend(page);
            if ended {
                break;
            }
        }
        pairs.sort_by_key(KeyValue::create_revision);
        let records = pairs.iter().filter_map(|pair| self.record(pair)).collect();
        Ok(Listing { records, moment: moment.ok_or(EtcdError::Incomplete("a header"))? })
    }

    /// At most `limit` leases from the key `start` on.
    async fn page(
        &self,
        start: &[u8],
        revision: i64,
        limit: i64,
    ) -> Result<etcd_client::GetResponse, EtcdError> {
        let options = GetOptions::new()
            .with_range(self.keys.leases_end())
            .with_revision(revision)
            .with_limit(limit)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let ask = |client: Client| {
            let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            let (start, options) = (start.to_vec(), options.clone());
            async move { client.get(start, Some(options)).await }
        };
        self.connection.ask(ask).await
    }

    /// A key that is not UTF-8 cannot be a lease; it is shown as a bad one. Of a value that is too long
    /// for a lease as much is kept as shows that.
    fn record(&self, pair: &KeyValue) -> Option<Record> {
        let kept = pair.value().len().min(VALUE_BYTES_MAX + 1);
        Some(Record {
            name: self.keys.name(pair.key())?,
            value: pair.value()[..kept].to_vec(),
            revision: pair.mod_revision().unsigned_abs(),
            expires: pair.lease() != 0,
        })
    }

    async fn read_lease(&self, name: &str) -> Result<Option<Record>, EtcdError> {
        let key = self.keys.lease(name);
        let ask = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let answer = self.connection.ask(ask).await?;
        Ok(answer.kvs().first().and_then(|pair| self.record(pair)))
    }

    /// Puts a lease where every one of the comparisons holds. If it is to expire it gets an etcd lease
    /// of its own, which is given back if surely nothing was put: the key goes with it.
    ///
    /// A request may be made twice, because its first answer was lost. Then the comparison fails and
    /// the key is there with our etcd lease.
    async fn put(
        &self,
        name: &str,
        value: &[u8],
        expires: bool,
        when: Vec<Compare>,
    ) -> Result<Option<Record>, EtcdError> {
        let lease = if expires { self.grant().await? } else { 0 };
        let key = self.keys.lease(name);
        let put = TxnOp::put(key.as_str(), value, Some(PutOptions::new().with_lease(lease)));
        let look = TxnOp::get(key, None);
        let transaction = Txn::new().when(when).and_then(vec![put]).or_else(vec![look]);
        let ask = |mut client: Client| {
            let transaction = transaction.clone();
            async move { client.txn(transaction).await }
        };
        let answer = self.connection.ask(ask).await?;
        if answer.succeeded() {
            let revision = Moment::of(answer.header())?.revision.unsigned_abs();
            let (name, value) = (name.to_owned(), value.to_vec());
            return Ok(Some(Record { name, value, revision, expires }));
        }
        for found in answer.op_responses() {
            let TxnOpResponse::Get(found) = found else { continue };
            let is_ours = |pair: &&KeyValue| pair.lease() == lease && pair.value() == value;
            if let Some(pair) = found.kvs().iter().find(is_ours) {
                return Ok(self.record(pair));
            }
        }
        self.revoke(lease).await;
        Ok(None)
    }

    async fn grant(&self) -> Result<i64, EtcdError> {
        let seconds = self.connection.options().lifetime.as_secs().try_into().unwrap_or(i64::MAX);
        let ask = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        Ok(self.connection.ask(ask).await?.id())
    }

    /// What cannot be given back ends by itself.
    async fn revoke(&self, lease: i64) {
        if lease == 0 {
            return;
        }
        let ask = |mut client: Client| async move { client.lease_revoke(lease).await };
        if let Err(error) = self.connection.ask(ask).await {
            tracing::debug!(%error, "an unused etcd lease was not given back");
        }
    }

    async fn remove_lease(&self, seen: &Record) -> Result<bool, EtcdError> {
        let key = self.keys.lease(&seen.name);
        let transaction =
            Txn::new().when(vec![self.is_as_seen(seen)]).and_then(vec![TxnOp::delete(key, None)]);
        let ask = |mut client: Client| {
            let transaction = transaction.clone();
            async move { client.txn(transaction).await }
        };
        Ok(self.connection.ask(ask).await?.succeeded())
    }

    fn is_as_seen(&self, seen: &Record) -> Compare {
        let revision = i64::try_from(seen.revision).unwrap_or(i64::MAX);
        Compare::mod_revision(self.keys.lease(&seen.name), CompareOp::Equal, revision)
    }

    /// Nobody has this name, nor the same IPv4 subnet with another IPv6 one.
    fn is_free(&self, name: &str) -> Vec<Compare> {
        let absent = Compare::version(self.keys.lease(name), CompareOp::Equal, 0);
        match name.split_once('-') {
            Some((address, _)) if address != "0.0.0.0" => {
                let same_v4 = self.keys.lease(&format!("{address}-"));
                vec![absent, Compare::version(same_v4, CompareOp::Equal, 0).with_prefix()]
            }
            _ => vec![absent],
        }
    }
}

impl Source for Etcd {
    fn description(&self) -> String {
        let options = self.connection.options();
        let servers: Vec<String> = options.endpoints.iter().map(ToString::to_string).collect();
        format!("etcd {} below {}", servers.join(","), self.keys.prefix())
    }

    fn config_remedy(&self) -> String {
        format!(
            "There is no network config in etcd. Write one, for example: etcdctl put {} \
             '{{\"Network\":\"10.244.0.0/16\"}}'. If you have written one already, it may be in etcd's \
             old v2 store (etcdctl set, or ETCDCTL_API=2), which weft does not read; or \
             --etcd-prefix is another one",
            self.keys.config()
        )
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(self.connection.options().lifetime)
    }

    fn config(&self) -> Answer<'_, Option<Vec<u8>>> {
        async move { Ok(self.read_config().await?.0) }.boxed()
    }

    fn list(&self) -> Answer<'_, Vec<Record>> {
        async move { Ok(self.list_at(None).await?.records) }.boxed()
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        async move { self.read_lease(name).await.map_err(SourceError::from) }.boxed()
    }

    fn create<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        let free = self.is_free(name);
        async move { self.put(name, value, true, free).await.map_err(SourceError::from) }.boxed()
    }

    fn replace<'a>(&'a self, seen: &'a Record, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        let same = vec![self.is_as_seen(seen)];
        let put = self.put(&seen.name, value, seen.expires, same);
        async move { put.await.map_err(SourceError::from) }.boxed()
    }

    fn remove<'a>(&'a self, seen: &'a Record) -> Answer<'a, bool> {
        async move { self.remove_lease(seen).await.map_err(SourceError::from) }.boxed()
    }

    fn watch(&self) -> Watch {
        let follower = Follower::new(self.clone());
        Watch::start(|reporter| follower.run(reporter))
    }
}
