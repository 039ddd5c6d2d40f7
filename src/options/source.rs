//! Where leases are kept: a directory, else etcd, as with flanneld.

use std::path::PathBuf;

use weft_ctrl::source::SourceOptions;
use weft_ctrl::source::etcd::{Credentials, Endpoints, EtcdOptions, Secret, TlsFiles};

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

/// Flags that were set and change nothing, because `--lease-dir` chose another source.
pub fn unused(flags: &Flags) -> Vec<&'static str> {
    if flags.text("lease-dir").is_empty() {
        return Vec::new();
    }
    ETCD.iter().copied().filter(|name| flags.origin(name).is_some()).collect()
}

/// What is worth a warning about the source, though it can be used.
pub fn remarks(flags: &Flags) -> Vec<String> {
    let mut remarks = Vec::new();
    if !flags.text("lease-dir").is_empty() {
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
    pub(super) fn source(&mut self) -> Option<SourceOptions> {
        let directory = self.flags.text("lease-dir");
        if !directory.is_empty() {
            return Some(SourceOptions::Directory(directory.into()));
        }
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
        Some(SourceOptions::Etcd(Box::new(options)))
    }
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
