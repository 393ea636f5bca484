//! One resolver at work: plan, order, keep, publish, and all that again when something changes or is due.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use super::Proofs;
use super::account::Account;
use super::dns::Dns;
use super::order::{Issued, Orders, renewal_name};
use super::patience::{Names, Patience, Remembered};
use super::plan;
use super::proof::Prover;
use super::renewal::{self, Window};
use super::server::{Failure, Server};
use super::storage::{Held, Kept, Storage, Stored};
use crate::config::Routing;
use crate::config::resolvers::Acme;
use crate::config::router_tls::Domain;
use crate::config::tls::Certificate;
use crate::control::{Status, Updates};
use crate::problem::{Problem, Problems};
use crate::provider::Provider;
use crate::tls::{Chain, certificate};
use crate::units::Secret;
use crate::web::Web;

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

    async fn load(&self, mind: &mut Mind) {
        let (storage, name) = (self.storage.clone(), self.name.clone());
        let loaded = task::spawn_blocking(move || storage.load(&name)).await;
        match loaded.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(kept) => {
                mind.kept = kept;
                mind.storage = None;
            }
            Err(message) => {
                if mind.storage.as_ref() != Some(&message) {
                    log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
                }
                mind.storage = Some(message);
            }
        }
        let texts = mind.kept.certificates.iter().chain(&mind.unsaved);
        let known = std::mem::take(&mut mind.chains);
        mind.chains = texts
            .filter_map(|stored| {
                let text = stored.certificate.clone();
                let chain = match known.get(&text) {
                    Some(chain) => chain.clone(),
                    None => Chain::read(&stored.pem()?.0).ok()?,
                };
                Some((text, chain))
            })
            .collect();
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

    /// Takes up what servers have refused before this process was there.
    async fn recall(&self, mind: &mut Mind) {
        let (storage, name) = (self.storage.clone(), self.name.clone());
        let kept = task::spawn_blocking(move || storage.remembered(&name)).await.unwrap_or_default();
        let recalled = mind.patience.recall(kept, (Instant::now(), seconds()));
        if recalled > 0 {
            log::info!("certificate resolver {}: {recalled} refusals of before are heeded", self.name);
        }
    }

    /// Keeps what servers refuse, for who comes after this process. What cannot be written is tried again with the next step.
    async fn remember(&self, mind: &mut Mind) {
        let refusals = mind.patience.remember((Instant::now(), seconds()));
        let is_same = |(a, b): (&Remembered, &Remembered)| a.is_same(b);
        if refusals.len() == mind.remembered.len() && refusals.iter().zip(&mind.remembered).all(is_same) {
            mind.unkept = None;
            return;
        }
        let (storage, name, new) = (self.storage.clone(), self.name.clone(), refusals.clone());
        let write = move || match storage.hold()? {
            Some(held) => storage.remember(&held, &name, new).map_err(|error| error.to_string()),
            None => Err("another process has the storage".to_owned()),
        };
        let written = task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.to_string()));
        match written {
            Ok(()) => {
                mind.remembered = refusals;
                mind.unkept = None;
            }
            Err(message) => {
                // Once for each reason: it is tried again and again.
                if mind.unkept.as_ref() != Some(&message) {
                    log::warn!("certificate resolver {}: what was refused is not kept: {message}", self.name);
                }
                mind.unkept = Some(message);
            }
        }
    }

    /// Writes what could not be written before.
    async fn save(&self, mind: &mut Mind, held: &Arc<Held>, wake: &mut Instant) {
        let mut unsaved = Vec::new();
        for stored in std::mem::take(&mut mind.unsaved) {
            match self.keep(held, stored.clone()).await {
                Ok(()) => mind.kept.put(stored),
                Err(message) => {
                    log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
                    unsaved.push(stored);
                    *wake = (*wake).min(Instant::now() + STORAGE_AGAIN);
                }
            }
        }
        mind.unsaved = unsaved;
    }

    async fn keep(&self, held: &Arc<Held>, stored: Stored) -> Result<(), String> {
        let (storage, held, name) = (self.storage.clone(), held.clone(), self.name.clone());
        let kept = task::spawn_blocking(move || storage.update(&held, &name, |kept| kept.put(stored))).await;
        kept.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// What is to be ordered now; `wake` becomes earlier if something else is due before.
    fn due(&self, mind: &mut Mind, now: Instant, wake: &mut Instant) -> Vec<Order> {
        let Some(applied) = self.status.applied() else { return Vec::new() };
        let wanted: Vec<Domain> = applied
            .wanted
            .iter()
            .filter(|wanted| *wanted.resolver == *self.name)
            .map(|wanted| wanted.domain.clone())
            .collect();
        let by_dns = self.dns.is_some();
        mind.objections.clear();
        let mut possible = Vec::new();
        for domain in &wanted {
            let names = plan::names(domain);
            let objections = names.iter().filter_map(|name| Some((name.clone(), plan::objection(name, by_dns)?)));
            let before = mind.objections.len();
            mind.objections.extend(objections);
            // As in Traefik: the others of its names are not ordered without it.
            if mind.objections.len() == before {
                possible.push(domain.clone());
            }
        }
        let is_covered = |name: &str| {
            mind.chains.values().any(|chain| plan::covers(&chain.names, name))
                || mind.running.iter().any(|names| plan::covers(names, name))
                || applied.certificates.has(name)
        };
        let mut orders: Vec<Order> = plan::missing(&possible, &is_covered)
            .into_iter()
            .filter_map(|names| {
                let (main, sans) = names.split_first()?;
                let domain = Domain { main: main.clone(), sans: sans.into() };
                Some(Order { domain, names, replaces: None })
            })
            .collect();
        let today = seconds();
        for stored in mind.kept.certificates.iter().chain(&mind.unsaved) {
            let Some(chain) = mind.chains.get(&stored.certificate) else { continue };
            let is_needed = wanted.iter().flat_map(plan::names).any(|name| plan::covers(&chain.names, &name));
            let names = plan::names(&stored.domain);
            if !is_needed || names.is_empty() || mind.running.contains(&names) {
                continue;
            }
            let left = self.renew_at(mind, chain).saturating_sub(today);
            if left > 0 {
                *wake = (*wake).min(now + Duration::from_secs(left.unsigned_abs()));
            } else {
                orders.push(Order { names, domain: stored.domain.clone(), replaces: renewal_name(chain) });
            }
        }
        // What nobody wants any more, or somebody else has got, is no problem.
        let running = &mind.running;
        mind.patience.tidy(now, |names| running.contains(names) || orders.iter().any(|order| order.names == *names));
        orders.retain(|order| {
            let again = mind.patience.until(&order.names).unwrap_or(now);
            if again > now {
                *wake = (*wake).min(again);
            }
            again <= now
        });
        orders
    }

    /// When a certificate is renewed: when the server wants it, or else by its life.
    fn renew_at(&self, mind: &Mind, chain: &Chain) -> i64 {
        let own = plan::renew_at(chain, self.settings.certificates_duration);
        let wish = renewal_name(chain).and_then(|name| mind.windows.get(&name)?.window);
        wish.map_or(own, |(_, moment)| moment.min(chain.not_after))
    }

    /// Asks the server when it wants our certificates to be renewed.
    fn ask_for_windows(self: &Arc<Self>, mind: &mut Mind, tasks: &mut JoinSet<Done>, now: Instant, wake: &mut Instant) {
        let names: Vec<String> = mind.chains.values().filter_map(renewal_name).collect();
        mind.windows.retain(|name, _| names.contains(name));
        // Only a server that we work with is asked.
        let Ok(orders) = self.orders.try_lock() else { return };
        let Some(orders) = orders.as_ref().filter(|orders| orders.server.directory.renewal_info.is_some()) else {
            return;
        };
        for name in names {
            let again = mind.windows.get(&name).map_or(now, |wish| wish.again);
            if again > now || mind.asking.contains(&name) {
                *wake = (*wake).min(again.max(now + WINDOW_AGAIN / 10));
            } else if mind.asking.len() < ORDERS {
                mind.asking.push(name.clone());
                let orders = orders.clone();
                let work = Work::Ask(name.clone());
                let task = tasks.spawn(async move {
                    let result = renewal::ask(&orders.server, &name).await;
                    Done::Asked { certificate: name, result }
                });
                mind.tasks.insert(task.id(), work);
            }
        }
    }

    async fn carry_out(self: Arc<Self>, order: Order, held: Arc<Held>) -> Done {
        let Order { names, domain, replaces } = order;
        let result = async {
            let Issued { chain, key } = self.orders(&held).await?.obtain(&names, replaces.as_deref()).await?;
            let stored = Stored::new(domain, &chain, &key);
            let saved = self.keep(&held, stored.clone()).await;
            Ok((stored, saved))
        }
        .await;
        if let Err(Failure::Refused { kind, .. }) = &result
            && kind == "accountDoesNotExist"
        {
            log::warn!("certificate resolver {}: the server does not know our account: another one is made", self.name);
            *self.orders.lock().await = None;
            let (storage, name) = (self.storage.clone(), self.name.clone());
            let forget = move || storage.update(&held, &name, |kept| kept.account = None);
            if let Ok(Err(message)) = task::spawn_blocking(forget).await {
                log::error!("certificate resolver {}: {message}", self.name);
            }
        }
        Done::Ordered { names, result }
    }

    /// Server and account: those of before, or found and made now.
    async fn orders(&self, held: &Arc<Held>) -> Result<Arc<Orders>, Failure> {
        let mut orders = self.orders.lock().await;
        if let Some(orders) = &*orders {
            return Ok(orders.clone());
        }
        let prover = self.prover()?;
        let web = self.web.lock().take();
        let web = match web {
            Some(web) => web,
            None => super::web(&self.settings).map_err(|problem| Failure::Ours(problem.to_string()))?,
        };
        let server = Server::find(web, &self.settings.ca_server).await?;
        let kept = self.storage.last(&self.name).account;
        let account = match Account::kept(kept.as_ref(), &self.settings)? {
            Some(account) => account,
            None => {
                let (account, new) = Account::register(&server, &self.settings).await?;
                log::info!("certificate resolver {}: registered as {}", self.name, account.name);
                let (storage, held, name) = (self.storage.clone(), held.clone(), self.name.clone());
                let keep = move || storage.update(&held, &name, |kept| kept.account = Some(new));
                let written = task::spawn_blocking(keep).await.unwrap_or_else(|error| Err(error.to_string()));
                // An account that nobody remembers is no use: the next one would be another.
                written.map_err(|message| Failure::Ours(format!("{}: {message}", self.storage.path().display())))?;
                account
            }
        };
        let (settings, claims) = (self.settings.clone(), self.proofs.claims.clone());
        let made = Arc::new(Orders { server, account, settings, prover, claims });
        *orders = Some(made.clone());
        Ok(made)
    }

    fn prover(&self) -> Result<Prover, Failure> {
        let Proofs { answers, challenges, .. } = &self.proofs;
        if let Some(dns) = &self.dns {
            return dns.clone().map(Prover::Dns).map_err(|problem| Failure::Ours(problem.message));
        }
        if let Some(challenge) = &self.settings.http_challenge {
            return Ok(Prover::Http(answers.clone(), challenge.delay.or_zero()));
        }
        let delay = self.settings.tls_challenge.as_ref().map(|challenge| challenge.delay.or_zero());
        Ok(Prover::Tls(challenges.clone(), delay.unwrap_or_default()))
    }

    fn note(&self, mind: &mut Mind, done: Done) {
        let now = Instant::now();
        match done {
            Done::Asked { certificate, result } => {
                mind.asking.retain(|name| *name != certificate);
                let before = mind.windows.get(&certificate).and_then(|wish| wish.window);
                let (window, again) = match result {
                    Ok(Some((window, again))) => {
                        // One moment for one window, however often it is asked for.
                        let drawn = || (window, window.moment(fastrand::f64()));
                        let wish = before.filter(|(known, _)| *known == window).unwrap_or_else(drawn);
                        (Some(wish), again)
                    }
                    Ok(None) => (before, WINDOW_AGAIN),
                    Err(failure) => {
                        log::debug!("certificate resolver {}: no time to renew: {failure}", self.name);
                        (before, WINDOW_AGAIN)
                    }
                };
                mind.windows.insert(certificate, Wish { window, again: now + again });
            }
            Done::Ordered { names, result } => {
                mind.running.retain(|running| *running != names);
                match result {
                    Ok((stored, saved)) => self.note_certificate(mind, names, stored, saved),
                    Err(failure) => self.note_failure(mind, names, failure),
                }
            }
        }
    }

    fn note_certificate(&self, mind: &mut Mind, names: Names, stored: Stored, saved: Result<(), String>) {
        let chain = stored.pem().and_then(|(text, _)| Chain::read(&text).ok()).unwrap_or_default();
        mind.patience.succeeded(names.clone(), (Instant::now(), seconds()), plan::rest(&chain));
        log::info!(
            event = "certificate-obtained", resolver = &*self.name, names = names.join(","), not_after = chain.not_after,
            renew_at = plan::renew_at(&chain, self.settings.certificates_duration);
            "a certificate for {} was obtained", names.join(", ")
        );
        if let Err(message) = saved {
            log::error!("certificate resolver {}: {}: {message}", self.name, self.storage.path().display());
            mind.unsaved.retain(|other| other.domain != stored.domain);
            mind.unsaved.push(stored);
        }
    }

    fn note_failure(&self, mind: &mut Mind, names: Names, failure: Failure) {
        let now = (Instant::now(), seconds());
        let (failures, pause) = mind.patience.failed(names.clone(), failure.clone(), now, fastrand::f64());
        log::warn!(
            event = "certificate-failed", resolver = &*self.name, names = names.join(","), failures = failures,
            again_in_seconds = pause.as_secs();
            "no certificate for {}: {failure}; next attempt in {} s", names.join(", "), pause.as_secs()
        );
    }

    /// A task has panicked.
    fn note_breakdown(&self, mind: &mut Mind, work: Option<Work>) {
        match work {
            // What breaks down each time must not be ordered each time.
            Some(Work::Order(names)) => {
                mind.running.retain(|running| *running != names);
                self.note_failure(mind, names, Failure::Ours("the order broke down".to_owned()));
            }
            Some(Work::Ask(certificate)) => {
                mind.asking.retain(|name| *name != certificate);
                mind.windows.insert(certificate, Wish { window: None, again: Instant::now() + WINDOW_AGAIN });
            }
            None => {}
        }
    }

    /// What is published: all that is kept.
    fn routing(&self, mind: &Mind) -> Routing {
        let of_mind = mind.unsaved.iter();
        let kept =
            mind.kept.certificates.iter().filter(|kept| !mind.unsaved.iter().any(|new| new.domain == kept.domain));
        let mut routing = Routing::default();
        for (at, stored) in kept.chain(of_mind).enumerate() {
            let Some((cert_file, key_file)) = stored.pem() else { continue };
            let settings = certificate::Settings { cert_file, key_file: Secret::new(key_file), stores: Vec::new() };
            let path = format!("tls.certificates@{}[{at}]", self.provider).into();
            routing.tls.certificates.push(Certificate { path, settings: Arc::new(settings) });
        }
        routing
    }

    /// What is wrong now.
    fn problems(&self, mind: &Mind) -> Problems {
        let path = format!("certificatesResolvers.{}.acme", self.name);
        let mut found = Problems::new();
        if let Some(message) = &mind.storage {
            found.push(Problem::at("storage", format!("{}: {message}", self.storage.path().display())));
        }
        if !mind.unsaved.is_empty() {
            let message = format!("{}: new certificates cannot be written", self.storage.path().display());
            found.push(Problem::at("storage", message));
        }
        if let Some(Err(problem)) = &self.dns {
            found.push(problem.clone());
        }
        for (name, reason) in &mind.objections {
            found.push(Problem::warning("", format!("no certificate is got for `{name}`: {reason}")));
        }
        for (names, failure) in mind.patience.failures() {
            found.push(Problem::warning("", format!("no certificate for {}: {failure}", names.join(", "))));
        }
        found.under(&path)
    }
}

impl Provider for Resolver {
    fn name(&self) -> &str {
        &self.provider
    }

    /// Publishes what is kept, so that it is in force from the first request on.
    fn read(&self, updates: &Updates) {
        let mut mind = Mind::default();
        match self.storage.load(&self.name) {
            Ok(kept) => mind.kept = kept,
            Err(message) => {
                mind.storage = Some(message);
                mind.kept = self.storage.last(&self.name);
            }
        }
        updates.publish(Arc::new(self.routing(&mind)), self.problems(&mind), None);
    }

    fn watch(self: Arc<Self>, updates: Updates) -> Result<(), Problem> {
        tokio::spawn(self.run(updates));
        Ok(())
    }
}

/// Now, in seconds of Unix time.
fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn resolver(storage: &str) -> Resolver {
        let settings = Acme::default();
        let parts = (super::super::web(&settings).unwrap(), None);
        Resolver::new("le", settings, Storage::new(storage), parts, Default::default())
    }

    #[tokio::test]
    async fn a_storage_that_goes_bad_on_the_way_is_tried_again_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        std::fs::write(&path, "{").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let resolver = Arc::new(resolver(path.to_str().unwrap()));
        let mut mind = Mind::default();
        let mut wake = Instant::now() + LOOKS_EVERY;
        resolver.begin(&mut mind, &mut JoinSet::new(), Vec::new(), &mut wake).await;
        assert!(mind.storage.is_some() && wake <= Instant::now() + STORAGE_AGAIN);
    }

    #[tokio::test]
    async fn a_refusal_that_could_not_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let resolver = Arc::new(resolver(path.to_str().unwrap()));
        let (mut mind, mut tasks) = (Mind::default(), JoinSet::new());
        let updates = Arc::new(crate::control::Inbox::default()).updates("le.acme");
        let kept = || resolver.storage.remembered("le").len();
        let failure = Failure::Refused {
            kind: "unauthorized".to_owned(),
            detail: "no".to_owned(),
            about: None,
            retry_after: None,
        };
        let other = Storage::new(path.to_str().unwrap());
        let held = other.hold().unwrap().unwrap();
        resolver.note_failure(&mut mind, vec!["a.test".into()], failure);
        resolver.remember(&mut mind).await;
        let wake = resolver.step(&mut mind, &mut tasks, &updates).await;
        assert!(kept() == 0 && mind.unkept.is_some() && wake <= Instant::now() + STORAGE_AGAIN);
        drop(held);
        resolver.step(&mut mind, &mut tasks, &updates).await;
        assert!(kept() == 1 && mind.unkept.is_none());
    }

    #[test]
    fn an_order_that_broke_down_is_not_begun_again_at_once() {
        let resolver = resolver("acme.json");
        let names: Names = vec!["a.test".into()];
        let other: Names = vec!["b.test".into()];
        let mut mind =
            Mind { running: vec![names.clone(), other.clone()], asking: vec!["x".to_owned()], ..Mind::default() };
        for work in [Some(Work::Order(names.clone())), Some(Work::Ask("x".to_owned())), None] {
            resolver.note_breakdown(&mut mind, work);
        }
        // The others go on.
        assert!(mind.running == [other] && mind.asking.is_empty() && mind.windows.contains_key("x"));
        assert!(mind.patience.until(&names).is_some_and(|until| until > Instant::now() + Duration::from_secs(10)));
        assert_eq!(resolver.problems(&mind).len(), 1);
    }
}
