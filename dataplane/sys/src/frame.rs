//! Received frames and the provided-buffer ring they come from.
//!
//! A frame has one owner at a time: *in the ring* (the kernel may write to it) → *held* (a
//! [`Frame`], handed out by a completion) → perhaps *shared* by the gathers that send its bytes →
//! back in the ring when the last handle is dropped. There is no other way to put a buffer into
//! the ring, and none to look at one that the kernel owns.
//!
//! Of the frames that nobody holds the ring gets only as many as are useful, those first that were
//! used last. A ring is a queue: with all frames in it, large packets would go through all of the
//! pool, and each would be copied into memory that has long left the processor's cache.
//!
//! The ring of a pool is `struct io_uring_buf_ring` (`include/uapi/linux/io_uring.h`).

#![expect(unsafe_code, reason = "shares memory and a ring of buffers with the kernel")]

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    ptr::NonNull,
    rc::Rc,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::region::{PAGE, Region, Span};

/// Bytes that the frames in a ring are thought to take up in the cache: a part of the 1 or 2 MiB
/// that a processor has for itself nowadays.
const HOT_BYTES: u32 = 512 << 10;

/// Frames that a ring has at least, while there are so many.
const OFFERED_MIN: u32 = 8;

/// Weight of what was known before, against one received frame, in the average length.
const MEMORY: u32 = 8;

/// How a pool of frames is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Number of frames: a power of two, as the kernel demands of a buffer ring.
    pub frames: u16,
    /// Bytes that a frame can take.
    pub capacity: usize,
    /// Distance between two frames. More than `capacity` and no multiple of a page, so that the
    /// first lines of all frames do not fall into the same cache set.
    pub stride: usize,
}

impl PoolShape {
    /// Bytes of region that a pool of this shape takes, alignment included.
    #[must_use]
    pub const fn footprint(&self) -> usize {
        self.stride * self.frames as usize
            + self.frames as usize * size_of::<BufRingEntry>()
            + 2 * PAGE
    }
}

#[derive(Debug)]
struct Shared {
    memory: Span,
    entries: Span,
    shape: PoolShape,
    /// Handles a frame has; 0 = in the ring or in the free list.
    handles: Box<[Cell<u16>]>,
    tail: Cell<u16>,
    held: Cell<u16>,
    /// Frames that nobody holds and that are not in the ring, those used last at the end.
    free: RefCell<Vec<u16>>,
    /// Frames in the ring.
    offered: Cell<u16>,
    /// Bytes of a frame received lately, on average.
    usual: Cell<u32>,
    registered: Cell<bool>,
}

impl Shared {
    /// Nobody holds frame `index` any more.
    fn give_back(&self, index: u16) {
        self.held.set(self.held.get() - 1);
        self.free.borrow_mut().push(index);
        if self.registered.get() {
            self.offer();
        }
    }

    /// A frame of `length` bytes came out of the ring.
    fn received(&self, length: usize) {
        self.offered.set(self.offered.get() - 1);
        let usual = self.usual.get();
        self.usual.set(usual - usual / MEMORY + length as u32 / MEMORY);
        self.offer();
    }

    /// Fills the ring with as many frames as are useful.
    fn offer(&self) {
        let useful = (HOT_BYTES / self.usual.get().max(1)).max(OFFERED_MIN);
        while u32::from(self.offered.get()) < useful {
            let Some(index) = self.free.borrow_mut().pop() else { return };
            self.offered.set(self.offered.get() + 1);
            self.give_to_kernel(index);
        }
    }

    fn place(&self, index: u16) -> NonNull<u8> {
        let offset = usize::from(index) * self.shape.stride;
        debug_assert!(offset + self.shape.capacity <= self.memory.len(), "index is of this pool");
        // SAFETY: `index < frames` for every frame ever made (checked in `FramePool::take`), and
        // the span holds `frames * stride` bytes.
        unsafe { self.memory.base().add(offset) }
    }

    /// Hands frame `index` to the kernel.
    fn give_to_kernel(&self, index: u16) {
        let tail = self.tail.get();
        let position = usize::from(tail & (self.shape.frames - 1));
        let entries = self.entries.base().cast::<BufRingEntry>();
        // SAFETY: `position < frames`, and `entries` holds that many entries.
        let entry = unsafe { entries.add(position) };
        // SAFETY: the kernel does not read an entry outside [head, tail), and this one is not in
        // it until the tail is published below: the ring has as many entries as there are
        // frames, and each frame is in it at most once (its handle count was zero). The tail
        // field overlays `resv` of entry 0, which these setters leave alone.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(self.place(index).as_ptr() as u64);
        entry.set_len(u32::try_from(self.shape.capacity).expect("a frame is below 4 GiB"));
        entry.set_bid(index);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `entries` is the page-aligned base of an initialised ring, as `tail` demands.
        let published = unsafe { BufRingEntry::tail(entries.as_ptr()) };
        // SAFETY: the tail is a u16 inside the mapped ring, aligned, shared with the kernel, and
        // accessed only atomically from here on.
        let published = unsafe { AtomicU16::from_ptr(published.cast_mut()) };
        published.store(self.tail.get(), Ordering::Release);
    }
}

/// A pool of frames and the kernel's ring over them. One thread owns it.
#[derive(Debug)]
pub struct FramePool {
    shared: Rc<Shared>,
    group: u16,
}

impl FramePool {
    /// Cuts a pool out of `region`; `group` is the buffer group id it is registered under.
    /// No frame belongs to the kernel until the pool is registered with a ring; until then
    /// [`FramePool::free_frame`] hands them out.
    ///
    /// # Panics
    /// When `shape` is not what [`PoolShape`] says, or the region is too small.
    #[must_use]
    pub fn new(region: &Region, shape: PoolShape, group: u16) -> FramePool {
        assert!(shape.frames.is_power_of_two(), "a buffer ring has a power of two of entries");
        assert!(shape.capacity <= shape.stride, "frames do not overlap");
        let entries = region.take(usize::from(shape.frames) * size_of::<BufRingEntry>(), PAGE);
        let memory = region.take(usize::from(shape.frames) * shape.stride, 64);
        let handles = vec![Cell::new(0); usize::from(shape.frames)].into_boxed_slice();
        let shared = Shared {
            memory,
            entries,
            shape,
            handles,
            tail: Cell::new(0),
            held: Cell::new(0),
            free: RefCell::new((0..shape.frames).rev().collect()),
            offered: Cell::new(0),
            usual: Cell::new(0),
            registered: Cell::new(false),
        };
        FramePool { shared: Rc::new(shared), group }
    }

    /// The buffer group id.
    #[must_use]
    pub fn group(&self) -> u16 {
        self.group
    }

    /// Frames that have handles.
    #[must_use]
    pub fn held(&self) -> u16 {
        self.shared.held.get()
    }

    /// Frames in all.
    #[must_use]
    pub fn frames(&self) -> u16 {
        self.shared.shape.frames
    }

    /// Keeps the memory mapped for ever: the kernel may still write to it.
    pub(crate) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.shared));
    }

    /// Address and length of the ring for `IORING_REGISTER_PBUF_RING`.
    pub(crate) fn ring_address(&self) -> (u64, u16) {
        (self.shared.entries.base().as_ptr() as u64, self.shared.shape.frames)
    }

    /// Whether nothing is left to put into the ring.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.shared.free.borrow().is_empty()
    }

    /// Gives frames to the kernel, once, after registration.
    pub(crate) fn fill(&self) {
        assert_eq!(self.held(), 0, "a pool is registered before its frames are used");
        self.shared.registered.set(true);
        self.shared.offer();
    }

    /// A frame that nobody holds, with whatever bytes it had, as long as its capacity. `None`
    /// when all are held, and always once the pool is registered with a ring: the kernel chooses
    /// then.
    #[must_use]
    pub fn free_frame(&self) -> Option<Frame> {
        if self.shared.registered.get() {
            return None;
        }
        let index = self.shared.free.borrow_mut().pop()?;
        let capacity = self.shared.shape.capacity;
        // SAFETY: the index was in the free list, so no kernel ring and no handle has the frame.
        Some(unsafe { self.take(index, capacity) })
    }

    /// Takes frame `index`, which a completion of this ring named, out of the kernel's hands.
    ///
    /// # Safety
    /// Nobody else has this buffer: `index` and `length` come from a completion with
    /// `IORING_CQE_F_BUFFER` of a request in this pool's group, read once; or the index comes
    /// from the free list.
    pub(crate) unsafe fn take(&self, index: u16, length: usize) -> Frame {
        let handles = &self.shared.handles[usize::from(index)];
        assert_eq!(handles.get(), 0, "the kernel hands over only frames that it had");
        handles.set(1);
        self.shared.held.set(self.shared.held.get() + 1);
        let length = length.min(self.shared.shape.capacity);
        if self.shared.registered.get() {
            self.shared.received(length);
        }
        Frame { shared: Rc::clone(&self.shared), index, start: 0, end: length as u32 }
    }
}

/// Received bytes. Cloning makes another handle to the same bytes, which are immutable then;
/// the last handle that goes returns the frame to its ring.
#[derive(Debug)]
pub struct Frame {
    shared: Rc<Shared>,
    index: u16,
    start: u32,
    end: u32,
}

impl Frame {
    /// The bytes that this handle shows.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let length = (self.end - self.start) as usize;
        // SAFETY: `start <= end <= capacity` (see `take` and `narrow`), within the frame.
        let place = unsafe { self.shared.place(self.index).add(self.start as usize) };
        // SAFETY: the frame is out of the ring while a handle lives, so the kernel does not
        // write to it; a writer needs the only handle, by `&mut` (see `bytes_mut`).
        unsafe { std::slice::from_raw_parts(place.as_ptr(), length) }
    }

    /// The bytes, to change them; `None` while another handle exists.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.shared.handles[usize::from(self.index)].get() != 1 {
            return None;
        }
        let length = (self.end - self.start) as usize;
        // SAFETY: as in `bytes`.
        let place = unsafe { self.shared.place(self.index).add(self.start as usize) };
        // SAFETY: as in `bytes`, and this is the only handle, borrowed exclusively; requests in
        // the kernel hold handles of their own.
        Some(unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), length) })
    }

    /// Shows only `range` of what this handle shows now.
    ///
    /// # Panics
    /// When the range is not within [`Frame::bytes`].
    pub fn narrow(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "range is within the frame");
        self.end = self.start + range.end as u32;
        self.start += range.start as u32;
    }

    /// Number of bytes shown.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether no byte is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether both are handles to the same frame.
    #[must_use]
    #[inline]
    pub fn same_frame(&self, other: &Frame) -> bool {
        self.index == other.index && Rc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Frame {
        let handles = &self.shared.handles[usize::from(self.index)];
        handles.set(handles.get().checked_add(1).expect("handles of a frame are few"));
        Frame {
            shared: Rc::clone(&self.shared),
            index: self.index,
            start: self.start,
            end: self.end,
        }
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        let handles = &self.shared.handles[usize::from(self.index)];
        handles.set(handles.get() - 1);
        if handles.get() == 0 {
            self.shared.give_back(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PoolShape = PoolShape { frames: 4, capacity: 100, stride: 128 };

    fn pool() -> FramePool {
        let region = Region::map(SHAPE.footprint()).unwrap();
        let pool = FramePool::new(&region, SHAPE, 3);
        pool.fill();
        pool
    }

    /// Plays the kernel: a completion that names `index`.
    fn complete(pool: &FramePool, index: u16, length: usize) -> Frame {
        // SAFETY: no kernel has the ring of this test; the caller names frames that are in it.
        unsafe { pool.take(index, length) }
    }

    #[test]
    fn a_frame_returns_when_its_last_handle_goes() {
        let pool = pool();
        let mut frame = complete(&pool, 2, 50);
        frame.bytes_mut().unwrap().fill(9);
        let other = frame.clone();
        assert!(frame.bytes_mut().is_none());
        assert_eq!(pool.held(), 1);
        drop(frame);
        assert_eq!(pool.held(), 1);
        assert_eq!(other.bytes(), [9; 50]);
        drop(other);
        assert_eq!(pool.held(), 0);
        assert_eq!(pool.shared.tail.get(), 5);
    }

    #[test]
    fn a_pool_without_a_ring_hands_out_its_frames_itself() {
        let region = Region::map(SHAPE.footprint()).unwrap();
        let pool = FramePool::new(&region, SHAPE, 3);
        let frames: Vec<Frame> = std::iter::from_fn(|| pool.free_frame()).collect();
        assert_eq!(frames.len(), usize::from(SHAPE.frames));
        assert_eq!(frames[0].len(), SHAPE.capacity);
        drop(frames);
        assert!(pool.free_frame().is_some());
        pool.fill();
        assert!(pool.free_frame().is_none());
    }

    #[test]
    fn narrowing_moves_both_ends() {
        let pool = pool();
        let mut frame = complete(&pool, 0, 10);
        frame.bytes_mut().unwrap().copy_from_slice(b"0123456789");
        frame.narrow(2..8);
        frame.narrow(1..3);
        assert_eq!(frame.bytes(), b"34");
    }

    #[test]
    #[should_panic(expected = "only frames that it had")]
    fn a_frame_is_never_handed_over_twice() {
        let pool = pool();
        let _first = complete(&pool, 1, 1);
        let _second = complete(&pool, 1, 1);
    }

    #[test]
    fn a_length_beyond_the_frame_is_cut() {
        let pool = pool();
        assert_eq!(complete(&pool, 0, 5000).len(), SHAPE.capacity);
    }

    /// The frames in the ring, in the order in which the kernel will use them.
    fn offered(pool: &FramePool) -> Vec<u16> {
        let shared = &pool.shared;
        let entries = shared.entries.base().cast::<BufRingEntry>();
        let (tail, count) = (shared.tail.get(), shared.offered.get());
        let entry = |place: u16| {
            let position = usize::from(place & (shared.shape.frames - 1));
            // SAFETY: `position < frames`, and the ring has that many entries.
            let entry = unsafe { entries.add(position) };
            // SAFETY: the entry is initialised, and no kernel knows this ring.
            unsafe { entry.as_ref() }.bid()
        };
        (0..count).map(|back| entry(tail.wrapping_sub(count - back))).collect()
    }

    #[test]
    fn large_frames_are_few_and_the_last_used_come_first() {
        let shape = PoolShape { frames: 32, capacity: 65_536, stride: 65_600 };
        let region = Region::map(shape.footprint()).unwrap();
        let pool = FramePool::new(&region, shape, 3);
        pool.fill();
        assert_eq!(offered(&pool).len(), 32, "small packets are expected at first");
        let receive = |length| complete(&pool, offered(&pool)[0], length);
        for _ in 0..100 {
            drop(receive(65_536));
        }
        assert_eq!(offered(&pool).len(), 8);
        assert!(!pool.is_exhausted());
        let used: Vec<u16> = (0..100).map(|_| receive(65_536).index).collect();
        // Eight in the ring, and the one at hand.
        assert!(used[9..].iter().all(|index| used[..9].contains(index)), "{used:?}");

        let held: Vec<Frame> = (0..32).map(|_| receive(65_536)).collect();
        assert!(offered(&pool).is_empty() && pool.is_exhausted());
        drop(held);
        for _ in 0..100 {
            drop(receive(100));
        }
        assert_eq!(offered(&pool).len(), 32);
    }
}
