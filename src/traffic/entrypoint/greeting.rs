//! Which way a connection goes, decided by its first bytes: plain HTTP, a TCP router, or TLS on the terms of the name it asks for.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use pingora::apps::HttpServerApp;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::handle::supervise;
use super::rewound::Rewound;
use super::sniff::{POSTGRES_QUESTION_BYTES, Protocol, sniff};
use super::wire::{Transport, Wire};
use super::{EntryPoint, http1, http2, pace};
use crate::exchange::{Client, ConnectionView, Fault, TlsFacts};
use crate::observe::meters::Refusal;
use crate::snapshot::door::{Terms, Way};
use crate::snapshot::{Door, TcpRoute, TcpTls};
use crate::tls::client_hello::{self, ClientHello, Reading};
use crate::tls::handshake;
use crate::traffic::tcp::{Carried, ClientStream, Report, forward};

/// What the first bytes came to.
enum First {
    Http1,
    Http2,
    /// To be answered by TLS, within the time that began with the first byte.
    Tls(Box<ClientHello>, Instant),
    /// A ClientHello that is none.
    Malformed(&'static str),
    /// A TCP router takes it as it is.
    Tcp(Arc<TcpRoute>),
}

/// What came before the ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// PostgreSQL's question, and our yes.
    Postgres,
}

/// A client that waits for its handshake.
struct Caller {
    wire: Box<Wire>,
    hello: Box<ClientHello>,
    since: Instant,
    asked: Asked,
}

/// What is to be done with a connection that does not speak plain HTTP.
enum Next {
    Tls(Caller),
    Tcp(Box<Wire>, Arc<TcpRoute>),
}

/// A TCP connection as a client made it, or within TLS that ends here.
type Stream = ClientStream<Box<TlsStream<Rewound>>>;

impl Carried for Box<TlsStream<Rewound>> {
    fn socket(&self) -> &TcpStream {
        &self.get_ref().0.stream
    }
}

impl<A> EntryPoint<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Serves a connection of which `input` was read already.
    pub(super) async fn greet(self, stream: TcpStream, input: BytesMut, client: Client) {
        let connection = Arc::new(Connection::new(Arc::new(client), self.shared.clone()));
        let wire = Box::new(Wire::new(Transport::Tcp(stream), input, connection.clone()));
        let unread =
            self.door(&connection.client).and_then(|door| door.tcp_unread(connection.client.address()).cloned());
        let next = match unread {
            Some(route) => Some(Next::Tcp(wire, route)),
            None => {
                let mut next = None;
                supervise(&connection, pin!(async { next = self.serve_plain(wire).await })).await;
                next
            }
        };
        // In boxes of their own: a connection that speaks plain HTTP need not carry the room for them.
        match next {
            Some(Next::Tls(caller)) => Box::pin(self.serve_tls(caller)).await,
            Some(Next::Tcp(wire, route)) => {
                if let Some((stream, input)) = wire.into_parts() {
                    Box::pin(self.serve_tcp(&connection, route, ClientStream::Plain(stream, input))).await;
                }
            }
            None => {}
        }
    }

    /// Serves a connection to its end, unless it is for TLS or for a TCP router.
    async fn serve_plain(&self, mut wire: Box<Wire>) -> Option<Next> {
        if self.current.is_none() && self.shared.options.http2.is_none() {
            http1::serve(&self.app, wire).await;
            return None;
        }
        let mut asked = Asked::Nothing;
        match self.recognise(&mut wire, &mut asked).await {
            Ok(First::Http1) => http1::serve(&self.app, wire).await,
            Ok(First::Http2) => http2::serve(&self.http2, wire).await,
            Ok(First::Tls(hello, since)) => return Some(Next::Tls(Caller { wire, hello, since, asked })),
            Ok(First::Tcp(route)) => return Some(Next::Tcp(wire, route)),
            Ok(First::Malformed(reason)) => {
                log::debug!("not a ClientHello: {reason}");
                self.shared.observer.turned_away(&wire.connection.client, Refusal::Handshake);
                // Whoever sent it wants to know (RFC 8446 §6.2: decode_error).
                wire.push(&[21, 3, 3, 0, 2, 2, 50]);
                http1::finish(&mut wire, http1::Linger::Yes).await;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if asked == Asked::Postgres || sniff(&wire.input) == Protocol::Tls {
                    self.shared.observer.turned_away(&wire.connection.client, Refusal::Handshake);
                    http1::finish(&mut wire, http1::Linger::Yes).await;
                } else if wire.input.is_empty() {
                    // It has asked for GSSAPI and was refused. Whoever asks so understands no HTTP.
                    http1::finish(&mut wire, http1::Linger::Yes).await;
                } else {
                    http1::turn_away(&mut wire, Fault::HeadTimeout).await;
                }
            }
            Err(_) => http1::finish(&mut wire, http1::Linger::Yes).await,
        }
        None
    }

    /// Waits until the first bytes tell what the connection is for. `asked` is what came before them, also if that is all.
    ///
    /// # Errors
    /// `TimedOut` in the middle of them; anything else if the client has gone or said nothing.
    async fn recognise(&self, wire: &mut Wire, asked: &mut Asked) -> io::Result<First> {
        if wire.input.is_empty() && !http1::idle(wire).await {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let timeouts = wire.connection.options().timeouts;
        let started = pace::now();
        loop {
            let protocol = sniff(&wire.input);
            let until = match protocol {
                Protocol::Tls if self.current.is_some() => match client_hello::read(&wire.input) {
                    Reading::Whole(hello) => return Ok(First::Tls(Box::new(hello), started)),
                    Reading::Malformed(reason) => return Ok(First::Malformed(reason)),
                    Reading::NotTls => return Ok(First::Http1),
                    Reading::Partial => started + timeouts.handshake,
                },
                Protocol::Undecided => started + timeouts.head,
                // PostgreSQL's clients ask first whether TLS is spoken, and begin with it once that was affirmed.
                Protocol::PostgresTls if *asked == Asked::Nothing && self.speaks_postgres(wire) => {
                    *asked = Asked::Postgres;
                    answer_postgres(wire, b'S').await?;
                    started + timeouts.handshake
                }
                Protocol::PostgresGss if *asked == Asked::Nothing && self.speaks_postgres(wire) => {
                    answer_postgres(wire, b'N').await?;
                    started + timeouts.head
                }
                _ => return Ok(self.plain(wire, protocol)),
            };
            // Behind a question that was answered there may be what follows it.
            let is_unread = matches!(protocol, Protocol::PostgresTls | Protocol::PostgresGss) && !wire.input.is_empty();
            if is_unread {
                continue;
            }
            if http1::fill_before(wire, until).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Who takes a connection without TLS.
    fn plain(&self, wire: &Wire, protocol: Protocol) -> First {
        let client = &wire.connection.client;
        let route = self.door(client).and_then(|door| door.tcp_plain(client.address()).cloned());
        match (route, protocol) {
            (Some(route), _) => First::Tcp(route),
            (None, Protocol::Http2) if self.shared.options.http2.is_some() => First::Http2,
            _ => First::Http1,
        }
    }

    fn speaks_postgres(&self, wire: &Wire) -> bool {
        self.door(&wire.connection.client).is_some_and(|door| door.has_tcp_over_tls())
    }

    /// Carries a connection for a TCP router. It counts as a tunnel: nothing in it tells when a drain may end it.
    async fn serve_tcp(&self, connection: &Arc<Connection>, route: Arc<TcpRoute>, stream: Stream) {
        connection.upgrade();
        let client = connection.client.clone();
        let tell = |report: &Report| self.shared.observer.carried(&client, report);
        supervise(connection, pin!(forward(route, &client, stream, tell))).await;
    }

    /// Serves a connection over TLS.
    async fn serve_tls(&self, caller: Caller) {
        let outer = caller.wire.connection.clone();
        let mut unproved = None;
        supervise(&outer, pin!(async { unproved = self.prove(caller).await })).await;
        let Some(caller) = unproved else { return };
        let Some(door) = self.door(&outer.client) else { return };
        let view = ConnectionView {
            server_name: caller.hello.server_name.as_deref(),
            protocols: &caller.hello.protocols,
            client: outer.client.address(),
        };
        let (terms, route) = match door.over_tls(&view) {
            Way::Http(terms) => (terms.clone(), None),
            Way::Tcp(route) => match &route.tls {
                TcpTls::Terminate(terms) => (terms.clone(), Some(route.clone())),
                TcpTls::Passthrough | TcpTls::Without => {
                    return Box::pin(self.pass_through(caller, route.clone())).await;
                }
            },
        };
        let mut made = None;
        supervise(&outer, pin!(async { made = self.shake_hands(caller, terms).await })).await;
        let Some((stream, connection)) = made else { return };
        if let Some(route) = route {
            return Box::pin(self.serve_tcp(&connection, route, ClientStream::Tls(stream))).await;
        }
        let facts = connection.client.tls.as_ref();
        let is_http2 =
            self.shared.options.http2.is_some() && facts.is_some_and(|facts| facts.protocol.as_deref() == Some(b"h2"));
        let wire = Box::new(Wire::new(Transport::Tls(stream), BytesMut::new(), connection.clone()));
        let serve = async {
            if is_http2 { http2::serve(&self.http2, wire).await } else { http1::serve(&self.app, wire).await }
        };
        supervise(&connection, pin!(serve)).await;
    }

    /// Carries TLS that ends elsewhere.
    async fn pass_through(&self, caller: Caller, route: Arc<TcpRoute>) {
        let Caller { wire, hello, asked, .. } = caller;
        // For the log: the name is all that is known.
        let facts = TlsFacts { server_name: hello.server_name, ..TlsFacts::default() };
        let client = Client { tls: Some(Arc::new(facts)), ..(*wire.connection.client).clone() };
        let connection = Arc::new(Connection::new(Arc::new(client), self.shared.clone()));
        if let Some((stream, input)) = wire.into_parts() {
            let stream = match asked {
                Asked::Nothing => ClientStream::Plain(stream, input),
                Asked::Postgres => ClientStream::Postgres(stream, input),
            };
            self.serve_tcp(&connection, route, stream).await;
        }
    }

    /// Proves to an ACME server that a name is ours, if that is what the client is; `None` if it has been dealt with.
    async fn prove(&self, caller: Caller) -> Option<Caller> {
        let acme = &self.shared.options.acme;
        if !caller.hello.is_acme_challenge() {
            return Some(caller);
        }
        let proof = caller.hello.server_name.as_deref().and_then(|name| acme.challenges.find(name));
        if proof.is_none() && acme.by_pass {
            return Some(caller);
        }
        let Caller { wire, since, .. } = caller;
        let client = wire.connection.client.clone();
        let (stream, input) = wire.into_parts()?;
        let left = (since + self.shared.options.timeouts.handshake).saturating_duration_since(pace::now());
        match proof {
            // The handshake is all there is to it (RFC 8737 §3).
            Some(config) => {
                match tokio::time::timeout(left, handshake::prove(config, Rewound::new(input, stream))).await {
                    Ok(Ok(())) => log::debug!("{} was shown a proof", client.peer),
                    Ok(Err(error)) => log::debug!("{} was not shown a proof: {error}", client.peer),
                    Err(_) => log::debug!("{} did not look at a proof in time", client.peer),
                }
            }
            None => {
                self.shared.observer.turned_away(&client, Refusal::Handshake);
                // RFC 8446 §6.2: unrecognized_name, fatal.
                let _ = stream.try_write(&[21, 3, 3, 0, 2, 2, 112]);
            }
        }
        None
    }

    /// Makes the handshake on these terms: the connection within.
    async fn shake_hands(&self, caller: Caller, terms: Terms) -> Option<(Box<TlsStream<Rewound>>, Arc<Connection>)> {
        let Caller { wire, hello, since, .. } = caller;
        let client = wire.connection.client.clone();
        let (stream, input) = wire.into_parts()?;
        let Terms { name, options } = terms;
        let Some(options) = options else {
            self.shared.observer.turned_away(&client, Refusal::Handshake);
            log::debug!("handshake refused: the TLS options {name} are broken");
            // RFC 8446 §6.2: access_denied, fatal.
            let _ = stream.try_write(&[21, 3, 3, 0, 2, 2, 49]);
            return None;
        };
        let config = options.server_config(hello.server_name.as_deref(), client.local.ip()).clone();
        let left = (since + self.shared.options.timeouts.handshake).saturating_duration_since(pace::now());
        let shaken = tokio::time::timeout(left, handshake::accept(config, Rewound::new(input, stream))).await;
        let (stream, facts) = match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(made) => made,
            Err(error) => {
                log::debug!("handshake with {} failed: {error}", client.peer);
                self.shared.observer.turned_away(&client, Refusal::Handshake);
                return None;
            }
        };
        let client_demands = *options.client_demands();
        let facts = TlsFacts { options: Some(name.as_str().into()), client_demands, ..facts };
        let client = Client { tls: Some(Arc::new(facts)), ..(*client).clone() };
        Some((Box::new(stream), Arc::new(Connection::new(Arc::new(client), self.shared.clone()))))
    }

    fn door(&self, client: &Client) -> Option<Arc<Door>> {
        self.current.as_ref()?.load().doors.get(client.entry_point_index).cloned()
    }
}

/// Answers a question of PostgreSQL's, which is as long as the input's beginning.
async fn answer_postgres(wire: &mut Wire, answer: u8) -> io::Result<()> {
    wire.input.advance(POSTGRES_QUESTION_BYTES);
    wire.push(&[answer]);
    poll_fn(|cx| wire.poll_flush(cx)).await
}
