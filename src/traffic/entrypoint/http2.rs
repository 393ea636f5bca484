//! HTTP/2: Pingora's own loop over the raw wire, with the settings and the drain of the entry point.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Uri};
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;

mod fields;
mod frame;
mod frames;
mod head;
mod incoming;
mod outgoing;
mod patience;
mod streams;

pub(super) use frames::{Frames, Passage};

use super::conn::{Conn, Slot};
use super::connection::Connection;
use super::http1::{Linger, end, fill_before, finish, idle};
use super::options::{Http2, Options};
use super::pace::now;
use super::sniff::PREFACE;
use super::stream::Stream;
use super::wire::Wire;
use crate::exchange::Fault;

/// How long Pingora may read and throw away the rest of a request body after the answer.
const DRAIN: Duration = Duration::from_secs(2);

/// So many requests may be taken back before it matters what part of all requests they are.
const ABANDONED: u64 = 100;

/// The application of an entry point as HTTP/2 connections see it.
pub(super) struct Http2App<A> {
    app: Arc<A>,
    server_options: HttpServerOptions,
    h2_options: H2Options,
    options: Http2,
}

impl<A> Http2App<A> {
    pub(super) fn new(app: Arc<A>, options: &Options) -> Self {
        let mut server_options = HttpServerOptions::default();
        // Nothing to do with clear text: it only says that this connection is HTTP/2, as we know by now.
        server_options.h2c = true;
        server_options.h2_idle_timeout = options.timeouts.idle;
        let http2 = options.http2.unwrap_or_default();
        Self { app, server_options, h2_options: http2.to_pingora(), options: http2 }
    }
}

#[async_trait]
impl<A> HttpServerApp for Http2App<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Some(connection) = Connection::of(&session).cloned() else {
            return self.app.process_new_http(session, shutdown).await;
        };
        connection.begin_request(Some(0));
        let _occupied = connection.occupy();
        if let Err(fault) = head::judge(session.req_header(), &connection.options().limits) {
            connection.shared().observer.refused(&connection.client, fault, Asked::of(&session).line().as_bytes());
            head::refuse(&mut session, fault).await;
            return None;
        }
        if connection.keep_alive().is_none() {
            // GOAWAY: requests that have begun are served.
            connection.set_closing(true);
        }
        let options = connection.options();
        // A client that opens no window for so long is stuck, or wants our memory.
        let patience = options.rates.send.grace;
        session.set_write_timeout(Some(options.timeouts.write.map_or(patience, |write| write.min(patience))));
        session.set_total_drain_timeout(Some(DRAIN));
        let patience = options.timeouts.read.filter(|_| !session.is_body_empty());
        let asked = patience.map(|_| Asked::of(&session));
        let stream = Stream::new(patience);
        let work = stream.scope(self.app.process_new_http(session, shutdown));
        tokio::select! {
            kept = work => {
                note_end(&connection, &stream);
                kept
            }
            () = stream.stalls() => {
                // The stream is reset with its session.
                let line = asked.map(|asked| asked.line()).unwrap_or_default();
                connection.shared().observer.refused(&connection.client, Fault::BodyTimeout, line.as_bytes());
                None
            }
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2_options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}

/// What a request asked for, should it have to be told when its session is gone. It costs two counts.
struct Asked {
    method: Method,
    target: Uri,
}

impl Asked {
    fn of(session: &ServerSession) -> Self {
        let head = session.req_header();
        Self { method: head.method.clone(), target: head.uri.clone() }
    }

    /// The request line that the request would have over HTTP/1.
    fn line(&self) -> String {
        format!("{} {} HTTP/2.0", self.method, self.target.path_and_query().map_or("/", |target| target.as_str()))
    }
}

/// Counts requests that the client has taken back. Whoever does little else is sent away: each costs the client a few bytes, and
/// us and the servers a whole request (CVE-2023-44487).
fn note_end(connection: &Connection, stream: &Stream) {
    if !stream.is_abandoned() {
        return;
    }
    let abandoned = connection.count_abandoned();
    if abandoned >= ABANDONED && abandoned * 2 >= connection.requests() {
        connection.set_closing(true);
    }
}

/// Waits for the preface (RFC 9113 §3.4): over TLS nothing has come yet. False if it does not come in time, or something else.
async fn read_preface(wire: &mut Wire) -> bool {
    if wire.input.is_empty() && !idle(wire).await {
        return false;
    }
    let deadline = now() + wire.connection.options().timeouts.head;
    while wire.input.len() < PREFACE.len() {
        if !PREFACE.starts_with(&wire.input) || !fill_before(wire, deadline).await.is_ok_and(|read| read > 0) {
            break;
        }
    }
    wire.input.starts_with(PREFACE)
}

/// Serves an HTTP/2 connection, of which the wire's input may hold the start.
pub(super) async fn serve<A>(app: &Arc<Http2App<A>>, mut wire: Box<Wire>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    if !read_preface(&mut wire).await {
        return finish(&mut wire, Linger::Yes).await;
    }
    wire.set_raw();
    let closing = wire.connection.watch_closing();
    let connection = wire.connection.clone();
    if connection.is_draining() {
        // Pingora looks for a change only, so a drain that was there before it looked must happen again.
        connection.set_closing(false);
        connection.set_closing(true);
    }
    let slot = Arc::new(Slot::default());
    let conn = Conn::with_frames(wire, slot.clone(), Frames::new(app.options));
    app.process_new(Box::new(conn), &closing).await;
    if let Some(mut wire) = slot.take() {
        end(&mut wire).await;
    }
}
