//! A router as built.

use std::borrow::Cow;
use std::sync::Arc;

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
    /// When it takes a request.
    pub condition: Condition,
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

/// When a route takes a request. Most rules are hosts and paths: the index answers for them, so that they are kept as text alone
/// and read again where they are asked for all the same.
#[derive(Clone, Debug)]
pub enum Condition {
    /// A rule that the index decides, in the current syntax.
    Indexed(Arc<str>),
    /// A rule that looks at more.
    Asked(Box<Rule>),
}

impl Condition {
    /// The condition that `rule` is, which was written as `text`.
    pub fn new(rule: Rule, text: &Arc<str>, syntax: Syntax) -> Self {
        let is_decided = syntax == Syntax::V3 && rule.conjunctions().iter().all(|one| one.decided);
        if is_decided { Self::Indexed(text.clone()) } else { Self::Asked(Box::new(rule)) }
    }
}

impl Routed for Route {
    fn rule(&self) -> Cow<'_, Rule> {
        match &self.condition {
            Condition::Asked(rule) => Cow::Borrowed(rule),
            // It was read once before.
            Condition::Indexed(text) => Cow::Owned(Rule::parse(text, Syntax::V3).unwrap_or_else(|_| Rule::never())),
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
