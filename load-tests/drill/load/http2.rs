//! Requests and gRPC streams over HTTP/2 within TLS, many of them on few connections.

use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};

use super::super::wire::bad;
use super::{Client, same};

/// Connections that share the streams.
const CONNECTIONS: usize = 4;

impl Client {
    /// A short request, a slow one, or one that must arrive exactly once, in turn.
    pub(super) async fn stream(&self, number: u64) -> io::Result<()> {
        let id = format!("{}-h{number}", self.run);
        let millis = fastrand::u32(200..4_000);
        let is_post = number.is_multiple_of(3);
        let body = Bytes::from(vec![b'x'; if is_post { fastrand::usize(1..16_384) } else { 0 }]);
        let (mut request, expected) = match number % 3 {
            0 => (call(Method::POST, &format!("/post/{id}")), format!("{id} {} 1", body.len())),
            1 => (call(Method::GET, &format!("/slow/{id}/{millis}")), id.clone()),
            _ => (call(Method::GET, &format!("/nonce/{id}")), id.clone()),
        };
        if is_post {
            // The origin takes no other framing.
            request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        }
        let (response, mut send) = self.open(request, !is_post).await?;
        if is_post {
            send.send_data(body, true).map_err(io::Error::other)?;
        }
        let mut body = self.succeeded(response.await.map_err(io::Error::other)?)?;
        let mut answer = Vec::new();
        while let Some(data) = next(&mut body).await? {
            answer.extend_from_slice(&data);
        }
        same(&answer, expected.as_bytes())?;
        if is_post {
            self.answered.lock().insert(id);
        }
        Ok(())
    }

    /// A stream in both directions: each message comes back before the next one is sent, and the status at the end.
    pub(super) async fn grpc(&self, number: u64) -> io::Result<()> {
        let mut request = call(Method::POST, "/drill.Echo/Each");
        request.headers_mut().extend(HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (TE, HeaderValue::from_static("trailers")),
        ]));
        let (response, mut send) = self.patiently(self.open(request, false)).await?;
        let until = Instant::now() + Duration::from_millis(fastrand::u64(500..6_000));
        let mut body = None;
        let mut response = Some(response);
        let mut count = 0u32;
        while Instant::now() < until {
            count += 1;
            let message = framed(format!("{} {number} {count}", self.run).as_bytes());
            send.send_data(message.clone(), false).map_err(io::Error::other)?;
            self.patiently(async {
                if let Some(response) = response.take() {
                    body = Some(self.succeeded(response.await.map_err(io::Error::other)?)?);
                }
                let Some(body) = &mut body else { return Err(bad("no answer")) };
                let mut echo = Vec::new();
                while echo.len() < message.len() {
                    echo.extend_from_slice(&next(body).await?.ok_or_else(|| bad("ended by the other side"))?);
                }
                same(&echo, &message)
            })
            .await?;
            sleep(Duration::from_millis(100)).await;
        }
        send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        self.patiently(async {
            let Some(body) = &mut body else { return Err(bad("no answer")) };
            if next(body).await?.is_some() {
                return Err(bad("an echo of nothing"));
            }
            let trailers = body.trailers().await.map_err(io::Error::other)?;
            let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
            if status.is_some_and(|status| status == "0") { Ok(()) } else { Err(bad("no status at the end")) }
        })
        .await
    }

    /// Opens a stream. A connection that takes no more streams is no failure: any client looks before it asks. A stream that was
    /// opened and does not end well is.
    async fn open(
        &self,
        request: Request<()>,
        is_all: bool,
    ) -> io::Result<(h2::client::ResponseFuture, SendStream<Bytes>)> {
        loop {
            let Ok(mut client) = self.shared().await?.ready().await else { continue };
            match client.send_request(request.clone(), is_all) {
                Ok(opened) => return Ok(opened),
                // It has been told to go since.
                Err(_) if is_over(&client) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// One of the connections that are shared, or a new one as long as there are few.
    async fn shared(&self) -> io::Result<SendRequest<Bytes>> {
        if let Some(client) = self.any() {
            return Ok(client);
        }
        // One at a time: many streams may find that there are few.
        let _turn = self.dialing.lock().await;
        if let Some(client) = self.any() {
            return Ok(client);
        }
        let stream = self.greeter()?.http2(TcpStream::connect(self.options.target).await?).await?;
        let (client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        self.streams.lock().push(client.clone());
        Ok(client)
    }

    /// One of the connections that are shared, if there are enough.
    fn any(&self) -> Option<SendRequest<Bytes>> {
        let mut streams = self.streams.lock();
        streams.retain(|client| !is_over(client));
        let at = (streams.len() >= CONNECTIONS).then(|| fastrand::usize(..streams.len()))?;
        streams.get(at).cloned()
    }

    fn succeeded(&self, response: Response<RecvStream>) -> io::Result<RecvStream> {
        if let Some(generation) = response.headers().get("x-generation").and_then(|value| value.to_str().ok()) {
            self.tally.generation(generation);
        }
        match response.status().as_u16() {
            200 => Ok(response.into_body()),
            status => Err(bad(&format!("status {status}"))),
        }
    }
}

/// Whether a connection takes no more streams.
fn is_over(client: &SendRequest<Bytes>) -> bool {
    use futures_util::FutureExt;
    matches!(tokio::task::unconstrained(client.clone().ready()).now_or_never(), Some(Err(_)))
}

fn call(method: Method, path: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = format!("https://drill.test{path}").parse().unwrap_or_default();
    request
}

async fn next(body: &mut RecvStream) -> io::Result<Option<Bytes>> {
    let Some(data) = body.data().await.transpose().map_err(io::Error::other)? else { return Ok(None) };
    body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
    Ok(Some(data))
}

/// A gRPC message in its frame.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}
