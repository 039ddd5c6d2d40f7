//! What the program was called to do.
//!
//! The daemon's command line follows Go's rules, so it is taken apart before anything else looks
//! at it; the other commands are ours and follow today's habits.

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing::{error, info, warn};

use crate::admin::client::{AskError, ask, decode};
use crate::admin::{Question, show};
use crate::daemon;
use crate::doctor::{self, Examining};
use crate::flags::{self, Flags, Mistake};
use crate::generate;
use crate::install_cni;
use crate::logging;
use crate::options::{ADMIN_SOCKET, Options, remarks, unused};
use crate::plan;
use crate::top::{self, Watching};
use crate::trace;
use crate::uninstall;

/// The version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A wrong command line.
const BAD_FLAG: u8 = 2;

/// Called under this name the program is the daemon.
const DAEMON_NAME: &str = "flanneld";

/// Runs the program with its arguments, the first of which is the name it was called by.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let name = arguments.first().map(PathBuf::from).unwrap_or_default();
    if name.file_name().is_some_and(|name| name == DAEMON_NAME) {
        return run_daemon(&name.to_string_lossy(), arguments.get(1..).unwrap_or_default());
    }
    if arguments.get(1).is_some_and(|word| word == "daemon") {
        let program = format!("{} daemon", name.to_string_lossy());
        return run_daemon(&program, &arguments[2..]);
    }
    if arguments.get(1).is_some_and(|word| word == "plan") {
        return run_plan(&format!("{} plan", name.to_string_lossy()), &arguments[2..]);
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => run_command(&cli.command),
        Err(error) => {
            // Help goes to stdout, mistakes to stderr; a closed pipe is nobody's loss.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(BAD_FLAG))
        }
    }
}

/// An overlay network daemon: a drop-in for flanneld with a fast userspace dataplane.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    after_help = "The daemon: weft daemon [OPTION]...\nIt takes the flags of flanneld, and is also \
                  run when the program is called flanneld; weft daemon --help lists them.\n\nWhat it \
                  would change on this host, changing nothing: weft plan [--json] [OPTION]...\nTakes \
                  the daemon's options. The exit code is 0 if nothing would be changed, 3 otherwise."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the state of the running daemon
    Status(Asking),
    /// Show the other hosts
    Peers(Asking),
    /// Show packets that were not handed on, and why
    Drops(Asking),
    /// Say what would become of a packet from one address to another, sending none
    ///
    /// One of both has to be of this host or of its pods. The exit code is 0 if the packet would go
    /// through, 3 if it would be dropped, and 1 if it cannot be said.
    Trace(Tracing),
    /// Give this host's lease back and end the daemon, to take the host out of the cluster
    Release(Asking),
    /// The key of a host whose traffic is sealed
    #[command(subcommand)]
    Keys(Keys),
    /// Watch rates, peers and drops in the terminal
    Top(Watching),
    /// Look for what keeps this host from working, or from working well; changes nothing
    Doctor(Examining),
    /// Put a network config for container runtimes in its place, at once
    InstallCni {
        /// The file to copy
        source: PathBuf,
        /// Where container runtimes read it, such as /etc/cni/net.d/10-flannel.conflist
        target: PathBuf,
    },
    /// Write manual pages and shell completions into a directory
    #[command(hide = true)]
    Generate {
        /// It is made if it is missing
        directory: PathBuf,
    },
    /// Remove what the daemon, or flanneld before it, has left in the kernel. Stop the daemon first
    Uninstall(Uninstalling),
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Take another key; the other hosts learn it from this host's lease
    Rotate(Asking),
}

#[derive(Debug, Args)]
struct Tracing {
    /// The address that the packet comes from
    #[arg(value_name = "SRC")]
    source: IpAddr,
    /// The address that it goes to
    #[arg(value_name = "DST")]
    destination: IpAddr,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Args)]
struct Uninstalling {
    /// The socket of the daemon that must not be running
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: PathBuf,
}

#[derive(Debug, Args)]
struct Asking {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: PathBuf,
}

fn run_command(command: &Command) -> ExitCode {
    let (question, asking) = match command {
        Command::Status(asking) => (Question::Status, asking),
        Command::Peers(asking) => (Question::Peers, asking),
        Command::Drops(asking) => (Question::Drops, asking),
        Command::Release(asking) => (Question::Release, asking),
        Command::Keys(Keys::Rotate(asking)) => (Question::Rotate, asking),
        Command::Trace(Tracing { source, destination, asking }) => {
            return trace::run(&asking.admin_socket, *source, *destination, asking.json);
        }
        Command::Top(asked) => return top::run(asked),
        Command::Doctor(asked) => return doctor::run(asked),
        Command::InstallCni { source, target } => return install_cni::run(source, target),
        Command::Generate { directory } => return generate::run(Cli::command(), directory),
        Command::Uninstall(asking) => return uninstall::run(&asking.admin_socket),
    };
    match answer(question, asking) {
        Ok(text) => {
            // A closed pipe, as with `weft peers | head`, is nobody's loss.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weft: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

fn answer(question: Question, asking: &Asking) -> Result<String, AskError> {
    let answer = ask(&asking.admin_socket, question)?;
    if asking.json {
        return Ok(format!("{answer}\n"));
    }
    Ok(match question {
        Question::Status => show::status(&decode(&answer)?),
        Question::Peers => show::peers(&decode(&answer)?),
        Question::Drops => show::drops(&decode(&answer)?),
        Question::Release => show::released(&decode(&answer)?),
        Question::Rotate => show::rotated(&decode(&answer)?),
    })
}

/// Options for the daemon, or the end if they ask for nothing else or are wrong.
fn daemon_options(
    program: &str,
    arguments: &[OsString],
) -> Result<(Flags, Box<Options>), ExitCode> {
    match read_command_line(arguments) {
        Ok(Asked::Help) => {
            let _ = std::io::stdout().write_all(flags::usage(program).as_bytes());
            Err(ExitCode::SUCCESS)
        }
        Ok(Asked::Version) => {
            eprintln!("{VERSION}");
            Err(ExitCode::SUCCESS)
        }
        Ok(Asked::Run(flags, options)) => Ok((flags, options)),
        Err(refusal) => {
            let _ = std::io::stderr().write_all(refusal.text(program).as_bytes());
            Err(ExitCode::from(BAD_FLAG))
        }
    }
}

fn run_plan(program: &str, arguments: &[OsString]) -> ExitCode {
    let is_json = |argument: &&OsString| *argument == "--json" || *argument == "-json";
    let others: Vec<OsString> =
        arguments.iter().filter(|argument| !is_json(argument)).cloned().collect();
    match daemon_options(program, &others) {
        Ok((_, options)) => plan::run(&options, others.len() < arguments.len()),
        Err(end) => end,
    }
}

fn run_daemon(program: &str, arguments: &[OsString]) -> ExitCode {
    let (flags, options) = match daemon_options(program, arguments) {
        Ok(asked) => asked,
        Err(end) => return end,
    };
    logging::start(flags.integer("v"));
    log_flags(&flags);
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure:#}");
            ExitCode::FAILURE
        }
    }
}

enum Asked {
    Help,
    Version,
    Run(Flags, Box<Options>),
}

/// Why the daemon is not even started.
struct Refusal {
    mistakes: Vec<Mistake>,
    /// The flags themselves were wrong, so that their list helps.
    show_usage: bool,
}

impl Refusal {
    /// The mistakes come last: the usage is longer than a screen.
    fn text(&self, program: &str) -> String {
        let mut text = if self.show_usage { flags::usage(program) } else { String::new() };
        for mistake in &self.mistakes {
            text.push_str(&format!("{program}: {mistake}\n"));
        }
        text
    }
}

fn read_command_line(arguments: &[OsString]) -> Result<Asked, Refusal> {
    let by_flags = |mistakes| Refusal { mistakes, show_usage: true };
    let arguments = as_text(arguments).map_err(by_flags)?;
    let variable = |name: &str| std::env::var(name).ok();
    let flags = match Flags::parse(&arguments, variable).map_err(by_flags)? {
        flags::Command::Help => return Ok(Asked::Help),
        flags::Command::Version => return Ok(Asked::Version),
        flags::Command::Run(flags) => flags,
    };
    let options =
        Options::check(&flags).map_err(|mistakes| Refusal { mistakes, show_usage: false })?;
    Ok(Asked::Run(flags, Box::new(options)))
}

fn as_text(arguments: &[OsString]) -> Result<Vec<String>, Vec<Mistake>> {
    let (texts, mistakes): (Vec<_>, Vec<_>) =
        arguments.iter().map(|argument| argument.clone().into_string()).partition(Result::is_ok);
    if !mistakes.is_empty() {
        let sentence = |wrong: OsString| Mistake(format!("argument {wrong:?} is not UTF-8 text"));
        return Err(mistakes.into_iter().filter_map(Result::err).map(sentence).collect());
    }
    Ok(texts.into_iter().flatten().collect())
}

fn log_flags(flags: &Flags) {
    info!(version = VERSION, options = flags.describe(), "starting");
    for mistake in flags.rejected() {
        error!(%mistake, "a variable has a bad value; the default holds");
    }
    if let Some((first, others)) = flags.ignored().split_first() {
        // Only their beginning: a password may be among them.
        let first = first.split('=').next().unwrap_or_default();
        warn!(
            first,
            others = others.len(),
            "arguments after the flags are ignored; booleans take a value only as --flag=value"
        );
    }
    for remark in remarks(flags) {
        warn!("{remark}");
    }
    if !unused(flags).is_empty() {
        info!(flags = ?unused(flags), "not used, because another source is chosen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_that_are_no_text_are_all_named() {
        let bad = || OsString::from_vec(vec![0xff]);
        let mistakes = as_text(&[bad(), "--v=1".into(), bad()]).unwrap_err();
        assert_eq!(mistakes.len(), 2);
    }
}
