//! Transports and services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Routing;
use crate::problem::{Problem, Problems, all};
use crate::service::transport::Transport;
use crate::service::{Kind, ServerPool, Service, Settings, Weighted, pool, weighted};
use crate::units::Name;

use super::{Built, Kit};

type Transports = BTreeMap<Name, Arc<Transport>>;
type Services = BTreeMap<Name, Arc<Service>>;

/// Builds all of them; each that cannot be built becomes a problem.
pub(super) fn build(
    routing: &Routing,
    previous: Option<&Built>,
    kit: &Kit,
    problems: &mut Problems,
) -> (Transports, Services) {
    let transports = build_transports(routing, previous, problems);
    let mut builder = Builder {
        routing,
        previous,
        kit,
        transports: &transports,
        done: BTreeMap::new(),
        broken: BTreeSet::new(),
        under_way: Vec::new(),
        problems,
    };
    for (name, internal) in &*kit.internals {
        let before = previous.and_then(|built| built.services.get(name));
        let is_same =
            |service: &&Arc<Service>| matches!(&***service, Service::Internal(old) if Arc::ptr_eq(old, internal));
        let kept = before.filter(is_same).cloned();
        builder.done.insert(name.clone(), kept.unwrap_or_else(|| Arc::new(Service::Internal(internal.clone()))));
    }
    for name in routing.http.services.keys() {
        // A failure is in the problems already.
        let _ = builder.service(name);
    }
    builder.inspect();
    let services = builder.done;
    (transports, services)
}

fn build_transports(routing: &Routing, previous: Option<&Built>, problems: &mut Problems) -> Transports {
    let mut transports = Transports::new();
    for (name, settings) in &routing.http.servers_transports {
        let kept = previous.and_then(|built| {
            let same = built.routing.http.servers_transports.get(name)? == settings;
            // Certificate files are read again with each configuration: they may have been renewed.
            let reads_files = !settings.root_cas.is_empty() || !settings.certificates.is_empty();
            (same && !reads_files).then(|| built.transports.get(name).cloned()).flatten()
        });
        let built = match kept {
            Some(transport) => Ok(transport),
            None => Transport::build(settings),
        };
        match built {
            Ok(transport) => {
                let transport = previous
                    .and_then(|built| built.transports.get(name))
                    .filter(|kept| kept.identity() == transport.identity())
                    .cloned()
                    .unwrap_or(transport);
                transports.insert(name.clone(), transport);
            }
            Err(found) => {
                let kept = previous.and_then(|built| {
                    let same = built.routing.http.servers_transports.get(name)? == settings;
                    built.transports.get(name).filter(|_| same)
                });
                let found = found.under(&format!("http.serversTransports.{name}"));
                problems.extend(if kept.is_some() { still_in_force(found) } else { found });
                transports.extend(kept.map(|kept| (name.clone(), kept.clone())));
            }
        }
    }
    for (name, remains) in &routing.http.broken.servers_transports {
        if let Some(Err(found)) = remains.rest.as_deref().map(Transport::build) {
            problems.extend(remains.news(found).under(&format!("http.serversTransports.{name}")));
        }
    }
    transports
}

/// Tells of files that went bad: what was read from them before is no worse.
pub(super) fn still_in_force(found: Problems) -> Problems {
    found.into_iter().map(|problem| problem.with_help("what was read before stays in force")).collect()
}

/// Paths of all files that transports are read from.
pub(super) fn transport_paths(routing: &Routing) -> Vec<&str> {
    let http = routing.http.servers_transports.values().map(|settings| (&settings.root_cas, &settings.certificates));
    let tcp = routing.tcp.servers_transports.values().filter_map(|settings| settings.tls.as_ref());
    let tcp = tcp.map(|settings| (&settings.root_cas, &settings.certificates));
    let paths = http.chain(tcp).flat_map(|(authorities, certificates)| {
        let pairs = certificates.iter().flat_map(|pair| [pair.cert_file.as_str(), pair.key_file.reveal()]);
        authorities.iter().map(String::as_str).chain(pairs)
    });
    paths.collect()
}

struct Builder<'a> {
    routing: &'a Routing,
    previous: Option<&'a Built>,
    kit: &'a Kit,
    transports: &'a Transports,
    done: Services,
    broken: BTreeSet<Name>,
    under_way: Vec<Name>,
    problems: &'a mut Problems,
}

impl Builder<'_> {
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
        let settings = self.routing.http.services.get(name)?.clone();
        self.under_way.push(name.clone());
        let built = match settings.kind() {
            Ok(Kind::LoadBalancer(balancer)) => {
                self.pool(name, balancer, &settings).map_err(|problems| problems.under("loadBalancer"))
            }
            Ok(Kind::Weighted(weighted)) => {
                self.weighted(name, weighted, &settings).map_err(|problems| problems.under("weighted"))
            }
            Err(problem) => Err(problem.into()),
        };
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

    /// Finds what else is wrong with services that cannot be used anyway.
    fn inspect(&mut self) {
        for (name, remains) in &self.routing.http.broken.services {
            let Some(settings) = remains.rest.as_deref() else { continue };
            let found = match settings.kind() {
                Ok(Kind::LoadBalancer(balancer)) => {
                    self.check_pool(name, balancer).map_err(|problems| problems.under("loadBalancer"))
                }
                Ok(Kind::Weighted(weighted)) => {
                    self.weighted(name, weighted, settings).map(drop).map_err(|problems| problems.under("weighted"))
                }
                Err(problem) => Err(problem.into()),
            };
            if let Err(found) = found {
                self.problems.extend(remains.news(found).under(&format!("http.services.{name}")));
            }
        }
    }

    fn check_pool(&self, name: &Name, balancer: &pool::Settings) -> Result<(), Problems> {
        // Whatever else is wrong does not hang on the transport.
        let checked = ServerPool::check(name, balancer, &self.kit.default_transport);
        all((self.transport(name, balancer), checked)).map(drop)
    }

    fn pool(&mut self, name: &Name, balancer: &pool::Settings, settings: &Settings) -> Result<Arc<Service>, Problems> {
        let Ok(transport) = self.transport(name, balancer) else {
            return Err(self.check_pool(name, balancer).err().unwrap_or_default());
        };
        let before = self.previous.and_then(|built| built.services.get(name));
        let Some(Service::Servers(pool)) = before.map(|service| &**service) else {
            let meters = self.kit.metrics.service(name.as_str());
            let pool = ServerPool::build(name, balancer, transport, meters, None)?;
            return Ok(Arc::new(Service::Servers(pool)));
        };
        if let Some(service) = before.filter(|_| self.is_unchanged(name, settings) && pool.is_over(&transport)) {
            return Ok(service.clone());
        }
        let meters = self.kit.metrics.service(name.as_str());
        let pool = ServerPool::build(name, balancer, transport, meters, Some(pool))?;
        Ok(Arc::new(Service::Servers(pool)))
    }

    fn transport(&self, name: &Name, balancer: &pool::Settings) -> Result<Arc<Transport>, Problem> {
        let Some(wanted) = &balancer.servers_transport else { return Ok(self.kit.default_transport.clone()) };
        let wanted = wanted.within(name.provider().unwrap_or_default());
        if wanted.as_str() == "default@internal" {
            return Ok(self.kit.default_transport.clone());
        }
        self.transports.get(&wanted).cloned().ok_or_else(|| {
            Problem::at("serversTransport", format!("servers transport \"{wanted}\" does not exist or is broken"))
        })
    }

    fn weighted(
        &mut self,
        name: &Name,
        shares: &weighted::Settings,
        settings: &Settings,
    ) -> Result<Arc<Service>, Problems> {
        let provider = name.provider().unwrap_or_default().to_owned();
        let mut children = Vec::with_capacity(shares.services.len());
        let built = Weighted::build(name, shares, |child| {
            let child = child.within(&provider);
            let service = self.service(&child).ok_or_else(|| self.missing(&child))?;
            if self.routing.http.services.get(&child).is_some_and(|settings| !settings.middlewares.is_empty()) {
                return Err(Problem::at("", format!("the middlewares of \"{child}\" would not run here"))
                    .with_help("put them into this service, or into its routers"));
            }
            children.push(service.clone());
            Ok(service)
        })?;
        let before = self.previous.and_then(|built| built.services.get(name));
        if let Some(Service::Weighted(kept)) = before.map(|service| &**service) {
            let same_children = kept.shares().len() == children.len()
                && kept.shares().iter().zip(&children).all(|((old, _), new)| Arc::ptr_eq(old, new));
            if let Some(service) = before.filter(|_| self.is_unchanged(name, settings) && same_children) {
                return Ok(service.clone());
            }
        }
        Ok(Arc::new(Service::Weighted(built)))
    }

    fn missing(&self, name: &Name) -> Problem {
        let http = &self.routing.http;
        if http.services.contains_key(name) || http.broken.services.contains_key(name) {
            return Problem::at("", format!("the service \"{name}\" is broken; see its own problems"));
        }
        Problem::at("", format!("the service \"{name}\" does not exist"))
    }

    fn is_unchanged(&self, name: &Name, settings: &Settings) -> bool {
        let before = self.previous.and_then(|built| built.routing.http.services.get(name));
        before.is_some_and(|before| std::ptr::eq(&raw const **before, settings) || **before == *settings)
    }

    fn fail(&mut self, name: &Name, problems: Problems) {
        if self.broken.insert(name.clone()) {
            self.problems.extend(problems.under(&format!("http.services.{name}")));
        }
    }
}
