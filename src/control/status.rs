//! What runs, what does not and why: what `check`, the log and the API show.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::config::Routing;
use crate::problem::Problem;
use crate::service::Service;
use crate::snapshot::Snapshot;
use crate::units::Name;

use super::{Built, Outcome};

/// The newest configuration as applied.
#[derive(Debug)]
pub struct Applied {
    /// As written, names qualified.
    pub routing: Arc<Routing>,
    /// As built.
    pub snapshot: Arc<Snapshot>,
    /// Services by name.
    pub services: Arc<std::collections::BTreeMap<Name, Arc<Service>>>,
    /// How it went.
    pub outcome: Outcome,
}

impl Applied {
    /// The problems of one object, by the path of it: `http.routers.web@file`.
    pub fn problems_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Problem> {
        self.outcome.problems.iter().filter(move |problem| {
            problem.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// The newest configuration as applied, if there is one.
#[derive(Debug, Default)]
pub struct Status(ArcSwapOption<Applied>);

impl Status {
    /// What is in force.
    pub fn applied(&self) -> Option<Arc<Applied>> {
        self.0.load_full()
    }

    pub(super) fn set(&self, built: &Built, outcome: &Outcome) {
        self.0.store(Some(Arc::new(Applied {
            routing: built.routing.clone(),
            snapshot: built.snapshot.clone(),
            services: built.services.clone(),
            outcome: outcome.clone(),
        })));
    }
}
