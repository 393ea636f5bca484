//! `api@internal`: Traefik's API, for reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode, Uri};
use pingora::http::RequestHeader;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::control::Status;
use crate::control::status::Applied;
use crate::exchange::{Exchange, Fault, Reply};
use crate::service::Internal;

use super::listing::{Listed, Listing, decode_segment};
use super::model::{Class, Model, as_written};
use super::tcp;

/// Answers that may be made at once. Each may take as much memory as the configuration itself.
const TURNS: usize = 2;

/// What does not change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Path before `/api` and `/dashboard`; empty, or without a slash at its end.
    pub base_path: String,
    /// When the process started, RFC 3339.
    pub started: String,
    /// Title of the dashboard.
    pub dashboard_name: String,
    /// What is switched on: `features` of the overview.
    pub features: Value,
    /// Providers that are switched on.
    pub providers: Vec<String>,
}

/// Traefik's API, for reading.
#[derive(Clone, Debug)]
pub struct Api {
    status: Arc<Status>,
    about: Arc<About>,
    turns: Arc<Semaphore>,
}

impl Api {
    /// Shows what `status` says.
    pub fn new(status: Arc<Status>, about: Arc<About>) -> Self {
        Self { status, about, turns: Arc::new(Semaphore::new(TURNS)) }
    }

    /// Answers away from the threads that serve: a list of a million routers takes a while.
    async fn answer_aside(&self, method: &Method, uri: &Uri) -> Reply {
        if *method != Method::GET && *method != Method::HEAD {
            return Reply::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        }
        let turn = self.turns.clone().acquire_owned().await;
        let (api, uri) = (self.clone(), uri.clone());
        let answer = tokio::task::spawn_blocking(move || {
            // Held until the answer stands, even if nobody waits for it any more.
            let _turn = turn;
            api.answer(&uri)
        });
        answer.await.unwrap_or_else(|_| Reply::fault(Fault::Internal))
    }

    fn answer(&self, uri: &Uri) -> Reply {
        let rest = uri.path().strip_prefix(self.about.base_path.as_str());
        let Some(path) = rest.and_then(|rest| rest.strip_prefix("/api")) else { return nothing_here() };
        let query = uri.query().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["version"] => ok(&self.version()),
            // Certificates are not told of: their list is empty, not missing.
            ["certificates"] => Listing::answer(query, &[][..]),
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
        let model = Model::new(applied);
        match parts {
            ["entrypoints"] => Listing::answer(query, &entry_points(applied)[..]),
            ["entrypoints", name] => {
                let name = decode_segment(name);
                let object = entry_points(applied).into_iter().find(|object| object["name"] == name.as_str());
                found("entry point", &name, object)
            }
            ["overview"] => ok(&self.overview(&model, applied)),
            ["rawdata"] => ok(&raw(&model, applied)),
            ["tcp", kind] => tcp::Class::of_segment(kind)
                .map_or_else(nothing_here, |class| Listing::answer(query, &tcp::list(applied, class)[..])),
            ["tcp", kind, name] => tcp::Class::of_segment(kind).map_or_else(nothing_here, |class| {
                let name = decode_segment(name);
                let objects = tcp::list(applied, class);
                let object = objects.into_iter().find(|object| object["name"] == name.as_str());
                found(kind.trim_end_matches('s'), &name, object)
            }),
            [protocol, kind] => {
                let list = Class::of_segments(protocol, kind).map(|class| model.list(class));
                list.map_or_else(nothing_here, |list| Listing::answer(query, &list))
            }
            [protocol, kind, name] => Class::of_segments(protocol, kind).map_or_else(nothing_here, |class| {
                let name = decode_segment(name);
                found(class.noun(), &name, model.object(class, &name))
            }),
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

    fn overview(&self, model: &Model<'_>, applied: &Applied) -> Value {
        json!({
            "http": {
                "routers": model.count(Class::Routers),
                "services": model.count(Class::Services),
                "middlewares": model.count(Class::Middlewares),
            },
            "tcp": {
                "routers": tcp::count(applied, tcp::Class::Routers),
                "services": tcp::count(applied, tcp::Class::Services),
                "middlewares": tcp::count(applied, tcp::Class::Middlewares),
            },
            "udp": { "routers": model.count(Class::UdpRouters), "services": model.count(Class::UdpServices) },
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
        Box::pin(self.answer_aside(&request.method, &request.uri))
    }
}

/// Entry points as Traefik's API shows them: as written.
fn entry_points(applied: &Applied) -> Vec<Value> {
    let entry_points = applied.entry_points.written.iter().map(|(name, entry_point)| {
        let mut shown = as_written(entry_point);
        shown["name"] = json!(name);
        shown
    });
    entry_points.collect()
}

fn raw(model: &Model<'_>, applied: &Applied) -> Value {
    let by_name = |class: Class| -> BTreeMap<String, Value> {
        let list = model.list(class);
        let objects = (0..list.len()).filter_map(|index| list.object(index));
        objects.map(|object| (object["name"].as_str().unwrap_or_default().to_owned(), object)).collect()
    };
    let of_tcp = |class| -> BTreeMap<String, Value> {
        let objects = tcp::list(applied, class).into_iter();
        objects.map(|object| (object["name"].as_str().unwrap_or_default().to_owned(), object)).collect()
    };
    let problems: Vec<String> = applied.outcome.problems.iter().map(ToString::to_string).collect();
    json!({
        "routers": by_name(Class::Routers),
        "services": by_name(Class::Services),
        "middlewares": by_name(Class::Middlewares),
        "tcpRouters": of_tcp(tcp::Class::Routers),
        "tcpServices": of_tcp(tcp::Class::Services),
        "tcpMiddlewares": of_tcp(tcp::Class::Middlewares),
        "udpRouters": by_name(Class::UdpRouters),
        "udpServices": by_name(Class::UdpServices),
        "problems": problems,
    })
}

fn ok(value: &Value) -> Reply {
    Reply::json(StatusCode::OK, value.to_string())
}

fn nothing_here() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn found(noun: &str, name: &str, object: Option<Value>) -> Reply {
    object.map_or_else(
        || Reply::json(StatusCode::NOT_FOUND, json!({ "message": format!("{noun} not found: {name}") }).to_string()),
        |object| ok(&object),
    )
}
