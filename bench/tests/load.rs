//! Both ends of a load, over the loopback device.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weft_bench::load::{Arrived, Sent};

const BENCH: &str = env!("CARGO_BIN_EXE_weft-bench");

/// Sends to a sink, with these further arguments, and gives what both say.
fn run(sender: &[&str]) -> Result<(Sent, Arrived)> {
    // Long enough for a sender that is not let run meanwhile.
    let sink = ["load", "sink", "--port", "0", "--patience", "30000", "--idle", "5000"];
    let mut sink = Command::new(BENCH).args(sink).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(sink.stdout.take().context("There is no pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let port = line.strip_prefix("ready ").with_context(|| format!("The sink said {line:?}"))?;
    let port = port.trim_end();
    let basic = ["load", "send", "--to", "127.0.0.1,127.0.0.2", "--port", port, "--secs", "0.3"];
    let sent = Command::new(BENCH).args(basic).args(sender).output()?;
    ensure!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    ensure!(sink.wait()?.success(), "The sink failed");
    Ok((serde_json::from_slice(&sent.stdout)?, serde_json::from_str(&rest)?))
}

#[test]
fn a_paced_load_arrives_whole_and_in_order() {
    let (sent, arrived) = run(&["--rate", "1000", "--sizes", "64,548,1372"]).unwrap();
    // The rate times the duration; a machine that is busy may send less.
    assert!((1..=300).contains(&sent.datagrams), "{sent:?}");
    assert_eq!((arrived.datagrams, arrived.bytes), (sent.datagrams, sent.bytes));
    assert_eq!(arrived.late, 0);
}

#[test]
fn trains_arrive_as_datagrams() {
    let train = ["--train", "20", "--sizes", "1300", "--rate", "1000", "--sockets", "3"];
    let (sent, arrived) = run(&train).unwrap();
    assert!(sent.datagrams > 0 && sent.datagrams % 20 == 0, "{sent:?}");
    assert_eq!((arrived.datagrams, arrived.bytes), (sent.datagrams, sent.datagrams * 1300));
    assert_eq!(arrived.late, 0);
}

#[test]
fn a_sink_to_which_nobody_sends_ends() {
    let sink = ["load", "sink", "--port", "0", "--patience", "100"];
    let output = Command::new(BENCH).args(sink).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (ready, arrived) = text.split_once('\n').unwrap();
    assert!(ready.starts_with("ready "), "{ready}");
    let arrived: Arrived = serde_json::from_str(arrived).unwrap();
    assert_eq!(arrived, Arrived::default());
}
