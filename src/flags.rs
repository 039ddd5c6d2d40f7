//! The daemon's command line: flanneld's flags with the syntax of Go's `flag` package, and the
//! `FLANNELD_*` variables.
//!
//! `-x` and `--x` are equal, a value follows as `-x=v` or as the next argument, booleans take a
//! value only after `=`, and the first argument that is not a flag (or `--`) ends the flags.
//! Unlike flanneld, which stops at the first mistake, every mistake is collected.

mod definition;
mod value;

use std::collections::BTreeMap;
use std::fmt;

use weft_ctrl::source::etcd::without_credentials;

pub use definition::{ALL, Definition, Kind, definition};
pub use value::Value;

/// Where the value of a flag came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Given as an argument.
    CommandLine,
    /// Given as a `FLANNELD_*` variable.
    Environment,
}

/// One thing that is wrong with the command line, as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake(pub String);

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Command {
    /// `-h`, `-help`: print the usage.
    Help,
    /// `-version`: print the version.
    Version,
    /// Run, with these flags.
    Run(Flags),
}

/// The flags that were set, each with a value of its definition's kind.
#[derive(Debug, Default)]
pub struct Flags {
    set: BTreeMap<&'static str, (Origin, Value)>,
    ignored: Vec<String>,
    rejected: Vec<Mistake>,
    surroundings: BTreeMap<&'static str, String>,
}

/// Variables that say where the daemon runs. They stand for no flag.
const SURROUNDINGS: &[&str] = &[
    "NODE_NAME",
    "POD_NAME",
    "POD_NAMESPACE",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
];

impl Flags {
    /// Reads arguments (without the program's name), then fills what they left open from
    /// variables. A bad argument is a mistake; a bad variable is only noted, see [`Self::rejected`].
    pub fn parse(
        arguments: &[String],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Command, Vec<Mistake>> {
        let mut parser = Parser::default();
        parser.run(arguments);
        if parser.help {
            return Ok(Command::Help);
        }
        if !parser.mistakes.is_empty() {
            return Err(parser.mistakes);
        }
        let mut flags = parser.flags;
        if flags.boolean("version") {
            return Ok(Command::Version);
        }
        let set = |name: &&'static str| variable(name).filter(|text| !text.is_empty());
        flags.surroundings =
            SURROUNDINGS.iter().filter_map(|name| Some((*name, set(name)?))).collect();
        flags.fill_from_environment(variable);
        Ok(Command::Run(flags))
    }

    /// Where `name` was set, or `None` if its value is the default.
    pub fn origin(&self, name: &str) -> Option<Origin> {
        self.set.get(name).map(|(origin, _)| *origin)
    }

    /// The value of a text flag.
    pub fn text(&self, name: &str) -> &str {
        match self.set.get(name) {
            Some((_, value)) => value.as_text().expect("a text flag holds text"),
            None => definition(name).default,
        }
    }

    /// The values of a repeatable flag or of a comma-separated set, in the order given.
    pub fn list(&self, name: &str) -> &[String] {
        match self.set.get(name) {
            Some((_, value)) => value.as_list().expect("a list flag holds a list"),
            None => &[],
        }
    }

    /// The value of a boolean flag.
    pub fn boolean(&self, name: &str) -> bool {
        self.value(name).as_boolean().expect("a boolean flag holds a boolean")
    }

    /// The value of an integer flag.
    pub fn integer(&self, name: &str) -> i64 {
        self.value(name).as_integer().expect("an integer flag holds an integer")
    }

    /// A variable that says where the daemon runs, such as `NODE_NAME`.
    pub fn surrounding(&self, name: &str) -> Option<&str> {
        self.surroundings.get(name).map(String::as_str)
    }

    /// The value of any flag as text.
    pub fn show(&self, name: &str) -> String {
        self.set
            .get(name)
            .map_or_else(|| definition(name).default.to_owned(), |(_, value)| value.to_string())
    }

    /// Arguments after the last flag. flanneld ignores them without a word, which hides mistakes
    /// like `--ip-masq false`.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Variables whose value could not be used; the default holds instead.
    pub fn rejected(&self) -> &[Mistake] {
        &self.rejected
    }

    /// Every flag with its value on one line; secrets are replaced by stars, also those in URLs.
    pub fn describe(&self) -> String {
        let shown = ALL.iter().filter(|flag| flag.name != "version").map(|flag| {
            let value = match self.set.get(flag.name) {
                Some(_) if flag.secret => "***".to_owned(),
                Some((_, Value::Text(list))) if flag.name == "etcd-endpoints" => {
                    without_credentials(list)
                }
                _ => self.show(flag.name),
            };
            format!("{}={value}", flag.name)
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn value(&self, name: &str) -> Value {
        match self.set.get(name) {
            Some((_, value)) => value.clone(),
            None => {
                let flag = definition(name);
                Value::parse(flag.kind, flag.default).expect("a default parses as its own kind")
            }
        }
    }

    fn store(&mut self, flag: &'static Definition, origin: Origin, value: Value) {
        match self.set.get_mut(flag.name) {
            Some((_, earlier)) => earlier.replace_or_append(flag.kind, value),
            None => drop(self.set.insert(flag.name, (origin, value))),
        }
    }

    fn fill_from_environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        for flag in ALL.iter().filter(|flag| flag.name != "version") {
            if self.set.contains_key(flag.name) {
                continue;
            }
            let name = variable_name(flag.name);
            let Some(text) = variable(&name).filter(|text| !text.is_empty()) else { continue };
            match Value::parse(flag.kind, &text) {
                Ok(value) => self.store(flag, Origin::Environment, value),
                Err(problem) => self.rejected.push(Mistake(format!("{name}={text}: {problem}"))),
            }
        }
    }
}

/// `FLANNELD_` and the flag's name in capitals with underscores.
pub fn variable_name(flag: &str) -> String {
    format!("FLANNELD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// The help text, as `program` was called.
pub fn usage(program: &str) -> String {
    let mut text = format!("Usage: {program} [OPTION]...\n");
    for flag in ALL {
        let kind = flag.kind.placeholder();
        let separator = if kind.is_empty() { "" } else { " " };
        let default = match flag.default {
            "" => String::new(),
            default => format!(" (default {default})"),
        };
        text.push_str(&format!(
            "  --{}{separator}{kind}\n        {}{default}\n",
            flag.name, flag.help
        ));
    }
    text
}

#[derive(Default)]
struct Parser {
    flags: Flags,
    mistakes: Vec<Mistake>,
    help: bool,
}

impl Parser {
    fn run(&mut self, arguments: &[String]) {
        let mut rest = arguments;
        while let Some((argument, after)) = rest.split_first() {
            let Some(body) = flag_body(argument) else {
                let from = if argument == "--" { after } else { rest };
                self.flags.ignored = from.to_vec();
                return;
            };
            rest = self.flag(argument, body, after);
        }
    }

    /// Handles one flag and returns the arguments that are left behind it.
    fn flag<'a>(&mut self, argument: &str, body: &str, after: &'a [String]) -> &'a [String] {
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            self.mistake(format!("bad flag syntax: {argument}"));
            return after;
        }
        let Some(flag) = ALL.iter().find(|flag| flag.name == name) else {
            return self.unknown(name, given.is_some(), after);
        };
        match (given, flag.kind) {
            (Some(value), _) => self.store(flag, value),
            (None, Kind::Boolean) => self.store(flag, "true"),
            (None, _) => {
                let Some((value, after)) = after.split_first() else {
                    self.mistake(format!("flag needs an argument: --{name}"));
                    return after;
                };
                self.store(flag, value);
                return after;
            }
        }
        after
    }

    /// An unknown flag. What follows it and is no flag was most likely meant as its value, so it
    /// does not end the flags: the mistakes behind it are to be found in the same run.
    fn unknown<'a>(&mut self, name: &str, has_value: bool, after: &'a [String]) -> &'a [String] {
        if name == "h" || name == "help" {
            self.help = true;
            return after;
        }
        self.mistake(format!("flag provided but not defined: --{name}"));
        match after.split_first() {
            Some((next, behind)) if !has_value && !next.starts_with('-') => behind,
            _ => after,
        }
    }

    fn store(&mut self, flag: &'static Definition, text: &str) {
        match Value::parse(flag.kind, text) {
            Ok(value) => self.flags.store(flag, Origin::CommandLine, value),
            Err(problem) => {
                self.mistake(format!("invalid value {text:?} for flag --{}: {problem}", flag.name));
            }
        }
    }

    fn mistake(&mut self, text: String) {
        self.mistakes.push(Mistake(text));
    }
}

/// The argument without its dashes, or `None` if it is no flag and so ends the flags.
fn flag_body(argument: &str) -> Option<&str> {
    if argument == "--" || argument == "-" {
        return None;
    }
    let body = argument.strip_prefix('-')?;
    Some(body.strip_prefix('-').unwrap_or(body))
}

#[cfg(test)]
mod tests;
