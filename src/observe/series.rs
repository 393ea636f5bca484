//! Counters of one meter, by method, protocol and status: found without a lock, a label or an allocation once they are there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::shard;

/// One cache line of counters: a thread's own, so that cores do not pass it around.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(super) struct Line([AtomicU64; LINE]);

const LINE: usize = 8;

/// What the cells of all meters have in common.
#[derive(Debug)]
pub(super) struct Shape {
    shards: usize,
    /// Upper bounds of the buckets, in nanoseconds.
    bounds: Box<[u64]>,
    /// Lines of one shard of a cell.
    lines: usize,
    /// Combinations of labels that one meter may have.
    pub(super) max_keys: usize,
}

/// Where in a shard the counters of a cell stand; the buckets come last.
const SUM: usize = 0;
const REQUEST_BYTES: usize = 1;
const RESPONSE_BYTES: usize = 2;
const BUCKETS: usize = 3;

impl Shape {
    /// `bounds` are in seconds.
    pub(super) fn new(bounds: &[f64], threads: usize, max_keys: usize) -> Self {
        let bounds: Box<[u64]> = bounds.iter().map(|seconds| (seconds * 1e9).round() as u64).collect();
        let lines = (BUCKETS + bounds.len() + 1).div_ceil(LINE);
        Self { shards: shard::count(threads), bounds, lines, max_keys }
    }

    /// Counters for each shard, all zero; `lines` of eight for each.
    pub(super) fn counters(&self, lines: usize) -> Box<[Line]> {
        (0..self.shards * lines).map(|_| Line::default()).collect()
    }

    /// This thread's part of `counters`.
    #[inline]
    pub(super) fn own<'c>(&self, counters: &'c [Line], lines: usize) -> &'c [Line] {
        let start = shard::of_this_thread() % self.shards * lines;
        &counters[start..start + lines]
    }

    /// Adds one request to a cell.
    #[inline]
    fn add(&self, cell: &[Line], (duration, request_bytes, response_bytes): (Duration, u64, u64)) {
        let own = self.own(cell, self.lines);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.iter().position(|bound| nanos <= *bound).unwrap_or(self.bounds.len());
        add(own, BUCKETS + bucket, 1);
        // Microseconds, because nanoseconds of thousands of requests at a time overflow within weeks.
        add(own, SUM, nanos / 1000 + u64::from(nanos % 1000 >= 500));
        if request_bytes > 0 {
            add(own, REQUEST_BYTES, request_bytes);
        }
        if response_bytes > 0 {
            add(own, RESPONSE_BYTES, response_bytes);
        }
    }

    fn totals(&self, cell: &[Line]) -> Totals {
        let mut totals = Totals { buckets: vec![0; self.bounds.len() + 1], ..Totals::default() };
        for own in cell.chunks_exact(self.lines) {
            totals.micros += u128::from(read(own, SUM));
            totals.request_bytes += read(own, REQUEST_BYTES);
            totals.response_bytes += read(own, RESPONSE_BYTES);
            for (index, bucket) in totals.buckets.iter_mut().enumerate() {
                *bucket += read(own, BUCKETS + index);
            }
        }
        totals
    }
}

/// Adds to the counter at `index` of a shard.
#[inline]
pub(super) fn add(own: &[Line], index: usize, amount: u64) {
    own[index / LINE].0[index % LINE].fetch_add(amount, Ordering::Relaxed);
}

/// The counter at `index` of a shard.
pub(super) fn read(own: &[Line], index: usize) -> u64 {
    own[index / LINE].0[index % LINE].load(Ordering::Relaxed)
}

/// What a cell has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) micros: u128,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// Requests per bucket, not accumulated; the last has no upper bound.
    pub(super) buckets: Vec<u64>,
}

impl Totals {
    pub(super) fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another cell of the same shape has counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.micros += other.micros;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
    }
}

const BLOCK: usize = 8;

/// Cells by key, in blocks of eight that are only ever appended to. Keys are never zero.
///
/// A slot belongs to the first key that claims it, and every search walks the same way, so that no key has two slots.
#[derive(Debug, Default)]
pub(super) struct Series {
    keys: [AtomicU32; BLOCK],
    cells: [OnceLock<Box<[Line]>>; BLOCK],
    next: OnceLock<Box<Self>>,
}

impl Series {
    /// Adds one request under `key`; under `others` if there are too many keys already.
    #[inline]
    pub(super) fn add(&self, shape: &Shape, (key, others): (u32, u32), counted: (Duration, u64, u64)) {
        let cell = self.cell(shape, key, shape.max_keys).or_else(|| self.cell(shape, others, usize::MAX));
        if let Some(cell) = cell {
            shape.add(cell, counted);
        }
    }

    #[inline]
    fn cell(&self, shape: &Shape, key: u32, max_keys: usize) -> Option<&[Line]> {
        let mut block = self;
        let mut room = max_keys;
        loop {
            for (slot, cell) in block.keys.iter().zip(&block.cells) {
                if room == 0 {
                    return None;
                }
                room -= 1;
                if is_or_becomes(slot, key) {
                    return Some(cell.get_or_init(|| shape.counters(shape.lines)));
                }
            }
            block = block.next.get_or_init(Box::default);
        }
    }

    /// Calls `see` with each key and what it has counted.
    pub(super) fn each(&self, shape: &Shape, mut see: impl FnMut(u32, Totals)) {
        let mut block = Some(self);
        while let Some(this) = block {
            for (slot, cell) in this.keys.iter().zip(&this.cells) {
                if let Some(cell) = cell.get() {
                    see(slot.load(Ordering::Relaxed), shape.totals(cell));
                }
            }
            block = this.next.get().map(|next| &**next);
        }
    }
}

/// Whether `slot` belongs to `key`, or could be claimed for it.
#[inline]
fn is_or_becomes(slot: &AtomicU32, key: u32) -> bool {
    match slot.load(Ordering::Relaxed) {
        0 => match slot.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(winner) => winner == key,
        },
        owner => owner == key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const OTHERS: u32 = 999_999;

    fn all(series: &Series, shape: &Shape) -> BTreeMap<u32, Totals> {
        let mut found = BTreeMap::new();
        series.each(shape, |key, totals| assert!(found.insert(key, totals).is_none(), "{key} has two slots"));
        found
    }

    #[test]
    fn counts_exactly_under_contention() {
        let shape = Shape::new(&[0.1, 0.3, 1.2, 5.0], 4, 128);
        let series = Series::default();
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (series, shape) = (&series, &shape);
                scope.spawn(move || {
                    for round in 0..20_000_u32 {
                        let key = 1 + (round * (thread + 1)) % 50;
                        series.add(shape, (key, OTHERS), (Duration::from_millis(200), 3, 5));
                    }
                });
            }
        });
        let found = all(&series, &shape);
        assert_eq!(found.len(), 50);
        let sum = |part: fn(&Totals) -> u64| found.values().map(part).sum::<u64>();
        assert_eq!(sum(Totals::requests), 160_000);
        assert_eq!(sum(|totals| totals.buckets[1]), 160_000);
        assert_eq!(sum(|totals| totals.request_bytes), 480_000);
        assert_eq!(sum(|totals| totals.response_bytes), 800_000);
        assert_eq!(found.values().map(|totals| totals.micros).sum::<u128>(), 160_000 * 200_000);
    }

    #[test]
    fn too_many_keys_share_one() {
        let shape = Shape::new(&[1.0], 1, 20);
        let series = Series::default();
        for key in 1..=100 {
            series.add(&shape, (key, OTHERS), (Duration::ZERO, 0, 0));
        }
        series.add(&shape, (7, OTHERS), (Duration::ZERO, 0, 0));
        let found = all(&series, &shape);
        assert_eq!(found.len(), 21);
        assert_eq!((found[&7].requests(), found[&OTHERS].requests()), (2, 80));
    }

    #[test]
    fn bounds_belong_to_their_bucket() {
        let shape = Shape::new(&[0.001, 0.01], 1, 8);
        let series = Series::default();
        for (nanos, bucket) in [(1_000_000, 0), (1_000_001, 1), (10_000_000, 1), (10_000_001, 2), (u64::MAX, 2)] {
            let before = all(&series, &shape).get(&1).map_or(0, |totals| totals.buckets[bucket]);
            series.add(&shape, (1, OTHERS), (Duration::from_nanos(nanos), 0, 0));
            assert_eq!(all(&series, &shape)[&1].buckets[bucket], before + 1, "{nanos}");
        }
    }

    #[test]
    fn the_usual_cell_is_one_cache_line_per_shard() {
        assert_eq!(Shape::new(&[0.1, 0.3, 1.2, 5.0], 1, 1).lines, 1);
        assert_eq!(Shape::new(&[0.0; 64], 1, 1).lines, 9);
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }
}
