//! Every form of the Internet checksum.

use std::sync::LazyLock;

use weft_forward::checksum::{add, naive, portable, replace};
use weft_sys::checksum::{SumFunction, available};

use crate::input::Input;

static FORMS: LazyLock<Vec<(&'static str, SumFunction)>> = LazyLock::new(available);

/// Bytes behind a byte of offset and two of length to repeat them to.
pub fn checksum(data: &[u8]) {
    let mut input = Input::new(data);
    let (offset, length) = (usize::from(input.u8() % 64), usize::from(input.u16()) % 9000);
    let content = input.rest();
    let mut bytes = vec![0xa5; offset];
    if content.len() < length && !content.is_empty() {
        bytes.extend(content.iter().cycle().take(length));
    } else {
        bytes.extend_from_slice(content);
    }
    let bytes = &bytes[offset..];
    let expected = naive(bytes);
    assert_eq!(portable(bytes), expected);
    for (name, sum) in FORMS.iter() {
        assert_eq!(sum(bytes), expected, "{name}");
    }
    let (head, tail) = bytes.split_at(length.min(bytes.len()) / 2 * 2);
    assert_eq!(add(naive(head), naive(tail)), expected);
    // The incremental update, wherever a sum of nothing but zeros does not have two names.
    if let [first, second, rest @ ..] = bytes
        && rest.iter().any(|byte| *byte != 0)
    {
        let (old, new) = (u16::from_be_bytes([*first, *second]), length as u16);
        let mut changed = bytes.to_vec();
        changed[..2].copy_from_slice(&new.to_be_bytes());
        assert_eq!(replace(!expected, old, new), !naive(&changed));
    }
}
