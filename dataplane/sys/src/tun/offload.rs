//! What the kernel may leave undone in the packets we read, and take undone in those we write.

use std::io;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use super::request;

/// The offloads of an open device: the result of the negotiation.
///
/// In the direction of reading they say what can arrive; for writing the kernel takes any valid
/// virtio-net header, but one that was not agreed to here is better not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Packets arrive with an unfinished checksum (`TUN_F_CSUM`). The others need it.
    pub checksum: bool,
    /// TCP super-packets arrive, IPv4 and IPv6 (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tso: bool,
    /// TCP super-packets with ECN arrive too (`TUN_F_TSO_ECN`).
    pub tso_ecn: bool,
    /// UDP super-packets arrive, IPv4 and IPv6 (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub uso: bool,
}

/// Offloads not to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutOffloads {
    /// No unfinished checksums, and so none of the others.
    pub checksum: bool,
    /// No TCP super-packets.
    pub tso: bool,
    /// No UDP super-packets.
    pub uso: bool,
}

/// `TUNSETOFFLOAD` refuses a whole set, so each attempt leaves out one thing more.
const ATTEMPTS_MAX: usize = 5;

/// Ask for the most, then for less, until the kernel agrees.
pub(super) fn negotiate(
    tun: BorrowedFd<'_>,
    without: WithoutOffloads,
) -> Result<Offloads, io::Error> {
    let mut refusal = None;
    for offloads in attempts(without) {
        match request::set_offloads(tun, offloads.flags()) {
            Ok(()) => return Ok(offloads),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.expect("there is at least one attempt, and only a refusal goes past it"))
}

/// From the most to nothing, in the order in which kernels learnt them.
fn attempts(without: WithoutOffloads) -> ArrayVec<Offloads, ATTEMPTS_MAX> {
    let checksum = !without.checksum;
    let tso = checksum && !without.tso;
    let most = Offloads { checksum, tso, tso_ecn: tso, uso: checksum && !without.uso };
    let no_uso = Offloads { uso: false, ..most };
    let no_ecn = Offloads { tso_ecn: false, ..no_uso };
    let no_tso = Offloads { tso: false, ..no_ecn };
    let mut attempts = ArrayVec::new();
    for next in [most, no_uso, no_ecn, no_tso, Offloads::default()] {
        if attempts.last() != Some(&next) {
            attempts.push(next);
        }
    }
    attempts
}

impl Offloads {
    /// `TUN_F_*` of `include/uapi/linux/if_tun.h`. The kernel takes USO4 and USO6 only together.
    fn flags(self) -> libc::c_uint {
        let flag = |wanted: bool, flags: libc::c_uint| if wanted { flags } else { 0 };
        flag(self.checksum, libc::TUN_F_CSUM)
            | flag(self.tso, libc::TUN_F_TSO4 | libc::TUN_F_TSO6)
            | flag(self.tso_ecn, libc::TUN_F_TSO_ECN)
            | flag(self.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_of(without: WithoutOffloads) -> Vec<libc::c_uint> {
        attempts(without).into_iter().map(Offloads::flags).collect()
    }

    #[test]
    fn goes_from_everything_to_nothing() {
        assert_eq!(flags_of(WithoutOffloads::default()), [0x6f, 0x0f, 0x07, 0x01, 0x00]);
    }

    #[test]
    fn never_asks_for_what_is_switched_off() {
        let none = WithoutOffloads::default();
        assert_eq!(flags_of(WithoutOffloads { uso: true, ..none }), [0x0f, 0x07, 0x01, 0x00]);
        assert_eq!(flags_of(WithoutOffloads { tso: true, ..none }), [0x61, 0x01, 0x00]);
        assert_eq!(flags_of(WithoutOffloads { tso: true, uso: true, ..none }), [0x01, 0x00]);
        assert_eq!(flags_of(WithoutOffloads { checksum: true, ..none }), [0x00]);
    }
}
