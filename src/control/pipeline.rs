//! Inbox → throttle → merge → compile → swap → status. The only writer of [`Current`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Routing;
use crate::observe::metrics::Metrics;
use crate::problem::{Problem, Problems};
use crate::snapshot::Current;

use super::inbox::{Contents, Inbox, Published};
use super::status::Status;
use super::{Built, Kit, compile};

/// From so many routers on, what reading and building them took is given back at once.
const LARGE: usize = 1000;
/// How often the files of certificates are looked at.
const LOOKS_EVERY: Duration = Duration::from_secs(2);
/// Most problems that the log tells each time.
const TOLD: usize = 1000;

/// How one application of the configuration ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Number of the snapshot in force afterwards.
    pub generation: u64,
    /// Whether every provider's configuration could be read.
    pub read: bool,
    /// Everything that is wrong.
    pub problems: Problems,
    /// Routers in force.
    pub routers: usize,
    /// Time to merge, compile and swap.
    pub took: Duration,
    /// When it came into force.
    pub at: SystemTime,
}

/// Turns what providers publish into the snapshot in force.
pub struct Pipeline {
    inbox: Arc<Inbox>,
    /// Locked while something is applied only.
    kit: Mutex<Kit>,
    current: Arc<Current>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    built: Mutex<Option<Built>>,
    /// Held by whoever is about to apply something on a thread of the runtime's: others wait without one.
    turn: Arc<Semaphore>,
    /// The version of the inbox that is in force.
    applied: AtomicU64,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Pipeline {
    /// A pipeline from `inbox` to `current`.
    pub fn new(inbox: Arc<Inbox>, kit: Kit, current: Arc<Current>, status: Arc<Status>, metrics: Arc<Metrics>) -> Self {
        Self {
            inbox,
            kit: Mutex::new(kit),
            current,
            status,
            metrics,
            built: Mutex::new(None),
            turn: Arc::new(Semaphore::new(1)),
            applied: AtomicU64::new(0),
            outcome: watch::Sender::new(None),
        }
    }

    /// How the newest application ended; changes with each.
    pub fn outcomes(&self) -> watch::Receiver<Option<Outcome>> {
        self.outcome.subscribe()
    }

    /// Waits until nobody else is applying anything. To be asked for before a thread is taken that will, and held until it is done.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.turn.clone().acquire_owned().await.ok()
    }

    /// Applies whatever is published, at most once per `throttle`. Ends never.
    pub async fn run(self: Arc<Self>, throttle: Duration) {
        loop {
            self.inbox.changed().await;
            let (pipeline, turn) = (self.clone(), self.turn().await);
            let apply = move || {
                let _turn = turn;
                pipeline.apply_news()
            };
            // Compiling may take seconds for a million routes; probes and the API share this runtime.
            match tokio::task::spawn_blocking(apply).await {
                Ok(None) => continue,
                Ok(Some(_)) => {}
                Err(error) => log::error!("applying the configuration failed: {error}"),
            }
            tokio::time::sleep(throttle).await;
        }
    }

    /// Applies the configuration again whenever a certificate, a key or an authority's file is another than before. Ends never.
    ///
    /// The files are looked at, as those of Kubernetes are links that are turned to elsewhere, which nobody announces.
    pub async fn watch_files(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOKS_EVERY).await;
            // Somebody who holds it applies a configuration, and looks at the files in doing so.
            let has_stale_files =
                self.built.try_lock().is_some_and(|built| built.as_ref().is_some_and(Built::has_stale_files));
            if !has_stale_files {
                continue;
            }
            let (pipeline, turn) = (self.clone(), self.turn().await);
            let apply = move || {
                let _turn = turn;
                pipeline.apply_other_files();
            };
            let applied = tokio::task::spawn_blocking(apply).await;
            if let Err(error) = applied {
                log::error!("looking at certificate files failed: {error}");
            }
        }
    }

    fn apply_other_files(&self) {
        let mut built = self.built.lock();
        if built.as_ref().is_some_and(Built::has_stale_files) {
            self.replace(&mut built);
        }
    }

    /// Applies what is published now. Blocks while it compiles.
    pub fn apply(&self) -> Outcome {
        self.replace(&mut self.built.lock())
    }

    /// The version of what providers published that is in force.
    pub fn version(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Applies what is published now, and again if it is no news, unless that has happened since the version was `before`.
    pub fn apply_since(&self, before: u64) -> Outcome {
        let mut built = self.built.lock();
        let last = self.outcome.borrow().clone();
        let version = self.version();
        match last.filter(|_| version != before && version == self.inbox.version()) {
            Some(outcome) => outcome,
            None => self.replace(&mut built),
        }
    }

    /// Applies what is published now, unless a reload that somebody waits for has been quicker.
    fn apply_news(&self) -> Option<Outcome> {
        let mut built = self.built.lock();
        let is_news = self.version() != self.inbox.version();
        is_news.then(|| self.replace(&mut built))
    }

    fn replace(&self, built: &mut Option<Built>) -> Outcome {
        let started = Instant::now();
        let Contents { published, entry_points, internals, version } = self.inbox.contents();
        let kit = &mut *self.kit.lock();
        if let Some(entry_points) = entry_points {
            kit.entry_points = entry_points;
        }
        if let Some(internals) = internals {
            kit.internals = internals;
        }
        let next = compile(join(&published), built.as_ref(), kit);
        next.start(kit);
        kit.runtime.block_on(next.addresses_asked());
        self.current.store(next.snapshot.clone());
        if let Some(before) = built {
            before.retire(&next);
        }
        let problems = gather(&published, &next.problems);
        let read = !published.values().any(|published| published.failed);
        let outcome = Outcome {
            generation: next.snapshot.generation,
            read,
            problems,
            routers: next.routing.http.routers.len(),
            took: started.elapsed(),
            at: SystemTime::now(),
        };
        self.applied.store(version, Ordering::SeqCst);
        self.metrics.set_certificates(next.certificates());
        self.status.set(&next, &outcome);
        let before = built.replace(next).map(|before| before.routing.http.routers.len());
        let is_large = before.is_none_or(|routers| outcome.routers.max(routers) >= LARGE);
        if let Some(give_back) = kit.give_back.filter(|_| is_large) {
            drop(published);
            give_back();
        }
        self.count(&outcome);
        report(&outcome);
        self.outcome.send_replace(Some(outcome.clone()));
        outcome
    }

    fn count(&self, outcome: &Outcome) {
        if outcome.read {
            self.metrics.config_reloaded(outcome.at);
        } else {
            self.metrics.config_failed();
        }
        let errors = outcome.problems.iter().filter(|problem| problem.is_error()).count();
        self.metrics.set_problems(outcome.problems.len() - errors, errors);
    }
}

/// What all providers have published, as one.
fn join(published: &BTreeMap<Arc<str>, Published>) -> Arc<Routing> {
    let mut parts = published.values().map(|published| &published.routing).filter(|routing| !routing.is_empty());
    let Some(first) = parts.next() else { return Arc::default() };
    parts.fold(first.clone(), |mut joined, part| {
        Arc::make_mut(&mut joined).merge(Routing::clone(part));
        joined
    })
}

/// All problems, each with its place where the source has it.
fn gather(published: &BTreeMap<Arc<str>, Published>, compiled: &Problems) -> Problems {
    let mut all = Problems::new();
    for published in published.values() {
        all.extend(published.problems.iter().cloned());
    }
    all.extend(compiled.iter().cloned().map(|problem| place(problem, published)));
    // As a reader goes through the file; what has no place comes first.
    let mut all: Vec<Problem> = all.once_each().into_iter().collect();
    all.sort_by(|a, b| a.place.cmp(&b.place));
    all.into_iter().collect()
}

/// Compile speaks of `http.routers.web@file.rule`; the provider knows `http.routers.web.rule`.
fn place(problem: Problem, published: &BTreeMap<Arc<str>, Published>) -> Problem {
    let found = published.iter().find_map(|(provider, published)| {
        let locate = published.locate.as_ref()?;
        let suffix = format!("@{provider}");
        problem.path.contains(&suffix).then(|| locate.locate(&problem.path.replacen(&suffix, "", 1)))
    });
    problem.placed(found.flatten())
}

fn report(outcome: &Outcome) {
    for problem in outcome.problems.iter().take(TOLD) {
        if problem.is_error() {
            log::error!("{problem}");
        } else {
            log::warn!("{problem}");
        }
    }
    if outcome.problems.len() > TOLD {
        log::warn!("{} more problems; the API and `portcullis check` tell all of them", outcome.problems.len() - TOLD);
    }
    log::info!(
        event = "configuration-applied",
        generation = outcome.generation,
        routers = outcome.routers,
        problems = outcome.problems.len(),
        milliseconds = outcome.took.as_millis() as u64;
        "configuration applied"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::config::install::RuleSyntax;
    use crate::config::{Format, load};
    use crate::observe::metrics;
    use crate::service::{Transport, tcp, transport};
    use crate::tls::fallback;

    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

    fn give_back() {
        GIVEN_BACK.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn memory_is_given_back_after_the_first_configuration_and_after_large_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let metrics = Arc::new(Metrics::new(&metrics::Settings::default(), 1));
        let kit = Kit {
            entry_points: Arc::default(),
            internals: Arc::default(),
            default_syntax: RuleSyntax::V3,
            default_transport: Transport::build(&transport::Settings::default()).unwrap(),
            default_tcp_transport: tcp::Transport::build(&tcp::transport::Settings::default()).unwrap(),
            precedence: Vec::new(),
            metrics: metrics.clone(),
            tickets: Arc::default(),
            resolvers: ["le".into()].into(),
            staples: false,
            fallback: fallback::certificate().unwrap(),
            runtime: runtime.handle().clone(),
            give_back: Some(give_back),
        };
        let inbox = Arc::new(Inbox::default());
        let updates = inbox.updates("file");
        let pipeline = Pipeline::new(inbox, kit, Arc::default(), Arc::default(), metrics);
        // The last but one is small, but it follows a large one.
        for (routers, calls) in [(0, 1), (1, 1), (LARGE, 2), (LARGE + 1, 3), (1, 4), (2, 4)] {
            let router = |n| format!("[http.routers.r{n}]\nrule = 'Path(`/{n}`)'\nservice = 's'\n");
            let text: String = (0..routers).map(router).collect();
            let (routing, _) = load::dynamic(&text, Format::Toml, "test", "file");
            updates.publish(Arc::new(routing), Problems::new(), None);
            pipeline.apply();
            assert_eq!(GIVEN_BACK.load(Ordering::SeqCst), calls, "{routers} routers");
        }
    }
}
