//! The grip on a running entry point for UDP: stop, resume, close, cut, count.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::{Bounds, Lane, Shared, millis};

/// The grip on a running entry point for UDP. Clones grip the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    address: SocketAddr,
}

/// Whether datagrams are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Yes,
    /// A successor reads.
    Paused,
    /// Only for sessions that are there already, and for what has come already.
    Last,
    /// Never again.
    Over,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, lanes: &[Arc<Lane>]) -> io::Result<Self> {
        let first = lanes.first().ok_or(io::ErrorKind::InvalidInput)?;
        let address = first.socket.address()?;
        Ok(Self { shared, address })
    }

    /// Name of the entry point.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the sockets are not closed, nor about to be.
    pub fn is_open(&self) -> bool {
        matches!(*self.shared.reading.borrow(), Reading::Yes | Reading::Paused)
    }

    /// Reads nothing more; the sockets stay open, so that a successor can read, or we again. Answers of servers go on to their
    /// clients.
    pub fn stop_reading(&self) {
        self.turn(Reading::Yes, Reading::Paused);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        self.turn(Reading::Paused, Reading::Yes);
    }

    fn turn(&self, from: Reading, to: Reading) {
        self.shared.reading.send_if_modified(|now| {
            *now == from && {
                *now = to;
                true
            }
        });
    }

    /// Passes on what has come already and opens no more sessions; the sockets close with the last one.
    pub fn close_after_last(&self) {
        self.shared.reading.send_if_modified(|now| {
            // Whoever has let go of the sockets leaves what comes to others.
            !matches!(*now, Reading::Over | Reading::Last) && {
                *now = Reading::Last;
                true
            }
        });
    }

    /// Lets go of the sockets. Sessions that are there still answer through them.
    pub fn let_go(&self) {
        self.shared.reading.send_replace(Reading::Over);
    }

    /// Has other bounds hold from now on, for the sessions that are there as well. A silence that began before may still end them by
    /// the time that held then.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.shared.timeout.store(millis(bounds.timeout), Ordering::Relaxed);
        self.shared.sessions.store(bounds.sessions, Ordering::Relaxed);
        let tables = self.shared.lanes.get().map_or(1, |lanes| lanes.len());
        for lane in self.shared.lanes() {
            lane.desk.lock().table.share_among(bounds.sessions, tables);
        }
    }

    /// Whether what has come already is about to be passed on, so that there may be more sessions than are counted; or was, if any is open.
    pub fn is_reading_last(&self) -> bool {
        *self.shared.reading.borrow() == Reading::Last && self.shared.reading_lanes.load(Ordering::Acquire) > 0
    }

    /// Duplicates of the sockets, for a successor; `NotConnected` if they are closed.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn duplicate_sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let duplicate = |lane: &Weak<Lane>| lane.upgrade().ok_or(io::ErrorKind::NotConnected)?.socket.duplicate();
        self.shared.lanes.get().into_iter().flatten().map(duplicate).collect()
    }

    /// Ends all sessions at once.
    pub fn cut(&self) {
        self.shared.lanes().for_each(|lane| lane.cut());
    }

    /// Waits until the sockets are closed, unless sessions are open: they keep them.
    pub async fn sockets_closed(&self) {
        loop {
            let fewer = self.shared.fewer.notified();
            if self.sessions() > 0 || self.shared.reading_lanes.load(Ordering::Acquire) == 0 {
                return;
            }
            fewer.await;
        }
    }

    /// Waits until no session is open.
    pub async fn over(&self) {
        loop {
            let fewer = self.shared.fewer.notified();
            if self.sessions() == 0 {
                return;
            }
            fewer.await;
        }
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }
}
