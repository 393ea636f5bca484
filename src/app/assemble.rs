//! From a configuration to everything that a gateway needs to serve: logs, runtimes, the parts joined, sockets.

use std::sync::Arc;

use crate::cli::Exit;
use crate::observe;
use crate::observe::access_log::AccessLog;
use crate::problem::{Problem, Problems};
use crate::process::{Handover, Protocol, SocketName, Sockets, systemd};
use crate::units::Name;

use super::sockets::{self, Bound};
use super::{App, Start, options};

/// Everything that is ready to serve and does not serve yet.
pub(super) struct Ready {
    pub(super) app: App,
    pub(super) access_log: Option<Arc<AccessLog>>,
    pub(super) listeners: Vec<Listener>,
    pub(super) control: tokio::runtime::Runtime,
    pub(super) traffic: tokio::runtime::Runtime,
    pub(super) handover: Option<Handover>,
    pub(super) invitation: Option<String>,
    pub(super) log: observe::log::Guard,
}

/// The sockets of one entry point that is to be opened.
pub(super) struct Listener {
    pub(super) name: Name,
    pub(super) socket: SocketName,
    pub(super) bound: Bound,
    /// Whether systemd has bound them, and holds them as well.
    pub(super) is_held: bool,
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
    let control = runtime("control", 2)?;
    let traffic = runtime("traffic", threads)?;
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

fn runtime(name: &str, threads: usize) -> Result<tokio::runtime::Runtime, Refusal> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| Refusal::Machine(Problem::at("threads", format!("cannot start threads: {error}")).into()))
}

fn open_access_log(app: &App, threads: usize) -> Result<Option<Arc<AccessLog>>, Problems> {
    let Some(settings) = &app.install().access_log else { return Ok(None) };
    AccessLog::open(settings, threads, app.metrics.access_log_drops())
        .map(|log| Some(Arc::new(log)))
        .map_err(|problem| problem.under("accessLog").into())
}

/// The listening sockets: inherited from a predecessor or from systemd, or bound.
fn bind_all(app: &App, inherited: Option<&mut Sockets>) -> Result<Vec<Listener>, Refusal> {
    let problems = app.check_doors();
    if problems.has_errors() {
        return Err(problems.into());
    }
    let (mut adopted, complaints) = systemd::adopt_sockets();
    for complaint in complaints {
        log::warn!("{complaint}");
    }
    let inherits = inherited.is_some();
    let offers = inherited.unwrap_or(&mut adopted);
    let (mut bound, mut failures) = (Vec::new(), Problems::new());
    let install = app.install();
    for (name, entry_point) in &install.entry_points {
        let socket = sockets::name(name, entry_point);
        let claimed = match socket.protocol {
            Protocol::Udp => offers.claim_all(&socket),
            Protocol::Tcp | Protocol::Unix => offers.claim(&socket).into_iter().collect(),
        };
        match Bound::from(socket.protocol, claimed) {
            Some(claimed) => {
                if inherits && let Err(error) = claimed.set_reuse_port(entry_point.reuse_port) {
                    log::warn!("{socket} is shared with others as before: {error}");
                }
                bound.push(Listener { name: name.clone(), socket, bound: claimed, is_held: !inherits });
            }
            None => match sockets::bind(&socket, entry_point, options::threads(&install)) {
                Ok(new) => bound.push(Listener { name: name.clone(), socket, bound: new, is_held: false }),
                Err(error) => failures.push(sockets::not_listening(&socket, &error)),
            },
        }
    }
    if !inherits {
        for name in offers.unclaimed() {
            log::warn!(
                "systemd listens for {name}, and no entry point has this name: whoever connects there waits in vain"
            );
        }
    }
    if failures.has_errors() { Err(Refusal::Machine(failures)) } else { Ok(bound) }
}
