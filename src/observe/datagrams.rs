//! What is counted of UDP: sessions, datagrams and bytes, for an entry point or a service.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::shard::Padded;

/// Counters of one entry point or one service.
#[derive(Debug, Default)]
pub struct DatagramMeters {
    pub(super) name: Arc<str>,
    sessions: AtomicU64,
    open: AtomicI64,
    evicted: AtomicU64,
    /// Datagrams and bytes, from clients and to clients. Each datagram writes here.
    carried: [Padded<[AtomicU64; 2]>; Direction::ALL.len()],
    dropped: [AtomicU64; Lost::ALL.len()],
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

    /// A session that was counted as open is over.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
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

    /// Counts a datagram that was dropped.
    pub fn dropped(&self, reason: Lost) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
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
