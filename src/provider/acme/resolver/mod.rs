//! One resolver at work: plan, order, keep, publish, and all that again when something changes or is due.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use super::Proofs;
use super::dns::Dns;
use super::order::Orders;
use super::patience::{Names, Patience, Remembered};
use super::renewal::Window;
use super::server::Failure;
use super::storage::{Kept, Storage, Stored};
use crate::config::resolvers::Acme;
use crate::config::router_tls::Domain;
use crate::control::{Status, Updates};
use crate::problem::Problem;
use crate::tls::Chain;
use crate::web::Web;

mod due;
mod keeping;
mod ordering;
mod outcome;
mod publishing;

/// Most orders of one resolver at once.
const ORDERS: usize = 4;
/// It is looked at least so often, whatever is due: clocks may be set.
const LOOKS_EVERY: Duration = Duration::from_secs(3600);
/// When the storage is tried again that cannot be used.
const STORAGE_AGAIN: Duration = Duration::from_secs(10);
/// When it is tried again while another process works: that of before an upgrade.
const OTHER_PROCESS_AGAIN: Duration = Duration::from_secs(1);
/// When the server is asked again for a time to renew that it did not tell.
const WINDOW_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// A resolver of certificates.
pub struct Resolver {
    name: Box<str>,
    /// Its name as a provider.
    provider: String,
    settings: Arc<Acme>,
    storage: Arc<Storage>,
    web: Mutex<Option<Web>>,
    dns: Option<Result<Arc<Dns>, Problem>>,
    status: Arc<Status>,
    proofs: Proofs,
    orders: tokio::sync::Mutex<Option<Arc<Orders>>>,
}

/// What a resolver has in mind.
#[derive(Default)]
struct Mind {
    kept: Kept,
    /// Certificates that could not be written yet.
    unsaved: Vec<Stored>,
    /// What certificates say, by their text.
    chains: BTreeMap<String, Chain>,
    /// What was tried.
    patience: Patience,
    /// What of it is kept beside the storage.
    remembered: Vec<Remembered>,
    /// Why what was refused since is not kept there yet.
    unkept: Option<String>,
    /// When the server wants a certificate to be renewed, by its name there.
    windows: BTreeMap<String, Wish>,
    running: Vec<Names>,
    asking: Vec<String>,
    /// What each task is for.
    tasks: HashMap<task::Id, Work>,
    storage: Option<String>,
    objections: BTreeMap<Box<str>, &'static str>,
}

enum Work {
    Order(Names),
    Ask(String),
}

struct Wish {
    /// The window, and the moment in it that was drawn.
    window: Option<(Window, i64)>,
    again: Instant,
}

/// What came of a task.
enum Done {
    Ordered { names: Names, result: Result<(Stored, Result<(), String>), Failure> },
    Asked { certificate: String, result: Result<Option<(Window, Duration)>, Failure> },
}

/// A certificate that is to be got.
#[derive(Debug)]
struct Order {
    names: Names,
    domain: Domain,
    /// What the one before is called at the server.
    replaces: Option<String>,
}

impl Resolver {
    pub(super) fn new(
        name: &str,
        settings: Acme,
        storage: Arc<Storage>,
        (web, dns): (Web, Option<Result<Arc<Dns>, Problem>>),
        (status, proofs): (Arc<Status>, Proofs),
    ) -> Self {
        Self {
            name: name.into(),
            provider: format!("{name}.acme"),
            settings: Arc::new(settings),
            storage,
            web: Mutex::new(Some(web)),
            dns,
            status,
            proofs,
            orders: tokio::sync::Mutex::new(None),
        }
    }

    async fn run(self: Arc<Self>, updates: Updates) {
        let mut changes = self.status.changes();
        let mut mind = Mind::default();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            let wake = self.step(&mut mind, &mut tasks, &updates).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(done) = tasks.join_next_with_id() => {
                    match done {
                        Ok((id, done)) => {
                            mind.tasks.remove(&id);
                            self.note(&mut mind, done);
                        }
                        Err(error) => {
                            log::error!("certificate resolver {}: {error}", self.name);
                            let work = mind.tasks.remove(&error.id());
                            self.note_breakdown(&mut mind, work);
                        }
                    }
                    self.remember(&mut mind).await;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Looks at everything and begins what is due; when to look again.
    async fn step(self: &Arc<Self>, mind: &mut Mind, tasks: &mut JoinSet<Done>, updates: &Updates) -> Instant {
        let now = Instant::now();
        let mut wake = now + LOOKS_EVERY;
        if mind.unkept.is_some() {
            self.remember(mind).await;
        }
        if mind.unkept.is_some() {
            wake = now + STORAGE_AGAIN;
        }
        self.load(mind).await;
        if mind.storage.is_some() {
            wake = now + STORAGE_AGAIN;
        } else {
            let due = self.due(mind, now, &mut wake);
            if !due.is_empty() || !mind.unsaved.is_empty() {
                self.begin(mind, tasks, due, &mut wake).await;
            }
            self.ask_for_windows(mind, tasks, now, &mut wake);
        }
        updates.publish(Arc::new(self.routing(mind)), self.problems(mind), None);
        wake
    }

    /// Takes the right to write, looks again at what is kept, and begins as much as may run at once.
    async fn begin(self: &Arc<Self>, mind: &mut Mind, tasks: &mut JoinSet<Done>, due: Vec<Order>, wake: &mut Instant) {
        let now = Instant::now();
        let storage = self.storage.clone();
        let held = task::spawn_blocking(move || storage.hold()).await;
        let held = match held.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Some(held)) => held,
            Ok(None) => {
                log::debug!("certificate resolver {}: another process has the storage", self.name);
                *wake = (*wake).min(now + OTHER_PROCESS_AGAIN);
                return;
            }
            Err(message) => {
                mind.storage = Some(message);
                *wake = (*wake).min(now + STORAGE_AGAIN);
                return;
            }
        };
        // Another process may have got by now what we lack, or was refused.
        self.load(mind).await;
        self.recall(mind).await;
        self.save(mind, &held, wake).await;
        let again = if mind.storage.is_none() {
            self.due(mind, now, wake)
        } else {
            *wake = (*wake).min(now + STORAGE_AGAIN);
            Vec::new()
        };
        let is_due = |order: &Order| due.iter().any(|before| before.names == order.names);
        for order in again.into_iter().filter(is_due) {
            if mind.running.len() >= ORDERS {
                break;
            }
            mind.running.push(order.names.clone());
            log::info!(
                event = "certificate-ordered", resolver = &*self.name, names = order.names.join(",");
                "a certificate for {} is ordered", order.names.join(", ")
            );
            let work = Work::Order(order.names.clone());
            let task = tasks.spawn(self.clone().carry_out(order, held.clone()));
            mind.tasks.insert(task.id(), work);
        }
    }
}

/// Now, in seconds of Unix time.
fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
