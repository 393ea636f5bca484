//! Routers: rules, chains and services joined to routes, and the routes of each entry point indexed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Routing;
use crate::config::http::Router;
use crate::config::install::RuleSyntax;
use crate::problem::Problem;
use crate::rule::{Rule, Syntax};
use crate::service::Service;
use crate::snapshot::route_table::RouteTable;
use crate::snapshot::{Route, Switches, Target};
use crate::units::Name;

use super::middlewares::Bench;
use super::{Built, Kit};

/// The largest priority that users may set: those above belong to the gateway's own routers (Traefik: `MaxInt - 1000`).
const MAX_USER_PRIORITY: i64 = i64::MAX - 1000;

/// Routes by router and by the entry points that treat it alike: 0 where no entry point adds anything, else its index + 1.
type Routes = BTreeMap<(Name, u32), Arc<Route>>;
type Tables = Box<[Arc<RouteTable<Route>>]>;

/// Builds all routers and the table of each entry point.
pub(super) fn build(
    routing: &Routing,
    services: &BTreeMap<Name, Arc<Service>>,
    bench: &mut Bench<'_>,
    previous: Option<&Built>,
    kit: &Kit,
) -> (Routes, Tables) {
    let mut work = Work { routing, services, bench, previous, kit, routes: Routes::new() };
    let mut members: Vec<Vec<Arc<Route>>> = vec![Vec::new(); kit.entry_points.len()];
    for (name, router) in &routing.http.routers {
        work.add(name, router, &mut members);
    }
    let routes = work.routes;
    let rank = |route: &Arc<Route>| precedence(&route.name, kit);
    let tables = members
        .into_iter()
        .enumerate()
        .map(|(index, mut members)| {
            members.sort_by(|a, b| {
                b.priority.cmp(&a.priority).then_with(|| rank(a).cmp(&rank(b))).then_with(|| a.name.cmp(&b.name))
            });
            previous
                .and_then(|built| built.snapshot.http.get(index))
                .filter(|table| {
                    table.routes().len() == members.len()
                        && table.routes().iter().zip(&members).all(|(a, b)| Arc::ptr_eq(a, b))
                })
                .cloned()
                .unwrap_or_else(|| Arc::new(RouteTable::build(members)))
        })
        .collect();
    (routes, tables)
}

fn precedence(name: &Name, kit: &Kit) -> usize {
    if kit.precedence.is_empty() {
        return 0;
    }
    let provider = name.provider().unwrap_or_default();
    kit.precedence.iter().position(|known| known.eq_ignore_ascii_case(provider)).unwrap_or(kit.precedence.len())
}

struct Work<'a, 'b> {
    routing: &'a Routing,
    services: &'a BTreeMap<Name, Arc<Service>>,
    bench: &'a mut Bench<'b>,
    previous: Option<&'a Built>,
    kit: &'a Kit,
    routes: Routes,
}

impl Work<'_, '_> {
    fn add(&mut self, name: &Name, router: &Arc<Router>, members: &mut [Vec<Arc<Route>>]) {
        let entry_points = self.entry_points(name, router);
        if entry_points.is_empty() {
            return;
        }
        for index in entry_points {
            let adds = !self.kit.entry_points[index].middlewares.is_empty() && !name.is_internal();
            let key = (name.clone(), if adds { index as u32 + 1 } else { 0 });
            let route = match self.routes.get(&key) {
                Some(route) => Some(route.clone()),
                None => self.route(name, router, adds.then_some(index), &key),
            };
            if let Some(route) = route {
                self.routes.insert(key, route.clone());
                members[index].push(route);
            }
        }
    }

    /// Indices of the entry points that serve the router.
    fn entry_points(&mut self, name: &Name, router: &Router) -> Vec<usize> {
        let known = &self.kit.entry_points;
        if router.entry_points.is_empty() {
            return (0..known.len()).filter(|index| known[*index].is_default).collect();
        }
        let mut found = Vec::with_capacity(router.entry_points.len());
        for (position, wanted) in router.entry_points.iter().enumerate() {
            match known.iter().position(|entry_point| *entry_point.name == *wanted.as_str()) {
                Some(index) => found.push(index),
                None => self.problem(
                    name,
                    Problem::at(format!("entryPoints[{position}]"), format!("entryPoint \"{wanted}\" doesn't exist"))
                        .with_help(format!(
                            "there are: {}",
                            self.kit.entry_points.iter().map(|e| &*e.name).collect::<Vec<_>>().join(", ")
                        )),
                ),
            }
        }
        if found.is_empty() {
            self.problem(name, Problem::at("entryPoints", "no valid entryPoint for this router"));
        }
        found
    }

    fn route(
        &mut self,
        name: &Name,
        router: &Arc<Router>,
        model: Option<usize>,
        key: &(Name, u32),
    ) -> Option<Arc<Route>> {
        let target = self.target(name, router, model);
        if let Some(kept) = self.kept(name, router, key, &target) {
            return Some(kept);
        }
        let syntax = match router.rule_syntax.unwrap_or(self.kit.default_syntax) {
            RuleSyntax::V2 => Syntax::V2,
            RuleSyntax::V3 => Syntax::V3,
        };
        let rule = match Rule::parse(&router.rule, syntax) {
            Ok(rule) => rule,
            Err(error) => {
                let mut problem = Problem::at("rule", format!("column {}: {}", error.column, error.message));
                problem.help = error.help;
                self.problem(name, problem);
                return None;
            }
        };
        let priority = match router.priority {
            None | Some(0) => router.rule.len() as i64,
            Some(above) if above > MAX_USER_PRIORITY && !name.is_internal() => {
                let message =
                    format!("the router priority {above} exceeds the max user-defined priority {MAX_USER_PRIORITY}");
                self.problem(name, Problem::at("priority", message));
                return None;
            }
            Some(written) => written,
        };
        let meters = match &target {
            Target::Service { name: service, .. } => self.kit.metrics.router(name.as_str(), service.as_str()),
            Target::Disabled => None,
        };
        let switches = Switches { access_log: router.observability.access_logs, metrics: router.observability.metrics };
        Some(Arc::new(Route { name: name.clone(), rule, priority, target, meters, switches }))
    }

    /// The route of the last build, if nothing that it stands on has changed.
    fn kept(&self, name: &Name, router: &Arc<Router>, key: &(Name, u32), target: &Target) -> Option<Arc<Route>> {
        let previous = self.previous?;
        let before = previous.routing.http.routers.get(name)?;
        if !Arc::ptr_eq(before, router) && before != router {
            return None;
        }
        let route = previous.routes.get(key)?;
        let same = match (&route.target, target) {
            (
                Target::Service { chain: old_chain, service: old_service, .. },
                Target::Service { chain, service, .. },
            ) => Arc::ptr_eq(old_chain, chain) && Arc::ptr_eq(old_service, service),
            (Target::Disabled, Target::Disabled) => true,
            _ => false,
        };
        same.then(|| route.clone())
    }

    fn target(&mut self, name: &Name, router: &Router, model: Option<usize>) -> Target {
        let provider = name.provider().unwrap_or_default();
        let broken = self.routing.http.broken.routers.contains_key(name);
        let service = router.service.as_ref().and_then(|service| self.services.get(service)).cloned();
        if service.is_none() && !broken {
            self.missing_service(name, router);
        }
        let mut names: Vec<Name> = Vec::new();
        if let Some(index) = model {
            names.extend(self.kit.entry_points[index].middlewares.iter().map(|name| name.within(provider)));
        }
        names.extend(router.middlewares.iter().cloned());
        if let Some(settings) = router.service.as_ref().and_then(|service| self.routing.http.services.get(service)) {
            names.extend(settings.middlewares.iter().cloned());
        }
        let chain = self.bench.chain(&names, name, &format!("http.routers.{name}.middlewares"));
        match (chain, service) {
            (Some(chain), Some(service)) if !broken => {
                Target::Service { chain, name: router.service.clone().unwrap_or_else(|| Name::from("")), service }
            }
            _ => Target::Disabled,
        }
    }

    fn missing_service(&mut self, name: &Name, router: &Router) {
        let http = &self.routing.http;
        let problem = match &router.service {
            None => Problem::at("service", "the router has no service"),
            Some(wanted) if http.services.contains_key(wanted) || http.broken.services.contains_key(wanted) => {
                Problem::at("service", format!("the service \"{wanted}\" is broken; see its own problems"))
            }
            Some(wanted) => Problem::at("service", format!("the service \"{wanted}\" does not exist")),
        };
        self.problem(name, problem);
    }

    fn problem(&mut self, name: &Name, problem: Problem) {
        self.bench.problems.push(problem.under(&format!("http.routers.{name}")));
    }
}
