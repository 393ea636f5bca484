//! `drr`: round robin whose weights sink with failures and rise again with successes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::super::pool::Member;
use super::super::server::Server;
use super::wheel::Wheel;
use super::{Field, Strategy};
use crate::exchange::AttemptOutcome;

/// A server that lacks nothing.
const FULL: u32 = 256;
/// The least that failures leave: enough to find out that it works again.
const LEAST: u32 = FULL / 16;
/// What one success gives back.
const GAIN: u32 = FULL / 32;

/// Servers in turns that failures make rarer.
#[derive(Debug)]
pub struct Drr(Wheel);

impl Strategy for Drr {
    fn new(members: &[Member]) -> Self {
        Self(Wheel::new(members.iter().map(|member| member.weight).collect()))
    }

    fn pick(&self, field: &Field<'_>) -> Option<usize> {
        let willing = |index: usize| field.offers(index) && field.members[index].server.vigour.takes_turn();
        self.0.pick(willing).or_else(|| field.draw())
    }

    fn observe(&self, server: &Server, outcome: &AttemptOutcome, _: Instant) {
        if outcome.is_failure() {
            server.vigour.sink();
        } else if outcome.failure.is_none() {
            server.vigour.rise();
        }
    }
}

/// How many of its turns a server takes, and what it has saved up for the next one.
#[derive(Debug)]
pub struct Vigour {
    share: AtomicU32,
    saved: AtomicU32,
}

impl Default for Vigour {
    fn default() -> Self {
        Self { share: AtomicU32::new(FULL), saved: AtomicU32::new(0) }
    }
}

impl Vigour {
    /// Whether it takes this turn: with a quarter of its vigour, every fourth.
    fn takes_turn(&self) -> bool {
        let share = self.share.load(Ordering::Relaxed);
        if share >= FULL {
            return true;
        }
        let saved = self.saved.fetch_add(share, Ordering::Relaxed).wrapping_add(share);
        // The sum crosses a multiple of FULL exactly in the turns that are taken.
        saved / FULL != saved.wrapping_sub(share) / FULL
    }

    fn sink(&self) {
        self.change(|share| (share / 2).max(LEAST));
    }

    fn rise(&self) {
        if self.share.load(Ordering::Relaxed) < FULL {
            self.change(|share| (share + GAIN).min(FULL));
        }
    }

    fn change(&self, to: impl Fn(u32) -> u32) {
        let _ = self.share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |share| Some(to(share)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{field, members};
    use super::*;
    use crate::exchange::Fault;

    fn counts(strategy: &Drr, members: &[Member]) -> [usize; 2] {
        let mut counts = [0; 2];
        (0..1_700).for_each(|_| counts[strategy.pick(&field(members)).unwrap()] += 1);
        counts
    }

    #[test]
    fn failures_cost_turns_and_successes_win_them_back() {
        let members = members(&[1, 1]);
        let drr = Drr::new(&members);
        let observe = |failure: Option<Fault>, times: usize| {
            let outcome = AttemptOutcome { status: failure.is_none().then_some(200), first_byte: None, failure };
            (0..times).for_each(|_| drr.observe(&members[1].server, &outcome, Instant::now()));
        };
        assert_eq!(counts(&drr, &members), [850, 850]);
        observe(Some(Fault::ConnectFailed), 1);
        let halved = counts(&drr, &members);
        assert!((560..=572).contains(&halved[1]), "{halved:?}");
        observe(Some(Fault::ServerClosed), 20);
        assert_eq!(counts(&drr, &members)[1], 100, "a sixteenth of the turns is left");
        observe(Some(Fault::ClientGone), 20);
        assert_eq!(counts(&drr, &members)[1], 100, "a client that leaves says nothing of the server");
        observe(None, 14);
        assert!((counts(&drr, &members)[1]) > 500);
        observe(None, 100);
        assert_eq!(counts(&drr, &members), [850, 850]);
    }

    #[test]
    fn a_weak_server_still_serves_when_it_is_alone() {
        let members = members(&[1]);
        (0..9).for_each(|_| members[0].server.vigour.sink());
        let drr = Drr::new(&members);
        assert!((0..100).all(|_| drr.pick(&field(&members)) == Some(0)));
    }
}
