//! What the rules do to packets.
//!
//! ```text
//! pod 10.244.1.2 -- c1 [host 1: 10.168.0.2] u1 -- b0 10.168.0.1 [outside]
//!                                                  |
//!                      [host 2: 10.168.0.3] u2 ----+
//! ```

use std::process::{Child, Command};
use std::time::Duration;

use crate::host::{Daemon, Host, Leases, Switch};
use crate::{CONFIG, CONFIG_NFT, FLAGS, needs_netfilter, stop};

/// A new connection each time, so that each meets the rules.
const NEW_FLOWS: &str = "
import socket, sys
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.sendto(b'x', (sys.argv[1], 9))
        except OSError:
            pass
";

/// A pod of its own namespace behind `c1`.
struct Pod {
    namespace: String,
}

impl Pod {
    fn behind(host: &Host) -> Self {
        let pod = Self { namespace: format!("{}-pod", host.namespace) };
        for words in [
            &["ip", "netns", "add", &pod.namespace][..],
            &["ip", "-n", &host.namespace, "link", "set", "c1x", "netns", &pod.namespace],
        ] {
            assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
        }
        pod.run("ip address add 10.244.1.2/24 dev c1x && ip link set c1x up");
        pod.run("ip route add default via 10.244.1.1");
        host.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
        pod
    }

    fn run(&self, script: &str) -> String {
        within(&self.namespace, script)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

fn within(namespace: &str, script: &str) -> String {
    let output =
        Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Counts what arrives in a namespace from a source.
fn count(namespace: &str, source: &str) {
    let script = format!(
        "nft 'add table ip watch; add chain ip watch arrivals {{ type filter hook prerouting \
         priority -400; }}; add counter ip watch seen; add rule ip watch arrivals {source} counter name seen'"
    );
    within(namespace, &script);
}

fn counted(namespace: &str) -> u64 {
    let text = within(namespace, "nft reset counter ip watch seen && nft delete table ip watch");
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

/// Kills its flows when dropped.
struct Flows(Child);

impl Flows {
    fn from(pod: &Pod, to: &str) -> Self {
        let words = ["netns", "exec", &pod.namespace, "python3", "-c", NEW_FLOWS, to];
        Self(Command::new("ip").args(words).spawn().unwrap())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seen(at: &str, source: &str, act: impl FnOnce()) {
    count(at, &format!("ip saddr {source}"));
    act();
    assert!(counted(at) > 0, "nothing from {source} came to {at}");
}

#[test]
fn sources_are_those_of_flannel() {
    needs_netfilter!();
    let kinds = ["udp", "vxlan", "host-gw"].into_iter();
    for (kind, nftables) in kinds.flat_map(|kind| [(kind, false), (kind, true)]) {
        let leases = Leases::new(&format!(
            r#"{{"Network":"10.244.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"{kind}"}}}}"#
        ));
        let switch = Switch::new();
        let (left, right) = (Host::at(&switch, &leases, 1), Host::at(&switch, &leases, 2));
        let pod = Pod::behind(&left);
        let mut one = left.start(&FLAGS);
        let mut two = right.start(&["--iface=u2", "--ip-masq"]);
        for daemon in [&mut one, &mut two] {
            daemon.wait_until("joined", |daemon| {
                let status = daemon.ask("status");
                status["peers"] == 1 && status["problems"] == serde_json::json!([])
            });
        }
        let ping = |namespace: &str, words: &str| {
            within(namespace, &format!("ping -c 2 -i 0.05 -W 2 {words}"));
        };
        // Pod to outside: this host's address.
        seen(&switch.namespace, "10.168.0.2", || ping(&pod.namespace, "10.168.0.1"));
        // Pod to another host's own address, too.
        seen(&right.namespace, "10.168.0.2 ip daddr 10.168.0.3 icmp type echo-request", || {
            ping(&pod.namespace, "10.168.0.3");
        });
        // Pod to pod: its own.
        seen(&right.namespace, "10.244.1.2", || ping(&pod.namespace, "10.244.2.1"));
        // Host to pod, whatever the host's address: that of the device that it leaves by.
        let of_device = if kind == "host-gw" { "10.168.0.2" } else { "10.244.1.0" };
        seen(&right.namespace, of_device, || {
            ping(&left.namespace, "-I 10.168.0.2 10.244.2.1");
        });
        // Host to its own pod: its own.
        seen(&pod.namespace, "10.168.0.2", || ping(&left.namespace, "-I 10.168.0.2 10.244.1.2"));
        // Outside to pod: its own.
        within(&switch.namespace, "ip route add 10.244.1.0/24 via 10.168.0.2");
        seen(&pod.namespace, "10.168.0.1", || ping(&switch.namespace, "10.244.1.2"));
    }
}

#[test]
fn no_packet_leaves_unmasqueraded_while_rules_change() {
    needs_netfilter!();
    for config in [CONFIG, CONFIG_NFT] {
        let leases = Leases::new(config);
        let switch = Switch::new();
        let host = Host::at(&switch, &leases, 1);
        let pod = Pod::behind(&host);
        let start = |more: &[&str]| host.start(&[&FLAGS[..], more].concat());
        let mut daemon: Daemon<'_> = start(&[]);
        let flows = Flows::from(&pod, "10.168.0.1");
        seen(&switch.namespace, "10.168.0.2 udp dport 9", || {
            std::thread::sleep(Duration::from_millis(500));
        });
        count(&switch.namespace, "ip saddr 10.244.0.0/16");
        for round in 0..6 {
            if round % 2 == 0 {
                daemon.signal("KILL");
                daemon.end();
            } else {
                stop(daemon);
            }
            // Another form each time, so that the chains have to be filled anew.
            let more: &[&str] =
                if round % 2 == 0 { &["--ip-masq-fully-random-disable"] } else { &[] };
            daemon = start(more);
        }
        // And with the other kind of rules, there and back.
        let other = if config == CONFIG { CONFIG_NFT } else { CONFIG };
        for (config, mark) in [(other, "other"), (config, "same")] {
            leases.write_config(config);
            let is_nft = config == CONFIG_NFT;
            daemon.wait_until(mark, |_| {
                let rules = host.run(&["nft", "list", "ruleset"]);
                rules.contains("flannel-ipv4") == is_nft && rules.contains("FLANNEL") != is_nft
            });
        }
        drop(flows);
        assert_eq!(counted(&switch.namespace), 0, "packets left with a pod's address");
    }
}
