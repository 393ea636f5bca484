//! What happened: per class how many, how fast, and what went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

const MAX_KINDS: usize = 40;
const MAX_GENERATIONS: usize = 100_000;

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// GET on connections that are used again.
    KeepAlive,
    /// GET, each on its own connection.
    NewConnection,
    /// Responses that take seconds.
    Slow,
    /// POST, which must arrive exactly once.
    Post,
    /// GET over TLS, on connections that are used again.
    SecureKeepAlive,
    /// GET over TLS, each on its own connection; every other one goes on with a session of before.
    SecureNewConnection,
    /// Requests among others on few connections: short ones, slow ones, and POST.
    Http2,
    /// Echoes in a gRPC stream.
    Grpc,
    /// Echoes over a WebSocket.
    WebSocket,
    /// The same over TLS.
    SecureWebSocket,
    /// Connections of a TCP router.
    Tcp,
    /// Datagrams there and back, half of them in sessions that last.
    Datagram,
}

impl Class {
    const ALL: [(Self, &'static str); 12] = [
        (Self::KeepAlive, "keep-alive GET"),
        (Self::NewConnection, "new-connection GET"),
        (Self::Slow, "slow response"),
        (Self::Post, "POST exactly once"),
        (Self::SecureKeepAlive, "TLS keep-alive"),
        (Self::SecureNewConnection, "TLS new connection"),
        (Self::Http2, "HTTP/2 stream"),
        (Self::Grpc, "gRPC stream"),
        (Self::WebSocket, "WebSocket echo"),
        (Self::SecureWebSocket, "WebSocket over TLS"),
        (Self::Tcp, "TCP connection"),
        (Self::Datagram, "UDP there and back"),
    ];
}

/// All that happened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    classes: Mutex<BTreeMap<Class, Counts>>,
    generations: Mutex<BTreeSet<String>>,
    failures: Mutex<BTreeMap<String, u64>>,
    resumed: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    done: u64,
    failed: u64,
    /// How many took up to 2^(index/4) microseconds: a quarter of an octave is fine enough for a table.
    times: Vec<u64>,
    slowest: Duration,
}

impl Tally {
    /// One went well.
    pub(crate) fn done(&self, class: Class, took: Duration) {
        let mut classes = self.classes.lock();
        let counts = classes.entry(class).or_default();
        counts.done += 1;
        counts.slowest = counts.slowest.max(took);
        let slot = ((took.as_micros().max(1) as f64).log2() * 4.0).ceil() as usize;
        if counts.times.len() <= slot {
            counts.times.resize(slot + 1, 0);
        }
        counts.times[slot] += 1;
    }

    /// One went wrong.
    pub(crate) fn failed(&self, class: Class, how: &str) {
        self.classes.lock().entry(class).or_default().failed += 1;
        let mut failures = self.failures.lock();
        let kind = format!("{class:?}: {how}");
        if failures.len() < MAX_KINDS || failures.contains_key(&kind) {
            *failures.entry(kind).or_default() += 1;
        }
    }

    /// A response named the configuration that it passed through.
    pub(crate) fn generation(&self, name: &str) {
        let mut generations = self.generations.lock();
        if generations.len() < MAX_GENERATIONS && !generations.contains(name) {
            generations.insert(name.to_owned());
        }
    }

    /// A TLS session went on.
    pub(crate) fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many went wrong.
    pub(crate) fn failures(&self) -> u64 {
        self.classes.lock().values().map(|counts| counts.failed).sum()
    }

    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let mut text =
            format!("{:<20} {:>9} {:>7} {:>9} {:>9} {:>9}\n", "class", "done", "failed", "p50 ms", "p99 ms", "max ms");
        let classes = self.classes.lock();
        for (class, name) in Class::ALL {
            let Some(counts) = classes.get(&class) else { continue };
            let _ = writeln!(
                text,
                "{name:<20} {:>9} {:>7} {:>9.1} {:>9.1} {:>9.1}",
                counts.done,
                counts.failed,
                counts.quantile(0.5),
                counts.quantile(0.99),
                counts.slowest.as_secs_f64() * 1e3
            );
        }
        let done: u64 = classes.values().map(|counts| counts.done).sum();
        drop(classes);
        for (kind, count) in self.failures.lock().iter() {
            let _ = writeln!(text, "  {count} × {kind}");
        }
        let _ = writeln!(text, "sessions resumed: {}", self.resumed.load(Ordering::Relaxed));
        let _ = writeln!(text, "configurations seen: {}", self.generations.lock().len());
        let _ = write!(text, "done: {done}, failed: {}", self.failures());
        text
    }
}

impl Counts {
    /// The time in milliseconds that this share stayed below, to a quarter of an octave.
    fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.done as f64 * share).ceil() as u64;
        for (slot, count) in self.times.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 {
                return ((slot as f64 / 4.0).exp2() / 1e3).min(self.slowest.as_secs_f64() * 1e3);
            }
        }
        0.0
    }
}
