//! Passive health: a server that fails too often in a row within a window gets no requests for as long.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems, all, refuse};
use crate::units::Duration;

/// Most failures that are remembered per server.
const ATTEMPTS_LIMIT: usize = 1024;

/// `passiveHealthCheck` as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Failures within this time count together, and a server that has too many is left alone for as long.
    pub failure_window: Duration,
    /// Failures (network errors and 5xx answers) in a row within the window that take the server out. An answer of another kind
    /// makes up for all failures before it.
    pub max_failed_attempts: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failure_window: Duration::from_secs(10), max_failed_attempts: 1 }
    }
}

impl Settings {
    /// The window in milliseconds.
    ///
    /// # Errors
    /// If there is no window, or the number of attempts is zero or beyond memory.
    pub fn window_millis(&self) -> Result<u64, Problems> {
        let window = self.failure_window.positive().ok_or_else(|| Problem::at("failureWindow", "must be above zero"));
        let attempts = refuse(!(1..=ATTEMPTS_LIMIT).contains(&self.max_failed_attempts), || {
            Problem::at("maxFailedAttempts", format!("must be between 1 and {ATTEMPTS_LIMIT}"))
        });
        let (window, ()) = all((window, attempts))?;
        Ok(u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

/// When one server last failed, as a ring: an exact sliding window without a lock.
#[derive(Debug)]
pub struct Failures {
    /// Times in milliseconds; 0 is "never".
    times: Box<[AtomicU64]>,
    next: AtomicUsize,
    /// Whether there are any: answers that are no failures come often, and mostly there is nothing to make up for.
    any: AtomicBool,
}

impl Failures {
    /// Remembers the last `attempts` failures.
    pub fn new(attempts: usize) -> Self {
        Self {
            times: (0..attempts.clamp(1, ATTEMPTS_LIMIT)).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
            any: AtomicBool::new(false),
        }
    }

    /// Notes a failure at `now`; whether that makes too many within `window`, all in milliseconds.
    pub fn note(&self, now: u64, window: u64) -> bool {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let len = self.times.len();
        self.times[at % len].store(now, Ordering::Relaxed);
        self.any.store(true, Ordering::Relaxed);
        let oldest = self.times[(at + 1) % len].load(Ordering::Relaxed);
        oldest != 0 && now.saturating_sub(oldest) <= window
    }

    /// Forgets all of them: what comes next starts with a clean slate.
    pub fn forget(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.any.store(false, Ordering::Relaxed);
            self.times.iter().for_each(|time| time.store(0, Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attempts: usize, failures: &[u64], expected: &[bool]) {
        let ring = Failures::new(attempts);
        let tripped: Vec<_> = failures.iter().map(|now| ring.note(*now, 100)).collect();
        assert_eq!(tripped, expected, "{attempts} of {failures:?}");
    }

    #[test]
    fn only_failures_within_the_window_count_together() {
        check(1, &[1, 500], &[true, true]);
        check(3, &[10, 20, 110], &[false, false, true]);
        check(3, &[10, 20, 111], &[false, false, false]);
        check(3, &[1, 150, 151, 152], &[false, false, false, true]);
    }

    #[test]
    fn a_clean_slate_needs_as_many_again() {
        let ring = Failures::new(2);
        assert!(!ring.note(10, 100) && ring.note(11, 100));
        ring.forget();
        assert!(!ring.note(12, 100) && ring.note(13, 100));
    }

    #[test]
    fn senseless_limits_are_refused() {
        let path = |json| serde_json::from_str::<Settings>(json).unwrap().window_millis().unwrap_err().only().path;
        assert_eq!(path(r#"{"failureWindow": 0}"#), "failureWindow");
        assert_eq!(path(r#"{"maxFailedAttempts": 0}"#), "maxFailedAttempts");
        assert_eq!(Settings::default().window_millis(), Ok(10_000));
    }
}
