//! Certificates that routers want somebody to get: their `tls.domains`, or else the hosts of their rules. What an entry point asks
//! for holds for HTTP routers only, as in Traefik.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::router_tls::Domain;
use crate::config::tls::DEFAULT;
use crate::config::{RouterTls, Routing};
use crate::problem::{Problem, Problems};
use crate::snapshot::door::Door;
use crate::snapshot::route_table::Routed;
use crate::snapshot::{Route, TcpRoute};
use crate::units::Name;

use super::Kit;

/// A certificate that somebody shall get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Who shall get it.
    pub resolver: Box<str>,
    /// Its names.
    pub domain: Domain,
}

/// The hosts of a rule, and the route that it was read for.
type Hosts = BTreeMap<Name, (Arc<Route>, Box<[Box<str>]>)>;

/// Everything that is wanted.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) wanted: Arc<[Wanted]>,
    /// Rules are read again only if they change: there may be a million.
    hosts: Hosts,
}

impl Wishes {
    pub(super) fn build(
        routing: &Routing,
        (routes, doors): (&[Arc<Route>], &[Arc<Door>]),
        previous: Option<&Self>,
        kit: &Kit,
        problems: &mut Problems,
    ) -> Self {
        let mut work = Work { kit, problems, wanted: BTreeSet::new(), hosts: Hosts::new(), previous };
        let mut rest = routes;
        for (name, router) in &routing.http.routers {
            // Both go by name.
            let skipped = rest.iter().take_while(|route| route.name < *name).count();
            rest = rest.get(skipped..).unwrap_or_default();
            let Some(route) = rest.first().filter(|route| route.name == *name) else { continue };
            if let Some(own) = &router.common.tls {
                work.router(name, route, own);
                continue;
            }
            let serves = |entry_point: &&super::EntryPointModel| match &router.common.entry_points[..] {
                _ if !entry_point.is_open() => false,
                [] => entry_point.is_default,
                named => named.iter().any(|named| named.as_str() == &*entry_point.name),
            };
            for entry_point in kit.entry_points.tcp.iter().filter(serves) {
                if let Some(tls) = &entry_point.tls {
                    work.router(name, route, tls);
                }
            }
        }
        // One that is served at several entry points has one certificate.
        let open = doors.iter().zip(&kit.entry_points.tcp).filter(|(_, entry_point)| entry_point.is_open());
        let tcp: BTreeMap<_, _> =
            open.flat_map(|(door, _)| door.tcp().routes()).map(|route| (&route.name, &**route)).collect();
        for route in tcp.into_values() {
            work.tcp_router(routing, route);
        }
        work.store(routing);
        let Work { wanted, hosts, .. } = work;
        Self { wanted: wanted.into_iter().collect(), hosts }
    }
}

struct Work<'a> {
    kit: &'a Kit,
    problems: &'a mut Problems,
    wanted: BTreeSet<Wanted>,
    hosts: Hosts,
    previous: Option<&'a Wishes>,
}

impl Work<'_> {
    fn router(&mut self, name: &Name, route: &Arc<Route>, tls: &RouterTls) {
        let Some(resolver) = tls.cert_resolver.as_ref().filter(|_| !name.is_internal()) else { return };
        let path = format!("http.routers.{name}.tls.certResolver");
        if !self.knows(resolver, &path) {
            return;
        }
        if !tls.domains.is_empty() {
            return self.add_all(resolver, &tls.domains);
        }
        let before = self.previous.and_then(|previous| previous.hosts.get(name));
        let (_, hosts) = match before.filter(|(known, _)| Arc::ptr_eq(known, route)) {
            Some(known) => known.clone(),
            None => {
                let rule = route.rule();
                let hosts = rule.hosts().into_iter().filter(|host| *host != "*").map(Into::into).collect();
                (route.clone(), hosts)
            }
        };
        self.add_hosts(resolver, &hosts, path);
        self.hosts.insert(name.clone(), (route.clone(), hosts));
    }

    fn tcp_router(&mut self, routing: &Routing, route: &TcpRoute) {
        let tls = routing.tcp.routers.get(&route.name).and_then(|router| router.tls.as_ref());
        let Some((tls, resolver)) = tls.and_then(|tls| Some((tls, tls.cert_resolver.as_deref()?))) else { return };
        let path = format!("tcp.routers.{}.tls.certResolver", route.name);
        if resolver.is_empty() || !self.knows(resolver, &path) {
            return;
        }
        if tls.passthrough {
            let message = "is got, but this router shows no certificate: TLS is passed through";
            self.problems.push(Problem::warning(&*path, message));
        }
        if !tls.domains.is_empty() {
            return self.add_all(resolver, &tls.domains);
        }
        let names: Vec<_> = route.rule.names().into_iter().map(Into::into).collect();
        self.add_hosts(resolver, &names, path);
    }

    /// Whether there is such a resolver; otherwise it is told.
    fn knows(&mut self, resolver: &str, path: &str) -> bool {
        let is_known = self.kit.resolvers.contains(resolver);
        if !is_known {
            let message = format!("Router uses a nonexistent certificate resolver: {resolver}");
            self.problems.push(Problem::warning(path, message));
        }
        is_known
    }

    fn add_all(&mut self, resolver: &str, domains: &[Domain]) {
        for domain in domains {
            self.add(resolver, domain.clone());
        }
    }

    /// One certificate for all hosts of a rule.
    fn add_hosts(&mut self, resolver: &str, hosts: &[Box<str>], path: String) {
        match hosts.split_first() {
            Some((main, sans)) => self.add(resolver, Domain { main: main.clone(), sans: sans.into() }),
            None => {
                let message = "the rule names no host, and there are no `tls.domains`: no certificate is got";
                self.problems.push(Problem::warning(path, message));
            }
        }
    }

    /// The default store's own wish.
    fn store(&mut self, routing: &Routing) {
        let store = routing.tls.stores.get(DEFAULT);
        let Some(generated) = store.and_then(|store| store.default_generated_cert.as_ref()) else { return };
        let path = format!("tls.stores.{DEFAULT}.defaultGeneratedCert");
        if !self.kit.resolvers.contains(&generated.resolver) {
            let message = format!("there is no certificate resolver `{}`", generated.resolver);
            self.problems.push(Problem::at(format!("{path}.resolver"), message));
            return;
        }
        match &generated.domain {
            Some(domain) if !domain.main.is_empty() => self.add(&generated.resolver, domain.clone()),
            _ => self.problems.push(Problem::at(format!("{path}.domain.main"), "must be set")),
        }
    }

    fn add(&mut self, resolver: &str, domain: Domain) {
        self.wanted.insert(Wanted { resolver: resolver.into(), domain });
    }
}
