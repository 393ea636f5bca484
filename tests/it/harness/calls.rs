//! A gRPC server for tests, one kind of call for each path, and what calls are made of.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// A gRPC server, one kind of call for each path.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    pub(crate) is_serving: Arc<AtomicBool>,
    pub(crate) cancelled: Arc<AtomicUsize>,
    pub(crate) asked: Arc<AtomicUsize>,
    go: Arc<Go>,
    /// Header fields of the last call.
    pub(crate) last: Arc<Mutex<HeaderMap>>,
}

/// What `/events` waits for.
pub(crate) struct Go(Semaphore);

impl Default for Go {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Calls {
    /// Lets `/events` send the next one.
    pub(crate) fn next_event(&self) {
        self.go.0.add_permits(1);
    }

    /// Starts it; its URL.
    pub(crate) async fn start(&self) -> String {
        self.listen("h2c", |stream| async { Ok(stream) }).await
    }

    /// Starts it behind TLS; its URL.
    pub(crate) async fn start_secured(&self, config: ServerConfig) -> String {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        self.listen("https", move |stream| acceptor.accept(stream)).await
    }

    async fn listen<S, F>(&self, scheme: &str, greet: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> String
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let calls = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(calls.clone().serve(greet(stream)));
            }
        });
        url
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, greeted: impl Future<Output = std::io::Result<S>>) {
        let Ok(stream) = greeted.await else { return };
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let calls = self.clone();
            tokio::spawn(async move { calls.answer(request, respond).await });
        }
    }

    async fn answer(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path().to_owned();
        self.last.lock().unwrap().clone_from(&head.headers);
        let mut answer = Response::builder().header("content-type", "application/grpc");
        if let Some(timeout) = head.headers.get("grpc-timeout") {
            answer = answer.header("x-timeout", timeout);
        }
        match path.as_str() {
            // Before it has read the request, of which it takes no more.
            "/t.T/Absent" => {
                let head = answer.header("grpc-status", "5").header("grpc-message", "no such thing");
                respond.send_response(head.body(()).unwrap(), true).ok()?;
            }
            "/t.T/Echo" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).ok()?;
                    send.send_data(data, false).ok()?;
                }
                send.send_trailers(status(0)).ok()?;
            }
            "/t.T/Join" => {
                let mut all = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.ok()?;
                    body.flow_control().release_capacity(data.len()).ok()?;
                    all.extend_from_slice(&data);
                }
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(all.into(), false).ok()?;
                send.send_trailers(status(0)).ok()?;
            }
            "/t.T/Broken" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(message(b"half"), false).ok()?;
                send.send_trailers(status(13)).ok()?;
            }
            "/t.T/Endless" => {
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(message(b"first"), false).ok()?;
                let reason = std::future::poll_fn(|context| send.poll_reset(context)).await;
                self.cancelled.fetch_add(usize::from(reason.is_ok()), Ordering::SeqCst);
            }
            "/grpc.health.v1.Health/Check" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                assert_eq!(head.method, "POST");
                assert_eq!(
                    (&head.headers["content-type"], &head.headers["te"]),
                    (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
                );
                assert_eq!(body.data().await.unwrap().unwrap(), &[0; 5][..]);
                let answer = Response::builder().header("content-type", "application/grpc");
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                let state = if self.is_serving.load(Ordering::SeqCst) { 1 } else { 2 };
                send.send_data(message(&[8, state]), false).ok()?;
                send.send_trailers(status(0)).ok()?;
            }
            "/events" => {
                let answer = Response::builder().header("content-type", "text/event-stream");
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                for number in 1..=2 {
                    self.go.0.acquire().await.ok()?.forget();
                    send.send_data(Bytes::from(format!("data: {number}\n\n")), number == 2).ok()?;
                }
            }
            // Plain answers, for what is encoded on the way.
            "/empty" => {
                let answer = Response::builder().header("content-type", "text/plain");
                respond.send_response(answer.body(()).unwrap(), true).ok()?;
            }
            "/text" => {
                let answer = Response::builder().header("content-type", "text/plain");
                let mut send = respond.send_response(answer.body(()).unwrap(), false).ok()?;
                send.send_data(Bytes::from("text ".repeat(1000)), false).ok()?;
                send.send_trailers(status(0)).ok()?;
            }
            _ => respond.send_reset(Reason::REFUSED_STREAM),
        }
        Some(())
    }
}

/// Trailers that say so.
pub(crate) fn status(code: u16) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    trailers
}

/// A message in its frame.
pub(crate) fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0], &length[..], content].concat().into()
}
