//! The server picked for one attempt: where to connect, and what its outcome teaches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pingora::upstreams::peer::HttpPeer;

use super::pool::ServerPool;
use super::server::{Purpose, Server};
use crate::exchange::{AttemptOutcome, Fault};

/// The server picked for one attempt. While it lives, the attempt counts as in flight.
#[derive(Debug)]
pub struct Selection {
    /// The server.
    pub server: Arc<Server>,
    /// Its pool.
    pub pool: Arc<ServerPool>,
    index: usize,
    /// When the request was read: close enough for choosing an address.
    now: Instant,
    /// Which of the server's addresses was handed out.
    address: AtomicUsize,
}

impl Selection {
    /// Counts the attempt as in flight.
    pub(super) fn new(pool: Arc<ServerPool>, index: usize, now: Instant) -> Self {
        let server = pool.members()[index].server.clone();
        server.enter();
        Self { server, pool, index, now, address: AtomicUsize::new(0) }
    }

    /// Where and how to connect. `upgrade`: for a WebSocket or another switch of protocol, on which silence is no failure.
    ///
    /// # Errors
    /// [`Fault::NoServer`] if the server's name has no address.
    pub fn peer(&self, upgrade: bool) -> Result<Box<HttpPeer>, Fault> {
        let purpose = if upgrade { Purpose::Upgrade } else { Purpose::Request };
        let (peer, address) = self.server.peer(purpose, self.now)?;
        self.address.store(address, Ordering::Relaxed);
        Ok(peer)
    }

    /// Has the balancer and the passive health check learn how the attempt ended. Call it once.
    pub fn finish(&self, outcome: &AttemptOutcome, now: Instant) {
        if matches!(outcome.failure, Some(Fault::ConnectFailed | Fault::ConnectTimeout)) {
            self.server.refuse_address(self.address.load(Ordering::Relaxed), now);
        }
        self.pool.learn(self.index, outcome, now);
    }
}

impl Drop for Selection {
    fn drop(&mut self) {
        self.server.leave();
    }
}
