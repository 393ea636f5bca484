//! Configuration as written, turned into what traffic reads. Total: there is always a snapshot, and a list of what was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::{join_all, join3};

use crate::config::Routing;
use crate::config::address::Protocol;
use crate::config::install::RuleSyntax;
use crate::middleware::{AnyMiddleware, Chain};
use crate::observe::metrics::{self, Metrics};
use crate::problem::{Problem, Problems};
use crate::service::transport::Transport;
use crate::service::{self, Internal, ServerPool, Service};
use crate::snapshot::{Route, Snapshot};
use crate::tls::{Certificate, Certificates, Tickets};
use crate::units::Name;

use super::entry_points::{EntryPointModel, EntryPoints, Standing};

mod doors;
mod entry_points;
mod http;
mod middlewares;
mod services;
mod tcp;
mod tls;
mod udp;

use entry_points::Positions;
mod wanted;

pub use wanted::Wanted;

pub use tcp::tcp_priority;

/// Services of the gateway itself, by qualified name.
pub type Internals = Arc<BTreeMap<Name, Arc<dyn Internal>>>;

/// What compiling needs besides the configuration itself.
pub struct Kit {
    /// Where routers can be attached.
    pub entry_points: Arc<EntryPoints>,
    /// Services of the gateway itself.
    pub internals: Internals,
    /// Rule syntax of routers that name none.
    pub default_syntax: RuleSyntax,
    /// The transport of services that name none.
    pub default_transport: Arc<Transport>,
    /// The transport of TCP services that name none.
    pub default_tcp_transport: Arc<service::tcp::Transport>,
    /// Provider names, most preferred first; decides between routers of equal priority.
    pub precedence: Vec<String>,
    /// Where meters are made.
    pub metrics: Arc<Metrics>,
    /// The keys of session tickets, for all TLS options.
    pub tickets: Arc<Tickets>,
    /// Who gets certificates, by name.
    pub resolvers: BTreeSet<Box<str>>,
    /// Whether what responders (OCSP) say of certificates is shown to clients.
    pub staples: bool,
    /// The certificate for whom there is none.
    pub fallback: Arc<Certificate>,
    /// The runtime of health checks and name resolution.
    pub runtime: tokio::runtime::Handle,
    /// Gives memory that is free back to the system; called after the first configuration and after each large one.
    pub give_back: Option<fn()>,
}

impl Kit {
    /// The entry points that serve a router which names these, or none, and what is wrong with the names.
    fn serving(&self, wanted: &[Name]) -> (Positions, Vec<Problem>) {
        let known = &self.entry_points.tcp;
        if wanted.is_empty() {
            let serves = |index: &usize| known[*index].is_open() && known[*index].is_default;
            return ((0..known.len()).filter(serves).collect(), Vec::new());
        }
        let position = |wanted: &str| self.entry_points.index(Protocol::Tcp, wanted);
        let names = || {
            let open = known.iter().filter(|entry_point| entry_point.is_open());
            open.map(|entry_point| &*entry_point.name).collect::<Vec<_>>().join(", ")
        };
        entry_points::find(wanted, position, || format!("there are: {}", names()))
    }
}

/// A configuration as built, with everything that the next build may keep.
pub struct Built {
    /// What traffic reads.
    pub snapshot: Arc<Snapshot>,
    /// What it was built from.
    pub routing: Arc<Routing>,
    /// The entry points that it was built for.
    pub entry_points: Arc<EntryPoints>,
    /// What was left out and why.
    pub problems: Problems,
    /// Services by name.
    pub services: Arc<BTreeMap<Name, Arc<Service>>>,
    /// UDP services by name.
    pub udp_services: Arc<udp::Services>,
    transports: BTreeMap<Name, Arc<Transport>>,
    middlewares: BTreeMap<Name, Arc<AnyMiddleware>>,
    /// Instances that belong to one router, in the order of the routers' names.
    own: Vec<middlewares::Own>,
    chains: hashbrown::HashMap<Box<[Name]>, Arc<Chain>>,
    /// In the order of the routers' names.
    routes: Box<[Arc<Route>]>,
    doubts: http::Doubts,
    terms: tls::Tls,
    tcp: tcp::Tcp,
    wishes: wanted::Wishes,
    transport_files: tls::Files,
}

impl Built {
    /// TCP services by name.
    pub fn tcp_services(&self) -> &Arc<BTreeMap<Name, Arc<service::tcp::Service>>> {
        &self.tcp.services
    }

    /// Certificates that routers want somebody to get.
    pub fn wanted(&self) -> &Arc<[Wanted]> {
        &self.wishes.wanted
    }

    /// All certificates, by their names.
    pub fn certificate_index(&self) -> &Arc<Certificates> {
        self.terms.index()
    }

    /// Whether a certificate, key or authority's file is another than the one that was read.
    pub fn has_stale_files(&self) -> bool {
        self.terms.has_stale_files()
            || self.transport_files != tls::Files::of(&services::transport_paths(&self.routing))
    }

    /// Every certificate in use, for the metrics.
    pub fn certificates(&self) -> Vec<metrics::Certificate> {
        self.terms.certificates()
    }

    /// Starts health checks and name resolution of what is new; what was kept goes on.
    pub fn start(&self, kit: &Kit) {
        for pool in self.pools() {
            pool.start_probes(&kit.runtime);
        }
        for pool in self.tcp.pools() {
            pool.start_probes(&kit.runtime);
        }
        for (name, server) in self.udp_servers() {
            server.keep_resolving(name, &kit.runtime);
        }
    }

    /// Waits, for some seconds at most, until the names of new servers were looked up once: a route that comes into force
    /// before would answer that no server is available.
    pub async fn addresses_asked(&self) {
        let waiting = self.pools().filter(|pool| pool.is_waiting_for_addresses()).map(|pool| pool.addresses_asked());
        let tcp = self.tcp.pools().filter(|pool| pool.is_waiting_for_addresses()).map(|pool| pool.addresses_asked());
        let udp = self.udp_servers().map(|(_, server)| server.asked());
        join3(join_all(waiting), join_all(tcp), join_all(udp)).await;
    }

    /// Ends the health checks and name resolution of services that `next` does not have any more. Requests that still run may
    /// hold such a service for hours.
    pub fn retire(&self, next: &Self) {
        for pool in self.pools() {
            if !matches!(next.services.get(pool.name()).map(|service| &**service), Some(Service::Servers(_))) {
                pool.stop_probes();
            }
        }
        for pool in self.tcp.pools() {
            let followed = next.tcp.services.get(pool.name()).map(|service| &**service);
            if !matches!(followed, Some(service::tcp::Service::Servers(_))) {
                pool.stop_probes();
            }
        }
    }

    fn udp_servers(&self) -> impl Iterator<Item = (&Name, &Arc<service::udp::Server>)> {
        self.udp_services.iter().flat_map(|(name, service)| {
            let servers = match &**service {
                service::udp::Service::Servers(pool) => pool.servers(),
                service::udp::Service::Weighted(_) => &[],
            };
            servers.iter().map(move |server| (name, server))
        })
    }

    fn pools(&self) -> impl Iterator<Item = &Arc<ServerPool>> {
        self.services.values().filter_map(|service| match &**service {
            Service::Servers(pool) => Some(pool),
            _ => None,
        })
    }
}

/// Builds `routing`, keeping from `previous` whatever did not change: health, counters, limits and connections go on.
pub fn compile(routing: Arc<Routing>, previous: Option<&Built>, kit: &Kit) -> Built {
    let mut problems = Problems::new();
    let transport_files = tls::Files::of(&services::transport_paths(&routing));
    let (transports, services) = services::build(&routing, previous, kit, &mut problems);
    let mut bench = middlewares::Bench::new(&routing, previous, &mut problems);
    let routed = http::build(&routing, &services, &mut bench, &mut problems, (previous, kit));
    let http::Routed { routes, plain, tls, doubts } = routed;
    let (udp_services, udp_routes) = udp::build(&routing, previous, kit, &mut problems);
    let middlewares::Made { shared, own, chains } = bench.finish();
    let terms = tls::Tls::build(&routing.tls, previous.map(|built| &built.terms), kit, &mut problems);
    let (tcp, tcp_tables) = tcp::build(&routing.tcp, &terms, previous, kit, &mut problems);
    let doors = doors::build(&routing, (&tls, tcp_tables), &terms, &mut problems, (previous, kit));
    let wishes =
        wanted::Wishes::build(&routing, (&routes, &doors), previous.map(|built| &built.wishes), kit, &mut problems);
    let generation = previous.map_or(0, |built| built.snapshot.generation) + 1;
    Built {
        snapshot: Arc::new(Snapshot { generation, http: plain, https: tls, doors, udp: udp_routes }),
        routing,
        entry_points: kit.entry_points.clone(),
        problems,
        services: Arc::new(services),
        udp_services: Arc::new(udp_services),
        transports,
        middlewares: shared,
        own,
        chains,
        routes,
        doubts,
        terms,
        tcp,
        wishes,
        transport_files,
    }
}

#[cfg(test)]
mod tests;
