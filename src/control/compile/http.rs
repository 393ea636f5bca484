//! Routers: rules, chains and services joined to routes, and the routes of each entry point indexed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::config::Routing;
use crate::config::http::Router;
use crate::config::install::RuleSyntax;
use crate::middleware::Chain;
use crate::problem::{Problem, Problems};
use crate::rule::{Rule, Syntax};
use crate::service::Service;
use crate::snapshot::route_table::RouteTable;
use crate::snapshot::{Rest, Route, Snapshot, Switches, Target, route};
use crate::units::Name;

use super::entry_points::Positions;
use super::middlewares::{Bench, Gap};
use super::{Built, EntryPointModel, Kit, Standing};

/// The routes of all routers, in the order of their names. A router has one for each group of entry points that put the same
/// middlewares before it, in the order in which it names them.
type Routes = Box<[Arc<Route>]>;
type Tables = Box<[Arc<RouteTable<Route>>]>;

/// What the routers are built to.
pub(super) struct Routed {
    pub(super) routes: Routes,
    /// For requests without TLS, by entry point.
    pub(super) plain: Tables,
    /// For requests over TLS, by entry point.
    pub(super) tls: Tables,
    pub(super) doubts: Doubts,
}

/// Where the authors of rules probably meant something else, by router. Rules that are kept are not read again to find out.
pub(super) type Doubts = BTreeMap<Name, Box<[String]>>;

/// Builds all routers and the table of each entry point.
pub(super) fn build(
    routing: &Routing,
    services: &BTreeMap<Name, Arc<Service>>,
    bench: &mut Bench<'_>,
    problems: &mut Problems,
    (previous, kit): (Option<&Built>, &Kit),
) -> Routed {
    let mut work = Work {
        routing,
        services,
        bench,
        problems,
        kit,
        earlier: previous.map(Earlier::new),
        models: models(&kit.entry_points.tcp),
        outer: BTreeMap::new(),
        doubts: Doubts::new(),
        routes: Vec::with_capacity(routing.http.routers.len()),
        members: kit.entry_points.tcp.iter().map(|_| Members::default()).collect(),
    };
    for (name, router) in &routing.http.routers {
        work.add(name, router);
    }
    for (name, remains) in &routing.http.broken.routers {
        if let Some(router) = &remains.rest {
            let entry_points = work.entry_points(name, router);
            work.inspect(name, router, &entry_points);
        }
    }
    let Work { routes, members, doubts, .. } = work;
    let before = |pick: fn(&Snapshot) -> &Tables, index: usize| previous.and_then(|it| pick(&it.snapshot).get(index));
    let (plain, tls) = members
        .into_iter()
        .enumerate()
        .map(|(index, Members { plain, tls })| {
            let is_leaving = kit.entry_points.tcp[index].standing == Standing::Leaving;
            let table = |members, pick| match before(pick, index) {
                Some(last) if is_leaving => last.clone(),
                before => table(members, before, &kit.precedence),
            };
            (table(plain, |snapshot| &snapshot.http), table(tls, |snapshot| &snapshot.https))
        })
        .unzip::<_, _, Vec<_>, Vec<_>>();
    Routed { routes: routes.into(), plain: plain.into(), tls: tls.into(), doubts }
}

/// The routes of one entry point.
#[derive(Default)]
struct Members {
    plain: Vec<Arc<Route>>,
    tls: Vec<Arc<Route>>,
}

/// Indexes the routes of one entry point, which come in the order of their names; `before` if it has the same ones.
fn table(
    mut members: Vec<Arc<Route>>,
    before: Option<&Arc<RouteTable<Route>>>,
    precedence: &[String],
) -> Arc<RouteTable<Route>> {
    // The sort is stable: routes of equal rank stay in the order of their names.
    members.sort_by_cached_key(|route| (Reverse(route.priority), rank(&route.name, precedence)));
    let is_same = |table: &&Arc<RouteTable<Route>>| {
        table.routes().len() == members.len() && table.routes().iter().zip(&members).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    match before.filter(is_same) {
        Some(table) => table.clone(),
        None => Arc::new(RouteTable::build(members)),
    }
}

/// The place of the router's provider in the order of preference.
pub(super) fn rank(name: &Name, precedence: &[String]) -> usize {
    if precedence.is_empty() {
        return 0;
    }
    let provider = name.provider().unwrap_or_default();
    precedence.iter().position(|known| known.eq_ignore_ascii_case(provider)).unwrap_or(precedence.len())
}

/// For each entry point the first that puts the same middlewares before its routers; `None` if it puts none.
fn models(entry_points: &[EntryPointModel]) -> Box<[Option<usize>]> {
    let first = |wanted: &EntryPointModel| {
        entry_points.iter().position(|one| one.is_open() && one.middlewares == wanted.middlewares)
    };
    entry_points.iter().map(|one| first(one).filter(|_| !one.middlewares.is_empty())).collect()
}

/// A walk through the build before, beside the walk through this one: both go by name.
struct Earlier<'a> {
    routers: Peekable<btree_map::Iter<'a, Name, Arc<Router>>>,
    routes: &'a [Arc<Route>],
    doubts: &'a Doubts,
}

impl<'a> Earlier<'a> {
    fn new(previous: &'a Built) -> Self {
        Self {
            routers: previous.routing.http.routers.iter().peekable(),
            routes: &previous.routes,
            doubts: &previous.doubts,
        }
    }

    /// The routes that the router had, if it is as it was. To be asked for with rising names.
    fn routes_of(&mut self, name: &Name, router: &Arc<Router>) -> &'a [Arc<Route>] {
        while self.routers.next_if(|(other, _)| *other < name).is_some() {}
        let Some((_, before)) = self.routers.next_if(|(other, _)| *other == name) else { return &[] };
        let skipped = self.routes.iter().take_while(|route| route.name < *name).count();
        let rest = self.routes.get(skipped..).unwrap_or_default();
        let (found, rest) = rest.split_at(rest.iter().take_while(|route| route.name == *name).count());
        self.routes = rest;
        if Arc::ptr_eq(before, router) || before == router { found } else { &[] }
    }
}

struct Work<'a, 'b> {
    routing: &'a Routing,
    services: &'a BTreeMap<Name, Arc<Service>>,
    bench: &'a mut Bench<'b>,
    problems: &'a mut Problems,
    kit: &'a Kit,
    earlier: Option<Earlier<'a>>,
    models: Box<[Option<usize>]>,
    /// Middlewares of an entry point, qualified for the routers of a provider.
    outer: BTreeMap<(usize, &'a str), Arc<[Name]>>,
    doubts: Doubts,
    routes: Vec<Arc<Route>>,
    members: Vec<Members>,
}

/// A rule that was read.
#[derive(Clone)]
struct Read {
    /// What is kept of it beside its text.
    asked: Option<Rule>,
    priority: i64,
}

/// A router being built.
struct Draft<'a> {
    name: &'a Name,
    router: &'a Router,
    service: Option<Arc<Service>>,
    /// What it was built to before, if nothing is changed in it.
    before: &'a [Arc<Route>],
    /// Its rule, once that had to be read.
    read: Option<Read>,
}

impl<'a> Work<'a, '_> {
    fn add(&mut self, name: &'a Name, router: &'a Arc<Router>) {
        let before = self.earlier.as_mut().map_or(&[][..], |earlier| earlier.routes_of(name, router));
        let entry_points = self.entry_points(name, router);
        if entry_points.is_empty() {
            self.inspect(name, router, &[]);
            return;
        }
        let service = self.service(name, router);
        let mut draft = Draft { name, router, service, before, read: None };
        let mut made: SmallVec<[(Option<usize>, Arc<Route>); 2]> = SmallVec::new();
        for index in entry_points.iter().copied() {
            let model = self.models.get(index).copied().flatten().filter(|_| !name.is_internal());
            let route = match made.iter().find(|(known, _)| *known == model) {
                Some((_, route)) => route.clone(),
                None => {
                    let Some(route) = self.route(&mut draft, model, made.len()) else {
                        self.inspect_chains(&draft, &entry_points);
                        return;
                    };
                    made.push((model, route.clone()));
                    self.routes.push(route.clone());
                    route
                }
            };
            let is_for_tls = router.common.tls.is_some() || self.kit.entry_points.tcp[index].tls.is_some();
            let members = &mut self.members[index];
            if is_for_tls { members.tls.push(route) } else { members.plain.push(route) }
        }
        if draft.read.is_none() {
            self.doubt_again(name);
        }
    }

    /// Finds what else is wrong with a router that cannot be used anyway.
    fn inspect(&mut self, name: &'a Name, router: &'a Router, entry_points: &[usize]) {
        self.service(name, router);
        self.read(name, router);
        self.inspect_chains(&Draft { name, router, service: None, before: &[], read: None }, entry_points);
    }

    fn inspect_chains(&mut self, draft: &Draft<'a>, entry_points: &[usize]) {
        // Without an entry point there are its own middlewares to look at, and those of its service.
        let models = entry_points.iter().map(|index| self.models.get(*index).copied().flatten());
        let mut models = models.collect::<SmallVec<[Option<usize>; 4]>>();
        if models.is_empty() {
            models.push(None);
        }
        models.sort_unstable();
        models.dedup();
        for model in models {
            let lists = self.lists(draft, model);
            if let Err(gaps) = self.bench.names(&lists.each()) {
                self.tell_gaps(draft, model, gaps);
            }
        }
    }

    /// Tells what was told of a rule that is not read again.
    fn doubt_again(&mut self, name: &Name) {
        let before = self.earlier.as_ref().and_then(|earlier| earlier.doubts.get(name));
        if let Some(doubts) = before.cloned() {
            self.doubt(name, doubts);
        }
    }

    fn doubt(&mut self, name: &Name, doubts: Box<[String]>) {
        for doubt in &doubts {
            self.tell(name, Problem::warning("rule", doubt));
        }
        self.doubts.insert(name.clone(), doubts);
    }

    /// Indices of the entry points that serve the router, each once.
    fn entry_points(&mut self, name: &Name, router: &Router) -> Positions {
        let (found, problems) = self.kit.serving(&router.common.entry_points);
        for problem in problems {
            self.tell(name, problem);
        }
        found
    }

    fn service(&mut self, name: &Name, router: &Router) -> Option<Arc<Service>> {
        let wanted = router.service.as_ref();
        if let Some(service) = wanted.and_then(|service| self.services.get(service)) {
            return Some(service.clone());
        }
        let http = &self.routing.http;
        let message = match wanted {
            // Its name may be what is wrong with the router.
            None if http.broken.routers.contains_key(name) => return None,
            None => "the router has no service".to_owned(),
            Some(wanted) if http.services.contains_key(wanted) || http.broken.services.contains_key(wanted) => {
                format!("the service \"{wanted}\" is broken; see its own problems")
            }
            Some(wanted) => format!("the service \"{wanted}\" does not exist"),
        };
        self.tell(name, Problem::at("service", message));
        None
    }

    /// The `nth` route of a router, for the entry points of `model`. `None`: the router cannot be used at all.
    fn route(&mut self, draft: &mut Draft<'a>, model: Option<usize>, nth: usize) -> Option<Arc<Route>> {
        let before = draft.before.get(nth);
        let target = self.target(draft, model, before);
        if let Some(kept) = before.filter(|before| leads_to(before, &target)) {
            return Some(kept.clone());
        }
        if draft.read.is_none() {
            draft.read = Some(self.read(draft.name, draft.router)?);
        }
        let Read { asked, priority } = draft.read.clone()?;
        let meters = match &target {
            Target::Service { name: service, .. } => self.kit.metrics.router(draft.name.as_str(), service.as_str()),
            Target::Disabled => None,
        };
        let observability = &draft.router.common.observability;
        let switches = Switches { access_log: observability.access_logs, metrics: observability.metrics };
        let rest = Rest::new(asked, meters, switches);
        Some(Arc::new(Route { name: draft.name.clone(), rule: draft.router.rule.clone(), priority, target, rest }))
    }

    /// Reads the router's rule. `None`: it cannot be used.
    fn read(&mut self, name: &Name, router: &Router) -> Option<Read> {
        let syntax = match router.common.rule_syntax.unwrap_or(self.kit.default_syntax) {
            RuleSyntax::V2 => Syntax::V2,
            RuleSyntax::V3 => Syntax::V3,
        };
        let rule = match Rule::parse(&router.rule, syntax) {
            Ok(rule) => rule,
            Err(errors) => {
                for error in errors {
                    let problem = Problem::at("rule", format!("column {}: {}", error.column, error.message));
                    self.tell(name, Problem { help: error.help, ..problem });
                }
                return None;
            }
        };
        let doubts = rule.doubts();
        if !doubts.is_empty() {
            self.doubt(name, doubts.into());
        }
        let priority = match router.common.priority {
            None | Some(0) => router.rule.len() as i64,
            Some(written) => written,
        };
        Some(Read { asked: route::kept(rule, syntax), priority })
    }

    fn target(&mut self, draft: &Draft<'a>, model: Option<usize>, before: Option<&Arc<Route>>) -> Target {
        let before = before.and_then(|route| match &route.target {
            Target::Service { chain, .. } => Some(chain),
            Target::Disabled => None,
        });
        // Whatever is wrong with the middlewares is told, even if there is no service behind them.
        let chain = self.chain(draft, model, before);
        let is_broken = self.routing.http.broken.routers.contains_key(draft.name);
        match (chain, &draft.service, &draft.router.service) {
            (Some(chain), Some(service), Some(name)) if !is_broken => {
                Target::Service { chain, name: name.clone(), service: service.clone() }
            }
            _ => Target::Disabled,
        }
    }

    /// The middlewares of the entry point, of the router, and of the service, in that order.
    fn chain(&mut self, draft: &Draft<'a>, model: Option<usize>, before: Option<&Arc<Chain>>) -> Option<Arc<Chain>> {
        let lists = self.lists(draft, model);
        match self.bench.chain(&lists.each(), draft.name, before) {
            Ok(chain) => Some(chain),
            Err(gaps) => {
                self.tell_gaps(draft, model, gaps);
                None
            }
        }
    }

    fn lists(&mut self, draft: &Draft<'a>, model: Option<usize>) -> Lists<'a> {
        let service = draft.router.service.as_ref().and_then(|service| self.routing.http.services.get(service));
        Lists {
            outer: model.map(|model| self.outer(model, draft.name)),
            own: &draft.router.common.middlewares,
            inner: service.map_or(&[], |settings| &settings.middlewares),
        }
    }

    fn tell_gaps(&mut self, draft: &Draft<'a>, model: Option<usize>, gaps: Vec<Gap>) {
        for Gap { list, index, message } in gaps {
            let entry_point = model.and_then(|model| self.kit.entry_points.tcp.get(model));
            let problem = match (list, entry_point) {
                (0, Some(entry_point)) => {
                    Problem::at("entryPoints", format!("entry point \"{}\": {message}", entry_point.name))
                }
                (2, _) => Problem::at("service", format!("its service: {message}")),
                _ => Problem::at(format!("middlewares[{index}]"), message),
            };
            self.tell(draft.name, problem);
        }
    }

    /// The middlewares that entry points of `model` put before routers of the same provider as `name`.
    fn outer(&mut self, model: usize, name: &'a Name) -> Arc<[Name]> {
        let provider = name.provider().unwrap_or_default();
        let qualify =
            || self.kit.entry_points.tcp[model].middlewares.iter().map(|name| name.within(provider)).collect();
        self.outer.entry((model, provider)).or_insert_with(qualify).clone()
    }

    fn tell(&mut self, name: &Name, problem: Problem) {
        let found = match self.routing.http.broken.routers.get(name) {
            Some(remains) => remains.news(problem.into()),
            None => problem.into(),
        };
        self.problems.extend(found.under(&format!("http.routers.{name}")));
    }
}

/// The middlewares of the entry point, of the router, and of the service.
struct Lists<'a> {
    outer: Option<Arc<[Name]>>,
    own: &'a [Name],
    inner: &'a [Name],
}

impl Lists<'_> {
    fn each(&self) -> [&[Name]; 3] {
        [self.outer.as_deref().unwrap_or_default(), self.own, self.inner]
    }
}

/// Whether a route goes where it would go now.
fn leads_to(route: &Route, target: &Target) -> bool {
    match (&route.target, target) {
        (Target::Service { chain: old_chain, service: old_service, .. }, Target::Service { chain, service, .. }) => {
            Arc::ptr_eq(old_chain, chain) && Arc::ptr_eq(old_service, service)
        }
        (Target::Disabled, Target::Disabled) => true,
        _ => false,
    }
}
