//! One accepted connection, as the hooks of its requests see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use super::handle::Shared;
use super::options::Options;
use super::pace;
use crate::exchange::{Client, Fault};
use crate::traffic::http::EntryPointHttp;

/// Bytes of a request body that may be outstanding when a connection is kept all the same; they are read and thrown away.
const OUTSTANDING_BYTES: u64 = 256 << 10;
/// How long an HTTP/2 client may stay that goes or was told to, once it has its answers.
const FAREWELL: Duration = Duration::from_secs(10);
/// The same while the entry point drains. Whoever is there goes within a round trip. Who is not shall be gone, lingering included, well
/// before requests are cut, which is after 10 s unless somebody says otherwise: else a single one would make each stop take all of that.
const LAST_FAREWELL: Duration = Duration::from_secs(5);

/// One accepted connection. Hooks find it by [`Connection::of`], over HTTP/1 and HTTP/2 alike.
#[derive(Debug)]
pub struct Connection {
    /// Who is calling.
    pub client: Arc<Client>,
    /// The client's address as text, for the headers that tell servers of it.
    pub address: HeaderValue,
    shared: Arc<Shared>,
    opened: Instant,
    requests: AtomicU64,
    /// Requests of an HTTP/2 connection that the client has taken back.
    abandoned: AtomicU64,
    /// Those that are being answered.
    under_way: AtomicUsize,
    /// Whether it was ever said that no further request is taken.
    is_closing: AtomicBool,
    /// The client of the current HTTP/1 request wants no other.
    is_last: AtomicBool,
    /// Bytes of the current HTTP/1 request body that the client still owes; the largest number if nobody knows.
    outstanding: AtomicU64,
    body_fault: AtomicU8,
    is_upgraded: AtomicBool,
    /// The client has a whole answer and was not told that the connection ends.
    is_reusable: AtomicBool,
    /// What is written in answer to the current HTTP/1 request is not held back.
    writes_at_once: AtomicBool,
    /// When a drain closes the connection if it is idle.
    close_idle_at: Mutex<Option<Instant>>,
    /// Turns true when the connection must not take further requests; Pingora watches the other end.
    closing: watch::Sender<bool>,
}

impl Connection {
    pub(super) fn new(client: Arc<Client>, shared: Arc<Shared>) -> Self {
        Self {
            address: client.address_text(),
            client,
            shared,
            opened: pace::now(),
            requests: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            is_last: AtomicBool::new(false),
            outstanding: AtomicU64::new(0),
            body_fault: AtomicU8::new(0),
            is_upgraded: AtomicBool::new(false),
            is_reusable: AtomicBool::new(false),
            writes_at_once: AtomicBool::new(false),
            close_idle_at: Mutex::new(None),
            closing: watch::Sender::new(false),
        }
    }

    /// The connection of a session, if the session came through an entry point.
    pub fn of(session: &ServerSession) -> Option<&Arc<Self>> {
        session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// What to give to `Session::set_keepalive` with every answer: seconds, or `None` if the connection ends with it.
    ///
    /// Ask when the answer is about to be written, not before the request body is read: an answer that overtakes a large
    /// body ends the connection, as reading the rest of it for nothing would cost more.
    pub fn keep_alive(&self) -> Option<u64> {
        let options = self.options();
        let is_used_up = self.is_draining()
            || self.is_last.load(Ordering::Relaxed)
            || *self.closing.borrow()
            || options.keep_alive.max_requests.is_some_and(|most| self.requests() >= most)
            || options.keep_alive.max_time.is_some_and(|most| pace::now() - self.opened >= most)
            || self.outstanding.load(Ordering::Relaxed) > OUTSTANDING_BYTES;
        // Zero would mean no end to Pingora. The head reader keeps the time; this number only has to be positive.
        (!is_used_up).then(|| options.timeouts.idle.map_or(86_400, |idle| idle.as_secs().max(1)))
    }

    /// Requests so far, the current one included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether the entry point is on its way out.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Why the current HTTP/1 request body could not be read, if it was the client's fault: `BadRequest`, `BodyTimeout` or
    /// `ClientGone`. It says which answer a read error of Pingora deserves.
    pub fn body_fault(&self) -> Option<Fault> {
        match self.body_fault.load(Ordering::Relaxed) {
            1 => Some(Fault::BadRequest),
            2 => Some(Fault::BodyTimeout),
            3 => Some(Fault::ClientGone),
            _ => None,
        }
    }

    /// Whether the connection has left HTTP (101): it is counted apart and no request deadline applies.
    ///
    /// The front door notices an HTTP/1 upgrade by itself; nobody has to tell it.
    pub fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Relaxed)
    }

    /// Says that the client has got a whole answer that does not end the connection, whatever Pingora makes of the exchange.
    pub fn set_reusable(&self) {
        self.is_reusable.store(true, Ordering::Relaxed);
    }

    /// Says that the connection ends with the answer that is about to be written.
    pub fn end_with_this_answer(&self) {
        self.set_last(true);
    }

    /// Says that what is written from now on in answer to the current HTTP/1 request goes out at once. Otherwise it may wait until
    /// somebody reads from the client.
    pub fn write_at_once(&self) {
        self.writes_at_once.store(true, Ordering::Relaxed);
    }

    pub(super) fn writes_at_once(&self) -> bool {
        self.writes_at_once.load(Ordering::Relaxed)
    }

    pub(super) fn take_reusable(&self) -> bool {
        self.is_reusable.swap(false, Ordering::Relaxed)
    }

    /// How its entry point treats requests.
    pub fn http(&self) -> &EntryPointHttp {
        &self.shared.options.http
    }

    pub(super) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A request head was taken that wants to be the last, or not.
    pub(super) fn set_last(&self, is_last: bool) {
        self.is_last.store(is_last, Ordering::Relaxed);
    }

    /// A request head was taken; its body has so many bytes, or nobody knows.
    pub(super) fn begin_request(&self, body_bytes: Option<u64>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.outstanding.store(body_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.body_fault.store(0, Ordering::Relaxed);
        self.is_reusable.store(false, Ordering::Relaxed);
        self.writes_at_once.store(false, Ordering::Relaxed);
    }

    /// Notes that a request of an HTTP/2 connection is being answered, until that is dropped.
    pub(super) fn occupy(&self) -> Occupied<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Occupied(self)
    }

    /// Whether a request of an HTTP/2 connection is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// How long an HTTP/2 client may stay that goes or was told to, once it has its answers.
    pub(super) fn farewell(&self) -> Duration {
        if self.is_draining() { LAST_FAREWELL } else { FAREWELL }
    }

    /// One more request was taken back; how many that makes.
    pub(super) fn count_abandoned(&self) -> u64 {
        self.abandoned.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn set_outstanding(&self, bytes: u64) {
        self.outstanding.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn fail_body(&self, fault: Fault) {
        let code = match fault {
            Fault::BadRequest => 1,
            Fault::BodyTimeout => 2,
            _ => 3,
        };
        self.body_fault.store(code, Ordering::Relaxed);
    }

    pub(super) fn upgrade(&self) {
        if !self.is_upgraded.swap(true, Ordering::Relaxed) {
            self.shared.upgraded(1);
        }
    }

    pub(super) fn close_idle_at(&self) -> Option<Instant> {
        *self.close_idle_at.lock()
    }

    pub(super) fn set_close_idle_at(&self, at: Option<Instant>) {
        *self.close_idle_at.lock() = at;
    }

    /// A receiver that turns true when no further request may be taken.
    pub(super) fn watch_closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Says whether further requests may be taken.
    pub(super) fn set_closing(&self, closing: bool) {
        self.is_closing.fetch_or(closing, Ordering::Relaxed);
        self.closing.send_if_modified(|current| std::mem::replace(current, closing) != closing);
    }

    /// Whether it was ever said that no further request is taken. HTTP/2 clients that were told so cannot be told otherwise.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
pub(super) struct Occupied<'a>(&'a Connection);

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
