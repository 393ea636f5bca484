//! Doors: the hosts of routers for TLS, each with the TLS options that hold for it.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use crate::config::{RouterTls, Routing};
use crate::problem::{Problem, Problems};
use crate::rule::matcher::host::parent_domain;
use crate::snapshot::door::{Demands, Door, Https, Names, Terms};
use crate::snapshot::route_table::{RouteTable, Routed};
use crate::snapshot::{Route, TcpTable};
use crate::units::Name;

use super::tls::Tls;
use super::{Built, EntryPointModel, Kit, Standing};

/// Name of the options that hold where none are named.
const DEFAULT: &str = "default";

/// Builds the door of each entry point.
pub(super) fn build(
    routing: &Routing,
    (tables, tcp): (&[Arc<RouteTable<Route>>], Vec<TcpTable>),
    tls: &Tls,
    problems: &mut Problems,
    (previous, kit): (Option<&Built>, &Kit),
) -> Box<[Arc<Door>]> {
    let mut work = Work { routing, tls, problems, told: BTreeSet::new() };
    let doors = kit.entry_points.tcp.iter().zip(tables).zip(tcp).enumerate();
    let door = |(index, ((entry_point, table), tcp)): (usize, ((&EntryPointModel, &Arc<_>), _))| {
        let before = previous.and_then(|built| built.snapshot.doors.get(index));
        match before.filter(|_| entry_point.standing == Standing::Leaving) {
            Some(door) => door.clone(),
            None => Arc::new(work.door(entry_point, table, tcp)),
        }
    };
    doors.map(door).collect()
}

struct Work<'a> {
    routing: &'a Routing,
    tls: &'a Tls,
    problems: &'a mut Problems,
    /// What was told of which router, so that it is told once for all its entry points.
    told: BTreeSet<(Name, String)>,
}

/// The options of one host, and who asked for them.
struct Asked {
    /// `None` are the default ones.
    options: Option<Name>,
    by: Vec<Name>,
    is_conflicting: bool,
    /// All who asked are broken.
    is_doubtful: bool,
}

impl Asked {
    fn first(options: Option<Name>, by: Name, is_doubtful: bool) -> Self {
        Self { options, by: vec![by], is_conflicting: false, is_doubtful }
    }
}

impl Work<'_> {
    fn door(&mut self, entry_point: &EntryPointModel, table: &RouteTable<Route>, tcp: TcpTable) -> Door {
        let default = self.terms(None);
        if table.routes().is_empty() {
            return Door::new(default, Default::default(), Https::Absent, Demands::default(), tcp);
        }
        let wanted = |route: &Route| self.options(entry_point, &route.name);
        // Rules are only read for their hosts where it matters: there may be a million.
        if !tcp.has_tls() && table.routes().iter().all(|route| wanted(route).is_none()) {
            return Door::new(default, Default::default(), Https::CatchAll, Demands::default(), tcp);
        }
        let demands = self.demands(entry_point, table);
        let (hosts, https) = self.hosts(entry_point, table, &demands);
        let (mut named, mut under) = (Names::default(), Names::default());
        for (host, asked) in hosts {
            let options = if asked.is_conflicting { None } else { asked.options };
            let terms = self.terms(options.as_ref());
            match host.strip_prefix("*.") {
                Some(domain) => under.insert(domain.into(), terms),
                None => named.insert(host.into(), terms),
            };
        }
        Door::new(default, (named, under), https, demands, tcp)
    }

    /// What routers ask of clients that name options by which these must show a certificate, or that are broken and might be such.
    fn demands(&self, entry_point: &EntryPointModel, table: &RouteTable<Route>) -> Demands {
        let demand = |route: &Route| {
            let options = self.options(entry_point, &route.name)?;
            match self.tls.options(Some(&options)) {
                Some(options) => options.requires_certificate().then(|| Some(*options.client_demands())),
                None => Some(None),
            }
        };
        table.routes().iter().filter_map(|route| Some((route.name.clone(), demand(route)?))).collect()
    }

    /// Every host that the routers name, with its options.
    fn hosts(
        &mut self,
        entry_point: &EntryPointModel,
        table: &RouteTable<Route>,
        demands: &Demands,
    ) -> (BTreeMap<String, Asked>, Https) {
        let mut hosts = BTreeMap::<String, Asked>::new();
        let mut https = Https::Named;
        for route in table.routes() {
            let options = self.options(entry_point, &route.name);
            if let Some(missing) = options.as_ref().filter(|name| !self.tls.has(name)) {
                self.tell(&route.name, Problem::at("tls.options", format!("unknown TLS options: {missing}")));
            }
            let rule = route.rule();
            let named: Vec<&str> = rule.hosts().into_iter().filter(|host| *host != "*").collect();
            if named.is_empty() {
                https = Https::CatchAll;
                if options.is_some() {
                    let message = "the rule names no host: the TLS options of each request are those of its server name, \
                                   and not these";
                    self.tell_of_terms(&route.name, message, demands);
                }
            }
            // What a broken router asks for may be what cannot be read. It must not put the default options in place of those that
            // hold for others: they are whole, and may ask for more.
            let is_broken = self.routing.http.broken.routers.contains_key(&route.name);
            for host in named {
                match hosts.entry(host.to_ascii_lowercase()) {
                    btree_map::Entry::Vacant(entry) => {
                        entry.insert(Asked::first(options.clone(), route.name.clone(), is_broken));
                    }
                    btree_map::Entry::Occupied(mut entry) if entry.get().is_doubtful && !is_broken => {
                        entry.insert(Asked::first(options.clone(), route.name.clone(), false));
                    }
                    btree_map::Entry::Occupied(entry) if is_broken && !entry.get().is_doubtful => {}
                    btree_map::Entry::Occupied(mut entry) => {
                        let asked = entry.get_mut();
                        asked.is_conflicting |= asked.options != options;
                        asked.by.push(route.name.clone());
                    }
                }
            }
        }
        for (host, asked) in hosts.iter().filter(|(_, asked)| asked.is_conflicting) {
            for name in &asked.by {
                let message = format!(
                    "the routers of host {host} ask for different TLS options: the default ones hold there for all of them"
                );
                self.tell_of_terms(name, message, demands);
            }
        }
        self.warn_of_overlaps(&hosts, demands);
        (hosts, https)
    }

    /// Tells routers of a wildcard whose rule also takes a host with other options: the options of that host hold for its
    /// connections, as in Traefik, and may ask for less.
    fn warn_of_overlaps(&mut self, hosts: &BTreeMap<String, Asked>, demands: &Demands) {
        for (host, asked) in hosts {
            let wild = parent_domain(host).and_then(|parent| hosts.get(&format!("*.{parent}")));
            let Some(wild) = wild.filter(|wild| wild.options != asked.options && !host.starts_with("*.")) else {
                continue;
            };
            for name in &wild.by {
                let message = format!(
                    "the rule takes {host} too, whose own routers ask for other TLS options: those hold for its connections"
                );
                self.tell_of_terms(name, message, demands);
            }
        }
    }

    /// The TLS options that a router asks for at an entry point, if they are not the default ones.
    fn options(&self, entry_point: &EntryPointModel, name: &Name) -> Option<Name> {
        let own = self.routing.http.routers.get(name).and_then(|router| router.common.tls.as_deref());
        let asked: &RouterTls = own.or(entry_point.tls.as_ref())?;
        asked.options_within(name.provider().unwrap_or_default())
    }

    fn terms(&self, options: Option<&Name>) -> Terms {
        Terms { name: options.cloned().unwrap_or_else(|| DEFAULT.into()), options: self.tls.options(options) }
    }

    /// Tells that connections are made on other terms than a router asks for.
    fn tell_of_terms(&mut self, name: &Name, message: impl Into<String>, demands: &Demands) {
        let problem = Problem::warning("tls.options", message);
        self.tell(
            name,
            match demands.contains_key(name) {
                true => problem
                    .with_help("the router answers nobody (421) whose handshake did not ask for what it asks for"),
                false => problem,
            },
        );
    }

    fn tell(&mut self, name: &Name, problem: Problem) {
        if self.told.insert((name.clone(), problem.message.to_string())) {
            self.problems.push(problem.under(&format!("http.routers.{name}")));
        }
    }
}
