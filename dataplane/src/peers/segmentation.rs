//! Whether the kernel cuts trains to one peer.

/// How long a refusal is believed, in milliseconds. The route may lead over another device by then.
/// A trial costs one send that is refused, and no packet.
const BELIEVED_MS: u64 = 60 * 1000;

/// What the kernel has said of cutting trains to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Segmentation {
    /// Nothing against it.
    #[default]
    Works,
    /// It was refused, and is not tried until then.
    Refused { until_ms: u64 },
    /// It was refused, and is tried again.
    Trial,
}

impl Segmentation {
    /// Whether a train may have several datagrams now.
    #[inline]
    pub(crate) fn is_on(&mut self, now_ms: u64) -> bool {
        if matches!(self, Segmentation::Refused { until_ms } if now_ms >= *until_ms) {
            *self = Segmentation::Trial;
        }
        !matches!(self, Segmentation::Refused { .. })
    }

    /// A train was refused. True if nobody knew; trains of one turn meet the same refusal, and a
    /// trial that fails is no news.
    pub(crate) fn refuse(&mut self, now_ms: u64) -> bool {
        let refused = Segmentation::Refused { until_ms: now_ms.saturating_add(BELIEVED_MS) };
        match *self {
            Segmentation::Refused { .. } => false,
            Segmentation::Trial => {
                *self = refused;
                false
            }
            Segmentation::Works => {
                *self = refused;
                true
            }
        }
    }

    /// A train was cut. True if a trial has succeeded with it. One that had left before a refusal
    /// says nothing.
    #[inline]
    pub(crate) fn confirm(&mut self) -> bool {
        let succeeded = *self == Segmentation::Trial;
        if succeeded {
            *self = Segmentation::Works;
        }
        succeeded
    }

    /// The refusal had another cause. True if there was one.
    pub(crate) fn acquit(&mut self) -> bool {
        std::mem::take(self) != Segmentation::Works
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_tried_again_in_time_and_told_once() {
        let mut state = Segmentation::default();
        assert!(state.is_on(0) && !state.confirm());
        assert_eq!([state.refuse(5), state.refuse(9)], [true, false]);
        assert!(!state.is_on(5 + BELIEVED_MS - 1));
        assert!(!state.confirm(), "a train that left before the refusal");
        assert!(state.is_on(5 + BELIEVED_MS));
        assert!(!state.refuse(BELIEVED_MS * 2), "a trial that fails is no news");
        assert!(!state.is_on(BELIEVED_MS * 3 - 1));
        assert!(state.is_on(BELIEVED_MS * 3) && state.confirm());
        assert_eq!(state, Segmentation::Works);
        assert!(state.refuse(0), "news again");
        assert!(state.acquit() && !state.acquit());
    }
}
