//! The life of a TCP connection: past the middlewares to a server, and bytes both ways until one of the two ends it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::exchange::Client;
use crate::middleware::tcp::Refused;
use crate::observe::connections::Ending;
use crate::service::tcp::{Selection, Server, Service};
use crate::snapshot::{TcpRoute, TcpTarget};

mod dial;
mod proxy_header;
mod relay;

use dial::{NotConnected, ServerStream};
use relay::Volume;

/// Most servers that are tried for one connection.
const ATTEMPTS: usize = 8;
/// Longest that all attempts take together, in terms of what the first may take: behind a server that says nothing another one
/// gets its chance, and no client waits for minutes.
const PATIENCE_FACTOR: u32 = 2;

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

/// A connection that is carried by a socket.
pub(in crate::traffic) trait Carried {
    /// That socket.
    fn socket(&self) -> &TcpStream;
}

impl<S: Carried> ClientStream<S> {
    /// Waits until the client has broken the connection off. One that has only ended its own direction may well wait for an answer.
    async fn broken_off(&self) {
        let socket = match self {
            Self::Plain(socket, _) | Self::Postgres(socket, _) => socket,
            Self::Tls(stream) => stream.socket(),
        };
        while let Ok(ready) = socket.ready(Interest::ERROR).await {
            if ready.is_error() {
                break;
            }
        }
    }
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
    S: AsyncRead + AsyncWrite + Unpin + Carried,
{
    route.meters.opened();
    let carried = Volume::default();
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
    carried: &'a Volume,
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
    carried: &Volume,
    connected: &mut Option<Arc<Server>>,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Unpin + Carried,
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
    let wants_postgres = matches!(stream, ClientStream::Postgres(..));
    let (server, selection) = tokio::select! {
        biased;
        reached = reach(service, client, wants_postgres) => match reached {
            Ok(reached) => reached,
            Err(ending) => return ending,
        },
        () = stream.broken_off() => return Ending::Broken,
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

/// Connects to a server of the service: to the first that can be reached, of a few.
///
/// # Errors
/// Why the last one could not be reached.
async fn reach(service: &Service, client: &Client, wants_postgres: bool) -> Result<(ServerStream, Selection), Ending> {
    let began = Instant::now();
    let mut tried: Vec<Arc<Server>> = Vec::new();
    let mut patience = None;
    let mut last = Ending::NoServer;
    while tried.len() < ATTEMPTS {
        let Some(selection) = service.select(&tried).filter(|it| !tried.iter().any(|one| Arc::ptr_eq(one, &it.server)))
        else {
            break;
        };
        let whole: &mut Duration =
            patience.get_or_insert_with(|| selection.pool.transport.dial_timeout.saturating_mul(PATIENCE_FACTOR));
        let left = whole.saturating_sub(began.elapsed());
        if left.is_zero() && !tried.is_empty() {
            break;
        }
        match dial::connect(&selection, client, wants_postgres, left).await {
            Ok(stream) => return Ok((stream, selection)),
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
    }
    Err(last)
}
