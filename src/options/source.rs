//! Where leases are kept: a directory, else Kubernetes, else etcd.

use std::path::{Path, PathBuf};

use weft_ctrl::source::SourceOptions;
use weft_ctrl::source::etcd::{Credentials, Endpoints, EtcdOptions, Secret, TlsFiles};
use weft_ctrl::source::kubernetes::{Access, KubernetesOptions, NodeName, Patience};

use super::Checker;
use crate::flags::Flags;

/// Flags of the etcd source.
const ETCD: &[&str] = &[
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
];

/// Flags of the Kubernetes source.
const KUBERNETES: &[&str] = &[
    "kube-subnet-mgr",
    "kube-api-url",
    "kubeconfig-file",
    "kube-annotation-prefix",
    "net-config-path",
    "set-node-network-unavailable",
];

/// Which source is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Directory,
    Kubernetes,
    Etcd,
}

fn chosen(flags: &Flags) -> Chosen {
    if !flags.text("lease-dir").is_empty() {
        Chosen::Directory
    } else if flags.boolean("kube-subnet-mgr") {
        Chosen::Kubernetes
    } else {
        Chosen::Etcd
    }
}

/// Flags that were set and change nothing, because they are for another source than the chosen one.
pub fn unused(flags: &Flags) -> Vec<&'static str> {
    let others: &[&[&str]] = match chosen(flags) {
        Chosen::Directory => &[ETCD, KUBERNETES],
        Chosen::Kubernetes => &[ETCD],
        Chosen::Etcd => &[KUBERNETES],
    };
    let is_set = |name: &&str| flags.origin(name).is_some();
    others.iter().flat_map(|names| names.iter()).copied().filter(is_set).collect()
}

/// What is worth a warning about the source, though it can be used.
pub fn remarks(flags: &Flags) -> Vec<String> {
    let mut remarks = Vec::new();
    if chosen(flags) != Chosen::Etcd {
        return remarks;
    }
    let files = tls_files(flags);
    let Ok(endpoints) = Endpoints::parse(flags.text("etcd-endpoints"), is_encrypted(&files)) else {
        return remarks;
    };
    if endpoints.had_credentials {
        remarks.push(
            "--etcd-endpoints has a user and a password, which are ignored: etcd wants them as \
             --etcd-username and --etcd-password"
                .to_owned(),
        );
    }
    if is_encrypted(&files) && endpoints.servers.iter().any(|server| !server.is_encrypted()) {
        remarks.push(
            "--etcd-endpoints has http:// servers, and traffic to them is not encrypted whatever \
             --etcd-cafile and its like say"
                .to_owned(),
        );
    }
    remarks
}

impl Checker<'_> {
    /// `None` after a mistake.
    pub(super) fn source(&mut self, state_directory: &Path) -> Option<SourceOptions> {
        match chosen(self.flags) {
            Chosen::Directory => {
                Some(SourceOptions::Directory(self.flags.text("lease-dir").into()))
            }
            Chosen::Kubernetes => {
                let options = self.kubernetes(state_directory)?;
                Some(SourceOptions::Kubernetes(Box::new(options)))
            }
            Chosen::Etcd => Some(SourceOptions::Etcd(Box::new(self.etcd()?))),
        }
    }

    fn kubernetes(&mut self, state_directory: &Path) -> Option<KubernetesOptions> {
        let flags = self.flags;
        let given = |name: &str| Some(flags.text(name)).filter(|text| !text.is_empty());
        let url = given("kube-api-url").map(str::to_owned);
        if let Some(url) = url.as_ref().filter(|url| !is_http(url)) {
            self.mistake(format!(
                "--kube-api-url is {url:?}; it must begin with https:// or http://"
            ));
        }
        let prefix = flags.text("kube-annotation-prefix").parse();
        if let Err(error) = &prefix {
            self.mistake(format!("--kube-annotation-prefix: {error}"));
        }
        let node = node_name(flags);
        if node.is_none() {
            self.mistake(
                "--kube-subnet-mgr needs the name of this node: set NODE_NAME in the environment, or \
                 POD_NAME and POD_NAMESPACE, as flannel's DaemonSet does"
                    .to_owned(),
            );
        }
        Some(KubernetesOptions {
            access: Access {
                url,
                kubeconfig: given("kubeconfig-file").map(PathBuf::from),
                service: service(flags),
            },
            node: node?,
            prefix: prefix.ok()?,
            config: flags.text("net-config-path").into(),
            sets_condition: flags.boolean("set-node-network-unavailable"),
            state_directory: state_directory.to_owned(),
            patience: Patience::default(),
        })
    }

    fn etcd(&mut self) -> Option<EtcdOptions> {
        let tls = tls_files(self.flags);
        let half = tls.client.is_none()
            && ["etcd-certfile", "etcd-keyfile"]
                .iter()
                .any(|name| !self.flags.text(name).is_empty());
        if half {
            self.mistake("--etcd-certfile and --etcd-keyfile are of use only together".to_owned());
        }
        let user = self.flags.text("etcd-username");
        let password = self.flags.text("etcd-password");
        if user.is_empty() && !password.is_empty() {
            self.mistake("--etcd-password needs --etcd-username".to_owned());
        }
        let list = self.flags.text("etcd-endpoints");
        let endpoints = match Endpoints::parse(list, is_encrypted(&tls)) {
            Ok(endpoints) => endpoints.servers,
            Err(error) => {
                self.mistake(format!("--etcd-endpoints: {error}"));
                return None;
            }
        };
        let mut options = EtcdOptions::new(endpoints, self.flags.text("etcd-prefix"));
        options.tls = tls;
        options.credentials = (!user.is_empty())
            .then(|| Credentials { user: user.to_owned(), password: Secret::new(password) });
        Some(options)
    }
}

fn is_http(url: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
}

fn node_name(flags: &Flags) -> Option<NodeName> {
    if let Some(name) = flags.surrounding("NODE_NAME") {
        return Some(NodeName::Known(name.to_owned()));
    }
    let pod = flags.surrounding("POD_NAME")?.to_owned();
    let namespace = flags.surrounding("POD_NAMESPACE")?.to_owned();
    Some(NodeName::OfPod { namespace, pod })
}

/// The address of the service `kubernetes`, as every pod is told it.
fn service(flags: &Flags) -> Option<String> {
    let host = flags.surrounding("KUBERNETES_SERVICE_HOST")?;
    let port = flags.surrounding("KUBERNETES_SERVICE_PORT")?;
    let is_bare_v6 = host.contains(':') && !host.starts_with('[');
    Some(match is_bare_v6 {
        true => format!("https://[{host}]:{port}"),
        false => format!("https://{host}:{port}"),
    })
}

fn tls_files(flags: &Flags) -> TlsFiles {
    let file =
        |name: &str| Some(flags.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    TlsFiles {
        authority: file("etcd-cafile"),
        client: file("etcd-certfile").zip(file("etcd-keyfile")),
    }
}

/// What an endpoint without a scheme means.
fn is_encrypted(files: &TlsFiles) -> bool {
    files.authority.is_some() || files.client.is_some()
}
