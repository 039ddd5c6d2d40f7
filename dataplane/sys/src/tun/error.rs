//! Why a TUN device could not be opened.

use std::io;

use super::SteeringError;

/// Why [`Tun::open`](super::Tun::open) failed.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// `/dev/net/tun` is missing or has no driver.
    #[error(
        "There is no /dev/net/tun. Load the driver with `modprobe tun`; in a container also pass \
         the device in (`--device /dev/net/tun`, or a privileged container), or create the node \
         with `mknod /dev/net/tun c 10 200`"
    )]
    NoDevice {
        /// What opening it said.
        source: io::Error,
    },
    /// `/dev/net/tun` exists and may not be opened.
    #[error(
        "/dev/net/tun may not be opened. Run as root; in a container pass the device in \
         (`--device /dev/net/tun`, or a privileged container)"
    )]
    DeviceForbidden {
        /// What opening it said.
        source: io::Error,
    },
    /// The capability to create network devices is missing.
    #[error(
        "No permission to create the device {name}: the capability CAP_NET_ADMIN is missing in \
         this network namespace. Run as root; in a container add it (`--cap-add NET_ADMIN`)"
    )]
    NoPermission {
        /// The device asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface of this name exists.
    #[error("The network device {name} already exists{}", taken_remedy(*.has_carrier))]
    Taken {
        /// The device asked for.
        name: String,
        /// True if the device is up and some process has it open. A process that is just going
        /// away, or whose ring is, looks the same for a moment. False for one that is down, or
        /// left over without a process.
        has_carrier: bool,
    },
    /// No device can have this name.
    #[error(
        "`{name}` cannot be the name of a network device: 1 to 15 bytes are allowed, without \
         white space, `/`, `:` and `%`, and not `.` or `..`"
    )]
    InvalidName {
        /// The name asked for.
        name: String,
    },
    /// Flows cannot be divided among queues.
    #[error(transparent)]
    Steering(SteeringError),
    /// Any other refused system call.
    #[error("Could not {context}")]
    Io {
        /// What was being done, as the end of the sentence "Could not …".
        context: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn taken_remedy(has_carrier: bool) -> &'static str {
    if has_carrier {
        " and a running process has it open. Stop that process (another flanneld or weft?)"
    } else {
        ", down or without a process behind it. If it is a left-over, remove it with \
         `ip link delete`"
    }
}
