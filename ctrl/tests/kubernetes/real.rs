//! The kube-apiserver of Kubernetes, with an etcd of its own, as `scripts/apiserver` installs it. There
//! is no kubelet and no controller: nodes are made by the test, and nothing is scheduled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::certificates::certificates;
use super::cluster::{Cluster, FLANNELS_RIGHTS, NODES, has_kubectl, kubeconfig};
use super::server::{EtcdServer, can_run_etcd, free_port};

/// Bounds a start against a hang; it takes less than ten seconds.
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// The user that has the daemon's token.
const USER: &str = "system:serviceaccount:kube-flannel:flannel";

/// The server. It is killed, and everything removed, when this is dropped.
pub(crate) struct KubeApiServer {
    child: Option<Child>,
    etcd: EtcdServer,
    /// The keys of service accounts, tokens, the administrator's kubeconfig, and the log.
    place: tempfile::TempDir,
    /// CA, certificate and key.
    files: [String; 3],
    address: String,
    port: u16,
    /// Put before every command, such as `ip netns exec NAME`.
    prefix: Vec<String>,
    /// Watches are answered from its own memory, as always, and not from etcd.
    has_memory: bool,
}

/// The program, where it is installed.
fn find() -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().nth(3).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([target.join("tools/bin")]);
    places.map(|place| place.join("kube-apiserver")).find(|file| file.is_file())
}

impl KubeApiServer {
    fn file(&self, name: &str) -> String {
        self.place.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("HOME", self.place.path());
        command
    }

    fn arguments(&self) -> Vec<String> {
        let [_, certificate, key] = &self.files;
        let accounts = |name: &str| self.file(&format!("accounts/{name}"));
        let pairs = [
            ("etcd-servers", self.etcd.url()),
            ("bind-address", self.address.clone()),
            ("advertise-address", self.address.clone()),
            ("secure-port", self.port.to_string()),
            ("cert-dir", self.file("made")),
            ("tls-cert-file", certificate.clone()),
            ("tls-private-key-file", key.clone()),
            ("token-auth-file", self.file("tokens")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-signing-key-file", accounts("key.pem")),
            ("service-account-key-file", accounts("certificate.pem")),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("watch-cache", self.has_memory.to_string()),
            ("feature-gates", "IPv6DualStack=true".to_owned()),
            // A pod can be made without the controllers that give it its account.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        pairs.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }

    fn wait(&mut self) {
        let end = Instant::now() + START_TIME_MAX;
        while !self.try_kubectl(&["get", "--raw", "/readyz"], None).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = || std::fs::read_to_string(self.file("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", log());
            sleep(Duration::from_millis(100));
        }
    }

    fn try_kubectl(&self, words: &[&str], input: Option<&Value>) -> Output {
        let mut command = self.command("kubectl");
        command.args(words).arg("--kubeconfig").arg(self.administrator());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        if let Some(input) = input {
            pipe.write_all(input.to_string().as_bytes()).unwrap();
        }
        drop(pipe);
        child.wait_with_output().unwrap()
    }

    /// What `kubectl` prints.
    pub(crate) fn kubectl_with(&self, words: &[&str], input: Option<&Value>) -> String {
        let output = self.try_kubectl(words, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts again, and from now on leaves it to etcd what a watch can be told.
    pub(crate) fn forgo_memory(&mut self) {
        self.has_memory = false;
        self.restart();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The kubeconfig of somebody with every right.
    pub(crate) fn administrator(&self) -> String {
        self.file("administrator")
    }

    /// A token of a service account, as a kubelet asks for one.
    pub(crate) fn token_of(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {},
        });
        let answer = self.kubectl_with(&["create", "--raw", &path, "-f", "-"], Some(&request));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Gives the user of the daemon's token the rights of flannel's service account.
    fn grant(&self) {
        let rule = |(verb, resource): &(&str, &str)| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]});
        let rules: Vec<Value> = FLANNELS_RIGHTS.iter().map(rule).collect();
        let group = "rbac.authorization.k8s.io";
        let (version, metadata) = (format!("{group}/v1"), json!({"name": "flannel"}));
        let collection = |plural: &str| format!("/apis/{version}/{plural}");
        let role = json!({
            "kind": "ClusterRole", "apiVersion": version, "metadata": metadata, "rules": rules,
        });
        self.add(&collection("clusterroles"), role);
        let binding = json!({
            "kind": "ClusterRoleBinding", "apiVersion": version, "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "flannel"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": USER}],
        });
        self.add(&collection("clusterrolebindings"), binding);
    }
}

fn etcd(namespace: Option<&str>) -> EtcdServer {
    match namespace {
        None => EtcdServer::start(),
        Some(namespace) => EtcdServer::start_in_with(namespace, "127.0.0.1", &[]),
    }
}

impl Cluster for KubeApiServer {
    fn can_run() -> bool {
        let is_there = find().is_some() && has_kubectl();
        if !is_there {
            let text =
                "SKIPPED: a test with the real kube-apiserver, which scripts/apiserver builds\n";
            std::io::stderr().write_all(text.as_bytes()).unwrap();
        }
        is_there && can_run_etcd()
    }

    fn start_for(token: &str, namespace: Option<&str>, address: &str, files: [String; 3]) -> Self {
        let (address, port) = address.rsplit_once(':').unwrap();
        let port = Some(port.parse().unwrap()).filter(|port| *port != 0).unwrap_or_else(free_port);
        let words = |namespace| ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        let mut server = Self {
            child: None,
            etcd: etcd(namespace),
            place: tempfile::tempdir().unwrap(),
            files,
            address: address.to_owned(),
            port,
            prefix: namespace.map(words).unwrap_or_default(),
            has_memory: true,
        };
        let accounts = server.file("accounts");
        std::fs::create_dir(&accounts).unwrap();
        certificates(Path::new(&accounts), address);
        let user = json!({"token": "administrator"});
        let text = kubeconfig(&server.url(), &server.files[0], &user);
        std::fs::write(server.administrator(), text).unwrap();
        server.accept(token);
        server.run();
        server.grant();
        server
    }

    fn accept(&mut self, token: &str) {
        let administrator = r#"administrator,administrator,0,"system:masters""#;
        let tokens = format!("{administrator}\n{token},{USER},1\n");
        std::fs::write(self.file("tokens"), tokens).unwrap();
    }

    fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    fn run(&mut self) {
        let program = find().unwrap();
        let log = std::fs::File::create(self.file("log")).unwrap();
        let mut command = self.command(program.to_str().unwrap());
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.wait();
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn compact(&self) {
        let status = self.etcd.ctl(&["endpoint", "status", "--write-out=json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        self.etcd.ctl(&["compact", &revision]);
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.kubectl_with(words, None)
    }

    fn add(&self, collection: &str, object: Value) {
        self.kubectl_with(&["create", "--raw", collection, "-f", "-"], Some(&object));
    }

    fn object(&self, collection: &str, name: &str) -> Option<Value> {
        let path = format!("{collection}/{name}");
        let output = self.try_kubectl(&["get", "--raw", &path], None);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn node_names(&self) -> Vec<String> {
        let text = self.kubectl(&["get", "nodes", "--output", "name"]);
        text.lines().filter_map(|line| line.strip_prefix("node/")).map(str::to_owned).collect()
    }

    fn delete_node(&self, name: &str) {
        self.kubectl(&["delete", "--raw", &format!("{NODES}/{name}")]);
    }

    fn annotate(&self, node: &str, annotations: &Value) {
        let patch = json!({"metadata": {"annotations": annotations}}).to_string();
        self.kubectl(&["patch", "node", node, "--type=merge", "--patch", &patch]);
    }
}

impl Drop for KubeApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}
