//! What the kernel has for moving packets.

use super::{Finding, error, note, warning};
use crate::doctor::facts::Facts;

/// The first version whose device takes large UDP packets (`TUN_F_USO4`).
const USO_SINCE: (u32, u32) = (6, 2);

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    // A backend of the kernel needs none of this.
    if facts.status().is_some_and(|status| status.network.is_some() && !is_udp(facts)) {
        return Vec::new();
    }
    [device(facts), engine(facts), trains(facts), large_udp(facts)].into_iter().flatten().collect()
}

fn is_udp(facts: &Facts) -> bool {
    let network = facts.status().and_then(|status| status.network.as_ref());
    network.is_some_and(|network| network.backend == "udp")
}

fn device(facts: &Facts) -> Option<Finding> {
    let reason = facts.kernel.no_tun.as_ref()?;
    Some(error("tun", format!("/dev/net/tun cannot be opened: {reason}.")).with(
        "The backend udp cannot make its device; vxlan and host-gw do not need it.",
        "Load the module (modprobe tun); in a container, give it the device /dev/net/tun and the \
         capability CAP_NET_ADMIN.",
    ))
}

/// The daemon has tried it; without one, what can be tried here says it.
fn engine(facts: &Facts) -> Option<Finding> {
    let reason = match facts.status().and_then(|status| status.engine.as_ref()) {
        Some(engine) if engine.name == "epoll" && engine.reason != "asked for" => &engine.reason,
        Some(_) => return None,
        None => facts.kernel.no_ring.as_ref()?,
    };
    Some(warning("io_uring", format!("io_uring does not serve here: {reason}.")).with(
        "Packets are moved by the engine epoll, with more system calls.",
        "Set the sysctl kernel.io_uring_disabled to 0 and allow io_uring in the container's seccomp \
         profile; or take a kernel of 6.7 or later; or ask for --engine=epoll and be content.",
    ))
}

fn trains(facts: &Facts) -> Option<Finding> {
    (facts.kernel.segments_max == 1).then(|| {
        warning("udp-gso", "The kernel cuts no trains of datagrams (UDP_SEGMENT).").with(
            "Every datagram is sent by itself, which costs most of the speed.",
            "Take a kernel of 4.18 or later.",
        )
    })
}

/// With a daemon its own list of what is missing says it.
fn large_udp(facts: &Facts) -> Option<Finding> {
    let (major, minor) = facts.kernel.version;
    let is_old = facts.kernel.version < USO_SINCE && facts.status().is_none();
    is_old.then(|| {
        note("kernel", format!("The kernel is Linux {major}.{minor}.")).with(
            "The device takes no large UDP packets; TCP is not affected.",
            "Take a kernel of 6.2 or later if pods send much UDP.",
        )
    })
}
