//! Control messages: the segment size we send with, and what comes with a received train.
//!
//! The layout is the kernel's (`include/linux/socket.h`): a `struct cmsghdr` of one `size_t` and
//! two `int`, then the data, all aligned to `size_t`. It is written and read as bytes, so nothing
//! here trusts a length that it has not checked.

/// Bytes of `struct cmsghdr`.
const HEADER_LENGTH: usize = align(size_of::<usize>() + 2 * size_of::<i32>());

const LEVEL_START: usize = size_of::<usize>();
const TYPE_START: usize = LEVEL_START + size_of::<i32>();

/// Bytes of a [`SegmentControl`]: `CMSG_SPACE(sizeof(u16))`.
pub const SEGMENT_CONTROL_LENGTH: usize = space(size_of::<u16>());

/// Room for all that our sockets ask the kernel to send along with a datagram:
/// `CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(u32))`.
pub const RECEIVE_CONTROL_LENGTH: usize = space(size_of::<i32>()) + space(size_of::<u32>());

/// The control message `UDP_SEGMENT`: cut this send into datagrams of one size.
///
/// The kernel reads it during the send only; the bytes must stay in place until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct SegmentControl {
    bytes: [u8; SEGMENT_CONTROL_LENGTH],
}

impl SegmentControl {
    /// Cut into datagrams with `segment_size` bytes of UDP payload; the last may be shorter.
    #[must_use]
    pub fn new(segment_size: u16) -> SegmentControl {
        let mut bytes = [0; SEGMENT_CONTROL_LENGTH];
        let length = HEADER_LENGTH + size_of::<u16>();
        bytes[..LEVEL_START].copy_from_slice(&length.to_ne_bytes());
        bytes[LEVEL_START..TYPE_START].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[TYPE_START..HEADER_LENGTH].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[HEADER_LENGTH..length].copy_from_slice(&segment_size.to_ne_bytes());
        SegmentControl { bytes }
    }

    /// The message. Its start and length are `msg_control` and `msg_controllen` of a
    /// `struct msghdr`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Segment size 0, which the kernel takes as "one datagram": the content of a slot that has not
/// been used yet.
impl Default for SegmentControl {
    fn default() -> SegmentControl {
        SegmentControl::new(0)
    }
}

/// What the kernel said about a received datagram or train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of UDP payload of each datagram of the train but the last, which may be shorter
    /// (`UDP_GRO`). `None`: a single datagram.
    pub segment_size: Option<u16>,
    /// Datagrams that this socket has dropped since it was opened because its buffer was full,
    /// modulo 2³² (`SO_RXQ_OVFL`). `None` as long as it has dropped none.
    pub overflow: Option<u32>,
}

/// Read the control bytes of a received message. Never fails: what is cut short, unknown or
/// impossible is left out.
#[must_use]
pub fn parse_control(mut bytes: &[u8]) -> Received {
    let mut received = Received::default();
    while let Some((message, rest)) = split_message(bytes) {
        bytes = rest;
        let value = message.data.first_chunk().copied();
        match (message.level, message.kind, value) {
            (libc::SOL_UDP, libc::UDP_GRO, Some(value)) => {
                received.segment_size = segment_size(i32::from_ne_bytes(value));
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, Some(value)) => {
                received.overflow = Some(u32::from_ne_bytes(value));
            }
            _ => {}
        }
    }
    received
}

struct Message<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

/// The first message and the bytes behind it; `None` at the end and at the first impossible length.
fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::from_ne_bytes(*bytes.first_chunk()?);
    let message = bytes.get(..length)?;
    let data = message.get(HEADER_LENGTH..)?;
    let level = i32::from_ne_bytes(*message[LEVEL_START..].first_chunk()?);
    let kind = i32::from_ne_bytes(*message[TYPE_START..].first_chunk()?);
    // The kernel may leave out the padding behind the last message.
    let rest = bytes.get(align(length)..).unwrap_or_default();
    Some((Message { level, kind, data }, rest))
}

fn segment_size(value: i32) -> Option<u16> {
    u16::try_from(value).ok().filter(|size| *size > 0)
}

/// `CMSG_ALIGN`. Not called with lengths near the end of the number range: they are those of
/// slices or constants.
const fn align(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

/// `CMSG_SPACE`.
const fn space(data_length: usize) -> usize {
    align(HEADER_LENGTH + align(data_length))
}

#[cfg(test)]
mod tests;
