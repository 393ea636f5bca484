//! A request on its way to a server: its head, and its body in the framing that the head tells.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use pingora::ErrorType;
use pingora::prelude::{Error, Result};
use pingora::protocols::Stream;
use tokio::io::AsyncWrite;

/// With so many bytes that the server has not taken yet, no more of the body is read.
const WAITING_BYTES: usize = 32 << 10;
/// Pieces that are written at once.
const SLICES: usize = 16;

/// A request on its way to a server.
#[derive(Debug)]
pub(super) struct Upload {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    framing: Framing,
    state: State,
    /// What was written may still lie in the connection's own buffer.
    needs_flush: bool,
    /// How long the server may take nothing.
    patience: Option<Duration>,
    stuck_since: Option<Instant>,
}

/// How a body says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More of the body may come from the client.
    Open,
    /// The client has sent all of it.
    Read,
    /// The server has all of it.
    Sent,
    /// The server takes no more.
    Broken,
}

impl Upload {
    /// That of a request that has been sent and has no body.
    pub(super) fn sent() -> Self {
        Self { state: State::Sent, ..Self::new(Framing::Length(0), None) }
    }

    /// That of a request whose body is to come. The server may take nothing for as long as `patience`.
    pub(super) fn new(framing: Framing, patience: Option<Duration>) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            framing,
            state: State::Open,
            needs_flush: false,
            patience,
            stuck_since: None,
        }
    }

    /// Whether more of the body is wanted now.
    pub(super) fn wants_more(&self) -> bool {
        self.state == State::Open && self.waiting_bytes < WAITING_BYTES
    }

    /// Whether the client still owes something of the body.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether nothing will be sent any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Sent | State::Broken)
    }

    /// Whether the server has all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Sent
    }

    /// The server takes no more.
    pub(super) fn give_up(&mut self) {
        if self.state != State::Sent {
            self.state = State::Broken;
        }
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.needs_flush = false;
        self.stuck_since = None;
    }

    /// When the server has taken nothing for too long.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        self.stuck_since.zip(self.patience).map(|(since, patience)| since + patience)
    }

    /// Puts the head, or what belongs to the framing, behind what waits.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(bytes);
    }

    /// Puts a piece of the body behind what waits; and the end, if it is the last one.
    ///
    /// # Errors
    /// If the body is not as long as its head says.
    pub(super) fn add(&mut self, piece: Option<Bytes>, is_last: bool) -> Result<()> {
        // An empty chunk would be the last one.
        if let Some(piece) = piece.filter(|piece| !piece.is_empty()) {
            match &mut self.framing {
                Framing::Length(left) => {
                    *left = left.checked_sub(piece.len() as u64).ok_or_else(wrong_length)?;
                    self.push(piece);
                }
                Framing::Chunked => {
                    self.push(Bytes::from(format!("{:x}\r\n", piece.len())));
                    self.push(piece);
                    self.push(Bytes::from_static(b"\r\n"));
                }
            }
        }
        if is_last {
            match self.framing {
                Framing::Length(0) => {}
                Framing::Length(_) => return Err(wrong_length()),
                Framing::Chunked => self.push(Bytes::from_static(b"0\r\n\r\n")),
            }
            // With nothing left to write, the next flush is the end.
            self.needs_flush = true;
            self.state = State::Read;
        }
        Ok(())
    }

    /// Writes what waits. Ready when all of it is out; without anything to do it is pending, and wakes nobody.
    ///
    /// # Errors
    /// If the server takes no more.
    pub(super) fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() && !self.needs_flush {
            return Poll::Pending;
        }
        let sent = self.poll_write(stream, cx);
        match &sent {
            Poll::Pending => {
                self.stuck_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => {
                self.stuck_since = None;
                if self.state == State::Read {
                    self.state = State::Sent;
                }
            }
        }
        if let Poll::Ready(Err(_)) = &sent {
            self.state = State::Broken;
            self.give_up();
        }
        sent
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.waiting.len().min(SLICES);
            for (slice, piece) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(piece);
            }
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stuck_since = None;
            self.needs_flush = true;
            self.remove(written);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.needs_flush = false;
        Poll::Ready(Ok(()))
    }

    fn remove(&mut self, mut bytes: usize) {
        self.waiting_bytes -= bytes;
        while let Some(first) = self.waiting.front_mut() {
            if first.len() > bytes {
                first.advance(bytes);
                return;
            }
            bytes -= first.len();
            self.waiting.pop_front();
        }
    }
}

/// What comes from clients has been counted before; only a transform may have changed it.
fn wrong_length() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "a request body that is not as long as its head says")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn pair(room: usize) -> (Stream, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(room);
        (Box::new(ours), theirs)
    }

    /// Writes until it is done or has to wait.
    fn send(upload: &mut Upload, stream: &mut Stream) -> Option<io::Result<()>> {
        poll_fn(|cx| upload.poll_send(stream, cx)).now_or_never()
    }

    fn taken(server: &mut tokio::io::DuplexStream) -> String {
        let mut bytes = [0; 4096];
        let read = server.read(&mut bytes).now_or_never().map_or(0, Result::unwrap);
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn bodies_are_framed_as_their_heads_say() {
        for (framing, pieces, expected) in [
            (Framing::Length(4), &["ab", "", "cd"][..], "HEAD abcd"),
            (Framing::Length(0), &[], "HEAD "),
            (Framing::Chunked, &["ab", "", "0123456789abcdef"], "HEAD 2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"),
            (Framing::Chunked, &[], "HEAD 0\r\n\r\n"),
        ] {
            let (mut stream, mut server) = pair(4096);
            let mut upload = Upload::new(framing, None);
            upload.push(Bytes::from_static(b"HEAD "));
            for piece in pieces {
                upload.add(Some(Bytes::from_static(piece.as_bytes())), false).unwrap();
            }
            send(&mut upload, &mut stream).unwrap().unwrap();
            assert!(!upload.is_over() && upload.is_open(), "{framing:?}");
            upload.add(None, true).unwrap();
            send(&mut upload, &mut stream).unwrap().unwrap();
            assert_eq!((taken(&mut server).as_str(), upload.is_whole()), (expected, true));
            assert!(send(&mut upload, &mut stream).is_none(), "there is nothing to do");
        }
    }

    #[tokio::test]
    async fn servers_that_take_little_hold_the_client_back() {
        let (mut stream, mut server) = pair(1000);
        let mut upload = Upload::new(Framing::Chunked, Some(Duration::from_secs(1)));
        let piece = Bytes::from(vec![b'x'; 20_000]);
        upload.add(Some(piece.clone()), false).unwrap();
        assert!(upload.wants_more());
        assert!(send(&mut upload, &mut stream).is_none());
        assert!(upload.stuck_at().is_some());
        upload.add(Some(piece), true).unwrap();
        assert!(!upload.wants_more() && !upload.is_over());
        let mut all = 0;
        while !upload.is_over() {
            all += taken(&mut server).len();
            let _ = send(&mut upload, &mut stream);
        }
        all += taken(&mut server).len();
        assert_eq!((all, upload.is_whole(), upload.stuck_at()), (2 * (20_000 + 8) + 5, true, None));
    }

    #[tokio::test]
    async fn servers_that_are_gone_get_no_more() {
        let (mut stream, server) = pair(10);
        drop(server);
        let mut upload = Upload::new(Framing::Length(9), None);
        upload.add(Some(Bytes::from_static(b"123456789")), true).unwrap();
        assert!(send(&mut upload, &mut stream).unwrap().is_err());
        assert_eq!((upload.is_over(), upload.is_whole(), upload.wants_more()), (true, false, false));
        assert!(send(&mut upload, &mut stream).is_none());
    }

    #[test]
    fn lengths_are_kept() {
        let bytes = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let upload = || Upload::new(Framing::Length(3), None);
        assert!(upload().add(bytes("abc"), true).is_ok());
        assert!(upload().add(bytes("ab"), true).is_err());
        assert!(upload().add(bytes("abcd"), false).is_err());
        assert!(upload().add(None, true).is_err());
    }
}
