//! The step from the subnet file to Docker's options: `mk-docker-opts.sh`.

use std::fs;
use std::process::{Command, Output};

use super::host::{Host, Leases, can_run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mk-docker-opts.sh");

/// Subnet file and options file in a directory of their own.
struct Place(tempfile::TempDir);

impl Place {
    fn with(subnet_file: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.file("subnet.env"), subnet_file).unwrap();
        place
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, mut command: Command, words: &[&str]) -> Output {
        let files = [format!("-f{}", self.file("subnet.env")), format!("-d{}", self.file("opts"))];
        command.args(files).args(words).output().unwrap()
    }

    /// What is written with these options.
    fn options(&self, words: &[&str]) -> String {
        let output = self.run(Command::new(SCRIPT), words);
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(self.file("opts")).unwrap()
    }
}

fn subnet_file(ip_masq: &str) -> String {
    format!(
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\n\
         FLANNEL_IPMASQ={ip_masq}\n"
    )
}

#[test]
fn options_are_those_of_flannels_script() {
    let place = Place::with(&subnet_file("false"));
    let individual = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n\
                      DOCKER_OPT_MTU=\"--mtu=1472\"\n";
    let combined = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";
    assert_eq!(place.options(&[]), format!("{individual}{combined}"));
    assert_eq!(place.options(&["-i"]), individual);
    assert_eq!(place.options(&["-c"]), combined, "what was there is gone");
    assert_eq!(place.options(&["-i", "-c"]), format!("{individual}{combined}"));
    assert_eq!(place.options(&["-cm"]), "DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n");
    let mut command = Command::new(SCRIPT);
    command.env("MY_OPTS", "--debug");
    assert!(place.run(command, &["-c", "-k", "MY_OPTS"]).status.success());
    let text = fs::read_to_string(place.file("opts")).unwrap();
    assert_eq!(text, "MY_OPTS=\"--debug --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n");

    let place = Place::with(&subnet_file("true"));
    assert!(place.options(&["-c"]).contains(" --ip-masq=false "));
}

#[test]
fn what_cannot_be_turned_into_options_is_told() {
    let told = |place: &Place, words: &[&str], text: &str| {
        let output = place.run(Command::new(SCRIPT), words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors.contains(text), "{errors}");
    };
    let place = Place::with(&subnet_file("perhaps"));
    told(&place, &[], "FLANNEL_IPMASQ");
    assert!(place.options(&["-m", "-c"]).contains("--mtu=1472"));
    told(&place, &["-h"], "Usage");
    told(&place, &["-?"], "Usage");
    told(&place, &["-x"], "Usage");
    told(&place, &["-k", "x;y"], "no name");
    fs::remove_file(place.file("subnet.env")).unwrap();
    told(&place, &[], "cannot be read");
}

/// The first walkthrough's step to Docker: its bridge gets the address, and its subnet's route is more
/// specific than the daemon's.
#[test]
fn walkthrough_docker_gets_the_subnet() {
    if !can_run() {
        return;
    }
    let leases = Leases::new(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#);
    let host = Host::alone(&leases);
    host.run(&["ip", "link", "del", "c1"]);
    let _daemon = host.start(&["--iface=u1"]);
    let options = host.file("docker_opts.env");
    let file = host.subnet_file();
    let words = [SCRIPT, "-f", file.to_str().unwrap(), "-d", &options];
    host.run(&words);
    let text = fs::read_to_string(&options).unwrap();
    let bip = "DOCKER_OPT_BIP=\"--bip=10.244.1.1/24\"";
    assert_eq!(text.lines().next(), Some(bip));
    assert_eq!(
        text.lines().last(),
        Some("DOCKER_OPTS=\" --bip=10.244.1.1/24 --ip-masq=true --mtu=1472\"")
    );
    host.run(&[
        "sh",
        "-c",
        &format!(
            ". {options} && ip link add docker0 type bridge && ip link set docker0 up \
         && ip address add ${{DOCKER_OPT_BIP#--bip=}} dev docker0"
        ),
    ]);
    let routes = host.run(&["ip", "route"]);
    assert!(routes.contains("10.244.0.0/16 dev flannel0"), "{routes}");
    assert!(routes.contains("10.244.1.0/24 dev docker0"), "{routes}");
    let there = host.run(&["ip", "route", "get", "10.244.1.9"]);
    assert!(there.contains("dev docker0"), "{there}");
    let away = host.run(&["ip", "route", "get", "10.244.2.9"]);
    assert!(away.contains("dev flannel0"), "{away}");

    // Somebody routes the subnet elsewhere.
    host.run(&["ip", "link", "del", "docker0"]);
    host.run(&["ip", "route", "add", "10.244.1.0/24", "via", "10.168.0.9"]);
    let output = host.command(&words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("through a gateway"));
}
