//! What is counted of TCP connections, per router and service. Traefik counts nothing of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::metrics::Named;

/// How a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// One of the two closed it.
    Closed,
    /// Client or server broke it off.
    Broken,
    /// The middlewares did not let it through: its address.
    AddressRefused,
    /// The middlewares did not let it through: its address has as many as it may have.
    TooMany,
    /// The router is broken; see the problems in the API or `check`.
    RouterDisabled,
    /// No server of the service is up.
    NoServer,
    /// No server could be connected to.
    ConnectFailed,
    /// No server could be connected to in time.
    ConnectTimeout,
    /// TLS to the server failed: certificate, name or protocol.
    ServerTls,
}

impl Ending {
    const ALL: [Self; 9] = [
        Self::Closed,
        Self::Broken,
        Self::AddressRefused,
        Self::TooMany,
        Self::RouterDisabled,
        Self::NoServer,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::ServerTls,
    ];

    /// As metrics and the access log call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::AddressRefused => "address-refused",
            Self::TooMany => "too-many-in-flight",
            Self::RouterDisabled => "router-disabled",
            Self::NoServer => "no-server",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::ServerTls => "server-tls",
        }
    }
}

/// Meters of the TCP connections of one router to its service.
#[derive(Debug, Default)]
pub struct ConnectionMeters {
    pub(super) router: Arc<str>,
    pub(super) service: Arc<str>,
    open: AtomicI64,
    ended: [AtomicU64; Ending::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    micros: AtomicU64,
}

impl ConnectionMeters {
    pub(super) fn new(router: &str, service: &str) -> Self {
        Self { router: router.into(), service: service.into(), ..Self::default() }
    }

    /// Counts a connection as open, until [`ConnectionMeters::ended`].
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts how a connection ended that was opened `lasted` before, and what it carried.
    pub fn ended(&self, ending: Ending, received_bytes: u64, sent_bytes: u64, lasted: Duration) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.ended[ending as usize].fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(received_bytes, Ordering::Relaxed);
        self.sent.fetch_add(sent_bytes, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn open(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Endings that there were, and how often.
    pub(super) fn endings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts =
            Ending::ALL.iter().map(|ending| (ending.name(), self.ended[*ending as usize].load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0)
    }

    /// Bytes from clients, bytes to clients, seconds of all connections that have ended.
    pub(super) fn carried(&self) -> (u64, u64, f64) {
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed), seconds)
    }
}

impl Named for ConnectionMeters {
    fn name(&self) -> (&str, &str) {
        (&self.router, &self.service)
    }
}
