//! Files of `KEY=VALUE` lines as shells and dotenv readers take them.

use std::collections::HashMap;

/// Parses what can be parsed; other lines are skipped. The last of equal keys wins.
pub(super) fn parse(text: &str) -> HashMap<String, String> {
    text.lines().filter_map(line).collect()
}

/// One line: comments, `export`, blanks around the key and quotes around the value are taken away.
fn line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once(['=', ':'])?;
    let key = key.trim();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_.".contains(letter);
    (!key.is_empty() && key.chars().all(is_name))
        .then(|| (key.into(), unquote(value.trim()).into()))
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            return inner.split(quote).next().unwrap_or(inner);
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    value.get(..end).unwrap_or(value).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let rows = [
            ("A=1", Some(("A", "1"))),
            ("  export A = 1  ", Some(("A", "1"))),
            ("A: 1", Some(("A", "1"))),
            ("A=\"1 # 2\" # 3", Some(("A", "1 # 2"))),
            ("A='x\"y'", Some(("A", "x\"y"))),
            ("A=\"open", Some(("A", "open"))),
            ("A=1 # note", Some(("A", "1"))),
            ("A=", Some(("A", ""))),
            ("#A=1", None),
            ("A", None),
            ("=1", None),
            ("A B=1", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let found = line(text);
            let found = found.as_ref().map(|(key, value)| (key.as_str(), value.as_str()));
            assert_eq!(found, expected, "{text:?}");
        }
        assert_eq!(parse("A=1\nA=2\n")["A"], "2");
    }
}
