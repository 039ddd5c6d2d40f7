//! Echoes between pods that go on while something happens to their hosts.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::host::Host;

/// A ping every 20 ms from the left pod to the right one, for as long as this lives.
pub(crate) struct Pings(Child);

impl Pings {
    pub(crate) fn start(host: &Host) -> Self {
        // Nobody reads meanwhile, so a line for each would stop it as soon as the pipe is full.
        let words = ["ping", "-q", "-i", "0.02", "-I", "10.244.1.1", "10.244.2.1"];
        Self(host.command(&words).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Sent and lost.
    pub(crate) fn end(mut self) -> (u32, u32) {
        let id = self.0.id().to_string();
        Command::new("kill").args(["-s", "INT", &id]).status().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let line = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
        let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[0] - numbers[1])
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
