//! Pods in network namespaces of their own.

use std::net::IpAddr;
use std::process::Command;

use crate::host::Host;

pub(crate) fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pod in a namespace of its own, behind a bridge of its host.
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) address: IpAddr,
}

impl Pod {
    pub(crate) fn behind(host: &Host, number: u8) -> Self {
        let namespace = format!("{}-pod", host.namespace);
        ip(&["netns", "add", &namespace]);
        let pod = Self { namespace, address: [10, 244, number, 2].into() };
        let net = |last: u8| format!("10.244.{number}.{last}/24");
        host.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        for words in [
            &["address", "flush", "dev", "c1"][..],
            &["link", "add", "cni0", "type", "bridge"],
            &["address", "add", &net(1), "dev", "cni0"],
            &["link", "set", "cni0", "up"],
            &["link", "set", "c1", "master", "cni0"],
            &["link", "set", "c1x", "netns", &pod.namespace],
        ] {
            host.run(&[&["ip"], words].concat());
        }
        for words in [
            &["address", "add", &net(2), "dev", "c1x"][..],
            &["link", "set", "c1x", "up"],
            // What the subnet file tells to whoever makes pods.
            &["link", "set", "c1x", "mtu", "1450"],
            &["route", "add", "default", "via", &format!("10.244.{number}.1")],
        ] {
            ip(&[&["-n", &pod.namespace], words].concat());
        }
        pod
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}
