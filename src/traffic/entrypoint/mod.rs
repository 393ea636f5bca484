//! The front door: connections in, one request after the other to Pingora.
//!
//! An entry point owns its listening socket and every connection it has accepted. What a request head says of its framing
//! is judged here, once, before Pingora sees it; what a client may take in time, bytes and connections is bounded here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use tokio::net::{TcpListener, TcpStream};

mod conn;
mod connection;
mod framing;
mod greeting;
mod handle;
mod head;
mod http1;
mod http2;
mod listen;
mod options;
mod pace;
mod proxy_protocol;
mod rewound;
mod sniff;
mod stream;
mod wire;

pub use connection::Connection;
pub use handle::Handle;
pub use listen::bind;
pub use options::{Acme, Http2, KeepAlive, Limits, Options, Rate, Rates, Timeouts, Trusted};
pub use stream::Stream;

use handle::{Accepting, Counted, Shared};
use http2::Http2App;
use proxy_protocol::Header;

use crate::exchange::{Client, Fault};
use crate::observe::meters::Refusal;
use crate::snapshot::Current;
use crate::traffic::tcp::Report;

/// Learns of everything that the front door answers or ends by itself, for the access log and the metrics.
pub trait Observer: Send + Sync {
    /// A request, or a whole connection, was refused. The request line is as far as it was read, raw, at most 256 bytes.
    fn refused(&self, client: &Client, fault: Fault, request_line: &[u8]);

    /// A connection was closed before it carried anything.
    fn turned_away(&self, _client: &Client, _refusal: Refusal) {}

    /// A connection that a TCP router took has ended.
    fn carried(&self, _client: &Client, _report: &Report) {}

    /// A connection was accepted.
    fn opened(&self) {}

    /// A connection that was told as opened is over.
    fn closed(&self) {}
}

/// Starts an entry point as [`open`] does, and has it accept.
///
/// # Errors
/// If the socket cannot be used.
pub fn start<A>(
    options: Options,
    listener: std::net::TcpListener,
    app: Arc<A>,
    observer: Arc<dyn Observer>,
    current: Option<Arc<Current>>,
) -> io::Result<Handle>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let handle = open(options, listener, app, observer, current)?;
    handle.resume_accepting();
    Ok(handle)
}

/// Makes an entry point of a listening socket, on the current tokio runtime. It accepts as soon as its handle says so, and ends when
/// its handle closes the listener and its connections are over. `current` tells which TLS is spoken; without it, none is.
///
/// # Errors
/// If the socket cannot be used.
pub fn open<A>(
    options: Options,
    listener: std::net::TcpListener,
    app: Arc<A>,
    observer: Arc<dyn Observer>,
    current: Option<Arc<Current>>,
) -> io::Result<Handle>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    listen::prepare(&listener)?;
    let listener = Arc::new(TcpListener::from_std(listener)?);
    let shared = Arc::new(Shared::new(options, observer));
    let handle = Handle::new(shared.clone(), &listener)?;
    let http2 = Arc::new(Http2App::new(app.clone(), &shared.options));
    let entry_point = EntryPoint { shared, app, http2, current };
    tokio::spawn(entry_point.accept(listener));
    Ok(handle)
}

/// What every connection of an entry point is served with.
struct EntryPoint<A> {
    shared: Arc<Shared>,
    app: Arc<A>,
    http2: Arc<Http2App<A>>,
    current: Option<Arc<Current>>,
}

impl<A> Clone for EntryPoint<A> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            app: self.app.clone(),
            http2: self.http2.clone(),
            current: self.current.clone(),
        }
    }
}

impl<A> EntryPoint<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    /// Accepts until the listener is to be closed, and closes it.
    async fn accept(self, listener: Arc<TcpListener>) {
        self.accept_from(&listener).await;
        drop(listener);
        self.shared.accepting.send_replace(Accepting::Over);
    }

    async fn accept_from(&self, listener: &TcpListener) {
        let mut accepting = self.shared.accepting.subscribe();
        let mut back_off = listen::BackOff::default();
        loop {
            let state = *accepting.borrow_and_update();
            match state {
                Accepting::Last => return self.admit_last(listener),
                Accepting::Closed | Accepting::Over => return,
                Accepting::Paused => {
                    if accepting.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Accepting::Yes => {}
            }
            let accepted = tokio::select! {
                biased;
                _ = accepting.changed() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    back_off.reset();
                    self.admit(stream, peer);
                }
                Err(error) => {
                    if let Some(pause) = back_off.after(&error) {
                        log::warn!(entry_point = &*self.shared.options.name; "cannot accept, next try in {pause:?}: {error}");
                        // Whoever has it closed does not wait for that.
                        let _ = tokio::time::timeout(pause, accepting.changed()).await;
                    }
                }
            }
        }
    }

    /// Takes who waits in the socket's queue. Not by way of the runtime, which may not have heard of the newest yet.
    fn admit_last(&self, listener: &TcpListener) {
        let listener = socket2::SockRef::from(listener);
        for _ in 0..listen::BACKLOG {
            let Ok((socket, _)) = listener.accept() else { return };
            let stream = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let Ok((stream, peer)) = stream.and_then(|stream| stream.peer_addr().map(|peer| (stream, peer))) {
                self.admit(stream, peer);
            }
        }
    }

    /// Counts a connection and serves it, or turns it away.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        // A socket without a local address is closed already.
        let Ok(local) = stream.local_addr() else { return };
        let Some(counted) = Counted::new(&self.shared) else {
            let fault = Fault::TooManyConnections;
            let _ = stream.try_write(&head::answer(fault, b""));
            let _ = socket2::SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
            self.shared.observer.refused(&self.client(peer, local), fault, b"");
            return;
        };
        let entry_point = self.clone();
        tokio::spawn(async move {
            entry_point.serve(stream, peer, local).await;
            drop(counted);
        });
    }

    fn client(&self, peer: SocketAddr, local: SocketAddr) -> Client {
        let options = &self.shared.options;
        Client {
            entry_point: options.name.clone(),
            entry_point_index: options.index,
            peer,
            local,
            trusted: options.forwarders.contains(peer.ip()),
            tls: None,
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
        let mut client = self.client(peer, local);
        let mut input = BytesMut::new();
        if let Some(trusted) = &self.shared.options.proxy_protocol {
            let addresses = match self.read_proxy_header(&stream, &mut input).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    // Load balancers look whether we are there by connecting and closing: nothing to report.
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.shared.observer.refused(&client, Fault::BadRequest, b"");
                    }
                    return;
                }
            };
            // Whoever is not trusted may send a header, and it says nothing: that is how Traefik has it.
            if let Some((from, to)) = addresses.filter(|_| trusted.contains(peer.ip())) {
                client = self.client(from, to);
            }
        }
        self.greet(stream, input, client).await;
    }

    /// Reads a PROXY header, if there is one: the addresses it tells.
    async fn read_proxy_header(
        &self,
        stream: &TcpStream,
        input: &mut BytesMut,
    ) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        let read = async {
            loop {
                stream.readable().await?;
                input.reserve(512);
                match stream.try_read_buf(input) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                }
                match proxy_protocol::parse(input) {
                    Header::Partial => {}
                    Header::Absent => return Ok(None),
                    Header::Present { bytes, addresses } => {
                        let _ = input.split_to(bytes);
                        return Ok(addresses);
                    }
                    Header::Malformed => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        };
        let deadline = self.shared.options.timeouts.proxy_header;
        tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
