//! A router as built.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::Router;
use crate::middleware::Chain;
use crate::observe::meters::RouterMeters;
use crate::rule::{Rule, Syntax};
use crate::service::Service;
use crate::units::Name;

use super::route_table::Routed;

/// A router as built: its rule, and what happens to the requests that it matches.
#[derive(Debug)]
pub struct Route {
    /// Qualified name of the router.
    pub name: Name,
    /// As written.
    pub settings: Arc<Router>,
    /// Language that its rule is written in.
    pub syntax: Syntax,
    /// Its rule, as long as the index cannot answer alone. Most it can: then the rule is read again where people want to see it.
    /// See [`Route::worth_keeping`].
    pub rule: Option<Box<Rule>>,
    /// Larger wins; then the order of providers decides, then the name, so that it never depends on chance.
    pub priority: i64,
    /// Where its requests go.
    pub target: Target,
    /// Counters of its own, if router labels are asked for.
    pub meters: Option<Arc<RouterMeters>>,
    /// What is told of its requests.
    pub switches: Switches,
}

/// Where a route's requests go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Through the chain to the service.
    Service {
        /// Middlewares of the entry point, of the router, and of the service, in that order.
        chain: Arc<Chain>,
        /// Name of the service, for logs and metrics.
        name: Name,
        /// The service.
        service: Arc<Service>,
    },
    /// Nowhere: a part of it is broken. It keeps its place and answers 503, because a less protected router behind it
    /// must not get requests that were meant for it.
    Disabled,
}

/// What is told of a route's requests, where the router says so itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Access log; `None` leaves it to the entry point.
    pub access_log: Option<bool>,
    /// Metrics; `None` leaves it to the entry point.
    pub metrics: Option<bool>,
}

impl Route {
    /// The rule, if some request has to ask it although its host and path are found in the index.
    pub fn worth_keeping(rule: Rule) -> Option<Box<Rule>> {
        let is_decided = rule.conjunctions().iter().all(|one| one.decided);
        (!is_decided).then(|| Box::new(rule))
    }
}

impl Routed for Route {
    fn rule(&self) -> Cow<'_, Rule> {
        match &self.rule {
            Some(rule) => Cow::Borrowed(rule),
            // It was read once before.
            None => Cow::Owned(Rule::parse(&self.settings.rule, self.syntax).unwrap_or_else(|_| Rule::never())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_small() {
        assert!(size_of::<Route>() <= 88, "{}", size_of::<Route>());
    }
}
