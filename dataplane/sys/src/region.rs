//! One mapped memory region, cut once at start into spans that never overlap.
//!
//! Everything the kernel reads or writes on the packet path lies here: received frames, headers
//! and small copies of outgoing trains, and the entries of the provided-buffer rings. The region
//! is unmapped when the last span is gone.

#![expect(unsafe_code, reason = "maps memory that the kernel writes to")]

use std::{cell::Cell, io, ptr::NonNull, rc::Rc};

/// The page size that alignment and rounding use. Linux on the architectures we build for has
/// pages of at least this size, and `mmap` aligns to the real one.
pub const PAGE: usize = 4096;

/// A private anonymous mapping with a bump allocator.
#[derive(Debug)]
pub struct Region {
    mapping: Rc<Mapping>,
    used: Cell<usize>,
}

#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

impl Region {
    /// Maps `length` bytes, rounded up to whole pages. Pages are zero and cost memory when they
    /// are first touched.
    ///
    /// # Errors
    /// What `mmap(2)` says, above all `ENOMEM`.
    pub fn map(length: usize) -> io::Result<Region> {
        let length = length.max(1).next_multiple_of(PAGE);
        // SAFETY: a null hint and MAP_ANONYMOUS let the kernel choose fresh pages, so no memory
        // that anybody uses is touched; the result is checked below.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap gives MAP_FAILED, never null");
        Ok(Region { mapping: Rc::new(Mapping { base, length }), used: Cell::new(0) })
    }

    /// Takes the next `length` bytes, aligned to `alignment` (a power of two up to [`PAGE`]).
    ///
    /// # Panics
    /// When the region is used up: its size is computed from the same constants as its spans.
    #[must_use]
    pub fn take(&self, length: usize, alignment: usize) -> Span {
        assert!(alignment.is_power_of_two() && alignment <= PAGE, "alignment is a page at most");
        let start = self.used.get().next_multiple_of(alignment);
        let end = start.checked_add(length).expect("span lengths are far below usize::MAX");
        assert!(end <= self.mapping.length, "the region is sized for all of its spans");
        self.used.set(end);
        Span { mapping: Rc::clone(&self.mapping), start, length }
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.length
    }

    /// Whether nothing is mapped. Never true: a region has at least one page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` come from the mmap in `Region::map`, and every span that
        // could refer to the pages held a count of this mapping, so none is left. That no kernel
        // request still refers to them is upheld by `Ring`, which keeps its spans until it has
        // reaped all requests.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// The one owner of a stretch of a region.
#[derive(Debug)]
pub struct Span {
    mapping: Rc<Mapping>,
    start: usize,
    length: usize,
}

impl Span {
    /// Bytes in the span.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the span has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the span begins. Valid for `len()` bytes as long as the span lives.
    pub(crate) fn base(&self) -> NonNull<u8> {
        // SAFETY: `start + length` is within the mapping, checked when the span was taken.
        unsafe { self.mapping.base.add(self.start) }
    }

    /// The bytes. The caller within this crate makes sure that the kernel does not write to this
    /// span meanwhile (gather arenas: the kernel only ever reads them).
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the pages are mapped and initialised (zero) for `length` bytes; spans do not
        // overlap, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_aligned_apart_and_zero() {
        let region = Region::map(3 * PAGE).unwrap();
        let mut first = region.take(100, 64);
        let mut second = region.take(PAGE, PAGE);
        assert_eq!(second.base().as_ptr() as usize % PAGE, 0);
        first.bytes_mut().fill(7);
        assert!(second.bytes_mut().iter().all(|byte| *byte == 0));
        drop(region);
        assert_eq!(first.bytes_mut(), [7; 100]);
    }

    #[test]
    #[should_panic(expected = "sized for all")]
    fn taking_too_much_panics() {
        let region = Region::map(PAGE).unwrap();
        let _first = region.take(PAGE, 1);
        let _second = region.take(1, 1);
    }
}
