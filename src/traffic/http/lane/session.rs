//! Pingora's session in a wrapper that sees both bodies. Everything else it passes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use tokio::sync::oneshot;

use crate::traffic::entrypoint::Connection;

use super::guess::{Guess, is_final_head};
use super::replay::Replay;

type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// A session of Pingora's and what is done beyond it. Dropped, it gives the session back.
pub(super) struct Wrapped {
    inner: Box<ServerSession>,
    connection: Arc<Connection>,
    back: Option<oneshot::Sender<Box<ServerSession>>>,
    /// Whether a middleware encodes the response.
    is_coded: Option<Arc<AtomicBool>>,
    guess: Option<Guess>,
    replay: Option<Replay>,
    /// The request body has been read to its end. Over HTTP/2 there may be trailers behind it, which nobody reads.
    is_read: bool,
}

impl Wrapped {
    pub(super) fn new(
        inner: Box<ServerSession>,
        connection: Arc<Connection>,
        (back, is_coded): (oneshot::Sender<Box<ServerSession>>, Option<Arc<AtomicBool>>),
        (guess, replay): (Option<Guess>, Option<Replay>),
    ) -> Self {
        Self { inner, connection, back: Some(back), is_coded, guess, replay, is_read: false }
    }

    fn keep(&mut self, read: Option<&Bytes>) {
        self.is_read |= read.is_none();
        if let Some(replay) = &mut self.replay {
            replay.keep(read);
        }
    }

    async fn write(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        if tasks.is_empty() {
            return Ok(false);
        }
        if self.is_coded.as_ref().is_some_and(|is_coded| is_coded.load(Ordering::Relaxed)) {
            tasks.iter_mut().for_each(uncode_nothing);
        }
        if tasks.iter().any(is_final_head) {
            // The hooks have asked for it too, but Pingora passes that on to its own sessions only.
            self.inner.set_keepalive(self.connection.keep_alive());
            if let Some(replay) = &mut self.replay {
                replay.forget();
            }
        }
        self.inner.response_duplex_vec(tasks).await
    }
}

/// Nothing encoded is not nothing: a head that ends the response must not promise a coding.
fn uncode_nothing(task: &mut HttpTask) {
    if let HttpTask::Header(head, true) = task {
        head.remove_header(&CONTENT_ENCODING);
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // If nobody takes it back, the request was given up, and the connection ends with it.
            let _ = back.send(std::mem::replace(&mut self.inner, super::nobody()));
        }
    }
}

#[async_trait]
impl Session for Wrapped {
    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let read = self.inner.read_request_body().await?;
        self.keep(read.as_ref());
        Ok(read)
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        // Nothing is awaited after the read, so nothing that was read is lost when this is cancelled.
        let read = self.inner.read_body_or_idle(no_body_expected || self.is_read).await?;
        self.keep(read.as_ref());
        Ok(read)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    fn is_body_done(&mut self) -> bool {
        self.is_read || self.inner.is_body_done()
    }

    fn is_body_empty(&mut self) -> bool {
        self.inner.is_body_empty()
    }

    fn enable_retry_buffering(&mut self) {
        if self.replay.is_none() {
            self.inner.enable_retry_buffering();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.replay.as_ref().map_or_else(|| self.inner.retry_buffer_truncated(), Replay::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.replay.as_ref().map_or_else(|| self.inner.get_retry_buffer(), Replay::bytes)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let tasks = match &mut self.guess {
            Some(guess) => guess.pass(tasks),
            None => tasks,
        };
        self.write(tasks).await
    }

    async fn write_response_header(&mut self, resp: Box<ResponseHeader>, _: bool) -> Result<()> {
        self.inner.write_response_header(resp).await
    }

    async fn write_response_header_ref(&mut self, resp: &ResponseHeader, _: bool) -> Result<()> {
        self.inner.write_response_header_ref(resp).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_response_trailers(trailers).await
    }

    /// Ends the response, not the session.
    async fn finish(&mut self) -> Result<()> {
        let held = self.guess.as_mut().map(Guess::release).unwrap_or_default();
        self.write(held).await?;
        self.inner.finish_body().await
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.inner.shutdown().await;
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.to_h1_raw()
    }

    // Messages outside of HTTP's own: there are none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
