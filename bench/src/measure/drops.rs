//! Packets that somebody counted as dropped.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Counters, DeviceCounters, Lab, Namespace, Side};
use crate::path::RunningPath;

/// Counters of `nstat` about datagrams that a full socket lost.
const SOCKET_COUNTERS: [&str; 4] =
    ["UdpRcvbufErrors", "UdpMemErrors", "Udp6RcvbufErrors", "Udp6MemErrors"];

/// What was dropped so far in both hosts and both pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drops {
    /// At devices, in both directions.
    pub(super) devices: u64,
    /// At full sockets.
    pub(super) sockets: u64,
    /// By daemons that count it; `None` if there are none.
    pub(super) daemons: Option<u64>,
}

impl Drops {
    /// Reads all counters.
    pub(super) fn read(lab: &Lab, path: &RunningPath) -> Result<Drops> {
        let (mut devices, mut sockets) = (0, 0);
        for side in Side::BOTH {
            let (host, pod) = (lab.host(side), lab.pod(side));
            // Without pods the two are one.
            let pod = Some(pod).filter(|pod| pod.name() != host.name());
            for namespace in [host].into_iter().chain(pod) {
                devices += device_drops(namespace)?;
                let counters = Counters::read(namespace)?;
                sockets += SOCKET_COUNTERS.iter().map(|name| counters.value(name)).sum::<u64>();
            }
        }
        Ok(Drops { devices, sockets, daemons: daemon_drops(lab, path)? })
    }

    /// What was dropped since.
    pub(super) fn since(self, earlier: Drops) -> Drops {
        let daemons = self.daemons.zip(earlier.daemons);
        Drops {
            devices: self.devices.saturating_sub(earlier.devices),
            sockets: self.sockets.saturating_sub(earlier.sockets),
            daemons: daemons.map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

fn device_drops(namespace: &Namespace) -> Result<u64> {
    let devices = DeviceCounters::read_all(namespace)?;
    Ok(devices.iter().map(|device| device.rx.dropped + device.tx.dropped).sum())
}

fn daemon_drops(lab: &Lab, path: &RunningPath) -> Result<Option<u64>> {
    let mut sum = None;
    for (node, side) in path.nodes().iter().zip(Side::BOTH) {
        let status = node.status(lab.host(side))?;
        *sum.get_or_insert(0) += parse_drops(&status).context("The daemon counts no drops")?;
    }
    Ok(sum)
}

fn parse_drops(status: &Value) -> Option<u64> {
    let part = |name: &str| status["traffic"][name]["drops"].as_u64();
    Some(part("outbound")? + part("inbound")?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_directions_of_a_daemon_count() {
        let status = json!({"traffic": {"outbound": {"drops": 3}, "inbound": {"drops": 4}}});
        assert_eq!(parse_drops(&status), Some(7));
        assert_eq!(parse_drops(&json!({})), None);
    }

    #[test]
    fn growth_of_each_kind_is_told_apart() {
        let earlier = Drops { devices: 1, sockets: 10, daemons: Some(100) };
        let now = Drops { devices: 3, sockets: 14, daemons: Some(108) };
        let expected = Drops { devices: 2, sockets: 4, daemons: Some(8) };
        assert_eq!(now.since(earlier), expected);
        assert_eq!(now.since(Drops { daemons: None, ..earlier }).daemons, None);
    }
}
