//! From a configuration to everything that a gateway needs to serve: logs, runtimes, the parts joined, sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Exit;
use crate::observe;
use crate::observe::access_log::AccessLog;
use crate::problem::{Problem, Problems};
use crate::process::{BoundBy, Handover, Protocol, SocketName, Sockets, systemd};
use crate::units::Name;

use super::held::Held;
use super::sockets::{self, Bound};
use super::{App, Memory, Start, options};

/// How many tasks a thread runs before it looks at those that found no place in its own queue. They are the ones that have waited longest:
/// were they not next, whoever is behind 256 others would wait until all of these are idle (decision 19).
const FIRST_COME_FIRST_SERVED: u32 = 1;
/// How often threads are woken to look after their memory.
const WAKE: Duration = Duration::from_secs(10);

/// Everything that is ready to serve and does not serve yet.
pub(super) struct Ready {
    pub(super) app: App,
    pub(super) access_log: Option<Arc<AccessLog>>,
    pub(super) listeners: Listeners,
    pub(super) control: tokio::runtime::Runtime,
    pub(super) traffic: tokio::runtime::Runtime,
    pub(super) handover: Option<Handover>,
    pub(super) invitation: Option<String>,
    pub(super) log: observe::log::Guard,
}

/// The sockets that a process begins with.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) entry_points: Vec<Listener>,
    /// Those that systemd holds as well.
    pub(super) held: Held,
}

/// The sockets of one entry point that is to be opened.
pub(super) struct Listener {
    pub(super) name: Name,
    pub(super) socket: SocketName,
    pub(super) bound: Bound,
    /// Which of the sockets that systemd holds they are.
    pub(super) held: Vec<usize>,
    /// Those of a predecessor, as it calls them, and their cookies.
    pub(super) inherited: Vec<(SocketName, u64)>,
}

/// Why nothing is started.
pub(super) enum Refusal {
    /// The configuration is wrong: starting again changes nothing.
    Configuration(Problems),
    /// The machine did not let us: an address that is taken or not there yet, no threads. A supervisor may try again.
    Machine(Problems),
}

impl Refusal {
    pub(super) fn problems(&self) -> &Problems {
        match self {
            Self::Configuration(problems) | Self::Machine(problems) => problems,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) => Exit::Config,
            Self::Machine(_) => Exit::Failed,
        }
    }
}

impl From<Problems> for Refusal {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems)
    }
}

/// Reads and checks everything, and binds what was not inherited.
///
/// # Errors
/// Whatever keeps this process from serving as well as it could.
pub(super) fn assemble(mut start: Start, inherited: Option<&mut Sockets>) -> Result<Ready, Refusal> {
    if start.problems.has_errors() {
        return Err(start.problems.into());
    }
    let log = observe::log::install(&start.install.log).map_err(|problem| Problems::from(problem.under("log")))?;
    for notice in &start.notices {
        log::info!("{notice}");
    }
    let threads = options::threads(&start.install);
    let control = runtime("control", 2, None)?;
    let traffic = runtime("traffic", threads, start.memory)?;
    if start.memory.is_some() {
        control.spawn(wake(traffic.handle().clone(), threads));
    }
    let invitation = start.invitation.take();
    let app = App::new(start, control.handle().clone())?;
    let access_log = open_access_log(&app, threads)?;
    let is_successor = inherited.is_some();
    let listeners = bind_all(&app, inherited)?;
    // A configuration in which only single objects are broken runs. One that cannot be read at all is no reason to end for who
    // comes first: nobody has a better one, and it follows its files. A predecessor has: what it read before.
    let outcome = app.load();
    if is_successor && !outcome.read {
        return Err(outcome.problems.into());
    }
    let handover = Handover::to_same_program().inspect_err(|error| log::warn!("upgrades will not work: {error}")).ok();
    Ok(Ready { app, access_log, listeners, control, traffic, handover, invitation, log })
}

fn runtime(name: &str, threads: usize, memory: Option<Memory>) -> Result<tokio::runtime::Runtime, Refusal> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all().global_queue_interval(FIRST_COME_FIRST_SERVED);
    if let Some(memory) = memory {
        builder.on_thread_park(memory.tidy);
    }
    builder
        .build()
        .map_err(|error| Refusal::Machine(Problem::at("threads", format!("cannot start threads: {error}")).into()))
}

/// Wakes threads that have nothing to do, now and then: what they have freed before they fell asleep is theirs until they look.
async fn wake(traffic: tokio::runtime::Handle, threads: usize) {
    loop {
        tokio::time::sleep(WAKE).await;
        // Whoever finds work wakes another.
        for _ in 0..2 * threads {
            traffic.spawn(std::future::ready(()));
        }
    }
}

fn open_access_log(app: &App, threads: usize) -> Result<Option<Arc<AccessLog>>, Problems> {
    let Some(settings) = &app.install().access_log else { return Ok(None) };
    AccessLog::open(settings, threads, app.metrics.access_log_drops())
        .map(|log| Some(Arc::new(log)))
        .map_err(|problem| problem.under("accessLog").into())
}

/// The listening sockets: inherited from a predecessor or from systemd, or bound.
fn bind_all(app: &App, inherited: Option<&mut Sockets>) -> Result<Listeners, Refusal> {
    let problems = app.check_doors();
    if problems.has_errors() {
        return Err(problems.into());
    }
    let (mut adopted, complaints) = systemd::adopt_sockets();
    for complaint in complaints {
        log::warn!("{complaint}");
    }
    let offers = inherited.unwrap_or(&mut adopted);
    let (mut listeners, mut failures) = (Listeners::default(), Problems::new());
    let install = app.install();
    for (name, entry_point) in &install.entry_points {
        let socket = sockets::name(name, entry_point);
        let found = match listeners.claim(name, &socket, offers) {
            Ok(Some(())) => Ok(()),
            Ok(None) => sockets::bind(&socket, entry_point, options::threads(&install)).map(|bound| {
                let (name, socket) = (name.clone(), socket.clone());
                listeners.entry_points.push(Listener { name, socket, bound, held: Vec::new(), inherited: Vec::new() });
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = found {
            failures.push(sockets::not_listening(&socket, &error));
        }
    }
    let unclaimed = offers.take_held();
    for claimed in &unclaimed {
        log::warn!(
            "systemd listens for {}, and no entry point has this name: whoever connects there waits in vain",
            claimed.name
        );
    }
    listeners.held.extend(unclaimed);
    if failures.has_errors() { Err(Refusal::Machine(failures)) } else { Ok(listeners) }
}

impl Listeners {
    /// Takes what is on offer for an entry point. `None` if nothing is.
    fn claim(&mut self, name: &Name, socket: &SocketName, offers: &mut Sockets) -> std::io::Result<Option<()>> {
        let claimed: Vec<_> = match socket.protocol {
            Protocol::Udp => offers.claim_all(socket),
            Protocol::Tcp | Protocol::Unix => offers.claim(socket).into_iter().collect(),
        };
        let Some(first) = claimed.first().map(|claimed| claimed.name.clone()) else { return Ok(None) };
        let held = claimed.iter().filter_map(|claimed| self.held.keep(claimed).transpose());
        let held = held.collect::<std::io::Result<Vec<_>>>()?;
        let ours = claimed.iter().filter(|claimed| claimed.name.bound_by == BoundBy::Gateway);
        let inherited = ours.map(|claimed| Ok((claimed.name.clone(), sockets::cookie(&claimed.socket)?)));
        let inherited = inherited.collect::<std::io::Result<Vec<_>>>()?;
        let bound = Bound::from(socket.protocol, claimed.into_iter().map(|claimed| claimed.socket).collect());
        let Some(bound) = bound else { return Ok(None) };
        let socket = match first.bound_by {
            BoundBy::Gateway => socket.clone(),
            BoundBy::Systemd => {
                let is_known = socket.address.starts_with(':') || socket.address.parse::<SocketAddr>().is_ok();
                if is_known && !first.address.parse().is_ok_and(|address| socket.is_at(address)) {
                    log::warn!("systemd has bound {first}: this counts, and not the address {}", socket.address);
                }
                SocketName { entry_point: name.clone(), ..first }
            }
        };
        self.entry_points.push(Listener { name: name.clone(), socket, bound, held, inherited });
        Ok(Some(()))
    }
}
