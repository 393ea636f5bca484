//! An HTTP/2 server without TLS that does as a script says, and keeps what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener;

/// One request as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// As far as it was read.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// Whether the body was read to its end.
    pub(crate) whole: bool,
    /// Whether the client has taken the request back.
    pub(crate) taken_back: bool,
}

/// What a server does next with a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    /// Sends an informational response with this status.
    Interim(u16),
    /// Sends the head of the response; `true` if nothing follows.
    Head(Arc<http::response::Parts>, bool),
    /// Sends a part of the body; `true` if it is the last.
    Data(Bytes, bool),
    Trailers(HeaderMap),
    Wait(Duration),
    Reset(Reason),
    /// Waits until the client takes the request back.
    Hang,
}

type Script = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

pub(crate) struct H2Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl H2Server {
    /// A server that takes the steps that `script` says for each request head.
    pub(crate) async fn start(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let (script, all): (Arc<Script>, _) = (Arc::new(script), received.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, all) = (script.clone(), all.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond, script.clone(), all.clone()));
                    }
                });
            }
        });
        Self { address, received, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("h2c://{}", self.address)
    }

    /// Requests whose heads were read, in order.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for H2Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: Arc<Script>,
    all: Arc<Mutex<Vec<Received>>>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let received = Received { path: head.uri.path().to_owned(), headers: head.headers, ..Received::default() };
    let steps = script(&received);
    let index = {
        let mut all = all.lock().unwrap();
        all.push(received);
        all.len() - 1
    };
    let mut sending: Option<SendStream<Bytes>> = None;
    for step in steps {
        match step {
            Step::ReadBody => read(&mut body, |change| change(&mut all.lock().unwrap()[index])).await?,
            Step::Interim(status) => {
                respond.send_informational(Response::builder().status(status).body(()).expect("a head")).ok()?;
            }
            Step::Head(parts, is_last) => {
                sending = Some(respond.send_response(Response::from_parts((*parts).clone(), ()), is_last).ok()?);
            }
            Step::Data(bytes, is_last) => send(sending.as_mut()?, bytes, is_last).await?,
            Step::Trailers(trailers) => sending.as_mut()?.send_trailers(trailers).ok()?,
            Step::Wait(time) => tokio::time::sleep(time).await,
            Step::Reset(reason) => match &mut sending {
                Some(sending) => sending.send_reset(reason),
                None => respond.send_reset(reason),
            },
            Step::Hang => {
                let gone = match &mut sending {
                    Some(sending) => std::future::poll_fn(|cx| sending.poll_reset(cx)).await,
                    None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                all.lock().unwrap()[index].taken_back = gone.is_ok();
            }
        }
    }
    Some(())
}

/// Reads a body with its trailers; `None` if it breaks off.
async fn read(body: &mut RecvStream, change: impl Fn(&dyn Fn(&mut Received))) -> Option<()> {
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            change(&|received| received.taken_back = true);
            return None;
        };
        body.flow_control().release_capacity(data.len()).ok()?;
        change(&|received| received.body.extend_from_slice(&data));
    }
    let trailers = body.trailers().await.ok()?;
    change(&|received| {
        received.trailers = trailers.clone();
        received.whole = true;
    });
    Some(())
}

/// Sends a part of a body, as the other side opens its windows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, is_last: bool) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, is_last && bytes.is_empty()).ok()?;
        if is_last && bytes.is_empty() {
            return Some(());
        }
    }
    if is_last { stream.send_data(Bytes::new(), true).ok() } else { Some(()) }
}
