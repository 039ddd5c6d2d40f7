//! Addresses of etcd servers, as flanneld's users write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
}

/// Why an endpoint cannot be used. Never has a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither http nor https.
    #[error("{0:?} is neither an http:// nor an https:// URL")]
    Scheme(String),
    /// There is no host in it.
    #[error("{0:?} names no server, as http://10.0.0.1:2379 does")]
    Host(String),
}

/// What was found in a list of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The servers, in the order given.
    pub servers: Vec<Endpoint>,
    /// Some had a user and a password, which is not how etcd authenticates.
    pub had_credentials: bool,
}

impl Endpoint {
    /// The URL, without user and password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether traffic to it is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Whether traffic to it stays on this host. A name may lead anywhere, but for the one of the host
    /// itself (RFC 6761).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let authority = self.url.split_once("://").map_or("", |(_, rest)| rest);
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return address.ip().is_loopback();
        }
        let bare = authority.trim_start_matches('[').trim_end_matches(']');
        let is_address = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        let is_loopback_v4 = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
        is_address || is_loopback_v4 || name.eq_ignore_ascii_case("localhost")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)
    }
}

impl Endpoints {
    /// Reads a list that is separated by commas. An endpoint without a scheme is encrypted if
    /// `encrypted`.
    ///
    /// # Errors
    /// The first endpoint that cannot be used.
    pub fn parse(list: &str, encrypted: bool) -> Result<Self, EndpointError> {
        let mut found = Self::default();
        for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let (server, had_credentials) = parse(text, encrypted)?;
            found.had_credentials |= had_credentials;
            found.servers.push(server);
        }
        match found.servers.is_empty() {
            true => Err(EndpointError::Host(String::new())),
            false => Ok(found),
        }
    }
}

/// The list as it may be logged: user and password are replaced by stars.
#[must_use]
pub fn without_credentials(list: &str) -> String {
    let shown = list.split(',').map(|text| match text.rsplit_once('@') {
        None => text.to_owned(),
        Some((before, host)) => {
            let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
            format!("{}***@{host}", scheme.unwrap_or_default())
        }
    });
    shown.collect::<Vec<_>>().join(",")
}

fn parse(text: &str, encrypted: bool) -> Result<(Endpoint, bool), EndpointError> {
    let shown = without_credentials(text);
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(EndpointError::Scheme(shown)),
        None => (if encrypted { "https" } else { "http" }, text),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (had_credentials, host) = match authority.rsplit_once('@') {
        Some((_, host)) => (true, host),
        None => (false, authority),
    };
    let is_host = !host.is_empty() && !host.starts_with(':');
    if !is_host || host.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(EndpointError::Host(shown));
    }
    Ok((Endpoint { url: format!("{scheme}://{host}") }, had_credentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &str, encrypted: bool) -> Vec<String> {
        let found = Endpoints::parse(list, encrypted).unwrap();
        found.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_in_every_form() {
        assert_eq!(
            urls("http://127.0.0.1:4001,https://etcd.example:2379/", false),
            ["http://127.0.0.1:4001", "https://etcd.example:2379"]
        );
        assert_eq!(
            urls(" 10.0.0.1:2379 ,,[::1]:2379", false),
            ["http://10.0.0.1:2379", "http://[::1]:2379"]
        );
        assert_eq!(urls("10.0.0.1:2379", true), ["https://10.0.0.1:2379"]);
        assert_eq!(urls("http://10.0.0.1:2379", true), ["http://10.0.0.1:2379"]);
    }

    #[test]
    fn only_this_host_is_loopback() {
        let is_loopback = |text| Endpoints::parse(text, false).unwrap().servers[0].is_loopback();
        for here in ["127.0.0.1:2379", "http://127.9.9.9", "[::1]:2379", "[::1]", "LocalHost:1"] {
            assert!(is_loopback(here), "{here}");
        }
        for away in ["10.0.0.1:2379", "[2001:db8::1]:2379", "localhost.example:1", "127.0.0.1.x:1"]
        {
            assert!(!is_loopback(away), "{away}");
        }
    }

    #[test]
    fn credentials_are_left_out_and_noticed() {
        let list = "http://user:p@ss:word@10.0.0.1:2379,user:secret@10.0.0.2:2379";
        let found = Endpoints::parse(list, false).unwrap();
        assert!(found.had_credentials);
        assert_eq!(urls(list, false), ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
        assert_eq!(without_credentials(list), "http://***@10.0.0.1:2379,***@10.0.0.2:2379");
        assert_eq!(without_credentials("http://a,http://b"), "http://a,http://b");
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn what_is_no_server_is_refused_without_its_password() {
        for text in
            ["unix:///run/etcd", "ftp://user:secret@host", "http://", "http://:2379", ",", "a b"]
        {
            let error = Endpoints::parse(text, false).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
