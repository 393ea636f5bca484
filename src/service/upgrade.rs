//! Connections for requests that want to change the protocol, whose answers wait until Pingora is ready for them.
//!
//! Pingora 0.9 takes the end of such a request, which it passes on beside the connection, for the end of the tunnel if the server's
//! 101 is read before. Which of two things that are ready comes first is drawn by lot, so a server that answers while the request
//! is still being written loses one WebSocket in two. Here an answer is never there at the first look: the end of the request always is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, OrErr, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads that follow a write and come back empty once. A TLS handshake and the request head take fewer writes; what is sent through
/// the tunnel afterwards is not held up.
const PAUSES: u8 = 8;

/// Makes such connections.
#[derive(Debug)]
pub(super) struct Connector {
    /// How long connecting may take.
    pub(super) timeout: Option<Duration>,
}

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let stream = dial(address, self.timeout).await?;
        Ok(VirtualSocketStream::new(Box::new(Paused::new(stream))).into())
    }
}

/// Connects, as Pingora does it.
pub(super) async fn dial(address: &SocketAddr, timeout: Option<Duration>) -> Result<TcpStream> {
    let SocketAddr::Inet(address) = address else {
        return Error::e_explain(ErrorType::InternalError, "not an address of the internet");
    };
    let connecting = TcpStream::connect(address);
    let connected = match timeout {
        Some(patience) => tokio::time::timeout(patience, connecting)
            .await
            .or_err_with(ErrorType::ConnectTimedout, || format!("no connection to {address} within {patience:?}"))?,
        None => connecting.await,
    };
    connected.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
            _ => ErrorType::ConnectError,
        };
        Error::because(kind, format!("connecting to {address}"), error)
    })
}

/// A connection whose first read after a write comes back empty, and asks to be called again at once.
#[derive(Debug)]
pub(super) struct Paused<S> {
    inner: S,
    has_written: bool,
    pauses_left: u8,
}

impl<S> Paused<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, has_written: false, pauses_left: PAUSES }
    }

    /// One that never comes back empty.
    pub(super) fn never(inner: S) -> Self {
        Self { inner, has_written: false, pauses_left: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paused<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.has_written) && self.pauses_left > 0 {
            self.pauses_left -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paused<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl VirtualSocket for Paused<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.inner.set_nodelay(true),
            VirtualSockOpt::KeepAlive(wanted) => {
                let retries = u32::try_from(wanted.count).unwrap_or(u32::MAX);
                let keep_alive =
                    TcpKeepalive::new().with_time(wanted.idle).with_interval(wanted.interval).with_retries(retries);
                SockRef::from(&self.inner).set_tcp_keepalive(&keep_alive)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_not_there_at_the_first_look_and_at_the_second_it_is() {
        let (ours, mut server) = tokio::io::duplex(64);
        let mut paused = Paused::new(ours);
        for message in 0..=PAUSES {
            paused.write_all(b"request").await.unwrap();
            server.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            let first = paused.read_exact(&mut answer).now_or_never();
            assert_eq!(first.is_some(), message == PAUSES, "message {message}");
            if first.is_none() {
                // Awaiting would wait for ever if nobody asked to be called again.
                paused.read_exact(&mut answer).await.unwrap();
            }
            assert_eq!(&answer, b"answer");
        }
    }
}
