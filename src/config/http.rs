//! `http`: routers, services, middlewares and transports as a provider publishes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arcstr::ArcStr;
use serde::Serialize;

use super::deserialize::{IS_MISSING, Read, follows_from};
use super::entry_points::TraceVerbosity;
use super::install::RuleSyntax;
use super::router_tls::RouterTls;
use super::routing::Names;
use super::tree::{Node, Sources, Value};
use crate::problem::{Problem, Problems};
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

/// Objects that cannot be used. Whatever refers to one of them is disabled too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Routers.
    pub routers: BTreeMap<Name, Remains<Router>>,
    /// Services.
    pub services: BTreeMap<Name, Remains<service::Settings>>,
    /// Middlewares.
    pub middlewares: BTreeMap<Name, Remains<middleware::Settings>>,
    /// Transports.
    pub servers_transports: BTreeMap<Name, Remains<service::transport::Settings>>,
}

/// What is left of an object that cannot be used. It is never put to work, but building it shows what else is wrong: people
/// want to hear of that now, and not once they have mended the first mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Remains<T> {
    /// The object without what is wrong with it, if anything can be made of it.
    pub rest: Option<Arc<T>>,
    /// Where the mistakes are that are told already, relative to the object.
    told: Box<[Box<str>]>,
    /// Every path that is written in the rest, where it matters.
    written: Option<Box<[Box<str>]>>,
}

impl<T> Remains<T> {
    /// The rest of an object of which something is wrong at the paths `told`.
    pub(super) fn new(rest: Option<T>, told: impl Iterator<Item = String>) -> Self {
        Self { rest: rest.map(Arc::new), told: told.map(String::into_boxed_str).collect(), written: None }
    }

    /// Takes down what is written in `node`, the rest: what is missing there may stand under a wrong name. Not worth the
    /// memory for routers, of which there may be a million.
    #[must_use]
    pub(super) fn reading(mut self, node: &Node) -> Self {
        let mut written = Vec::new();
        list_paths(node, "", &mut written);
        self.written = Some(written.into());
        self
    }

    /// Of what else is wrong with the object, what does not merely follow from what is told already. Paths are relative to it.
    #[must_use]
    pub fn news(&self, found: Problems) -> Problems {
        found.into_iter().filter(|problem| self.is_news(problem)).collect()
    }

    fn is_news(&self, problem: &Problem) -> bool {
        let section = |path: &str| path.rfind(['.', '[']).map_or("", |end| &path[..end]).to_owned();
        let is_written = self.written.as_ref().is_none_or(|written| written.iter().any(|path| **path == problem.path));
        let may_be_misspelt = || self.told.iter().any(|told| section(told) == section(&problem.path));
        !self.told.iter().any(|told| follows_from(&problem.path, told)) && (is_written || !may_be_misspelt())
    }
}

/// Collects each path below `node`.
fn list_paths(node: &Node, path: &str, found: &mut Vec<Box<str>>) {
    let mut add = |path: String, node: &Node| {
        list_paths(node, &path, found);
        found.push(path.into());
    };
    match &node.value {
        Value::Map(entries) => entries.iter().for_each(|(key, node)| match path {
            "" => add(key.name.to_string(), node),
            path => add(format!("{path}.{}", key.name), node),
        }),
        Value::List(items) => items.iter().enumerate().for_each(|(at, node)| add(format!("{path}[{at}]"), node)),
        _ => {}
    }
}

/// A list of names. Routers that say the same share it, and each of a million holds only one pointer to it.
pub type NameList = Arc<Vec<Name>>;

/// Which requests go where.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Router {
    /// What many routers say alike.
    #[serde(flatten)]
    pub common: Arc<Common>,
    /// Where its requests go. Qualified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Which requests are meant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: ArcStr,
}

/// What many routers say alike: those that do share it, and each of a million holds only one pointer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Common {
    /// Where its requests come in; empty means the default entry points. Not qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub entry_points: NameList,
    /// What happens on the way, in order. Qualified.
    #[serde(skip_serializing_if = "is_empty")]
    pub middlewares: NameList,
    /// Language of the rule, if it is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_syntax: Option<RuleSyntax>,
    /// Rank among the routers that match; the length of the rule if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// What it asks of TLS, if it is for TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<RouterTls>>,
    /// What is recorded about its requests.
    #[serde(skip_serializing_if = "Observability::is_inherited")]
    pub observability: Observability,
}

/// Highest priority that a router may have; above it are those that the gateway makes itself.
pub const MAX_USER_PRIORITY: i64 = i64::MAX - 1000;

impl Router {
    /// Reads a router out of a checked tree. By hand and not by serde, because there may be a million of them.
    pub(super) fn read(node: &Node, sources: &Sources, names: &mut Names) -> Read<Self> {
        let mut common = Common {
            entry_points: names.empty_list(),
            middlewares: names.empty_list(),
            rule_syntax: None,
            priority: None,
            tls: None,
            observability: Observability::default(),
        };
        let (mut service, mut rule) = (None, ArcStr::new());
        let mut problems = Problems::new();
        for (key, node) in node.entries() {
            match (&*key.name, &node.value) {
                ("entryPoints", _) => common.entry_points = names.read_list(node),
                ("middlewares", _) => common.middlewares = names.read_list(node),
                ("service", Value::Str(text)) => service = Some(names.read(text)).filter(|_| !text.is_empty()),
                ("rule", Value::Str(text)) => rule = (&**text).into(),
                ("ruleSyntax", Value::Str(text)) => {
                    let read = read_syntax(text).map_err(|problem| problem.placed(sources.place(node.span)));
                    common.rule_syntax = problems.keep(read).flatten();
                }
                ("priority", Value::Int(priority)) => {
                    if *priority > MAX_USER_PRIORITY {
                        problems.push(too_high(*priority).placed(sources.place(node.span)));
                    }
                    // Whoever asks for more is ranked at the top, where its place is kept.
                    common.priority = Some(*priority).filter(|it| *it != 0).map(|it| it.min(MAX_USER_PRIORITY));
                }
                ("tls", _) => common.tls = Some(Box::new(RouterTls::read(node, names))),
                ("observability", _) => common.observability = Observability::read(node),
                _ => {}
            }
        }
        if rule.trim().is_empty() {
            problems.push(Problem::at("rule", IS_MISSING).placed(sources.place(node.span)));
            return Read { object: None, problems };
        }
        Read { object: Some(Self { common: names.share_common(common), service, rule }), problems }
    }
}

/// What is wrong with a priority above [`MAX_USER_PRIORITY`].
pub fn too_high(priority: i64) -> Problem {
    let message = format!("the router priority {priority} exceeds the max user-defined priority {MAX_USER_PRIORITY}");
    Problem::at("priority", message)
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
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
