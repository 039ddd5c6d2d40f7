//! `weft generate`: manual pages and shell completions, for packages. Made from the definitions that
//! the program itself goes by, so that they cannot say anything else.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;

use crate::flags::{ALL, Definition, Kind};

/// Writes `DIRECTORY/man` and `DIRECTORY/completions` for a program with these commands.
pub(crate) fn run(program: Command, directory: &Path) -> ExitCode {
    match write(with_daemon(program), directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(mut program: Command, directory: &Path) -> Result<()> {
    let (manual, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&manual, &completions] {
        fs::create_dir_all(directory)
            .with_context(|| format!("Could not create {}", directory.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, "weft", &completions)
            .with_context(|| format!("Could not write the completions of {shell}"))?;
    }
    clap_mangen::generate_to(program, &manual).context("Could not write the manual pages")
}

/// Adds the commands that the program takes apart by Go's rules and not by clap's.
fn with_daemon(program: Command) -> Command {
    let daemon = Command::new("daemon")
        .about("Run the daemon; it takes the flags of flanneld")
        .after_help(
            "A flag may have one dash or two. A boolean takes a value only as --flag=value. Every \
             flag is also read from a variable: FLANNELD_ and its name in capitals with \
             underscores. Exit codes: 0 asked to stop, 1 cannot start or go on, 2 wrong flags.",
        )
        .args(ALL.iter().map(argument));
    let plan = Command::new("plan")
        .about("Show what the daemon with these flags would change on this host; changes nothing")
        .after_help("Exit codes: 0 nothing, 3 something, 1 it cannot be said, 2 wrong flags.")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"))
        .args(ALL.iter().map(argument));
    program.subcommand(daemon).subcommand(plan)
}

fn argument(flag: &Definition) -> Arg {
    let default = match flag.default {
        "" => String::new(),
        default => format!(" (default {default})"),
    };
    let argument = Arg::new(flag.name).long(flag.name).help(format!("{}{default}", flag.help));
    match flag.kind {
        Kind::Boolean if flag.name == "version" => argument.action(ArgAction::SetTrue),
        Kind::Boolean => {
            argument.num_args(0..=1).require_equals(true).value_parser(["true", "false"])
        }
        Kind::Choice(words) => argument.value_parser(words.to_vec()),
        Kind::Repeatable => argument.action(ArgAction::Append).value_name("value"),
        Kind::Integer | Kind::Level => argument.value_name("int"),
        Kind::Text => argument.value_name("string"),
        Kind::Words(words) => argument.value_delimiter(',').value_parser(words.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_daemon_is_in_its_page_and_in_the_completions() {
        let directory = tempfile::tempdir().unwrap();
        let program = Command::new("weft").subcommand(Command::new("status"));
        write(with_daemon(program), directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        let (page, plan, bash) =
            (read("man/weft-daemon.1"), read("man/weft-plan.1"), read("completions/weft.bash"));
        for flag in ALL {
            // The dashes of a manual page are escaped.
            let escaped = format!("\\-\\-{}", flag.name.replace('-', "\\-"));
            assert!(page.contains(&escaped) && plan.contains(&escaped), "{escaped}");
            assert!(bash.contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
        assert!(read("man/weft.1").contains("status"));
        for completions in ["completions/_weft", "completions/weft.fish"] {
            assert!(read(completions).contains("lease-dir"), "{completions}");
        }
    }
}
