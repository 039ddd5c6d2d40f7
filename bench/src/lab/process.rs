//! A program running in a namespace, ended at the latest when its value is dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::cleanup;
use super::wait::wait_until;

/// How many of a program's last lines an error message repeats.
const COMPLAINT_LINES: usize = 6;
/// How much of each of them, in characters.
const COMPLAINT_LINE_CHARACTERS: usize = 300;

/// A running (or ended) program. Its output goes to files, so it can neither block on a full pipe nor
/// be lost. Dropping the value ends the program: SIGTERM, and SIGKILL after five seconds.
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; `stem` is the path of its output files without `.out` and `.err`.
    pub(super) fn start(mut command: Command, name: &str, stem: &Path) -> Result<Process> {
        let stdout = stem.with_extension("out");
        let stderr = stem.with_extension("err");
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).context("Cannot make an output file")?);
        command.stderr(File::create(&stderr).context("Cannot make an output file")?);
        let mut owned = cleanup::owned();
        let child = command.spawn().with_context(|| format!("Cannot start {name}"))?;
        owned.processes.insert(child.id());
        Ok(Process { name: name.to_owned(), child, status: None, stdout, stderr })
    }

    /// The process number; it stays ours until the status was collected.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, or `None` while the program runs.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let mut owned = cleanup::owned();
            self.status = self.child.try_wait().context("Cannot ask for a process's status")?;
            if self.status.is_some() {
                owned.processes.remove(&self.child.id());
            }
        }
        Ok(self.status)
    }

    /// Waits for the program to end by itself; an error when it has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_until(&what, limit, || self.poll())
    }

    /// Sends a signal, if the program still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.poll()?.is_none() {
            cleanup::send(self.child.id(), signal);
        }
        Ok(())
    }

    /// Ends the program: SIGTERM, and SIGKILL when it has not obeyed within five seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if let Ok(status) = self.wait(cleanup::GRACE) {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        self.wait(cleanup::GRACE)
    }

    /// What the program has printed on its standard output so far.
    pub fn stdout(&self) -> Result<String> {
        read(&self.stdout)
    }

    /// What the program has printed on its standard error so far.
    pub fn stderr(&self) -> Result<String> {
        read(&self.stderr)
    }

    /// Waits until the standard output holds `text`; an error when the program ends before.
    pub fn wait_for_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("{} to print {text:?}", self.name);
        wait_until(&what, limit, || {
            if self.stdout()?.contains(text) {
                return Ok(Some(()));
            }
            self.check_running().map(|()| None)
        })
    }

    /// An error with the end of the error output, if the program is no longer running.
    pub fn check_running(&mut self) -> Result<()> {
        match self.poll()? {
            None => Ok(()),
            Some(status) => bail!("{} ended early ({status}): {}", self.name, self.complaint()),
        }
    }

    /// The last lines of what the program printed, errors preferred, to be put into a message.
    pub fn complaint(&self) -> String {
        let errors = self.stderr().unwrap_or_default();
        let output = self.stdout().unwrap_or_default();
        let text = if errors.trim().is_empty() { output.trim() } else { errors.trim() };
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(COMPLAINT_LINES)..];
        let cut = |line: &&str| line.chars().take(COMPLAINT_LINE_CHARACTERS).collect::<String>();
        last.iter().map(cut).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that not even SIGKILL ends is found by the check for things left behind.
        let _ = self.stop();
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("Cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
