//! A kernel, a process and a host that lack something. The version of the kernel is imitated here by
//! another text in `/proc`; `machine.rs` has a kernel that is old.

use std::fs;

use crate::host::{Host, Leases, can_run};
use crate::{CONFIG, Examined, examine, lacks};

const REFUSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctor/refuse.py");

/// A host whose pods' bridge is as it should be.
fn host() -> Host {
    let host = Host::alone(&Leases::new(CONFIG));
    host.forward();
    fs::write(
        host.subnet_file(),
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1472\n",
    )
    .unwrap();
    host.run(&["ip", "link", "delete", "c1"]);
    host.run(&["ip", "link", "add", "cni0", "mtu", "1472", "type", "bridge"]);
    host.run(&["ip", "address", "add", "10.244.1.1/24", "dev", "cni0"]);
    host
}

/// `weft doctor` where these commands were run before, in a mount namespace of its own.
fn examine_after(host: &Host, commands: &str) -> Examined {
    let line = format!("{commands} && exec \"$@\"");
    examine(host, &["unshare", "--mount", "sh", "-e", "-c", &line, "sh"])
}

#[test]
fn what_the_kernel_lacks_is_named() {
    if !can_run() {
        return;
    }
    let host = host();
    let well = examine(&host, &[]);
    assert!(!well.has("io_uring") && !well.has("udp-gso") && !well.has("kernel"));
    examine(&host, &[REFUSE, "io_uring"]).expect("warning", "io_uring", "Operation not permitted");
    examine(&host, &[REFUSE, "trains"]).expect("warning", "udp-gso", "UDP_SEGMENT");
    let old = host.file("osrelease");
    fs::write(&old, "6.1.0-injected\n").unwrap();
    let hide = format!("mount --bind {old} /proc/sys/kernel/osrelease");
    examine_after(&host, &hide).expect("note", "kernel", "Linux 6.1.");
}

#[test]
fn what_a_daemon_does_without_is_named() {
    if !can_run() || lacks("setpriv") {
        return;
    }
    let leases = Leases::new(
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "udp", "SourcePorts": 4}}"#,
    );
    let host = Host::alone(&leases);
    let no_bpf = "-bpf,-sys_admin";
    let starter = ["setpriv", "--bounding-set", no_bpf, "--inh-caps", no_bpf, REFUSE, "io_uring"];
    let flags = ["--iface=u1", "--workers=2", "--without=tun-uso,udp-gro"];
    let mut daemon = host.spawn_by(&starter, &flags);
    daemon.wait_until("ready", |daemon| daemon.ask("status")["ready"] == true);
    let found = examine(&host, &[]);
    found.expect("warning", "io_uring", "refuses io_uring");
    found.expect("warning", "offloads", "tun-uso");
    found.expect("warning", "workers", "fewer workers than asked for");
    drop(daemon);
    leases.write_config(CONFIG);
    let _daemon = host.start(&["--iface=u1", "--workers=2"]);
    examine(&host, &[]).expect("warning", "workers", "SourcePorts");
}

#[test]
fn what_netfilter_lacks_is_named() {
    if !can_run() || lacks("nft") {
        return;
    }
    let host = host();
    let hide = |names: &[&str]| {
        let hide = |name: &&str| format!("mount --bind /dev/null $(command -v {name})");
        names.iter().map(hide).collect::<Vec<_>>().join("; ")
    };
    let path = "PATH=$PATH:/usr/sbin:/sbin";
    let none = examine_after(&host, &format!("{path}; {}", hide(&["nft", "iptables"])));
    none.expect("warning", "iptables", "Neither iptables nor nft");
    none.expect("note", "firewall", "not read");
    let one = examine_after(&host, &format!("{path}; {}", hide(&["iptables"])));
    assert!(!one.has("iptables"), "nft is enough: {:#?}", one.findings);
    let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if !std::path::Path::new(switch).exists() {
        println!("SKIPPED: a part of the test of br_netfilter needs that module");
        return;
    }
    host.run(&["sh", "-c", &format!("echo 1 > {switch}")]);
    assert!(!examine(&host, &[]).has("br_netfilter"));
    host.run(&["sh", "-c", &format!("echo 0 > {switch}")]);
    examine(&host, &[]).expect("warning", "br_netfilter", "bridge-nf-call-iptables is 0");
    let unloaded = examine_after(&host, "mount -t tmpfs none /proc/sys/net/bridge");
    unloaded.expect("warning", "br_netfilter", "not loaded");
}

#[test]
fn what_is_left_of_another_network_is_named() {
    if !can_run() {
        return;
    }
    let host = host();
    host.run(&["ip", "link", "set", "cni0", "mtu", "1400"]);
    examine(&host, &[]).expect("note", "mtu-bridge", "cni0 has an MTU of 1400");
    // A directory of its own for every file of `/etc`.
    let other = "mkdir /run/weft-upper; mount -t tmpfs none /run/weft-upper; \
                 cd /run/weft-upper; mkdir upper work; mount -t overlay \
                 -o lowerdir=/etc,upperdir=upper,workdir=work none /etc; \
                 mkdir -p /etc/cni/net.d; cd /etc/cni/net.d; rm -f *; \
                 touch 10-flannel.conflist";
    let run = "mount -t tmpfs none /run";
    let right = examine_after(&host, &format!("{run}; {other}"));
    assert!(!right.has("cni"), "{:#?}", right.findings);
    let wrong = examine_after(&host, &format!("{run}; {other} 05-other.conf"));
    wrong.expect("warning", "cni", "05-other.conf, which comes before 10-flannel.conflist");
}

/// A daemon under flanneld's name is no stranger to itself, and a second one is.
#[test]
fn another_daemon_beside_ours_is_named() {
    if !can_run() {
        return;
    }
    let host = host();
    let daemon = host.start(&["--iface=u1"]);
    assert!(!examine(&host, &[]).has("other-daemon"));
    let other = host.file("calico-node");
    fs::copy("/bin/sleep", &other).unwrap();
    let _other = host.beside(&[&other, "60"]);
    examine(&host, &[]).expect("error", "other-daemon", "calico-node runs");
    drop(daemon);
}
