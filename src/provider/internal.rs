//! The gateway's own routers: redirections of entry points, API, ping and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Routing;
use crate::config::entry_points::{EntryPoint, Redirection};
use crate::config::http::{Common, Http, Observability, Router};
use crate::config::install::{INTERNAL_ENTRY_POINT, Install, RuleSyntax};
use crate::middleware;
use crate::problem::{Problem, Problems};
use crate::units::Name;

/// Name of this provider.
pub const NAME: &str = "internal";

/// Service of the API.
pub const API: &str = "api@internal";
/// Service of the dashboard.
pub const DASHBOARD: &str = "dashboard@internal";
/// Service that says whether the gateway is well.
pub const PING: &str = "ping@internal";
/// Service that shows the metrics.
pub const PROMETHEUS: &str = "prometheus@internal";
/// Service that answers ACME servers.
pub const ACME_HTTP: &str = "acme-http@internal";
/// Service that answers 418: the target of routers whose middlewares answer.
pub const NOOP: &str = "noop@internal";

/// The routers that the static configuration asks for.
pub fn routing(install: &Install) -> (Routing, Problems) {
    let mut own = Own { http: Http::default(), problems: Problems::new() };
    for (name, entry_point) in &install.entry_points {
        if let Some(redirection) = &entry_point.http.redirections.entry_point {
            own.redirect(install, name, redirection);
        }
    }
    own.acme(install);
    if let Some(api) = install.api.as_ref().filter(|api| api.insecure) {
        let base = api.base_path.trim_end_matches('/');
        own.route("api", INTERNAL_ENTRY_POINT, format!("PathPrefix(`{base}/api`)"), i64::MAX - 1, API);
        if api.dashboard {
            own.route("dashboard", INTERNAL_ENTRY_POINT, format!("PathPrefix(`{base}/`)"), i64::MAX - 2, DASHBOARD);
        }
    }
    if let Some(ping) = install.ping.as_ref().filter(|ping| !ping.manual_routing) {
        own.route("ping", &ping.entry_point, "PathPrefix(`/ping`)".to_owned(), i64::MAX, PING);
    }
    let prometheus = install.metrics.as_ref().and_then(|metrics| metrics.prometheus.as_ref());
    if let Some(prometheus) = prometheus.filter(|prometheus| !prometheus.manual_routing) {
        own.route("prometheus", &prometheus.entry_point, "PathPrefix(`/metrics`)".to_owned(), i64::MAX, PROMETHEUS);
    }
    (Routing { http: own.http, ..Routing::default() }, own.problems)
}

/// Where ACME servers look for proofs (RFC 8555 §8.3).
const ACME_PATH: &str = "/.well-known/acme-challenge/";

struct Own {
    http: Http,
    problems: Problems,
}

impl Own {
    fn route(&mut self, name: &str, entry_point: &str, rule: String, priority: i64, service: &str) {
        self.add(name, entry_point, rule, priority, service, Vec::new());
    }

    fn add(
        &mut self,
        name: &str,
        entry_point: &str,
        rule: String,
        priority: i64,
        service: &str,
        middlewares: Vec<Name>,
    ) {
        let router = Router {
            common: Arc::new(Common {
                entry_points: vec![Name::from(entry_point)].into(),
                middlewares: middlewares.into(),
                rule_syntax: Some(RuleSyntax::V3),
                priority: Some(priority),
                tls: None,
                observability: Observability::default(),
            }),
            service: Some(Name::from(service)),
            rule: rule.into(),
        };
        self.http.routers.insert(Name::qualified(name, NAME), Arc::new(router));
    }

    /// One router for the entry points where ACME servers look for proofs. Where `allowACMEByPass` holds, it is one among others.
    fn acme(&mut self, install: &Install) {
        for name in install.proved_at() {
            let Some(entry_point) = install.entry_points.get(name) else { continue };
            let rule = format!("PathPrefix(`{ACME_PATH}`)");
            let priority = if entry_point.allow_acme_by_pass { 0 } else { i64::MAX };
            self.route(&format!("acme-http-{name}"), name, rule, priority, ACME_HTTP);
        }
    }

    /// Traefik's `entryPoints.x.http.redirections`: one router for everything, with a `redirectScheme`.
    fn redirect(&mut self, install: &Install, from: &Name, redirection: &Redirection) {
        let Some((port, label)) = target(&install.entry_points, &redirection.to) else {
            self.problems.push(Problem::at(
                format!("entryPoints.{from}.http.redirections.entryPoint.to"),
                format!("entry point \"{}\" does not exist", redirection.to),
            ));
            return;
        };
        let middleware = Name::qualified(&format!("redirect-{from}-to-{label}"), NAME);
        let settings = serde_json::json!({ "redirectScheme": {
            "scheme": redirection.scheme, "port": port, "permanent": redirection.permanent,
        }});
        match serde_json::from_value::<middleware::Settings>(settings) {
            Ok(settings) => {
                self.http.middlewares.insert(middleware.clone(), Arc::new(settings));
            }
            Err(error) => {
                let path = format!("entryPoints.{from}.http.redirections.entryPoint");
                self.problems.push(Problem::at(path, error.to_string()));
                return;
            }
        }
        let name = format!("{from}-to-{label}");
        let by_pass = install.entry_points.get(from).is_some_and(|entry_point| entry_point.allow_acme_by_pass);
        let rule = if by_pass {
            format!("HostRegexp(`^.+$`) && !PathPrefix(`{ACME_PATH}`)")
        } else {
            "HostRegexp(`^.+$`)".to_owned()
        };
        self.add(&name, from.as_str(), rule, redirection.priority, NOOP, vec![middleware]);
    }
}

/// Port and name of a redirection's target: an entry point, or a port like `:8443`.
fn target(entry_points: &BTreeMap<Name, EntryPoint>, to: &str) -> Option<(String, String)> {
    if let Some(port) = to.strip_prefix(':') {
        return port.parse::<u16>().ok().map(|port| (port.to_string(), port.to_string()));
    }
    entry_points.get(to).map(|entry_point| (entry_point.address.port.to_string(), to.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::Address;

    #[test]
    fn redirections_become_routers_with_a_middleware() {
        let mut install = Install::default();
        let mut web = EntryPoint::listening(Address::any(80));
        web.http.redirections.entry_point = Some(Redirection {
            to: "websecure".into(),
            scheme: "https".into(),
            permanent: true,
            priority: i64::MAX - 1,
            port: None,
        });
        install.entry_points.insert("web".into(), web);
        assert_eq!(routing(&install).1.len(), 1, "the target is missing");
        install.entry_points.insert("websecure".into(), EntryPoint::listening(Address::any(8443)));
        let (routing, problems) = routing(&install);
        assert!(problems.is_empty());
        let router = &routing.http.routers["web-to-websecure@internal"];
        assert_eq!(router.common.middlewares[0].as_str(), "redirect-web-to-websecure@internal");
        assert!(routing.http.middlewares.contains_key("redirect-web-to-websecure@internal"));
    }
}
