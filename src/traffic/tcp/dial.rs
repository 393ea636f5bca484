//! A connection to a TCP server, with everything that comes before the client's bytes.

use std::fmt;
use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::proxy_header;
use crate::exchange::Client;
use crate::service::tcp::Selection;

/// A connection to a server.
pub(super) enum ServerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NotConnected {
    Timeout,
    Refused(io::Error),
    Tls(io::Error),
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("time is up"),
            Self::Refused(error) | Self::Tls(error) => error.fmt(f),
        }
    }
}

/// What a PostgreSQL client sends before a ClientHello (PostgreSQL, "Frontend/Backend Protocol", SSLRequest).
const SSL_REQUEST: &[u8; 8] = &[0, 0, 0, 8, 4, 210, 22, 47];

/// Connects to a server, tells it who the client is if it wants to know, and makes the handshake. `wants_postgres`: it is
/// PostgreSQL's, and has to agree to TLS before the client's ClientHello may come. It takes no longer than the transport says, and
/// no longer than `left`.
pub(super) async fn connect(
    selection: &Selection,
    client: &Client,
    wants_postgres: bool,
    left: Duration,
) -> Result<ServerStream, NotConnected> {
    let patience = selection.pool.transport.dial_timeout.min(left);
    match tokio::time::timeout(patience, connect_patiently(selection, client, wants_postgres, patience)).await {
        Ok(result) => result,
        Err(_) => Err(NotConnected::Timeout),
    }
}

async fn connect_patiently(
    selection: &Selection,
    client: &Client,
    wants_postgres: bool,
    patience: Duration,
) -> Result<ServerStream, NotConnected> {
    let (pool, server) = (&selection.pool, &selection.server);
    let mut stream = server.connect(None, patience).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => NotConnected::Timeout,
        _ => NotConnected::Refused(error),
    })?;
    prepare(&stream, selection).map_err(NotConnected::Refused)?;
    if let Some(version) = pool.proxy_protocol {
        let header = proxy_header::write(version, client.peer, client.local);
        stream.write_all(&header).await.map_err(NotConnected::Refused)?;
    }
    if wants_postgres {
        stream.write_all(SSL_REQUEST).await.map_err(NotConnected::Refused)?;
        if stream.read_u8().await.map_err(NotConnected::Refused)? != b'S' {
            return Err(NotConnected::Tls(io::Error::other("the server does not agree to TLS")));
        }
    }
    if !server.tls {
        return Ok(ServerStream::Plain(stream));
    }
    let stream = pool.transport.shake_hands(server.host(), stream).await.map_err(NotConnected::Tls)?;
    Ok(ServerStream::Tls(Box::new(stream)))
}

fn prepare(stream: &TcpStream, selection: &Selection) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(pause) = selection.pool.transport.keep_alive {
        SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(pause).with_interval(pause))?;
    }
    Ok(())
}
