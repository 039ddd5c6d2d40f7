//! How many workers there are, and what each of them works on.

use std::io;
use std::net::SocketAddr;
use std::thread::available_parallelism;

use tracing::warn;
use weft_sys::tun::Steering;
use weft_sys::udp::UdpSocket;

/// The number of workers, and why it is not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crew {
    pub(super) asked_for: u16,
    pub(super) count: u16,
    pub(super) fewer_because: Option<String>,
}

/// The sockets of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerSockets {
    /// At the port that all hosts send to.
    pub(super) receivers: Vec<UdpSocket>,
    /// At a port of the worker's own.
    pub(super) senders: Vec<UdpSocket>,
}

impl WorkerSockets {
    /// Other hands on the same sockets.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clones = |sockets: &[UdpSocket]| -> io::Result<Vec<UdpSocket>> {
            sockets.iter().map(UdpSocket::try_clone).collect()
        };
        Ok(Self { receivers: clones(&self.receivers)?, senders: clones(&self.senders)? })
    }
}

impl Crew {
    /// As many as were asked for, and as the hosts of the network can tell apart.
    pub(super) fn wanted(asked_for: u16, source_ports: u16) -> Self {
        let fewer_because = (asked_for > source_ports).then(|| {
            format!(
                "the network config allows each host {source_ports} source port(s), and every \
                 worker needs one: set Backend.SourcePorts to {asked_for} and let firewalls \
                 between the hosts pass these ports"
            )
        });
        Self { asked_for, count: asked_for.min(source_ports), fewer_because }
    }

    /// Several cannot be had.
    pub(super) fn shrink_to_one(&mut self, reason: String) {
        self.count = 1;
        self.fewer_because = Some(reason);
    }

    /// The program that divides flows among the workers. `None` if there is one worker only, which
    /// it is, too, if the kernel does not take the program.
    pub(super) fn steering(&mut self) -> Option<Steering> {
        if self.count == 1 {
            return None;
        }
        let steering = Steering::load();
        steering.map_err(|error| self.shrink_to_one(error.to_string())).ok()
    }

    /// One line if this is not what was wanted, or not wise.
    pub(super) fn log(&self) {
        let Self { asked_for, count, .. } = self;
        if let Some(reason) = &self.fewer_because {
            warn!(asked_for, workers = count, reason, "fewer packet workers than asked for");
        }
        let processors = available_parallelism().map_or(1, usize::from);
        if usize::from(*count) > processors {
            warn!(workers = count, processors, "more packet workers than processors");
        }
    }
}

/// The port that a worker sends from to the hosts that divide what arrives by it.
pub(super) fn sender_address(address: SocketAddr, worker: u16) -> SocketAddr {
    let port = address.port().checked_add(worker);
    let port = port.expect("the config has no source ports behind the last port");
    SocketAddr::new(address.ip(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_needs_a_source_port() {
        for (asked_for, source_ports, count) in [(1, 1, 1), (1, 4, 1), (4, 4, 4), (4, 2, 2)] {
            let crew = Crew::wanted(asked_for, source_ports);
            assert_eq!((crew.asked_for, crew.count), (asked_for, count));
            assert_eq!(crew.fewer_because.is_some(), count < asked_for);
        }
        let reason = Crew::wanted(3, 1).fewer_because.unwrap();
        assert!(reason.contains("Backend.SourcePorts to 3"), "{reason}");
    }

    #[test]
    fn one_worker_needs_no_program() {
        let mut crew = Crew::wanted(1, 4);
        assert!(crew.steering().is_none());
        assert_eq!(crew.fewer_because, None);
    }

    #[test]
    fn the_first_worker_sends_from_the_common_port() {
        let address: SocketAddr = "192.0.2.1:8285".parse().unwrap();
        assert_eq!(sender_address(address, 0), address);
        assert_eq!(sender_address(address, 3), "192.0.2.1:8288".parse().unwrap());
    }
}
