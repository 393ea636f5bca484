//! An entry point for UDP: whoever sends a datagram gets a session with a server, until both are silent for a while.
//!
//! Each socket has a task that reads, and a table of the sessions of those who sent to it. A session has a socket of its own,
//! connected to its server, so that answers find their client; its task is in `session.rs`. Nothing is queued here: what the
//! system does not take at once is dropped and counted, as on any other hop of a datagram.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

mod handle;
mod room;
mod session;
mod socket;
mod table;

pub use handle::Handle;
pub use socket::bind;

use handle::Reading;
use session::Session;
use socket::{More, Peer, Socket};
use table::Table;

use crate::observe::datagrams::{DatagramMeters, Direction, Lost, SessionEnding};
use crate::observe::meters::{EntryPointMeters, Transport};
use crate::snapshot::{Current, UdpRoute};

/// Batches that are read without a pause.
const BATCHES: usize = 8;
/// Batches that are read at most when the socket is about to close: more than its queue can hold.
const LAST_BATCHES: usize = 1024;
/// Pause after an error of the system.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What an entry point for UDP is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: Arc<str>,
    /// Its place among the entry points for UDP.
    pub index: usize,
    /// What holds for its sessions.
    pub bounds: Bounds,
}

/// What holds for the sessions of an entry point for UDP. May change while they last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A session ends when neither side has sent anything for so long.
    pub timeout: Duration,
    /// Most sessions at a time.
    pub sessions: usize,
}

/// Starts an entry point as [`open`] does, and has it read.
///
/// # Errors
/// If a socket cannot be used.
pub fn start(
    options: Options,
    sockets: Vec<std::net::UdpSocket>,
    current: Arc<Current>,
    meters: (Arc<DatagramMeters>, Arc<EntryPointMeters>),
) -> io::Result<Handle> {
    let handle = open(options, sockets, current, meters)?;
    handle.resume_reading();
    Ok(handle)
}

/// Makes an entry point of bound sockets, on the current tokio runtime. It reads as soon as its handle says so, and ends when its
/// handle lets go of the sockets and its sessions are over.
///
/// # Errors
/// If a socket cannot be used.
pub fn open(
    options: Options,
    sockets: Vec<std::net::UdpSocket>,
    current: Arc<Current>,
    (meters, connections): (Arc<DatagramMeters>, Arc<EntryPointMeters>),
) -> io::Result<Handle> {
    let Options { name, index, bounds } = options;
    let shared = Arc::new(Shared {
        name,
        index,
        timeout: AtomicU64::new(millis(bounds.timeout)),
        sessions: AtomicUsize::new(bounds.sessions),
        current,
        meters,
        connections,
        reading: watch::Sender::new(Reading::Paused),
        epoch: Instant::now(),
        open: AtomicUsize::new(0),
        reading_lanes: AtomicUsize::new(0),
        lanes: OnceLock::new(),
        fewer: Notify::new(),
    });
    let tables = sockets.len();
    let mut lanes = Vec::with_capacity(tables);
    for socket in sockets {
        let desk = Desk { table: Table::new(bounds.sessions, tables), replaced: Vec::new(), route: None };
        lanes.push(Arc::new(Lane {
            shared: shared.clone(),
            socket: Arc::new(Socket::new(socket)?),
            desk: Mutex::new(desk),
        }));
    }
    let _ = shared.lanes.set(lanes.iter().map(Arc::downgrade).collect());
    let handle = Handle::new(shared.clone(), &lanes)?;
    for lane in lanes {
        let shared = shared.clone();
        shared.reading_lanes.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            lane.serve().await;
            shared.reading_lanes.fetch_sub(1, Ordering::AcqRel);
            shared.fewer.notify_waiters();
        });
    }
    Ok(handle)
}

/// What the sockets and sessions of one entry point share.
#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    index: usize,
    /// Milliseconds of silence that end a session.
    timeout: AtomicU64,
    /// Most sessions at a time.
    sessions: AtomicUsize,
    current: Arc<Current>,
    meters: Arc<DatagramMeters>,
    connections: Arc<EntryPointMeters>,
    reading: watch::Sender<Reading>,
    epoch: Instant,
    /// Sessions whose task is not over.
    open: AtomicUsize,
    /// Sockets that are read.
    reading_lanes: AtomicUsize,
    lanes: OnceLock<Box<[Weak<Lane>]>>,
    fewer: Notify,
}

impl Shared {
    /// The sockets that are not closed.
    fn lanes(&self) -> impl Iterator<Item = Arc<Lane>> {
        self.lanes.get().into_iter().flatten().filter_map(Weak::upgrade)
    }

    /// How long a session may be silent.
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.load(Ordering::Relaxed))
    }

    /// Milliseconds since the epoch.
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn at(&self, millis: u64) -> Instant {
        self.epoch + Duration::from_millis(millis)
    }

    fn opened(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.meters.opened();
        self.connections.opened(Transport::Udp);
    }

    fn closed(&self, ending: SessionEnding, lasted: Duration) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.meters.closed(ending, lasted);
        self.connections.closed(Transport::Udp);
        self.fewer.notify_waiters();
    }
}

/// One socket, and the sessions of those who sent to it.
#[derive(Debug)]
struct Lane {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
    desk: Mutex<Desk>,
}

#[derive(Debug)]
struct Desk {
    table: Table<Peer, Arc<Session>>,
    /// Sessions that only pass on what is still on its way.
    replaced: Vec<Weak<Session>>,
    /// What the sessions were opened by.
    route: Option<Arc<UdpRoute>>,
}

/// Whether there may be new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Open,
    /// For what has come already, and then no more.
    Last,
    Closed,
}

impl Lane {
    /// Reads until the socket is closed or handed over for good.
    async fn serve(self: Arc<Self>) {
        let mut reading = self.shared.reading.subscribe();
        let mut admission = Admission::Open;
        loop {
            let fewer = self.shared.fewer.notified();
            let state = *reading.borrow_and_update();
            match state {
                Reading::Yes => {}
                Reading::Paused => {
                    if reading.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Reading::Last => {
                    if admission == Admission::Open {
                        // Who has sent already is served. The socket closes with its last session, so that whoever comes later
                        // hears at once that nobody is there.
                        let _ = self.read(LAST_BATCHES, Admission::Last);
                        admission = Admission::Closed;
                    }
                    if self.shared.open.load(Ordering::Acquire) == 0 {
                        return;
                    }
                }
                Reading::Over => return,
            }
            tokio::select! {
                biased;
                _ = reading.changed() => {}
                () = fewer, if state == Reading::Last => {}
                ready = self.socket.readable() => {
                    if ready.is_err() {
                        return;
                    }
                    match self.read(BATCHES, admission) {
                        // Whoever sends without a pause must not keep this thread for himself.
                        Ok(More::Yes) => tokio::task::yield_now().await,
                        Ok(More::No) => {}
                        // It may last, and the socket stays readable meanwhile.
                        Err(_) => drop(tokio::time::timeout(READ_AGAIN_AFTER, reading.changed()).await),
                    }
                }
            }
        }
    }

    /// Passes on what has come, a few batches of it. Says whether there may be more.
    ///
    /// # Errors
    /// If the system does not give what has come.
    fn read(self: &Arc<Self>, batches: usize, admission: Admission) -> io::Result<More> {
        for _ in 0..batches {
            let (mut datagrams, mut bytes) = (0, 0);
            let mut desk = self.desk.lock();
            self.follow(&mut desk);
            let now = self.shared.now();
            let pass = |peer: Peer, data: &[u8]| {
                datagrams += 1;
                bytes += data.len() as u64;
                if let Err(reason) = self.forward(&mut desk, (peer, data), now, admission) {
                    self.shared.meters.dropped(reason, 1);
                }
            };
            let read = match admission {
                Admission::Last => self.socket.read_at_once(pass),
                Admission::Open | Admission::Closed => self.socket.read(pass),
            };
            drop(desk);
            self.shared.meters.carried(Direction::Received, datagrams, bytes);
            match read {
                Ok(More::Yes) => {}
                Ok(More::No) => return Ok(More::No),
                Err(error) => {
                    log::debug!(entry_point = &*self.shared.name; "cannot read datagrams: {error}");
                    return Err(error);
                }
            }
        }
        Ok(More::Yes)
    }

    /// Looks whether a new configuration leads elsewhere: sessions with servers that are not meant any more are over, as far as
    /// their clients are concerned.
    fn follow(&self, desk: &mut Desk) {
        let current = self.shared.current.load();
        let route = current.udp.get(self.shared.index).and_then(Option::as_ref);
        if route.map(Arc::as_ptr) == desk.route.as_ref().map(Arc::as_ptr) {
            return;
        }
        let stays = |session: &Arc<Session>| route.is_some_and(|route| route.service.has(session.server()));
        desk.replaced.retain(|session| session.strong_count() > 0);
        for session in desk.table.take(|session| !stays(session)) {
            session.replace();
            desk.replaced.push(Arc::downgrade(&session));
        }
        desk.route = route.cloned();
    }

    /// Passes one datagram on: in its session, or in a new one.
    fn forward(
        self: &Arc<Self>,
        desk: &mut Desk,
        (peer, data): (Peer, &[u8]),
        now: u64,
        admission: Admission,
    ) -> Result<(), Lost> {
        if let Some(session) = desk.table.touch(&peer, now, |session| session.is_answered()) {
            match session.forward(data, now) {
                Ok(()) => return Ok(()),
                // Nobody listened there for an earlier one: this one gets a new session.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    session.blame();
                    self.end(desk, peer, SessionEnding::Refused);
                }
                Err(error) => {
                    session.service().dropped(Lost::NotForwarded, 1);
                    if !session::is_passing(&error) {
                        self.end(desk, peer, SessionEnding::Broken);
                    }
                    return Err(Lost::NotForwarded);
                }
            }
        }
        let session = self.open(desk, peer, now, admission)?;
        session.forward(data, now).map_err(|_| {
            session.service().dropped(Lost::NotForwarded, 1);
            Lost::NotForwarded
        })
    }

    fn end(&self, desk: &mut Desk, peer: Peer, ending: SessionEnding) {
        if let Some(session) = desk.table.remove(&peer, |_| true) {
            session.end(ending);
        }
    }

    fn open(
        self: &Arc<Self>,
        desk: &mut Desk,
        peer: Peer,
        now: u64,
        admission: Admission,
    ) -> Result<Arc<Session>, Lost> {
        if admission == Admission::Closed {
            return Err(Lost::Closing);
        }
        let route = desk.route.clone().ok_or(Lost::NoRouter)?;
        let pick = route.service.pick(Instant::now().into_std()).ok_or(Lost::NoServer)?;
        let service = pick.meters.clone();
        let opened = self.make_room(desk).and_then(|()| {
            Session::open(peer, pick, now).map_err(|error| {
                log::debug!(entry_point = &*self.shared.name; "cannot open a socket towards a server: {error}");
                Lost::NoSocket
            })
        });
        let session = Arc::new(opened.inspect_err(|reason| service.dropped(*reason, 1))?);
        self.shared.opened();
        desk.table.insert(peer, session.clone(), now);
        tokio::spawn(session.clone().run(self.clone()));
        Ok(session)
    }

    /// Takes a session out of the table: its client's next datagram opens another one.
    fn leave(&self, session: &Session) {
        self.desk.lock().table.remove(&session.client(), |other| std::ptr::eq(&raw const **other, session));
    }

    /// Ends all sessions at once.
    fn cut(&self) {
        let mut desk = self.desk.lock();
        let replaced = std::mem::take(&mut desk.replaced);
        for session in desk.table.take(|_| true).into_iter().chain(replaced.iter().filter_map(Weak::upgrade)) {
            session.end(SessionEnding::Cut);
        }
    }
}

/// A time in whole milliseconds, rounded up: one that is short is still one.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
