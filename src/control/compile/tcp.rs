//! TCP: transports, services and middlewares joined to routes, and the routes of each entry point indexed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::http::{MAX_USER_PRIORITY, too_high};
use crate::config::install::RuleSyntax;
use crate::config::tcp::{Router, Tcp as Written};
use crate::middleware::tcp::Middleware;
use crate::problem::{Problem, Problems};
use crate::rule::{ConnectionRule, Syntax};
use crate::service::tcp::transport::Settings as TransportSettings;
use crate::service::tcp::{Pool, Service, Transport, Weighted, WeightedSettings, pool};
use crate::snapshot::door::Terms;
use crate::snapshot::{TcpRoute, TcpTable, TcpTarget, TcpTls};
use crate::units::Name;

use super::entry_points::Positions;
use super::http::rank;
use super::services::still_in_force;
use super::tls::Tls;
use super::{Built, Kit};

/// TCP objects as built.
#[derive(Default)]
pub(super) struct Tcp {
    transports: BTreeMap<Name, Arc<Transport>>,
    pub(super) services: Arc<BTreeMap<Name, Arc<Service>>>,
    middlewares: BTreeMap<Name, Arc<Middleware>>,
}

impl Tcp {
    /// The pools of all services.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.services.values().filter_map(|service| match &**service {
            Service::Servers(pool) => Some(pool),
            Service::Weighted(_) => None,
        })
    }
}

/// Builds all of it, and the table of each entry point.
pub(super) fn build(
    written: &Written,
    tls: &Tls,
    previous: Option<&Built>,
    kit: &Kit,
    problems: &mut Problems,
) -> (Tcp, Vec<TcpTable>) {
    let before = previous.map(|built| (&built.routing.tcp, &built.tcp));
    let transports = build_transports(written, before, problems);
    let mut services = Services {
        written,
        before,
        kit,
        transports: &transports,
        done: BTreeMap::new(),
        broken: BTreeSet::new(),
        under_way: Vec::new(),
        problems,
    };
    for name in written.services.keys() {
        // A failure is in the problems already.
        let _ = services.service(name);
    }
    services.inspect();
    let services = services.done;
    let middlewares = build_middlewares(written, before, problems);
    let tcp = Tcp { transports, services: Arc::new(services), middlewares };
    let mut routers = Routers { written, tcp: &tcp, tls, kit, problems };
    let tables = routers.tables();
    (tcp, tables)
}

type Before<'a> = Option<(&'a Written, &'a Tcp)>;

fn build_transports(written: &Written, before: Before<'_>, problems: &mut Problems) -> BTreeMap<Name, Arc<Transport>> {
    let mut transports = BTreeMap::new();
    for (name, settings) in &written.servers_transports {
        // Certificate files are read again with each configuration: they may have been renewed.
        match Transport::build(settings) {
            Ok(built) => {
                let kept = before.and_then(|(_, tcp)| tcp.transports.get(name)).filter(|kept| kept.is_same(&built));
                transports.insert(name.clone(), kept.cloned().unwrap_or(built));
            }
            Err(found) => {
                let kept = before.and_then(|(written, tcp)| {
                    let same = written.servers_transports.get(name)? == settings;
                    tcp.transports.get(name).filter(|_| same)
                });
                let found = found.under(&format!("tcp.serversTransports.{name}"));
                problems.extend(if kept.is_some() { still_in_force(found) } else { found });
                transports.extend(kept.map(|kept| (name.clone(), kept.clone())));
            }
        }
    }
    for (name, remains) in &written.broken.servers_transports {
        let check = |settings: &TransportSettings| Transport::build(settings).map(drop);
        if let Some(Err(found)) = remains.rest.as_deref().map(check) {
            problems.extend(remains.news(found).under(&format!("tcp.serversTransports.{name}")));
        }
    }
    transports
}

fn build_middlewares(
    written: &Written,
    before: Before<'_>,
    problems: &mut Problems,
) -> BTreeMap<Name, Arc<Middleware>> {
    let mut middlewares = BTreeMap::new();
    for (name, settings) in &written.middlewares {
        let is_same = |(old, _): &(&Written, &Tcp)| old.middlewares.get(name) == Some(settings);
        let kept = before.filter(is_same).and_then(|(_, tcp)| tcp.middlewares.get(name));
        let path = format!("tcp.middlewares.{name}");
        match Middleware::build(settings) {
            Ok((built, warnings)) => {
                problems.extend(warnings.under(&path));
                middlewares.insert(name.clone(), kept.cloned().unwrap_or_else(|| Arc::new(built)));
            }
            Err(found) => problems.extend(found.under(&path)),
        }
    }
    for (name, remains) in &written.broken.middlewares {
        if let Some(Err(found)) = remains.rest.as_deref().map(Middleware::build) {
            problems.extend(remains.news(found).under(&format!("tcp.middlewares.{name}")));
        }
    }
    middlewares
}

struct Services<'a> {
    written: &'a Written,
    before: Before<'a>,
    kit: &'a Kit,
    transports: &'a BTreeMap<Name, Arc<Transport>>,
    done: BTreeMap<Name, Arc<Service>>,
    broken: BTreeSet<Name>,
    under_way: Vec<Name>,
    problems: &'a mut Problems,
}

impl Services<'_> {
    /// The service of that name, built if it was not yet. `None` if it does not exist or cannot be built.
    fn service(&mut self, name: &Name) -> Option<Arc<Service>> {
        if let Some(done) = self.done.get(name) {
            return Some(done.clone());
        }
        if self.broken.contains(name) {
            return None;
        }
        if self.under_way.contains(name) {
            let path = self.under_way.iter().chain([name]).map(Name::as_str).collect::<Vec<_>>().join("->");
            self.fail(name, Problem::at("", format!("recursion detected in {path}")).into());
            return None;
        }
        let settings = self.written.services.get(name)?.clone();
        self.under_way.push(name.clone());
        let built = self.build(name, &settings);
        self.under_way.pop();
        match built {
            Ok(service) => {
                self.done.insert(name.clone(), service.clone());
                Some(service)
            }
            Err(problems) => {
                self.fail(name, problems);
                None
            }
        }
    }

    fn build(&mut self, name: &Name, settings: &crate::service::tcp::Settings) -> Result<Arc<Service>, Problems> {
        match (&settings.load_balancer, &settings.weighted) {
            (Some(balancer), None) => self.pool(name, balancer).map_err(|problems| problems.under("loadBalancer")),
            (None, Some(weighted)) => self.weighted(name, weighted).map_err(|problems| problems.under("weighted")),
            (None, None) => {
                Err(Problem::at("", format!("the service \"{name}\" does not have any type defined")).into())
            }
            _ => Err(Problem::at("", "has more than one type: write one service for each").into()),
        }
    }

    fn pool(&mut self, name: &Name, balancer: &pool::Settings) -> Result<Arc<Service>, Problems> {
        for (path, is_set) in [
            ("proxyProtocol", balancer.proxy_protocol.is_some()),
            ("terminationDelay", balancer.termination_delay.is_some()),
        ] {
            if is_set {
                let problem = Problem::warning(path, "is deprecated").with_help("write it into a `serversTransport`");
                self.problems.push(problem.under(&format!("tcp.services.{name}.loadBalancer")));
            }
        }
        let transport = self.transport(name, balancer)?;
        let before = self.before.and_then(|(_, tcp)| tcp.services.get(name));
        let meters = self.kit.metrics.tcp_service(name.as_str());
        let Some(Service::Servers(old)) = before.map(|service| &**service) else {
            return Ok(Arc::new(Service::Servers(Pool::build(name, balancer, transport, meters, None)?)));
        };
        let was = self.before.and_then(|(written, _)| written.services.get(name)?.load_balancer.as_ref());
        match before.filter(|_| was == Some(balancer) && Arc::ptr_eq(&old.transport, &transport)) {
            Some(kept) => Ok(kept.clone()),
            None => Ok(Arc::new(Service::Servers(Pool::build(name, balancer, transport, meters, Some(old))?))),
        }
    }

    fn transport(&self, name: &Name, balancer: &pool::Settings) -> Result<Arc<Transport>, Problem> {
        let Some(wanted) = balancer.servers_transport.as_ref().filter(|name| !name.is_empty()) else {
            return Ok(self.kit.default_tcp_transport.clone());
        };
        let wanted = wanted.within(name.provider().unwrap_or_default());
        if wanted.as_str() == "default@internal" {
            return Ok(self.kit.default_tcp_transport.clone());
        }
        self.transports.get(&wanted).cloned().ok_or_else(|| {
            Problem::at("serversTransport", format!("servers transport \"{wanted}\" does not exist or is broken"))
        })
    }

    fn weighted(&mut self, name: &Name, shares: &WeightedSettings) -> Result<Arc<Service>, Problems> {
        let provider = name.provider().unwrap_or_default().to_owned();
        let built = Weighted::build(shares, |child| {
            if child.is_empty() {
                return Err(Problem::at("", "is missing"));
            }
            let child = child.within(&provider);
            self.service(&child).ok_or_else(|| self.missing(&child))
        })?;
        let before = self.before.and_then(|(_, tcp)| tcp.services.get(name));
        let was = self.before.and_then(|(written, _)| written.services.get(name)?.weighted.as_ref());
        if let (Some(kept), true) = (before, was == Some(shares))
            && let Service::Weighted(old) = &**kept
            && old.shares().iter().zip(built.shares()).all(|((old, _), (new, _))| Arc::ptr_eq(old, new))
        {
            return Ok(kept.clone());
        }
        Ok(Arc::new(Service::Weighted(Box::new(built))))
    }

    fn missing(&self, name: &Name) -> Problem {
        let known = self.written.services.contains_key(name) || self.written.broken.services.contains_key(name);
        Problem::at("", missing(name, known))
    }

    /// Finds what else is wrong with services that cannot be used anyway.
    fn inspect(&mut self) {
        for (name, remains) in &self.written.broken.services {
            let Some(settings) = remains.rest.clone() else { continue };
            if let Err(found) = self.build(name, &settings) {
                self.problems.extend(remains.news(found).under(&format!("tcp.services.{name}")));
            }
        }
    }

    fn fail(&mut self, name: &Name, problems: Problems) {
        if self.broken.insert(name.clone()) {
            self.problems.extend(problems.under(&format!("tcp.services.{name}")));
        }
    }
}

fn missing(name: &Name, known: bool) -> String {
    if known {
        format!("the service \"{name}\" is broken; see its own problems")
    } else {
        format!("the service \"{name}\" does not exist")
    }
}

/// The rank of a router among others.
pub fn tcp_priority(router: &Router) -> i64 {
    // Both syntaxes write alike what makes a difference.
    match ConnectionRule::parse(&router.rule, Syntax::V3) {
        Ok(rule) => priority(router, &rule),
        Err(_) if router.priority == 0 => router.rule.len() as i64,
        Err(_) => router.priority,
    }
}

fn priority(router: &Router, rule: &ConnectionRule) -> i64 {
    match router.priority {
        0 if rule.is_catch_all() => -1,
        0 => router.rule.len() as i64,
        // Whoever asks for more is ranked at the top, where its place is kept.
        written => written.min(MAX_USER_PRIORITY),
    }
}

struct Routers<'a> {
    written: &'a Written,
    tcp: &'a Tcp,
    tls: &'a Tls,
    kit: &'a Kit,
    problems: &'a mut Problems,
}

impl Routers<'_> {
    /// The table of each entry point.
    fn tables(&mut self) -> Vec<TcpTable> {
        let mut members: Vec<Vec<Arc<TcpRoute>>> = self.kit.entry_points.tcp.iter().map(|_| Vec::new()).collect();
        for (name, router) in &self.written.routers {
            let entry_points = self.entry_points(name, router);
            let Some(route) = self.route(name, router) else { continue };
            let route = Arc::new(route);
            for index in entry_points {
                members[index].push(route.clone());
            }
        }
        for (name, remains) in &self.written.broken.routers {
            if let Some(router) = &remains.rest {
                self.entry_points(name, router);
                self.route(name, router);
            }
        }
        members
            .into_iter()
            .map(|mut routes| {
                // The sort is stable: routes of equal rank stay in the order of their names.
                routes.sort_by_cached_key(|route| (Reverse(route.priority), rank(&route.name, &self.kit.precedence)));
                TcpTable::build(routes)
            })
            .collect()
    }

    fn entry_points(&mut self, name: &Name, router: &Router) -> Positions {
        let (found, problems) = self.kit.serving(&router.entry_points);
        for problem in problems {
            self.tell(name, problem);
        }
        found
    }

    /// `None`: nobody can say which connections are meant.
    fn route(&mut self, name: &Name, router: &Router) -> Option<TcpRoute> {
        let mut target = self.target(name, router);
        let syntax = match router.rule_syntax.unwrap_or(self.kit.default_syntax) {
            RuleSyntax::V2 => Syntax::V2,
            RuleSyntax::V3 => Syntax::V3,
        };
        if router.rule.trim().is_empty() {
            self.tell(name, Problem::at("rule", "is missing"));
            return None;
        }
        let rule = match ConnectionRule::parse(&router.rule, syntax) {
            Ok(rule) => rule,
            Err(errors) => {
                for error in errors {
                    let problem = Problem::at("rule", format!("column {}: {}", error.column, error.message));
                    self.tell(name, Problem { help: error.help, ..problem });
                }
                return None;
            }
        };
        if router.tls.is_none() && rule.needs_tls() {
            let message = format!("invalid rule: \"{}\": only TLS tells names and protocols", router.rule);
            let help = "write `tls: {}`, or `HostSNI(`*`)`";
            self.tell(name, Problem::at("rule", message).with_help(help));
            return None;
        }
        if router.priority > MAX_USER_PRIORITY {
            self.tell(name, too_high(router.priority));
            target = TcpTarget::Disabled;
        }
        let priority = priority(router, &rule);
        let tls = match &router.tls {
            None => TcpTls::Without,
            Some(tls) if tls.passthrough => {
                if tls.options.is_some() {
                    let message = "do nothing where TLS is passed through";
                    self.tell(name, Problem::warning("tls.options", message));
                }
                TcpTls::Passthrough
            }
            Some(tls) => {
                let options = tls.options.as_ref().filter(|name| !name.is_empty() && name.local() != "default");
                if let Some(missing) = options.filter(|name| !self.tls.has(name)) {
                    self.tell(name, Problem::at("tls.options", format!("unknown TLS options: {missing}")));
                }
                TcpTls::Terminate(Terms {
                    name: options.cloned().unwrap_or_else(|| "default".into()),
                    options: self.tls.options(options),
                })
            }
        };
        let service = match &target {
            TcpTarget::Service { name, .. } => name.as_str(),
            TcpTarget::Disabled => "",
        };
        let meters = self.kit.metrics.connections(name.as_str(), service);
        Some(TcpRoute { name: name.clone(), rule, priority, tls, target, meters })
    }

    fn target(&mut self, name: &Name, router: &Router) -> TcpTarget {
        let mut middlewares = Vec::with_capacity(router.middlewares.len());
        let mut is_whole = !self.written.broken.routers.contains_key(name);
        for (at, wanted) in router.middlewares.iter().enumerate() {
            match self.tcp.middlewares.get(wanted) {
                Some(found) => middlewares.push(found.clone()),
                None => {
                    let is_known = self.written.middlewares.contains_key(wanted)
                        || self.written.broken.middlewares.contains_key(wanted);
                    let message = if is_known {
                        format!("middleware \"{wanted}\" is broken; see its own problems")
                    } else {
                        format!("middleware \"{wanted}\" does not exist")
                    };
                    self.tell(name, Problem::at(format!("middlewares[{at}]"), message));
                    is_whole = false;
                }
            }
        }
        let wanted = router.service.as_ref().filter(|name| !name.is_empty());
        let service = wanted.and_then(|wanted| self.tcp.services.get(wanted));
        match (wanted, service) {
            (Some(wanted), Some(service)) if is_whole => {
                return TcpTarget::Service {
                    middlewares: middlewares.into(),
                    name: wanted.clone(),
                    service: service.clone(),
                };
            }
            (Some(_), Some(_)) => {}
            (Some(wanted), None) => {
                let known =
                    self.written.services.contains_key(wanted) || self.written.broken.services.contains_key(wanted);
                self.tell(name, Problem::at("service", missing(wanted, known)));
            }
            (None, _) => self.tell(name, Problem::at("service", "the router has no service")),
        }
        TcpTarget::Disabled
    }

    fn tell(&mut self, name: &Name, problem: Problem) {
        let found = match self.written.broken.routers.get(name) {
            Some(remains) => remains.news(problem.into()),
            None => problem.into(),
        };
        self.problems.extend(found.under(&format!("tcp.routers.{name}")));
    }
}
