//! The grip on a running entry point: stop, resume, drain, close, count.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::connection::Connection;
use super::options::Options;
use super::{Observer, pace};

/// The grip on a running entry point. Clones grip the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    listener: Weak<TcpListener>,
    address: SocketAddr,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, listener: &Arc<TcpListener>) -> io::Result<Self> {
        Ok(Self { shared, address: listener.local_addr()?, listener: Arc::downgrade(listener) })
    }

    /// Name of the entry point.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.options.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the listening socket is not closed, nor about to be.
    pub fn is_open(&self) -> bool {
        matches!(*self.shared.accepting.borrow(), Accepting::Yes | Accepting::Paused)
    }

    /// Takes no more connections; the socket stays open, so that a successor can take them, or we again.
    pub fn stop_accepting(&self) {
        self.shared.accepting.send_if_modified(|now| {
            *now == Accepting::Yes && {
                *now = Accepting::Paused;
                true
            }
        });
    }

    /// Whether those are about to be taken that have connected already, so that there may be more than are counted.
    pub fn is_taking_last(&self) -> bool {
        *self.shared.accepting.borrow() == Accepting::Last
    }

    /// Takes connections again.
    pub fn resume_accepting(&self) {
        self.shared.accepting.send_if_modified(|now| {
            *now == Accepting::Paused && {
                *now = Accepting::Yes;
                true
            }
        });
    }

    /// Takes those that have connected already, and closes the listening socket for good: whoever comes later is refused at once
    /// and can go elsewhere.
    pub fn close_after_last(&self) {
        self.shared.close(Accepting::Last);
    }

    /// Closes the listening socket for good. Connections live on.
    pub fn close_listener(&self) {
        self.shared.close(Accepting::Closed);
    }

    /// Waits until the listening socket is closed, which others may hold open all the same.
    pub async fn listener_closed(&self) {
        let mut accepting = self.shared.accepting.subscribe();
        // It is never dropped before this handle.
        let _ = accepting.wait_for(|state| *state == Accepting::Over).await;
    }

    /// A duplicate of the listening socket, for a successor; `NotConnected` if it is closed.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn duplicate_listener(&self) -> io::Result<OwnedFd> {
        let listener = self.listener.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        listener.as_fd().try_clone_to_owned()
    }

    /// Ends connections with their next answer (HTTP/1) or by GOAWAY (HTTP/2), or stops doing so. Ending it also takes
    /// back `close_idle_after` and the force-closing of connections to come.
    pub fn set_draining(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::SeqCst);
        if !draining {
            self.shared.close_idle_at.store(0, Ordering::SeqCst);
            self.shared.forced.store(0, Ordering::SeqCst);
        }
        self.shared.signal();
    }

    /// Closes connections that wait for a request: each at a random moment of the `spread` that follows the `grace`.
    ///
    /// Clients that pause for less than the grace get an answer with `Connection: close` in time and lose nothing.
    pub fn close_idle_after(&self, grace: Duration, spread: Duration) {
        let at = (pace::now() - self.shared.epoch + grace).as_millis() as u64;
        self.shared.close_idle_spread.store(spread.as_millis() as u64, Ordering::SeqCst);
        self.shared.close_idle_at.store(at.max(1), Ordering::SeqCst);
        self.shared.signal();
    }

    /// Open connections, without those that were upgraded.
    pub fn connections(&self) -> usize {
        let counts = &self.shared.counts;
        (counts.open.load(Ordering::Acquire) as i64 - counts.upgraded.load(Ordering::Acquire)).max(0) as usize
    }

    /// Open connections that were upgraded: WebSockets and the like.
    pub fn upgraded_connections(&self) -> usize {
        self.shared.counts.upgraded.load(Ordering::Acquire).max(0) as usize
    }

    /// Waits until no connection is open except upgraded ones.
    pub async fn drained(&self) {
        self.wait(|| self.connections() == 0).await;
    }

    /// Waits until no upgraded connection is open.
    pub async fn upgraded_drained(&self) {
        self.wait(|| self.upgraded_connections() == 0).await;
    }

    /// Cuts every connection except upgraded ones, whatever it is doing.
    pub fn force_close(&self) {
        self.shared.force(FORCE_PLAIN);
    }

    /// Cuts every upgraded connection.
    pub fn force_close_upgraded(&self) {
        self.shared.force(FORCE_UPGRADED);
    }

    async fn wait(&self, is_over: impl Fn() -> bool) {
        loop {
            let changed = self.shared.counts.fewer.notified();
            if is_over() {
                return;
            }
            changed.await;
        }
    }
}

/// Whether connections are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Yes,
    Paused,
    /// Only who has connected already.
    Last,
    Closed,
    /// The listening socket is gone.
    Over,
}

const FORCE_PLAIN: u8 = 1;
const FORCE_UPGRADED: u8 = 2;

/// What the accept loop, the connections and the handles of one entry point share. On the way of a request it is only read.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) accepting: watch::Sender<Accepting>,
    epoch: Instant,
    draining: AtomicBool,
    /// Milliseconds after the epoch; 0 is never.
    close_idle_at: AtomicU64,
    close_idle_spread: AtomicU64,
    forced: AtomicU8,
    /// Counts the signals; a connection that has seen the latest one has nothing to look at.
    generation: AtomicU64,
    signal: Notify,
    counts: Counts,
}

/// On a cache line of its own: it changes with each connection, while the rest is read with each request.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    open: AtomicUsize,
    upgraded: AtomicI64,
    fewer: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryPoint").field("name", &self.options.name).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: Options, observer: Arc<dyn Observer>) -> Self {
        Self {
            options,
            observer,
            accepting: watch::Sender::new(Accepting::Paused),
            epoch: pace::now(),
            draining: AtomicBool::new(false),
            close_idle_at: AtomicU64::new(0),
            close_idle_spread: AtomicU64::new(0),
            forced: AtomicU8::new(0),
            generation: AtomicU64::new(0),
            signal: Notify::new(),
            counts: Counts::default(),
        }
    }

    fn close(&self, how: Accepting) {
        self.accepting.send_if_modified(|now| {
            // Who has it closed at once does not mean to wait for the last ones.
            let is_news = *now != Accepting::Over && *now != Accepting::Closed && *now != how;
            is_news && {
                *now = how;
                true
            }
        });
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn upgraded(&self, change: i64) {
        self.counts.upgraded.fetch_add(change, Ordering::AcqRel);
        self.counts.fewer.notify_waiters();
    }

    /// A moment at which an idle connection closes, drawn anew for each connection that asks.
    fn close_idle_at(&self) -> Option<Instant> {
        let at = self.close_idle_at.load(Ordering::SeqCst);
        let spread = self.close_idle_spread.load(Ordering::SeqCst);
        (at > 0).then(|| self.epoch + Duration::from_millis(at + fastrand::u64(0..=spread)))
    }

    fn force(&self, which: u8) {
        self.forced.fetch_or(which, Ordering::SeqCst);
        self.signal();
    }

    fn signal(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.signal.notify_waiters();
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct Counted(Arc<Shared>);

impl Counted {
    /// Counts one more, unless there are as many as may be.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        shared.counts.open.fetch_add(1, Ordering::AcqRel);
        let before = shared.options.crowd.fetch_add(1, Ordering::AcqRel);
        shared.observer.opened();
        let counted = Self(shared.clone());
        (before < shared.options.limits.connections).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::AcqRel);
        self.0.options.crowd.fetch_sub(1, Ordering::AcqRel);
        self.0.observer.closed();
        self.0.counts.fewer.notify_waiters();
    }
}

/// Runs one connection under the signals of its entry point.
///
/// A connection listens for signals once and for all its requests: registering with each would make all cores share a
/// lock. What it costs is one atomic read each time the connection's task is woken.
///
/// It takes what serves pinned: by value, it would take the room twice.
pub(super) async fn supervise(connection: &Connection, mut serve: Pin<&mut impl Future<Output = ()>>) {
    let shared = connection.shared();
    let _release = Release(connection);
    let mut signal = pin!(shared.signal.notified());
    let mut seen = None;
    std::future::poll_fn(|cx| {
        loop {
            if seen.is_some() && serve.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if seen == Some(shared.generation.load(Ordering::SeqCst)) {
                return Poll::Pending;
            }
            while signal.as_mut().poll(cx).is_ready() {
                signal.set(shared.signal.notified());
            }
            // Registered first, looked at second: a signal in between is seen, one after it wakes us.
            seen = Some(shared.generation.load(Ordering::SeqCst));
            let forced = shared.forced.load(Ordering::SeqCst);
            let mine = if connection.is_upgraded() { FORCE_UPGRADED } else { FORCE_PLAIN };
            if forced & mine != 0 {
                return Poll::Ready(());
            }
            connection.set_closing(shared.is_draining());
            connection.set_close_idle_at(shared.close_idle_at());
        }
    })
    .await;
}

/// Takes an upgraded connection out of the count when it ends, however it ends.
struct Release<'a>(&'a Connection);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.0.is_upgraded() {
            self.0.shared().upgraded(-1);
        }
    }
}
