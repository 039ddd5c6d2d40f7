//! The TUN device: exclusive, not persistent, with offloads and one queue or several.
//!
//! What travels through the file descriptor of a [`Tun`]: one packet a read or write, each with a
//! `struct virtio_net_hdr` of [`VNET_HEADER_LENGTH`] bytes in front (`IFF_VNET_HDR`, native byte
//! order, no `num_buffers`) and no other prefix (`IFF_NO_PI`).
//!
//! The device lives as long as its file description. An io_uring request in flight holds that
//! description too, and a ring is torn down asynchronously, so the name can stay taken for a
//! moment after [`Tun`] is dropped. Retrying needs a clock and is the caller's part.
//!
//! A device of several queues has a [`Tun`] for each. What a queue holds is lost when it is closed, and
//! the kernel then divides the flows among those that are left.

mod error;
mod offload;
pub(crate) mod request;
mod steering;
mod transfer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

pub use error::TunError;
pub use offload::{Offloads, WithoutOffloads};
pub use steering::{Steering, SteeringError};

use request::{Create, Request};

/// Bytes of the `struct virtio_net_hdr` before every packet read or written.
///
/// `include/uapi/linux/virtio_net.h`: flags, gso_type (1 byte each), hdr_len, gso_size,
/// csum_start, csum_offset (2 bytes each).
pub const VNET_HEADER_LENGTH: usize = 10;

/// What [`Tun::open`] is asked for.
#[derive(Clone, Copy, Debug)]
pub struct TunOptions<'a> {
    /// Exactly this name; never a template such as `flannel%d`.
    pub name: &'a str,
    /// Packets that wait for a reader before the kernel drops new ones (`txqueuelen`).
    pub queue_length: u32,
    /// Offloads not to ask for, even if the kernel has them.
    pub without: WithoutOffloads,
}

/// An open TUN device that only this process has.
///
/// Reads and writes through the descriptor may happen from any thread and at the same time; each
/// moves one whole packet. Dropping closes the descriptor, which removes the device once nothing
/// else (such as a ring request in flight) holds it.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    index: u32,
    offloads: Offloads,
}

impl Tun {
    /// Create the device and negotiate its offloads. The device is left down and without address.
    ///
    /// # Errors
    ///
    /// After an error no device of ours is left behind. See [`TunError`].
    pub fn open(options: &TunOptions<'_>) -> Result<Tun, TunError> {
        Tun::create(options, Create::Alone)
    }

    /// Like [`Tun::open`], with `count` queues, which the program divides the flows among.
    ///
    /// # Errors
    ///
    /// After an error no device of ours is left behind. See [`TunError`].
    pub fn open_queues(
        options: &TunOptions<'_>,
        count: usize,
        steering: &Steering,
    ) -> Result<Vec<Tun>, TunError> {
        let first = Tun::create(options, Create::FirstQueue)?;
        steering.attach(first.as_fd()).map_err(TunError::Steering)?;
        let mut queues = vec![first];
        while queues.len() < count {
            let next = queues[0].another_queue()?;
            queues.push(next);
        }
        Ok(queues)
    }

    fn create(options: &TunOptions<'_>, kind: Create) -> Result<Tun, TunError> {
        let name = options.name;
        let mut request =
            Request::new(name).ok_or_else(|| TunError::InvalidName { name: name.to_owned() })?;
        let fd = OwnedFd::from(open_control_device()?);
        // The device belongs to the namespace this thread is in, and so does this socket.
        let control = request::control_socket()
            .map_err(|source| TunError::Io { context: "open a control socket", source })?;

        request
            .create(fd.as_fd(), kind)
            .map_err(|source| explain_create(source, &mut request, control.as_fd(), name))?;
        request::set_vnet_header_length(fd.as_fd(), VNET_HEADER_LENGTH)
            .map_err(|source| TunError::Io { context: "set the packet header length", source })?;
        let offloads = offload::negotiate(fd.as_fd(), options.without)
            .map_err(|source| TunError::Io { context: "set the offloads", source })?;
        request
            .set_queue_length(control.as_fd(), options.queue_length)
            .map_err(|source| TunError::Io { context: "set the queue length", source })?;
        let index = request
            .index(control.as_fd())
            .map_err(|source| TunError::Io { context: "read the interface index", source })?;
        Ok(Tun { fd, name: name.to_owned(), index, offloads })
    }

    /// One more queue of the same device. Header length, offloads and queue length are the device's.
    fn another_queue(&self) -> Result<Tun, TunError> {
        let mut request = Request::new(&self.name).expect("the device has this name");
        let fd = OwnedFd::from(open_control_device()?);
        request
            .create(fd.as_fd(), Create::NextQueue)
            .map_err(|source| TunError::Io { context: "add a queue to the device", source })?;
        Ok(Tun { fd, name: self.name.clone(), index: self.index, offloads: self.offloads })
    }

    /// Another hand on the same device and the same queue. The device lives as long as one of them.
    ///
    /// # Errors
    ///
    /// The process has too many files open.
    pub fn try_clone(&self) -> io::Result<Tun> {
        let Tun { fd, name, index, offloads } = self;
        Ok(Tun { fd: fd.try_clone()?, name: name.clone(), index: *index, offloads: *offloads })
    }

    /// Whether the device is still there. Once somebody has deleted it, nothing brings it back; one
    /// that was made anew is another one.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let mut request = Request::new(&self.name).expect("the device has this name");
        request.has_device(self.fd.as_fd())
    }

    /// The name asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's interface index, in the namespace the device was created in.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The offloads the kernel agreed to.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Open `/dev/net/tun`. The standard library adds `O_CLOEXEC`.
fn open_control_device() -> Result<File, TunError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|source| match source.raw_os_error() {
            // No node; a node without a driver behind it.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice { source },
            // File mode; device cgroup.
            Some(libc::EACCES | libc::EPERM) => TunError::DeviceForbidden { source },
            _ => TunError::Io { context: "open /dev/net/tun", source },
        })
}

/// Turn the refusal of `TUNSETIFF` into the error that says what to do.
fn explain_create(
    source: io::Error,
    request: &mut Request,
    control: BorrowedFd<'_>,
    name: &str,
) -> TunError {
    match source.raw_os_error() {
        Some(libc::EPERM) => TunError::NoPermission { name: name.to_owned(), source },
        // `IFF_TUN_EXCL`: any interface of this name, of whatever kind.
        Some(libc::EBUSY) => TunError::Taken {
            name: name.to_owned(),
            // An interface that went away in between has no carrier either.
            has_carrier: request.has_carrier(control).unwrap_or(false),
        },
        _ => TunError::Io { context: "create the device", source },
    }
}
