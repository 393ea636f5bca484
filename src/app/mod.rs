//! The composition root: the only module that knows everyone. It translates settings into options and joins the parts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::connectors::{ConnectorOptions, TransportConnector};

use crate::cli::Exit;
use crate::config::address::Protocol;
use crate::config::install::Install;
use crate::config::load;
use crate::control::{EntryPoints, Inbox, Internals, Kit, Pipeline, Status, Updates};
use crate::observe::access_log::AccessLog;
use crate::observe::export::Exporter;
use crate::observe::metrics::Metrics;
use crate::problem::{Problem, Problems, all};
use crate::process::Signals;
use crate::provider::{self, Provider};
use crate::service::tcp;
use crate::service::transport::Transport;
use crate::snapshot::Current;
#[cfg(feature = "ocsp")]
use crate::stapling::Stapler;
use crate::tls::{Challenges, Tickets, fallback};
use crate::traffic::http::{EntryPointHttp, Gateway};
use crate::traffic::{entrypoint, udp};
use crate::units::environment;

mod assemble;
mod change;
mod doors;
mod grip;
mod held;
mod internals;
mod life;
mod opener;
mod options;
mod reload;
mod reread;
mod sockets;

pub use life::run;

/// What a process starts from.
#[derive(Default)]
pub struct Start {
    /// The static configuration.
    pub install: Install,
    /// The file that it came from, if it came from one.
    pub file: Option<PathBuf>,
    /// What is wrong with it. With an error among it, nothing is started.
    pub problems: Problems,
    /// What is worth telling: which sources were merged.
    pub notices: Vec<String>,
    /// Providers besides those of the configuration.
    pub providers: Vec<Arc<dyn Provider>>,
    /// The flags it came from, to read it again; `None` if it came from nowhere.
    pub flags: Option<Box<[String]>>,
    /// Told on standard output once it serves.
    pub invitation: Option<String>,
    /// What the program can do with memory that is free.
    pub memory: Option<Memory>,
}

/// What a program does with memory that is free. Which allocator there is, only the program knows.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Gives it back to the system.
    pub give_back: fn(),
    /// Gives back what the thread that calls it has had free for a while. A thread calls it whenever it runs out of work, so it must be
    /// quick to see that it is not time yet.
    pub tidy: fn(),
}

/// `portcullis run`: from flags, environment and file to the end of the process.
pub fn run_flags(flags: &[String], signals: Signals, memory: Memory) -> Exit {
    let loaded = load::install(flags, environment());
    let start = Start {
        install: loaded.install,
        file: loaded.file,
        problems: loaded.problems,
        notices: loaded.notices,
        flags: Some(flags.into()),
        memory: Some(memory),
        ..Start::default()
    };
    run(start, signals)
}

/// The parts, joined. Nothing runs and nothing listens yet: `check` and `explain` need no more.
pub struct App {
    /// The static configuration in force.
    install: ArcSwap<Install>,
    /// The entry points that there are and have been.
    entry_points: Mutex<Arc<EntryPoints>>,
    /// The snapshot in force.
    pub current: Arc<Current>,
    /// From providers to the snapshot.
    pub pipeline: Arc<Pipeline>,
    /// What runs and what does not.
    pub status: Arc<Status>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The keys of TLS session tickets.
    pub tickets: Arc<Tickets>,
    /// Proofs that ACME servers are shown in handshakes.
    pub challenges: Arc<Challenges>,
    /// The flags that the static configuration came from.
    flags: Option<Box<[String]>>,
    /// The file that it came from, if it came from one.
    pub file: Option<PathBuf>,
    /// Set when the process drains.
    pub terminating: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    makers: internals::Makers,
    /// Services of the gateway itself.
    internals: Mutex<Internals>,
    /// Where the gateway's own routers are published.
    own: Updates,
    providers: Vec<(Arc<dyn Provider>, Updates)>,
    #[cfg(feature = "ocsp")]
    stapler: Option<Arc<Stapler>>,
}

impl App {
    /// Joins the parts. Probes and resolvers will run on `runtime`.
    ///
    /// # Errors
    /// Problems of the static configuration that leave nothing to run.
    pub fn new(start: Start, runtime: tokio::runtime::Handle) -> Result<Self, Problems> {
        let install = start.install;
        let settings = install.metrics.clone().unwrap_or_default();
        let metrics = Arc::new(Metrics::new(&settings, options::threads(&install)));
        let status = Arc::new(Status::default());
        let tickets = Arc::new(Tickets::default());
        let terminating = Arc::new(AtomicBool::new(false));
        let entry_points = Arc::new(EntryPoints::of(&install));
        let (own_routing, mut own_problems) = provider::internal::routing(&install);
        own_problems.extend(start.problems);
        let fallback = fallback::certificate().map_err(Problems::from);
        let default_transport =
            Transport::build(&install.servers_transport).map_err(|problems| problems.under("serversTransport"));
        let default_tcp_transport = tcp::Transport::build(&install.tcp_servers_transport)
            .map_err(|problems| problems.under("tcpServersTransport"));
        let exporter = settings.prometheus.as_ref().map(|_| Exporter::new(metrics.clone()));
        let exporter = exporter.transpose().map_err(|problem| problem.under("metrics.prometheus"));
        let (default_transport, default_tcp_transport, exporter, fallback) =
            all((default_transport, default_tcp_transport, exporter, fallback))?;
        let challenges = Arc::new(Challenges::default());
        let makers = internals::Makers::new(exporter, status.clone(), terminating.clone());
        let mut internals = makers.all(&install);
        let resolvers = internals::resolvers(&install, &status, &challenges, &mut internals)?;
        let internals: Internals = Arc::new(internals);
        let kit = Kit {
            entry_points: entry_points.clone(),
            internals: internals.clone(),
            resolvers: install.certificates_resolvers.keys().cloned().collect(),
            staples: install.ocsp.is_some(),
            default_syntax: install.core.default_rule_syntax,
            default_transport,
            default_tcp_transport,
            precedence: install.providers.precedence.iter().map(ToString::to_string).collect(),
            metrics: metrics.clone(),
            tickets: tickets.clone(),
            fallback,
            runtime,
            give_back: start.memory.map(|memory| memory.give_back),
        };
        let inbox = Arc::new(Inbox::default());
        let own = inbox.updates(provider::internal::NAME);
        own.publish(Arc::new(own_routing), own_problems, None);
        let mut providers = start.providers;
        providers.extend(provider::of(&install)?);
        providers.extend(resolvers);
        let providers = providers
            .into_iter()
            .map(|provider| {
                let updates = inbox.updates(provider.name());
                (provider, updates)
            })
            .collect();
        #[cfg(feature = "ocsp")]
        let stapler = stapler(&install, &status, &metrics)?;
        #[cfg(not(feature = "ocsp"))]
        if install.ocsp.is_some() {
            return Err(Problem::at("ocsp", "this program was built without the feature `ocsp`").into());
        }
        let current = Arc::new(Current::new());
        let pipeline = Pipeline::new(inbox.clone(), kit, current.clone(), status.clone(), metrics.clone());
        Ok(Self {
            install: ArcSwap::from_pointee(install),
            entry_points: Mutex::new(entry_points),
            current,
            pipeline: Arc::new(pipeline),
            status,
            metrics,
            flags: start.flags,
            file: start.file,
            makers,
            internals: Mutex::new(internals),
            tickets,
            challenges,
            terminating,
            inbox,
            own,
            providers,
            #[cfg(feature = "ocsp")]
            stapler,
        })
    }

    /// The static configuration in force.
    pub fn install(&self) -> Arc<Install> {
        self.install.load_full()
    }

    /// The entry points that there are and have been.
    pub fn entry_points(&self) -> Arc<EntryPoints> {
        self.entry_points.lock().clone()
    }

    /// Has other entry points be in force, and the gateway's own services and routers at them, from the next application of the
    /// configuration on.
    fn follow(&self, install: Arc<Install>) {
        let (routing, problems) = provider::internal::routing(&install);
        let mut internals = self.internals.lock();
        if let Some(others) = self.makers.others(&internals, &self.install.load(), &install) {
            *internals = Arc::new(others);
            self.inbox.set_internals(internals.clone());
        }
        let mut entry_points = self.entry_points.lock();
        *entry_points = Arc::new(entry_points.followed_by(&install));
        self.inbox.set_entry_points(entry_points.clone());
        self.own.publish(Arc::new(routing), problems, None);
        self.install.store(install);
    }

    /// Forgets the routes of entry points that are closed and that nobody is left of.
    fn forget(&self, is_left: impl Fn(Protocol, &str) -> bool) {
        let mut entry_points = self.entry_points.lock();
        let next = entry_points.without(is_left);
        if next != **entry_points {
            *entry_points = Arc::new(next);
            self.inbox.set_entry_points(entry_points.clone());
        }
    }

    /// Has every provider read its source, and applies what they found. Blocks.
    pub fn load(&self) -> crate::control::Outcome {
        let before = self.pipeline.version();
        for (provider, updates) in &self.providers {
            provider.read(updates);
        }
        self.pipeline.apply_since(before)
    }

    /// Has every provider publish changes by itself, on the runtime that the caller is in.
    pub fn watch_providers(&self) {
        for (provider, updates) in &self.providers {
            if let Err(problem) = provider.clone().watch(updates.clone()) {
                log::warn!("changes of {} are not noticed: {problem}", provider.name());
            }
        }
    }

    /// Has responders asked about certificates, on the runtime that the caller is in, if that is wanted.
    pub fn ask_responders(&self) {
        #[cfg(feature = "ocsp")]
        if let Some(stapler) = &self.stapler {
            tokio::spawn(stapler.clone().run());
        }
    }

    /// What responders have said of certificates, for a successor.
    pub fn answers(&self) -> Vec<Vec<u8>> {
        #[cfg(feature = "ocsp")]
        if let Some(stapler) = &self.stapler {
            return stapler.export();
        }
        Vec::new()
    }

    /// Shows clients what a predecessor has exported, as far as it is believed.
    pub fn take_over_answers(&self, exported: &[Vec<u8>]) {
        #[cfg(feature = "ocsp")]
        if let Some(stapler) = &self.stapler {
            stapler.import(exported);
        }
        #[cfg(not(feature = "ocsp"))]
        let _ = exported;
    }

    /// What is wrong with the entry points, apart from whether their addresses are free.
    pub fn check_doors(&self) -> Problems {
        let install = self.install();
        let doors = options::tcp_entry_points(&install);
        doors.filter_map(|(name, entry_point)| options::door(0, name, entry_point).err()).flatten().collect()
    }

    /// Whether an entry point believes what this peer says of others, in `X-Forwarded-For` and the like.
    pub fn trusts(&self, index: usize, peer: IpAddr) -> bool {
        self.door(&self.install(), &self.entry_points(), index)
            .is_some_and(|door| door.is_ok_and(|door| door.forwarders.contains(peer)))
    }

    /// What the front door of the TCP entry point with this index is told; `None` if there is none.
    fn door(
        &self,
        install: &Install,
        entry_points: &EntryPoints,
        index: usize,
    ) -> Option<Result<entrypoint::Options, Problems>> {
        let model = entry_points.tcp.get(index).filter(|model| model.is_open())?;
        let (name, entry_point) = install.entry_points.get_key_value(&*model.name)?;
        let door = options::door(index, name, entry_point).map(|mut options| {
            options.http = Arc::new(options::http(name, entry_point, install, &self.metrics));
            options.acme.challenges = self.challenges.clone();
            options.acme.by_pass |= !options::proves_in_handshakes(install);
            options
        });
        Some(door)
    }

    /// How HTTP requests of the TCP entry point with this index are treated.
    pub fn http(&self, index: usize) -> Option<Arc<EntryPointHttp>> {
        self.door(&self.install(), &self.entry_points(), index)?.ok().map(|options| options.http)
    }

    /// What holds for the sessions of the entry point for UDP with this name.
    pub fn bounds(&self, name: &str) -> Option<udp::Bounds> {
        let install = self.install();
        let entry_point = install.entry_points.get(name).filter(|found| found.address.protocol == Protocol::Udp)?;
        Some(options::bounds(entry_point, &install))
    }

    /// The `ProxyHttp` behind all entry points.
    pub fn gateway(&self, access_log: Option<Arc<AccessLog>>) -> Gateway {
        Gateway {
            current: self.current.clone(),
            access_log,
            log_internals: self.install().access_log.as_ref().is_some_and(|log| log.add_internals),
            metrics: self.metrics.clone(),
            connector: TransportConnector::new(Some(ConnectorOptions::new(1))),
        }
    }
}

/// Who asks responders about certificates.
#[cfg(feature = "ocsp")]
fn stapler(install: &Install, status: &Arc<Status>, metrics: &Arc<Metrics>) -> Result<Option<Arc<Stapler>>, Problem> {
    let Some(settings) = &install.ocsp else { return Ok(None) };
    Stapler::new(settings, status.clone(), metrics.clone()).map(|stapler| Some(Arc::new(stapler)))
}
