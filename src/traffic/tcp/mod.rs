//! The life of a TCP connection: past the middlewares to a server, and bytes both ways until one of the two ends it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::exchange::Client;
use crate::middleware::tcp::Refused;
use crate::observe::connections::Ending;
use crate::service::tcp::{Selection, Server};
use crate::snapshot::{TcpRoute, TcpTarget};

mod dial;
mod proxy_header;
mod relay;

use dial::{NotConnected, ServerStream};
use relay::Carried;

/// Most servers that are tried for one connection.
const ATTEMPTS: usize = 8;

/// A client's connection.
pub(in crate::traffic) enum ClientStream<S> {
    /// Plain TCP, with what was read of it.
    Plain(TcpStream, BytesMut),
    /// Plain TCP, of which a ClientHello was read that PostgreSQL's client sent only once its server had agreed to TLS. We have
    /// agreed in place of a server that is still to be asked.
    Postgres(TcpStream, BytesMut),
    /// TLS that ends here.
    Tls(S),
}

/// What there is to tell of a connection that has ended.
#[derive(Debug)]
pub struct Report {
    /// When it began to be a TCP router's.
    pub started: SystemTime,
    /// The same for the clock.
    pub began: Instant,
    /// The router that took it.
    pub route: Arc<TcpRoute>,
    /// The server, if one was connected to.
    pub server: Option<Arc<Server>>,
    /// Bytes from the client.
    pub received_bytes: u64,
    /// Bytes to the client.
    pub sent_bytes: u64,
    /// How it ended.
    pub ending: Ending,
}

/// Carries a connection to its end. If the future is dropped, `tell` is told all the same.
pub(in crate::traffic) async fn forward<S>(
    route: Arc<TcpRoute>,
    client: &Client,
    stream: ClientStream<S>,
    tell: impl FnOnce(&Report),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    route.meters.opened();
    let carried = Carried::default();
    let report = Report {
        started: SystemTime::now(),
        began: Instant::now(),
        route: route.clone(),
        server: None,
        received_bytes: 0,
        sent_bytes: 0,
        // Whoever cuts it off drops this future.
        ending: Ending::Broken,
    };
    let mut telling = Telling { report, carried: &carried, tell: Some(tell) };
    let ending = carry(&route, client, stream, &carried, &mut telling.report.server).await;
    telling.report.ending = ending;
}

/// Tells of a connection when it is over, however that comes.
struct Telling<'a, F: FnOnce(&Report)> {
    report: Report,
    carried: &'a Carried,
    tell: Option<F>,
}

impl<F: FnOnce(&Report)> Drop for Telling<'_, F> {
    fn drop(&mut self) {
        let report = &mut self.report;
        (report.received_bytes, report.sent_bytes) = (self.carried.up(), self.carried.down());
        let lasted = report.began.elapsed();
        report.route.meters.ended(report.ending, report.received_bytes, report.sent_bytes, lasted);
        if let Some(tell) = self.tell.take() {
            tell(report);
        }
    }
}

async fn carry<S>(
    route: &TcpRoute,
    client: &Client,
    stream: ClientStream<S>,
    carried: &Carried,
    connected: &mut Option<Arc<Server>>,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let TcpTarget::Service { middlewares, service, .. } = &route.target else { return Ending::RouterDisabled };
    let mut held = Vec::new();
    for middleware in middlewares {
        match middleware.admit(client.address()) {
            Ok(permit) => held.extend(permit),
            Err(Refused::Address) => return Ending::AddressRefused,
            Err(Refused::TooMany) => return Ending::TooMany,
        }
    }
    let mut tried: Vec<Arc<Server>> = Vec::new();
    let mut last = Ending::NoServer;
    let wants_postgres = matches!(stream, ClientStream::Postgres(..));
    let (server, selection) = loop {
        let Some(selection) = service.select(&tried).filter(|it| !tried.iter().any(|one| Arc::ptr_eq(one, &it.server)))
        else {
            return last;
        };
        match dial::connect(&selection, client, wants_postgres).await {
            Ok(stream) => break (stream, selection),
            Err(error) => {
                let (service, server) = (selection.pool.name().as_str(), selection.server.address());
                log::debug!(service, server; "not connected: {error}");
                last = match error {
                    NotConnected::Timeout => Ending::ConnectTimeout,
                    NotConnected::Refused(_) => Ending::ConnectFailed,
                    NotConnected::Tls(_) => Ending::ServerTls,
                };
            }
        }
        tried.push(selection.server);
        if tried.len() >= ATTEMPTS {
            return last;
        }
    };
    let Selection { pool, server: chosen } = selection;
    *connected = Some(chosen);
    let delay = pool.termination_delay;
    let result = match (stream, server) {
        (ClientStream::Plain(client, first) | ClientStream::Postgres(client, first), ServerStream::Plain(server)) => {
            relay::plain(&client, &server, first, carried, delay).await
        }
        (ClientStream::Plain(client, first) | ClientStream::Postgres(client, first), ServerStream::Tls(server)) => {
            relay::layered(client, *server, first, carried, delay).await
        }
        (ClientStream::Tls(client), ServerStream::Plain(server)) => {
            relay::layered(client, server, BytesMut::new(), carried, delay).await
        }
        (ClientStream::Tls(client), ServerStream::Tls(server)) => {
            relay::layered(client, *server, BytesMut::new(), carried, delay).await
        }
    };
    match result {
        Ok(()) => Ending::Closed,
        Err(_) => Ending::Broken,
    }
}
