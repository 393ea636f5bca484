//! Connections to one server that wait for their next request.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt;
use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::AsyncReadExt;

/// Most connections that wait at one server if no setting says less.
const LIMIT: usize = 4096;
/// How often connections are looked at that nobody takes.
const SWEEP: Duration = Duration::from_secs(5);

/// A connection over which HTTP/1 is spoken.
pub struct Connection {
    /// What carries the bytes.
    pub stream: Stream,
    /// Read, and not yet looked at. Empty between two exchanges.
    pub input: BytesMut,
    address: SocketAddr,
}

impl Connection {
    /// A connection that stands, to `address`.
    pub fn new(stream: Stream, address: SocketAddr) -> Self {
        Self { stream, input: BytesMut::new(), address }
    }

    /// Whether nothing came that nobody asked for: neither bytes nor the end. Asks the kernel only if it has told of something.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        tokio::task::unconstrained(self.stream.read(&mut byte)).now_or_never().is_none()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

/// The idle connections of one server. The one that waits for the shortest time is taken first, so that those beyond the need
/// grow old and end.
#[derive(Debug, Default)]
pub struct Idle(Mutex<VecDeque<Waiting>>);

#[derive(Debug)]
struct Waiting {
    connection: Connection,
    since: Instant,
}

/// How many connections wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most of them; `None`: as many as there is room for.
    pub most: Option<usize>,
    /// Longest wait; zero: none waits; `None`: as long as the server likes.
    pub longest: Option<Duration>,
}

impl Idle {
    /// A connection to `address` that the server has not closed, as far as is known.
    pub fn take(&self, address: SocketAddr, bounds: Bounds, now: Instant) -> Option<Connection> {
        loop {
            let mut waiting = self.0.lock();
            let at = waiting.iter().rposition(|it| it.connection.address == address)?;
            let mut found = waiting.remove(at)?;
            drop(waiting);
            if !found.is_too_old(bounds, now) && found.connection.is_quiet() {
                return Some(found.connection);
            }
        }
    }

    /// Keeps a connection over which an exchange has come to its end. There is a task for a server as long as connections wait.
    pub fn put(self: &Arc<Self>, connection: Connection, bounds: Bounds, now: Instant) {
        if bounds.longest.is_some_and(|longest| longest.is_zero()) || !connection.input.is_empty() {
            return;
        }
        let mut waiting = self.0.lock();
        let is_first = waiting.is_empty();
        waiting.push_back(Waiting { connection, since: now });
        let oldest = (waiting.len() > bounds.most.unwrap_or(LIMIT).min(LIMIT)).then(|| waiting.pop_front());
        drop(waiting);
        // Closing is a system call: not under the lock.
        drop(oldest);
        if is_first {
            tokio::spawn(sweep(Arc::downgrade(self), bounds));
        }
    }

    /// Closes what waits for too long or was closed by the server; whether something is left.
    fn sweep(&self, bounds: Bounds, now: Instant) -> bool {
        // Declared before the lock is taken, so closed after it is given back.
        let mut over = Vec::new();
        let mut waiting = self.0.lock();
        for _ in 0..waiting.len() {
            let Some(mut next) = waiting.pop_front() else { break };
            if next.is_too_old(bounds, now) || !next.connection.is_quiet() {
                over.push(next);
            } else {
                waiting.push_back(next);
            }
        }
        !waiting.is_empty()
    }
}

impl Waiting {
    fn is_too_old(&self, bounds: Bounds, now: Instant) -> bool {
        bounds.longest.is_some_and(|longest| now.saturating_duration_since(self.since) >= longest)
    }
}

async fn sweep(idle: Weak<Idle>, bounds: Bounds) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(idle) = idle.upgrade() else { return };
        if !idle.sweep(bounds, Instant::now()) {
            return;
        }
    }
}
