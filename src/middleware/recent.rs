//! A bounded map that forgets what was not used for a while, in constant time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

/// Locks per map: enough that workers seldom meet at one.
const SHARDS: usize = 16;

/// Small values by fingerprint, of which the most recently used are kept.
///
/// Each shard has two generations. What is used moves to the young one; when that is full or its time is over, it becomes
/// the old one and the old one is dropped whole. So forgetting costs nothing per entry, memory has a ceiling, and an entry
/// lives at least `keep` after its last use unless half the capacity is used in between. A map that is never used has no
/// shards.
pub(crate) struct Recent<V> {
    shards: OnceLock<Box<[Mutex<Shard<V>>]>>,
    capacity: usize,
    keep: Duration,
}

struct Shard<V> {
    young: HashTable<Entry<V>>,
    old: HashTable<Entry<V>>,
    /// When the young generation began.
    turned: Option<Instant>,
}

struct Entry<V> {
    key: [u64; 2],
    value: V,
}

impl<V: Copy> Recent<V> {
    /// A map of at most `capacity` entries, each kept for at least `keep` after its last use while there is room.
    pub(crate) fn new(capacity: usize, keep: Duration) -> Self {
        Self { shards: OnceLock::new(), capacity, keep }
    }

    /// Shows the value under `key` to `change` and stores what it leaves there. The lock is held for just that long.
    pub(crate) fn update<R>(&self, key: u128, now: Instant, change: impl FnOnce(&mut Option<V>) -> R) -> R {
        let key = [(key >> 64) as u64, key as u64];
        let hash = hasher().hash_one(key);
        let shards = self.shards.get_or_init(|| (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect());
        // The table uses the lowest and the highest bits; the middle ones choose the shard.
        let mut shard = shards[(hash >> 32) as usize % SHARDS].lock();
        shard.turn_if_over(now, self.keep);
        shard.update(key, hash, (self.capacity / (2 * SHARDS)).max(1), change)
    }

    /// How many entries it has.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.get().into_iter().flatten().map(|shard| shard.lock().len()).sum()
    }
}

impl<V: Copy> Shard<V> {
    const fn new() -> Self {
        Self { young: HashTable::new(), old: HashTable::new(), turned: None }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn update<R>(&mut self, key: [u64; 2], hash: u64, room: usize, change: impl FnOnce(&mut Option<V>) -> R) -> R {
        if let Ok(mut found) = self.young.find_entry(hash, |entry| entry.key == key) {
            let mut value = Some(found.get().value);
            let answer = change(&mut value);
            match value {
                Some(value) => found.get_mut().value = value,
                None => drop(found.remove()),
            }
            return answer;
        }
        let mut value = match self.old.find_entry(hash, |entry| entry.key == key) {
            Ok(found) => Some(found.remove().0.value),
            Err(_) => None,
        };
        let answer = change(&mut value);
        if let Some(value) = value {
            if self.young.len() >= room {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert_unique(hash, Entry { key, value }, |entry| hasher().hash_one(entry.key));
        }
        answer
    }

    fn turn_if_over(&mut self, now: Instant, keep: Duration) {
        let turned = *self.turned.get_or_insert(now);
        let age = now.saturating_duration_since(turned);
        if age < keep {
            return;
        }
        // Two spans without a visitor: the young ones are too old as well.
        self.old = std::mem::take(&mut self.young);
        if age >= keep.saturating_mul(2) {
            self.old = HashTable::new();
        }
        self.turned = Some(now);
    }
}

/// One seed for the process: an attacker who could find keys of one bucket would need it.
fn hasher() -> &'static RandomState {
    static HASHER: OnceLock<RandomState> = OnceLock::new();
    HASHER.get_or_init(RandomState::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(map: &Recent<u32>, key: u128, now: Instant, value: u32) -> Option<u32> {
        map.update(key, now, |slot| slot.replace(value))
    }

    #[test]
    fn remembers_changes_and_removes() {
        let (map, now) = (Recent::new(64, Duration::from_secs(1)), Instant::now());
        assert_eq!(map.len(), 0);
        assert_eq!(put(&map, 7, now, 1), None);
        assert_eq!(put(&map, 7, now, 2), Some(1));
        assert_eq!(map.update(7, now, Option::take), Some(2));
        assert_eq!(map.len(), 0);
    }

    #[test]
    fn keeps_for_the_span_and_not_for_ever() {
        let (map, now, span) = (Recent::new(64, Duration::from_secs(1)), Instant::now(), Duration::from_secs(1));
        put(&map, 1, now + span / 2, 1);
        assert_eq!(map.update(1, now + span * 5 / 4, |slot| *slot), Some(1), "used again after less than the span");
        assert_eq!(map.update(1, now + span * 9 / 4, |slot| *slot), Some(1));
        assert_eq!(map.update(1, now + span * 20, |slot| *slot), None);
    }

    #[test]
    fn never_grows_beyond_its_capacity_and_keeps_who_comes_often() {
        let (map, now) = (Recent::new(1024, Duration::from_secs(3600)), Instant::now());
        for key in 0..100_000u128 {
            put(&map, key + 1, now, 0);
            if key % 8 == 0 {
                assert!(key == 0 || put(&map, 0, now, 0).is_some(), "at {key}");
                put(&map, 0, now, 0);
            }
            debug_assert!(map.len() <= 1024);
        }
    }
}
