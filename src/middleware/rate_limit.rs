//! `rateLimit`: a token bucket per source.

use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::recent::Recent;
use super::source::{Criterion, CriterionSettings, IpStrategy, Scope};
use super::{Flow, Kit, Middleware};
use crate::exchange::{Exchange, Fault, Reply};
use crate::problem::{Problem, Problems, all, refuse};
use crate::units;

/// Most sources that one limiter remembers; of more, those that came last. Twice as many as Traefik has: half of them are sure to
/// be remembered, see [`Recent`].
const SOURCES: usize = 2 * 65_536;
/// Longest wait of a request when the rate is below one per second; otherwise it is half the time between two tokens.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Times are counted in parts of a nanosecond, so that high rates are exact enough: `u64` then lasts for 36 years.
const TICKS_PER_NANO: u64 = 16;
/// No interval or burst is longer than this, so that sums of a few do not overflow.
const MOST_TICKS: u64 = u64::MAX / 8;

const RETRY_IN: HeaderName = HeaderName::from_static("x-retry-in");

/// `rateLimit` as written. The rate is `average` requests per `period`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Requests per period that each source may make. 0: no limit.
    pub average: i64,
    /// The time over which `average` counts. 0: one second.
    pub period: units::Duration,
    /// Requests that a source may make at once after it was quiet. Below 1: 1.
    pub burst: i64,
    /// What a source is; without it, the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_criterion: Option<CriterionSettings>,
    /// Whether each router that uses the middleware counts for itself (as Traefik does), or all of them together.
    pub scope: Scope,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            average: 0,
            period: units::Duration::from_secs(1),
            burst: 1,
            source_criterion: None,
            scope: Scope::Router,
        }
    }
}

/// A token bucket per source.
pub struct RateLimit {
    criterion: Criterion,
    limiter: Option<Limiter>,
}

impl Middleware for RateLimit {
    type Settings = Settings;

    fn is_per_router(settings: &Settings) -> bool {
        settings.scope == Scope::Router
    }

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let found = settings.source_criterion.iter().flat_map(CriterionSettings::warnings);
        found.map(|problem| problem.under("sourceCriterion")).collect()
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let average = u64::try_from(settings.average)
            .map_err(|_| Problem::at("average", format!("{} is negative", settings.average)));
        let is_negative =
            refuse(settings.period.is_negative(), || Problem::at("period", format!("{} is negative", settings.period)));
        let criterion = Criterion::build(settings.source_criterion.as_ref(), Criterion::Address(IpStrategy::PEER));
        let (average, (), criterion) = all((average, is_negative, criterion))?;
        let period = settings.period.positive().unwrap_or(Duration::from_secs(1));
        let limiter = (average > 0).then(|| Limiter::new(average, period, settings.burst.max(1).unsigned_abs()));
        Ok(Self { criterion, limiter })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let Some(limiter) = &self.limiter else { return Flow::Continue };
        let source = self.criterion.source(request, exchange);
        match limiter.decide(source, Instant::now()) {
            Verdict::Pass => Flow::Continue,
            Verdict::Wait(time) => {
                // A bucket lets nobody wait behind a whole token, so at most one request per source stands here.
                tokio::time::sleep(time).await;
                Flow::Continue
            }
            Verdict::Refuse(time) => Flow::Reply(Box::new(refusal(time))),
        }
    }
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// It goes on at once.
    Pass,
    /// It goes on after this time.
    Wait(Duration),
    /// There will be a token for the next one after this time.
    Refuse(Duration),
}

/// The buckets. Each is one number, the time at which it will be full again; this is the token bucket read backwards
/// (known from ATM networks as GCRA), and a bucket that is full already need not be remembered at all.
struct Limiter {
    /// Time from one token to the next, in ticks.
    interval: u64,
    /// Time in which an empty bucket fills, in ticks.
    burst: u64,
    /// Longest wait, in ticks.
    patience: u64,
    began: Instant,
    full_at: Recent<u64>,
}

impl Limiter {
    fn new(average: u64, period: Duration, burst: u64) -> Self {
        let interval = (ticks(period) / average).clamp(1, MOST_TICKS);
        let burst = interval.saturating_mul(burst).min(MOST_TICKS);
        let patience = (interval / 2).min(ticks(LONGEST_WAIT));
        // Once this has passed without a request the bucket is full, and forgetting it changes nothing.
        let keep = duration(burst.saturating_add(interval)).max(Duration::from_secs(2));
        Self { interval, burst, patience, began: Instant::now(), full_at: Recent::new(SOURCES, keep) }
    }

    fn decide(&self, source: u128, now: Instant) -> Verdict {
        let at = ticks(now.saturating_duration_since(self.began));
        self.full_at.update(source, now, |slot| {
            let full_at = slot.unwrap_or(at).max(at).saturating_add(self.interval);
            let wait = (full_at - at).saturating_sub(self.burst);
            if wait > self.patience {
                return Verdict::Refuse(duration(wait));
            }
            *slot = Some(full_at);
            if wait == 0 { Verdict::Pass } else { Verdict::Wait(duration(wait)) }
        })
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(TICKS_PER_NANO)
}

const fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_NANO))
}

/// 429 with the time to wait, in whole seconds (RFC 9110 §10.2.3) and as Traefik writes it.
fn refusal(time: Duration) -> Reply {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let reply = Reply::fault(Fault::RateLimited).with(RETRY_AFTER, HeaderValue::from(seconds));
    match HeaderValue::from_str(&go_duration(time)) {
        Ok(value) => reply.with(RETRY_IN, value),
        Err(_) => reply,
    }
}

/// A time as Go prints it, rounded up to microseconds: `1m2.5s`, `16.667ms`.
fn go_duration(time: Duration) -> String {
    let micros = time.as_nanos().div_ceil(1_000);
    let decimal = |micros: u128, per_unit: u128, unit: &str| {
        let digits = format!("{}.{:0width$}", micros / per_unit, micros % per_unit, width = per_unit.ilog10() as usize);
        format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
    };
    let seconds = micros / 1_000_000;
    let rest = |minute: u128| decimal(micros - minute * 60_000_000, 1_000_000, "s");
    match seconds {
        0 if micros < 1_000 => format!("{micros}µs").replace('µ', "u"),
        0 => decimal(micros, 1_000, "ms"),
        1..60 => rest(0),
        60..3_600 => format!("{}m{}", seconds / 60, rest(seconds / 60)),
        _ => format!("{}h{}m{}", seconds / 3_600, seconds / 60 % 60, rest(seconds / 60)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::exchange::sample;
    use crate::units::Name;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLI: Duration = Duration::from_millis(1);

    fn limiter(average: u64, period: Duration, burst: u64) -> (Limiter, Instant) {
        let limiter = Limiter::new(average, period, burst);
        let began = limiter.began;
        (limiter, began)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (limiter, start) = limiter(10, SECOND, 3);
        for (millis, expected) in [
            (0, Verdict::Pass),
            (0, Verdict::Pass),
            (0, Verdict::Pass),
            (0, Verdict::Refuse(100 * MILLI)),
            (40, Verdict::Refuse(60 * MILLI)),
            (60, Verdict::Wait(40 * MILLI)),
            (100, Verdict::Refuse(100 * MILLI)),
            (200, Verdict::Pass),
            (200, Verdict::Refuse(100 * MILLI)),
            (10_000, Verdict::Pass),
            (10_000, Verdict::Pass),
            (10_000, Verdict::Pass),
            (10_000, Verdict::Refuse(100 * MILLI)),
        ] {
            assert_eq!(limiter.decide(1, start + millis * MILLI), expected, "at {millis} ms");
        }
        assert_eq!(limiter.decide(2, start), Verdict::Pass, "another source");
    }

    #[test]
    fn slow_rates_wait_half_a_second_at_most() {
        let (limiter, start) = limiter(6, 60 * SECOND, 1);
        assert_eq!(limiter.decide(1, start), Verdict::Pass);
        assert_eq!(limiter.decide(1, start + 9_400 * MILLI), Verdict::Refuse(600 * MILLI));
        assert_eq!(limiter.decide(1, start + 9_500 * MILLI), Verdict::Wait(500 * MILLI));
    }

    #[test]
    fn extremes_do_not_overflow() {
        for (average, period, burst) in [
            (1, Duration::from_nanos(i64::MAX as u64), u64::MAX),
            (u64::MAX, Duration::from_nanos(1), 1),
            (u64::MAX, Duration::from_nanos(i64::MAX as u64), u64::MAX),
            (1, Duration::from_nanos(1), 1),
        ] {
            let (limiter, start) = limiter(average, period, burst);
            assert_eq!(limiter.decide(1, start), Verdict::Pass);
            limiter.decide(1, start);
            limiter.decide(1, start + Duration::from_secs(u64::from(u32::MAX)));
        }
    }

    #[test]
    fn threads_together_get_exactly_the_burst() {
        let (limiter, start) = limiter(1, 10_000 * SECOND, 1_000);
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..1_000 {
                        for source in 1..=4 {
                            if limiter.decide(source, start + round * MILLI) == Verdict::Pass {
                                passed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 4 * 1_000);
    }

    #[test]
    fn as_many_sources_as_promised_are_remembered() {
        let (limiter, start) = limiter(1, 1_000 * SECOND, 1);
        let forgotten = |source: &u128| limiter.decide(*source, start) == Verdict::Pass;
        assert_eq!((0..60_000).filter(forgotten).count(), 60_000);
        assert_eq!((0..60_000).filter(forgotten).count(), 0);
    }

    #[test]
    fn many_sources_do_not_take_more_memory_than_agreed() {
        let (limiter, start) = limiter(1, SECOND, 1);
        assert_eq!(limiter.full_at.len(), 0, "nothing before the first request");
        for source in 0..3 * SOURCES as u128 {
            limiter.decide(source, start);
        }
        assert!(limiter.full_at.len() <= SOURCES);
    }

    proptest! {
        /// However requests come, no window lets more pass than burst + rate × window (+ the one that waits).
        #[test]
        fn never_more_than_the_bucket_holds(gaps in prop::collection::vec(0..300u64, 1..200), average in 1..50u64, burst in 1..10u64) {
            let (limiter, start) = limiter(average, SECOND, burst);
            let mut at = 0;
            let mut passed = Vec::new();
            for gap in gaps {
                at += gap;
                match limiter.decide(1, start + MILLI * at as u32) {
                    Verdict::Pass => passed.push(Duration::from_millis(at)),
                    Verdict::Wait(time) => passed.push(Duration::from_millis(at) + time),
                    Verdict::Refuse(time) => prop_assert!(time <= SECOND * 3 / (2 * average as u32) + MILLI),
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (count, last) in (1..).zip(&passed[index..]) {
                    let window = last.saturating_sub(*first);
                    prop_assert!(f64::from(count) <= burst as f64 + average as f64 * window.as_secs_f64() + 1e-3);
                }
            }
        }
    }

    fn build(json: &str) -> Result<RateLimit, String> {
        let name = Name::from("a@file");
        RateLimit::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name })
            .map_err(|problem| problem.to_string())
    }

    #[tokio::test]
    async fn answers_429_with_the_time_to_wait() {
        let limit = build(r#"{"average":1,"period":"90m"}"#).unwrap();
        let (mut request, mut exchange) = (sample::request("GET", "/"), sample::exchange());
        assert!(matches!(limit.on_request(&mut request, &mut exchange).await, Flow::Continue));
        let Flow::Reply(reply) = limit.on_request(&mut request, &mut exchange).await else { panic!("not refused") };
        assert_eq!((reply.header.status.as_u16(), reply.fault), (429, Some(Fault::RateLimited)));
        assert_eq!(reply.header.headers["retry-after"], "5400");
        assert!(reply.header.headers["x-retry-in"].to_str().unwrap().starts_with("1h29m59."));
    }

    #[tokio::test]
    async fn no_average_is_no_limit() {
        let limit = build("{}").unwrap();
        let (mut request, mut exchange) = (sample::request("GET", "/"), sample::exchange());
        for _ in 0..100 {
            assert!(matches!(limit.on_request(&mut request, &mut exchange).await, Flow::Continue));
        }
    }

    #[test]
    fn reads_traefiks_defaults_and_refuses_nonsense() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert!(RateLimit::is_per_router(&settings));
        assert!(!RateLimit::is_per_router(&serde_json::from_str(r#"{"scope":"middleware"}"#).unwrap()));
        assert!(serde_json::from_str::<Settings>(r#"{"redis":{}}"#).is_err());
        for (json, part) in [
            (r#"{"average":-1}"#, "average: -1 is negative"),
            (r#"{"period":-1}"#, "period: -1s is negative"),
            (r#"{"sourceCriterion":{"requestHost":true,"requestHeaderName":"a"}}"#, "sourceCriterion: more than one"),
        ] {
            let problem = build(json).err().unwrap();
            assert!(problem.contains(part), "{json}: {problem}");
        }
        assert!(size_of::<RateLimit>() <= 192);
    }

    #[test]
    fn times_read_as_in_go() {
        for (micros, text) in [
            (0, "0us"),
            (999, "999us"),
            (1_500, "1.5ms"),
            (500_000, "500ms"),
            (1_000_000, "1s"),
            (62_500_000, "1m2.5s"),
            (5_400_000_000, "1h30m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_micros(micros)), text);
        }
    }
}
