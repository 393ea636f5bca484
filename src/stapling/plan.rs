//! When a responder is asked again. Touches neither clock nor network.

use std::time::Duration;

/// The shortest and the longest time between two answers that are good. Answers of public authorities are valid for ten days at
/// most, and a revocation is to be seen before a long one ends.
const BETWEEN_ANSWERS: (i64, i64) = (5, 4 * 24 * 3600);
/// The first and the longest pause after a failure.
const AFTER_FAILURE: (u64, u64) = (10, 1800);

/// How long an answer is good enough that holds from `this_update` to `next_update`, in seconds of Unix time: to the middle of its
/// validity, and less by up to an eighth. One that is older, from a cache, to the middle of what is left. `chance` is from 0 to 1.
pub(super) fn after_answer(now: i64, this_update: i64, next_update: i64, chance: f64) -> Duration {
    let left = next_update.saturating_sub(now);
    let to_middle = left.saturating_sub(next_update.saturating_sub(this_update) / 2);
    let wait = if to_middle > 0 { to_middle } else { left / 2 };
    let wait = Duration::from_secs(wait.clamp(BETWEEN_ANSWERS.0, BETWEEN_ANSWERS.1).unsigned_abs());
    wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 8.0)
}

/// How long to wait after the `nth` failure in a row, and more by up to a quarter. `chance` is from 0 to 1.
pub(super) fn after_failure(nth: u32, chance: f64) -> Duration {
    let pause = AFTER_FAILURE.0.saturating_mul(2u64.saturating_pow(nth.saturating_sub(1)));
    Duration::from_secs(pause.min(AFTER_FAILURE.1)).mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_renewed_at_half_of_their_validity() {
        let day = 24 * 3600;
        for (now, this_update, next_update, chance, expected) in [
            (0, 0, 100, 0.0, 50),
            (0, 0, 80, 1.0, 35),
            (40, 0, 100, 0.0, 10),
            (60, 0, 100, 0.0, 20),
            (99, 0, 100, 0.0, 5),
            (0, 300, 900, 0.0, 600),
            (0, 0, 7 * day, 0.0, 7 * day / 2),
            (0, 0, 365 * day, 0.0, 4 * day),
            (i64::MAX, i64::MIN, i64::MIN, 0.0, 5),
            (i64::MIN, i64::MIN, i64::MAX, 0.0, 4 * day),
        ] {
            let found = after_answer(now, this_update, next_update, chance);
            assert_eq!(found.as_secs(), expected as u64, "{now} {this_update} {next_update} {chance}");
        }
    }

    #[test]
    fn failures_are_answered_with_patience() {
        for (nth, chance, expected) in [(0, 0.0, 10), (1, 0.0, 10), (2, 0.0, 20), (4, 1.0, 100), (200, 0.0, 1800)] {
            assert_eq!(after_failure(nth, chance), Duration::from_secs(expected), "{nth}");
        }
    }
}
