//! UDP: services, and the one router of each entry point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Routing;
use crate::config::address::Protocol;
use crate::config::udp::Router;
use crate::problem::{Problem, Problems};
use crate::service::udp::{Kind, Pool, Service, Settings, Shares, Weighted};
use crate::snapshot::UdpRoute;
use crate::units::Name;

use super::entry_points::{self, Positions};
use super::{Built, Kit, Standing};

pub(super) type Services = BTreeMap<Name, Arc<Service>>;
type Routes = Box<[Option<Arc<UdpRoute>>]>;
/// The router of an entry point, and what it leads to, if that can be used.
type Holder<'a> = (&'a Name, Option<Arc<UdpRoute>>);

/// Builds all services, and what each entry point leads to; each that cannot be built becomes a problem.
pub(super) fn build(
    routing: &Routing,
    previous: Option<&Built>,
    kit: &Kit,
    problems: &mut Problems,
) -> (Services, Routes) {
    let mut builder = Builder {
        routing,
        previous,
        kit,
        done: Services::new(),
        broken: BTreeSet::new(),
        under_way: Vec::new(),
        problems,
    };
    for name in routing.udp.services.keys() {
        // A failure is in the problems already.
        let _ = builder.service(name);
    }
    builder.inspect();
    let routes = builder.routes();
    (builder.done, routes)
}

struct Builder<'a> {
    routing: &'a Routing,
    previous: Option<&'a Built>,
    kit: &'a Kit,
    done: Services,
    broken: BTreeSet<Name>,
    under_way: Vec<Name>,
    problems: &'a mut Problems,
}

impl<'a> Builder<'a> {
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
        let settings = self.routing.udp.services.get(name)?.clone();
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

    fn build(&mut self, name: &Name, settings: &Settings) -> Result<Arc<Service>, Problems> {
        match settings.kind()? {
            Kind::LoadBalancer(balancer) => {
                let before = self.previous.and_then(|built| built.udp_services.get(name));
                if let Some(kept) = before.filter(|_| self.is_unchanged(name, settings)) {
                    return Ok(kept.clone());
                }
                let before = match before.map(|service| &**service) {
                    Some(Service::Servers(pool)) => Some(pool),
                    _ => None,
                };
                let meters = self.kit.metrics.udp_service(name.as_str());
                let pool = Pool::build(balancer, meters, before).map_err(|problems| problems.under("loadBalancer"))?;
                Ok(Arc::new(Service::Servers(pool)))
            }
            Kind::Weighted(shares) => self.weighted(name, shares, settings),
        }
    }

    fn weighted(&mut self, name: &Name, shares: &Shares, settings: &Settings) -> Result<Arc<Service>, Problems> {
        let provider = name.provider().unwrap_or_default().to_owned();
        let built = Weighted::build(shares, |child| {
            let child = child.within(&provider);
            self.service(&child).ok_or_else(|| self.missing(&child))
        });
        let built = built.map_err(|problems| problems.under("weighted"))?;
        let before = self.previous.and_then(|built| built.udp_services.get(name));
        if let Some(Service::Weighted(kept)) = before.map(|service| &**service) {
            let same_children = kept.shares().len() == built.shares().len()
                && kept.shares().iter().zip(built.shares()).all(|((old, _), (new, _))| Arc::ptr_eq(old, new));
            if let Some(service) = before.filter(|_| self.is_unchanged(name, settings) && same_children) {
                return Ok(service.clone());
            }
        }
        Ok(Arc::new(Service::Weighted(built)))
    }

    fn missing(&self, name: &Name) -> Problem {
        let udp = &self.routing.udp;
        if udp.services.contains_key(name) || udp.broken.services.contains_key(name) {
            return Problem::at("", format!("the service \"{name}\" is broken; see its own problems"));
        }
        Problem::at("", format!("the service \"{name}\" does not exist"))
    }

    fn is_unchanged(&self, name: &Name, settings: &Settings) -> bool {
        let before = self.previous.and_then(|built| built.routing.udp.services.get(name));
        before.is_some_and(|before| std::ptr::eq(&raw const **before, settings) || **before == *settings)
    }

    fn fail(&mut self, name: &Name, problems: Problems) {
        if self.broken.insert(name.clone()) {
            self.problems.extend(problems.under(&format!("udp.services.{name}")));
        }
    }

    /// Finds what else is wrong with services that cannot be used anyway.
    fn inspect(&mut self) {
        for (name, remains) in &self.routing.udp.broken.services {
            let Some(settings) = remains.rest.as_deref() else { continue };
            let found = match settings.kind() {
                Ok(Kind::LoadBalancer(balancer)) => {
                    Pool::build(balancer, Arc::default(), None).map(drop).map_err(|found| found.under("loadBalancer"))
                }
                Ok(Kind::Weighted(shares)) => self.weighted(name, shares, settings).map(drop),
                Err(problem) => Err(problem.into()),
            };
            if let Err(found) = found {
                self.problems.extend(remains.news(found).under(&format!("udp.services.{name}")));
            }
        }
    }

    /// What each entry point leads to: to its first router by name. If that is broken, to nothing.
    fn routes(&mut self) -> Routes {
        let mut holders: Vec<Option<Holder<'a>>> = vec![None; self.kit.entry_points.udp.len()];
        for (name, router) in &self.routing.udp.routers {
            let entry_points = self.entry_points(name, router);
            let route = self.route(name, router);
            for index in entry_points {
                let Some(holder) = holders.get_mut(index) else { continue };
                match holder {
                    Some((first, _)) => {
                        let entry_point = &self.kit.entry_points.udp[index].name;
                        let message = format!(
                            "is not used at \"{entry_point}\": an entry point for UDP has one router, and \"{first}\" comes first by name"
                        );
                        self.problems.push(Problem::warning(format!("udp.routers.{name}.entryPoints"), message));
                    }
                    None => *holder = Some((name, route.clone())),
                }
            }
        }
        let routes = holders.into_iter().enumerate().map(|(index, holder)| {
            let before = self.previous.and_then(|built| built.snapshot.udp.get(index));
            match before.filter(|_| self.kit.entry_points.udp[index].standing == Standing::Leaving) {
                Some(last) => last.clone(),
                None => holder.and_then(|(_, route)| route),
            }
        });
        routes.collect()
    }

    /// Indices of the entry points that the router serves, each once.
    fn entry_points(&mut self, name: &Name, router: &Router) -> Positions {
        let known = &self.kit.entry_points.udp;
        let open = || (0..known.len()).filter(|index| known[*index].is_open());
        if router.entry_points.is_empty() {
            return open().collect();
        }
        let help = || match open().map(|index| &*known[index].name).collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "no entry point is for UDP: its address ends in `/udp`".to_owned(),
            names => format!("those for UDP are: {names}"),
        };
        let position = |wanted: &str| self.kit.entry_points.index(Protocol::Udp, wanted);
        let (found, problems) = entry_points::find(&router.entry_points, position, help);
        for problem in problems {
            self.tell(name, problem);
        }
        found
    }

    fn route(&mut self, name: &Name, router: &Router) -> Option<Arc<UdpRoute>> {
        let is_broken = self.routing.udp.broken.routers.contains_key(name);
        let Some(wanted) = &router.service else {
            // Its name may be what is wrong with the router.
            if !is_broken {
                self.tell(name, Problem::at("service", "the service is missing on the udp router"));
            }
            return None;
        };
        let Some(service) = self.service(wanted) else {
            let problem = self.missing(wanted);
            self.tell(name, problem.under("service"));
            return None;
        };
        if is_broken {
            return None;
        }
        let before = self.previous.and_then(|built| {
            let routes = built.snapshot.udp.iter().flatten();
            routes.into_iter().find(|route| route.name == *name && Arc::ptr_eq(&route.service, &service))
        });
        let new = || Arc::new(UdpRoute { name: name.clone(), service_name: wanted.clone(), service: service.clone() });
        Some(before.filter(|route| route.service_name == *wanted).cloned().unwrap_or_else(new))
    }

    fn tell(&mut self, name: &Name, problem: Problem) {
        let found = match self.routing.udp.broken.routers.get(name) {
            Some(remains) => remains.news(problem.into()),
            None => problem.into(),
        };
        self.problems.extend(found.under(&format!("udp.routers.{name}")));
    }
}
