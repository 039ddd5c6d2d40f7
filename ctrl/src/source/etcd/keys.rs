//! Names of keys.

/// Keys below one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Cleans the prefix as Go's `path.Join` does, which flanneld uses.
    pub(super) fn new(prefix: &str) -> Self {
        let rooted = prefix.starts_with('/');
        let mut parts: Vec<&str> = Vec::new();
        for part in prefix.split('/') {
            match part {
                "" | "." => {}
                ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
                ".." if rooted => {}
                part => parts.push(part),
            }
        }
        let root = if rooted { "/" } else { "" };
        Self { prefix: format!("{root}{}", parts.join("/")) }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn join(&self, rest: &str) -> String {
        let separator = if self.prefix.is_empty() || self.prefix.ends_with('/') { "" } else { "/" };
        format!("{}{separator}{rest}", self.prefix)
    }

    pub(super) fn config(&self) -> String {
        self.join("config")
    }

    /// What all keys of leases begin with. flanneld leaves the slash out and so trips over any key
    /// whose name goes on after `subnets`.
    pub(super) fn leases(&self) -> String {
        self.join("subnets/")
    }

    /// The first key after all leases.
    pub(super) fn leases_end(&self) -> String {
        self.join("subnets0")
    }

    pub(super) fn lease(&self, name: &str) -> String {
        format!("{}{name}", self.leases())
    }

    /// The name in the key of a lease.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        let name = key.strip_prefix(self.leases().as_bytes())?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_cleaned() {
        for (prefix, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//a///b/", "/a/b/config"),
            ("/a/./b/../c", "/a/c/config"),
            ("/..", "/config"),
            ("a", "a/config"),
            ("../a", "../a/config"),
            ("", "config"),
            ("/", "/config"),
        ] {
            assert_eq!(Keys::new(prefix).config(), config, "{prefix}");
        }
    }

    #[test]
    fn leases_lie_between_their_ends() {
        let keys = Keys::new("/x");
        let key = keys.lease("10.5.34.0-24");
        assert_eq!(key, "/x/subnets/10.5.34.0-24");
        assert!(keys.leases() < key && key < keys.leases_end());
        assert_eq!(keys.name(key.as_bytes()).as_deref(), Some("10.5.34.0-24"));
        assert_eq!(keys.name(b"/x/subnets-foo/10.5.34.0-24"), None);
        assert_eq!(keys.name(b"/x/subnets/\xff").as_deref(), Some("\u{fffd}"));
    }
}
