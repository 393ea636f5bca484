//! TCP routers, services and middlewares as Traefik's API shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::control::compile::tcp_priority;
use crate::control::status::Applied;
use crate::service::tcp::Service;
use crate::units::Name;

use super::model::{as_written, finish, problems_of, status};

/// What there is of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Routers,
    Services,
    Middlewares,
}

impl Class {
    /// By the word for it in paths.
    pub(super) fn of_segment(segment: &str) -> Option<Self> {
        match segment {
            "routers" => Some(Self::Routers),
            "services" => Some(Self::Services),
            "middlewares" => Some(Self::Middlewares),
            _ => None,
        }
    }

    fn segment(self) -> &'static str {
        match self {
            Self::Routers => "routers",
            Self::Services => "services",
            Self::Middlewares => "middlewares",
        }
    }
}

/// Everything of one class, by name.
pub(super) fn list(applied: &Applied, class: Class) -> Vec<Value> {
    let tcp = &applied.routing.tcp;
    let show = |name: &Name, object: Value| finish(applied, object, &format!("tcp.{}", class.segment()), name);
    let users = |used: &dyn Fn(&Name) -> bool| -> Vec<&Name> { tcp.routers.keys().filter(|name| used(name)).collect() };
    match class {
        Class::Routers => with_broken(&tcp.routers, &tcp.broken.routers, show, |_, router| {
            let mut object = as_written(router);
            let entry_points: Vec<&str> = match router.entry_points.is_empty() {
                true => applied.entry_points.defaults(),
                false => router.entry_points.iter().map(Name::as_str).collect(),
            };
            object["entryPoints"] = json!(entry_points);
            object["using"] = json!(entry_points);
            object["priority"] = json!(tcp_priority(router));
            object
        }),
        Class::Services => with_broken(&tcp.services, &tcp.broken.services, show, |name, settings| {
            let mut object = as_written(settings);
            object["type"] = json!(if settings.weighted.is_some() { "weighted" } else { "loadbalancer" });
            object["usedBy"] = json!(users(&|user| tcp.routers[user].service.as_ref() == Some(name)));
            if let Some(Service::Servers(pool)) = applied.tcp_services.get(name).map(|service| &**service) {
                let state = |up: bool| if up { "UP" } else { "DOWN" };
                let states: BTreeMap<&str, &str> =
                    pool.servers().iter().map(|server| (server.address(), state(server.is_up()))).collect();
                object["serverStatus"] = json!(states);
            }
            object
        }),
        Class::Middlewares => with_broken(&tcp.middlewares, &tcp.broken.middlewares, show, |name, settings| {
            let mut object = as_written(settings);
            let kind = object.as_object().and_then(|keys| keys.keys().next()).map(|key| key.to_lowercase());
            object["type"] = json!(kind);
            object["usedBy"] = json!(users(&|user| tcp.routers[user].middlewares.contains(name)));
            object
        }),
    }
}

/// How many objects of a class there are, and how many of them have warnings or are disabled.
pub(super) fn count(applied: &Applied, class: Class) -> Value {
    let tcp = &applied.routing.tcp;
    let mut names: Vec<&Name> = match class {
        Class::Routers => tcp.routers.keys().chain(tcp.broken.routers.keys()).collect(),
        Class::Services => tcp.services.keys().chain(tcp.broken.services.keys()).collect(),
        Class::Middlewares => tcp.middlewares.keys().chain(tcp.broken.middlewares.keys()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let kind = format!("tcp.{}", class.segment());
    let statuses: Vec<_> = names.iter().map(|name| status(&problems_of(applied, &kind, name))).collect();
    let with = |wanted: &str| statuses.iter().filter(|status| **status == wanted).count();
    json!({ "total": names.len(), "warnings": with("warning"), "errors": with("disabled") })
}

fn with_broken<T: Serialize, B>(
    written: &BTreeMap<Name, std::sync::Arc<T>>,
    broken: &BTreeMap<Name, B>,
    show: impl Fn(&Name, Value) -> Value,
    object: impl Fn(&Name, &T) -> Value,
) -> Vec<Value> {
    let mut all: BTreeMap<&Name, Value> =
        written.iter().map(|(name, settings)| (name, show(name, object(name, settings)))).collect();
    for name in broken.keys() {
        all.entry(name).or_insert_with(|| show(name, json!({})));
    }
    all.into_values().collect()
}
