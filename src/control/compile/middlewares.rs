//! Middlewares and the chains of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::config::Routing;
use crate::middleware::chain::Step;
use crate::middleware::{AnyMiddleware, Chain, Kit, Settings};
use crate::problem::{Problem, Problems};
use crate::units::Name;

use super::Built;

/// What a bench has made.
pub(super) struct Made {
    pub(super) shared: BTreeMap<Name, Arc<AnyMiddleware>>,
    pub(super) per_router: BTreeMap<(Name, Name), Arc<AnyMiddleware>>,
    pub(super) chains: HashMap<Box<[Name]>, Arc<Chain>>,
}

/// Builds middlewares, each once, or once per router where limits are counted per router.
pub(super) struct Bench<'a> {
    routing: &'a Routing,
    previous: Option<&'a Built>,
    made: Made,
    broken: BTreeSet<Name>,
    /// Lists of names with their `chain`s taken apart.
    flattened: HashMap<Box<[Name]>, Option<Arc<[Name]>>>,
    pub(super) problems: &'a mut Problems,
}

impl<'a> Bench<'a> {
    /// Builds everything that is shared, so that each broken middleware is told once, used or not.
    pub(super) fn new(routing: &'a Routing, previous: Option<&'a Built>, problems: &'a mut Problems) -> Self {
        let made = Made { shared: BTreeMap::new(), per_router: BTreeMap::new(), chains: HashMap::new() };
        let mut bench = Self { routing, previous, made, broken: BTreeSet::new(), flattened: HashMap::new(), problems };
        for (name, settings) in &routing.http.middlewares {
            bench.build_shared(name, settings);
        }
        bench
    }

    pub(super) fn finish(self) -> Made {
        self.made
    }

    /// The chain of `names` for `router`. `None` if one of them does not exist or is broken; that is told under `path`.
    pub(super) fn chain(&mut self, names: &[Name], router: &Name, path: &str) -> Option<Arc<Chain>> {
        let names = self.flatten(names, path)?;
        let is_per_router = |name: &Name| self.routing.http.middlewares.get(name).is_some_and(|s| s.is_per_router());
        if names.iter().any(is_per_router) {
            return self.own_chain(&names, router);
        }
        if let Some(chain) = self.made.chains.get(&*names) {
            return Some(chain.clone());
        }
        let steps: Vec<Step> = names.iter().filter_map(|name| self.shared_step(name)).collect();
        let chain = self.keep_or_make(steps, self.previous.and_then(|built| built.chains.get(&*names)).cloned());
        self.made.chains.insert(names.iter().cloned().collect(), chain.clone());
        Some(chain)
    }

    fn own_chain(&mut self, names: &[Name], router: &Name) -> Option<Arc<Chain>> {
        let mut steps = Vec::with_capacity(names.len());
        for name in names {
            let settings = self.routing.http.middlewares.get(name)?;
            if settings.is_per_router() {
                let middleware = self.own_instance(name, settings, router)?;
                steps.push(Step { name: name.clone(), middleware });
            } else {
                steps.push(self.shared_step(name)?);
            }
        }
        Some(Arc::new(Chain::new(steps)))
    }

    fn own_instance(&mut self, name: &Name, settings: &Settings, router: &Name) -> Option<Arc<AnyMiddleware>> {
        let key = (router.clone(), name.clone());
        if let Some(instance) = self.made.per_router.get(&key) {
            return Some(instance.clone());
        }
        let kept =
            self.previous.filter(|_| self.is_unchanged(name)).and_then(|built| built.per_router.get(&key)).cloned();
        // It was built once for the problems, so it builds again.
        let instance = match kept {
            Some(kept) => kept,
            None => Arc::new(AnyMiddleware::build(settings, &Kit { name }).ok()?),
        };
        self.made.per_router.insert(key, instance.clone());
        Some(instance)
    }

    /// Takes `chain`s apart.
    fn flatten(&mut self, names: &[Name], path: &str) -> Option<Arc<[Name]>> {
        if let Some(known) = self.flattened.get(names)
            && known.is_some()
        {
            return known.clone();
        }
        let mut flat = Vec::with_capacity(names.len());
        let mut complete = true;
        for (index, name) in names.iter().enumerate() {
            if let Err(message) = self.expand(name, &mut Vec::new(), &mut flat) {
                self.problems.push(Problem::at(format!("{path}[{index}]"), message));
                complete = false;
            }
        }
        let flat = complete.then(|| Arc::<[Name]>::from(flat));
        self.flattened.insert(names.into(), flat.clone());
        flat
    }

    fn expand(&self, name: &Name, above: &mut Vec<Name>, flat: &mut Vec<Name>) -> Result<(), String> {
        if above.contains(name) {
            let path = above.iter().chain([name]).map(Name::as_str).collect::<Vec<_>>().join("->");
            return Err(format!("could not instantiate middleware {name}: recursion detected in {path}"));
        }
        let Some(settings) = self.routing.http.middlewares.get(name) else {
            if self.routing.http.broken.middlewares.contains_key(name) {
                return Err(format!("middleware \"{name}\" is broken; see its own problems"));
            }
            return Err(format!("middleware \"{name}\" does not exist"));
        };
        match settings.chain() {
            Some(members) => {
                above.push(name.clone());
                for member in members {
                    self.expand(&member.within(name.provider().unwrap_or_default()), above, flat)?;
                }
                above.pop();
            }
            None if self.broken.contains(name) => {
                return Err(format!("middleware \"{name}\" is broken; see its own problems"));
            }
            None => flat.push(name.clone()),
        }
        Ok(())
    }

    fn build_shared(&mut self, name: &Name, settings: &Settings) {
        if settings.chain().is_some() {
            return;
        }
        let kept =
            self.previous.filter(|_| self.is_unchanged(name)).and_then(|built| built.middlewares.get(name)).cloned();
        let built = match kept {
            Some(kept) => Ok(kept),
            None => AnyMiddleware::build(settings, &Kit { name }).map(Arc::new),
        };
        match built {
            Ok(middleware) => {
                self.made.shared.insert(name.clone(), middleware);
            }
            Err(problem) => {
                self.broken.insert(name.clone());
                self.problems.push(problem.under(&format!("http.middlewares.{name}")));
            }
        }
    }

    fn shared_step(&self, name: &Name) -> Option<Step> {
        self.made.shared.get(name).map(|middleware| Step { name: name.clone(), middleware: middleware.clone() })
    }

    fn keep_or_make(&self, steps: Vec<Step>, before: Option<Arc<Chain>>) -> Arc<Chain> {
        match before {
            Some(chain)
                if chain.steps().len() == steps.len()
                    && chain.steps().iter().zip(&steps).all(|(a, b)| Arc::ptr_eq(&a.middleware, &b.middleware)) =>
            {
                chain
            }
            _ => Arc::new(Chain::new(steps)),
        }
    }

    fn is_unchanged(&self, name: &Name) -> bool {
        let before = self.previous.and_then(|built| built.routing.http.middlewares.get(name));
        before
            .zip(self.routing.http.middlewares.get(name))
            .is_some_and(|(old, new)| Arc::ptr_eq(old, new) || old == new)
    }
}
