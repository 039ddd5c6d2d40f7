//! Questions to the API server, at the address that was given or at one that is known to be behind it.
//!
//! Every question has an end, and after any failure that another server, a new certificate or a new
//! token may mend, all files are read again and the next address is tried. The given address comes
//! first: the others are what is left when the way to it is broken.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};
use tracing::debug;

use super::diagnosis;
use super::memory::Memory;
use super::{KubernetesError, Patience};
use crate::source::deepest;

/// How the server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `--kube-api-url`.
    pub url: Option<String>,
    /// `--kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
    /// The address of the service `kubernetes`, which every pod is told.
    pub service: Option<String>,
}

impl Access {
    /// What is named first, for people.
    pub(super) fn name(&self) -> String {
        match (&self.url, &self.kubeconfig, &self.service) {
            (Some(url), ..) => url.clone(),
            (None, Some(path), _) => path.display().to_string(),
            (None, None, Some(service)) => service.clone(),
            (None, None, None) => "the cluster's API server".to_owned(),
        }
    }

    /// Only the address of the service is known.
    fn is_service(&self) -> bool {
        self.url.is_none() && self.kubeconfig.is_none()
    }

    /// Reads everything that is needed. The files may be others than at the last time.
    async fn config(&self) -> Result<Config, KubernetesError> {
        let access = KubernetesError::Access;
        let mut config = match (&self.kubeconfig, &self.url) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(|error| access(deepest(&error)))?;
                let options = KubeConfigOptions::default();
                let loading = Config::from_custom_kubeconfig(file, &options);
                loading.await.map_err(|error| access(deepest(&error)))?
            }
            (None, None) => {
                Config::incluster_env().map_err(|error| access(with_service_account(&error)))?
            }
            // The rights of the pod are of use at any address of the server.
            (None, Some(url)) => {
                Config::incluster_env().or_else(|_| parse(url).map(Config::new))?
            }
        };
        if let Some(url) = &self.url {
            config.cluster_url = parse(url)?;
        }
        // The library takes a newline at the end of the file for a part of the token.
        let file = config.auth_info.token_file.take();
        if let Some(path) = file.filter(|_| config.auth_info.token.is_none()) {
            let unreadable = |error| access(format!("{path}: {error}"));
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            config.auth_info.token = Some(text.trim().to_owned().into());
        }
        Ok(config)
    }

    /// A server that is asked over a connection that others on the way can read and change. Blocks
    /// for the length of a small file.
    pub(in crate::source) fn unprotected(&self) -> Option<String> {
        let file = self.kubeconfig.as_ref().and_then(|path| Kubeconfig::read_from(path).ok());
        let clusters = file.iter().flat_map(|file| &file.clusters);
        let mut clusters = clusters.filter_map(|named| named.cluster.as_ref());
        let url = self.url.as_deref();
        let is_open = |url: &str| url.starts_with("http://") && !is_loopback(url);
        if let Some(url) = url.filter(|url| is_open(url)) {
            return Some(url.to_owned());
        }
        let server = clusters.find(|cluster| {
            let server = url.or(cluster.server.as_deref()).unwrap_or_default();
            is_open(server) || cluster.insecure_skip_tls_verify == Some(true)
        });
        server.map(|cluster| cluster.server.clone().unwrap_or_default())
    }
}

fn parse<U>(url: &str) -> Result<U, KubernetesError>
where
    U: std::str::FromStr,
    U::Err: std::fmt::Display,
{
    url.parse().map_err(|error| KubernetesError::Access(format!("{url:?} is no URL ({error})")))
}

fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["127.", "[::1]", "localhost"].iter().any(|start| rest.starts_with(start))
}

fn with_service_account(error: &(dyn std::error::Error + 'static)) -> String {
    format!(
        "{} (without --kubeconfig-file, weft runs in a pod with a service account)",
        deepest(error)
    )
}

/// Why a question was not answered as it should be.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such object.
    NotFound,
    /// It was changed meanwhile.
    Conflict,
    /// The server does not know that moment any more.
    Gone(String),
    /// Everything else.
    Other(KubernetesError),
}

impl From<Failure> for KubernetesError {
    fn from(failure: Failure) -> Self {
        let (what, message) = match failure {
            Failure::Other(error) => return error,
            Failure::NotFound => ("do that", "not found".to_owned()),
            Failure::Conflict => ("do that", "changed meanwhile".to_owned()),
            Failure::Gone(message) => ("do that", message),
        };
        Self::Refused { what, message }
    }
}

/// A client of one server.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    /// Its URL.
    pub(super) server: String,
    /// It was given, not remembered.
    pub(super) is_given: bool,
    number: u64,
}

/// Shared by all who ask. Any number of questions may be under way.
pub(super) struct Connection {
    access: Access,
    patience: Patience,
    memory: Arc<Memory>,
    current: Mutex<Current>,
    /// The client that is being made. A plugin that takes longer than a question has patience, or hangs,
    /// is so not started again and again.
    making: tokio::sync::Mutex<Option<Making>>,
}

/// A client that is being made, which goes on when nobody waits for it.
struct Making {
    server: String,
    client: JoinHandle<Result<Client, KubernetesError>>,
}

#[derive(Default)]
struct Current {
    connected: Option<Connected>,
    count: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(access: Access, patience: Patience, memory: Arc<Memory>) -> Self {
        Self { access, patience, memory, current: Mutex::default(), making: Default::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one address after the other until one answers. `question` may so be put several times.
    pub(super) async fn ask<T, F>(
        &self,
        what: &'static str,
        question: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<(T, Connected), Failure>
    where
        F: Future<Output = Result<T, kube::Error>> + Send,
    {
        let mut tried = Vec::new();
        let in_use = self.lock().connected.clone();
        if let Some(connected) = in_use {
            match self.put(what, &connected, &question).await {
                Ok(answer) => return Ok((answer, connected)),
                Err(Attempt::Final(failure)) => return Err(failure),
                Err(Attempt::Server(reason)) => tried.push(reason),
            }
        }
        let config = self.access.config().await.map_err(Failure::Other)?;
        let given = config.cluster_url.clone();
        for candidate in self.candidates(&config) {
            let connecting = self.connect(config.clone(), candidate);
            let connected = connecting.await.map_err(Failure::Other)?;
            match self.put(what, &connected, &question).await {
                Ok(answer) => return Ok((answer, connected)),
                Err(Attempt::Final(failure)) => return Err(failure),
                Err(Attempt::Server(reason)) => tried.push(reason),
            }
        }
        tried.dedup();
        let hint =
            diagnosis::hint(given.host().unwrap_or_default(), self.access.is_service()).await;
        Err(Failure::Other(KubernetesError::Unreachable { tried, hint }))
    }

    /// Where to ask, in order; `None` is the given address.
    fn candidates(&self, config: &Config) -> Vec<Option<String>> {
        // Without a certificate anybody could have one of these addresses by now.
        let is_encrypted = config.cluster_url.scheme_str() == Some("https");
        let remembered = self.memory.learnt().servers;
        let remembered = remembered.into_iter().filter(|_| is_encrypted).map(Some);
        std::iter::once(None).chain(remembered).collect()
    }

    async fn connect(
        &self,
        mut config: Config,
        candidate: Option<String>,
    ) -> Result<Connected, KubernetesError> {
        let is_given = candidate.is_none();
        if let Some(url) = candidate {
            // The certificate is checked for the name that was given.
            let given =
                config.cluster_url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
            config.tls_server_name = config.tls_server_name.or(given);
            config.cluster_url = parse(&url)?;
        }
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        match timeout(self.patience.request, self.connected(config, server, is_given)).await {
            Ok(connected) => connected,
            Err(_) => Err(KubernetesError::Access(
                "the plugin that gives the token or certificate does not end".to_owned(),
            )),
        }
    }

    /// A plugin that gives the token or certificate is run for it, which takes as long as it likes, so
    /// that is done elsewhere, and for one client at a time. Dropped while it runs, it is waited for by
    /// the next question.
    async fn connected(
        &self,
        config: Config,
        server: String,
        is_given: bool,
    ) -> Result<Connected, KubernetesError> {
        let mut making = self.making.lock().await;
        let meanwhile = self.lock().connected.clone();
        if let Some(connected) = meanwhile.filter(|connected| connected.server == server) {
            return Ok(connected);
        }
        if let Some(other) = making.as_mut().filter(|making| making.server != server) {
            let _ = (&mut other.client).await;
            *making = None;
        }
        let patience = self.patience;
        let begin = || Making {
            server: server.clone(),
            client: spawn_blocking(move || client(config, patience)),
        };
        let client = (&mut making.get_or_insert_with(begin).client).await;
        *making = None;
        let client = client.expect("making a client does not panic")?;
        let mut current = self.lock();
        current.count += 1;
        let connected = Connected { client, server, is_given, number: current.count };
        current.connected = Some(connected.clone());
        Ok(connected)
    }

    async fn put<T, F>(
        &self,
        what: &'static str,
        connected: &Connected,
        question: &(impl Fn(Client) -> F + Send + Sync),
    ) -> Result<T, Attempt>
    where
        F: Future<Output = Result<T, kube::Error>> + Send,
    {
        let asked = timeout(self.patience.request, question(connected.client.clone()));
        let attempt = match asked.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Attempt::of(what, &connected.server, &error),
            Err(_) => Attempt::Server(format!("{}: no answer in time", connected.server)),
        };
        if matches!(attempt, Attempt::Server(_)) {
            self.give_up(connected);
        }
        Err(attempt)
    }

    /// The next question begins with the given address, and with what the files say then.
    pub(super) fn give_up(&self, failed: &Connected) {
        let mut current = self.lock();
        if current.connected.as_ref().is_some_and(|connected| connected.number == failed.number) {
            debug!(server = failed.server, "not used any more");
            current.connected = None;
        }
    }
}

/// As the library's own, but with signs of life on idle connections, and without its log lines. Blocks
/// while a plugin runs.
fn client(config: Config, patience: Patience) -> Result<Client, KubernetesError> {
    let access = |error: kube::Error| KubernetesError::Access(deepest(&error));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(patience.connect));
    connector.set_keepalive(Some(patience.keep_alive));
    connector.set_keepalive_interval(Some(patience.keep_alive));
    connector.set_keepalive_retries(Some(2));
    connector.set_tcp_user_timeout(Some(3 * patience.keep_alive));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(access)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(access)?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// How a question to one server failed.
enum Attempt {
    /// Every server would say the same.
    Final(Failure),
    /// Another server, or the same after a while, may answer.
    Server(String),
}

impl Attempt {
    fn of(what: &'static str, server: &str, error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Server(format!("{server}: {}", deepest(error)));
        };
        let message = status.message.clone();
        match status.code {
            401 => Self::Server(format!(
                "{server}: it does not accept the token or certificate that weft has; it may have run out"
            )),
            404 => Self::Final(Failure::NotFound),
            409 => Self::Final(Failure::Conflict),
            410 => Self::Final(Failure::Gone(message)),
            429 | 500.. => Self::Server(format!("{server}: {message}")),
            _ => Self::Final(Failure::Other(KubernetesError::Refused { what, message })),
        }
    }
}

/// How long to wait for an answer that is not needed at once.
pub(super) async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Option<T> {
    timeout(patience, asked).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_could_be_anybody_are_found() {
        let by_url =
            |url: &str| Access { url: Some(url.into()), ..Access::default() }.unprotected();
        assert_eq!(by_url("http://192.0.2.1:8080").as_deref(), Some("http://192.0.2.1:8080"));
        assert_eq!(by_url("https://192.0.2.1:6443"), None);
        assert_eq!(by_url("http://127.0.0.1:8001"), None);
        assert_eq!(Access::default().unprotected(), None);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let by_file = |cluster: &str| {
            let text = format!("clusters:\n- name: c\n  cluster: {cluster}\n");
            std::fs::write(&path, text).unwrap();
            Access { kubeconfig: Some(path.clone()), ..Access::default() }.unprotected()
        };
        assert_eq!(by_file("{server: 'https://a:6443'}"), None);
        assert_eq!(by_file("{server: 'http://a:80'}").as_deref(), Some("http://a:80"));
        let careless = by_file("{server: 'https://a:6443', insecure-skip-tls-verify: true}");
        assert_eq!(careless.as_deref(), Some("https://a:6443"));
    }
}
