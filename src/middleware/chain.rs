//! `chain`, and the middlewares of one router: requests go down, responses come back up.

use std::sync::Arc;

use pingora::http::{RequestHeader, ResponseHeader};
use serde::{Deserialize, Serialize};

use super::{AnyMiddleware, Flow};
use crate::exchange::Exchange;
use crate::units::Name;

/// The `chain` middleware as written. When routers are built, its parts stand in its place.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Names of other middlewares, in the order in which requests pass them.
    #[serde(default)]
    pub middlewares: Vec<Name>,
}

/// One middleware in its place.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its qualified name.
    pub name: Name,
    /// What it does.
    pub middleware: Arc<AnyMiddleware>,
}

/// The middlewares of one router, in order, chains within it flattened.
///
/// A response passes the middlewares that its request has passed, the last one first. A middleware that replies has not passed
/// its request on: its reply goes up through those before it, not through its own response phase.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    steps: Box<[Step]>,
}

impl Chain {
    /// A chain of `steps`.
    pub fn new(steps: impl Into<Box<[Step]>>) -> Self {
        Self { steps: steps.into() }
    }

    /// Its middlewares, in the order in which requests pass them.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Takes a request down, until it has passed all middlewares or one replies.
    ///
    /// `depth` counts those that it has passed, also while this is pending and when it is dropped: the response goes up from there.
    pub async fn on_request(&self, request: &mut RequestHeader, exchange: &mut Exchange, depth: &mut usize) -> Flow {
        *depth = 0;
        for step in &self.steps {
            match step.middleware.on_request(request, exchange).await {
                Flow::Continue => *depth += 1,
                reply @ Flow::Reply(_) => return reply,
            }
        }
        Flow::Continue
    }

    /// Takes a response up, through the first `depth` middlewares, the last of them first.
    pub fn on_response(&self, response: &mut ResponseHeader, exchange: &mut Exchange, depth: usize) {
        for step in self.steps[..depth.min(self.steps.len())].iter().rev() {
            step.middleware.on_response(response, exchange);
        }
    }
}
