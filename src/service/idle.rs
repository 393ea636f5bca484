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
pub struct Idle(Mutex<Room>);

#[derive(Debug, Default)]
struct Room {
    waiting: VecDeque<Waiting>,
    /// Whether there is a task that looks after it. It outlives moments in which nothing waits.
    is_swept: bool,
}

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
            let mut room = self.0.lock();
            let at = room.waiting.iter().rposition(|it| it.connection.address == address)?;
            let mut found = room.waiting.remove(at)?;
            drop(room);
            if !found.is_too_old(bounds, now) && found.connection.is_quiet() {
                return Some(found.connection);
            }
        }
    }

    /// Keeps a connection over which an exchange has come to its end. There is one task for a server as long as connections wait.
    pub fn put(self: &Arc<Self>, connection: Connection, bounds: Bounds, now: Instant) {
        if bounds.longest.is_some_and(|longest| longest.is_zero()) || !connection.input.is_empty() {
            return;
        }
        let mut room = self.0.lock();
        let is_swept = std::mem::replace(&mut room.is_swept, true);
        room.waiting.push_back(Waiting { connection, since: now });
        let is_full = room.waiting.len() > bounds.most.unwrap_or(LIMIT).min(LIMIT);
        let oldest = if is_full { room.waiting.pop_front() } else { None };
        drop(room);
        // Closing is a system call: not under the lock.
        drop(oldest);
        if !is_swept {
            tokio::spawn(sweep(Arc::downgrade(self), bounds));
        }
    }

    /// Closes what waits for too long or was closed by the server. Whether something is left; if not, the task is to end.
    fn sweep(&self, bounds: Bounds, now: Instant) -> bool {
        // Declared before the lock is taken, so closed after it is given back.
        let mut over = Vec::new();
        let mut room = self.0.lock();
        for _ in 0..room.waiting.len() {
            let Some(mut next) = room.waiting.pop_front() else { break };
            if next.is_too_old(bounds, now) || !next.connection.is_quiet() {
                over.push(next);
            } else {
                room.waiting.push_back(next);
            }
        }
        room.is_swept = !room.waiting.is_empty();
        room.is_swept
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const BOUNDS: Bounds = Bounds { most: None, longest: Some(Duration::from_secs(60)) };

    fn pair() -> (Connection, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (Connection::new(Box::new(ours), ADDRESS), theirs)
    }

    fn tasks() -> usize {
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_looks_after_a_server_however_often_a_connection_comes_and_goes() {
        let idle = Arc::new(Idle::default());
        let (mut connection, server) = pair();
        let before = tasks();
        for _ in 0..100 {
            idle.put(connection, BOUNDS, Instant::now());
            connection = idle.take(ADDRESS, BOUNDS, Instant::now()).unwrap();
        }
        idle.put(connection, BOUNDS, Instant::now());
        assert_eq!(tasks() - before, 1);
        drop(server);
        tokio::time::sleep(SWEEP * 2).await;
        assert_eq!((tasks() - before, idle.take(ADDRESS, BOUNDS, Instant::now()).is_none()), (0, true));
        // And again once connections wait again.
        let (connection, server) = pair();
        idle.put(connection, BOUNDS, Instant::now());
        assert_eq!(tasks() - before, 1);
        drop((idle, server));
        tokio::time::sleep(SWEEP * 2).await;
        assert_eq!(tasks() - before, 0);
    }

    #[tokio::test]
    async fn what_is_not_quiet_is_not_given_away() {
        let idle = Arc::new(Idle::default());
        let now = Instant::now();
        let (older, _older) = pair();
        let (talking, mut server) = pair();
        idle.put(older, BOUNDS, now);
        idle.put(talking, BOUNDS, now);
        server.write_all(b"HTTP/1.1 408 X\r\n\r\n").await.unwrap();
        assert!(idle.take(SocketAddr::from(([127, 0, 0, 1], 2)), BOUNDS, now).is_none());
        assert!(idle.take(ADDRESS, BOUNDS, now).is_some());
        assert!(idle.take(ADDRESS, BOUNDS, now).is_none());
        let (mut unread, _unread) = pair();
        unread.input.extend_from_slice(b"x");
        idle.put(unread, BOUNDS, now);
        assert!(idle.take(ADDRESS, BOUNDS, now).is_none());
    }

    #[tokio::test]
    async fn bounds_hold() {
        let idle = Arc::new(Idle::default());
        let now = Instant::now();
        let few = Bounds { most: Some(2), ..BOUNDS };
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let (connection, server) = pair();
                idle.put(connection, few, now);
                server
            })
            .collect();
        assert_eq!(idle.0.lock().waiting.len(), 2);
        assert!(idle.take(ADDRESS, few, now + Duration::from_secs(60)).is_none());
        idle.put(pair().0, Bounds { longest: Some(Duration::ZERO), ..BOUNDS }, now);
        assert!(idle.take(ADDRESS, BOUNDS, now).is_none());
        drop(servers);
    }
}
