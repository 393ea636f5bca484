//! The newest configuration of each provider; the last one wins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::config::Routing;
use crate::problem::{Place, Problem, Problems};

use super::compile::Internals;
use super::entry_points::EntryPoints;

/// Finds where a path of the configuration is written. Asked only when there is a problem to report, so that a million
/// routes do not each carry their place.
pub trait Locate: Send + Sync {
    /// The place of `path` (`http.routers.web.rule`, names unqualified), if the source still has it.
    fn locate(&self, path: &str) -> Option<Place>;
}

/// What a provider published last.
#[derive(Clone)]
pub struct Published {
    /// Its last configuration that could be read.
    pub routing: Arc<Routing>,
    /// What was wrong with its last configuration, read or not.
    pub problems: Problems,
    /// Whether the last configuration could not be read at all, so that `routing` is an older one.
    pub failed: bool,
    /// Where things are written.
    pub locate: Option<Arc<dyn Locate>>,
}

/// What all providers published last, and the entry points that it is for.
#[derive(Default)]
pub struct Inbox {
    contents: Mutex<Contents>,
    /// Counts what was published.
    version: AtomicU64,
    changed: Notify,
}

/// Everything that an inbox has.
#[derive(Clone, Default)]
pub struct Contents {
    /// By provider.
    pub published: BTreeMap<Arc<str>, Published>,
    /// The entry points, if others than those that there were at first.
    pub entry_points: Option<Arc<EntryPoints>>,
    /// The services of the gateway itself, if others than those that there were at first.
    pub internals: Option<Internals>,
    /// The version that it is.
    pub version: u64,
}

impl Inbox {
    /// The slot of one provider.
    pub fn updates(self: &Arc<Self>, provider: &str) -> Updates {
        Updates { inbox: self.clone(), provider: provider.into() }
    }

    /// Everything published so far.
    pub fn contents(&self) -> Contents {
        let contents = self.contents.lock();
        Contents { version: self.version(), ..contents.clone() }
    }

    /// Has the configuration be one for these entry points.
    pub fn set_entry_points(&self, entry_points: Arc<EntryPoints>) {
        let mut contents = self.contents.lock();
        if contents.entry_points.as_ref() == Some(&entry_points) {
            return;
        }
        contents.entry_points = Some(entry_points);
        self.note_change(contents);
    }

    /// Has routers find these services of the gateway itself.
    pub fn set_internals(&self, internals: Internals) {
        let mut contents = self.contents.lock();
        contents.internals = Some(internals);
        self.note_change(contents);
    }

    fn note_change(&self, contents: MutexGuard<'_, Contents>) {
        self.version.fetch_add(1, Ordering::SeqCst);
        drop(contents);
        self.changed.notify_one();
    }

    /// Changes with everything that is published.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Waits until something has been published since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A provider's way to publish. Never blocks; an update that was not taken yet is replaced.
#[derive(Clone)]
pub struct Updates {
    inbox: Arc<Inbox>,
    provider: Arc<str>,
}

impl Updates {
    /// The provider's name, as in `name@provider`.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Publishes a whole configuration. One that equals the last is dropped. Of another, the objects that did not change should
    /// be those of the last ([`Routing::sharing`]), so that they stand in memory once.
    pub fn publish(&self, routing: Arc<Routing>, problems: Problems, locate: Option<Arc<dyn Locate>>) {
        let mut contents = self.inbox.contents.lock();
        let same = contents
            .published
            .get(&self.provider)
            .is_some_and(|last| !last.failed && last.problems == problems && last.routing == routing);
        if same {
            return;
        }
        contents.published.insert(self.provider.clone(), Published { routing, problems, failed: false, locate });
        self.inbox.note_change(contents);
    }

    /// Says that the configuration could not be read. The last good one stays in force.
    pub fn fail(&self, problems: impl IntoIterator<Item = Problem>) {
        let mut contents = self.inbox.contents.lock();
        let entry = contents.published.entry(self.provider.clone()).or_insert_with(|| Published {
            routing: Arc::default(),
            problems: Problems::new(),
            failed: false,
            locate: None,
        });
        entry.problems = problems.into_iter().collect();
        entry.failed = true;
        self.inbox.note_change(contents);
    }
}
