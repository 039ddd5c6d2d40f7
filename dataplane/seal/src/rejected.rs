//! Why a datagram was not accepted. One list gives the enum, its name and its text.

macro_rules! rejections {
    ($($variant:ident, $name:literal, $text:literal;)+) => {
        /// The one reason under which a datagram that was not accepted is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
        #[repr(u8)]
        pub enum Rejected {
            $(#[doc = $text] #[error($text)] $variant,)+
        }

        impl Rejected {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = [$($name,)+].len();

            /// The name in JSON and metrics, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

rejections! {
    Malformed, "malformed", "The datagram is no WireGuard message.";
    BadMac1, "bad_mac1", "The sender of a handshake message does not know our public key.";
    CookieWanted, "cookie_wanted", "Too many handshakes arrive; the sender was asked to prove its address.";
    RateLimited, "rate_limited", "One address sends too many handshake messages.";
    BadHandshake, "bad_handshake", "The contents of a handshake message are not authentic.";
    WeakKey, "weak_key", "A handshake message holds a public key that makes every secret the same.";
    UnknownPeer, "unknown_peer", "The key of the sender belongs to no peer.";
    StaleTimestamp, "stale_timestamp", "The peer's time stamp is not above the greatest one seen.";
    TooFrequent, "too_frequent", "The peer starts handshakes faster than any peer needs to.";
    UnknownIndex, "unknown_index", "The message names no session and no handshake of ours.";
    BadCookie, "bad_cookie", "The cookie answers no message of ours, or is not authentic.";
    Expired, "expired", "The session is too old, or has carried too many messages.";
    BadTag, "bad_tag", "The message is not authentic.";
    Replayed, "replayed", "The message has been accepted before.";
    BelowWindow, "below_window", "The message is older than the replay window reaches.";
    BadInnerLength, "bad_inner_length", "The length field of the inner packet contradicts the message.";
}

/// How many datagrams were not accepted, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rejections([u64; Rejected::COUNT]);

impl Rejections {
    /// Counts one more.
    pub fn count(&mut self, reason: Rejected) {
        self.0[reason as usize] += 1;
    }

    /// How many there were for this reason.
    #[must_use]
    pub fn of(&self, reason: Rejected) -> u64 {
        self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_machine_readable() {
        for (index, reason) in Rejected::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let name = reason.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_1".contains(&byte)));
            assert!(reason.to_string().ends_with('.'), "{name}: {reason}");
            assert_eq!(Rejected::ALL.iter().filter(|other| other.name() == name).count(), 1);
        }
    }
}
