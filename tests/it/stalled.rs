//! Uploads that are announced and never sent: they end as documented, cost little until then, and others are served beside them.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::Request;

use crate::harness::frames::resident;
use crate::harness::gateway::Gateway;
use crate::harness::h2_server::{self, H2Server};
use crate::harness::honest;
use crate::harness::peer::{Peer, soon, until};
use crate::harness::server::{Server, answer};

const UPLOADS: usize = 100;
/// Over HTTP/2, on so many connections.
const CONNECTIONS: usize = 4;
/// How long a request may take to come.
const READ: Duration = Duration::from_secs(2);
/// Most that an upload takes while it stands still, in KiB.
const UPLOAD_KIB: u64 = 96;
/// What they took may stay, since allocators keep it; the next ones must do with it.
const ROUNDS: usize = 3;

/// Middlewares of the router: none, and those for which sessions are wrapped.
const WAYS: [&str; 2] = ["", "again, guess"];

/// A gateway with a server that waits for whole bodies, and one of HTTP/2 that does so.
struct Stalled {
    gateway: Gateway,
    server: Server,
    before: u64,
    descriptors: usize,
}

impl Stalled {
    async fn start(middlewares: &str, h2c: &str) -> Self {
        let server = Server::start(|received| answer(200, "", received.target())).await;
        let gateway = Gateway::setup()
            .flag("log.level=INFO")
            .flag(format!("entryPoints.web.transport.respondingTimeouts.readTimeout={}s", READ.as_secs()))
            .dynamic(format!(
                "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}
    h2c: {{rule: 'PathPrefix(`/h2c`)', service: h2c}}
  middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    h2c: {{loadBalancer: {{servers: [{{url: '{h2c}'}}]}}}}
",
                server.url()
            ))
            .start()
            .await;
        honest::ask(gateway.address(), UPLOADS).await;
        let (before, descriptors) = (resident(gateway.pid()), descriptors(&gateway));
        Self { gateway, server, before, descriptors }
    }

    /// Everybody is served while `UPLOADS` of them stand still, and they cost little.
    async fn holds(&self, what: &str) {
        let waits = honest::ask(self.gateway.address(), 100).await;
        let grown = resident(self.gateway.pid()).saturating_sub(self.before);
        println!("{what}: {waits} beside {UPLOADS} uploads that stand still; {grown} KiB more");
        assert!(grown <= UPLOADS as u64 * UPLOAD_KIB, "{what}: {grown} KiB more");
    }

    /// Nothing is left of them.
    async fn is_over(&self, what: &str) {
        until(|| descriptors(&self.gateway) <= self.descriptors + 1).await;
        assert!(self.server.received().iter().all(|it| it.method() == "GET" || !it.whole), "{what}");
        assert_eq!(self.server.violations(), Vec::<String>::new(), "{what}");
    }
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

#[tokio::test]
async fn uploads_that_stand_still_are_answered_408() {
    for middlewares in WAYS {
        let stalled = Stalled::start(middlewares, "h2c://127.0.0.1:1").await;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let mut peers = Vec::new();
            for at in 0..UPLOADS {
                let framing = if at % 2 == 0 { "Content-Length: 1000000" } else { "Transfer-Encoding: chunked" };
                let mut peer = stalled.gateway.connect().await;
                peer.send(format!("POST /stalled HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n5\r\nhello\r\n")).await;
                peers.push(peer);
            }
            stalled.holds(&format!("HTTP/1 [{middlewares}]")).await;
            for answer in join_all(peers.iter_mut().map(Peer::answer)).await {
                assert_eq!((answer.status, answer.header("x-portcullis-error")), (408, Some("body-timeout")));
            }
            assert!(started.elapsed() >= READ, "{:?}", started.elapsed());
            drop(peers);
            stalled.is_over(&format!("HTTP/1 [{middlewares}]")).await;
        }
        is_logged(&stalled.gateway, "/stalled").await;
    }
}

async fn is_logged(gateway: &Gateway, path: &str) {
    let line = gateway.logged_path(path).await;
    assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&408.into(), &"body-timeout".into()), "{line}");
}

/// Uploads over HTTP/2 whose bodies have begun.
async fn begin(gateway: &Gateway, path: &str) -> Vec<(ResponseFuture, SendStream<Bytes>)> {
    let mut uploads = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = gateway.connect().await.into_stream();
        let (mut requests, connection) = soon(h2::client::handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..UPLOADS / CONNECTIONS {
            requests = soon(requests.ready()).await.unwrap();
            let request = Request::post(format!("http://a.test{path}")).body(()).unwrap();
            let (response, mut body) = requests.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), false).unwrap();
            uploads.push((response, body));
        }
    }
    uploads
}

/// RFC 9113 §8.1: an answer that comes before the request is whole, and then the stream is reset without an error.
#[tokio::test]
async fn uploads_that_stand_still_are_answered_408_over_http2_too() {
    for middlewares in WAYS {
        let stalled = Stalled::start(middlewares, "h2c://127.0.0.1:1").await;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let uploads = begin(&stalled.gateway, "/stalled").await;
            stalled.holds(&format!("HTTP/2 [{middlewares}]")).await;
            let ends = join_all(uploads.into_iter().map(async |(response, mut body)| {
                let response = soon(response).await.unwrap();
                assert_eq!(response.headers()["x-portcullis-error"], "body-timeout");
                let reason = soon(poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
                (response.status().as_u16(), reason)
            }));
            assert!(ends.await.into_iter().all(|end| end == (408, Reason::NO_ERROR)));
            assert!(started.elapsed() >= READ, "{:?}", started.elapsed());
            stalled.is_over(&format!("HTTP/2 [{middlewares}]")).await;
        }
        is_logged(&stalled.gateway, "/stalled").await;
    }
}

/// Those on the way to a server that speaks HTTP/2 are not waited for either.
#[tokio::test]
async fn uploads_to_http2_servers_that_stand_still_are_reset() {
    let server = H2Server::start(|_| vec![h2_server::Step::ReadBody, h2_server::Step::Hang]).await;
    let stalled = Stalled::start("", &server.url()).await;
    let started = Instant::now();
    let uploads = begin(&stalled.gateway, "/h2c").await;
    stalled.holds("HTTP/2 to HTTP/2").await;
    for end in join_all(uploads.into_iter().map(async |(response, _body)| soon(response).await)).await {
        assert_eq!(end.unwrap_err().reason(), Some(Reason::CANCEL));
    }
    assert!(started.elapsed() >= READ, "{:?}", started.elapsed());
    is_logged(&stalled.gateway, "/h2c").await;
    honest::ask(stalled.gateway.address(), 10).await;
}
