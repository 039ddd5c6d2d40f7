//! What probes find of the MTU of the engine's path, as far as the workers are to know it.
//!
//! The probes of this path pass through the workers, who let no packet pass that is larger than what
//! they know. So what was found is believed for some time, and then forgotten for as long as it takes
//! to find out that the path has become wider.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// How long it is believed (RFC 1191 section 6.3).
const BELIEVED: Duration = Duration::from_secs(600);

/// How long it is forgotten. Large probes are one of four, and five in a row prove a path.
const FORGOTTEN: Duration = Duration::from_secs(15);

/// Bytes of the largest packet that the engine's path to a peer's subnet takes, for those where this is
/// less than pods send.
#[derive(Debug, Default)]
pub(super) struct Narrow(BTreeMap<IpNet, (u16, Instant)>);

impl Narrow {
    /// The probes say this now. Returns what the workers are to know.
    pub(super) fn handle(
        &mut self,
        found: impl Iterator<Item = (IpNet, usize)>,
        now: Instant,
    ) -> BTreeMap<IpNet, u16> {
        let before = std::mem::take(&mut self.0);
        for (subnet, mtu) in found {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            let since = match before.get(&subnet) {
                Some((known, since)) if *known == mtu && now < *since + BELIEVED + FORGOTTEN => {
                    *since
                }
                _ => now,
            };
            self.0.insert(subnet, (mtu, since));
        }
        let believed = self.0.iter().filter(|(_, (_, since))| now < *since + BELIEVED);
        believed.map(|(subnet, (mtu, _))| (*subnet, *mtu)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_believed_and_tried_anew() {
        let subnet: IpNet = "10.244.2.0/24".parse().unwrap();
        let (start, mut narrow) = (Instant::now(), Narrow::default());
        let mut handle = |mtu: Option<usize>, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            narrow.handle(mtu.map(|mtu| (subnet, mtu)).into_iter(), now).get(&subnet).copied()
        };
        assert_eq!(handle(None, 0), None);
        assert_eq!(handle(Some(1300), 1), Some(1300));
        assert_eq!(handle(Some(1300), 600), Some(1300));
        for (seconds, known) in [(601, None), (615, None), (616, Some(1300)), (1215, Some(1300))] {
            assert_eq!(handle(Some(1300), seconds), known, "after {seconds} s");
        }
        assert_eq!(handle(Some(1300), 1216), None);
        assert_eq!(handle(Some(1200), 1217), Some(1200), "narrower still");
        assert_eq!(handle(None, 1218), None, "wide again");
        assert_eq!(handle(Some(1200), 1219), Some(1200));
    }
}
