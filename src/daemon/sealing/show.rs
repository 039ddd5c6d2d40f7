//! How sealing goes, in the form of answers.

use serde_json::Map;
use weft_dataplane::handshakes::Report;
use weft_dataplane::sealing::Mode;

use super::{Standing, told};
use crate::admin::{PeerSealing, Sealing};
use crate::daemon::events::PeerId;

/// For `weft status`.
pub(in crate::daemon) fn sealing(standing: &Standing) -> Sealing {
    let Standing { mode, plain_peers, report } = standing;
    let named = report.rejections().filter(|(_, count)| *count > 0);
    let rejected: Map<_, _> =
        named.map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    Sealing {
        mode: name(*mode).to_owned(),
        plain_peers: *plain_peers,
        key: report.key.map(|key| told(key).to_string()),
        sessions: report.sessions,
        handshakes: report.handshakes,
        given_up: report.given_up,
        packets_dropped: report.packets_dropped,
        sends_failed: report.sends_failed,
        rejected,
    }
}

/// As the network config has it.
fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Require => "require",
        Mode::Offer => "offer",
    }
}

/// For `weft peers`: the one with this place in the table.
pub(in crate::daemon) fn peer_sealing(report: &Report, id: PeerId) -> Option<PeerSealing> {
    let found = report.peers.binary_search_by_key(&id.slot, |peer| peer.name.slot).ok()?;
    let peer = &report.peers[found];
    Some(PeerSealing {
        key: told(peer.key).to_string(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        session_age_seconds: peer.session_age.map(|age| age.as_secs()),
        handshakes: peer.handshakes,
        given_up: peer.given_up,
        packets_dropped: peer.packets_dropped,
    })
}
