//! Where the programs of others are.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Programs;

/// A program on the path, or where `scripts/comparators` installs what the distribution lacks: in
/// `tools` beside the directory of this program.
pub(super) fn find(name: &str, programs: &Programs) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = programs.bench.parent().and_then(|directory| directory.parent());
    let tools = tools.map(|target| target.join("tools/bin"));
    let mut places = std::env::split_paths(&path).chain(tools).map(|place| place.join(name));
    places
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed: run scripts/comparators"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let programs =
            Programs { weft: PathBuf::new(), weft_flags: Vec::new(), bench: "/a/b/bench".into() };
        assert!(find("sh", &programs).unwrap().is_absolute());
        let error = find("no-such-program", &programs).unwrap_err().to_string();
        assert_eq!(error, "no-such-program is not installed: run scripts/comparators");
    }
}
