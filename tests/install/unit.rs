//! The Debian package on a machine with systemd: installed, configured, started, killed, stopped,
//! upgraded, removed and purged by the programs that an operator uses. The daemon is confined as the unit
//! says, and lacks nothing for it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::host::{Daemon, Leases, Pair, can_run};
use crate::lacks;
use crate::machine::{LEASES, Machine};
use crate::package::{Packed, newer};

const OPTIONS: &str = "--lease-dir=/etc/weft/leases --iface=u1 --ip-masq --workers=2";

/// The backend with room for several workers.
const UDP: &str = r#"{"Type":"udp","SourcePorts":4}"#;

/// `CapabilityBoundingSet=` of the unit as bits (`linux/capability.h`).
const CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 23 | 1 << 39;

#[test]
fn the_package_lives_on_a_machine_with_systemd() {
    if !can_run() || lacks("dpkg-deb", "the test of the unit") || lacks("nsenter", "the same") {
        return;
    }
    let leases = Leases::empty();
    let pair = Pair::new(&leases);
    let Some(machine) = Machine::boot(&pair.left, leases.path()) else { return };
    let packed = Packed::new();
    install(&machine, &packed.package);
    a_first_installation_starts_nothing(&machine);
    a_wrong_option_is_not_tried_again(&machine);
    a_start_waits_for_the_config(&machine, &leases);

    let right = pair.right.start(&["--iface=u2", "--ip-masq", "--workers=2"]);
    the_daemon_is_confined_and_lacks_nothing(&machine, &right);
    drop(right);
    for config in [&sealed(), &with_nft(r#"{"Type":"vxlan"}"#), &config(r#"{"Type":"host-gw"}"#)] {
        leases.write_config(config);
        let right = pair.right.start(&["--iface=u2", "--ip-masq"]);
        machine.run("systemctl restart weft");
        packets_flow(&machine, &right);
    }
    leases.write_config(&config(UDP));
    let right = pair.right.start(&["--iface=u2", "--ip-masq"]);
    machine.run("systemctl restart weft");
    a_killed_daemon_comes_back(&machine);
    a_stop_leaves_lease_and_subnet_file(&machine, &leases);
    a_taken_port_is_waited_for(&machine);
    an_upgrade_restarts_the_daemon(&machine, &newer(&packed));
    a_removal_leaves_the_identity_alone(&machine);
    drop(right);
    assert!(!machine.log().contains("panicked"), "{}", machine.log());
}

/// Copies a package onto the machine and installs it.
fn install(machine: &Machine, package: &Path) {
    fs::copy(package, machine.path("/root/weft.deb")).unwrap();
    // The index of manual pages is made anew by everything that has one, which takes seconds.
    machine.run("dpkg --no-triggers --force-confold --install /root/weft.deb");
}

fn a_first_installation_starts_nothing(machine: &Machine) {
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.text("systemctl is-enabled weft"), "disabled");
    machine.run("systemctl enable weft");
}

fn a_wrong_option_is_not_tried_again(machine: &Machine) {
    machine.set_options("--nonsense");
    assert!(!machine.try_run("systemctl start weft").status.success());
    let is_over = |name: &str, value: &str| assert_eq!(machine.property(name), value);
    is_over("ActiveState", "failed");
    is_over("ExecMainStatus", "2");
    is_over("NRestarts", "0");
}

/// `systemctl start` comes back when the daemon says that it is ready, and not before.
fn a_start_waits_for_the_config(machine: &Machine, leases: &Leases) {
    machine.set_options(OPTIONS);
    // Of an earlier run, so that the subnet is the one that this host's pod is in.
    machine.write(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n",
    );
    machine.run("systemctl start --no-block weft");
    machine.wait_for("a daemon that waits", |machine| {
        let problems = machine.ask("status")["problems"].to_string();
        problems.contains("config").then_some(())
    });
    assert_eq!(machine.property("ActiveState"), "activating");
    leases.write_config(&config(UDP));
    machine.wait_for("a daemon that is ready", |machine| {
        (machine.property("ActiveState") == "active").then_some(())
    });
    assert_eq!(machine.ask("status")["ready"], true);
}

fn config(backend: &str) -> String {
    format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#)
}

fn sealed() -> String {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    config(&format!(r#"{{"Type":"udp","Encryption":"wireguard","PSK":"{key}"}}"#))
}

fn with_nft(backend: &str) -> String {
    config(backend).replacen('{', r#"{"EnableNFTables":true,"#, 1)
}

fn the_daemon_is_confined_and_lacks_nothing(machine: &Machine, right: &Daemon<'_>) {
    check_confinement(machine);
    joined(machine);
    let (here, there) = (machine.ask("status"), right.ask("status"));
    assert_eq!(here["engine"], there["engine"], "what the kernel gives is the same");
    assert_eq!(here["engine"]["name"], "uring");
    for status in [&here, &there] {
        assert_eq!(status["workers"]["count"], 2, "{status:#}");
    }
    assert!(machine.run("nft list ruleset").contains("FLANNEL-POSTRTG"));
    packets_flow(machine, right);
    assert_eq!(machine.property("NRestarts"), "0", "{}", machine.log());
}

/// Whatever carries them.
fn packets_flow(machine: &Machine, right: &Daemon<'_>) {
    joined(machine);
    let first = |status: &Value| {
        let subnet = status["lease"]["subnet"].as_str().unwrap().to_owned();
        subnet.replace(".0/24", ".1")
    };
    let (near, far) = (first(&machine.ask("status")), first(&right.ask("status")));
    // The other side may not know this one yet.
    machine.wait_for("a way to the other host", |machine| {
        let output = machine.try_run(&format!("ping -n -c 1 -W 1 -I {near} {far}"));
        output.status.success().then_some(())
    });
    machine.run(&format!("ping -n -c 3 -i 0.05 -W 5 -I {near} {far}"));
}

/// What the unit asks for is in force, as the kernel tells it.
fn check_confinement(machine: &Machine) {
    let process = machine.property("MainPID");
    let status = machine.run(&format!("cat /proc/{process}/status"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {status}")).trim().to_owned()
    };
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    for set in ["CapBnd:", "CapEff:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(CAPABILITIES), "{set}");
    }
    let mounts = machine.run(&format!("cat /proc/{process}/mountinfo"));
    let options = |place: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        // The last one at a place lies above the others.
        fields.rfind(|fields| fields[4] == place).map(|fields| fields[5].to_owned())
    };
    let is_writable = |place: &str| options(place).is_some_and(|them| them.starts_with("rw"));
    assert!(!is_writable("/"), "{mounts}");
    for place in ["/run", "/etc/weft", LEASES, "/var/lib/weft"] {
        assert!(is_writable(place), "{place}: {mounts}");
    }
}

/// Waits until the daemon knows its peer and has nothing to say against itself.
fn joined(machine: &Machine) {
    machine.wait_for("a daemon that has joined", |machine| {
        let status = machine.ask("status");
        let is_well = status["ready"] == true && status["problems"] == json!([]);
        (is_well && status["peers"] == 1).then_some(())
    });
}

fn a_killed_daemon_comes_back(machine: &Machine) {
    let before = machine.property("MainPID");
    machine.run("systemctl kill --signal KILL weft");
    machine.wait_for("another daemon", |machine| {
        let is_back = machine.property("ActiveState") == "active";
        (is_back && machine.property("MainPID") != before).then_some(())
    });
    joined(machine);
}

fn a_stop_leaves_lease_and_subnet_file(machine: &Machine, leases: &Leases) {
    let all = leases.all();
    machine.run("systemctl stop weft");
    assert_eq!(machine.property("Result"), "success");
    assert!(!machine.try_run("ip link show flannel0").status.success(), "the device is gone");
    assert_eq!(leases.all(), all);
    assert!(machine.path("/run/flannel/subnet.env").exists());
    assert!(machine.path("/run/weft").exists(), "what is known of others is kept");
}

/// A start that fails is tried again until it succeeds.
fn a_taken_port_is_waited_for(machine: &Machine) {
    let bind = "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); \
                s.bind((\"10.168.0.2\", 8285)); time.sleep(600)";
    machine.run(&format!("systemd-run --quiet --unit=holder python3 -c '{bind}'"));
    let table = "grep -i :205D /proc/net/udp";
    machine.wait_for("a port that is taken", |machine| {
        machine.try_run(table).status.success().then_some(())
    });
    assert!(!machine.try_run("systemctl start weft").status.success());
    let log = machine.log();
    let last = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
    assert!(last.contains("The UDP address 10.168.0.2:8285 is in use"), "{last}");
    machine.run("systemctl stop holder");
    machine.wait_for("a daemon that has the port", |machine| {
        (machine.property("ActiveState") == "active").then_some(())
    });
    joined(machine);
}

fn an_upgrade_restarts_the_daemon(machine: &Machine, package: &Path) {
    joined(machine);
    let (before, identity) = (machine.property("MainPID"), identity(machine));
    install(machine, package);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_ne!(machine.property("MainPID"), before);
    assert_eq!(self::identity(machine), identity);
    joined(machine);
}

fn identity(machine: &Machine) -> String {
    fs::read_to_string(machine.path("/var/lib/weft/id")).unwrap()
}

fn a_removal_leaves_the_identity_alone(machine: &Machine) {
    machine.run("dpkg --no-triggers --remove weft");
    assert!(!machine.path("/usr/bin/weft").exists());
    assert_eq!(machine.text("systemctl is-active weft"), "inactive");
    let state = machine.run("ip link; ip route; nft list ruleset");
    for trace in ["flannel0", "proto 82", "-A FLANNEL", "jump FLANNEL"] {
        assert!(!state.contains(trace), "{trace} was left: {state}");
    }
    assert!(!identity(machine).is_empty());
    machine.run("dpkg --no-triggers --purge weft");
    assert!(!machine.path("/var/lib/weft").exists());
    assert!(!machine.path("/etc/default/weft").exists());
}
