//! What the daemon says of itself, and what the other hosts answer.

use super::{Finding, error, named, note, warning};
use crate::admin::{Peers, Status};
use crate::doctor::facts::{Answer, Echo, Facts, Strangers};

/// Where every line of the daemon is explained.
const EXPLAINED: &str = "As the line says; docs/operations.md, What the lines say, has more.";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.daemon {
        Answer::None(reason) => findings.push(silent(facts, reason)),
        Answer::Some(answers) => {
            let (status, peers) = answers.as_ref();
            findings.extend(own_words(status));
            findings.extend(offloads(status));
            findings.extend(unsegmented(peers));
        }
    }
    findings.extend(strangers(facts));
    findings.extend(unanswered(facts));
    findings
}

fn silent(facts: &Facts, reason: &str) -> Finding {
    let effect = match facts.subnet_file.is_there {
        true => "Only what shows without it was looked at; other hosts were not asked.".to_owned(),
        false => format!(
            "Only what shows without it was looked at. CNI cannot start pods: there is no {}.",
            facts.subnet_file.path.display()
        ),
    };
    warning("daemon", format!("{reason}.")).with(
        effect,
        "Start it, and see its log if it ends: systemctl status weft, journalctl --unit weft.",
    )
}

fn own_words(status: &Status) -> Vec<Finding> {
    let effect = "The host is not ready; packets may flow all the same.";
    let problems = status.problems.iter().map(|problem| {
        let problem = problem.trim_end_matches('.');
        let draft = if status.ready { warning } else { error };
        let effect = if status.ready { "The host stays ready meanwhile." } else { effect };
        draft("daemon", format!("The daemon says: {problem}.")).with(effect, EXPLAINED)
    });
    let mut findings: Vec<Finding> = problems.collect();
    findings.extend(status.foreign.iter().map(|route| {
        warning("foreign-route", format!("Somebody else has made a route: {route}.")).with(
            "It stays; where it wins, packets do not take weft's way.",
            "Delete it if nobody needs it, and stop what made it.",
        )
    }));
    if !status.rejected.is_empty() {
        let names: Vec<&str> = status.rejected.iter().map(|one| one.name.as_str()).collect();
        let cause = format!("Leases are not believed: {}.", named(&names));
        findings.push(warning("leases", cause).with(
            "Nothing is sent to these hosts.",
            "weft status says why for each; repair or delete them in the store.",
        ));
    }
    if let Some(change) = &status.config_change {
        findings.push(warning("config", format!("{}.", change.trim_end_matches('.'))).with(
            "The config in the store is not the one in force.",
            "Drain the host if its subnet changes, and restart weft.",
        ));
    }
    if let Some(reason) = status.workers.as_ref().and_then(|workers| workers.fewer_because.as_ref())
    {
        findings.push(
            warning("workers", format!("There are fewer workers than asked for: {reason}."))
                .with("Fewer processors move packets.", "As the line says."),
        );
    }
    findings
}

fn offloads(status: &Status) -> Option<Finding> {
    let missing = status.engine.as_ref()?.features.get("degraded")?.as_array()?;
    let names: Vec<&str> = missing.iter().filter_map(|name| name.as_str()).collect();
    (!names.is_empty()).then(|| {
        warning("offloads", format!("Packets are moved without {}.", names.join(", "))).with(
            "More system calls for the same bytes.",
            "Leave them out of --without, or take a newer kernel: TUN has USO since Linux 6.2, UDP \
             cuts trains since 4.18 and joins datagrams since 5.0.",
        )
    })
}

fn unsegmented(peers: &Peers) -> Option<Finding> {
    let hosts = peers.peers.iter().filter(|peer| peer.slot.is_some() && !peer.segmentation);
    let names: Vec<&str> = hosts.map(|peer| peer.outer.as_str()).collect();
    (!names.is_empty()).then(|| {
        let cause = format!("The kernel refuses to cut trains for {}.", named(&names));
        warning("segmentation", cause).with(
            "Datagrams to them are sent one by one, which costs most of the speed.",
            "See that the interface computes checksums: ethtool -k DEVICE shows \
             tx-checksum-ip-generic or tx-checksum-ipv4; ethtool -K DEVICE tx on.",
        )
    })
}

fn strangers(facts: &Facts) -> Option<Finding> {
    let Strangers { total, lately } = facts.strangers;
    let told = format!("{total} datagrams came from addresses that are in no lease");
    let draft = match lately {
        0 => note("unknown-sender", format!("{told}, none of them just now.")),
        _ => warning("unknown-sender", format!("{told}, and more keep coming.")),
    };
    (total > 0).then(|| {
        draft.with(
            "They were dropped. A host behind a translated address is not heard. While a daemon \
             starts, those of all hosts count until it has read the leases.",
            "Look who sends: tcpdump -ni DEVICE udp port PORT. If it is a host of the cluster: \
             --public-ip there, or AllowedSources in the network config.",
        )
    })
}

fn unanswered(facts: &Facts) -> Option<Finding> {
    if let Some(reason) = &facts.echoes.untried {
        return Some(note("probe", format!("The other hosts were not asked: {reason}.")).with(
            "Whether packets get through is not known.",
            "Ask as root, or with CAP_NET_RAW.",
        ));
    }
    let silent: Vec<&Echo> = facts.echoes.peers.iter().filter(|echo| !echo.answered).collect();
    if silent.is_empty() {
        return None;
    }
    let names: Vec<String> =
        silent.iter().map(|echo| format!("{} (at {})", echo.inner, echo.outer)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let draft = if silent.len() == facts.echoes.peers.len() { error } else { warning };
    let port = facts.port().map_or_else(String::new, |port| format!(" {port}"));
    Some(
        draft(
            "probe",
            format!("Echo requests through the network are not answered by {}.", named(&names)),
        )
        .with(
            "Pods of this host do not reach pods there, or their answers are lost.",
            format!(
                "See that these hosts are up and their daemon runs, and that the firewalls between \
             let UDP port{port} through in both directions; weft drops on both hosts tells what \
             arrives and is refused."
            ),
        ),
    )
}
