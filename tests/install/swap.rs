//! `docs/migrate-from-flannel.md`, step by step: on a machine with systemd weft takes flanneld's place and
//! gives it back, beside another host that has flanneld all the time. flanneld is imitated by a program
//! that speaks its format, has its name, and writes what it writes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Leases, Pair, can_run};
use crate::machine::Machine;
use crate::pings::Pings;
use crate::repository;

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(10);

/// Each takes longer than some of these intervals.
const SURE: usize = 5;

/// Each takes at most a second.
const TRIES: usize = 30;

const OPTIONS: &str = "--lease-dir=/etc/weft/leases --iface=u1";

#[test]
fn weft_takes_flannelds_place_and_gives_it_back() {
    if !can_run() {
        return;
    }
    let leases = Leases::new(r#"{"Network":"10.244.0.0/16"}"#);
    let pair = Pair::new(&leases);
    let Some(machine) = Machine::boot(&pair.left, leases.path()) else { return };
    for number in [1, 2] {
        flannelds_lease(&leases, number);
    }
    machine.write("/run/flannel/subnet.env", SUBNET_FILE);
    for host in [&pair.left, &pair.right] {
        host.forward();
    }
    machine.install_unpacked();
    install_flanneld(&machine);
    let (imitation, [local, subnet, route]) = (imitation(), options(2));
    let program = imitation.to_str().unwrap();
    let _far = pair.right.beside(&["python3", program, &local, &subnet, &route]);
    machine.wait_for("a way between two hosts with flanneld", |_| answers(&pair));

    before(&machine);
    let pings = start_pings(&pair);
    machine.set_options(OPTIONS);
    machine.run("systemctl disable flanneld && systemctl enable --now weft");
    machine.wait_for("a way from weft to flanneld", |_| answers(&pair));
    println!("pods missed each other for {} ms with udp, towards weft", gap(pings, &pair));
    after(&machine, &leases);

    let pings = start_pings(&pair);
    machine.run("systemctl disable --now weft");
    for trace in ["ip link show flannel0", "systemctl is-active weft"] {
        assert!(!machine.try_run(trace).status.success(), "{trace}");
    }
    machine.run("systemctl enable --now flanneld");
    flannelds_lease(&leases, 1);
    machine.wait_for("the old way", |_| answers(&pair));
    println!("pods missed each other for {} ms with udp, on the way back", gap(pings, &pair));
    machine.run("weft uninstall");
    assert_eq!(machine.text("ip route show proto 82; nft list ruleset | grep -i flannel"), "");
    // An uninstall has nothing of flanneld's.
    be_answered(&pair);
}

const SUBNET_FILE: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                           FLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n";

/// As flanneld writes it, over whatever is there.
fn flannelds_lease(leases: &Leases, number: u8) {
    let value = json!({"PublicIP": format!("10.168.0.{}", number + 1), "PublicIPv6": null});
    leases.put(&format!("10.244.{number}.0-24"), &value.to_string());
}

/// The imitation of flanneld.
fn imitation() -> PathBuf {
    repository().join("tests/peer/flannel_peer.py")
}

/// Its options on a host.
fn options(number: u8) -> [String; 3] {
    let other = 3 - number;
    [
        format!("--local=10.168.0.{}", number + 1),
        format!("--subnet=10.244.{number}.0/24"),
        format!("--route=10.244.{other}.0/24=10.168.0.{}", other + 1),
    ]
}

/// flanneld of the machine, a program of that name.
fn install_flanneld(machine: &Machine) {
    let options = options(1).join(" ");
    let unit = format!(
        "[Service]\nExecStart=/usr/local/bin/flanneld /usr/lib/flannel_peer.py {options}\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    machine.write("/lib/systemd/system/flanneld.service", &unit);
    fs::copy(imitation(), machine.path("/usr/lib/flannel_peer.py")).unwrap();
    machine.run("ln --symbolic /usr/bin/python3 /usr/local/bin/flanneld");
    machine.run("systemctl daemon-reload && systemctl enable --now flanneld");
}

fn answers(pair: &Pair) -> Option<()> {
    let (near, far) = (pair.right.pod().to_string(), pair.left.pod().to_string());
    let words = ["ping", "-n", "-c", "1", "-W", "1", "-I", &near, &far];
    pair.right.command(&words).output().unwrap().status.success().then_some(())
}

/// On a busy machine one of them may come too late.
fn be_answered(pair: &Pair) {
    for _ in 0..SURE {
        assert!((0..TRIES).any(|_| answers(pair).is_some()));
    }
}

/// Echo requests from the other host's pod. They are on their way, since others have been answered
/// meanwhile.
fn start_pings(pair: &Pair) -> Pings {
    let pings = Pings::start(&pair.right, &pair.left, INTERVAL);
    be_answered(pair);
    pings
}

/// Milliseconds of the longest time without an answer.
fn gap(pings: Pings, pair: &Pair) -> u128 {
    be_answered(pair);
    pings.longest_gap().as_millis()
}

fn checks(machine: &Machine) -> Vec<(String, String)> {
    let findings = machine.ask("doctor")["findings"].as_array().unwrap().clone();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    findings.iter().map(|one| (text(one, "severity"), text(one, "check"))).collect()
}

/// "Before", and step 2 of "Changing a host".
fn before(machine: &Machine) {
    let found = checks(machine);
    for check in ["other-daemon", "port"] {
        assert!(found.contains(&("error".into(), check.into())), "{check}: {found:?}");
    }
    assert!(found.contains(&("warning".into(), "daemon".into())), "{found:?}");
    let output = machine.try_run(&format!("weft plan {OPTIONS}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("udp over u1, MTU 1472, subnet 10.244.1.0-24\n"), "{said}");
    assert!(said.contains("\n! flannel0 belongs to flanneld (process "), "{said}");
    assert!(said.contains("\nkernel: flannel0: set accept_ra to 0\n"), "{said}");
    assert_eq!(machine.property("ActiveState"), "inactive");
}

/// Step 4: nothing but notes, and the same subnet.
fn after(machine: &Machine, leases: &Leases) {
    assert_eq!(machine.text("systemctl is-active flanneld"), "inactive");
    let of_the_machine = ["clock", "kernel", "io_uring"];
    let found = checks(machine);
    let wrong = found
        .iter()
        .find(|(severity, check)| severity != "note" && !of_the_machine.contains(&check.as_str()));
    assert_eq!(wrong, None, "{:#}", machine.ask("doctor"));
    let status = machine.ask("status");
    assert_eq!((&status["ready"], &status["peers"]), (&json!(true), &json!(1)), "{status:#}");
    assert_eq!(status["lease"]["subnet"], "10.244.1.0/24");
    // What came before the daemon had read the leases.
    let drops = machine.ask("drops");
    let reasons = drops["inbound"].as_array().unwrap().iter().map(|drop| drop["reason"].as_str());
    assert!(reasons.flatten().all(|reason| reason == "unknown_sender"), "{drops:#}");
    let all = leases.all();
    let again = machine.try_run(&format!("weft plan {OPTIONS}"));
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(again.status.code(), Some(0), "{said}");
    assert!(!said.contains("\n!"), "the daemon is not in its own way: {said}");
    assert_eq!(all[0].1["PublicIP"], "10.168.0.2");
    assert!(all[0].1["Weft"].is_object(), "{all:?}");
    assert!(all[1].1["Weft"].is_null(), "the other host is flannel's: {all:?}");
}
