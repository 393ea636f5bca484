//! What went wrong, and until when nobody tries again. Servers count failures, for hours and by name: they are kept in mind while
//! nobody wants the certificate, and beside the storage over restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::plan;
use super::server::Failure;

/// How long a failure counts after another attempt was possible.
const COUNTS_FOR: Duration = Duration::from_secs(24 * 3600);
/// After a start nobody waits longer than so many seconds from the last attempt on, unless the server has said how long: who has
/// mended something and starts again is not to wait for a day. Servers allow several failures in an hour.
const AFTER_START: i64 = 3600;
/// Most that is kept in mind.
const LIMIT: usize = 1000;

/// The names of a certificate.
pub(super) type Names = Vec<Box<str>>;

/// What was tried, by names.
#[derive(Default)]
pub(super) struct Patience(BTreeMap<Names, Tried>);

struct Tried {
    failures: u32,
    /// What went wrong last; `None` if nothing did.
    failure: Option<Failure>,
    /// When that was, in seconds of Unix time.
    at: i64,
    again: Instant,
    /// Whether somebody wants it still.
    is_wanted: bool,
}

/// A refusal, as it is kept over restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    names: Names,
    failures: u32,
    kind: String,
    detail: String,
    /// Which of the names it was about, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<Box<str>>,
    /// When it was, in seconds of Unix time.
    at: i64,
    /// When another attempt is possible.
    again: i64,
}

impl Remembered {
    /// Whether it is the same refusal: what is left to wait is reckoned anew each time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.names, self.failures, self.at) == (&other.names, other.failures, other.at)
    }
}

impl Patience {
    /// Until when these names are not ordered.
    pub(super) fn until(&self, names: &[Box<str>]) -> Option<Instant> {
        self.related(names).map(|tried| tried.again).max()
    }

    /// Whatever was tried that tells something of these names: the same ones, or one of them that was refused.
    fn related<'a>(&'a self, names: &'a [Box<str>]) -> impl Iterator<Item = &'a Tried> {
        let is_related = move |(tried, it): &(&Names, &Tried)| tried.as_slice() == names || it.is_about(names);
        self.0.iter().filter(is_related).map(|(_, it)| it)
    }

    /// A certificate was got, and the next one is not before `rest` is over.
    pub(super) fn succeeded(&mut self, names: Names, now: (Instant, i64), rest: Duration) {
        self.0.retain(|_, tried| !tried.is_about(&names));
        let again = now.0 + rest;
        self.0.insert(names, Tried { failures: 0, failure: None, at: now.1, again, is_wanted: true });
    }

    /// Nothing was got: how often in a row, and how long nobody tries again. `chance` is from 0 to 1.
    pub(super) fn failed(
        &mut self,
        names: Names,
        failure: Failure,
        now: (Instant, i64),
        chance: f64,
    ) -> (u32, Duration) {
        let before = self.related(&names).map(|tried| tried.failures).max().unwrap_or_default();
        let failures = before.saturating_add(1);
        let pause = plan::spread(plan::pause(&failure, failures), chance);
        let again = now.0 + pause;
        self.0.insert(names, Tried { failures, failure: Some(failure), at: now.1, again, is_wanted: true });
        (failures, pause)
    }

    /// Notes who is wanted, and forgets what has no meaning any more.
    pub(super) fn tidy(&mut self, now: Instant, is_wanted: impl Fn(&Names) -> bool) {
        self.0.retain(|names, tried| {
            tried.is_wanted = is_wanted(names);
            match tried.failure {
                Some(_) => tried.is_wanted || now < tried.again + COUNTS_FOR,
                None => now < tried.again,
            }
        });
        while self.0.len() > LIMIT {
            let Some(first) = self.0.iter().min_by_key(|(_, tried)| tried.again).map(|(names, _)| names.clone()) else {
                return;
            };
            self.0.remove(&first);
        }
    }

    /// What is wrong now with what is wanted.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&Names, &Failure)> {
        let wanted = self.0.iter().filter(|(_, tried)| tried.is_wanted);
        wanted.filter_map(|(names, tried)| Some((names, tried.failure.as_ref()?)))
    }

    /// What is kept over restarts: that a server has refused.
    pub(super) fn remember(&self, now: (Instant, i64)) -> Vec<Remembered> {
        let written = |(names, tried): (&Names, &Tried)| {
            let Failure::Refused { kind, detail, about, .. } = tried.failure.as_ref()? else { return None };
            let left = tried.again.saturating_duration_since(now.0).as_secs();
            Some(Remembered {
                names: names.clone(),
                failures: tried.failures,
                kind: kind.clone(),
                detail: detail.clone(),
                about: about.clone(),
                at: tried.at,
                again: now.1.saturating_add_unsigned(left),
            })
        };
        self.0.iter().filter_map(written).collect()
    }

    /// Takes up what was kept, unless something newer is known; how many there were.
    pub(super) fn recall(&mut self, kept: Vec<Remembered>, now: (Instant, i64)) -> usize {
        let mut recalled = 0;
        for it in kept.into_iter().take(LIMIT).filter(|it| !it.names.is_empty()) {
            if self.0.contains_key(&it.names) {
                continue;
            }
            let is_said = it.kind == "rateLimited";
            let latest = if is_said { it.again } else { it.again.min(it.at.saturating_add(AFTER_START)) };
            // A clock that was set makes nobody wait longer than the longest that can be asked for.
            let wait = latest.saturating_sub(now.1).clamp(0, plan::LONGEST_WAIT_SECONDS);
            let again = now.0 + Duration::from_secs(wait.unsigned_abs());
            let Remembered { names, failures, kind, detail, about, at, .. } = it;
            let failure = Some(Failure::Refused { kind, detail, about, retry_after: None });
            self.0.insert(names, Tried { failures, failure, at, again, is_wanted: true });
            recalled += 1;
        }
        recalled
    }
}

impl Tried {
    /// Whether one of these names was refused.
    fn is_about(&self, names: &[Box<str>]) -> bool {
        match &self.failure {
            Some(Failure::Refused { about: Some(about), .. }) => names.contains(about),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        text.split(' ').map(Into::into).collect()
    }

    fn refused(kind: &str, about: Option<&str>) -> Failure {
        let (kind, detail, about) = (kind.to_owned(), "no".to_owned(), about.map(Into::into));
        Failure::Refused { kind, detail, about, retry_after: None }
    }

    #[test]
    fn a_name_that_is_refused_waits_in_any_company() {
        let (now, mut patience) = ((Instant::now(), 0), Patience::default());
        patience.failed(names("a b"), refused("unauthorized", Some("b")), now, 0.0);
        for (order, expected) in [("a b", Some(60)), ("b", Some(60)), ("b c", Some(60)), ("a", None), ("c", None)] {
            let wait = patience.until(&names(order)).map(|until| (until - now.0).as_secs());
            assert_eq!(wait, expected, "{order}");
        }
        // It is the second time, whoever is with it.
        assert_eq!(patience.failed(names("b c"), refused("unauthorized", Some("b")), now, 0.0).0, 2);
        patience.succeeded(names("b"), now, Duration::from_secs(1));
        assert_eq!(patience.until(&names("b c")), None);
    }

    #[test]
    fn what_nobody_wants_any_more_counts_for_another_day() {
        let (now, mut patience) = ((Instant::now(), 0), Patience::default());
        patience.failed(names("a"), refused("unauthorized", None), now, 0.0);
        patience.tidy(now.0, |_| false);
        assert_eq!(patience.failures().count(), 0, "it is no problem");
        let (failures, pause) = patience.failed(names("a"), refused("unauthorized", None), now, 0.0);
        assert_eq!((failures, pause.as_secs()), (2, 240));
        patience.tidy(now.0 + pause + COUNTS_FOR, |_| true);
        assert_eq!(patience.failures().count(), 1);
        patience.tidy(now.0 + pause + COUNTS_FOR, |_| false);
        assert_eq!(patience.until(&names("a")), None);
        for at in 0..LIMIT + 5 {
            patience.failed(names(&at.to_string()), refused("unauthorized", None), now, 0.0);
        }
        patience.tidy(now.0, |_| true);
        assert_eq!(patience.failures().count(), LIMIT);
    }

    #[test]
    fn refusals_outlive_the_process_and_other_failures_do_not() {
        let (now, mut patience) = ((Instant::now(), 1_000_000), Patience::default());
        patience.failed(names("ours"), Failure::Ours(String::new()), now, 0.0);
        for _ in 0..5 {
            patience.failed(names("a b"), refused("unauthorized", Some("b")), now, 0.0);
        }
        patience.failed(names("limited"), refused("rateLimited", None), now, 0.0);
        patience.failed(names("limited"), refused("rateLimited", None), now, 0.0);
        let kept = patience.remember(now);
        let text = serde_json::to_string(&kept).unwrap();
        let kept: Vec<Remembered> = serde_json::from_str(&text).unwrap();
        for (passed, order, expected) in [
            // Four hours were left: one from the attempt on is enough after a start.
            (100, "b", Some(3500)),
            (3600, "a b", Some(0)),
            (100, "limited", Some(7100)),
            (100, "ours", None),
            // The clock was set back: no longer than a week.
            (-10_000_000, "limited", Some(7 * 24 * 3600)),
        ] {
            let later = (now.0, now.1 + passed);
            let mut fresh = Patience::default();
            assert_eq!(fresh.recall(kept.clone(), later), 2);
            assert_eq!(fresh.recall(kept.clone(), later), 0, "what is known counts");
            let wait = fresh.until(&names(order)).map(|until| (until - later.0).as_secs());
            assert_eq!(wait, expected, "{passed} {order}");
        }
        let mut fresh = Patience::default();
        fresh.recall(kept, now);
        assert_eq!(fresh.failed(names("a b"), refused("unauthorized", Some("b")), now, 0.0).0, 6);
    }
}
