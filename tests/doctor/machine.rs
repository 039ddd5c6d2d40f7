//! A clock that is wrong, a kernel that is old, and a device without checksums on it: for the virtual
//! machine of `scripts/guest`, which has such a kernel and may have any time. Elsewhere `SKIPPED`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::host::{Daemon, Host, Leases, can_run};
use crate::kernel::version;
use crate::{CONFIG, Examined, examine, lacks};

/// The first version that cuts trains for a device without checksums.
const CHECKSUMS_SINCE: (u32, u32) = (6, 11);

/// The first version whose device takes large UDP packets.
const USO_SINCE: (u32, u32) = (6, 2);

/// Another host as far as the daemon knows, though nobody is there.
const PEER: &str = r#"{"PublicIP":"10.168.0.88"}"#;

/// The beginning of 2020, in seconds.
const LONG_AGO: u64 = 1_577_836_800;

/// What an NTP client tells the kernel: no largest error, and not unsynchronised (`linux/timex.h`).
const KEEP_RIGHT: &str = "
import ctypes, struct
state = ctypes.create_string_buffer(256)
struct.pack_into('I', state, 0, 0x0004 | 0x0010)
ctypes.CDLL(None).adjtimex(state)
";

/// False, said aloud, on a machine that is not there to be broken.
fn is_guest() -> bool {
    let is_guest = Path::new("/run/guest/command").exists();
    if !is_guest {
        println!("SKIPPED: needs a machine of its own: scripts/guest --quick");
    }
    is_guest
}

/// The clock of this machine. Dropping it puts it right again.
struct Clock<'a> {
    host: &'a Host,
    was: u64,
    since: Instant,
}

impl<'a> Clock<'a> {
    fn of(host: &'a Host) -> Self {
        let was = host.run(&["date", "+%s"]).trim().parse().unwrap();
        Self { host, was, since: Instant::now() }
    }

    /// To set it says to the kernel that nobody keeps it right.
    fn set(&self, seconds: u64) {
        self.host.run(&["date", "--set", &format!("@{seconds}")]);
    }

    fn put_right(&self) {
        self.set(self.was + self.since.elapsed().as_secs());
    }

    fn keep_right(&self) {
        self.host.run(&["python3", "-c", KEEP_RIGHT]);
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        self.put_right();
    }
}

/// Everything in one test, because whatever starts a program takes long there.
#[test]
fn a_machine_that_is_old_and_has_the_wrong_time_is_named() {
    if !can_run() || !is_guest() || lacks("ethtool") || lacks("python3") {
        return;
    }
    let leases = Leases::new(CONFIG);
    let host = Host::alone(&leases);
    fs::create_dir_all(host.file("state")).unwrap();
    let clock = Clock::of(&host);
    clock.put_right();
    let unkept = examine(&host, &[]);
    unkept.expect("note", "clock", "Nothing keeps the clock right");
    assert_eq!(count(&unkept, "clock"), 1, "{:#?}", unkept.findings);
    let (major, minor) = version();
    if (major, minor) < USO_SINCE {
        unkept.expect("note", "kernel", &format!("Linux {major}.{minor}."));
    } else {
        assert!(!unkept.has("kernel"), "{:#?}", unkept.findings);
    }

    fs::write(host.file("state/earlier"), "").unwrap();
    clock.set(LONG_AGO);
    clock.keep_right();
    let behind = examine(&host, &[]);
    behind.expect("error", "clock", "years behind");
    behind.expect("error", "clock", "The clock went back");
    assert_eq!(count(&behind, "clock"), 2, "{:#?}", behind.findings);

    clock.put_right();
    clock.keep_right();
    leases.put("10.244.8.0-24", PEER);
    let mut daemon = host.start(&["--iface=u1"]);
    let _burst = host.beside(&["python3", "-c", BURSTS]);
    daemon.wait_until("sending trains", |daemon| {
        let outbound = &daemon.ask("status")["traffic"]["outbound"];
        outbound["segments_out"].as_u64() > outbound["trains_out"].as_u64()
    });
    assert!(!refuses_trains(&daemon));
    host.run(&["ethtool", "-K", "u1", "tx", "off"]);
    if (major, minor) < CHECKSUMS_SINCE {
        daemon.wait_until("refused", refuses_trains);
    }
    let found = examine(&host, &[]);
    assert_eq!(count(&found, "clock"), 0, "{:#?}", found.findings);
    if (major, minor) < CHECKSUMS_SINCE {
        found.expect("warning", "segmentation", "10.168.0.88");
    } else {
        assert!(!found.has("segmentation"), "{:#?}", found.findings);
    }
}

fn count(examined: &Examined, check: &str) -> usize {
    examined.findings.iter().filter(|one| one["check"] == check).count()
}

fn refuses_trains(daemon: &Daemon) -> bool {
    daemon.ask("peers")["peers"][0]["segmentation"] == false
}

/// Datagrams of one size for the other host, of which trains are made; slow enough to leave a processor
/// to others.
const BURSTS: &str = "
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for _ in range(50):
        sender.sendto(bytes(1000), ('10.244.8.1', 9))
    time.sleep(0.05)
";
