//! Which part of something sharded a thread uses.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More shards than this cost memory and win nothing.
pub(crate) const MAX: usize = 8;

/// As many shards as threads, within reason.
pub(crate) fn count(threads: usize) -> usize {
    threads.clamp(1, MAX)
}

/// A number that stays with this thread; neighbours have different ones.
#[inline]
pub(crate) fn of_this_thread() -> usize {
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff);
        }
        own.get()
    })
}

/// A value that shares no cache line with its neighbours, the pair that processors fetch together included.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(crate) struct Padded<T>(pub(crate) T);
