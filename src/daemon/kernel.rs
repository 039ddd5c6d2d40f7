//! What the kernel counted around us: losses that no counter of ours can see.

use std::fs;
use std::path::Path;

use weft_ctrl::controller::DEVICE_NAME;
use weft_forward::counters::Snapshot;

use crate::admin::{Drop, Drops};

/// The name of what is dropped because it came past the tunnel.
pub(super) const WALL: &str = "past_the_tunnel";

/// The name of what is dropped on the shortcut of small packets.
pub(super) const SHORTCUT: &str = "shortcut_no_room";

/// Losses just outside of our hands: in the device, and in the sockets' receive queues.
/// `wall_drops` are those of the rules that keep unsealed packets out.
pub(super) fn losses(
    snapshot: &Snapshot,
    wall_drops: Option<u64>,
    shortcut_drops: u64,
) -> Vec<Drop> {
    let texts = [
        "The device dropped packets on their way to us: its queue was full.",
        "The kernel dropped packets that we had written into the device.",
        "The kernel dropped datagrams for us: the socket's receive buffer was full.",
    ];
    let wall = "Packets of the network came by another way than sealed through the tunnel.";
    let shortcut = "The kernel could not change the headers of small packets past the workers.";
    let [sent, received, overflow] = loss_counts(snapshot);
    let with_text = |(name, count): (_, _), text| (name, count, text);
    without_zeros([
        with_text(sent, texts[0]),
        with_text(received, texts[1]),
        with_text(overflow, texts[2]),
        (WALL, wall_drops.unwrap_or(0), wall),
        (SHORTCUT, shortcut_drops, shortcut),
    ])
}

/// The numbers of [`losses`] with their names.
pub(super) fn loss_counts(snapshot: &Snapshot) -> [(&'static str, u64); 3] {
    let device = Path::new("/sys/class/net").join(DEVICE_NAME).join("statistics");
    [
        ("flannel0_tx_dropped", number(&device.join("tx_dropped"))),
        ("flannel0_rx_dropped", number(&device.join("rx_dropped"))),
        ("receive_overflow", snapshot.receive_overflow),
    ]
}

/// Losses of a device that no worker of ours reads.
pub(super) fn device_losses(device: &str) -> [(&'static str, u64); 2] {
    let statistics = Path::new("/sys/class/net").join(device).join("statistics");
    [
        ("device_tx_dropped", number(&statistics.join("tx_dropped"))),
        ("device_rx_dropped", number(&statistics.join("rx_dropped"))),
    ]
}

/// What is known where the kernel carries all packets.
pub(super) fn drops_of_kernel(device: Option<&str>) -> Drops {
    let commands = match device {
        Some(device) => format!("`ip -s -s link show {device}`, `nstat` and `ip -s -s link`"),
        None => "`nstat` and `ip -s -s link`".to_owned(),
    };
    let note = format!(
        "The kernel carries the packets of this backend, and counts by itself what it drops: see \
         {commands}."
    );
    let texts = [
        "The device dropped packets on their way to peers.",
        "The device dropped packets from peers.",
    ];
    let losses = device.map(device_losses).into_iter().flatten().zip(texts);
    let losses = losses.map(|((name, count), text)| drop_line(name, count, text));
    Drops {
        note: Some(note),
        kernel: losses.filter(|line| line.count > 0).collect(),
        ..Drops::default()
    }
}

/// Bytes of memory that this process holds.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Counters of the whole host that look like losses of ours. A send that finds the buffer full
/// counts there too, and we repeat it; full receive buffers are those of every socket.
pub(super) fn not_losses() -> Vec<Drop> {
    let table = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let send = "Sends of any program that found a full buffer; we repeat ours.";
    let receive = "Datagrams for any program that found a full buffer; ours are counted above.";
    without_zeros([
        ("UdpSndbufErrors", udp_counter(&table, "SndbufErrors"), send),
        ("UdpRcvbufErrors", udp_counter(&table, "RcvbufErrors"), receive),
    ])
}

fn without_zeros<const N: usize>(lines: [(&str, u64, &str); N]) -> Vec<Drop> {
    let named = |(reason, count, text): (&str, u64, &str)| drop_line(reason, count, text);
    lines.into_iter().filter(|(_, count, _)| *count > 0).map(named).collect()
}

fn drop_line(reason: &str, count: u64, text: &str) -> Drop {
    Drop { reason: reason.to_owned(), count, text: text.to_owned() }
}

/// The number in a file, 0 if it is not there.
fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A counter of the two `Udp:` lines of `/proc/net/snmp`, the first of which holds the names.
fn udp_counter(table: &str, name: &str) -> u64 {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Ip: Forwarding DefaultTTL
Ip: 1 64
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors
Udp: 10 20 30 40 50 60 70
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
UdpLite: 1 2 3 4 5 6
";

    #[test]
    fn counters_are_found_by_name() {
        assert_eq!(udp_counter(TABLE, "SndbufErrors"), 60);
        assert_eq!(udp_counter(TABLE, "RcvbufErrors"), 50);
        assert_eq!(udp_counter(TABLE, "Nonsense"), 0);
        assert_eq!(udp_counter("Udp: A\n", "A"), 0);
    }

    #[test]
    fn this_kernel_has_the_table() {
        let table = fs::read_to_string("/proc/net/snmp").unwrap();
        assert!(table.contains(" SndbufErrors"), "{table}");
    }

    #[test]
    fn where_the_kernel_carries_everything_it_is_said_who_counts() {
        let drops = drops_of_kernel(Some("flannel.1"));
        assert!(drops.note.unwrap().contains("ip -s -s link show flannel.1"));
        assert!(drops.kernel.is_empty(), "there is no such device here");
        assert!(!drops_of_kernel(None).note.unwrap().contains("flannel"));
    }

    #[test]
    fn zeros_are_left_out() {
        let drops = without_zeros([("a", 0, "A."), ("b", 1, "B.")]);
        assert_eq!(drops, [Drop { reason: "b".into(), count: 1, text: "B.".into() }]);
    }
}
