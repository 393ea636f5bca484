//! Clients and servers of both protocols that do and say the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};

use crate::harness::gateway::Gateway;
use crate::harness::h2_server::{self, H2Server, send};
use crate::harness::peer::soon;
use crate::harness::server::{self, Server, ok};

use super::{Answering, Case, Ending, NONE, text};

/// What is behind the gateway, in one protocol or the other.
pub(super) enum Origin {
    H1(Server),
    H2(H2Server),
}

/// A request as a server of either protocol saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) body: Vec<u8>,
    pub(super) whole: bool,
    pub(super) trailers: String,
    /// The client's end of it has come.
    pub(super) is_over: bool,
    pub(super) has_stray_field: bool,
}

impl Origin {
    /// One that answers `/N` as the case of that number says, and all else with `fine`.
    pub(super) async fn start(is_http2: bool, cases: Arc<Vec<Case>>) -> Self {
        let case =
            move |path: &str| path[1..].split('/').next()?.parse().ok().and_then(|at: usize| cases.get(at).copied());
        if is_http2 {
            Self::H2(H2Server::start(move |it| case(&it.path).map_or_else(h2_fine, |case| h2_steps(&case))).await)
        } else {
            Self::H1(Server::start(move |it| case(it.path()).map_or_else(|| ok("fine"), |case| h1_steps(&case))).await)
        }
    }

    pub(super) fn url(&self) -> String {
        match self {
            Self::H1(server) => server.url(),
            Self::H2(server) => server.url(),
        }
    }

    pub(super) fn seen(&self, path: &str) -> Option<Seen> {
        match self {
            Self::H1(server) => server.received().into_iter().rfind(|it| it.path() == path).map(|it| Seen {
                whole: it.whole,
                trailers: it.trailers.clone(),
                is_over: server.open() == 0,
                has_stray_field: it.header("x-trailer").is_some(),
                body: it.body,
            }),
            Self::H2(server) => server.received().into_iter().rfind(|it| it.path == path).map(|it| Seen {
                whole: it.whole,
                trailers: it.trailers.map(|trailers| format!("{trailers:?}")).unwrap_or_default(),
                is_over: it.taken_back,
                has_stray_field: it.headers.contains_key("x-trailer"),
                body: it.body,
            }),
        }
    }

    pub(super) fn check_form(&self) {
        if let Self::H1(server) = self {
            assert_eq!(server.violations(), Vec::<String>::new());
        }
    }
}

pub(super) fn trailer() -> HeaderMap {
    [("x-trailer".parse().unwrap(), HeaderValue::from_static("given"))].into_iter().collect()
}

fn h1_steps(case: &Case) -> Vec<server::Step> {
    use server::Step;
    if case.ending == Ending::Never {
        return vec![Step::ReadBody, Step::Reset];
    }
    let mut bytes = Vec::new();
    if case.answering == Answering::Interim {
        bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }
    let framing = match (case.down.is_counted, case.status) {
        (_, 204) => String::new(),
        (true, _) => format!("Content-Length: {}\r\n", case.down.bytes),
        (false, _) => "Transfer-Encoding: chunked\r\nTrailer: x-trailer\r\n".to_owned(),
    };
    bytes.extend_from_slice(format!("HTTP/1.1 {} X\r\n{framing}\r\n", case.status).as_bytes());
    let sent = case.sent();
    if !case.has_body() {
    } else if case.down.is_counted {
        bytes.extend_from_slice(&sent);
    } else {
        for chunk in sent.chunks(50_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        if case.ending == Ending::Whole {
            bytes.extend_from_slice(b"0\r\n");
            bytes.extend_from_slice(if case.down.has_trailers { b"X-Trailer: given\r\n\r\n" } else { b"\r\n" });
        }
    }
    let mut steps = vec![Step::ReadBody, Step::Send(bytes)];
    if case.answering == Answering::Early {
        steps.reverse();
    }
    if case.ending == Ending::CutOff {
        // What has been written is to arrive.
        steps.extend([Step::Wait(Duration::from_millis(20)), Step::Close]);
    }
    steps
}

fn h2_fine() -> Vec<h2_server::Step> {
    let head = Response::builder().body(()).unwrap().into_parts().0;
    vec![h2_server::Step::Head(Arc::new(head), false), h2_server::Step::Data(Bytes::from_static(b"fine"), true)]
}

fn h2_steps(case: &Case) -> Vec<h2_server::Step> {
    use h2_server::Step;
    if case.ending == Ending::Never {
        return vec![Step::ReadBody, Step::Reset(Reason::INTERNAL_ERROR)];
    }
    let mut steps = Vec::new();
    if case.answering == Answering::Interim {
        steps.extend([Step::Interim(100), Step::Interim(103)]);
    }
    let mut head = Response::builder().status(case.status);
    if case.down.is_counted && case.status != 204 {
        head = head.header("content-length", case.down.bytes);
    }
    let has_body = case.has_body();
    steps.push(Step::Head(Arc::new(head.body(()).unwrap().into_parts().0), !has_body));
    if has_body {
        let is_last = case.ending == Ending::Whole && !case.down.has_trailers;
        steps.push(Step::Data(case.sent().into(), is_last));
        match case.ending {
            Ending::Whole if case.down.has_trailers => steps.push(Step::Trailers(trailer())),
            // What has been sent is to arrive.
            Ending::CutOff => {
                steps.extend([Step::Wait(Duration::from_millis(20)), Step::Reset(Reason::INTERNAL_ERROR)]);
            }
            _ => {}
        }
    }
    let at = if case.answering == Answering::Early { steps.len() } else { 0 };
    if case.ending == Ending::Whole || at == 0 {
        steps.insert(at, Step::ReadBody);
    }
    steps
}

/// What a client got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Answer {
        status: u16,
        body: Vec<u8>,
        trailers: String,
        code: Option<String>,
    },
    /// An end that cannot be taken for that of an answer.
    BrokenOff,
}

pub(super) enum Client {
    H1,
    H2(SendRequest<Bytes>),
}

impl Client {
    pub(super) async fn connect(gateway: &Gateway, is_http2: bool) -> Self {
        if !is_http2 {
            return Self::H1;
        }
        let (send, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
        tokio::spawn(connection);
        Self::H2(send)
    }

    pub(super) async fn exchange(&self, gateway: &Gateway, path: &str, case: &Case) -> Got {
        match self {
            Self::H1 => {
                let mut peer = gateway.connect().await;
                for part in h1_request(path, case).chunks(100_000) {
                    peer.try_send(part).await;
                }
                match peer.response_to(case.method).await {
                    Err(_) => Got::BrokenOff,
                    Ok(it) => Got::Answer {
                        status: it.status,
                        code: it.header("x-portcullis-error").map(str::to_owned),
                        trailers: it.trailers,
                        body: it.body,
                    },
                }
            }
            Self::H2(send) => h2_exchange(send.clone(), path, case).await,
        }
    }

    pub(super) async fn is_served(&self, gateway: &Gateway) -> bool {
        let fine = self.exchange(gateway, "/fine", &Case::new("GET", NONE, 200, NONE)).await;
        matches!(fine, Got::Answer { status: 200, body, .. } if body == b"fine")
    }
}

pub(super) fn h1_request(path: &str, case: &Case) -> Vec<u8> {
    let up = case.up;
    let mut bytes = format!("{} {path} HTTP/1.1\r\nHost: a.test\r\n", case.method).into_bytes();
    if up.is_counted {
        if up != NONE {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", up.bytes).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&text(up.bytes));
        return bytes;
    }
    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\nTrailer: x-trailer\r\n\r\n");
    for chunk in text(up.bytes).chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(if up.has_trailers { b"0\r\nX-Trailer: given\r\n\r\n" } else { b"0\r\n\r\n" });
    bytes
}

pub(super) fn h2_head(path: &str, case: &Case) -> Request<()> {
    let mut head = Request::builder().method(case.method).uri(format!("http://a.test{path}")).header("te", "trailers");
    if case.up.is_counted && case.up != NONE {
        head = head.header("content-length", case.up.bytes);
    }
    head.body(()).unwrap()
}

async fn h2_exchange(client: SendRequest<Bytes>, path: &str, case: &Case) -> Got {
    let up = case.up;
    let (response, mut sending) = client.ready().await.unwrap().send_request(h2_head(path, case), up == NONE).unwrap();
    if up != NONE {
        tokio::spawn(async move {
            // Who answers early need not take all of it.
            send(&mut sending, text(up.bytes).into(), !up.has_trailers).await?;
            if up.has_trailers { sending.send_trailers(trailer()).ok() } else { Some(()) }
        });
    }
    let Ok(response) = response.await else { return Got::BrokenOff };
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let Ok(data) = data else { return Got::BrokenOff };
        incoming.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = incoming.trailers().await.unwrap();
    Got::Answer {
        status: head.status.as_u16(),
        body,
        trailers: trailers.map(|it| format!("{it:?}")).unwrap_or_default(),
        code: head.headers.get("x-portcullis-error").map(|code| code.to_str().unwrap().to_owned()),
    }
}
