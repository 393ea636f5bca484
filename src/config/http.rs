//! `http`: routers, services, middlewares and transports as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::entry_points::TraceVerbosity;
use super::install::RuleSyntax;
use crate::problem::Problem;
use crate::units::Name;
use crate::{middleware, service};

/// HTTP objects by their qualified names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// Which requests go where.
    pub routers: BTreeMap<Name, Arc<Router>>,
    /// Where requests go.
    pub services: BTreeMap<Name, Arc<service::Settings>>,
    /// What happens on the way.
    pub middlewares: BTreeMap<Name, Arc<middleware::Settings>>,
    /// How servers are spoken to.
    pub servers_transports: BTreeMap<Name, Arc<service::transport::Settings>>,
    /// What is written, but cannot be used.
    #[serde(skip)]
    pub broken: Broken,
}

/// Objects that cannot be used, each with what is wrong. Whatever refers to one of them is disabled too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Routers.
    pub routers: BTreeMap<Name, Box<[Problem]>>,
    /// Services.
    pub services: BTreeMap<Name, Box<[Problem]>>,
    /// Middlewares.
    pub middlewares: BTreeMap<Name, Box<[Problem]>>,
    /// Transports.
    pub servers_transports: BTreeMap<Name, Box<[Problem]>>,
}

/// Which requests go where.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Router {
    /// Where its requests come in; empty means the default entry points. Not qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub entry_points: Arc<[Name]>,
    /// What happens on the way, in order. Qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub middlewares: Arc<[Name]>,
    /// Where its requests go. Qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Which requests are meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: Box<str>,
    /// Language of the rule, if it is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_syntax: Option<RuleSyntax>,
    /// Rank among the routers that match; the length of the rule if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// What is recorded about its requests.
    #[serde(skip_serializing_if = "Observability::is_inherited")]
    pub observability: Observability,
}

/// What is recorded about a router's requests. What is not set is as the entry point says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// Whether requests are written to the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<bool>,
    /// Whether requests are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<bool>,
    /// Whether requests are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<bool>,
    /// How much of a request is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_verbosity: Option<TraceVerbosity>,
}

impl Observability {
    fn is_inherited(&self) -> bool {
        *self == Self::default()
    }
}

fn is_empty(names: &Arc<[Name]>) -> bool {
    names.is_empty()
}
