//! `/healthz` and `/readyz`, exactly as flanneld answers them, and `/metrics` beside them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use weft_ctrl::status::Check;

/// A probe sends its few headers at once.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// A connection is closed after this time, idle or not, so that nobody can hold a place for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// Connections served at once: a few probes and scrapers. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// Bytes of a request's head; the smallest that the HTTP library can be told.
const HEAD_BYTES_MAX: usize = 8192;

/// Pause after a failed accept, which happens when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers are made of. Called on the control thread, so it must not wait.
pub(super) trait Probed: Send + Sync + 'static {
    /// Whether `/readyz` says so.
    fn is_ready(&self) -> bool;
    /// The parts that have to be right for that, each with what is wrong.
    fn checks(&self) -> Vec<Check>;
    /// The body of `/metrics`, and its content type.
    fn metrics(&self) -> (String, &'static str);
}

/// Why the endpoints could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "Could not listen on {address} for the health endpoints; choose another --healthz-port or \
     --healthz-ip if somebody else has it"
)]
pub(super) struct OpenError {
    address: SocketAddr,
    source: io::Error,
}

/// The open port.
#[derive(Debug)]
pub(super) struct Health {
    listener: TcpListener,
}

impl Health {
    /// Takes the port.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, OpenError> {
        let listener = TcpListener::bind(address).await;
        Ok(Self { listener: listener.map_err(|source| OpenError { address, source })? })
    }

    /// The address taken, with the port chosen if 0 was asked for.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped.
    pub(super) async fn serve(&self, probed: Arc<dyn Probed>) -> Infallible {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let probed = Arc::clone(&probed);
                    tokio::spawn(async move {
                        serve_connection(stream, probed).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a health probe");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, probed: Arc<dyn Probed>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.uri(), probed.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_AGE_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "health connection broke"),
        Err(_) => debug!("health connection closed for its age"),
    }
}

fn answer(uri: &Uri, probed: &dyn Probed) -> Response<Full<Bytes>> {
    let (status, body) = match uri.path() {
        "/healthz" => (StatusCode::OK, "flanneld is running"),
        "/readyz" if asks_for_more(uri) => return readiness_in_words(probed),
        "/readyz" if probed.is_ready() => (StatusCode::OK, "flanneld is ready"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet"),
        "/metrics" => {
            let (text, content_type) = probed.metrics();
            return response(StatusCode::OK, text.into(), content_type);
        }
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    response(status, Bytes::from_static(body.as_bytes()), "text/plain; charset=utf-8")
}

/// `/readyz?verbose`, as with the programs of Kubernetes.
fn asks_for_more(uri: &Uri) -> bool {
    let mut parts = uri.query().unwrap_or_default().split('&');
    parts.any(|part| part.split('=').next() == Some("verbose"))
}

/// One line for each part, and flanneld's sentence as the last. A part may be wrong without making the
/// node unready, such as a store that does not answer while forwarding goes on.
fn readiness_in_words(probed: &dyn Probed) -> Response<Full<Bytes>> {
    let mut body = String::new();
    for Check { name, problem } in probed.checks() {
        body.push_str(&match problem {
            None => format!("[+]{name} ok\n"),
            Some(problem) => format!("[-]{name} failed: {problem}\n"),
        });
    }
    let (status, sentence) = match probed.is_ready() {
        true => (StatusCode::OK, "flanneld is ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet"),
    };
    body.push_str(sentence);
    response(status, body.into(), "text/plain; charset=utf-8")
}

fn response(status: StatusCode, body: Bytes, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
