//! The interface requests (`ioctl` with `struct ifreq`) that a TUN device needs.
#![expect(unsafe_code, reason = "ioctl has no safe wrapper in the standard library")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Bytes of the union in `struct ifreq`; its largest member is `struct ifmap`.
const VALUE_LENGTH: usize = size_of::<libc::ifreq>() - libc::IFNAMSIZ;

/// `struct ifreq` with its union as plain bytes, so that reading it is safe.
///
/// Every request restores the name and clears the value, so a request can be used again.
#[repr(C, align(8))]
#[derive(Clone, Debug)]
pub(crate) struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; VALUE_LENGTH],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());
const _: () = assert!(align_of::<Request>() >= align_of::<libc::ifreq>());

/// `struct ifreq` whose union is the pointer `ifr_data`.
#[repr(C)]
struct LinkRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut EthtoolValue,
    rest: [u8; VALUE_LENGTH - size_of::<*mut EthtoolValue>()],
}

const _: () = assert!(size_of::<LinkRequest>() == size_of::<libc::ifreq>());

/// `struct ethtool_value` of `include/uapi/linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `ETHTOOL_GLINK` of `include/uapi/linux/ethtool.h`: is there a link?
const ETHTOOL_GLINK: u32 = 0x0000_000a;

/// What [`Request::create`] makes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Create {
    /// A device that cannot have more queues; nobody else may have one of this name.
    Alone,
    /// The first queue of a device; nobody else may have one of this name.
    FirstQueue,
    /// One more queue of a device that is there.
    NextQueue,
}

/// The requests whose argument is a `struct ifreq` without pointers.
#[derive(Clone, Copy)]
enum Operation {
    /// On `/dev/net/tun`: flags in.
    Create,
    /// On any socket: queue length in.
    SetQueueLength,
    /// On any socket: index out.
    Index,
    /// On any socket: index in, name out.
    Name,
    /// On any socket: hardware address out.
    HardwareAddress,
    /// On `/dev/net/tun`: the name of the device behind it out.
    Device,
}

impl Operation {
    fn code(self) -> libc::Ioctl {
        match self {
            Operation::Create => libc::TUNSETIFF,
            Operation::SetQueueLength => libc::SIOCSIFTXQLEN as libc::Ioctl,
            Operation::Index => libc::SIOCGIFINDEX as libc::Ioctl,
            Operation::Name => libc::SIOCGIFNAME as libc::Ioctl,
            Operation::HardwareAddress => libc::SIOCGIFHWADDR as libc::Ioctl,
            Operation::Device => libc::TUNGETIFF,
        }
    }
}

impl Request {
    /// A request about the interface `name`; `None` if no interface can have that name.
    ///
    /// The rules are `dev_valid_name` of `net/core/dev.c`, and no `%`, which would make it a
    /// template.
    pub(crate) fn new(name: &str) -> Option<Request> {
        let forbidden = |byte: u8| matches!(byte, 0 | b'/' | b':' | b'%') || is_space(byte);
        let length_allowed = (1..libc::IFNAMSIZ).contains(&name.len());
        if !length_allowed || matches!(name, "." | "..") || name.bytes().any(forbidden) {
            return None;
        }
        let mut request = Request { name: [0; libc::IFNAMSIZ], value: [0; VALUE_LENGTH] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Some(request)
    }

    /// A request about the interface of that number.
    pub(crate) fn named_by(control: BorrowedFd<'_>, index: u32) -> io::Result<Request> {
        let mut request = Request { name: [0; libc::IFNAMSIZ], value: [0; VALUE_LENGTH] };
        request.perform(control, Operation::Name, &index.to_ne_bytes())?;
        Ok(request)
    }

    /// Create the TUN device behind an open `/dev/net/tun`, not persistent, or a queue of it.
    pub(super) fn create(&mut self, tun: BorrowedFd<'_>, kind: Create) -> io::Result<()> {
        let kind = match kind {
            Create::Alone => libc::IFF_TUN_EXCL,
            Create::FirstQueue => libc::IFF_TUN_EXCL | libc::IFF_MULTI_QUEUE,
            Create::NextQueue => libc::IFF_MULTI_QUEUE,
        };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | kind;
        let flags = u16::try_from(flags).expect("the flags of TUNSETIFF are 16 bits");
        self.perform(tun, Operation::Create, &flags.to_ne_bytes())
    }

    /// Set `txqueuelen`, in packets.
    pub(super) fn set_queue_length(
        &mut self,
        control: BorrowedFd<'_>,
        packets: u32,
    ) -> io::Result<()> {
        let packets =
            i32::try_from(packets).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.perform(control, Operation::SetQueueLength, &packets.to_ne_bytes())
    }

    /// The interface index.
    pub(crate) fn index(&mut self, control: BorrowedFd<'_>) -> io::Result<u32> {
        self.perform(control, Operation::Index, &[])?;
        let [first, second, third, fourth, ..] = self.value;
        // An index is a positive `int`, so the bytes mean the same as `u32`.
        Ok(u32::from_ne_bytes([first, second, third, fourth]))
    }

    /// Do its packets have Ethernet headers?
    pub(crate) fn is_ethernet(&mut self, control: BorrowedFd<'_>) -> io::Result<bool> {
        self.perform(control, Operation::HardwareAddress, &[])?;
        // A `struct sockaddr`, which has the kind of the device (`ARPHRD_*`) where others have a family.
        let [first, second, ..] = self.value;
        Ok(u16::from_ne_bytes([first, second]) == libc::ARPHRD_ETHER)
    }

    /// Is there still a device behind an open `/dev/net/tun`? `EBADFD` says that it was deleted
    /// (`__tun_chr_ioctl` of `drivers/net/tun.c`).
    pub(super) fn has_device(&mut self, tun: BorrowedFd<'_>) -> bool {
        self.perform(tun, Operation::Device, &[]).is_ok()
    }

    /// Is the interface up, with a process behind it? False for one that is down.
    pub(super) fn has_carrier(&self, control: BorrowedFd<'_>) -> io::Result<bool> {
        let mut value = EthtoolValue { command: ETHTOOL_GLINK, data: 0 };
        let mut request = LinkRequest {
            name: self.name,
            data: ptr::from_mut(&mut value),
            rest: [0; VALUE_LENGTH - size_of::<*mut EthtoolValue>()],
        };
        // SAFETY: SIOCETHTOOL takes a `struct ifreq`, whose size and field offsets `LinkRequest`
        // has (asserted above). The kernel then writes through `ifr_data` as many bytes as the
        // command's structure has; for ETHTOOL_GLINK that is `EthtoolValue`, which `value` is. Both
        // are ours alone, on this stack, until the call returns.
        let result = unsafe {
            libc::ioctl(
                control.as_raw_fd(),
                libc::SIOCETHTOOL as libc::Ioctl,
                ptr::from_mut(&mut request),
            )
        };
        check(result)?;
        Ok(value.data != 0)
    }

    fn perform(
        &mut self,
        target: BorrowedFd<'_>,
        operation: Operation,
        input: &[u8],
    ) -> io::Result<()> {
        self.value = [0; VALUE_LENGTH];
        self.value[..input.len()].copy_from_slice(input);
        // SAFETY: each code that `Operation` can name copies exactly one `struct ifreq` in and at
        // most one out, follows no pointer in it, and keeps no address. `Request` has that size
        // (asserted above), every byte value is valid in it, and `&mut self` makes it ours.
        let result =
            unsafe { libc::ioctl(target.as_raw_fd(), operation.code(), ptr::from_mut(self)) };
        check(result)
    }
}

/// Set the length of the header before each packet.
pub(super) fn set_vnet_header_length(tun: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).expect("a header length fits an int");
    // SAFETY: TUNSETVNETHDRSZ reads one `int` from its argument during the call, and `bytes` is an
    // `int` that outlives the call.
    let result =
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, ptr::from_ref(&bytes)) };
    check(result)
}

/// Agree to `TUN_F_*` flags.
pub(super) fn set_offloads(tun: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value, as an `unsigned long`; the kernel follows
    // no address.
    let result =
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    check(result)
}

/// A socket that only serves to address interface requests to this thread's network namespace.
pub(crate) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: `fd` was returned by `socket` just now and not shown to anybody, so this is its only
    // owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `isspace` of the kernel (`lib/ctype.c`), which also counts the no-break space of Latin-1.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_an_interface_can_have() {
        for name in ["flannel0", "a", "fifteen-bytes.x", "é"] {
            assert!(Request::new(name).is_some(), "{name}");
        }
    }

    #[test]
    fn refuses_other_names() {
        let names =
            ["", ".", "..", "sixteen-bytes.xx", "a b", "a/b", "a:b", "flannel%d", "a\0", "a\u{b}"];
        for name in names {
            assert!(Request::new(name).is_none(), "{name}");
        }
    }

    #[test]
    fn has_the_layout_of_ifreq() {
        assert_eq!(std::mem::offset_of!(Request, value), libc::IFNAMSIZ);
        assert_eq!(std::mem::offset_of!(LinkRequest, data), libc::IFNAMSIZ);
    }
}
