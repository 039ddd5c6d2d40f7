//! Questions to the kernel over netlink, of which each has one short answer.
#![expect(unsafe_code, reason = "the standard library has no netlink sockets")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd, OwnedFd};

/// Bytes of a `struct nlmsghdr`.
const HEADER: usize = 16;

/// A socket for questions to one part of the kernel. Answers are about this thread's network namespace.
#[derive(Debug)]
struct Netlink(File);

impl Netlink {
    fn open(protocol: libc::c_int) -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: `socket` takes three integers and touches no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was returned by `socket` just now and not shown to anybody, so this is its only
        // owner.
        Ok(Netlink(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Asks, and gives what stands behind the header of the answer, if that is of the expected kind.
    fn ask(&mut self, kind: u16, body: &[u8], expected: u16) -> io::Result<Option<Vec<u8>>> {
        self.0.write_all(&message(kind, body))?;
        let mut answer = vec![0; 4096];
        let length = self.0.read(&mut answer)?;
        answer.truncate(length);
        Ok((half(&answer, 4) == Some(expected)).then(|| answer.split_off(HEADER)))
    }
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).expect("questions are short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and port: there is one question at a time, and the kernel knows who asks.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The value of the first attribute (`struct nlattr`) of that kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while !attributes.is_empty() {
        let (length, kind) = (usize::from(half(attributes, 0)?), half(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// How many IPsec policies there are for what leaves this network namespace, which what is sent past
/// IP's own output does not obey. None where the kernel has no IPsec.
///
/// # Errors
///
/// The kernel does not say; without `CAP_NET_ADMIN` it never does.
pub fn outbound_policies() -> io::Result<u32> {
    /// `include/uapi/linux/xfrm.h`.
    const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
    const XFRM_MSG_GETSPDINFO: u16 = 0x25;
    let mut netlink = match Netlink::open(libc::NETLINK_XFRM) {
        Ok(netlink) => netlink,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        Err(error) => return Err(error),
    };
    // Flags, of which there are none.
    let answer = netlink.ask(XFRM_MSG_GETSPDINFO, &[0; 4], XFRM_MSG_NEWSPDINFO)?;
    let count = answer.as_deref().and_then(read_policies);
    count.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn read_policies(answer: &[u8]) -> Option<u32> {
    /// A `struct xfrmu_spdinfo`, whose second number is that of policies for what leaves.
    const XFRMA_SPD_INFO: u16 = 1;
    word(attribute(answer.get(4..)?, XFRMA_SPD_INFO)?, 4)
}

/// The kernel's way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Number of the device that packets leave by.
    pub device: u32,
    /// The source that they have unless another is chosen.
    pub source: Ipv4Addr,
}

/// Asks for ways.
#[derive(Debug)]
pub struct Ways(Netlink);

impl Ways {
    /// Begins to ask.
    ///
    /// # Errors
    ///
    /// Too many files are open.
    pub fn new() -> io::Result<Ways> {
        Netlink::open(libc::NETLINK_ROUTE).map(Ways)
    }

    /// The way to a host (`ip route get`). `None` if there is none, or it is this host.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn find(&mut self, host: Ipv4Addr) -> io::Result<Option<Way>> {
        let mut body = vec![libc::AF_INET as u8, 32];
        // The rest of `struct rtmsg`, then RTA_DST.
        body.extend([0; 10]);
        body.extend(8_u16.to_ne_bytes());
        body.extend(libc::RTA_DST.to_ne_bytes());
        body.extend(host.octets());
        let answer = self.0.ask(libc::RTM_GETROUTE, &body, libc::RTM_NEWROUTE)?;
        Ok(answer.as_deref().and_then(read_way))
    }
}

fn read_way(answer: &[u8]) -> Option<Way> {
    /// Place of `rtm_type` in `struct rtmsg`, and bytes of that.
    const TYPE: usize = 7;
    const ROUTE: usize = 12;
    let attributes = answer.get(ROUTE..).filter(|_| answer[TYPE] == libc::RTN_UNICAST)?;
    let source: [u8; 4] = attribute(attributes, libc::RTA_PREFSRC)?.try_into().ok()?;
    Some(Way { device: word(attribute(attributes, libc::RTA_OIF)?, 0)?, source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: u16, length: u16, value: &[u32]) -> Vec<u8> {
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    #[test]
    fn numbers_of_policies_are_read_strictly() {
        let info = with(1, 28, &[1, 7, 3, 4, 5, 6]);
        let other = with(2, 6, &[9]);
        let answer = |attributes: &[u8]| [&[0; 4], attributes].concat();
        assert_eq!(read_policies(&answer(&info)), Some(7));
        assert_eq!(read_policies(&answer(&[other.clone(), info.clone()].concat())), Some(7));
        for (wrong, why) in [
            (answer(&other), "no numbers"),
            (answer(&info[..20]), "cut"),
            (answer(&with(2, 0, &[0])), "of no length"),
            (answer(&with(1, 3, &[0])), "shorter than itself"),
            (answer(&with(1, 8, &[0])), "without the number"),
            (vec![0; 3], "too short"),
        ] {
            assert_eq!(read_policies(&wrong), None, "{why}");
        }
    }

    #[test]
    fn ways_are_read_strictly() {
        let source = u32::from_ne_bytes([192, 0, 2, 1]);
        let both = [with(libc::RTA_OIF, 8, &[3]), with(libc::RTA_PREFSRC, 8, &[source])].concat();
        let answer = |kind: u8, attributes: &[u8]| {
            [&[2, 32, 0, 0, 0, 0, 0, kind, 0, 0, 0, 0], attributes].concat()
        };
        let way = Way { device: 3, source: Ipv4Addr::new(192, 0, 2, 1) };
        assert_eq!(read_way(&answer(1, &both)), Some(way));
        for (wrong, why) in [
            (answer(2, &both), "this host"),
            (answer(1, &both[..8]), "no source"),
            (answer(1, &both[8..]), "no device"),
            (answer(1, &both[..12]), "cut"),
            (vec![2, 32], "too short"),
        ] {
            assert_eq!(read_way(&wrong), None, "{why}");
        }
    }
}
