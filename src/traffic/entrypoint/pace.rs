//! Deadlines that cost nothing while things move: a lazy timer, and the credit of a client that must keep a least rate.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::options::Rate;

/// A timer that is touched as rarely as possible: a deadline that moves away is noticed only when the old one passes.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Timer {
    /// Ready once `deadline` has passed. A pending one wakes the task, at the deadline or before.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| {
            self.armed = Some(deadline);
            Box::pin(tokio::time::sleep_until(deadline.into()))
        });
        if self.armed.is_none_or(|armed| armed > deadline) {
            sleep.as_mut().reset(deadline.into());
            self.armed = Some(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            self.armed = None;
            if now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.into());
            self.armed = Some(deadline);
        }
    }
}

/// The credit of a peer that must keep a least rate. Waiting spends it, bytes earn it, and it never exceeds the grace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: Rate,
    credit: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, credit: rate.grace, waiting_since: None }
    }

    /// The peer makes us wait at `now`: until when it may.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        let since = *self.waiting_since.get_or_insert(now);
        (self.rate.bytes_per_second > 0).then(|| since + self.credit)
    }

    /// `bytes` went through; `now` is asked only after a wait.
    pub(super) fn advance(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if self.rate.bytes_per_second == 0 {
            self.waiting_since = None;
            return;
        }
        if let Some(since) = self.waiting_since.take() {
            self.credit = self.credit.saturating_sub(now().saturating_duration_since(since));
        }
        if self.credit < self.rate.grace {
            let micros = (bytes as u64).saturating_mul(1_000_000) / u64::from(self.rate.bytes_per_second);
            self.credit = self.credit.saturating_add(Duration::from_micros(micros)).min(self.rate.grace);
        }
    }
}

/// The time, as tokio's timers see it (tests may pause it).
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(bytes_per_second: u32) -> Pace {
        Pace::new(Rate { bytes_per_second, grace: Duration::from_secs(10) })
    }

    #[test]
    fn a_drip_runs_out_of_credit() {
        let start = Instant::now();
        let mut pace = pace(500);
        let mut now = start;
        let mut drips = 0;
        while pace.wait(now).is_some_and(|deadline| deadline > now + Duration::from_secs(1)) {
            now += Duration::from_secs(1);
            pace.advance(1, || now);
            drips += 1;
            assert!(drips < 20, "a byte a second must not be enough");
        }
        assert!(drips >= 9, "the grace must be granted: {drips}");
    }

    #[test]
    fn a_steady_client_keeps_its_credit() {
        let mut now = Instant::now();
        let mut pace = pace(500);
        for _ in 0..1000 {
            let deadline = pace.wait(now).unwrap();
            now += Duration::from_secs(1);
            assert!(deadline > now);
            pace.advance(600, || now);
        }
    }

    #[test]
    fn past_bytes_pay_for_no_more_than_the_grace() {
        let now = Instant::now();
        let mut pace = pace(500);
        pace.advance(1 << 30, || unreachable!("nothing was waited for"));
        assert_eq!(pace.wait(now), Some(now + Duration::from_secs(10)));
    }

    #[test]
    fn no_rate_no_deadline() {
        assert_eq!(pace(0).wait(Instant::now()), None);
    }
}
