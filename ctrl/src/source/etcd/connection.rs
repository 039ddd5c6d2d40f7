//! One connection to one server of a cluster, and another one when it fails.
//!
//! The client library can spread requests over servers by itself, but tells nothing of a server that
//! hangs. So exactly one is used at a time, every request has an end, and a failure of any kind that
//! another server may not have leads on to the next.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::{Endpoint, EtcdOptions, TlsFiles};
use crate::source::deepest;

/// gRPC status codes that say that the question was wrong, not the server. Their numbers are those of
/// the gRPC specification, because the client library does not export its type for them.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
}

/// Times that end a wait for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer.
    pub request: Duration,
    /// Between two signs of life on an idle connection, and for the answer to one.
    pub keep_alive: Duration,
}

impl Default for Patience {
    /// An election takes a second or two, which a request should survive.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(5),
            keep_alive: Duration::from_secs(5),
        }
    }
}

/// Why etcd did not answer.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No server could be asked.
    #[error("etcd does not answer: {}. The servers are named by --etcd-endpoints", .tried.join("; "))]
    Unreachable {
        /// Each server with the reason.
        tried: Vec<String>,
    },
    /// A server refused.
    #[error("etcd refused the request: {message}{}", remedy(.message))]
    Refused {
        /// What it said.
        message: String,
    },
    /// A file of the TLS settings cannot be used.
    #[error("Could not read {}", .path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The server answered what no etcd answers.
    #[error("etcd gave an answer without {0}")]
    Incomplete(&'static str),
}

impl EtcdError {
    /// Whether the answer has more bytes than it may have; a smaller question gets one.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { message } if message.contains(TOO_LARGE))
    }
}

/// What the client library says of an answer above the limit. The gRPC code alone is also that of a
/// compacted revision.
pub(super) const TOO_LARGE: &str = "message length too large";

fn remedy(message: &str) -> &'static str {
    match message {
        message if message.contains("user name is empty") => {
            ". It wants authentication: give --etcd-username and --etcd-password"
        }
        message if message.contains("authentication failed") => {
            ". Check --etcd-username and --etcd-password"
        }
        message if message.contains("permission denied") => {
            ". The user needs read and write access to all keys below --etcd-prefix"
        }
        message if message.contains("database space exceeded") => {
            ". Its quota is used up: compact, defragment, and disarm the alarm"
        }
        _ => "",
    }
}

/// A client of one server.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) server: Endpoint,
    /// Tells a later connection from this one.
    number: u64,
}

/// Shared by all who ask. Any number of requests may be under way.
pub(super) struct Connection {
    options: EtcdOptions,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connected: Option<Connected>,
    /// How many connections there were; chooses the server of the next.
    count: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connection").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let start = rand::random_range(0..options.endpoints.len() as u64);
        let current = Current { connected: None, count: start };
        Self { options, current: Mutex::new(current) }
    }

    pub(super) fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// Asks one server after the other until one answers. `question` may so be put several times: a
    /// server that failed may have made the change all the same.
    pub(super) async fn ask<T, F>(
        &self,
        question: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let mut tried = Vec::new();
        // Once more than there are servers: a token or a connection may merely be too old.
        for _ in 0..=self.options.endpoints.len() {
            let connected = match self.connect().await {
                Ok(connected) => connected,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Server(reason)) => {
                    tried.push(reason);
                    continue;
                }
            };
            match timeout(self.options.patience.request, question(connected.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_refusal(&error) => return Err(refused(&error)),
                Ok(Err(error)) => tried.push(format!("{}: {}", connected.server, short(&error))),
                Err(_) => tried.push(format!("{}: no answer in time", connected.server)),
            }
            self.give_up(&connected);
        }
        tried.dedup();
        Err(EtcdError::Unreachable { tried })
    }

    /// The connection in use, or one to the next server.
    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        let number = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(connected) = &current.connected {
                return Ok(connected.clone());
            }
            current.count += 1;
            current.count
        };
        let index = (number % self.options.endpoints.len() as u64) as usize;
        let server = self.options.endpoints[index].clone();
        let settings = self.settings(&server).await.map_err(Failure::Final)?;
        let opening = Client::connect([server.url()], Some(settings));
        let client = match timeout(self.options.patience.request, opening).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) if is_refusal(&error) => return Err(Failure::Final(refused(&error))),
            Ok(Err(error)) => return Err(Failure::Server(format!("{server}: {}", short(&error)))),
            Err(_) => return Err(Failure::Server(format!("{server}: no answer in time"))),
        };
        debug!(%server, "using an etcd server");
        let connected = Connected { client, server, number };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(current.connected.get_or_insert(connected).clone())
    }

    /// The next request goes to another server.
    pub(super) fn give_up(&self, failed: &Connected) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.connected.as_ref().is_some_and(|connected| connected.number == failed.number) {
            current.connected = None;
        }
    }

    /// Read anew for each connection, so that renewed certificates are used.
    async fn settings(&self, server: &Endpoint) -> Result<ConnectOptions, EtcdError> {
        let options = &self.options;
        let mut settings = ConnectOptions::new()
            .with_connect_timeout(options.patience.connect)
            .with_tcp_keepalive(options.patience.keep_alive)
            .with_keep_alive(options.patience.keep_alive, options.patience.keep_alive)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(credentials) = &options.credentials {
            settings = settings.with_user(&credentials.user, credentials.password.reveal());
        }
        if server.is_encrypted() {
            let files = options.tls.clone();
            let tls = spawn_blocking(move || tls_options(&files)).await;
            settings = settings.with_tls(tls.expect("reading files does not panic")?);
        }
        Ok(settings)
    }
}

/// Why there is no connection.
pub(super) enum Failure {
    /// This server does not do; another may.
    Server(String),
    /// No other would do either.
    Final(EtcdError),
}

impl From<Failure> for EtcdError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Server(reason) => Self::Unreachable { tried: vec![reason] },
            Failure::Final(error) => error,
        }
    }
}

/// Without a CA file the system's authorities are trusted.
fn tls_options(files: &TlsFiles) -> Result<TlsOptions, EtcdError> {
    let mut tls = TlsOptions::new();
    tls = match &files.authority {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = &files.client {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    std::fs::read(path).map_err(|source| EtcdError::TlsFile { path: path.to_owned(), source })
}

/// Whether every server would say the same.
pub(super) fn is_refusal(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    // The authentication store changed since the token was given; a new one is needed.
    if status.message().contains("auth store is old") {
        return false;
    }
    let refusals = [
        code::INVALID_ARGUMENT,
        code::NOT_FOUND,
        code::ALREADY_EXISTS,
        code::PERMISSION_DENIED,
        code::RESOURCE_EXHAUSTED,
        code::FAILED_PRECONDITION,
        code::OUT_OF_RANGE,
    ];
    refusals.contains(&(status.code() as i32))
}

pub(super) fn refused(error: &Error) -> EtcdError {
    EtcdError::Refused { message: short(error) }
}

/// What the server said, or the deepest cause of a transport error.
pub(super) fn short(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
            status.message().trim_start_matches("etcdserver: ").to_owned()
        }
        Error::GRpcStatus(status) => deepest(status),
        Error::TransportError(transport) => deepest(transport),
        error => deepest(error),
    }
}
