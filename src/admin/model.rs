//! Routers, services and middlewares as Traefik's API shows them: as written, with what became of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::http::Router;
use crate::control::status::Applied;
use crate::middleware;
use crate::problem::Severity;
use crate::service::{self, Kind, Service};
use crate::units::Name;

/// Everything that the API shows of one configuration.
pub(super) struct Model<'a> {
    applied: &'a Applied,
    default_entry_points: &'a [Name],
    service_users: BTreeMap<&'a Name, Vec<&'a Name>>,
    middleware_users: BTreeMap<&'a Name, Vec<&'a Name>>,
}

impl<'a> Model<'a> {
    pub(super) fn new(applied: &'a Applied, default_entry_points: &'a [Name]) -> Self {
        let mut service_users: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        let mut middleware_users: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (name, router) in &applied.routing.http.routers {
            if let Some(service) = &router.service {
                service_users.entry(service).or_default().push(name);
            }
            for middleware in router.middlewares.iter() {
                middleware_users.entry(middleware).or_default().push(name);
            }
        }
        Self { applied, default_entry_points, service_users, middleware_users }
    }

    pub(super) fn routers(&self) -> Vec<Value> {
        let http = &self.applied.routing.http;
        let readable = http.routers.iter().map(|(name, router)| self.router(name, router));
        let broken = http.broken.routers.keys().filter(|name| !http.routers.contains_key(*name));
        readable.chain(broken.map(|name| self.unreadable("routers", name))).collect()
    }

    pub(super) fn services(&self) -> Vec<Value> {
        let http = &self.applied.routing.http;
        let internal = self.applied.services.keys().filter(|name| name.is_internal()).map(|name| self.internal(name));
        let readable = http.services.iter().map(|(name, settings)| self.service(name, settings));
        let broken = http.broken.services.keys().filter(|name| !http.services.contains_key(*name));
        readable.chain(internal).chain(broken.map(|name| self.unreadable("services", name))).collect()
    }

    pub(super) fn middlewares(&self) -> Vec<Value> {
        let http = &self.applied.routing.http;
        let readable = http.middlewares.iter().map(|(name, settings)| self.middleware(name, settings));
        let broken = http.broken.middlewares.keys().filter(|name| !http.middlewares.contains_key(*name));
        readable.chain(broken.map(|name| self.unreadable("middlewares", name))).collect()
    }

    fn router(&self, name: &Name, router: &Router) -> Value {
        let mut object = as_written(router);
        let entry_points =
            if router.entry_points.is_empty() { self.default_entry_points } else { &router.entry_points };
        let priority = match router.priority {
            None | Some(0) => router.rule.len() as i64,
            Some(priority) => priority,
        };
        object["entryPoints"] = json!(entry_points);
        object["using"] = json!(entry_points);
        object["priority"] = json!(priority);
        object["priorityStr"] = json!(priority.to_string());
        self.finish(object, "routers", name)
    }

    fn service(&self, name: &Name, settings: &service::Settings) -> Value {
        let mut object = as_written(settings);
        object["type"] = json!(match settings.kind() {
            Ok(Kind::Weighted(_)) => "weighted",
            _ => "loadbalancer",
        });
        object["usedBy"] = json!(self.service_users.get(name).cloned().unwrap_or_default());
        if let Some(Service::Servers(pool)) = self.applied.services.get(name).map(|service| &**service) {
            let now = std::time::Instant::now();
            let state = |up: bool| if up { "UP" } else { "DOWN" };
            let states: BTreeMap<&str, &str> =
                pool.members().iter().map(|member| (member.server.url(), state(member.server.is_up(now)))).collect();
            object["serverStatus"] = json!(states);
        }
        self.finish(object, "services", name)
    }

    fn internal(&self, name: &Name) -> Value {
        let users = self.service_users.get(name).cloned().unwrap_or_default();
        json!({ "status": "enabled", "usedBy": users, "name": name, "provider": "internal", "type": "internal" })
    }

    fn middleware(&self, name: &Name, settings: &middleware::Settings) -> Value {
        let mut object = as_written(settings);
        object["type"] = json!(settings.kind().to_lowercase());
        object["usedBy"] = json!(self.middleware_users.get(name).cloned().unwrap_or_default());
        self.finish(object, "middlewares", name)
    }

    /// An object that is written but cannot be read.
    fn unreadable(&self, kind: &str, name: &Name) -> Value {
        self.finish(json!({}), kind, name)
    }

    /// Adds what became of it: an error disables, anything else is a warning.
    fn finish(&self, mut object: Value, kind: &str, name: &Name) -> Value {
        // Compiling speaks of qualified names, reading of the names as they stand in the file.
        let qualified = format!("http.{kind}.{name}");
        let written = format!("http.{kind}.{}", name.local());
        let problems: Vec<_> =
            [&qualified, &written].into_iter().flat_map(|path| self.applied.problems_of(path)).collect();
        let status = match problems.iter().map(|problem| problem.severity).max() {
            Some(Severity::Error) => "disabled",
            Some(Severity::Warning) => "warning",
            None => "enabled",
        };
        object["status"] = json!(status);
        if !problems.is_empty() {
            object["error"] = json!(problems.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
        object["name"] = json!(name);
        object["provider"] = json!(name.provider().unwrap_or_default());
        object
    }
}

fn as_written(settings: &impl Serialize) -> Value {
    match serde_json::to_value(settings) {
        Ok(value @ Value::Object(_)) => value,
        _ => json!({}),
    }
}
