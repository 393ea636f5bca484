//! Which way a connection goes, decided by its first bytes: plain HTTP, or TLS on the terms of the name it asks for.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use tokio::net::TcpStream;

use super::connection::Connection;
use super::handle::supervise;
use super::rewound::Rewound;
use super::sniff::{Protocol, sniff};
use super::wire::{Transport, Wire};
use super::{EntryPoint, http1, http2, pace};
use crate::exchange::{Client, Fault, TlsFacts};
use crate::observe::meters::Refusal;
use crate::snapshot::Door;
use crate::snapshot::door::Terms;
use crate::tls::client_hello::{self, ClientHello, Reading};
use crate::tls::handshake;

/// What the first bytes came to.
enum First {
    Http1,
    Http2,
    /// To be answered by TLS, within the time that began with the first byte.
    Tls(Box<ClientHello>, Instant),
    /// A ClientHello that is none.
    Malformed(&'static str),
}

/// A client that waits for its handshake.
struct Caller {
    wire: Box<Wire>,
    hello: Box<ClientHello>,
    since: Instant,
}

impl<A> EntryPoint<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Serves a connection of which `input` was read already.
    pub(super) async fn greet(self, stream: TcpStream, input: BytesMut, client: Client) {
        let connection = Arc::new(Connection::new(Arc::new(client), self.shared.clone()));
        let wire = Box::new(Wire::new(Transport::Tcp(stream), input, connection.clone()));
        let mut caller = None;
        supervise(&connection, async { caller = self.serve_plain(wire).await }).await;
        if let Some(caller) = caller {
            // In a box of its own: a plain connection need not carry the room for it.
            Box::pin(self.serve_tls(caller)).await;
        }
    }

    /// Serves a connection to its end, unless it wants TLS.
    async fn serve_plain(&self, mut wire: Box<Wire>) -> Option<Caller> {
        if self.current.is_none() && self.shared.options.http2.is_none() {
            http1::serve(&self.app, wire).await;
            return None;
        }
        match self.recognise(&mut wire).await {
            Ok(First::Http1) => http1::serve(&self.app, wire).await,
            Ok(First::Http2) => http2::serve(&self.http2, wire).await,
            Ok(First::Tls(hello, since)) => return Some(Caller { wire, hello, since }),
            Ok(First::Malformed(reason)) => {
                log::debug!("not a ClientHello: {reason}");
                self.shared.observer.turned_away(&wire.connection.client, Refusal::Handshake);
                // Whoever sent it wants to know (RFC 8446 §6.2: decode_error).
                wire.push(&[21, 3, 3, 0, 2, 2, 50]);
                http1::finish(&mut wire, http1::Linger::Yes).await;
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let is_tls = matches!(sniff(&wire.input), Protocol::Tls);
                if is_tls {
                    self.shared.observer.turned_away(&wire.connection.client, Refusal::Handshake);
                    http1::finish(&mut wire, http1::Linger::Yes).await;
                } else {
                    http1::turn_away(&mut wire, Fault::HeadTimeout).await;
                }
            }
            Err(_) => http1::finish(&mut wire, http1::Linger::Yes).await,
        }
        None
    }

    /// Waits until the first bytes tell what the connection is for.
    ///
    /// # Errors
    /// `TimedOut` in the middle of them; anything else if the client has gone or said nothing.
    async fn recognise(&self, wire: &mut Wire) -> io::Result<First> {
        if wire.input.is_empty() && !http1::idle(wire).await {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let timeouts = wire.connection.options().timeouts;
        let started = pace::now();
        loop {
            let until = match sniff(&wire.input) {
                Protocol::Tls if self.current.is_some() => match client_hello::read(&wire.input) {
                    Reading::Whole(hello) => return Ok(First::Tls(Box::new(hello), started)),
                    Reading::Malformed(reason) => return Ok(First::Malformed(reason)),
                    Reading::NotTls => return Ok(First::Http1),
                    Reading::Partial => started + timeouts.handshake,
                },
                Protocol::Http2 if self.shared.options.http2.is_some() => return Ok(First::Http2),
                Protocol::Undecided => started + timeouts.head,
                _ => return Ok(First::Http1),
            };
            if http1::fill_before(wire, until).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Serves a connection over TLS.
    async fn serve_tls(&self, caller: Caller) {
        let outer = caller.wire.connection.clone();
        let mut made = None;
        supervise(&outer, async { made = self.shake_hands(caller).await }).await;
        let Some((wire, is_http2)) = made else { return };
        let connection = wire.connection.clone();
        supervise(&connection, async {
            if is_http2 { http2::serve(&self.http2, wire).await } else { http1::serve(&self.app, wire).await }
        })
        .await;
    }

    /// Makes the handshake; whether HTTP/2 was agreed on.
    async fn shake_hands(&self, caller: Caller) -> Option<(Box<Wire>, bool)> {
        let Caller { wire, hello, since } = caller;
        let client = wire.connection.client.clone();
        let Terms { name, options } = self.door(&client)?.terms(hello.server_name.as_deref()).clone();
        let (stream, input) = wire.into_parts()?;
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
        let is_http2 = self.shared.options.http2.is_some() && facts.protocol.as_deref() == Some(b"h2");
        let facts = TlsFacts { options: Some(name.as_str().into()), ..facts };
        let client = Client { tls: Some(Arc::new(facts)), ..(*client).clone() };
        let connection = Arc::new(Connection::new(Arc::new(client), self.shared.clone()));
        let wire = Wire::new(Transport::Tls(Box::new(stream)), BytesMut::new(), connection);
        Some((Box::new(wire), is_http2))
    }

    fn door(&self, client: &Client) -> Option<Arc<Door>> {
        self.current.as_ref()?.load().doors.get(client.entry_point_index).cloned()
    }
}
