//! A router as built.

use std::sync::Arc;

use crate::middleware::Chain;
use crate::observe::meters::RouterMeters;
use crate::rule::Rule;
use crate::service::Service;
use crate::units::Name;

use super::route_table::Routed;

/// A router as built: its rule, and what happens to the requests that it matches.
#[derive(Debug)]
pub struct Route {
    /// Qualified name of the router.
    pub name: Name,
    /// When it matches.
    pub rule: Rule,
    /// Larger wins; see [`Route::outranks`].
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
    /// The order of two routes in a table: larger priority first, then by name, so that it never depends on chance.
    pub fn outranks(&self, other: &Self) -> std::cmp::Ordering {
        other.priority.cmp(&self.priority).then_with(|| self.name.cmp(&other.name))
    }
}

impl Routed for Route {
    fn rule(&self) -> &Rule {
        &self.rule
    }
}
