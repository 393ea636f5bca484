//! The requests of an HTTP/1 connection, one after the other.

use std::any::Any;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;

use super::conn::{Conn, Slot};
use super::framing::Framing;
use super::head::{HeadScan, Progress, answer, request_line, take};
use super::pace::now;
use super::wire::Wire;
use crate::exchange::Fault;

/// How long Pingora may read and throw away the rest of a request body after the answer.
const DRAIN: Duration = Duration::from_secs(2);

/// What the head reader came back with.
enum Incoming {
    Request(Framing, BytesMut, Instant),
    Refused(Fault),
    /// The client has gone, was idle for too long, or is sent away by a drain.
    Over,
}

/// Serves requests until the connection is over.
pub(super) async fn serve<A>(app: &Arc<A>, wire: Box<Wire>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let closing = wire.connection.watch_closing();
    let slot = Arc::new(Slot::default());
    let mut conn = Box::new(Conn::new(wire, slot.clone()));
    let mut user_context = None;
    loop {
        let Some(wire) = conn.wire.as_deref_mut() else { return };
        let (framing, head, started) = match read_head(wire).await {
            Incoming::Request(framing, head, started) => (framing, head, started),
            Incoming::Refused(fault) => return turn_away(wire, fault).await,
            Incoming::Over => return finish(wire, Linger::Yes).await,
        };
        wire.begin_request(&framing, started);
        let session = session_of(conn, head, user_context.take());
        match serve_one(app, session, &closing).await {
            Some((kept, context)) => {
                conn = kept;
                user_context = context;
            }
            None => match slot.take() {
                // Pingora lets go of a connection after any failure towards a server, also when the client got a whole answer.
                Some(wire) if wire.connection.take_reusable() && wire.is_between_requests() => {
                    conn = Box::new(Conn::new(wire, slot.clone()));
                }
                Some(mut wire) => return end(&mut wire).await,
                None => return,
            },
        }
    }
}

/// The user context that Pingora carries from one request of a connection to the next.
type UserContext = Option<Box<dyn Any + Send + Sync>>;

fn session_of(conn: Box<Conn>, head: BytesMut, user_context: UserContext) -> ServerSession {
    let idle = conn.wire.as_ref().and_then(|wire| wire.connection.keep_alive());
    let mut session = ServerSession::new_http1(conn);
    session.set_pipelined_prefix(head);
    session.set_keepalive(idle);
    // The wire keeps all times; a second clock would only give a second verdict.
    session.set_read_timeout(None);
    session.set_write_timeout(None);
    session.set_total_drain_timeout(Some(DRAIN));
    // Otherwise a `100 Continue` that precedes the body would end the connection with the answer.
    session.set_close_on_response_before_downstream_finish(false);
    // Clients that close their sending half get their answer; the wire bounds how long that may take.
    session.set_abort_on_close(false);
    session.set_connection_user_context(user_context);
    session
}

/// Hands one request to the application; the connection comes back if it can take another.
async fn serve_one<A>(app: &Arc<A>, session: ServerSession, closing: &ShutdownWatch) -> Option<(Box<Conn>, UserContext)>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let (stream, settings) = app.process_new_http(session, closing).await?.consume();
    let conn = stream.into_any().downcast::<Conn>().ok()?;
    let is_usable = conn.wire.as_ref().is_some_and(|wire| !wire.broken && !wire.is_raw());
    is_usable.then(|| (conn, settings.and_then(|mut settings| settings.take_user_context())))
}

/// Reads the next head: waits for its first byte as an idle connection does, and for the rest under the head's deadline.
async fn read_head(wire: &mut Wire) -> Incoming {
    if wire.input.is_empty() && !idle(wire).await {
        return Incoming::Over;
    }
    let started = now();
    let connection = wire.connection.clone();
    let options = connection.options();
    let patience = options.timeouts.read.map_or(options.timeouts.head, |read| read.min(options.timeouts.head));
    let mut scan = HeadScan::default();
    loop {
        match scan.advance(&mut wire.input, &options.limits) {
            Progress::Refused(fault) => return Incoming::Refused(fault),
            Progress::Complete(end) => {
                return match take(&mut wire.input, end, &options.limits) {
                    Ok((framing, head)) => Incoming::Request(framing, head, started),
                    Err(fault) => Incoming::Refused(fault),
                };
            }
            Progress::Partial => match fill_before(wire, started + patience).await {
                Ok(0) => return Incoming::Over,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Incoming::Refused(Fault::HeadTimeout),
                Err(_) => return Incoming::Over,
            },
        }
    }
}

/// For so long a connection is never idle too long for a drain.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// Waits for the first byte of a request; false if none comes. Only here may a drain close the connection.
pub(super) async fn idle(wire: &mut Wire) -> bool {
    let timeouts = wire.connection.options().timeouts;
    // A fresh connection gets the time of a request, one that has proved itself the idle time.
    let patience = if wire.connection.requests() == 0 {
        [timeouts.read, timeouts.idle].into_iter().flatten().min()
    } else {
        timeouts.idle
    };
    let mut deadline = None;
    poll_fn(|cx| {
        if let Poll::Ready(read) = wire.poll_fill(cx) {
            return Poll::Ready(read.is_ok_and(|bytes| bytes > 0));
        }
        wire.release_buffers();
        let started = *deadline.get_or_insert_with(now);
        // It may just have become idle: its handshake took so long, say, and the first request is on its way.
        let drain = wire.connection.close_idle_at().map(|at| at.max(started + LEFT_ALONE));
        let until = match (patience.map(|patience| started + patience), drain) {
            (Some(idle), Some(drain)) => idle.min(drain),
            (idle, drain) => match idle.or(drain) {
                Some(until) => until,
                None => return Poll::Pending,
            },
        };
        wire.read_timer.poll(cx, until).map(|()| false)
    })
    .await
}

/// Reads more, 0 at the end; `TimedOut` at the deadline.
pub(super) async fn fill_before(wire: &mut Wire, deadline: Instant) -> io::Result<usize> {
    poll_fn(|cx: &mut Context<'_>| match wire.poll_fill(cx) {
        Poll::Pending => wire.read_timer.poll(cx, deadline).map(|()| Err(io::ErrorKind::TimedOut.into())),
        ready => ready,
    })
    .await
}

/// Answers a request that nobody else will see, and ends the connection.
pub(super) async fn turn_away(wire: &mut Wire, fault: Fault) {
    let line = request_line(&wire.input);
    wire.connection.shared().observer.refused(&wire.connection.client, fault, line);
    let answer = answer(fault, line);
    wire.push(&answer);
    finish(wire, Linger::Yes).await;
}

/// Whether to read on after the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linger {
    Yes,
    No,
}

/// Ends a connection that Pingora did not want to keep.
pub(super) async fn end(wire: &mut Wire) {
    if wire.close_delimited && !wire.was_shut {
        // The answer was cut off, and only a reset can say so.
        let _ = socket2::SockRef::from(wire.transport.socket()).set_linger(Some(Duration::ZERO));
        return;
    }
    let linger = if wire.is_at_rest() { Linger::No } else { Linger::Yes };
    finish(wire, linger).await;
}

/// Writes what is left, closes the sending half, and reads on for a while: closing with unread bytes would make the kernel
/// send a reset, which may destroy the answer before the client has read it.
pub(super) async fn finish(wire: &mut Wire, linger: Linger) {
    if wire.broken {
        return;
    }
    let options = wire.connection.options();
    let (patience, mut bytes) = (options.timeouts.linger, options.limits.linger_bytes);
    let sent = poll_fn(|cx| match wire.poll_flush(cx) {
        Poll::Ready(Ok(())) => wire.poll_shut(cx),
        other => other,
    })
    .await;
    if sent.is_err() || linger == Linger::No || wire.ended.is_some() {
        return;
    }
    let deadline = now() + patience;
    loop {
        wire.input.clear();
        match fill_before(wire, deadline).await {
            Ok(read) if read > 0 && (read as u64) < bytes => bytes -= read as u64,
            _ => return,
        }
    }
}
