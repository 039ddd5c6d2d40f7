//! Echo requests (RFC 792, RFC 4443) to several addresses at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

/// An answer may need a neighbour to be found or a handshake to be made before.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who has not answered after this time is asked again.
const AGAIN: Duration = Duration::from_millis(400);

/// Bytes of a header of ICMP; and of all that is sent.
const HEADER: usize = 8;
const LENGTH: usize = HEADER + 16;

/// Room for the longest header of IPv4 and an answer.
const ANSWER_MAX: usize = 60 + LENGTH;

/// Whether each of these addresses answers.
///
/// # Errors
/// No socket is to be had: that takes CAP_NET_RAW, or a group of `net.ipv4.ping_group_range`.
pub(super) fn ask(targets: &[IpAddr]) -> io::Result<Vec<bool>> {
    let mut asker = Asker::new(targets)?;
    let end = Instant::now() + PATIENCE;
    while !asker.answered.iter().all(|answered| *answered) && Instant::now() < end {
        asker.send(targets);
        asker.wait(end.min(Instant::now() + AGAIN))?;
    }
    Ok(asker.answered)
}

struct Asker {
    /// For IPv4 and IPv6, if one of the family is asked.
    sockets: [Option<Socket>; 2],
    /// Makes our answers known from others'.
    cookie: u64,
    answered: Vec<bool>,
}

struct Socket {
    descriptor: OwnedFd,
    /// What is received begins with a header of IPv4.
    has_ip_header: bool,
}

impl Asker {
    fn new(targets: &[IpAddr]) -> io::Result<Self> {
        let open = |is_v4: bool| {
            let is_asked = targets.iter().any(|target| target.is_ipv4() == is_v4);
            is_asked.then(|| Socket::open(is_v4)).transpose()
        };
        let sockets = [open(true)?, open(false)?];
        Ok(Self { sockets, cookie: rand::random(), answered: vec![false; targets.len()] })
    }

    fn send(&self, targets: &[IpAddr]) {
        for (number, target) in targets.iter().enumerate().filter(|(at, _)| !self.answered[*at]) {
            let socket = &self.sockets[usize::from(target.is_ipv6())];
            let descriptor = &socket.as_ref().expect("its family is asked").descriptor;
            let request = request(target.is_ipv4(), self.cookie, number as u64);
            // A host that cannot be sent to does not answer either.
            let to = SocketAddr::new(*target, 0);
            let _ = sendto(descriptor, &request, SendFlags::empty(), &to);
        }
    }

    fn wait(&mut self, end: Instant) -> io::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.answered.iter().all(|answered| *answered) {
                return Ok(());
            }
            let mut ready: Vec<PollFd<'_>> = self
                .sockets
                .iter()
                .flatten()
                .map(|socket| PollFd::new(&socket.descriptor, PollFlags::IN))
                .collect();
            let left = Timespec::try_from(left).expect("two seconds fit");
            match poll(&mut ready, Some(&left)) {
                Err(Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            self.receive();
        }
    }

    fn receive(&mut self) {
        for socket in self.sockets.iter().flatten() {
            let mut answer = [0; ANSWER_MAX];
            while let Ok((length, _)) =
                recv(&socket.descriptor, &mut answer[..], RecvFlags::DONTWAIT)
            {
                let answer = &answer[..length.min(ANSWER_MAX)];
                let number = number_of(answer, socket.has_ip_header, self.cookie);
                if let Some(answered) = number.and_then(|number| self.answered.get_mut(number)) {
                    *answered = true;
                }
            }
        }
    }
}

impl Socket {
    fn open(is_v4: bool) -> io::Result<Self> {
        let (family, protocol) = match is_v4 {
            true => (AddressFamily::INET, ipproto::ICMP),
            false => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let open = |kind| socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
        match open(SocketType::RAW) {
            Ok(descriptor) => Ok(Self { descriptor, has_ip_header: is_v4 }),
            Err(_) => Ok(Self { descriptor: open(SocketType::DGRAM)?, has_ip_header: false }),
        }
    }
}

/// The kernel computes the checksum of ICMPv6, and of a socket for echoes alone the number of the sender.
fn request(is_v4: bool, cookie: u64, number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[0] = if is_v4 { 8 } else { 128 };
    bytes[HEADER..HEADER + 8].copy_from_slice(&cookie.to_be_bytes());
    bytes[HEADER + 8..].copy_from_slice(&number.to_be_bytes());
    if is_v4 {
        let words =
            bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let checksum = !u16::try_from(folded).expect("it was folded twice");
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// Which request is answered, if it was one of ours.
fn number_of(answer: &[u8], has_ip_header: bool, cookie: u64) -> Option<usize> {
    let start = if has_ip_header { usize::from(answer.first()? & 0xf) * 4 } else { 0 };
    let message = answer.get(start..)?;
    if !matches!(message.first()?, 0 | 129) {
        return None;
    }
    let number = |at: usize| Some(u64::from_be_bytes(*message.get(at..)?.first_chunk()?));
    (number(HEADER)? == cookie).then_some(())?;
    number(HEADER + 8)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_right_checksum_and_answers_are_recognised() {
        let mut bytes = request(true, 0xfedc_ba98_7654_3210, 7);
        let words =
            bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(number_of(&bytes, false, 0xfedc_ba98_7654_3210), None, "it is no answer");
        bytes[0] = 0;
        assert_eq!(number_of(&bytes, false, 0xfedc_ba98_7654_3210), Some(7));
        assert_eq!(number_of(&bytes, false, 1), None);
        let mut packet = vec![0x45; 20];
        packet.extend(bytes);
        assert_eq!(number_of(&packet, true, 0xfedc_ba98_7654_3210), Some(7));
        for length in 0..packet.len() {
            assert_eq!(number_of(&packet[..length], true, 0xfedc_ba98_7654_3210), None);
        }
    }
}
