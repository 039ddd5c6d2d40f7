//! JSON as Go's `encoding/json` reads it into a struct, because configurations in the wild rely on
//! its habits: keys match whatever their case, unknown keys are ignored, every occurrence of a
//! repeated key is read in the order of the document (so the last one wins), `null` leaves the
//! default, and integers must be written as integers.
//!
//! A map type would lose the order of repeated keys that differ in case, so objects are kept as
//! lists of pairs.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Any JSON value, with objects as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    Array(Vec<Value>),
    Object(Object),
}

/// The pairs of an object in the order of the document, repeated keys included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(Vec<(String, Value)>);

/// Parses a whole document. Invalid UTF-8 becomes U+FFFD, as in Go.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&String::from_utf8_lossy(bytes))
}

impl Value {
    /// What kind of value this is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The same value in the common representation; of a repeated key the last one stays.
    pub(crate) fn to_plain(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(number) => serde_json::Value::Number(number.clone()),
            Self::Text(text) => text.clone().into(),
            Self::Array(items) => items.iter().map(Self::to_plain).collect(),
            Self::Object(object) => object
                .0
                .iter()
                .map(|(key, value)| (key.clone(), value.to_plain()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

impl Object {
    /// Every value whose key matches `name`, in the order of the document.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |(key, _)| same_key(key, name)).map(|(_, value)| value)
    }

    /// The last value whose key matches `name`, `null` included.
    pub(crate) fn last<'a>(&'a self, name: &'a str) -> Option<&'a Value> {
        self.all(name).last()
    }
}

/// Go folds keys by simple Unicode folding; besides ASCII only two letters fold into ASCII ones.
fn same_key(left: &str, right: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    left.chars().map(fold).eq(right.chars().map(fold))
}

/// Reads typed fields out of an object and collects every mistake instead of stopping at the first.
pub(crate) struct Fields<'a> {
    object: &'a Object,
    /// Written before the key in messages, for example `Backend.`.
    prefix: &'static str,
    mistakes: &'a mut Vec<String>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(
        object: &'a Object,
        prefix: &'static str,
        mistakes: &'a mut Vec<String>,
    ) -> Self {
        Self { object, prefix, mistakes }
    }

    /// Adds a mistake about `key`.
    pub(crate) fn mistake(&mut self, key: &str, text: &str) {
        self.mistakes.push(format!("{}{key} {text}", self.prefix));
    }

    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let mut result = None;
        let object = self.object;
        for (_, value) in object.0.iter().filter(|(name, _)| same_key(name, key)) {
            if *value == Value::Null {
                continue;
            }
            match convert(value) {
                Some(converted) => result = Some(converted),
                None => self.mistake(key, &format!("is {}, expected {expected}", value.kind())),
            }
        }
        result
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        self.read(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A JSON integer that is not negative; `1.0`, `1e2` and `"1"` are mistakes, as in Go.
    pub(crate) fn unsigned(&mut self, key: &str) -> Option<u64> {
        self.read(key, "an integer that is not negative", |value| match value {
            Value::Number(number) => number.as_u64(),
            _ => None,
        })
    }

    /// An array whose items are all strings.
    pub(crate) fn texts(&mut self, key: &str) -> Option<Vec<&'a str>> {
        self.read(key, "an array of strings", |value| match value {
            Value::Array(items) => items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(Value::Object(Object(pairs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        match parse(text.as_bytes()).unwrap() {
            Value::Object(object) => object,
            other => panic!("not an object: {other:?}"),
        }
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_one_in_the_document_wins() {
        let mut mistakes = Vec::new();
        let parsed = object(r#"{"Len":1,"len":2,"LEN":3,"Len":4,"len":null,"x":{}}"#);
        assert_eq!(Fields::new(&parsed, "", &mut mistakes).unsigned("Len"), Some(4));
        let parsed = object("{\"\u{212a}ey\u{17f}\":7}");
        assert_eq!(Fields::new(&parsed, "", &mut mistakes).unsigned("keys"), Some(7));
        assert!(mistakes.is_empty());
    }

    #[test]
    fn integers_must_be_written_as_integers() {
        for bad in ["1.0", "1e2", "\"1\"", "-1", "-0", "true", "[1]", "18446744073709551616"] {
            let parsed = object(&format!("{{\"n\":{bad}}}"));
            let mut mistakes = Vec::new();
            assert_eq!(Fields::new(&parsed, "B.", &mut mistakes).unsigned("n"), None, "{bad}");
            assert_eq!(mistakes.len(), 1, "{bad}");
            assert!(mistakes[0].starts_with("B.n is "), "{}", mistakes[0]);
        }
    }

    #[test]
    fn a_wrong_occurrence_is_a_mistake_even_if_a_later_one_is_right() {
        let parsed = object(r#"{"flag":"yes","flag":true}"#);
        let mut mistakes = Vec::new();
        assert_eq!(Fields::new(&parsed, "", &mut mistakes).boolean("flag"), Some(true));
        assert_eq!(mistakes, ["flag is a string, expected true or false"]);
    }
}
