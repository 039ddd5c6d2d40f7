//! Why a packet was not handed on. One list gives the enum, its counter and its text.

/// The way a packet was going when it was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the TUN device to a peer.
    Outbound,
    /// From a peer to the TUN device.
    Inbound,
    /// The reason occurs both ways.
    Both,
}

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $direction:ident, $text:literal;)+) => {
        /// The one reason under which a packet that was not handed on is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = [$($name,)+].len();

            /// The name in JSON and metrics, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The cause in a sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The way on which this reason occurs.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$variant => Direction::$direction,)+ }
            }
        }
    };
}

drop_reasons! {
    TooShort, "too_short", Both, "The packet ends before its IP header does.";
    BadVersion, "bad_version", Both, "The packet is neither IPv4 nor IPv6.";
    BadHeaderLength, "bad_header_length", Both, "The IPv4 header length is below five words.";
    LengthMismatch, "length_mismatch", Both, "The IP length field does not say how long the packet is.";
    ExtensionHeaders, "extension_headers", Both, "The IPv6 extension headers are cut off, misplaced or too many.";
    HopLimitZero, "hop_limit_zero", Both, "The packet has no hop left.";
    BadVirtioHeader, "bad_virtio_header", Outbound, "The device's offload header contradicts the packet.";
    BadTransportHeader, "bad_transport_header", Outbound, "A packet to be segmented has a broken TCP or UDP header.";
    Multicast, "multicast", Outbound, "Multicast and broadcast are not carried.";
    OwnDestination, "own_destination", Outbound, "The destination is in this node's own subnet and must not leave it.";
    NoRoute, "no_route", Outbound, "No peer has a lease for the destination.";
    NoRouteInnerV6, "no_route_inner_v6", Outbound, "The peer does not take IPv6 packets.";
    PacketTooBig, "packet_too_big", Outbound, "The packet does not fit the path and must not be fragmented.";
    FragmentFailed, "fragment_failed", Outbound, "The packet does not fit the path and could not be fragmented.";
    PeerGone, "peer_gone", Outbound, "The peer left while the packet was waiting to be sent.";
    SendUnreachable, "send_unreachable", Outbound, "The host's own routing has no way to the peer.";
    SendFailed, "send_failed", Outbound, "The kernel refused to send the packet.";
    NoSession, "no_session", Outbound, "No session with the peer has been agreed on, so the packet cannot be sealed.";
    Truncated, "truncated", Inbound, "The datagram was longer than the buffer it was received in.";
    UnknownSender, "unknown_sender", Inbound, "The datagram does not come from a peer.";
    BadHeaderChecksum, "bad_header_checksum", Inbound, "The checksum of the IPv4 header is wrong.";
    DestinationNotOurs, "destination_not_ours", Inbound, "The destination is outside this node's subnet.";
    SourceForbidden, "source_forbidden", Inbound, "The source is ours, loopback, multicast or no host's address.";
    SourceSpoofed, "source_spoofed", Inbound, "The source is in the overlay network, but not in the sender's subnet.";
    SourceOutsideNetwork, "source_outside_network", Inbound, "The source is outside the overlay network, which StrictSource forbids.";
    NotSealed, "not_sealed", Inbound, "The datagram is not sealed, which this node demands.";
    BadMessage, "bad_message", Inbound, "The datagram is no message of the sealing protocol.";
    NoSessionHere, "no_session_here", Inbound, "The datagram names a session that this node does not have.";
    SessionExpired, "session_expired", Inbound, "The datagram's session is too old, or has carried too many messages.";
    BadSeal, "bad_seal", Inbound, "The datagram is not authentic.";
    Replayed, "replayed", Inbound, "The datagram was received before, or is too old to tell.";
    HandshakesBusy, "handshakes_busy", Inbound, "More handshakes arrive than can be looked at.";
    TunWriteFailed, "tun_write_failed", Inbound, "The device refused the packet.";
    Stopped, "stopped", Both, "The packet was still in a buffer when the worker stopped.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_machine_readable() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let name = reason.name();
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
            );
            assert!(reason.text().ends_with('.'), "{name}: {}", reason.text());
            let same = DropReason::ALL.iter().filter(|other| other.name() == name).count();
            assert_eq!(same, 1, "{name}");
        }
    }
}
