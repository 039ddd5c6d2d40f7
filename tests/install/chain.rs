//! Debian's CNI plugins, driven as flannel's plugin drives them, put pods onto two hosts that weft joins.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::host::{Host, Leases, Pair, can_run};
use crate::manifests::object;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The port of the host that leads to a pod, and the pod's.
const PORTS: (u16, u16) = (8088, 80);

/// Which of its two forms flannel's plugin gives the addresses in.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// `ipam.ranges`, of today.
    Ranges,
    /// `ipam.subnet`, of older versions.
    Subnet,
}

/// A pod: a namespace that the plugins have put on a host's bridge.
struct Pod<'a> {
    host: &'a Host,
    name: String,
    conflist: Value,
    delegate: Value,
    address: String,
}

impl<'a> Pod<'a> {
    fn start(host: &'a Host, form: Form) -> Self {
        let name = format!("{}-pod", host.namespace);
        let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
        assert!(made.success());
        run_in(&name, &["ip", "link", "set", "lo", "up"]);
        let config = object("ConfigMap");
        let conflist: Value =
            serde_json::from_str(config["data"]["cni-conf.json"].as_str().unwrap()).unwrap();
        let delegate = delegate(host, &conflist, form);
        let mut pod = Self { host, name, conflist, delegate, address: String::new() };
        let bridged = pod.plugin("ADD", &pod.delegate);
        let address = bridged["ips"][0]["address"].as_str().unwrap();
        pod.address = address.split_once('/').unwrap().0.to_owned();
        let mapped = pod.plugin("ADD", &pod.portmap(&bridged));
        assert_eq!(mapped["ips"], bridged["ips"]);
        pod
    }

    /// The second plugin of the list, as a runtime calls it.
    fn portmap(&self, before: &Value) -> Value {
        let mapping = json!({"hostPort": PORTS.0, "containerPort": PORTS.1, "protocol": "tcp"});
        let mut config = self.conflist["plugins"][1].clone();
        config["name"] = self.conflist["name"].clone();
        config["cniVersion"] = self.conflist["cniVersion"].clone();
        config["runtimeConfig"] = json!({"portMappings": [mapping]});
        config["prevResult"] = before.clone();
        config
    }

    /// Runs a plugin on the host; its answer, or null.
    fn plugin(&self, command: &str, config: &Value) -> Value {
        let program = Path::new(PLUGINS).join(config["type"].as_str().unwrap());
        let mut child = self
            .host
            .command(&[program.to_str().unwrap()])
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.name)
            .env("CNI_NETNS", format!("/run/netns/{}", self.name))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command} {config}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn run(&self, words: &[&str]) -> String {
        run_in(&self.name, words)
    }

    fn mtu(&self) -> u64 {
        link(&self.run(&["ip", "-j", "link", "show", "eth0"]))["mtu"].as_u64().unwrap()
    }

    /// A server that says its own address to everybody.
    fn serve(&self) -> Server {
        let script = format!(
            "import socket\ns = socket.create_server(('', {}))\nprint('up', flush=True)\n\
             while True:\n c, _ = s.accept()\n c.sendall(b'{}')\n c.close()",
            PORTS.1, self.address
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "python3", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        Server(child)
    }

    fn stop(self) {
        self.plugin("DEL", &self.portmap(&Value::Null));
        self.plugin("DEL", &self.delegate);
        let ports = self.host.run(&["ls", "/sys/class/net/cni0/brif"]);
        assert_eq!(ports, "", "the pod's device is gone");
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What flannel's plugin hands to the bridge plugin, from its own config and the subnet file.
fn delegate(host: &Host, conflist: &Value, form: Form) -> Value {
    let text = fs::read_to_string(host.subnet_file()).unwrap();
    let variable = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap().to_owned()
    };
    let subnet = variable("FLANNEL_SUBNET").replace(".1/", ".0/");
    let mut ipam = json!({
        "type": "host-local",
        "routes": [{"dst": variable("FLANNEL_NETWORK")}],
        // Only here: otherwise the plugins of both hosts would share a directory.
        "dataDir": host.file("networks"),
    });
    match form {
        Form::Ranges => ipam["ranges"] = json!([[{"subnet": subnet}]]),
        Form::Subnet => ipam["subnet"] = json!(subnet),
    }
    let mut delegate = conflist["plugins"][0]["delegate"].clone();
    delegate["name"] = conflist["name"].clone();
    delegate["cniVersion"] = conflist["cniVersion"].clone();
    delegate["type"] = json!("bridge");
    delegate["isGateway"] = json!(true);
    delegate["ipMasq"] = json!(variable("FLANNEL_IPMASQ") != "true");
    delegate["mtu"] = json!(variable("FLANNEL_MTU").parse::<u32>().unwrap());
    delegate["ipam"] = ipam;
    delegate
}

fn run_in(namespace: &str, words: &[&str]) -> String {
    let mut command = Command::new("ip");
    let output = command.args(["netns", "exec", namespace]).args(words).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn link(text: &str) -> Value {
    serde_json::from_str::<Value>(text).unwrap()[0].clone()
}

/// What somebody who connects is told.
fn answer(to: &str, port: u16) -> [String; 3] {
    let script = format!(
        "import socket\ns = socket.create_connection(('{to}', {port}), 10)\n\
         print(s.recv(100).decode(), end='')"
    );
    ["python3".to_owned(), "-c".to_owned(), script]
}

#[test]
fn pods_of_two_hosts_reach_each_other_through_weft() {
    if !can_run() {
        return;
    }
    if ["bridge", "host-local", "portmap"]
        .iter()
        .any(|name| !Path::new(PLUGINS).join(name).exists())
    {
        println!("SKIPPED: the chain of CNI plugins needs containernetworking-plugins of Debian");
        return;
    }
    for form in [Form::Ranges, Form::Subnet] {
        let leases = Leases::new(r#"{"Network": "10.244.0.0/16"}"#);
        let pair = Pair::new(&leases);
        for host in [&pair.left, &pair.right] {
            // Its address is the bridge's here.
            host.run(&["ip", "link", "delete", "c1"]);
        }
        let mut left = pair.left.start(&["--iface=u1", "--ip-masq"]);
        let mut right = pair.right.start(&["--iface=u2", "--ip-masq"]);
        for daemon in [&mut left, &mut right] {
            daemon.wait_until("joined", |daemon| daemon.ask("status")["peers"] == 1);
        }
        let (near, far) = (Pod::start(&pair.left, form), Pod::start(&pair.right, form));
        check_pods(&near, &far);
        left.check_accounting();
        right.check_accounting();
        near.stop();
        far.stop();
    }
}

fn check_pods(near: &Pod<'_>, far: &Pod<'_>) {
    for pod in [near, far] {
        assert_eq!(pod.mtu(), 1472);
        let bridge = link(&pod.host.run(&["ip", "-j", "-d", "link", "show", "cni0"]));
        assert_eq!(bridge["mtu"], 1472);
        let modes = pod.host.run(&["sh", "-c", "cat /sys/class/net/cni0/brif/*/hairpin_mode"]);
        assert_eq!(modes, "1\n");
    }
    // The largest packet, not to be cut: 1472 bytes less 28 of headers.
    near.run(&[
        "ping",
        "-n",
        "-c",
        "2",
        "-i",
        "0.05",
        "-W",
        "5",
        "-M",
        "do",
        "-s",
        "1444",
        &far.address,
    ]);
    let (_near, _far) = (near.serve(), far.serve());
    let ask = |pod: &Pod<'_>, to: &str, port: u16| {
        pod.run(&answer(to, port).each_ref().map(String::as_str))
    };
    assert_eq!(ask(near, &far.address, PORTS.1), far.address);
    // Through the port of the other host, and through that of its own: the bridge turns it around.
    assert_eq!(ask(near, "10.168.0.3", PORTS.0), far.address);
    assert_eq!(ask(near, "10.168.0.2", PORTS.0), near.address);
}
