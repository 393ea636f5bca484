//! From a configuration to everything that a gateway needs to serve: logs, runtimes, the parts joined, sockets.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use crate::cli::Exit;
use crate::config::EntryPoint;
use crate::observe;
use crate::observe::access_log::AccessLog;
use crate::problem::{Problem, Problems};
use crate::process::{Handover, Protocol, SocketName, Sockets, systemd};
use crate::traffic::{entrypoint, udp};
use crate::units::Name;

use super::{App, Start, options};

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

/// The sockets of all entry points, with what each is told.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) tcp: Vec<(entrypoint::Options, SocketName, TcpListener)>,
    pub(super) udp: Vec<(udp::Options, SocketName, Vec<UdpSocket>)>,
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
    let Some(settings) = &app.install.access_log else { return Ok(None) };
    AccessLog::open(settings, threads, app.metrics.access_log_drops())
        .map(|log| Some(Arc::new(log)))
        .map_err(|problem| problem.under("accessLog").into())
}

/// The listening sockets: inherited from a predecessor or from systemd, or bound.
fn bind_all(app: &App, inherited: Option<&mut Sockets>) -> Result<Listeners, Refusal> {
    let (mut adopted, complaints) = systemd::adopt_sockets();
    for complaint in complaints {
        log::warn!("{complaint}");
    }
    let inherits = inherited.is_some();
    let offers = inherited.unwrap_or(&mut adopted);
    let mut bound = Listeners::default();
    let (mut problems, mut failures) = (Problems::new(), Problems::new());
    for (index, (name, entry_point)) in options::tcp_entry_points(&app.install).enumerate() {
        let options = match options::door(index, name, entry_point) {
            Ok(mut options) => {
                options.acme.challenges = app.challenges.clone();
                options.acme.by_pass |= !options::proves_in_handshakes(&app.install);
                options
            }
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        let socket = socket_name(name, entry_point, Protocol::Tcp);
        let listener = match offers.claim(&socket) {
            Some(descriptor) => Ok(TcpListener::from(descriptor)),
            None => entrypoint::bind(&socket.address, entry_point.reuse_port),
        };
        match listener {
            Ok(listener) => bound.tcp.push((options, socket, listener)),
            Err(error) => failures.push(not_listening(&socket, &error)),
        }
    }
    for (index, (name, entry_point)) in options::udp_entry_points(&app.install).enumerate() {
        let options = options::udp(index, name, entry_point, &app.install);
        let socket = socket_name(name, entry_point, Protocol::Udp);
        let inherited = offers.claim_all(&socket);
        let sockets = match inherited.is_empty() {
            false => Ok(inherited.into_iter().map(UdpSocket::from).collect()),
            true => bind_udp(&socket.address, entry_point, options::threads(&app.install)),
        };
        match sockets {
            Ok(sockets) => bound.udp.push((options, socket, sockets)),
            Err(error) => failures.push(not_listening(&socket, &error)),
        }
    }
    if !inherits {
        for name in offers.unclaimed() {
            log::warn!(
                "systemd listens for {name}, and no entry point has this name: whoever connects there waits in vain"
            );
        }
    }
    if problems.has_errors() {
        problems.extend(failures);
        Err(Refusal::Configuration(problems))
    } else if failures.has_errors() {
        Err(Refusal::Machine(failures))
    } else {
        Ok(bound)
    }
}

fn socket_name(name: &Name, entry_point: &EntryPoint, protocol: Protocol) -> SocketName {
    let address = format!("{}:{}", bracketed(&entry_point.address.host), entry_point.address.port);
    SocketName { entry_point: name.clone(), protocol, address }
}

fn not_listening(SocketName { entry_point, address, .. }: &SocketName, error: &std::io::Error) -> Problem {
    Problem::at(format!("entryPoints.{entry_point}.address"), format!("cannot listen on {address}: {error}"))
}

/// One socket; with `reusePort` one for each thread, among which the system spreads the clients.
fn bind_udp(address: &str, entry_point: &EntryPoint, threads: usize) -> std::io::Result<Vec<UdpSocket>> {
    let first = udp::bind(address, entry_point.reuse_port)?;
    let mut sockets = vec![first];
    if entry_point.reuse_port {
        // Where the system has chosen the port, the others have to be told.
        let chosen = sockets[0].local_addr()?.to_string();
        let address = if entry_point.address.port == 0 { &*chosen } else { address };
        for _ in 1..threads.min(MAX_UDP_SOCKETS) {
            sockets.push(udp::bind(address, true)?);
        }
    }
    Ok(sockets)
}

/// Sockets of one entry point for UDP: more are no quicker.
const MAX_UDP_SOCKETS: usize = 8;

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
