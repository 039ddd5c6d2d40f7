//! Socket addresses in kernel form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of `struct sockaddr_in`.
const INET_LENGTH: usize = size_of::<libc::sockaddr_in>();

/// Bytes of `struct sockaddr_in6`.
const INET6_LENGTH: usize = size_of::<libc::sockaddr_in6>();

const _: () = assert!(INET_LENGTH == 16 && INET6_LENGTH == SockAddr::STORAGE_LENGTH);

/// A socket address as the kernel takes it: `struct sockaddr_in` or `struct sockaddr_in6`.
///
/// Made once, when the peer table is built, so that a send only points at it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct SockAddr {
    storage: [u8; SockAddr::STORAGE_LENGTH],
    length: u32,
}

impl SockAddr {
    /// Room for the longer of the two forms.
    pub const STORAGE_LENGTH: usize = 28;

    /// The address, exactly as long as its family's structure.
    ///
    /// Its start and length are `msg_name` and `msg_namelen` of a `struct msghdr`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.storage[..self.length as usize]
    }

    /// Back to the form of the standard library. `Some` for every value made by `From`.
    #[must_use]
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        SockAddr::parse(self.as_bytes())
    }

    /// Read the address that the kernel wrote into a name buffer. `None` for other families and
    /// for too few bytes; bytes behind the structure are ignored.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
        let family = u16::from_ne_bytes(field(bytes, 0)?);
        let port = u16::from_be_bytes(field(bytes, 2)?);
        match libc::c_int::from(family) {
            libc::AF_INET if bytes.len() >= INET_LENGTH => {
                let ip = Ipv4Addr::from(field::<4>(bytes, 4)?);
                Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
            }
            libc::AF_INET6 if bytes.len() >= INET6_LENGTH => {
                let flow = u32::from_ne_bytes(field(bytes, 4)?);
                let ip = Ipv6Addr::from(field::<16>(bytes, 8)?);
                let scope = u32::from_ne_bytes(field(bytes, 24)?);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            _ => None,
        }
    }
}

/// `0.0.0.0:0`: the content of a slot that has not been used yet.
impl Default for SockAddr {
    fn default() -> SockAddr {
        SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(address: SocketAddr) -> SockAddr {
        let mut storage = [0; SockAddr::STORAGE_LENGTH];
        storage[..2].copy_from_slice(&family_number(address.ip()).to_ne_bytes());
        storage[2..4].copy_from_slice(&address.port().to_be_bytes());
        let length = match address {
            SocketAddr::V4(address) => {
                storage[4..8].copy_from_slice(&address.ip().octets());
                INET_LENGTH
            }
            SocketAddr::V6(address) => {
                // The standard library keeps the flow information in the kernel's byte order.
                storage[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
                storage[8..24].copy_from_slice(&address.ip().octets());
                storage[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                INET6_LENGTH
            }
        };
        SockAddr { storage, length: length as u32 }
    }
}

impl fmt::Debug for SockAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SockAddr").field(&self.to_socket_addr()).finish()
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(ip: IpAddr) -> libc::c_int {
    match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

fn family_number(ip: IpAddr) -> u16 {
    u16::try_from(family(ip)).expect("address families are small numbers")
}

fn field<const LENGTH: usize>(bytes: &[u8], start: usize) -> Option<[u8; LENGTH]> {
    bytes.get(start..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn writes_an_ipv4_address_as_the_kernel_has_it() {
        let kernel = SockAddr::from(address("10.1.2.3:8285"));
        let [low, high] = 2_u16.to_ne_bytes();
        let expected = [low, high, 0x20, 0x5d, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(kernel.as_bytes(), expected);
    }

    #[test]
    fn writes_an_ipv6_address_as_the_kernel_has_it() {
        let ip = "2001:db8::7".parse().unwrap();
        let kernel = SockAddr::from(SocketAddr::V6(SocketAddrV6::new(ip, 8285, 5, 9)));
        let mut expected = Vec::new();
        expected.extend(10_u16.to_ne_bytes());
        expected.extend([0x20, 0x5d]);
        expected.extend(5_u32.to_ne_bytes());
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend(9_u32.to_ne_bytes());
        assert_eq!(kernel.as_bytes(), expected);
    }

    #[test]
    fn comes_back_unchanged() {
        for text in ["0.0.0.0:0", "255.255.255.255:65535", "[::]:0", "[fe80::1%3]:8285"] {
            let before = address(text);
            assert_eq!(SockAddr::from(before).to_socket_addr(), Some(before));
        }
    }

    #[test]
    fn needs_every_byte() {
        for text in ["10.1.2.3:8285", "[2001:db8::7]:8285"] {
            let kernel = SockAddr::from(address(text));
            let bytes = kernel.as_bytes();
            for length in 0..bytes.len() {
                assert_eq!(SockAddr::parse(&bytes[..length]), None, "{text} cut to {length}");
            }
            let mut longer = bytes.to_vec();
            longer.extend([0xff; 20]);
            assert_eq!(SockAddr::parse(&longer), Some(address(text)));
        }
    }

    #[test]
    fn knows_no_other_family() {
        let mut bytes = [0; SockAddr::STORAGE_LENGTH];
        for family in [0_u16, 1, 3, 9, 11, 16, 0xffff] {
            bytes[..2].copy_from_slice(&family.to_ne_bytes());
            assert_eq!(SockAddr::parse(&bytes), None);
        }
    }
}
