//! `api@internal`: Traefik's API, for reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use pingora::http::RequestHeader;
use serde_json::{Value, json};

use crate::control::Status;
use crate::control::status::Applied;
use crate::exchange::{Exchange, Reply};
use crate::service::Internal;
use crate::units::Name;

use super::listing::{Listing, decode};
use super::model::Model;

/// What does not change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Path before `/api` and `/dashboard`; empty, or without a slash at its end.
    pub base_path: String,
    /// When the process started, RFC 3339.
    pub started: String,
    /// Title of the dashboard.
    pub dashboard_name: String,
    /// Entry points as the API shows them.
    pub entry_points: Vec<Value>,
    /// Entry points of routers that name none.
    pub default_entry_points: Vec<Name>,
    /// What is switched on: `features` of the overview.
    pub features: Value,
    /// Providers that are switched on.
    pub providers: Vec<String>,
}

/// Traefik's API, for reading.
#[derive(Debug)]
pub struct Api {
    status: Arc<Status>,
    about: Arc<About>,
}

impl Api {
    /// Shows what `status` says.
    pub fn new(status: Arc<Status>, about: Arc<About>) -> Self {
        Self { status, about }
    }

    fn answer(&self, request: &RequestHeader) -> Reply {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Reply::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        let rest = request.uri.path().strip_prefix(self.about.base_path.as_str());
        let Some(path) = rest.and_then(|rest| rest.strip_prefix("/api")) else { return nothing_here() };
        let query = request.uri.query().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["version"] => ok(&self.version()),
            ["entrypoints"] => Listing::read(query).reply(self.about.entry_points.clone()),
            ["entrypoints", name] => one("entry point", &self.about.entry_points, name),
            // Nothing of TCP, UDP or certificates is served yet: their lists are empty, not missing.
            ["tcp", "routers" | "services" | "middlewares"] | ["udp", "routers" | "services"] | ["certificates"] => {
                Listing::read(query).reply(Vec::new())
            }
            _ => match self.status.applied() {
                Some(applied) => self.of_configuration(&parts, query, &applied),
                None => {
                    let message = json!({ "message": "no configuration has been applied yet" });
                    Reply::json(StatusCode::SERVICE_UNAVAILABLE, message.to_string())
                }
            },
        }
    }

    fn of_configuration(&self, parts: &[&str], query: &str, applied: &Applied) -> Reply {
        let model = Model::new(applied, &self.about.default_entry_points);
        let objects = |kind: &str| match kind {
            "routers" => Some(("router", model.routers())),
            "services" => Some(("service", model.services())),
            "middlewares" => Some(("middleware", model.middlewares())),
            _ => None,
        };
        match parts {
            ["overview"] => ok(&self.overview(&model)),
            ["rawdata"] => ok(&raw(&model, applied)),
            ["http", kind] => {
                objects(kind).map_or_else(nothing_here, |(_, objects)| Listing::read(query).reply(objects))
            }
            ["http", kind, name] => {
                objects(kind).map_or_else(nothing_here, |(word, objects)| one(word, &objects, name))
            }
            _ => nothing_here(),
        }
    }

    fn version(&self) -> Value {
        json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "Codename": "portcullis",
            "startDate": self.about.started,
            "disableDashboardAd": true,
            "dashboardName": self.about.dashboard_name,
        })
    }

    fn overview(&self, model: &Model<'_>) -> Value {
        let none = json!({ "total": 0, "warnings": 0, "errors": 0 });
        json!({
            "http": {
                "routers": count(&model.routers()),
                "services": count(&model.services()),
                "middlewares": count(&model.middlewares()),
            },
            "tcp": { "routers": none, "services": none, "middlewares": none },
            "udp": { "routers": none, "services": none },
            "features": self.about.features,
            "providers": self.about.providers,
        })
    }
}

impl Internal for Api {
    fn name(&self) -> &str {
        "api"
    }

    fn reply<'a>(&'a self, request: &'a RequestHeader, _: &'a Exchange) -> BoxFuture<'a, Reply> {
        Box::pin(async move { self.answer(request) })
    }
}

fn raw(model: &Model<'_>, applied: &Applied) -> Value {
    let by_name = |objects: Vec<Value>| -> BTreeMap<String, Value> {
        objects.into_iter().map(|object| (object["name"].as_str().unwrap_or_default().to_owned(), object)).collect()
    };
    let problems: Vec<String> = applied.outcome.problems.iter().map(ToString::to_string).collect();
    json!({
        "routers": by_name(model.routers()),
        "services": by_name(model.services()),
        "middlewares": by_name(model.middlewares()),
        "problems": problems,
    })
}

fn ok(value: &Value) -> Reply {
    Reply::json(StatusCode::OK, value.to_string())
}

fn nothing_here() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn one(word: &str, objects: &[Value], name: &str) -> Reply {
    let name = decode(name);
    match objects.iter().find(|object| object["name"] == name.as_str()) {
        Some(object) => ok(object),
        None => {
            Reply::json(StatusCode::NOT_FOUND, json!({ "message": format!("{word} not found: {name}") }).to_string())
        }
    }
}

fn count(objects: &[Value]) -> Value {
    let with = |status: &str| objects.iter().filter(|object| object["status"] == status).count();
    json!({ "total": objects.len(), "warnings": with("warning"), "errors": with("disabled") })
}
