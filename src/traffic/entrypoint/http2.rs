//! HTTP/2: Pingora's own loop over the raw wire, with the settings and the drain of the entry point.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;

use super::conn::{Conn, Slot};
use super::connection::Connection;
use super::http1::end;
use super::options::Options;
use super::wire::Wire;

/// The application of an entry point as HTTP/2 connections see it.
pub(super) struct Http2App<A> {
    app: Arc<A>,
    server_options: HttpServerOptions,
    h2_options: H2Options,
}

impl<A> Http2App<A> {
    pub(super) fn new(app: Arc<A>, options: &Options) -> Self {
        let mut server_options = HttpServerOptions::default();
        // Nothing to do with clear text: it only says that this connection is HTTP/2, as we know by now.
        server_options.h2c = true;
        server_options.h2_idle_timeout = options.timeouts.idle;
        Self { app, server_options, h2_options: options.http2.unwrap_or_default().to_pingora() }
    }
}

#[async_trait]
impl<A> HttpServerApp for Http2App<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if let Some(connection) = Connection::of(&session) {
            connection.begin_request(Some(0));
            if connection.keep_alive().is_none() {
                // GOAWAY: requests that have begun are served.
                connection.set_closing(true);
            }
        }
        self.app.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2_options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}

/// Serves an HTTP/2 connection whose preface stands at the start of the wire's input.
pub(super) async fn serve<A>(app: &Arc<Http2App<A>>, mut wire: Box<Wire>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    wire.set_raw();
    let closing = wire.connection.watch_closing();
    let connection = wire.connection.clone();
    if connection.is_draining() {
        // Pingora looks for a change only, so a drain that was there before it looked must happen again.
        connection.set_closing(false);
        connection.set_closing(true);
    }
    let slot = Arc::new(Slot::default());
    app.process_new(Box::new(Conn::new(wire, slot.clone())), &closing).await;
    if let Some(mut wire) = slot.take() {
        end(&mut wire).await;
    }
}
