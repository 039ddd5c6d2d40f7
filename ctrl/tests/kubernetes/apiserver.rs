//! An API server of Kubernetes for tests, in this process: HTTP or HTTPS, tokens, rights, lists in pages,
//! watches with bookmarks, 410 Gone, patches of both kinds, and what `kubectl` asks for first. Any
//! collection of objects may be kept; what each kind has of its own rules (defaults, validation) is not
//! here.

mod discovery;
mod http;
mod patch;
mod store;
mod watching;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::cluster::{Cluster, FLANNELS_RIGHTS, NODES, kubeconfig};
use http::serve;
use store::{PatchKind, Store};

/// The rights of an administrator, as far as they are needed.
fn administrator() -> BTreeSet<(String, String)> {
    let verbs = ["create", "delete", "get", "patch"];
    let resources = [
        "clusterrolebindings",
        "clusterroles",
        "configmaps",
        "daemonsets",
        "namespaces",
        "rolebindings",
        "roles",
        "serviceaccounts",
    ];
    let pair = |verb: &str, resource: &str| (verb.to_owned(), resource.to_owned());
    let of = |verb| resources.into_iter().map(move |resource| pair(verb, resource));
    verbs.into_iter().flat_map(of).collect()
}

/// What it does to requests. Changes take effect at once, but for watches that are open.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// Tokens that are accepted; none means that nobody is asked for one.
    pub(crate) tokens: BTreeSet<String>,
    /// Verbs and resources that everybody has the right to.
    pub(crate) rights: BTreeSet<(String, String)>,
    /// How often a quiet watch is told the version.
    pub(crate) bookmarks: Duration,
    /// Watches stay open and tell nothing.
    pub(crate) is_mute: bool,
    /// Everything is answered with this HTTP status code.
    pub(crate) failure: Option<u16>,
}

pub(crate) struct Shared {
    store: Mutex<Store>,
    manners: Mutex<Manners>,
    /// The version of the store.
    pub(crate) changed: watch::Sender<u64>,
    log: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub(crate) fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().unwrap()
    }

    pub(crate) fn note(&self, request: String) {
        self.log.lock().unwrap().push(request);
    }

    /// Whoever watches looks at the store again.
    pub(crate) fn wake(&self) {
        let version = self.store().version();
        self.changed.send_replace(version);
    }
}

/// The server. What it keeps outlives a stop.
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    namespace: Option<String>,
    /// CA, certificate and key, if it is encrypted.
    tls: Option<[String; 3]>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        Self::start_at(None, "127.0.0.1:0", None)
    }

    pub(crate) fn start_encrypted(files: [String; 3]) -> Self {
        Self::start_at(None, "127.0.0.1:0", Some(files))
    }

    /// Inside of a network namespace, if there is one given.
    pub(crate) fn start_at(
        namespace: Option<&str>,
        address: &str,
        tls: Option<[String; 3]>,
    ) -> Self {
        let manners = Manners {
            tokens: BTreeSet::new(),
            rights: FLANNELS_RIGHTS
                .iter()
                .map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned()))
                .collect(),
            bookmarks: Duration::from_secs(60),
            is_mute: false,
            failure: None,
        };
        let shared = Shared {
            store: Mutex::default(),
            manners: Mutex::new(manners),
            changed: watch::Sender::new(0),
            log: Mutex::default(),
        };
        let namespace = namespace.map(str::to_owned);
        let address = address.parse().unwrap();
        let mut server = Self { shared: Arc::new(shared), address, namespace, tls, running: None };
        server.run();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn manners(&self) -> MutexGuard<'_, Manners> {
        self.shared.manners()
    }

    /// Verb and path of everything that was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    /// A merge patch by somebody with every right.
    pub(crate) fn patch_node(&self, name: &str, patch: &Value) {
        for is_status in [false, true] {
            let key = (NODES.to_owned(), name.to_owned());
            self.shared.store().patch(&key, PatchKind::Merge, patch, is_status).unwrap();
        }
        self.shared.wake();
    }
}

impl Cluster for ApiServer {
    fn can_run() -> bool {
        true
    }

    fn start_for(token: &str, namespace: Option<&str>, address: &str, files: [String; 3]) -> Self {
        let mut server = Self::start_at(namespace, address, Some(files));
        server.accept(token);
        server
    }

    fn accept(&mut self, token: &str) {
        self.manners().tokens = [token.to_owned()].into();
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    fn run(&mut self) {
        self.shared.store().begin_again();
        let (namespace, address) = (self.namespace.clone(), self.address);
        let listener = std::thread::spawn(move || listen(namespace.as_deref(), address));
        let listener = listener.join().unwrap();
        self.address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, tls, shared) => {}
                }
            });
        });
        self.running = Some((stop, thread));
    }

    fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    fn compact(&self) {
        self.shared.store().compact();
    }

    fn kubectl(&self, words: &[&str]) -> String {
        let granted = std::mem::replace(&mut self.manners().rights, administrator());
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("kubeconfig");
        let token = self.manners().tokens.first().cloned().unwrap_or_default();
        let authority = self.tls.as_ref().map_or("", |files| &files[0]);
        let text = kubeconfig(&self.url(), authority, &json!({"token": token}));
        std::fs::write(&file, text).unwrap();
        let inside = ["ip", "netns", "exec", self.namespace.as_deref().unwrap_or_default()];
        let prefix = if self.namespace.is_some() { &inside[..] } else { &["env"] };
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg("kubectl").args(words);
        command.arg("--kubeconfig").arg(&file).env("HOME", place.path());
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {words:?}: {error}");
        self.manners().rights = granted;
        String::from_utf8(output.stdout).unwrap()
    }

    fn add(&self, collection: &str, object: Value) {
        self.shared.store().create(collection, object).unwrap();
        self.shared.wake();
    }

    fn object(&self, collection: &str, name: &str) -> Option<Value> {
        self.shared.store().get(&(collection.to_owned(), name.to_owned())).ok()
    }

    fn node_names(&self) -> Vec<String> {
        self.shared.store().names(NODES)
    }

    fn delete_node(&self, name: &str) {
        self.shared.store().delete(&(NODES.to_owned(), name.to_owned())).unwrap();
        self.shared.wake();
    }

    fn annotate(&self, node: &str, annotations: &Value) {
        self.patch_node(node, &json!({"metadata": {"annotations": annotations}}));
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// On a thread of its own, because the namespace stays with the thread.
fn listen(namespace: Option<&str>, address: SocketAddr) -> TcpListener {
    if let Some(namespace) = namespace {
        let file = std::fs::File::open(format!("/var/run/netns/{namespace}")).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }
    TcpListener::bind(address).unwrap()
}
