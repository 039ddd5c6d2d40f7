//! Requests and answers of the API server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Shared;
use super::discovery::discover;
use super::store::{Key, PatchKind, Refusal};
use super::watching::Watching;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// As the real one has it, if the client sets no limit.
const PAGE_MAX: usize = 100_000;

pub(crate) async fn serve(listener: TcpListener, tls: Option<[String; 3]>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let acceptor = tls.map(|files| acceptor(&files));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
        tokio::spawn(async move {
            match acceptor {
                None => converse(stream, shared).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, shared).await;
                    }
                }
            }
        });
    }
}

fn acceptor([_, certificate, key]: &[String; 3]) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    // A client that goes away is nobody's loss.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// What a path names.
struct Target {
    collection: String,
    resource: String,
    name: Option<String>,
    subresource: Option<String>,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let prefix = match *parts.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let is_namespaced = parts.get(prefix) == Some(&"namespaces") && parts.len() > prefix + 2;
        let place = if is_namespaced { prefix + 2 } else { prefix };
        let text = |index: usize| parts.get(index).map(|part| (*part).to_owned());
        Some(Self {
            collection: format!("/{}", parts.get(..=place)?.join("/")),
            resource: text(place)?,
            name: text(place + 1),
            subresource: text(place + 2),
        })
    }

    fn key(&self) -> Key {
        (self.collection.clone(), self.name.clone().unwrap_or_default())
    }

    fn namespace(&self) -> Option<&str> {
        let (_, place) = self.collection.split_once("/namespaces/")?;
        Some(place.split_once('/').map_or(place, |(namespace, _)| namespace))
    }

    /// Nothing for the oldest one.
    fn group(&self) -> &str {
        let path = self.collection.strip_prefix("/apis/").unwrap_or_default();
        path.split_once('/').map_or("", |(group, _)| group)
    }

    fn resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    match answer_or_refuse(request, shared).await {
        Ok(response) => response,
        Err(Refusal(code, reason, message)) => {
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
            });
            response(code, &status)
        }
    }
}

async fn answer_or_refuse(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let parameters = parameters(head.uri.query().unwrap_or_default());
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let is_watch = parameters.get("watch").is_some_and(|value| value == "true");
    if let Some(answer) = discover(&path) {
        admit(shared, header(AUTHORIZATION))?;
        return Ok(response(200, &answer));
    }
    let nowhere = || Refusal(404, "NotFound", "the server could not find the resource".into());
    let target = Target::of(&path).ok_or_else(nowhere)?;
    let verb = verb(&head.method, &target, is_watch);
    shared.note(format!("{verb} {path}"));
    admit(shared, header(AUTHORIZATION))?;
    authorize(shared, verb, &target)?;
    let metadata_only = header(ACCEPT).is_some_and(|kind| kind.contains("PartialObjectMetadata"));
    match verb {
        "get" => Ok(response(200, &part(shared.store().get(&target.key())?, metadata_only))),
        "list" => list(shared, &target, &parameters, metadata_only),
        "watch" => Ok(Response::new(
            Watching::begin(shared, &target.collection, &parameters, metadata_only)?.body(),
        )),
        "patch" => {
            let kind = patch_kind(header(CONTENT_TYPE))?;
            let is_status = target.subresource.as_deref() == Some("status");
            let patch = json_of(body).await?;
            let object = shared.store().patch(&target.key(), kind, &patch, is_status)?;
            shared.wake();
            Ok(response(200, &object))
        }
        "create" => {
            let object = json_of(body).await?;
            let namespace = target.namespace();
            let object = shared.store().create_in(namespace, &target.collection, object)?;
            shared.wake();
            Ok(response(201, &object))
        }
        "delete" => {
            let object = shared.store().delete(&target.key())?;
            shared.wake();
            Ok(response(200, &object))
        }
        _ => Err(Refusal(405, "MethodNotAllowed", "not here".into())),
    }
}

fn verb(method: &Method, target: &Target, is_watch: bool) -> &'static str {
    match (method, &target.name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if is_watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::POST, None) => "create",
        (&Method::DELETE, Some(_)) => "delete",
        _ => "",
    }
}

/// Whether somebody is known.
fn admit(shared: &Shared, authorization: Option<&str>) -> Result<(), Refusal> {
    let manners = shared.manners();
    if let Some(code) = manners.failure {
        return Err(Refusal(code, "InternalError", "the server is not well".into()));
    }
    let token = authorization.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    if !manners.tokens.is_empty() && !manners.tokens.contains(token.trim()) {
        return Err(Refusal(401, "Unauthorized", "Unauthorized".into()));
    }
    Ok(())
}

fn authorize(shared: &Shared, verb: &str, target: &Target) -> Result<(), Refusal> {
    let resource = target.resource();
    if shared.manners().rights.contains(&(verb.to_owned(), resource.clone())) {
        return Ok(());
    }
    let name = target.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    let place = match target.namespace() {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    Err(Refusal(
        403,
        "Forbidden",
        format!(
            "{}{name} is forbidden: User \"system:serviceaccount:kube-flannel:flannel\" cannot {verb} \
             resource \"{resource}\" in API group \"{}\" {place}",
            target.resource,
            target.group()
        ),
    ))
}

fn list(
    shared: &Shared,
    target: &Target,
    parameters: &BTreeMap<String, String>,
    metadata_only: bool,
) -> Result<Response<Body>, Refusal> {
    let limit = parameters.get("limit").and_then(|text| text.parse().ok()).unwrap_or(PAGE_MAX);
    let next = parameters.get("continue").map(String::as_str);
    let (version, objects, next) = shared.store().page(&target.collection, limit, next)?;
    let items: Vec<Value> = objects.into_iter().map(|object| part(object, metadata_only)).collect();
    Ok(response(
        200,
        &json!({
            "kind": "List",
            "apiVersion": "v1",
            "metadata": {
                "resourceVersion": version.to_string(),
                "continue": next.unwrap_or_default(),
            },
            "items": items,
        }),
    ))
}

/// The object, or only its metadata.
pub(crate) fn part(object: Value, metadata_only: bool) -> Value {
    match metadata_only {
        false => object,
        true => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        }),
    }
}

fn patch_kind(content_type: Option<&str>) -> Result<PatchKind, Refusal> {
    match content_type {
        Some("application/merge-patch+json") => Ok(PatchKind::Merge),
        Some("application/strategic-merge-patch+json") => Ok(PatchKind::Strategic),
        other => Err(Refusal(415, "UnsupportedMediaType", format!("the body is {other:?}"))),
    }
}

async fn json_of(body: Incoming) -> Result<Value, Refusal> {
    let broken = |text: String| Refusal(400, "BadRequest", text);
    let bytes = body.collect().await.map_err(|error| broken(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))
}

fn response(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let builder = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    builder.body(body).unwrap()
}

/// Query parameters, decoded.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let coded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
