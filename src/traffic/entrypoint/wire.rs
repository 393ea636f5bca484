//! A client's connection with its buffers, deadlines and the view on the current request.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{SocketDigest, UniqueIDType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::framing::{Body, Framing};
use super::pace::{Pace, Timer, now};
use super::rewound::Rewound;
use crate::exchange::Fault;
use crate::traffic::chunks::Chunks;

/// Bytes asked for with one read.
const READ_BYTES: usize = 4096;
/// Bytes of responses that are held back until a flush.
const WRITE_BYTES: usize = 8 << 10;
/// Bytes of the next requests that are taken while one is being answered; more stay in the kernel.
const AHEAD_BYTES: usize = 16 << 10;
/// Largest buffer that a connection keeps while it waits for a request.
const IDLE_BYTES: usize = 4096;

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Transport {
    /// A plain TCP connection.
    Tcp(TcpStream),
    /// TLS, ended here.
    Tls(Box<TlsStream<Rewound>>),
}

impl Transport {
    /// The TCP connection below.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        }
    }

    /// The descriptor.
    pub(super) fn id(&self) -> UniqueIDType {
        self.socket().as_raw_fd()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What of the input belongs to the current request.
#[derive(Debug)]
enum View {
    /// So many more bytes.
    Length(u64),
    /// What is left of a chunked body.
    Chunked(Chunks),
    /// Everything, for good: HTTP/2, or an upgraded connection.
    Raw,
}

impl View {
    fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::Raw => false,
        }
    }
}

/// What the front door still wants to know of the response that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nothing,
    /// Whether it changes the protocol.
    Upgrade,
    /// Whether its body ends with the connection.
    Delimiter,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) transport: Transport,
    pub(super) connection: Arc<Connection>,
    pub(super) proxy_digest: Arc<ProxyDigest>,
    pub(super) socket_digest: Arc<SocketDigest>,
    /// Read, and not yet shown to anybody.
    pub(super) input: BytesMut,
    output: BytesMut,
    /// Bytes of the write under way that are written, and not yet out.
    unflushed: Option<usize>,
    view: View,
    watch: Watch,
    /// The client has closed its sending half.
    pub(super) ended: Option<Instant>,
    /// Reading or writing has failed: there is nobody to be polite to.
    pub(super) broken: bool,
    /// Pingora has ended the connection properly.
    pub(super) was_shut: bool,
    /// The response that was begun ends with the connection: a cut must not look like an end.
    pub(super) close_delimited: bool,
    read_by: Option<Instant>,
    write_by: Option<Instant>,
    read_pace: Pace,
    write_pace: Pace,
    pub(super) read_timer: Timer,
    write_timer: Timer,
}

impl Wire {
    pub(super) fn new(transport: Transport, input: BytesMut, connection: Arc<Connection>) -> Self {
        let socket_digest = SocketDigest::from_raw_fd(transport.id());
        let client = &connection.client;
        // Both cells are empty, so there is nothing to fail.
        let _ = socket_digest.peer_addr.set(Some(PingoraAddress::Inet(client.peer)));
        let _ = socket_digest.local_addr.set(Some(PingoraAddress::Inet(client.local)));
        let rates = connection.options().rates;
        Self {
            transport,
            proxy_digest: Arc::new(proxy_digest(connection.clone())),
            socket_digest: Arc::new(socket_digest),
            input,
            output: BytesMut::new(),
            unflushed: None,
            view: View::Length(0),
            watch: Watch::Nothing,
            ended: None,
            broken: false,
            was_shut: false,
            close_delimited: false,
            read_by: None,
            write_by: None,
            read_pace: Pace::new(rates.body),
            write_pace: Pace::new(rates.send),
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            connection,
        }
    }

    /// The connection below and what was read of it, if it is still plain TCP.
    pub(super) fn into_parts(self) -> Option<(TcpStream, BytesMut)> {
        match self.transport {
            Transport::Tcp(stream) => Some((stream, self.input)),
            Transport::Tls(_) => None,
        }
    }

    /// Turns the view to a request whose first byte came at `started`.
    pub(super) fn begin_request(&mut self, framing: &Framing, started: Instant) {
        let options = self.connection.options();
        let (rates, timeouts) = (options.rates, options.timeouts);
        let (view, body_bytes) = match framing.body {
            Body::Length(bytes) => (View::Length(bytes), Some(bytes)),
            Body::Chunked => (View::Chunked(Chunks::default()), None),
        };
        self.view = view;
        self.watch = match framing {
            Framing { upgrade: true, .. } => Watch::Upgrade,
            Framing { is_http10: true, .. } => Watch::Delimiter,
            _ => Watch::Nothing,
        };
        self.was_shut = false;
        self.unflushed = None;
        self.close_delimited = false;
        self.read_by = timeouts.read.map(|read| started + read);
        self.write_by = timeouts.write.map(|write| now() + write);
        self.read_pace = Pace::new(rates.body);
        self.write_pace = Pace::new(rates.send);
        self.connection.set_last(!framing.keep_alive);
        self.connection.begin_request(body_bytes);
    }

    /// Shows everything from now on, and sets no deadline for reading.
    pub(super) fn set_raw(&mut self) {
        self.view = View::Raw;
        self.watch = Watch::Nothing;
        self.read_by = None;
        self.write_by = None;
    }

    /// Whether the body of the last request has been read to its end, so that what follows is another request.
    pub(super) fn is_between_requests(&self) -> bool {
        self.view.is_done() && !self.broken
    }

    /// Whether the body of the last request has been read to its end, and nothing waits behind it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.view.is_done() && self.input.is_empty()
    }

    /// Whether the connection was upgraded.
    pub(super) fn is_raw(&self) -> bool {
        matches!(self.view, View::Raw)
    }

    /// Gives back what an idle connection does not need.
    pub(super) fn release_buffers(&mut self) {
        if self.input.is_empty() && self.input.capacity() > IDLE_BYTES {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > IDLE_BYTES {
            self.output = BytesMut::new();
        }
    }

    /// Reads into the input buffer: how many bytes came, 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // `BytesMut` reuses the room at its front if it is empty.
        self.input.reserve(READ_BYTES);
        let Self { transport, input, .. } = self;
        let result = match transport {
            Transport::Tcp(stream) => pin!(stream.read_buf(input)).poll(cx),
            Transport::Tls(stream) => pin!(stream.read_buf(input)).poll(cx),
        };
        match &result {
            Poll::Ready(Ok(0)) => self.ended = self.ended.or_else(|| Some(now())),
            Poll::Ready(Err(_)) => self.broken = true,
            _ => {}
        }
        result
    }

    /// What Pingora reads.
    pub(super) fn poll_read_request(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let result = if self.view.is_done() { self.poll_ahead(cx) } else { self.poll_view(cx, buffer) };
        match result {
            Poll::Pending => {
                // Whoever waits for the client must have said what it has to say.
                if !self.output.is_empty()
                    && let Poll::Ready(Err(error)) = self.poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
                Poll::Pending
            }
            ready => ready,
        }
    }

    /// The body is over: looks out for the client's end, and reads the next requests ahead a little. Never shows a byte.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ended.is_none() {
            if self.input.len() >= AHEAD_BYTES {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.poll_fill(cx)) {
                self.connection.fail_body(Fault::ClientGone);
                return Poll::Ready(Err(error));
            }
        }
        // A client that only closed its sending half still wants the answer; one that is gone looks just the same.
        let patience = self.connection.options().timeouts.half_closed;
        let deadline = self.ended.unwrap_or_else(now) + patience;
        ready!(self.read_timer.poll(cx, deadline));
        self.broken = true;
        self.connection.fail_body(Fault::ClientGone);
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }

    fn poll_view(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.input.is_empty() {
            let most = self.input.len().min(buffer.remaining());
            let taken = self.admit(most)?;
            buffer.put_slice(&self.input[..taken]);
            self.input.advance(taken);
            return Poll::Ready(Ok(()));
        }
        if self.ended.is_some() {
            return Poll::Ready(Ok(()));
        }
        match self.poll_transport(cx, buffer) {
            Poll::Pending => self.poll_body_deadline(cx),
            Poll::Ready(Err(error)) => {
                self.broken = true;
                self.connection.fail_body(Fault::ClientGone);
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().len() - before;
                if read == 0 {
                    self.ended = Some(now());
                    if !self.is_raw() {
                        self.connection.fail_body(Fault::ClientGone);
                    }
                }
                self.read_pace.advance(read, now);
                if let View::Chunked(_) = self.view {
                    self.cut_behind_chunks(buffer, before)?;
                } else if let View::Length(left) = &mut self.view {
                    *left -= read as u64;
                    self.connection.set_outstanding(*left);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads straight into the reader's buffer, and no further than a counted body goes.
    fn poll_transport(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = match self.view {
            View::Length(left) => usize::try_from(left).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        if most >= buffer.remaining() {
            return self.transport.poll_read(cx, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(self.transport.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }

    /// A chunked body may end within what was just read: what follows goes to the input buffer.
    fn cut_behind_chunks(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = buffer.filled().len() - before;
        let taken = match &mut self.view {
            View::Chunked(chunks) => chunks.scan(&buffer.filled()[before..]).map_err(|_| self.malformed_body())?,
            _ => read,
        };
        if taken < read {
            self.input.extend_from_slice(&buffer.filled()[before + taken..]);
            buffer.set_filled(before + taken);
        }
        if self.view.is_done() {
            self.connection.set_outstanding(0);
        }
        Ok(())
    }

    /// How many of the first `most` bytes of the input buffer belong to the request.
    fn admit(&mut self, most: usize) -> io::Result<usize> {
        let taken = match &mut self.view {
            View::Raw => most,
            View::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
                *left -= taken as u64;
                self.connection.set_outstanding(*left);
                taken
            }
            View::Chunked(chunks) => chunks.scan(&self.input[..most]).map_err(|_| self.malformed_body())?,
        };
        if self.view.is_done() {
            self.connection.set_outstanding(0);
        }
        Ok(taken)
    }

    fn malformed_body(&self) -> io::Error {
        self.connection.fail_body(Fault::BadRequest);
        io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body")
    }

    fn poll_body_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_raw() {
            return Poll::Pending;
        }
        let deadline = earlier(self.read_by, self.read_pace.wait(now()));
        let Some(deadline) = deadline else { return Poll::Pending };
        ready!(self.read_timer.poll(cx, deadline));
        self.connection.fail_body(Fault::BodyTimeout);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What Pingora writes.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.watch != Watch::Nothing {
            self.watch_head(bytes);
        }
        if self.unflushed.is_some() {
            return self.poll_flushed(cx);
        }
        let holds_back = !self.connection.writes_at_once();
        if holds_back && self.output.len() + bytes.len() <= WRITE_BYTES {
            self.output.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            let held = self.output.len();
            let sent = match self.transport.poll_write(cx, &[IoSlice::new(&self.output), IoSlice::new(bytes)]) {
                Poll::Ready(sent) => self.sent(sent)?,
                Poll::Pending => {
                    ready!(self.poll_write_deadline(cx))?;
                    return Poll::Pending;
                }
            };
            self.output.advance(sent.min(held));
            if sent > held {
                if holds_back {
                    return Poll::Ready(Ok(sent - held));
                }
                self.unflushed = Some(sent - held);
                return self.poll_flushed(cx);
            }
        }
    }

    /// Reports what was written at once when it is out: a layer may hold it back, and nobody would push it.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_layers(cx))?;
        Poll::Ready(Ok(self.unflushed.take().unwrap_or_default()))
    }

    /// Pushes out what TLS holds back. It is bytes that the client does not take, too: it has no longer for them than for others.
    fn poll_layers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.transport.poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                // The wait is over. What comes next may be long in coming, and that is not the client's fault.
                self.write_pace.advance(0, now);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.broken = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                ready!(self.poll_write_deadline(cx))?;
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match self.transport.poll_write(cx, &[IoSlice::new(&self.output)]) {
                Poll::Ready(sent) => {
                    let sent = self.sent(sent)?;
                    self.output.advance(sent);
                }
                Poll::Pending => {
                    ready!(self.poll_write_deadline(cx))?;
                    return Poll::Pending;
                }
            }
        }
        self.poll_layers(cx)
    }

    /// Closes the sending half.
    pub(super) fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.transport.poll_shutdown(cx) {
            Poll::Pending => {
                ready!(self.poll_write_deadline(cx))?;
                Poll::Pending
            }
            ready => ready,
        }
    }

    /// Puts an answer of ours behind what is to be written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    fn sent(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(0) => {
                self.broken = true;
                Err(io::ErrorKind::WriteZero.into())
            }
            Ok(bytes) => {
                self.write_pace.advance(bytes, now);
                if let Some(ended) = &mut self.ended {
                    // It takes what we send: the other half is in use.
                    *ended = now();
                }
                Ok(bytes)
            }
            Err(error) => {
                self.broken = true;
                Err(error)
            }
        }
    }

    /// Pending while the client may make us wait, else an error.
    fn poll_write_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = earlier(self.write_by, self.write_pace.wait(now())) else { return Poll::Pending };
        ready!(self.write_timer.poll(cx, deadline));
        self.broken = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Looks at the start of a response head. Pingora writes each head with one call, so a head starts where a call does.
    fn watch_head(&mut self, bytes: &[u8]) {
        match (self.watch, bytes.get(..12)) {
            (Watch::Upgrade, Some(b"HTTP/1.1 101")) => {
                self.connection.upgrade();
                self.set_raw();
            }
            // Other informational answers precede the one that counts.
            (_, Some(start)) if start.starts_with(b"HTTP/1.") && start[9] == b'1' => {}
            (Watch::Delimiter, Some(_)) => {
                self.close_delimited = !has_length(bytes);
                self.watch = Watch::Nothing;
            }
            _ => self.watch = Watch::Nothing,
        }
    }
}

/// Whether a response head says where its body ends.
fn has_length(head: &[u8]) -> bool {
    const NAMES: [&[u8]; 2] = [b"content-length:", b"transfer-encoding:"];
    head.split(|byte| *byte == b'\n').any(|line| {
        NAMES.iter().any(|name| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
    })
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The one thing of a connection that Pingora carries from its stream to the hooks, over HTTP/1 and HTTP/2 alike.
fn proxy_digest(connection: Arc<Connection>) -> ProxyDigest {
    let unused = ResponseHeader::build_no_case(StatusCode::OK, Some(0));
    let unused = unused.unwrap_or_else(|_| unreachable!("200 is a status"));
    ProxyDigest::new(Box::new(unused), Some(Box::new(connection)))
}
