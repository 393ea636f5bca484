//! What runs, what does not and why: what `check`, the log and the API show.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::config::Routing;
use crate::problem::Problem;
use crate::service::{Service, udp};
use crate::snapshot::Snapshot;
use crate::tls::Certificates;
use crate::units::Name;

use super::{Built, EntryPoints, Outcome, Wanted};

/// The newest configuration as applied.
#[derive(Debug)]
pub struct Applied {
    /// As written, names qualified.
    pub routing: Arc<Routing>,
    /// The entry points that it is for.
    pub entry_points: Arc<EntryPoints>,
    /// As built.
    pub snapshot: Arc<Snapshot>,
    /// Services by name.
    pub services: Arc<std::collections::BTreeMap<Name, Arc<Service>>>,
    /// TCP services by name.
    pub tcp_services: Arc<std::collections::BTreeMap<Name, Arc<crate::service::tcp::Service>>>,
    /// UDP services by name.
    pub udp_services: Arc<std::collections::BTreeMap<Name, Arc<udp::Service>>>,
    /// Certificates that routers want somebody to get.
    pub wanted: Arc<[Wanted]>,
    /// All certificates, by their names.
    pub certificates: Arc<Certificates>,
    /// How it went.
    pub outcome: Outcome,
    /// The problems, by their paths.
    by_path: Box<[usize]>,
}

impl Applied {
    /// The problems of one object, by the path of it: `http.routers.web@file`.
    pub fn problems_of(&self, path: &str) -> Vec<&Problem> {
        if self.by_path.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<&Problem> = self.problems_from(path).take_while(|problem| problem.path == path).collect();
        // A path that goes on with a letter is that of another object.
        for start in [format!("{path}."), format!("{path}[")] {
            found.extend(self.problems_from(&start).take_while(|problem| problem.path.starts_with(&start)));
        }
        found
    }

    /// The problems in the order of their paths, from `start` on.
    fn problems_from(&self, start: &str) -> impl Iterator<Item = &Problem> {
        let problem = |index: &usize| self.outcome.problems.as_slice().get(*index);
        let first = self.by_path.partition_point(|index| problem(index).is_some_and(|problem| *problem.path < *start));
        self.by_path.iter().skip(first).filter_map(problem)
    }
}

/// The newest configuration as applied, if there is one.
#[derive(Debug, Default)]
pub struct Status {
    applied: ArcSwapOption<Applied>,
    changes: watch::Sender<()>,
}

impl Status {
    /// What is in force.
    pub fn applied(&self) -> Option<Arc<Applied>> {
        self.applied.load_full()
    }

    /// Changes with each configuration that is applied.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn set(&self, built: &Built, outcome: &Outcome) {
        let problems = outcome.problems.as_slice();
        let mut by_path: Box<[usize]> = (0..problems.len()).collect();
        by_path.sort_by_key(|index| problems.get(*index).map(|problem| &problem.path));
        self.applied.store(Some(Arc::new(Applied {
            routing: built.routing.clone(),
            entry_points: built.entry_points.clone(),
            snapshot: built.snapshot.clone(),
            services: built.services.clone(),
            tcp_services: built.tcp_services().clone(),
            udp_services: built.udp_services.clone(),
            wanted: built.wanted().clone(),
            certificates: built.certificate_index().clone(),
            outcome: outcome.clone(),
            by_path,
        })));
        self.changes.send_replace(());
    }
}
