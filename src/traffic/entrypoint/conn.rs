//! The connection as Pingora sees it: never a byte past the current request, small writes joined, every wait bounded.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::{Frames, Passage};
use super::wire::Wire;
use crate::exchange::Fault;

/// A [`Wire`] lent to Pingora for one request, or for good in raw mode. Dropping it gives the wire back through its slot,
/// so that the front door can end the connection in its own way whatever Pingora did.
pub(super) struct Conn {
    /// Absent only while the front door has taken it out.
    pub(super) wire: Option<Box<Wire>>,
    slot: Arc<Slot>,
    /// Those of an HTTP/2 connection.
    frames: Option<Box<Frames>>,
}

/// Where a dropped [`Conn`] leaves its wire.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Box<Wire>>>);

impl Slot {
    /// Takes out what a dropped [`Conn`] has left.
    pub(super) fn take(&self) -> Option<Box<Wire>> {
        self.0.lock().take()
    }
}

impl Conn {
    pub(super) fn new(wire: Box<Wire>, slot: Arc<Slot>) -> Self {
        Self { wire: Some(wire), slot, frames: None }
    }

    /// One that speaks HTTP/2.
    pub(super) fn with_frames(wire: Box<Wire>, slot: Arc<Slot>, frames: Frames) -> Self {
        Self { wire: Some(wire), slot, frames: Some(Box::new(frames)) }
    }

    fn wire(&mut self) -> io::Result<&mut Wire> {
        self.wire.as_deref_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.wire.as_deref_mut().ok_or(io::ErrorKind::NotConnected)?;
        let Some(frames) = &mut self.frames else { return wire.poll_write(cx, bytes) };
        match frames.look(bytes) {
            Passage::Pass(most) => {
                let written = ready!(wire.poll_write(cx, &bytes[..most]))?;
                frames.go_out(&bytes[..written]);
                Poll::Ready(Ok(written))
            }
            Passage::Drop(bytes) => Poll::Ready(Ok(bytes)),
            Passage::Replace(bytes, frame) => {
                wire.connection.shared().observer.refused(&wire.connection.client, Fault::BadRequest, b"");
                wire.push(&frame);
                Poll::Ready(Ok(bytes))
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(mut wire) = self.wire.take() {
            if let Some(last_word) = self.frames.as_ref().and_then(|frames| frames.last_word()) {
                if self.frames.as_ref().is_some_and(|frames| frames.has_mistake()) {
                    wire.connection.shared().observer.refused(&wire.connection.client, Fault::BadRequest, b"");
                }
                wire.push(&last_word);
            }
            *self.slot.0.lock() = Some(wire);
        }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("client", &self.wire.as_ref().map(|wire| wire.connection.client.peer)).finish()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let wire = this.wire.as_deref_mut().ok_or(io::ErrorKind::NotConnected)?;
        let Some(frames) = &mut this.frames else { return wire.poll_read_request(cx, buffer) };
        if frames.is_over() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = wire.poll_read_request(cx, buffer) {
            read?;
            let good = frames.come_in(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + good);
            return Poll::Ready(Ok(()));
        }
        if frames.has_goodbye() || wire.connection.is_closing() {
            // The end, for who reads this.
            let farewell = (wire.connection.is_busy(), wire.connection.farewell());
            return frames.poll_farewell(cx, &mut wire.read_timer, farewell).map(Ok);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_some(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match self.poll_write_some(cx, slice) {
                Poll::Ready(Ok(bytes)) => {
                    written += bytes;
                    if bytes < slice.len() {
                        break;
                    }
                }
                // What was taken so far must be reported; the error or the wait comes back with the next call.
                _ if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is left to say is said once the front door has the wire back.
        let has_last_word = self.frames.as_ref().is_some_and(|frames| frames.is_over());
        let wire = self.wire()?;
        ready!(wire.poll_flush(cx))?;
        if has_last_word { Poll::Ready(Ok(())) } else { wire.poll_shut(cx) }
    }
}

#[async_trait]
impl Shutdown for Conn {
    /// Only marks a proper end: the front door closes, and lingers, once the wire is back.
    async fn shutdown(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.was_shut = true;
        }
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.wire.as_ref().map_or(-1, |wire| wire.transport.id())
    }
}

/// TLS facts travel in [`super::Connection`]; that Pingora sees none here keeps HTTP/2 ours to choose.
impl Ssl for Conn {}

/// Pingora need not peek for the HTTP/2 preface: it has been seen, or there is none.
impl Peek for Conn {}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.wire.as_ref().map(|wire| wire.proxy_digest.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.wire.as_ref().map(|wire| wire.socket_digest.clone())
    }
}
