//! Whether packets that a bridge passes between its ports meet the rules of iptables.

use std::path::Path;

use tracing::warn;

use super::Wanted;
use super::rules::Family;

/// flanneld does not start without the module; a host without bridges or without kube-proxy does not
/// need it, so here it is only told.
pub(super) fn warn_without_filter(wanted: &Wanted) {
    let is_missing = |family: Family| {
        let switch = match family {
            Family::V4 => "bridge-nf-call-iptables",
            Family::V6 => "bridge-nf-call-ip6tables",
        };
        !Path::new("/proc/sys/net/bridge").join(switch).exists()
    };
    if wanted.overlays.iter().any(|overlay| is_missing(overlay.family())) {
        warn!(
            "the kernel module br_netfilter is not loaded: packets between pods of one bridge pass by \
             the rules of iptables, so that services of Kubernetes may not answer them. With \
             kube-proxy on this host, load it: modprobe br_netfilter"
        );
    }
}
