//! Flags that flanneld or later versions have a function for and this version has not. Setting one
//! is refused with a sentence, because ignoring it would leave a host in a state that nobody asked
//! for. Defaults are never refused, nor is a value that asks for what happens anyway.

use crate::flags::{Flags, Mistake};

const LOGGING: &[&str] = &["vmodule", "log_backtrace_at"];

/// Every flag that was set and has no function, a sentence each.
pub(super) fn refusals(flags: &Flags) -> Vec<Mistake> {
    let mut refusals = Refusals { flags, sentences: Vec::new() };
    refusals.group(LOGGING, "logging by source file is not built: use --v");
    refusals.sentences
}

struct Refusals<'a> {
    flags: &'a Flags,
    sentences: Vec<Mistake>,
}

impl Refusals<'_> {
    fn refuse(&mut self, sentence: String) {
        self.sentences.push(Mistake(sentence));
    }

    fn group(&mut self, names: &[&str], reason: &str) {
        for name in names {
            if self.asks_for_something(name) {
                self.refuse(format!("--{name}: {reason}"));
            }
        }
    }

    /// Set, and not to "no" or "none", which is what happens anyway.
    fn asks_for_something(&self, name: &str) -> bool {
        self.flags.origin(name).is_some() && !matches!(self.flags.show(name).as_str(), "false" | "")
    }
}
