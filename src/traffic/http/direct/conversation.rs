//! One request and its answer over one connection to a server. Both bodies flow at once, in one task: neither side waits for
//! the other to end, and whoever is slow holds back only what is for him.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::CONTENT_TYPE;
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorSource, Result};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora_proxy::Session;
use tokio::io::AsyncReadExt;
use tokio::time::Sleep;

use crate::service::idle::Connection;

use super::answer::{self, Body, Head};
use super::lost;
use super::parts::write_parts;
use super::upload::Upload;
use crate::traffic::entrypoint::Stream;
use crate::traffic::http::Flight;

/// Parts of an answer that are written at once.
const PARTS: usize = 8;
/// Bytes of an answer that may wait for more of it.
const HELD_BYTES: usize = 16 << 10;
/// Bytes asked for with one read: of a head, and of a body.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);
/// The same of a body for a client over TLS or HTTP/2, where more of it waits in other layers.
const LAYERED_READ_BYTES: usize = 32 << 10;

/// A request and its answer on their way.
pub(super) struct Conversation<'a> {
    pub(super) session: &'a mut Session,
    pub(super) flight: &'a mut Flight,
    connection: &'a mut Connection,
    /// The request on its way to the server.
    pub(super) upload: Upload,
    /// Of the answer: what is to be written to the client next.
    pub(super) parts: Vec<HttpTask>,
    held_bytes: usize,
    /// Until when the head of the answer has to be there; nobody knows before the request is sent.
    head_by: Option<Instant>,
    /// Whether the request comes first if both sides have something. They take turns.
    is_requests_turn: bool,
    /// The request body ended in this way while the answer was being written, which goes first.
    failed: Option<Box<Error>>,
}

/// What happened next.
enum Event {
    /// So many bytes of the answer came; none: the server has closed.
    Answer(io::Result<usize>),
    /// A piece of the request body, or its end; or, behind the end, of the client.
    Body(Result<Option<Bytes>>),
    /// What there was of the request is sent, or the server takes no more of it. It may have answered, and that is to be seen.
    Sent,
    /// The server has taken nothing for too long.
    Stuck,
    TimeIsUp,
}

/// How far a conversation has come.
enum Step {
    /// So many bytes of the answer came; none: the server has closed.
    Answer(usize),
    /// The server has the request, or takes no more of it.
    RequestIsOver,
    TimeIsUp,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(session: &'a mut Session, flight: &'a mut Flight, connection: &'a mut Connection) -> Self {
        Self {
            session,
            flight,
            connection,
            upload: Upload::sent(),
            parts: Vec::with_capacity(2),
            held_bytes: 0,
            head_by: None,
            is_requests_turn: false,
            failed: None,
        }
    }

    pub(super) fn stream(&mut self) -> &mut pingora::protocols::Stream {
        &mut self.connection.stream
    }

    /// Begins to send a request body: with what an earlier attempt has read of it, if there was one.
    ///
    /// # Errors
    /// If a transform gives the request up.
    pub(super) fn begin(&mut self, upload: Upload) -> Result<()> {
        self.upload = upload;
        let kept = self.session.as_ref().get_retry_buffer();
        let is_whole = self.session.is_body_done();
        if kept.is_some() || is_whole { self.pass_down(kept, is_whole) } else { Ok(()) }
    }

    /// Reads the head of the next answer, informational or not. The server has `limit` for it once it has the request.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn head(&mut self, limit: Option<Duration>) -> Result<Head> {
        let mut scanned = 0;
        loop {
            if let Some(head) = answer::take_head(&mut self.connection.input, &mut scanned)? {
                return Ok(head);
            }
            if self.head_by.is_none() && self.upload.is_over() {
                self.head_by = limit.map(|limit| Instant::now() + limit);
            }
            let is_empty = self.connection.input.is_empty();
            match self.step(READ_BYTES.0, self.head_by).await {
                Ok(Step::Answer(0)) if is_empty => {
                    return Err(lost(Error::explain(ErrorType::ConnectionClosed, "no answer")));
                }
                Ok(Step::Answer(0)) => {
                    return Err(Error::explain(ErrorType::ConnectionClosed, "within the answer's head").into_up());
                }
                Ok(Step::Answer(_) | Step::RequestIsOver) => {}
                Ok(Step::TimeIsUp) => {
                    return Err(Error::explain(ErrorType::ReadTimedout, "no answer in time").into_up());
                }
                Err(error) if is_empty && is_read_error(&error) => return Err(lost(error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes the body of the answer on, whose head is in `parts`, but for what is left there. Whether the connection can be used
    /// again.
    ///
    /// # Errors
    /// If the answer is not whole, or the client does not get it.
    pub(super) async fn pass_answer(&mut self, mut body: Body, hold: Option<Duration>) -> Result<bool> {
        let mut ended = body.is_over();
        let mut held_until: Option<Instant> = None;
        let is_layered = self.flight.connection.as_ref().is_some_and(|it| it.client.tls.is_some())
            || self.session.req_header().version == Version::HTTP_2;
        let most = if is_layered { LAYERED_READ_BYTES } else { READ_BYTES.1 };
        loop {
            let mut needs_more = false;
            while !ended && !needs_more && self.parts.len() < PARTS {
                let piece = body.next(&mut self.connection.input)?;
                ended = body.is_over();
                needs_more = piece.is_none() && !ended;
                if !needs_more {
                    self.pass_up(piece, ended)?;
                }
            }
            if ended {
                let is_whole = self.end_upload().await?;
                return Ok(is_whole && !matches!(body, Body::Closed));
            }
            if !needs_more || hold.is_none() || self.held_bytes > HELD_BYTES {
                self.flush().await?;
                held_until = None;
            }
            if !needs_more {
                continue;
            }
            if !self.parts.is_empty() && held_until.is_none() {
                held_until = hold.map(|hold| Instant::now() + hold);
            }
            match self.step(body.wanted_bytes((READ_BYTES.0, most)), held_until).await? {
                Step::Answer(0) => body.close()?,
                Step::Answer(_) | Step::RequestIsOver => {}
                Step::TimeIsUp => {
                    self.flush().await?;
                    held_until = None;
                }
            }
        }
    }

    /// The answer has come as a whole. If the server still takes the request, the client gets the answer now, and then the rest of
    /// the request goes on. Whether the server has all of it.
    async fn end_upload(&mut self) -> Result<bool> {
        if self.upload.is_over() {
            return Ok(self.upload.is_whole());
        }
        self.flush().await?;
        while !self.upload.is_over() && self.connection.input.is_empty() {
            match self.step(READ_BYTES.0, None).await {
                Ok(Step::RequestIsOver | Step::TimeIsUp) => {}
                // The server has closed, or the client has gone with its answer: neither makes a failure of it.
                Ok(Step::Answer(_)) | Err(_) => break,
            }
        }
        Ok(self.upload.is_whole())
    }

    fn pass_up(&mut self, mut piece: Option<Bytes>, ended: bool) -> Result<()> {
        self.held_bytes += piece.as_ref().map_or(0, Bytes::len);
        self.flight.pass_up(&mut piece, ended)?;
        self.parts.push(HttpTask::Body(piece, ended));
        Ok(())
    }

    fn pass_down(&mut self, mut piece: Option<Bytes>, is_last: bool) -> Result<()> {
        self.flight.pass_down(&mut piece, is_last)?;
        self.upload.add(piece, is_last)
    }

    async fn flush(&mut self) -> Result<()> {
        self.held_bytes = 0;
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        self.write(parts).await
    }

    /// Writes parts of an answer to the client. Meanwhile the request goes on.
    ///
    /// # Errors
    /// If the client does not take them.
    pub(super) async fn write(&mut self, parts: Vec<HttpTask>) -> Result<()> {
        if self.upload.is_whole() {
            return write_parts(self.session, parts).await;
        }
        if self.session.req_header().version != Version::HTTP_2
            && let Some(connection) = &self.flight.connection
        {
            // What is written waits for a read of the request body to push it out, and there may be none for long.
            connection.write_at_once();
        }
        if matches!(*self.session.downstream_session, ServerSession::H1(_)) {
            return self.write_and_read(parts).await;
        }
        let Self { session, connection, upload, .. } = self;
        let mut writing = pin!(write_parts(session, parts));
        poll_fn(|cx| {
            if let Poll::Ready(written) = writing.as_mut().poll(cx) {
                return Poll::Ready(written);
            }
            // An error stays with the upload.
            let _ = upload.poll_send(&mut connection.stream, cx);
            Poll::Pending
        })
        .await
    }

    /// As [`Self::write`], with a session of which one can read while a write waits.
    async fn write_and_read(&mut self, parts: Vec<HttpTask>) -> Result<()> {
        self.session.set_proxy_tasks_enabled(true);
        for part in parts {
            self.session.send_downstream_proxy_task(part).await?;
        }
        loop {
            let Self { session, connection, upload, .. } = self;
            let next = poll_fn(|cx| {
                loop {
                    // Both are made to be given up and begun again.
                    if let Poll::Ready(written) = pin!(session.write_downstream_proxy_tasks()).poll(cx) {
                        return Poll::Ready(Err(written));
                    }
                    if upload.wants_more()
                        && let Poll::Ready(read) = pin!(session.downstream_session.read_body_or_idle(false)).poll(cx)
                    {
                        return Poll::Ready(Ok(read));
                    }
                    // Once all is sent, more may be wanted.
                    if upload.poll_send(&mut connection.stream, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            });
            match next.await {
                Err(written) => return written.map(drop),
                Ok(read) => {
                    if let Err(error) = self.take(read) {
                        self.upload.give_up();
                        self.failed = Some(error);
                    }
                }
            }
        }
    }

    /// Goes on until more of the answer has come, the request is over, or it is `until`.
    async fn step(&mut self, bytes: usize, until: Option<Instant>) -> Result<Step> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        make_room(&mut self.connection.input, bytes);
        loop {
            match self.next(until).await {
                Event::Answer(read) => {
                    self.is_requests_turn = true;
                    return match read {
                        Ok(bytes) => Ok(Step::Answer(bytes)),
                        Err(error) => Err(Error::because(ErrorType::ReadError, "reading the answer", error).into_up()),
                    };
                }
                Event::Body(read) => {
                    self.is_requests_turn = false;
                    self.take(read)?;
                }
                Event::Sent if self.upload.is_over() => return Ok(Step::RequestIsOver),
                Event::Sent => {}
                Event::Stuck if self.flight.responding => {
                    self.upload.give_up();
                    return Ok(Step::RequestIsOver);
                }
                Event::Stuck => {
                    return Err(
                        Error::explain(ErrorType::WriteTimedout, "the server does not take the request").into_up()
                    );
                }
                Event::TimeIsUp => return Ok(Step::TimeIsUp),
            }
        }
    }

    /// A piece of the request body has come, or its end.
    fn take(&mut self, read: Result<Option<Bytes>>) -> Result<()> {
        let piece = read.map_err(Error::into_down)?;
        if !self.upload.is_open() {
            return Err(Error::explain(ErrorType::ConnectionClosed, "the client has gone").into_down());
        }
        let is_last = piece.is_none() || self.session.is_body_done();
        self.pass_down(piece, is_last)
    }

    async fn next(&mut self, until: Option<Instant>) -> Event {
        // Over HTTP/1, whoever looks out for the client's end would take a byte of a body that nobody wants any more.
        let may_watch = self.upload.is_whole()
            || self.session.is_body_done()
            || self.session.req_header().version == Version::HTTP_2;
        let is_requests_turn = self.is_requests_turn;
        let Self { session, connection, upload, .. } = self;
        let Connection { stream, input, .. } = &mut **connection;
        let due = if upload.wants_more() { Stream::body_due() } else { None };
        let mut body = pin!(session.downstream_session.read_body_or_idle(!upload.is_open()));
        let mut timer = pin!(None::<Sleep>);
        poll_fn(|cx| {
            if !is_requests_turn && let Poll::Ready(read) = pin!(stream.read_buf(input)).poll(cx) {
                return Poll::Ready(Event::Answer(read));
            }
            let wants_body = if upload.is_open() { upload.wants_more() } else { may_watch };
            if wants_body && let Poll::Ready(read) = body.as_mut().poll(cx) {
                return Poll::Ready(Event::Body(read));
            }
            // After all of the body that is there already, so that few writes carry it.
            if upload.poll_send(stream, cx).is_ready() {
                return Poll::Ready(Event::Sent);
            }
            if is_requests_turn && let Poll::Ready(read) = pin!(stream.read_buf(input)).poll(cx) {
                return Poll::Ready(Event::Answer(read));
            }
            let stuck_at = upload.stuck_at();
            let Some(deadline) = until.into_iter().chain(stuck_at).chain(due).min() else { return Poll::Pending };
            if timer.as_ref().as_pin_ref().is_none_or(|timer| timer.deadline() != deadline.into()) {
                timer.set(Some(tokio::time::sleep_until(deadline.into())));
            }
            match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
                Some(Poll::Ready(())) if stuck_at == Some(deadline) => Poll::Ready(Event::Stuck),
                Some(Poll::Ready(())) if due == Some(deadline) => Poll::Ready(Event::Body(Err(late()))),
                Some(Poll::Ready(())) => Poll::Ready(Event::TimeIsUp),
                _ => Poll::Pending,
            }
        })
        .await
    }
}

/// Has room for the next read. Where what was read before waits to be written, the rest of its buffer will do: it would wait with it
/// for nothing, beside a new one.
fn make_room(input: &mut BytesMut, bytes: usize) {
    if !input.try_reclaim(bytes) && input.capacity() - input.len() < bytes.min(HELD_BYTES) {
        input.reserve(bytes);
    }
}

/// How long parts of an answer may wait for more (`responseForwarding.flushInterval`). As in Traefik, what streams never waits:
/// events, and bodies whose length nobody knows.
pub(super) fn hold(flight: &Flight, body: &Body, response: &ResponseHeader) -> Option<Duration> {
    let interval = flight.selection.as_ref()?.pool.flush_interval().positive()?;
    let streams = response
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().get(..17).is_some_and(|it| it.eq_ignore_ascii_case(b"text/event-stream")));
    (matches!(body, Body::Length(_)) && !streams).then_some(interval)
}

/// The request body has not come in time.
fn late() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the request body").into_down()
}

fn is_read_error(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream && *error.etype() == ErrorType::ReadError
}
