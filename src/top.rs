//! `weft top`: what the daemon does at this moment, drawn again and again into a terminal.
//!
//! ratatui draws, with bold and turned colours only and letters that every terminal has, so it works
//! over ssh and without colours. What is drawn ([`screen`], [`peers`]) is apart from the asking, and pure.

mod peers;
mod rates;
mod screen;
mod terminal;

use std::env;
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
use terminal::{Heard, Key, Terminal, end_by};

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
    let ended = watch(asked).and_then(|signal| Ok(signal.map_or(Ok(()), end_by)?));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives the signal that has ended it, if one has. The terminal is given back by then.
fn watch(asked: &Watching) -> Result<Option<i32>> {
    let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb,
        "weft top draws into a terminal, and this is none; weft status and weft peers print text"
    );
    // Somebody who is not allowed to ask is told so on a screen that stays.
    sample(&asked.admin_socket)?;
    let mut terminal = Terminal::open().context("The terminal could not be set up")?;
    draw_all(&mut terminal, asked).context("The terminal could not be drawn into")
}

fn draw_all(terminal: &mut Terminal, asked: &Watching) -> io::Result<Option<i32>> {
    let mut screen = Screen::default();
    let interval = Duration::from_secs(asked.interval);
    loop {
        // A daemon that is being restarted is shown as such, and waited for.
        screen.take(sample(&asked.admin_socket).map_err(|error| error.to_string()));
        let next = Instant::now() + interval;
        loop {
            terminal.draw(|frame| screen.draw(frame))?;
            match terminal.wait(next.saturating_duration_since(Instant::now()))? {
                Heard::Nothing => break,
                Heard::Redraw => {}
                Heard::Signal(signal) => return Ok(Some(signal)),
                Heard::Keys(keys) if keys.contains(&Key::End) => return Ok(None),
                Heard::Keys(keys) => keys.into_iter().for_each(|key| screen.handle_key(key)),
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
