//! `http`: routers, services, middlewares and transports as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::entry_points::TraceVerbosity;
use super::install::RuleSyntax;
use super::routing::Names;
use super::tree::{Node, Sources, Value};
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

/// A list of names. Routers that say the same share it, and each of a million holds only one pointer to it.
pub type NameList = Arc<Vec<Name>>;

/// Which requests go where.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Router {
    /// Where its requests come in; empty means the default entry points. Not qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub entry_points: NameList,
    /// What happens on the way, in order. Qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub middlewares: NameList,
    /// Where its requests go. Qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Which requests are meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: Arc<str>,
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

/// Highest priority that a router may have; above it are those that the gateway makes itself.
const PRIORITY_LIMIT: i64 = i64::MAX - 1000;

impl Router {
    /// Reads a router out of a checked tree. By hand and not by serde, because there may be a million of them.
    pub(super) fn read(node: &Node, sources: &Sources, names: &mut Names) -> Result<Self, Problem> {
        let mut router = Self {
            entry_points: names.empty_list(),
            middlewares: names.empty_list(),
            service: None,
            rule: "".into(),
            rule_syntax: None,
            priority: None,
            observability: Observability::default(),
        };
        for (key, node) in node.entries() {
            match (&*key.name, &node.value) {
                ("entryPoints", _) => router.entry_points = names.read_list(node),
                ("middlewares", _) => router.middlewares = names.read_list(node),
                ("service", Value::Str(text)) => router.service = Some(names.read(text)).filter(|_| !text.is_empty()),
                ("rule", Value::Str(text)) => router.rule = (&**text).into(),
                ("ruleSyntax", Value::Str(text)) => {
                    router.rule_syntax =
                        read_syntax(text).map_err(|problem| problem.placed(sources.place(node.span)))?;
                }
                ("priority", Value::Int(priority)) => {
                    router.priority = Some(*priority).filter(|priority| *priority != 0)
                }
                ("observability", _) => router.observability = Observability::read(node),
                _ => {}
            }
        }
        if router.rule.trim().is_empty() {
            return Err(Problem::at("rule", "is missing").placed(sources.place(node.span)));
        }
        if let Some(priority) = router.priority.filter(|priority| *priority > PRIORITY_LIMIT) {
            let message =
                format!("the router priority {priority} exceeds the max user-defined priority {PRIORITY_LIMIT}");
            return Err(Problem::at("priority", message).placed(sources.place(node.span)));
        }
        Ok(router)
    }
}

fn read_syntax(text: &str) -> Result<Option<RuleSyntax>, Problem> {
    match text {
        "" => Ok(None),
        "v2" => Ok(Some(RuleSyntax::V2)),
        "v3" => Ok(Some(RuleSyntax::V3)),
        other => Err(Problem::at("ruleSyntax", format!("`{other}` is not known, expected `v2` or `v3`"))),
    }
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
    fn read(node: &Node) -> Self {
        let switch = |name: &str| match node.get(name).map(|node| &node.value) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        };
        let trace_verbosity = match node.get("traceVerbosity").map(|node| &node.value) {
            Some(Value::Str(text)) if &**text == "detailed" => Some(TraceVerbosity::Detailed),
            Some(Value::Str(_)) => Some(TraceVerbosity::Minimal),
            _ => None,
        };
        Self {
            access_logs: switch("accessLogs"),
            metrics: switch("metrics"),
            tracing: switch("tracing"),
            trace_verbosity,
        }
    }

    fn is_inherited(&self) -> bool {
        *self == Self::default()
    }
}

fn is_empty(names: &NameList) -> bool {
    names.is_empty()
}
