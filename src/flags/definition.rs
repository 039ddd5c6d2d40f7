//! The list of flags: flanneld's, then our own.

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Any text; given again it adds a value.
    Repeatable,
    /// A Go boolean, with its value only after `=`.
    Boolean,
    /// A Go integer.
    Integer,
    /// A decimal number of 32 bits, as klog reads its verbosity.
    Level,
    /// Exactly one of these words.
    Choice(&'static [&'static str]),
    /// Any of these words, separated by commas.
    Words(&'static [&'static str]),
}

impl Kind {
    /// How the usage names the value; empty for booleans.
    pub fn placeholder(self) -> String {
        match self {
            Self::Text => "string".to_owned(),
            Self::Repeatable => "value (repeatable)".to_owned(),
            Self::Boolean => String::new(),
            Self::Integer | Self::Level => "int".to_owned(),
            Self::Choice(words) => words.join("|"),
            Self::Words(words) => format!("{{{}}},...", words.join("|")),
        }
    }
}

/// One flag.
#[derive(Debug)]
pub struct Definition {
    /// Name without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Value when it is not set, in the form in which it would be given.
    pub default: &'static str,
    /// One line for the usage.
    pub help: &'static str,
    /// Its value is kept out of logs.
    pub secret: bool,
}

use Kind::{Boolean, Choice, Integer, Level, Repeatable, Text, Words};

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Definition {
    Definition { name, kind, default, help, secret: false }
}

const fn secret(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Text, default: "", help, secret: true }
}

/// The definition of a flag that exists.
pub fn definition(name: &str) -> &'static Definition {
    ALL.iter().find(|flag| flag.name == name).expect("only names of the list are asked for")
}

/// Every flag, flanneld's first.
pub const ALL: &[Definition] = &[
    flag(
        "etcd-endpoints",
        Text,
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "comma-separated URLs of the etcd servers",
    ),
    flag("etcd-prefix", Text, "/coreos.com/network", "prefix of the keys in etcd"),
    flag("etcd-keyfile", Text, "", "file with the TLS client key for etcd"),
    flag("etcd-certfile", Text, "", "file with the TLS client certificate for etcd"),
    flag("etcd-cafile", Text, "", "file with the certificate authority of etcd"),
    flag("etcd-username", Text, "", "user name for etcd"),
    secret("etcd-password", "password for etcd"),
    flag("iface", Repeatable, "", "name or address of the interface for traffic between hosts"),
    flag("iface-regex", Repeatable, "", "regular expression for that interface, tried after iface"),
    flag("iface-can-reach", Text, "", "take the interface that routes to this address"),
    flag("public-ip", Text, "", "IPv4 address that other hosts reach this one by"),
    flag("public-ipv6", Text, "", "IPv6 address that other hosts reach this one by"),
    flag(
        "subnet-file",
        Text,
        "/run/flannel/subnet.env",
        "file that gets the subnet, its MTU and so on, for container runtimes",
    ),
    flag("subnet-lease-renew-margin", Integer, "60", "minutes before expiry to renew the lease"),
    flag("ip-masq", Boolean, "false", "masquerade traffic that leaves the overlay network"),
    flag(
        "ip-masq-fully-random-disable",
        Boolean,
        "false",
        "masquerade without fully random port selection",
    ),
    flag("kube-subnet-mgr", Boolean, "false", "take subnets from the Kubernetes API"),
    flag("kube-api-url", Text, "", "URL of the Kubernetes API server"),
    flag("kubeconfig-file", Text, "", "kubeconfig file for the Kubernetes API"),
    flag(
        "kube-annotation-prefix",
        Text,
        "flannel.alpha.coreos.com",
        "prefix of the node annotations",
    ),
    flag(
        "net-config-path",
        Text,
        "/etc/kube-flannel/net-conf.json",
        "network config file, with Kubernetes",
    ),
    flag(
        "set-node-network-unavailable",
        Boolean,
        "true",
        "clear the node's NetworkUnavailable condition when ready",
    ),
    flag("version", Boolean, "false", "print the version and exit"),
    flag("healthz-ip", Text, "0.0.0.0", "address of the health endpoints"),
    flag("healthz-port", Integer, "0", "port of the health endpoints, 0 for none"),
    flag("iptables-resync", Integer, "5", "seconds between checks of the netfilter rules"),
    flag("iptables-forward-rules", Boolean, "true", "accept forwarded traffic of the network"),
    flag("ip-blackhole-route", Boolean, "false", "keep a blackhole route for the own subnet"),
    flag("v", Level, "0", "log verbosity: 0 information, 1 and above details"),
    flag("vmodule", Text, "", "log verbosity by source file"),
    flag("log_backtrace_at", Text, "", "log a stack trace at this source line"),
    flag("lease-dir", Text, "", "directory that holds the network config and the leases"),
    flag("engine", Choice(&["auto", "uring", "epoll"]), "auto", "how packets are moved"),
    flag("workers", Integer, "1", "number of packet worker threads"),
    flag(
        "admin-socket",
        Text,
        "",
        "socket for weft status and the like (default /run/weft/weft.sock, or named after \
         another subnet-file)",
    ),
    flag(
        "state-dir",
        Text,
        "",
        "directory for what must survive a restart (default /var/lib/weft, or below it and named \
         after another subnet-file)",
    ),
    flag(
        "on-lease-loss",
        Choice(&["hold", "replace"]),
        "hold",
        "what to do when the own lease is taken by another host",
    ),
    flag(
        "without",
        Words(&[
            "uring",
            "multishot",
            "tun-tso",
            "tun-uso",
            "tun-csum",
            "udp-gso",
            "udp-gro",
            "spin",
            "precedence",
            "shortcut",
        ]),
        "",
        "features not to use",
    ),
    flag("insecure-store", Boolean, "false", "allow sealing with an unencrypted remote store"),
];
