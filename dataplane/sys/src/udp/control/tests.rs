use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{
    HEADER_LENGTH, RECEIVE_CONTROL_LENGTH, Received, SEGMENT_CONTROL_LENGTH, SegmentControl, align,
    parse_control,
};

fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((HEADER_LENGTH + data.len()).to_ne_bytes());
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.resize(HEADER_LENGTH, 0);
    bytes.extend(data);
    bytes.resize(align(bytes.len()), 0);
    bytes
}

fn gro(segment_size: i32) -> Vec<u8> {
    message(17, 104, &segment_size.to_ne_bytes())
}

fn overflow(count: u32) -> Vec<u8> {
    message(1, 40, &count.to_ne_bytes())
}

/// Level 17 is `SOL_UDP`, type 103 `UDP_SEGMENT` (`include/uapi/linux/udp.h`).
#[cfg(all(target_pointer_width = "64", target_endian = "little"))]
#[test]
fn writes_the_segment_size_as_the_kernel_has_it() {
    let expected = [
        18, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 103, 0, 0, 0, // header
        0x8c, 0x05, 0, 0, 0, 0, 0, 0, // 1420, padding
    ];
    assert_eq!(SegmentControl::new(1420).as_bytes(), expected);
}

/// The lengths of the C library's macros, which have them from the kernel.
#[test]
fn has_room_as_the_c_library_counts_it() {
    let space = |length: usize| {
        let header = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());
        header + length.next_multiple_of(size_of::<usize>())
    };
    assert_eq!(SEGMENT_CONTROL_LENGTH, space(2));
    assert_eq!(RECEIVE_CONTROL_LENGTH, 2 * space(4));
}

#[test]
fn reads_both_messages_in_any_order() {
    let both = Received { segment_size: Some(1400), overflow: Some(7) };
    assert_eq!(parse_control(&[gro(1400), overflow(7)].concat()), both);
    assert_eq!(parse_control(&[overflow(7), gro(1400)].concat()), both);
    let stranger = message(0, 2, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(parse_control(&[stranger, overflow(7), gro(1400)].concat()), both);
    assert_eq!(parse_control(&[]), Received::default());
}

#[test]
fn leaves_out_impossible_segment_sizes() {
    for value in [0, -1, 65_536, i32::MIN, i32::MAX] {
        assert_eq!(parse_control(&gro(value)), Received::default(), "{value}");
    }
    assert_eq!(parse_control(&gro(65_535)).segment_size, Some(65_535));
}

#[test]
fn ignores_messages_of_other_kinds() {
    for (level, kind) in [(17, 103), (17, 40), (1, 104), (0, 104), (41, 40)] {
        let bytes = message(level, kind, &1_i32.to_ne_bytes());
        assert_eq!(parse_control(&bytes), Received::default(), "{level} {kind}");
    }
}

/// A message is there once its data is; the padding behind the last one is optional.
#[test]
fn reads_what_is_whole_of_any_truncation() {
    let bytes = [gro(1400), overflow(7)].concat();
    let first_end = HEADER_LENGTH + 4;
    let second_end = gro(1400).len() + HEADER_LENGTH + 4;
    for length in 0..=bytes.len() {
        let expected = Received {
            segment_size: (length >= first_end).then_some(1400),
            overflow: (length >= second_end).then_some(7),
        };
        assert_eq!(parse_control(&bytes[..length]), expected, "cut to {length}");
    }
}

#[test]
fn stops_at_impossible_lengths() {
    for length in [0, 1, HEADER_LENGTH - 1, 41, 1 << 20, usize::MAX - 3, usize::MAX] {
        let mut bytes = [gro(1400), overflow(7)].concat();
        bytes.truncate(40);
        bytes[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(parse_control(&bytes), Received::default(), "{length}");
    }
    // A message without room for its value is skipped, not read beyond its end.
    let short = message(17, 104, &[1, 2, 3]);
    let expected = Received { segment_size: None, overflow: Some(7) };
    assert_eq!(parse_control(&[short, overflow(7)].concat()), expected);
}

proptest! {
    #[test]
    fn survives_any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        let received = parse_control(&bytes);
        prop_assert!(received.segment_size != Some(0));
    }

    /// Any bytes hardly ever have a possible length; these do.
    #[test]
    fn survives_any_messages(
        parts in vec((any::<u8>(), 0..3_i32, 0..3_i32, any::<u64>()), 0..8),
        end in 0..400_usize,
    ) {
        let mut bytes = Vec::new();
        for (length, level, kind, data) in parts {
            let kinds = [104_i32, 40, 103];
            let levels = [17_i32, 1, 0];
            bytes.extend(usize::from(length % 48).to_ne_bytes());
            bytes.extend(levels[level as usize].to_ne_bytes());
            bytes.extend(kinds[kind as usize].to_ne_bytes());
            bytes.extend(data.to_ne_bytes());
        }
        bytes.truncate(end);
        let received = parse_control(&bytes);
        prop_assert!(received.segment_size != Some(0));
    }

    #[test]
    fn reads_what_was_written(size in 1..=u16::MAX, count in any::<u32>()) {
        let bytes = [overflow(count), gro(i32::from(size))].concat();
        let expected = Received { segment_size: Some(size), overflow: Some(count) };
        prop_assert_eq!(parse_control(&bytes), expected);
    }
}
