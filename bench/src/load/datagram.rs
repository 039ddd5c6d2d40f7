//! What is in a datagram: the flow that it belongs to and its number there.

/// Flow and number.
pub const BYTES_MIN: u16 = 12;

/// What fits into a packet of 1500 bytes over IPv4.
pub const BYTES_MAX: u16 = 1472;

/// One datagram's place in the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// Flows are numbered from 0.
    pub(super) flow: u32,
    /// Datagrams of a flow are numbered from 0.
    pub(super) number: u64,
}

impl Label {
    /// Puts the label at the head of a datagram, which has at least [`BYTES_MIN`].
    pub(super) fn write(self, datagram: &mut [u8]) {
        datagram[..4].copy_from_slice(&self.flow.to_be_bytes());
        datagram[4..12].copy_from_slice(&self.number.to_be_bytes());
    }

    /// The label of a datagram, unless it is too short to be one of ours.
    pub(super) fn read(datagram: &[u8]) -> Option<Label> {
        let (flow, rest) = datagram.split_first_chunk()?;
        let number = rest.first_chunk()?;
        Some(Label { flow: u32::from_be_bytes(*flow), number: u64::from_be_bytes(*number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_comes_back_and_a_short_datagram_has_none() {
        let label = Label { flow: 199, number: 1 << 40 };
        let mut datagram = [0xff; 64];
        label.write(&mut datagram);
        assert_eq!(Label::read(&datagram), Some(label));
        assert_eq!(Label::read(&datagram[..BYTES_MIN.into()]), Some(label));
        assert_eq!(Label::read(&datagram[..usize::from(BYTES_MIN) - 1]), None);
    }
}
