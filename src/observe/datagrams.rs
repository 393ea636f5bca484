//! What is counted of UDP: sessions, datagrams and bytes, for an entry point or a service.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::shard::Padded;

/// Counters of one entry point or one service.
#[derive(Debug, Default)]
pub struct DatagramMeters {
    pub(super) name: Arc<str>,
    sessions: AtomicU64,
    open: AtomicI64,
    evicted: AtomicU64,
    ended: [AtomicU64; SessionEnding::ALL.len()],
    /// How long sessions lasted that have ended, all together, in milliseconds.
    millis: AtomicU64,
    /// Datagrams and bytes, from clients and to clients. Each datagram writes here.
    carried: [Padded<[AtomicU64; 2]>; Direction::ALL.len()],
    dropped: [AtomicU64; Lost::ALL.len()],
    /// Who knows the servers, if this is a service.
    servers: Mutex<Option<Weak<dyn ServerReport>>>,
}

/// Somebody who knows the servers of a service, and is asked when metrics are read.
pub trait ServerReport: fmt::Debug + Send + Sync {
    /// Tells of each server.
    fn each(&self, see: &mut dyn FnMut(ServerView<'_>));
}

/// What is told of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerView<'s> {
    /// Its address as written.
    pub address: &'s str,
    /// Whether new sessions go to it.
    pub is_up: bool,
    /// How often nobody listened there.
    pub refusals: u64,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionEnding {
    /// Neither side had sent anything for as long as it may be silent.
    Silent,
    /// Nobody listens at the server's port.
    Refused,
    /// Its socket failed in another way.
    Broken,
    /// It was given up for a newer one.
    GivenUp,
    /// The configuration, or the name of the server, leads elsewhere by now.
    Replaced,
    /// Time was up when its entry point or the process ended.
    Cut,
}

impl SessionEnding {
    pub(super) const ALL: [(Self, &'static str); 6] = [
        (Self::Silent, "silent"),
        (Self::Refused, "refused"),
        (Self::Broken, "broken"),
        (Self::GivenUp, "given-up"),
        (Self::Replaced, "replaced"),
        (Self::Cut, "cut"),
    ];
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a client to a server.
    Received,
    /// From a server to a client.
    Sent,
}

impl Direction {
    pub(super) const ALL: [(Self, &'static str); 2] = [(Self::Received, "received"), (Self::Sent, "sent")];
}

/// Why a datagram went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// There are as many sessions as may be, and none of them can be given up for it.
    TooMany,
    /// No router takes what comes in there, or it is broken.
    NoRouter,
    /// The service has no server, or none whose name is resolved.
    NoServer,
    /// No socket towards the server could be had.
    NoSocket,
    /// The entry point is about to close and opens no more sessions.
    Closing,
    /// The system did not take it on its way to the server.
    NotForwarded,
    /// The system did not take it on its way to the client.
    NotReturned,
}

impl Lost {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::TooMany, "too-many"),
        (Self::NoRouter, "no-router"),
        (Self::NoServer, "no-server"),
        (Self::NoSocket, "no-socket"),
        (Self::Closing, "closing"),
        (Self::NotForwarded, "not-forwarded"),
        (Self::NotReturned, "not-returned"),
    ];
}

impl DatagramMeters {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Counts a session as opened and open, until [`DatagramMeters::closed`].
    pub fn opened(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A session that was counted as open is over, and lasted so long.
    pub fn closed(&self, ending: SessionEnding, lasted: Duration) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.ended[ending as usize].fetch_add(1, Ordering::Relaxed);
        self.millis.fetch_add(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Sessions that ended this way.
    pub fn endings(&self, ending: SessionEnding) -> u64 {
        self.ended[ending as usize].load(Ordering::Relaxed)
    }

    /// How long sessions lasted that have ended, all together, in seconds.
    pub fn seconds(&self) -> f64 {
        self.millis.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Says who knows the servers of this service.
    pub fn set_servers(&self, servers: Weak<dyn ServerReport>) {
        *self.servers.lock() = Some(servers);
    }

    /// Each server of this service.
    pub fn each_server(&self, mut see: impl FnMut(ServerView<'_>)) {
        let servers = self.servers.lock().as_ref().and_then(Weak::upgrade);
        if let Some(servers) = servers {
            servers.each(&mut see);
        }
    }

    /// Counts a session that was given up for a newer one.
    pub fn evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    /// Sessions that were given up for newer ones.
    pub fn evictions(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Counts datagrams that were carried, and their bytes.
    pub fn carried(&self, direction: Direction, datagrams: u64, bytes: u64) {
        let Padded([datagrams_of, bytes_of]) = &self.carried[direction as usize];
        datagrams_of.fetch_add(datagrams, Ordering::Relaxed);
        bytes_of.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts datagrams that were dropped.
    pub fn dropped(&self, reason: Lost, datagrams: u64) {
        self.dropped[reason as usize].fetch_add(datagrams, Ordering::Relaxed);
    }

    /// Sessions that were ever opened.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Sessions that are open.
    pub fn open_sessions(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Datagrams and bytes that were carried.
    pub fn sums(&self, direction: Direction) -> (u64, u64) {
        let Padded([datagrams, bytes]) = &self.carried[direction as usize];
        (datagrams.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Datagrams that were dropped for this reason.
    pub fn drops(&self, reason: Lost) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }
}
