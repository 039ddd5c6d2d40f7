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
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use http::serve;
use store::{PatchKind, Store};

pub(crate) const NODES: &str = "/api/v1/nodes";

/// The rights of flannel's service account.
pub(crate) const FLANNELS_RIGHTS: &[(&str, &str)] = &[
    ("get", "pods"),
    ("get", "nodes"),
    ("list", "nodes"),
    ("watch", "nodes"),
    ("patch", "nodes/status"),
];

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

    /// Serves again, with what the files say now.
    pub(crate) fn run(&mut self) {
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

    /// Every connection is closed.
    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.run();
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
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

    /// Adds a node as a kubelet and the controller manager do.
    pub(crate) fn add_node(&self, name: &str, pod_cidrs: &[&str]) {
        let mut node = json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": name, "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        if let Some(first) = pod_cidrs.first() {
            node["spec"] = json!({"podCIDR": first, "podCIDRs": pod_cidrs});
        }
        self.add(NODES, node);
    }

    pub(crate) fn add(&self, collection: &str, object: Value) {
        self.shared.store().create(collection, object).unwrap();
        self.shared.wake();
    }

    /// A merge patch by somebody with every right.
    pub(crate) fn patch_node(&self, name: &str, patch: &Value) {
        for is_status in [false, true] {
            let key = (NODES.to_owned(), name.to_owned());
            self.shared.store().patch(&key, PatchKind::Merge, patch, is_status).unwrap();
        }
        self.shared.wake();
    }

    pub(crate) fn annotate(&self, name: &str, annotations: &Value) {
        self.patch_node(name, &json!({"metadata": {"annotations": annotations}}));
    }

    pub(crate) fn delete_node(&self, name: &str) {
        self.shared.store().delete(&(NODES.to_owned(), name.to_owned())).unwrap();
        self.shared.wake();
    }

    pub(crate) fn node(&self, name: &str) -> Value {
        self.object(NODES, name).unwrap()
    }

    pub(crate) fn object(&self, collection: &str, name: &str) -> Option<Value> {
        self.shared.store().get(&(collection.to_owned(), name.to_owned())).ok()
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        self.shared.store().names(NODES)
    }

    /// The annotation with this suffix of flannel's.
    pub(crate) fn annotation(&self, node: &str, suffix: &str) -> Option<String> {
        let node = self.node(node);
        let name = format!("flannel.alpha.coreos.com/{suffix}");
        node["metadata"]["annotations"][&name].as_str().map(str::to_owned)
    }

    pub(crate) fn compact(&self) {
        self.shared.store().compact();
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
