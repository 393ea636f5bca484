//! Routers, services and middlewares as Traefik's API shows them: as written, with what became of them.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::http::Router;
use crate::config::{Routing, udp};
use crate::control::status::Applied;
use crate::middleware;
use crate::problem::{Problem, Severity};
use crate::service::{self, Kind, Service};
use crate::units::Name;

use super::listing::Listed;

/// What the API has lists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Routers,
    Services,
    Middlewares,
    UdpRouters,
    UdpServices,
}

impl Class {
    const ALL: [Self; 5] = [Self::Routers, Self::Services, Self::Middlewares, Self::UdpRouters, Self::UdpServices];

    /// By the words for it in paths: `http` and `routers`.
    pub(super) fn of_segments(protocol: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.segments() == (protocol, kind))
    }

    /// The words for it in paths.
    fn segments(self) -> (&'static str, &'static str) {
        match self {
            Self::Routers => ("http", "routers"),
            Self::Services => ("http", "services"),
            Self::Middlewares => ("http", "middlewares"),
            Self::UdpRouters => ("udp", "routers"),
            Self::UdpServices => ("udp", "services"),
        }
    }

    /// One of them.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Routers | Self::UdpRouters => "router",
            Self::Services | Self::UdpServices => "service",
            Self::Middlewares => "middleware",
        }
    }
}

/// The routers that name each object.
type Users<'a> = BTreeMap<&'a Name, Vec<&'a Name>>;

/// What the API shows of one configuration. Objects are made when they are looked at: there may be a million of them.
pub(super) struct Model<'a> {
    applied: &'a Applied,
    service_users: OnceCell<Users<'a>>,
    middleware_users: OnceCell<Users<'a>>,
}

impl<'a> Model<'a> {
    pub(super) fn new(applied: &'a Applied) -> Self {
        Self { applied, service_users: OnceCell::new(), middleware_users: OnceCell::new() }
    }

    /// Everything of one class, in the order in which it is listed.
    pub(super) fn list(&self, class: Class) -> Objects<'_, 'a> {
        fn all<'a, T, B>(written: &'a BTreeMap<Name, T>, broken: &'a BTreeMap<Name, B>) -> Vec<&'a Name> {
            let unreadable = broken.keys().filter(|name| !written.contains_key(*name));
            written.keys().chain(unreadable).collect()
        }
        let Routing { http, udp, .. } = &*self.applied.routing;
        let mut names = match class {
            Class::Routers => all(&http.routers, &http.broken.routers),
            Class::Services => {
                let internal = self.applied.services.keys().filter(|name| name.is_internal());
                all(&http.services, &http.broken.services).into_iter().chain(internal).collect()
            }
            Class::Middlewares => all(&http.middlewares, &http.broken.middlewares),
            Class::UdpRouters => all(&udp.routers, &udp.broken.routers),
            Class::UdpServices => all(&udp.services, &udp.broken.services),
        };
        names.sort_unstable();
        Objects { model: self, class, names }
    }

    /// The object of a name.
    pub(super) fn object(&self, class: Class, name: &str) -> Option<Value> {
        let Routing { http, udp, .. } = &*self.applied.routing;
        match class {
            Class::Routers => match http.routers.get_key_value(name) {
                Some((name, router)) => Some(self.router(name, router)),
                None => self.unreadable(class, http.broken.routers.get_key_value(name)?.0),
            },
            Class::Services => match (http.services.get_key_value(name), self.applied.services.get_key_value(name)) {
                (Some((name, settings)), _) => Some(self.service(name, settings)),
                (None, Some((name, _))) => Some(self.internal(name)),
                (None, None) => self.unreadable(class, http.broken.services.get_key_value(name)?.0),
            },
            Class::Middlewares => match http.middlewares.get_key_value(name) {
                Some((name, settings)) => Some(self.middleware(name, settings)),
                None => self.unreadable(class, http.broken.middlewares.get_key_value(name)?.0),
            },
            Class::UdpRouters => match udp.routers.get_key_value(name) {
                Some((name, router)) => Some(self.udp_router(name, router)),
                None => self.unreadable(class, udp.broken.routers.get_key_value(name)?.0),
            },
            Class::UdpServices => match udp.services.get_key_value(name) {
                Some((name, settings)) => Some(self.udp_service(name, settings)),
                None => self.unreadable(class, udp.broken.services.get_key_value(name)?.0),
            },
        }
    }

    /// How many objects of a class there are, and how many of them have warnings or are disabled.
    pub(super) fn count(&self, class: Class) -> Value {
        let list = self.list(class);
        let statuses: Vec<&str> = list.names.iter().map(|name| status(&self.problems(class, name))).collect();
        let with = |wanted: &str| statuses.iter().filter(|status| **status == wanted).count();
        json!({ "total": list.names.len(), "warnings": with("warning"), "errors": with("disabled") })
    }

    fn users_of_service(&self, name: &Name) -> Vec<&'a Name> {
        let routers = &self.applied.routing.http.routers;
        let users = self.service_users.get_or_init(|| {
            users(routers.iter().flat_map(|(name, router)| router.service.iter().map(move |service| (service, name))))
        });
        users.get(name).cloned().unwrap_or_default()
    }

    fn users_of_middleware(&self, name: &Name) -> Vec<&'a Name> {
        let routers = &self.applied.routing.http.routers;
        let users = self.middleware_users.get_or_init(|| {
            users(
                routers
                    .iter()
                    .flat_map(|(name, router)| router.common.middlewares.iter().map(move |used| (used, name))),
            )
        });
        users.get(name).cloned().unwrap_or_default()
    }

    fn router(&self, name: &Name, router: &Router) -> Value {
        let mut object = as_written(router);
        let known = &self.applied.entry_points;
        let entry_points = match &router.common.entry_points[..] {
            [] => known.defaults(),
            named => named.iter().map(Name::as_str).collect(),
        };
        let using: Vec<_> = entry_points.iter().filter(|name| known.written.contains_key(**name)).collect();
        let priority = match router.common.priority {
            None | Some(0) => router.rule.len() as i64,
            Some(priority) => priority,
        };
        object["entryPoints"] = json!(entry_points);
        object["using"] = json!(using);
        object["priority"] = json!(priority);
        object["priorityStr"] = json!(priority.to_string());
        self.finish(object, Class::Routers, name)
    }

    fn service(&self, name: &Name, settings: &service::Settings) -> Value {
        let mut object = as_written(settings);
        object["type"] = json!(match settings.kind() {
            Ok(Kind::Weighted(_)) => "weighted",
            _ => "loadbalancer",
        });
        object["usedBy"] = json!(self.users_of_service(name));
        if let Some(Service::Servers(pool)) = self.applied.services.get(name).map(|service| &**service) {
            let now = std::time::Instant::now();
            let state = |up: bool| if up { "UP" } else { "DOWN" };
            let states: BTreeMap<&str, &str> =
                pool.members().iter().map(|member| (member.server.url(), state(member.server.is_up(now)))).collect();
            object["serverStatus"] = json!(states);
        }
        self.finish(object, Class::Services, name)
    }

    fn internal(&self, name: &Name) -> Value {
        let users = self.users_of_service(name);
        json!({ "status": "enabled", "usedBy": users, "name": name, "provider": "internal", "type": "internal" })
    }

    fn middleware(&self, name: &Name, settings: &middleware::Settings) -> Value {
        let mut object = as_written(settings);
        object["type"] = json!(settings.kind().to_lowercase());
        object["usedBy"] = json!(self.users_of_middleware(name));
        self.finish(object, Class::Middlewares, name)
    }

    fn udp_router(&self, name: &Name, router: &udp::Router) -> Value {
        let mut object = as_written(router);
        let known = &self.applied.entry_points.udp;
        let entry_points: Vec<&str> = match router.entry_points.is_empty() {
            true => known.iter().filter(|known| known.is_open()).map(|known| &*known.name).collect(),
            false => router.entry_points.iter().map(Name::as_str).collect(),
        };
        // Each entry point has one router; it is in use where it is the one.
        let routes = known.iter().zip(&self.applied.snapshot.udp).filter(|(known, _)| known.is_open());
        let using = routes.filter(|(_, route)| route.as_ref().is_some_and(|route| route.name == *name));
        object["using"] = json!(using.map(|(known, _)| &*known.name).collect::<Vec<_>>());
        object["entryPoints"] = json!(entry_points);
        self.finish(object, Class::UdpRouters, name)
    }

    fn udp_service(&self, name: &Name, settings: &service::udp::Settings) -> Value {
        let mut object = as_written(settings);
        object["type"] = json!(match settings.kind() {
            Ok(service::udp::Kind::Weighted(_)) => "weighted",
            _ => "loadbalancer",
        });
        let routers = self.applied.routing.udp.routers.iter();
        let users = routers.filter(|(_, router)| router.service.as_ref() == Some(name)).map(|(user, _)| user);
        object["usedBy"] = json!(users.collect::<Vec<_>>());
        if let Some(service::udp::Service::Servers(pool)) =
            self.applied.udp_services.get(name).map(|service| &**service)
        {
            let now = std::time::Instant::now();
            let state = |up: bool| if up { "UP" } else { "DOWN" };
            let states: BTreeMap<&str, &str> =
                pool.servers().iter().map(|server| (server.text(), state(server.is_free(now)))).collect();
            object["serverStatus"] = json!(states);
        }
        self.finish(object, Class::UdpServices, name)
    }

    /// An object that is written but cannot be read.
    fn unreadable(&self, class: Class, name: &Name) -> Option<Value> {
        Some(self.finish(json!({}), class, name))
    }

    /// Adds what became of it.
    fn finish(&self, object: Value, class: Class, name: &Name) -> Value {
        let (protocol, kind) = class.segments();
        finish(self.applied, object, &format!("{protocol}.{kind}"), name)
    }

    fn problems(&self, class: Class, name: &Name) -> Vec<&'a Problem> {
        let (protocol, kind) = class.segments();
        problems_of(self.applied, &format!("{protocol}.{kind}"), name)
    }
}

/// Adds to an object of `kind` what became of it.
pub(super) fn finish(applied: &Applied, mut object: Value, kind: &str, name: &Name) -> Value {
    let problems = problems_of(applied, kind, name);
    object["status"] = json!(status(&problems));
    if !problems.is_empty() {
        object["error"] = json!(problems.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    object["name"] = json!(name);
    object["provider"] = json!(name.provider().unwrap_or_default());
    object
}

/// What is wrong with an object of `kind`.
pub(super) fn problems_of<'a>(applied: &'a Applied, kind: &str, name: &Name) -> Vec<&'a Problem> {
    if applied.outcome.problems.is_empty() {
        return Vec::new();
    }
    // Compiling speaks of qualified names, reading of the names as they stand in the file.
    let mut problems = applied.problems_of(&format!("{kind}.{name}"));
    problems.extend(applied.problems_of(&format!("{kind}.{}", name.local())));
    problems
}

/// The objects of one class.
pub(super) struct Objects<'m, 'a> {
    model: &'m Model<'a>,
    class: Class,
    names: Vec<&'a Name>,
}

impl Listed for Objects<'_, '_> {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn object(&self, index: usize) -> Option<Value> {
        self.model.object(self.class, self.names.get(index)?.as_str())
    }

    fn are_routers(&self) -> bool {
        matches!(self.class, Class::Routers | Class::UdpRouters)
    }
}

/// An error disables, anything else is a warning.
pub(super) fn status(problems: &[&Problem]) -> &'static str {
    match problems.iter().map(|problem| problem.severity).max() {
        Some(Severity::Error) => "disabled",
        Some(Severity::Warning) => "warning",
        None => "enabled",
    }
}

fn users<'a>(pairs: impl Iterator<Item = (&'a Name, &'a Name)>) -> Users<'a> {
    let mut users = Users::new();
    for (used, user) in pairs {
        users.entry(used).or_default().push(user);
    }
    users
}

pub(super) fn as_written(settings: &impl Serialize) -> Value {
    match serde_json::to_value(settings) {
        Ok(value @ Value::Object(_)) => value,
        _ => json!({}),
    }
}
