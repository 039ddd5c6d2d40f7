//! Values of flags, in the forms that Go's `flag` and `strconv` packages accept.

use std::fmt;

use super::Kind;

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Any text.
    Text(String),
    /// The values of a repeatable flag, or the words of a comma-separated set.
    List(Vec<String>),
    /// A Go boolean.
    Boolean(bool),
    /// A Go integer.
    Integer(i64),
}

impl Value {
    /// Reads `text` as a value of `kind`; the error says what was expected.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        match kind {
            Kind::Text => Ok(Self::Text(text.to_owned())),
            Kind::Repeatable => Ok(Self::List(vec![text.to_owned()])),
            Kind::Boolean => boolean(text).map(Self::Boolean),
            Kind::Integer => integer(text).map(Self::Integer),
            Kind::Level => level(text).map(Self::Integer),
            Kind::Choice(words) => match words.contains(&text) {
                true => Ok(Self::Text(text.to_owned())),
                false => Err(format!("expected one of {}", words.join(", "))),
            },
            Kind::Words(words) => subset(words, text).map(Self::List),
        }
    }

    /// The text, if this is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The list, if this is one.
    pub fn as_list(&self) -> Option<&[String]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The boolean, if this is one.
    pub fn as_boolean(&self) -> Option<bool> {
        if let Self::Boolean(value) = self { Some(*value) } else { None }
    }

    /// The integer, if this is one.
    pub fn as_integer(&self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    /// A flag given again: repeatable ones collect, others keep the last value.
    pub(super) fn replace_or_append(&mut self, kind: Kind, later: Self) {
        match (kind, self, later) {
            (Kind::Repeatable, Self::List(list), Self::List(more)) => list.extend(more),
            (_, place, later) => *place = later,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::List(list) => formatter.write_str(&list.join(",")),
            Self::Boolean(value) => value.fmt(formatter),
            Self::Integer(value) => value.fmt(formatter),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Go's `strconv.ParseInt` with base 0: a sign, then `0x`, `0o`, `0b` or a plain leading `0`
/// (octal) choose the base, and single underscores may separate digits once a base is written.
fn integer(text: &str) -> Result<i64, String> {
    let wrong = || "expected a whole number".to_owned();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, digits) = split_base(digits);
    if !separators_are_well_placed(digits, base) {
        return Err(wrong());
    }
    let digits: String = digits.chars().filter(|digit| *digit != '_').collect();
    if !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(wrong());
    }
    let magnitude = i128::from_str_radix(&digits, base).map_err(|_| wrong())?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| "the number is out of range".to_owned())
}

fn split_base(digits: &str) -> (u32, &str) {
    let Some(after_zero) = digits.strip_prefix('0').filter(|rest| !rest.is_empty()) else {
        return (10, digits);
    };
    match after_zero.split_at_checked(1) {
        Some(("x" | "X", rest)) => (16, rest),
        Some(("o" | "O", rest)) => (8, rest),
        Some(("b" | "B", rest)) => (2, rest),
        _ => (8, after_zero),
    }
}

/// Underscores stand between digits, or between the base prefix and a digit; decimal numbers take
/// them too.
fn separators_are_well_placed(digits: &str, base: u32) -> bool {
    let first_is_free = base != 10;
    let first = digits.starts_with('_') && !first_is_free;
    !(first || digits.ends_with('_') || digits.contains("__"))
}

/// klog's verbosity is a plain decimal number of 32 bits.
fn level(text: &str) -> Result<i64, String> {
    text.parse::<i32>().map(i64::from).map_err(|_| "expected a whole number".to_owned())
}

fn subset(words: &[&str], text: &str) -> Result<Vec<String>, String> {
    let given: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    match given.iter().find(|word| !words.contains(word)) {
        Some(word) => Err(format!("{word:?} is none of {}", words.join(", "))),
        None => Ok(given.into_iter().map(str::to_owned).collect()),
    }
}
