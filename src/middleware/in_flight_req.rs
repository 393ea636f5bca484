//! `inFlightReq`: so many requests of one source at the same time.

use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use serde::{Deserialize, Serialize};

use super::source::{Criterion, CriterionSettings, Scope};
use super::{Flow, Kit, Middleware};
use crate::exchange::{Exchange, Fault, Reply};
use crate::problem::{Problem, Problems, all, refuse};

/// Locks per middleware: enough that workers seldom meet at one.
const SHARDS: usize = 16;

/// `inFlightReq` as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Requests that each source may have in flight. 0 lets none through.
    pub amount: i64,
    /// What a source is; without it, the host that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_criterion: Option<CriterionSettings>,
    /// Whether each router that uses the middleware counts for itself (as Traefik does), or all of them together.
    pub scope: Scope,
}

/// So many requests of one source at the same time; more are answered with 429.
pub struct InFlightReq {
    criterion: Criterion,
    amount: u32,
    flights: Arc<Flights>,
}

impl Middleware for InFlightReq {
    type Settings = Settings;

    fn is_per_router(settings: &Settings) -> bool {
        settings.scope == Scope::Router
    }

    fn warnings(settings: &Settings) -> Vec<Problem> {
        let mut warnings = Vec::new();
        if settings.amount == 0 {
            warnings.push(Problem::warning("amount", "is 0, so every request is refused"));
        }
        let found = settings.source_criterion.iter().flat_map(CriterionSettings::warnings);
        warnings.extend(found.map(|problem| problem.under("sourceCriterion")));
        warnings
    }

    fn build(settings: &Settings, _: &Kit<'_>) -> Result<Self, Problems> {
        let is_negative =
            refuse(settings.amount < 0, || Problem::at("amount", format!("{} is negative", settings.amount)));
        let criterion = Criterion::build(settings.source_criterion.as_ref(), Criterion::Host);
        let ((), criterion) = all((is_negative, criterion))?;
        let amount = u32::try_from(settings.amount).unwrap_or(u32::MAX);
        Ok(Self { criterion, amount, flights: Arc::default() })
    }

    async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange) -> Flow {
        let source = self.criterion.source(request, exchange);
        match self.flights.enter(source, self.amount) {
            Some(permit) => {
                exchange.hold(Box::new(permit));
                Flow::Continue
            }
            None => Flow::Reply(Box::new(Reply::fault(Fault::TooManyInFlight))),
        }
    }
}

/// Requests in flight by source. A source without any has no entry, so there are never more entries than requests.
#[derive(Default)]
struct Flights {
    shards: OnceLock<[Mutex<Counts>; SHARDS]>,
}

type Counts = HashMap<u128, u32, ahash::RandomState>;

impl Flights {
    fn shard(&self, source: u128) -> &Mutex<Counts> {
        let shards = self.shards.get_or_init(|| {
            let seeds = ahash::RandomState::new();
            std::array::from_fn(|_| Mutex::new(Counts::with_hasher(seeds.clone())))
        });
        // Neighbouring addresses go to different shards; the table inside hashes with a seed.
        let folded = (source ^ (source >> 64)) as u64;
        &shards[((folded ^ (folded >> 32)) as usize ^ (folded >> 8) as usize) % SHARDS]
    }

    /// One more request of `source`, unless it has `amount` already.
    fn enter(self: &Arc<Self>, source: u128, amount: u32) -> Option<Permit> {
        if amount == 0 {
            return None;
        }
        let mut counts = self.shard(source).lock();
        let count = counts.entry(source).or_insert(0);
        if *count >= amount {
            return None;
        }
        *count += 1;
        Some(Permit { flights: Arc::clone(self), source })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.get().into_iter().flatten().map(|shard| shard.lock().len()).sum()
    }
}

/// One request in flight, until it drops.
struct Permit {
    flights: Arc<Flights>,
    source: u128,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.flights.shard(self.source).lock();
        let left = counts.get_mut(&self.source).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            counts.remove(&self.source);
        }
        // A flood of sources must not leave its tables behind.
        if counts.is_empty() && counts.capacity() > 1024 {
            counts.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::sample;
    use crate::units::Name;

    fn build(json: &str) -> Result<InFlightReq, String> {
        let name = Name::from("a@file");
        InFlightReq::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name })
            .map_err(|problem| problem.to_string())
    }

    async fn send(limit: &InFlightReq, host: &str) -> Result<Exchange, u16> {
        let mut exchange = sample::exchange_for("GET", host);
        match limit.on_request(&mut sample::request("GET", "/"), &mut exchange).await {
            Flow::Continue => Ok(exchange),
            Flow::Reply(reply) => Err(reply.header.status.as_u16()),
        }
    }

    #[tokio::test]
    async fn counts_until_the_exchange_is_over() {
        let limit = build(r#"{"amount":2}"#).unwrap();
        let first = send(&limit, "a.test").await.unwrap();
        let second = send(&limit, "A.test:80").await.unwrap();
        assert_eq!(send(&limit, "a.test").await.err(), Some(429));
        let other = send(&limit, "b.test").await.unwrap();
        drop(first);
        let third = send(&limit, "a.test").await.unwrap();
        assert_eq!(limit.flights.len(), 2);
        drop((second, third, other));
        assert_eq!(limit.flights.len(), 0);
    }

    #[tokio::test]
    async fn zero_lets_nobody_through() {
        let limit = build("{}").unwrap();
        assert_eq!(send(&limit, "a.test").await.err(), Some(429));
        assert_eq!(limit.flights.len(), 0);
        assert_eq!(InFlightReq::warnings(&Settings::default()).len(), 1);
    }

    #[test]
    fn threads_never_exceed_the_amount_and_leave_nothing() {
        let flights = Arc::<Flights>::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2_000u128 {
                        let held: Vec<_> = (0..8).filter_map(|_| flights.enter(round % 5, 3)).collect();
                        assert!(held.len() <= 3);
                    }
                });
            }
        });
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn refuses_nonsense() {
        for (json, part) in [
            (r#"{"amount":-1}"#, "amount: -1 is negative"),
            (
                r#"{"amount":1,"sourceCriterion":{"requestHost":true,"ipStrategy":{}}}"#,
                "sourceCriterion: more than one",
            ),
        ] {
            let problem = build(json).err().unwrap();
            assert!(problem.contains(part), "{json}: {problem}");
        }
    }
}
