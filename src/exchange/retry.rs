//! Whether a failed attempt is followed by another one, and after which pause.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

/// How often, how long and after what a request is tried again; a wish that the driver grants.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in total, the first one included.
    pub attempts: u32,
    /// First pause between attempts; it grows to twice as much. Zero: no pause.
    pub initial_interval: Duration,
    /// No further attempt starts later than this after the first one.
    pub timeout: Option<Duration>,
    /// Answers that are tried again, as inclusive ranges.
    pub statuses: Arc<[(u16, u16)]>,
    /// Whether network errors are tried again.
    pub network_errors: bool,
    /// Whether methods that are not idempotent are tried again although the server may have acted on them.
    pub non_idempotent: bool,
    /// Largest request body kept for another attempt, in bytes.
    pub body_limit_bytes: usize,
}

/// An attempt that did not bring what was asked for, and where the exchange stands after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailedAttempt {
    /// Its number, from 1.
    pub number: u32,
    /// Time since the first attempt began.
    pub elapsed: Duration,
    /// How it ended.
    pub ending: Ending,
    /// What there is of the request body for another attempt.
    pub body: KeptBody,
    /// Whether anything of a final response has gone to the client.
    pub response_sent: bool,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server has seen nothing of the request: the connection could not be made, or nothing was written to it.
    NothingSent,
    /// The connection failed after something of the request was written: the server may have acted on it.
    Interrupted,
    /// The server answered with this status.
    Answered(u16),
}

/// What there is of the request body for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBody {
    /// All that came so far (or there is none): it can be sent once more, and the rest follows.
    Whole,
    /// It was longer than what may be kept: its beginning is lost.
    Truncated,
    /// It was longer than what may be kept, but nothing of it has left yet.
    Unsent,
}

impl RetryPolicy {
    /// The pause before the next attempt, or `None` if there must not be one. `chance` is a random number from 0 to below 1.
    pub fn next_pause(&self, method: &Method, failed: &FailedAttempt, chance: f64) -> Option<Duration> {
        if failed.number >= self.attempts || !self.covers(failed.ending) || !self.is_safe(method, failed) {
            return None;
        }
        let pause = self.pause_after(failed.number, chance);
        match self.timeout {
            Some(timeout) if failed.elapsed.saturating_add(pause) > timeout => None,
            _ => Some(pause),
        }
    }

    /// Whether an answer with this status is worth another attempt, if there may be one.
    pub fn wants_status(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    fn covers(&self, ending: Ending) -> bool {
        match ending {
            Ending::NothingSent | Ending::Interrupted => self.network_errors,
            Ending::Answered(status) => self.wants_status(status),
        }
    }

    /// Whether another attempt can neither garble the response, nor lose the request, nor do a thing twice that must be
    /// done once (RFC 9110 §9.2.2).
    fn is_safe(&self, method: &Method, failed: &FailedAttempt) -> bool {
        let body_is_there = match failed.body {
            KeptBody::Whole => true,
            KeptBody::Unsent => failed.ending == Ending::NothingSent,
            KeptBody::Truncated => false,
        };
        !failed.response_sent
            && body_is_there
            && (failed.ending == Ending::NothingSent || self.non_idempotent || is_idempotent(method))
    }

    /// The longest pause grows with each attempt up to twice the initial interval; the shortest is the initial interval.
    fn pause_after(&self, attempt: u32, chance: f64) -> Duration {
        let pauses = f64::from(self.attempts.saturating_sub(1).max(1));
        let longest = (f64::from(attempt) / pauses).min(1.0).exp2();
        self.initial_interval.mul_f64(1.0 + (longest - 1.0) * chance.clamp(0.0, 1.0))
    }
}

/// Whether doing it twice is the same as doing it once: RFC 9110 §9.2.2 and, of WebDAV, RFC 4918's methods but `LOCK`.
/// Methods that nobody here knows might do anything.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET"
            | "HEAD"
            | "OPTIONS"
            | "TRACE"
            | "PUT"
            | "DELETE"
            | "PROPFIND"
            | "PROPPATCH"
            | "MKCOL"
            | "COPY"
            | "MOVE"
            | "UNLOCK"
            | "REPORT"
            | "SEARCH"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 3,
            initial_interval: Duration::ZERO,
            timeout: None,
            statuses: [(500, 503), (429, 429)].into(),
            network_errors: true,
            non_idempotent: false,
            body_limit_bytes: 1024,
        }
    }

    const FAILED: FailedAttempt = FailedAttempt {
        number: 1,
        elapsed: Duration::ZERO,
        ending: Ending::NothingSent,
        body: KeptBody::Whole,
        response_sent: false,
    };

    #[test]
    fn decides_by_method_ending_and_body() {
        use Ending::{Answered, Interrupted, NothingSent};
        use KeptBody::{Truncated, Unsent, Whole};
        for (method, ending, body, expected) in [
            ("GET", NothingSent, Whole, true),
            ("GET", Interrupted, Whole, true),
            ("GET", Answered(500), Whole, true),
            ("GET", Answered(429), Whole, true),
            ("GET", Answered(504), Whole, false),
            ("GET", Answered(200), Whole, false),
            ("PUT", Interrupted, Whole, true),
            ("PUT", Interrupted, Truncated, false),
            ("PUT", Interrupted, Unsent, false),
            ("PUT", NothingSent, Truncated, false),
            ("PUT", NothingSent, Unsent, true),
            ("PUT", Answered(500), Truncated, false),
            ("POST", NothingSent, Whole, true),
            ("POST", Interrupted, Whole, false),
            ("POST", Answered(500), Whole, false),
            ("PATCH", Interrupted, Whole, false),
            ("LOCK", Answered(500), Whole, false),
            ("BREW", Interrupted, Whole, false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let pause = policy().next_pause(&method, &FailedAttempt { ending, body, ..FAILED }, 0.0);
            assert_eq!(pause.is_some(), expected, "{method} {ending:?} {body:?}");
        }
    }

    #[test]
    fn wishes_widen_and_narrow() {
        let check = |policy: RetryPolicy, failed: FailedAttempt, expected: bool| {
            assert_eq!(policy.next_pause(&Method::POST, &failed, 0.0).is_some(), expected, "{policy:?} {failed:?}");
        };
        let status = FailedAttempt { ending: Ending::Answered(500), ..FAILED };
        check(RetryPolicy { non_idempotent: true, ..policy() }, status, true);
        check(RetryPolicy { non_idempotent: true, ..policy() }, FailedAttempt { response_sent: true, ..status }, false);
        check(RetryPolicy { network_errors: false, ..policy() }, FAILED, false);
        check(policy(), FailedAttempt { number: 2, ..FAILED }, true);
        check(policy(), FailedAttempt { number: 3, ..FAILED }, false);
        let timed = || RetryPolicy { timeout: Some(SECOND), initial_interval: SECOND / 2, ..policy() };
        check(timed(), FailedAttempt { elapsed: SECOND / 2, ..FAILED }, true);
        check(timed(), FailedAttempt { elapsed: SECOND * 6 / 10, ..FAILED }, false);
    }

    #[test]
    fn pauses_grow_to_twice_the_interval() {
        let policy = RetryPolicy { initial_interval: SECOND, ..policy() };
        for (attempt, chance, millis) in
            [(1, 0.0, 1_000), (1, 1.0, 1_414), (2, 0.0, 1_000), (2, 0.5, 1_500), (2, 1.0, 2_000)]
        {
            assert_eq!(policy.pause_after(attempt, chance).as_millis(), millis, "{attempt} {chance}");
        }
    }

    proptest! {
        #[test]
        fn never_after_a_response_byte_nor_beyond_the_attempts(
            number in 1..10u32, attempts in 1..10u32, status in 100..600u16, sent: bool, chance in 0.0..1.0f64,
        ) {
            let policy = RetryPolicy { attempts, initial_interval: SECOND, non_idempotent: true, ..policy() };
            let failed = FailedAttempt { number, ending: Ending::Answered(status), response_sent: sent, ..FAILED };
            let pause = policy.next_pause(&Method::GET, &failed, chance);
            prop_assert!(pause.is_none() || (!sent && number < attempts && policy.wants_status(status)));
            prop_assert!(pause.is_none_or(|pause| (SECOND..=2 * SECOND).contains(&pause)));
        }
    }
}
