//! Both ends of a load, over the loopback device.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weft_bench::load::{Arrived, Sent};

const BENCH: &str = env!("CARGO_BIN_EXE_weft-bench");

/// Sends to a sink, with these further arguments, and gives what both say.
fn run(port: &str, sender: &[&str]) -> Result<(Sent, Arrived)> {
    let sink = ["load", "sink", "--port", port, "--patience", "5000"];
    let mut sink = Command::new(BENCH).args(sink).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(sink.stdout.take().context("There is no pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "ready\n", "The sink said {line:?}");
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
    let (sent, arrived) = run("47311", &["--rate", "20000", "--sizes", "64,548,1372"]).unwrap();
    // The rate times the duration; a machine that is busy may send less.
    assert!((1..=6000).contains(&sent.datagrams), "{sent:?}");
    assert_eq!((arrived.datagrams, arrived.bytes), (sent.datagrams, sent.bytes));
    assert_eq!(arrived.late, 0);
}

#[test]
fn trains_arrive_as_datagrams() {
    let train = ["--train", "20", "--sizes", "1300", "--rate", "20000", "--sockets", "3"];
    let (sent, arrived) = run("47312", &train).unwrap();
    assert!(sent.datagrams > 0 && sent.datagrams % 20 == 0, "{sent:?}");
    assert_eq!((arrived.datagrams, arrived.bytes), (sent.datagrams, sent.datagrams * 1300));
    assert_eq!(arrived.late, 0);
}

#[test]
fn a_sink_to_which_nobody_sends_ends() {
    let sink = ["load", "sink", "--port", "47313", "--patience", "100"];
    let output = Command::new(BENCH).args(sink).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let arrived: Arrived = serde_json::from_str(text.strip_prefix("ready\n").unwrap()).unwrap();
    assert_eq!(arrived, Arrived::default());
}
