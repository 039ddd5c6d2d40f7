//! `weft trace SRC DST`: what would become of one packet. Nothing is sent.
//!
//! The daemon says what it knows, and the kernel says where it would send the packet; what follows from
//! both is put together here.

mod facts;
mod verdict;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime;

use crate::admin::client::{ask, decode};
use crate::admin::{Peers, Question, Status};
use facts::{Facts, gather};
use verdict::{Trace, judge};

/// The packet would be dropped; 0 if it would not, and 1 that it cannot be said.
const DROPPED: u8 = 3;

/// Prints what would become of a packet.
pub(crate) fn run(socket: &Path, source: IpAddr, destination: IpAddr, json: bool) -> ExitCode {
    match trace(socket, source, destination) {
        Ok(trace) => {
            let text = if json { json_of(&trace) } else { text_of(&trace) };
            // A closed pipe is nobody's loss.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(if trace.dropped.is_none() { 0 } else { DROPPED })
        }
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trace(socket: &Path, source: IpAddr, destination: IpAddr) -> Result<Trace> {
    let status: Status = decode(&ask(socket, Question::Status)?)?;
    let peers: Peers = decode(&ask(socket, Question::Peers)?)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let facts: Facts = runtime.block_on(gather(&status, &peers, source, destination))?;
    Ok(judge(&status, &facts))
}

fn json_of(trace: &Trace) -> String {
    let text = serde_json::to_string(trace).expect("texts and numbers can always be written");
    format!("{text}\n")
}

fn text_of(trace: &Trace) -> String {
    let mut rows = vec![("packet", format!("{} -> {}", trace.source, trace.destination))];
    rows.push(("source", trace.source_is.clone()));
    rows.push(("destination", trace.destination_is.clone()));
    rows.extend(trace.path.iter().map(|path| ("path", path.clone())));
    rows.extend(trace.because.iter().map(|reason| ("  because", reason.clone())));
    rows.extend(trace.route.iter().map(|route| ("route", route.clone())));
    rows.extend(trace.mtu.iter().map(|mtu| ("MTU", mtu.to_string())));
    rows.push(("sealed", trace.sealed.clone()));
    rows.push(("masqueraded", trace.masqueraded.clone()));
    rows.extend(trace.remarks.iter().map(|remark| ("remark", remark.clone())));
    let outcome = trace.dropped.as_ref().map_or_else(
        || "goes through".to_owned(),
        |dropped| format!("is dropped ({}): {}", dropped.reason, dropped.text),
    );
    rows.push(("outcome", outcome));
    rows.iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect()
}
