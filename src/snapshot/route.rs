//! A router as built.

use std::borrow::Cow;
use std::sync::Arc;

use arcstr::ArcStr;

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
    /// When it takes a request, as written.
    pub rule: ArcStr,
    /// Larger wins; then the order of providers decides, then the name, so that it never depends on chance.
    pub priority: i64,
    /// Where its requests go.
    pub target: Target,
    /// What most routes do without.
    pub rest: Option<Box<Rest>>,
}

/// What only some routes have: of a million, each word counts.
#[derive(Debug)]
pub struct Rest {
    /// The rule as read, where the index does not decide it. Otherwise it is a rule of hosts and paths in the current syntax, and
    /// read again where it is asked for all the same.
    pub asked: Option<Rule>,
    /// Counters of its own, if router labels are asked for.
    pub meters: Option<Arc<RouterMeters>>,
    /// What is told of its requests.
    pub switches: Switches,
}

impl Rest {
    /// What a route has to keep; `None`: nothing.
    pub fn new(asked: Option<Rule>, meters: Option<Arc<RouterMeters>>, switches: Switches) -> Option<Box<Self>> {
        let is_needed = asked.is_some() || meters.is_some() || switches != Switches::default();
        is_needed.then(|| Box::new(Self { asked, meters, switches }))
    }
}

impl Route {
    /// Counters of its own, if router labels are asked for.
    pub fn meters(&self) -> Option<&Arc<RouterMeters>> {
        self.rest.as_ref()?.meters.as_ref()
    }

    /// What is told of its requests.
    pub fn switches(&self) -> Switches {
        self.rest.as_ref().map(|rest| rest.switches).unwrap_or_default()
    }
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

/// What has to be kept of a rule beside its text: nothing if the index decides it and it is in the current syntax.
pub fn kept(rule: Rule, syntax: Syntax) -> Option<Rule> {
    let is_decided = syntax == Syntax::V3 && rule.conjunctions().iter().all(|one| one.decided);
    Some(rule).filter(|_| !is_decided)
}

impl Routed for Route {
    fn rule(&self) -> Cow<'_, Rule> {
        match self.rest.as_ref().and_then(|rest| rest.asked.as_ref()) {
            Some(rule) => Cow::Borrowed(rule),
            // It was read once before.
            None => Cow::Owned(Rule::parse(&self.rule, Syntax::V3).unwrap_or_else(|_| Rule::never())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_small() {
        assert!(size_of::<Route>() <= 56, "{}", size_of::<Route>());
    }
}
