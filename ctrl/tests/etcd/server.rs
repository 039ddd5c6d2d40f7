//! Real etcd servers on loopback or in namespaces, for tests.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Bounds a start against a hang; it mostly takes less than a second.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// One member. It is killed, and what it stored removed, when this is dropped.
pub(crate) struct EtcdServer {
    child: Option<Child>,
    place: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    /// What `etcdctl` needs besides the address.
    pub(crate) client: Vec<String>,
    /// Put before every command, such as `ip netns exec NAME`.
    prefix: Vec<String>,
    /// Which of the data directories is in use; a restored one is another.
    generation: u32,
}

/// Whether there is an etcd to test with. Says loudly if not.
pub(crate) fn can_run_etcd() -> bool {
    let there = |program| Command::new(program).arg("--version").output().is_ok();
    let both = there("etcd") && there("etcdctl");
    if !both {
        let text = "SKIPPED: etcd is not installed (Debian: etcd-server, etcd-client)\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    both
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl EtcdServer {
    /// A cluster of one, up and serving.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Self {
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut server =
            Self::new(&format!("m0={peer}"), 0, &peer, ("127.0.0.1", free_port()), vec![]);
        server.arguments.extend(more.iter().map(|word| (*word).to_owned()));
        server.run();
        server.wait();
        server
    }

    /// With TLS on the client port; `files` are CA, certificate and key, of which the certificate serves
    /// for both sides.
    pub(crate) fn start_encrypted(files: [&str; 3], ask_for_certificates: bool) -> Self {
        let peer = format!("http://127.0.0.1:{}", free_port());
        Self::new(&format!("m0={peer}"), 0, &peer, ("127.0.0.1", free_port()), vec![])
            .encrypted(files, ask_for_certificates)
    }

    /// The same inside a namespace, at `address` and the port 2379.
    pub(crate) fn start_encrypted_in(
        namespace: &str,
        address: &str,
        files: [&str; 3],
        ask_for_certificates: bool,
    ) -> Self {
        Self::one_in(namespace, address).encrypted(files, ask_for_certificates)
    }

    /// A cluster of one inside a namespace with more arguments.
    pub(crate) fn start_in_with(namespace: &str, address: &str, more: &[&str]) -> Self {
        let mut server = Self::one_in(namespace, address);
        server.arguments.extend(more.iter().map(|word| (*word).to_owned()));
        server.run();
        server.wait();
        server
    }

    fn one_in(namespace: &str, address: &str) -> Self {
        let prefix: Vec<String> = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        let peer = "http://127.0.0.1:2380";
        Self::new(&format!("m0={peer}"), 0, peer, (address, 2379), prefix)
    }

    fn encrypted(mut self, files: [&str; 3], ask_for_certificates: bool) -> Self {
        let plain = self.url();
        let url = plain.replace("http:", "https:");
        for word in &mut self.arguments {
            *word = word.replace(&plain, &url);
        }
        self.client = vec![format!("--endpoints={url}")];
        let [authority, certificate, key] = files;
        let flags = [("--cert-file", certificate), ("--key-file", key)];
        self.arguments.extend(flags.map(|(flag, file)| format!("{flag}={file}")));
        if ask_for_certificates {
            self.arguments.push(format!("--trusted-ca-file={authority}"));
            self.arguments.push("--client-cert-auth".to_owned());
        }
        let flags = [("--cacert", authority), ("--cert", certificate), ("--key", key)];
        self.client.extend(flags.map(|(flag, file)| format!("{flag}={file}")));
        self.run();
        self.wait();
        self
    }

    /// From now on only users may ask: `root` with the password `rootpw`, who also is the one to ask
    /// through this, and `node` with `s3cret` for the keys below `prefix`. `stranger` may do nothing.
    pub(crate) fn enable_users(&mut self, prefix: &str) {
        for words in [
            &["user", "add", "root:rootpw"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "flannel"],
            &["role", "grant-permission", "flannel", "readwrite", "--prefix=true", prefix],
            &["user", "add", "node:s3cret"],
            &["user", "grant-role", "node", "flannel"],
            &["user", "add", "stranger:x"],
            &["auth", "enable"],
        ] {
            self.ctl(words);
        }
        self.client.push("--user=root:rootpw".into());
    }

    /// Members of one cluster, all up.
    pub(crate) fn start_cluster(count: usize) -> Vec<Self> {
        let peers: Vec<String> =
            (0..count).map(|_| format!("http://127.0.0.1:{}", free_port())).collect();
        let all: Vec<String> =
            peers.iter().enumerate().map(|(index, peer)| format!("m{index}={peer}")).collect();
        let mut members: Vec<Self> = peers
            .iter()
            .enumerate()
            .map(|(index, peer)| {
                Self::new(&all.join(","), index, peer, ("127.0.0.1", free_port()), vec![])
            })
            .collect();
        members.iter_mut().for_each(Self::run);
        members.iter().for_each(Self::wait);
        members
    }

    /// A cluster inside a namespace, at `address` and the ports 2379, 2479 and so on.
    pub(crate) fn start_in(namespace: &str, address: &str, count: u16) -> Vec<Self> {
        let prefix: Vec<String> = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        let peers: Vec<String> =
            (0..count).map(|index| format!("http://127.0.0.1:{}", 2380 + 100 * index)).collect();
        let all: Vec<String> =
            peers.iter().enumerate().map(|(index, peer)| format!("m{index}={peer}")).collect();
        let member = |(index, peer): (usize, &String)| {
            let port = 2379 + 100 * u16::try_from(index).unwrap();
            Self::new(&all.join(","), index, peer, (address, port), prefix.clone())
        };
        let mut members: Vec<Self> = peers.iter().enumerate().map(member).collect();
        members.iter_mut().for_each(Self::run);
        members.iter().for_each(Self::wait);
        members
    }

    fn new(
        cluster: &str,
        index: usize,
        peer: &str,
        (address, port): (&str, u16),
        prefix: Vec<String>,
    ) -> Self {
        let url = format!("http://{address}:{port}");
        let arguments = vec![
            format!("--name=m{index}"),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
            "--logger=zap".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let place = tempfile::tempdir().unwrap();
        let client = vec![format!("--endpoints={url}")];
        Self { child: None, place, port, arguments, client, prefix, generation: 0 }
    }

    pub(crate) fn url(&self) -> String {
        let url = self.arguments.iter().find(|word| word.starts_with("--listen-client-urls="));
        url.unwrap().split_once('=').unwrap().1.to_owned()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn command(&self, words: &[&str]) -> Command {
        let all: Vec<&str> =
            self.prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).env("ETCDCTL_API", "3");
        command
    }

    fn data(&self) -> String {
        self.place.path().join(format!("data{}", self.generation)).to_str().unwrap().to_owned()
    }

    /// Starts the program.
    pub(crate) fn run(&mut self) {
        let data = format!("--data-dir={}", self.data());
        let mut words = vec!["etcd", &data];
        words.extend(self.arguments.iter().map(String::as_str));
        let mut command = self.command(&words);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.unwrap());
    }

    /// Waits until it serves.
    pub(crate) fn wait(&self) {
        let end = Instant::now() + START_TIME_MAX;
        while !self.try_ctl(&["endpoint", "status"]).0 {
            assert!(
                Instant::now() < end,
                "etcd does not start: {:?}",
                self.try_ctl(&["endpoint", "status"])
            );
            sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Kills it; what it has stored stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.run();
        self.wait();
    }

    /// Saves a snapshot of the store into a file.
    pub(crate) fn save(&self) -> String {
        let file = self.place.path().join("snapshot").to_str().unwrap().to_owned();
        self.ctl(&["snapshot", "save", &file]);
        file
    }

    /// Starts again from a snapshot.
    pub(crate) fn restore(&mut self, file: &str) {
        self.kill();
        self.generation += 1;
        let data = self.data();
        let argument = |name: &str| {
            let found = self.arguments.iter().find_map(|word| word.strip_prefix(name)).unwrap();
            format!("{name}{found}")
        };
        self.ctl(&[
            "snapshot",
            "restore",
            file,
            "--data-dir",
            &data,
            &argument("--name="),
            &argument("--initial-cluster="),
            &argument("--initial-advertise-peer-urls="),
        ]);
        self.run();
        self.wait();
    }

    fn try_ctl(&self, words: &[&str]) -> (bool, String) {
        let mut all = vec!["etcdctl", "--command-timeout=20s"];
        all.extend(self.client.iter().map(String::as_str));
        all.extend(words);
        let output = self.command(&all).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What `etcdctl` prints.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let (success, text) = self.try_ctl(words);
        assert!(success, "etcdctl {words:?}: {text}");
        text
    }

    /// A key's value, without the newline that `etcdctl` adds.
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let text = self.ctl(&["get", "--print-value-only", key]);
        text.strip_suffix('\n').map(str::to_owned)
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The seconds that a key's lease was granted for; `None` if it has none.
    pub(crate) fn granted(&self, key: &str) -> Option<u64> {
        let answer: serde_json::Value =
            serde_json::from_str(&self.ctl(&["get", "--write-out=json", key])).unwrap();
        let lease = answer["kvs"][0]["lease"].as_i64().filter(|lease| *lease != 0)?;
        let text = self.ctl(&["lease", "timetolive", "--write-out=json", &format!("{lease:x}")]);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["granted-ttl"].as_u64().or(answer["grantedTTL"].as_u64())
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}
