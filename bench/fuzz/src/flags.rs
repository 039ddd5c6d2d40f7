//! The daemon's command line and environment, in Go's syntax.

use weft::flags::{ALL, Command, Flags, variable_name};
use weft::options::{Options, unused};

/// Arguments, one a line; behind a line of one `;`, variables as `NAME=VALUE`, the prefix left out.
pub fn flags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let arguments: Vec<String> =
        lines.by_ref().take_while(|line| *line != ";").map(str::to_owned).collect();
    let variables: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (variable_name(name), value))
        .collect();
    let variable = |name: &str| {
        let found = variables.iter().rfind(|(known, _)| known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    match Flags::parse(&arguments, variable) {
        Ok(Command::Help | Command::Version) => {}
        Ok(Command::Run(flags)) => check(&flags, &arguments),
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.0.is_empty()));
        }
    }
}

fn check(flags: &Flags, arguments: &[String]) {
    assert!(arguments.ends_with(flags.ignored()));
    let line = flags.describe();
    for flag in ALL {
        assert!(flag.name == "version" || line.contains(&format!("{}=", flag.name)));
        if flag.secret && flags.origin(flag.name).is_some() {
            check_secret(flags, &flags.show(flag.name), &line);
        }
    }
    let _ = unused(flags);
    match Options::check(flags) {
        Ok(options) => {
            assert!(
                options.admin_socket.file_name().is_some()
                    || flags.origin("admin-socket").is_some()
            );
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.0.is_empty()));
        }
    }
}

/// A secret is not in the line, unless it is also what something else is called.
fn check_secret(flags: &Flags, secret: &str, line: &str) {
    let is_other = |other: &weft::flags::Definition| {
        let shown = if other.secret { "***".to_owned() } else { flags.show(other.name) };
        format!("{}={shown}", other.name).contains(secret)
    };
    let is_known = secret.contains([' ', '=']) || ALL.iter().any(is_other);
    assert!(is_known || !line.contains(secret), "a secret is shown");
}
