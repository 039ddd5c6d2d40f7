//! Echoes between pods that go on while something happens to their hosts.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command};
use std::time::Duration;

use crate::host::Host;

/// A ping from the pod of one host to that of another again and again, for as long as this lives. What
/// it says goes into a file: a pipe that nobody reads meanwhile would stop it as soon as it is full.
pub(crate) struct Pings {
    child: Child,
    said: File,
    interval: Duration,
}

impl Pings {
    pub(crate) fn start(from: &Host, to: &Host, interval: Duration) -> Self {
        let said = tempfile::tempfile().unwrap();
        let seconds = interval.as_secs_f64().to_string();
        let (near, far) = (from.pod().to_string(), to.pod().to_string());
        let mut command = from.command(&["ping", "-n", "-i", &seconds, "-I", &near, &far]);
        let child = command.stdout(said.try_clone().unwrap()).spawn().unwrap();
        Self { child, said, interval }
    }

    /// Sent and lost. The last one may have been on its way when ping was ended, and is left out then.
    pub(crate) fn end(self) -> (u32, u32) {
        let text = self.finish();
        let line = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let sent = numbers[0] - u32::from(!text.contains(&format!("icmp_seq={} ", numbers[0])));
        (sent, sent - numbers[1])
    }

    /// The longest time between two answers without another one.
    pub(crate) fn longest_gap(self) -> Duration {
        let interval = self.interval;
        let text = self.finish();
        let number = |line: &str| {
            let (_, rest) = line.split_once("icmp_seq=")?;
            let answered = line.contains("bytes from").then_some(rest)?;
            answered.split(' ').next()?.parse::<u32>().ok()
        };
        let answered: Vec<u32> = text.lines().filter_map(number).collect();
        let gaps = answered.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1));
        interval * gaps.max().expect("there were two answers")
    }

    fn finish(mut self) -> String {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-s", "INT", &id]).status().unwrap();
        self.child.wait().unwrap();
        let mut text = String::new();
        self.said.rewind().unwrap();
        self.said.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
