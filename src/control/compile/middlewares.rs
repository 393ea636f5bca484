//! Middlewares and the chains of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::config::Routing;
use crate::middleware::chain::Step;
use crate::middleware::{AnyMiddleware, Chain, Kit, Settings};
use crate::problem::{Problem, Problems};
use crate::units::Name;

use super::Built;

/// What a bench has made.
#[derive(Default)]
pub(super) struct Made {
    pub(super) shared: BTreeMap<Name, Arc<AnyMiddleware>>,
    /// Ordered by router, as routers are built in the order of their names.
    pub(super) own: Vec<Own>,
    pub(super) chains: HashMap<Box<[Name]>, Arc<Chain>>,
}

/// An instance that belongs to one router.
pub(super) struct Own {
    router: Name,
    name: Name,
    instance: Arc<AnyMiddleware>,
}

/// Why a list of middlewares makes no chain: which list, which entry of it, and what is wrong with that.
pub(super) struct Gap {
    pub(super) list: usize,
    pub(super) index: usize,
    pub(super) message: String,
}

/// Most middlewares that one list may stand for, `chain`s counted too: chains within chains multiply.
const EXPANSION_LIMIT: usize = 1000;

/// A list of names with its `chain`s taken apart, or what is wrong with its entries, by their index.
type Flat = Result<Arc<[Name]>, Arc<[(usize, String)]>>;

/// Builds middlewares, each once, or once per router where limits are counted per router.
pub(super) struct Bench<'a> {
    routing: &'a Routing,
    previous: Option<&'a Built>,
    made: Made,
    broken: BTreeSet<&'a Name>,
    unchanged: BTreeSet<&'a Name>,
    flat: HashMap<Box<[Name]>, Flat>,
}

impl<'a> Bench<'a> {
    /// Builds everything that is shared, so that each broken middleware is told once, used or not.
    pub(super) fn new(routing: &'a Routing, previous: Option<&'a Built>, problems: &mut Problems) -> Self {
        let mut bench = Self {
            routing,
            previous,
            made: Made::default(),
            broken: BTreeSet::new(),
            unchanged: BTreeSet::new(),
            flat: HashMap::new(),
        };
        for (name, settings) in &routing.http.middlewares {
            let path = format!("http.middlewares.{name}");
            problems.extend(settings.warnings().into_iter().map(|problem| problem.under(&path)));
            bench.build_shared(name, settings, &path, problems);
        }
        for (name, remains) in &routing.http.broken.middlewares {
            let Some(settings) = remains.rest.as_deref().filter(|settings| settings.chain().is_none()) else {
                continue;
            };
            if let Err(found) = AnyMiddleware::build(settings, &Kit { name }) {
                problems.extend(remains.news(found).under(&format!("http.middlewares.{name}")));
            }
        }
        bench.check_chains(problems);
        bench
    }

    /// Tells what is wrong with the members of each chain, used or not. A chain with such a member is broken.
    fn check_chains(&mut self, problems: &mut Problems) {
        let chains = self.routing.http.middlewares.iter().filter_map(|(name, it)| Some((name, it.chain()?)));
        let mut broken = Vec::new();
        for (name, members) in chains {
            let provider = name.provider().unwrap_or_default();
            for (index, member) in members.iter().map(|member| member.within(provider)).enumerate() {
                let mut expansion = Expansion { above: vec![name.clone()], flat: Vec::new(), seen: 0 };
                let Err(flaw) = self.expand(&member, &mut expansion) else { continue };
                let message = match flaw {
                    Flaw::Lacking(message) if expansion.above.len() == 1 => message,
                    Flaw::Circle(message, of) if of == *name => message,
                    // What is wrong within another chain is told there.
                    Flaw::Lacking(_) | Flaw::Circle(..) => format!("middleware \"{member}\" {BROKEN}"),
                    // The limit is that of a whole list; whoever writes that list is told.
                    Flaw::Endless(_) => continue,
                };
                broken.push(name);
                let path = format!("http.middlewares.{name}.chain.middlewares[{index}]");
                problems.push(Problem::at(path, message));
            }
        }
        self.broken.extend(broken);
    }

    pub(super) fn finish(mut self) -> Made {
        self.made.own.shrink_to_fit();
        self.made
    }

    /// The chain of the middlewares in `lists`, one list after the other, for `router`; `before` if that is the same.
    ///
    /// # Errors
    /// Each entry that does not exist or is broken.
    pub(super) fn chain(
        &mut self,
        lists: &[&[Name]],
        router: &Name,
        before: Option<&Arc<Chain>>,
    ) -> Result<Arc<Chain>, Vec<Gap>> {
        let names = self.names(lists)?;
        if names.iter().any(|name| self.is_per_router(name)) {
            let steps = names.iter().filter_map(|name| self.own_step(name, router)).collect();
            return Ok(keep_or_make(steps, before));
        }
        if let Some(chain) = self.made.chains.get(&*names) {
            return Ok(chain.clone());
        }
        let steps = names.iter().filter_map(|name| self.shared_step(name)).collect();
        let chain = keep_or_make(steps, self.previous.and_then(|built| built.chains.get(&*names)));
        self.made.chains.insert(names.into_iter().collect(), chain.clone());
        Ok(chain)
    }

    /// The names in `lists`, one list after the other, with their chains taken apart.
    ///
    /// # Errors
    /// Each entry that does not exist or is broken.
    pub(super) fn names(&mut self, lists: &[&[Name]]) -> Result<SmallVec<[Name; 8]>, Vec<Gap>> {
        let mut names: SmallVec<[Name; 8]> = SmallVec::new();
        let mut gaps = Vec::new();
        for (list, written) in lists.iter().enumerate().filter(|(_, written)| !written.is_empty()) {
            match self.flatten(written) {
                Ok(flat) => names.extend(flat.iter().cloned()),
                Err(found) => gaps.extend(found.iter().map(|(index, message)| Gap {
                    list,
                    index: *index,
                    message: message.clone(),
                })),
            }
        }
        if gaps.is_empty() { Ok(names) } else { Err(gaps) }
    }

    fn build_shared(&mut self, name: &'a Name, settings: &Settings, path: &str, problems: &mut Problems) {
        if settings.chain().is_some() {
            return;
        }
        let before = self.previous.filter(|built| {
            let before = built.routing.http.middlewares.get(name);
            before.is_some_and(|before| std::ptr::eq(&raw const **before, settings) || **before == *settings)
        });
        let kept = before.and_then(|built| built.middlewares.get(name)).filter(|kept| kept.is_current()).cloned();
        if kept.is_some() {
            self.unchanged.insert(name);
        }
        match kept.map_or_else(|| AnyMiddleware::build(settings, &Kit { name }).map(Arc::new), Ok) {
            Ok(middleware) => {
                self.made.shared.insert(name.clone(), middleware);
            }
            Err(found) => {
                self.broken.insert(name);
                problems.extend(found.under(path));
            }
        }
    }

    fn is_per_router(&self, name: &Name) -> bool {
        self.routing.http.middlewares.get(name).is_some_and(|settings| settings.is_per_router())
    }

    fn shared_step(&self, name: &Name) -> Option<Step> {
        self.made.shared.get(name).map(|middleware| Step { name: name.clone(), middleware: middleware.clone() })
    }

    fn own_step(&mut self, name: &Name, router: &Name) -> Option<Step> {
        let settings = self.routing.http.middlewares.get(name).filter(|settings| settings.is_per_router());
        let Some(settings) = settings else { return self.shared_step(name) };
        let made = find_own(&self.made.own, router, name);
        let kept = || self.previous.filter(|_| self.unchanged.contains(name)).map(|built| &built.own);
        let instance = match made.or_else(|| find_own(kept()?, router, name)) {
            Some(instance) => instance.clone(),
            // It was built once for the problems, so it builds again.
            None => Arc::new(AnyMiddleware::build(settings, &Kit { name }).ok()?),
        };
        if made.is_none() {
            self.made.own.push(Own { router: router.clone(), name: name.clone(), instance: instance.clone() });
        }
        Some(Step { name: name.clone(), middleware: instance })
    }

    fn flatten(&mut self, names: &[Name]) -> Flat {
        if let Some(known) = self.flat.get(names) {
            return known.clone();
        }
        let mut expansion = Expansion { above: Vec::new(), flat: Vec::with_capacity(names.len()), seen: 0 };
        let mut gaps = Vec::new();
        for (index, name) in names.iter().enumerate() {
            expansion.above.clear();
            if let Err(Flaw::Lacking(message) | Flaw::Circle(message, _) | Flaw::Endless(message)) =
                self.expand(name, &mut expansion)
            {
                gaps.push((index, message));
            }
        }
        let flat: Flat = if gaps.is_empty() { Ok(expansion.flat.into()) } else { Err(gaps.into()) };
        self.flat.insert(names.into(), flat.clone());
        flat
    }

    /// Adds what stands for `name`: itself, or the members of a chain.
    fn expand(&self, name: &Name, to: &mut Expansion) -> Result<(), Flaw> {
        to.seen += 1;
        if to.seen > EXPANSION_LIMIT {
            let message =
                format!("middleware \"{name}\" makes more than {EXPANSION_LIMIT} of them, its chains taken apart");
            return Err(Flaw::Endless(message));
        }
        if to.above.contains(name) {
            let path = to.above.iter().chain([name]).map(Name::as_str).collect::<Vec<_>>().join("->");
            let message = format!("could not instantiate middleware {name}: recursion detected in {path}");
            return Err(Flaw::Circle(message, name.clone()));
        }
        let http = &self.routing.http;
        let Some(settings) = http.middlewares.get(name) else {
            let how = if http.broken.middlewares.contains_key(name) { BROKEN } else { "does not exist" };
            return Err(Flaw::Lacking(format!("middleware \"{name}\" {how}")));
        };
        if self.broken.contains(name) {
            return Err(Flaw::Lacking(format!("middleware \"{name}\" {BROKEN}")));
        }
        match settings.chain() {
            Some(members) => {
                to.above.push(name.clone());
                for member in members {
                    self.expand(&member.within(name.provider().unwrap_or_default()), to)?;
                }
                to.above.pop();
            }
            None => to.flat.push(name.clone()),
        }
        Ok(())
    }
}

const BROKEN: &str = "is broken; see its own problems";

/// Why a name stands for nothing.
enum Flaw {
    /// It, or one of its members, is not there or broken.
    Lacking(String),
    /// It leads back to this chain.
    Circle(String, Name),
    /// It stands for too many.
    Endless(String),
}

/// A list on its way to being flat.
struct Expansion {
    /// The chains that the present name stands in.
    above: Vec<Name>,
    flat: Vec<Name>,
    /// Names looked at.
    seen: usize,
}

fn find_own<'o>(own: &'o [Own], router: &Name, name: &Name) -> Option<&'o Arc<AnyMiddleware>> {
    let first = own.partition_point(|own| own.router < *router);
    let of_router = own.get(first..)?.iter().take_while(|own| own.router == *router);
    of_router.into_iter().find(|own| own.name == *name).map(|own| &own.instance)
}

fn keep_or_make(steps: Vec<Step>, before: Option<&Arc<Chain>>) -> Arc<Chain> {
    let is_same = |chain: &&Arc<Chain>| {
        chain.steps().len() == steps.len()
            && chain
                .steps()
                .iter()
                .zip(&steps)
                .all(|(a, b)| a.name == b.name && Arc::ptr_eq(&a.middleware, &b.middleware))
    };
    match before.filter(is_same) {
        Some(chain) => chain.clone(),
        None => Arc::new(Chain::new(steps)),
    }
}
