//! `leasttime`: the server that is expected to answer soonest: its mean time to first byte, times what it is busy with.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::super::pool::Member;
use super::super::server::{Server, millis};
use super::{Field, Strategy};
use crate::exchange::AttemptOutcome;

/// Answers that the mean is taken over.
const SAMPLES: usize = 100;
/// What a failure counts as, in microseconds: an answer that took this long. Servers that fail at once would draw all requests
/// if failures counted for what they took, and those that always failed if they did not count.
const FAILURE_MICROS: u32 = 1_000_000;
/// A server that has not answered for so long looks twice as fast as it was: nobody is written off for ever.
const HALF_LIFE_MILLIS: u64 = 10_000;

/// The server that is expected to answer soonest.
#[derive(Debug)]
pub struct LeastTime {
    /// Where the search begins, so that equals take turns.
    start: AtomicUsize,
}

impl Strategy for LeastTime {
    fn new(_: &[Member]) -> Self {
        Self { start: AtomicUsize::new(0) }
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let len = field.members.len();
        if len == 0 {
            return None;
        }
        let now = millis(field.now);
        // A cold server is taken for twice as fast as the fastest known one: tried first, but not by everyone at once.
        let known = field.offered().filter_map(|index| field.members[index].server.latency.expected_micros(now)).min();
        let cold = known.map_or(1, |micros| micros / 2).max(1);
        let start = self.start.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(usize, u64, u64)> = None;
        for step in 0..len {
            let index = (start.wrapping_add(step)) % len;
            if !field.offers(index) {
                continue;
            }
            let Member { server, weight, .. } = &field.members[index];
            let expected = server.latency.expected_micros(now).unwrap_or(cold).max(1);
            let cost = expected.saturating_mul(1 + server.in_flight() as u64);
            let weight = u64::from(*weight);
            // cost / weight < best cost / best weight, without dividing.
            if best.is_none_or(|(_, least, its)| cost.saturating_mul(its) < least.saturating_mul(weight)) {
                best = Some((index, cost, weight));
            }
        }
        best.map(|(index, ..)| index)
    }

    fn observe(&self, server: &Server, outcome: &AttemptOutcome, now: Instant) {
        let took = outcome.first_byte.map(|first_byte| u32::try_from(first_byte.as_micros()).unwrap_or(u32::MAX));
        let counts = if outcome.is_failure() { Some(took.unwrap_or(0).max(FAILURE_MICROS)) } else { took };
        if let Some(micros) = counts {
            server.latency.note(micros, millis(now));
        }
    }
}

/// Times to first byte of one server's last answers. Servers that no such strategy picks have no samples.
#[derive(Debug, Default)]
pub struct Latency(OnceLock<Box<Samples>>);

#[derive(Debug)]
struct Samples {
    micros: [AtomicU32; SAMPLES],
    count: AtomicUsize,
    sum: AtomicU64,
    last: AtomicU64,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            micros: [const { AtomicU32::new(0) }; SAMPLES],
            count: AtomicUsize::new(0),
            sum: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }
}

impl Latency {
    fn note(&self, micros: u32, now: u64) {
        let samples = self.0.get_or_init(Box::default);
        let at = samples.count.fetch_add(1, Ordering::Relaxed) % SAMPLES;
        let old = samples.micros[at].swap(micros, Ordering::Relaxed);
        samples.sum.fetch_add(u64::from(micros).wrapping_sub(u64::from(old)), Ordering::Relaxed);
        samples.last.store(now, Ordering::Relaxed);
    }

    /// The mean, the smaller the longer ago the last answer was. `None` before the first one.
    fn expected_micros(&self, now: u64) -> Option<u64> {
        let samples = self.0.get()?;
        let count = samples.count.load(Ordering::Relaxed).min(SAMPLES) as u64;
        let mean = samples.sum.load(Ordering::Relaxed).checked_div(count)?;
        let halvings = now.saturating_sub(samples.last.load(Ordering::Relaxed)) / HALF_LIFE_MILLIS;
        Some(mean.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{field, members};
    use super::*;
    use crate::exchange::Fault;

    fn answer(strategy: &LeastTime, member: &Member, millis: u64, now: Instant) {
        let outcome =
            AttemptOutcome { status: Some(200), first_byte: Some(Duration::from_millis(millis)), failure: None };
        strategy.observe(&member.server, &outcome, now);
    }

    #[test]
    fn the_soonest_answer_counts_not_the_fastest_server() {
        let members = members(&[1, 1]);
        let strategy = LeastTime::new(&members);
        let now = Instant::now();
        answer(&strategy, &members[0], 10, now);
        answer(&strategy, &members[1], 25, now);
        let pick = || strategy.pick(&Field { now, ..field(&members) });
        assert_eq!(pick(), Some(0));
        members[0].server.enter();
        assert_eq!(pick(), Some(0), "10 ms × 2 is less than 25 ms");
        members[0].server.enter();
        assert_eq!(pick(), Some(1), "10 ms × 3 is more");
    }

    #[test]
    fn weight_divides() {
        let members = members(&[1, 3]);
        let strategy = LeastTime::new(&members);
        let now = Instant::now();
        answer(&strategy, &members[0], 10, now);
        answer(&strategy, &members[1], 25, now);
        assert_eq!(strategy.pick(&Field { now, ..field(&members) }), Some(1));
    }

    #[test]
    fn a_cold_server_comes_first_but_not_for_all() {
        let members = members(&[1, 1]);
        let strategy = LeastTime::new(&members);
        let now = Instant::now();
        answer(&strategy, &members[0], 10, now);
        let pick = || strategy.pick(&Field { now, ..field(&members) });
        assert_eq!(pick(), Some(1));
        members[1].server.enter();
        members[1].server.enter();
        assert_eq!(pick(), Some(0), "it has not answered yet, so the others wait elsewhere");
    }

    #[test]
    fn equals_take_turns() {
        let members = members(&[1; 4]);
        let strategy = LeastTime::new(&members);
        let mut counts = [0; 4];
        (0..400).for_each(|_| counts[strategy.pick(&field(&members)).unwrap()] += 1);
        assert_eq!(counts, [100; 4]);
    }

    #[test]
    fn one_slow_answer_is_not_held_against_it_for_ever() {
        let members = members(&[1, 1]);
        let strategy = LeastTime::new(&members);
        let start = Instant::now();
        answer(&strategy, &members[1], 5_000, start);
        let mut picked_after = None;
        for seconds in 0..300 {
            let now = start + Duration::from_secs(seconds);
            answer(&strategy, &members[0], 10, now);
            if strategy.pick(&Field { now, ..field(&members) }) == Some(1) {
                picked_after = Some(seconds);
                break;
            }
        }
        assert!(picked_after.is_some_and(|seconds| (60..=120).contains(&seconds)), "{picked_after:?}");
    }

    #[test]
    fn failures_do_not_count_as_fast_answers() {
        let members = members(&[1]);
        let outcome = AttemptOutcome { status: Some(503), first_byte: Some(Duration::from_millis(1)), failure: None };
        LeastTime::new(&members).observe(&members[0].server, &outcome, Instant::now());
        assert_eq!(members[0].server.latency.expected_micros(1), Some(u64::from(FAILURE_MICROS)));
    }

    #[test]
    fn a_server_that_fails_does_not_draw_the_requests() {
        let refused = AttemptOutcome { status: None, first_byte: None, failure: Some(Fault::ConnectFailed) };
        let broken = AttemptOutcome { status: Some(500), first_byte: Some(Duration::from_millis(1)), failure: None };
        for outcome in [refused, broken] {
            for was_known in [false, true] {
                let members = members(&[1, 1]);
                let strategy = LeastTime::new(&members);
                let now = Instant::now();
                (0..100).for_each(|_| answer(&strategy, &members[0], 10, now));
                (0..if was_known { 100 } else { 0 }).for_each(|_| answer(&strategy, &members[1], 9, now));
                let mut failures = 0;
                for _ in 0..1_000 {
                    if strategy.pick(&Field { now, ..field(&members) }) == Some(1) {
                        strategy.observe(&members[1].server, &outcome, now);
                        failures += 1;
                    } else {
                        answer(&strategy, &members[0], 10, now);
                    }
                }
                assert_eq!(failures, 1, "{outcome:?}, known before: {was_known}");
            }
        }
    }

    #[test]
    fn clients_that_leave_say_nothing_of_the_server() {
        let members = members(&[1]);
        let outcome = AttemptOutcome { status: None, first_byte: None, failure: Some(Fault::ClientGone) };
        LeastTime::new(&members).observe(&members[0].server, &outcome, Instant::now());
        assert_eq!(members[0].server.latency.expected_micros(1), None);
    }

    #[test]
    fn the_mean_is_of_the_last_hundred() {
        let latency = Latency::default();
        (0..100).for_each(|_| latency.note(1_000, 1));
        (0..50).for_each(|_| latency.note(3_000, 1));
        assert_eq!(latency.expected_micros(1), Some(2_000));
    }
}
