//! How much a client may ask of us that is no request: pings, settings, windows, resets. Each costs it next to nothing.

use std::time::{Duration, Instant};

/// What may be spent at once. A browser that closes a page takes back a hundred requests at a time.
const MOST: u32 = 2000;
/// What comes back with each second.
const PER_SECOND: u32 = 200;

/// What each of them costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// A frame that is to be answered or noted.
    Frame = 1,
    /// A request that is taken back: it has cost a server's work (CVE-2023-44487).
    Reset = 10,
    /// A mistake that makes us take a request back (CVE-2025-8671).
    Mistake = 50,
}

/// Our patience with one client. What flows to it earns back more than an honest client says about it.
#[derive(Debug)]
pub(super) struct Patience {
    left: u32,
    /// Since when time has not been counted.
    since: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// Spends some; false if there is not enough left. `now` is asked only then.
    pub(super) fn spend(&mut self, cost: Cost, now: impl FnOnce() -> Instant) -> bool {
        let cost = cost as u32;
        if self.left < cost {
            let now = now();
            let waited =
                now.saturating_duration_since(self.since).min(Duration::from_secs(u64::from(MOST / PER_SECOND)));
            self.left = (self.left + (waited.as_millis() as u32) * PER_SECOND / 1000).min(MOST);
            self.since = now;
        }
        let is_enough = self.left >= cost;
        self.left = self.left.saturating_sub(cost);
        is_enough
    }

    /// A frame of an answer goes out: the client may open its windows for it, in as small steps as any client does.
    pub(super) fn earn_frame(&mut self, bytes: u32) {
        self.left = (self.left + 4 + bytes / 256).min(MOST);
    }

    /// An answer is whole: its request may be taken back all the same, as some clients do that were not asked for all of their body.
    pub(super) fn earn_answer(&mut self) {
        self.left = (self.left + Cost::Reset as u32).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_end_and_trickles_do_not() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert_eq!((0..10_000).take_while(|_| patience.spend(Cost::Frame, || start)).count(), MOST as usize);
        let mut patience = Patience::new(start);
        assert_eq!((0..10_000).take_while(|_| patience.spend(Cost::Reset, || start)).count(), MOST as usize / 10);
        let mut patience = Patience::new(start);
        let mut now = start;
        for _ in 0..10 * MOST {
            now += Duration::from_millis(5);
            assert!(patience.spend(Cost::Frame, || now));
        }
        // A long silence earns no more than there was at first.
        now += Duration::from_secs(3600);
        let count = (0..10_000).take_while(|_| patience.spend(Cost::Frame, || now)).count();
        assert!((MOST as usize..2 * MOST as usize).contains(&count), "{count}");
    }

    #[test]
    fn who_takes_an_answer_may_speak_of_it() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        for _ in 0..1000 {
            patience.earn_frame(16_384);
            // Windows of stream and connection for each 512 bytes.
            assert!((0..64).all(|_| patience.spend(Cost::Frame, || start)));
            patience.earn_frame(0);
            patience.earn_answer();
            assert!(patience.spend(Cost::Reset, || start));
        }
    }
}
