//! `weft top`: what the daemon does at this moment, drawn again and again into a terminal.
//!
//! Needs nothing of the terminal but what every emulator has since the VT100, so it works over ssh. What
//! is drawn ([`screen`]) is apart from the asking, and pure.

mod rates;
mod screen;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::de::DeserializeOwned;

use crate::admin::Question;
use crate::admin::client::{AskError, ask, decode};
use crate::options::ADMIN_SOCKET;
use rates::Sample;
use screen::Screen;
use terminal::{Key, Terminal};

/// What `weft top` takes.
#[derive(Debug, Args)]
pub(crate) struct Watching {
    /// The daemon's socket
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
}

/// Draws until asked to stop.
pub(crate) fn run(asked: &Watching) -> ExitCode {
    match watch(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch(asked: &Watching) -> Result<()> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "weft top draws into a terminal, and this is none; weft status and weft peers print text"
    );
    // Somebody who is not allowed to ask is told so on a screen that stays.
    sample(&asked.admin_socket)?;
    let mut terminal = Terminal::open().context("The terminal could not be set up")?;
    draw_all(&mut terminal, asked).context("The terminal could not be drawn into")
}

fn draw_all(terminal: &mut Terminal, asked: &Watching) -> io::Result<()> {
    let mut screen = Screen::default();
    let interval = Duration::from_secs(asked.interval);
    loop {
        // A daemon that is being restarted is shown as such, and waited for.
        screen.take(sample(&asked.admin_socket).map_err(|error| error.to_string()));
        let next = Instant::now() + interval;
        loop {
            let (width, height) = terminal.size()?;
            terminal.draw(&screen.lines(width, height))?;
            match terminal.wait_for_keys(next.saturating_duration_since(Instant::now()))? {
                keys if keys.contains(&Key::End) => return Ok(()),
                keys if keys.is_empty() => break,
                keys => keys.into_iter().for_each(|key| screen.handle_key(key)),
            }
        }
    }
}

fn sample(socket: &Path) -> Result<Sample, AskError> {
    fn answer<T: DeserializeOwned>(socket: &Path, question: Question) -> Result<T, AskError> {
        decode(&ask(socket, question)?)
    }
    Ok(Sample {
        at: Instant::now(),
        status: answer(socket, Question::Status)?,
        peers: answer(socket, Question::Peers)?,
        drops: answer(socket, Question::Drops)?,
    })
}
