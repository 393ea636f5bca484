//! Long bodies that are tried again, and media types that are guessed: the requests whose session is wrapped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, soon, until};
use crate::harness::server::{Received, Server, Step, answer, ok, raw};

const MIB: usize = 1 << 20;
const TEXT: &str = "text/plain; charset=utf-8";

/// A gateway before these servers: `/retry…` tries three times, `/guess…` guesses, `/both…` does both, `/plain…` neither.
async fn before(servers: &[&Server]) -> Gateway {
    let urls: Vec<String> = servers.iter().map(|server| format!("{{url: '{}'}}", server.url())).collect();
    let urls = urls.join(", ");
    Gateway::with(format!(
        "http:
  routers:
    retry: {{rule: 'PathPrefix(`/retry`)', service: s, middlewares: [retry]}}
    small: {{rule: 'PathPrefix(`/small`)', service: s, middlewares: [small]}}
    guess: {{rule: 'PathPrefix(`/guess`)', service: s, middlewares: [guess]}}
    both: {{rule: 'PathPrefix(`/both`)', service: s, middlewares: [guess, retry, marked]}}
    packed: {{rule: 'PathPrefix(`/packed`)', service: s, middlewares: [guess, packed]}}
    plain: {{rule: 'PathPrefix(`/plain`)', service: s}}
  middlewares:
    retry: {{retry: {{attempts: 3, status: ['503'], retryNonIdempotentMethod: true}}}}
    small: {{retry: {{attempts: 3, status: ['503'], maxRequestBodyBytes: 200000}}}}
    guess: {{contentType: {{}}}}
    marked: {{headers: {{customResponseHeaders: {{X-Marked: once}}}}}}
    packed: {{compress: {{minResponseBodyBytes: 1}}}}
  services:
    s: {{loadBalancer: {{servers: [{urls}]}}}}
"
    ))
    .await
}

/// Bytes in which every place differs from its neighbours.
fn long_body(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) ^ (at >> 8)) as u8).collect()
}

fn counted(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn chunked(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Sends while it reads: an answer may come before all is sent.
async fn exchange(gateway: &Gateway, method: &str, request: &[u8]) -> (u16, Vec<u8>) {
    let mut peer = gateway.connect().await;
    peer.send(request).await;
    let got = peer.response_to(method).await.unwrap();
    (got.status, got.body)
}

/// A client that speaks HTTP/2 without TLS.
struct H2(SendRequest<Bytes>);

impl H2 {
    async fn connect(gateway: &Gateway) -> Self {
        let (send, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// Status, media type and body.
    async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Option<String>, Vec<u8>) {
        let request = Request::builder().method(method).uri(format!("http://a.test{path}")).body(()).unwrap();
        let mut ready = soon(self.0.clone().ready()).await.unwrap();
        let (response, mut stream) = ready.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let (head, mut incoming) = soon(response).await.unwrap().into_parts();
        let mut got = Vec::new();
        while let Some(chunk) = soon(incoming.data()).await {
            let chunk = chunk.unwrap();
            let _ = incoming.flow_control().release_capacity(chunk.len());
            got.extend_from_slice(&chunk);
        }
        let media_type = head.headers.get("content-type").map(|value| value.to_str().unwrap().to_owned());
        (head.status.as_u16(), media_type, got)
    }
}

/// Two servers with one script: the request that comes first fails in this way, the next one is answered.
async fn failing_first(failure: fn() -> Vec<Step>) -> [Server; 2] {
    let count = Arc::new(AtomicUsize::new(0));
    let start = || {
        let count = count.clone();
        Server::start(
            move |_| if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { failure() } else { ok("done") },
        )
    };
    [start().await, start().await]
}

/// All requests of both servers; those that were read to their end have a body.
fn received(servers: &[Server; 2]) -> Vec<Received> {
    for server in servers {
        assert_eq!(server.violations(), Vec::<String>::new());
    }
    servers.iter().flat_map(Server::received).collect()
}

/// A request whose first attempt ends in this way reaches the other server whole, once.
async fn is_sent_again(failure: fn() -> Vec<Step>) {
    let servers = failing_first(failure).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    let body = long_body(MIB);
    let mut h2 = H2::connect(&gateway).await;
    let mut sent = 0;
    for (method, way) in [("PUT", "counted"), ("POST", "counted"), ("POST", "chunked"), ("POST", "h2")] {
        let path = format!("/retry/{method}/{way}");
        let got = match way {
            "counted" => exchange(&gateway, method, &counted(method, &path, &body)).await,
            "chunked" => exchange(&gateway, method, &chunked(method, &path, &body)).await,
            _ => {
                let (status, _, got) = h2.send(method, &path, &body).await;
                (status, got)
            }
        };
        assert_eq!(got, (200, b"done".to_vec()), "{path}");
        sent += 1;
        let all = received(&servers);
        assert_eq!(all.len(), 2 * sent, "{path}");
        assert!(all.iter().any(|it| it.path() == path && it.body == body), "{path}");
        let line = gateway.logged_path(&path).await;
        assert_eq!((&line["RetryAttempts"], &line["RequestContentSize"]), (&1.into(), &MIB.into()), "{line}");
    }
    assert_eq!(gateway.access_log().len(), sent, "each request is told once");
}

#[tokio::test]
async fn a_long_body_survives_a_reset_in_its_middle() {
    is_sent_again(|| vec![Step::Wait(Duration::from_millis(50)), Step::Reset]).await;
}

#[tokio::test]
async fn a_long_body_survives_a_reset_after_it() {
    is_sent_again(|| vec![Step::ReadBody, Step::Reset]).await;
}

#[tokio::test]
async fn a_long_body_survives_an_answer_that_is_tried_again() {
    is_sent_again(|| answer(503, "", "later")).await;
}

#[tokio::test]
async fn what_came_is_replayed_and_the_rest_follows() {
    let servers =
        failing_first(|| vec![Step::Send(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec()), Step::Hang]).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    let body = long_body(MIB);
    let request = counted("POST", "/retry", &body);
    let mut peer = gateway.connect().await;
    peer.send(&request[..300_000]).await;
    until(|| servers.iter().map(Server::count).sum::<usize>() == 2).await;
    peer.send(&request[300_000..]).await;
    assert_eq!(peer.answer().await.text(), "done");
    assert!(received(&servers).iter().any(|it| it.body == body));
    assert_eq!(peer.get("/plain", "").await.status, 503, "the connection goes on, and so does the script");
}

#[tokio::test]
async fn bodies_beyond_the_limit_pass_once() {
    let servers = failing_first(|| answer(503, "", "later")).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    let body = long_body(3 * MIB);
    let mut h2 = H2::connect(&gateway).await;
    for (way, expected) in [("counted", 1), ("chunked", 3), ("h2", 5)] {
        let got = match way {
            "counted" => exchange(&gateway, "POST", &counted("POST", "/retry", &body)).await,
            "chunked" => exchange(&gateway, "POST", &chunked("POST", "/retry", &body)).await,
            _ => {
                let (status, _, got) = h2.send("POST", "/retry", &body).await;
                (status, got)
            }
        };
        assert_eq!(got, (503, b"later".to_vec()), "{way}");
        assert_eq!(received(&servers).len(), expected, "{way}");
        assert!(received(&servers).iter().filter(|it| it.method() == "POST").all(|it| it.body == body), "{way}");
        // The next one is answered, so that the script starts anew.
        assert_eq!(exchange(&gateway, "PUT", &counted("PUT", "/plain", b"")).await.0, 200);
    }
}

#[tokio::test]
async fn the_limit_is_the_one_that_is_set() {
    let servers = failing_first(|| answer(503, "", "later")).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    for (length, status) in [(200_000, 200), (200_001, 503)] {
        for request in [counted("PUT", "/small", &long_body(length)), chunked("PUT", "/small", &long_body(length))] {
            assert_eq!(exchange(&gateway, "PUT", &request).await.0, status, "{length}");
            if status == 503 {
                assert_eq!(exchange(&gateway, "PUT", &counted("PUT", "/plain", b"")).await.0, 200);
            }
        }
    }
}

#[tokio::test]
async fn an_empty_chunked_body_is_sent_again_with_its_end() {
    let servers = failing_first(|| answer(503, "", "later")).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    assert_eq!(exchange(&gateway, "POST", &chunked("POST", "/retry", b"")).await, (200, b"done".to_vec()));
    let all = received(&servers);
    assert_eq!((all.len(), all.iter().all(|it| it.body.is_empty())), (2, true));
}

#[tokio::test]
async fn when_all_attempts_fail_the_connection_goes_on() {
    let server = Server::start(|it| match it.path() {
        "/plain" => ok("fine"),
        _ => vec![Step::ReadBody, Step::Reset],
    })
    .await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    for request in [counted("POST", "/both", &long_body(MIB)), chunked("POST", "/both", &long_body(MIB))] {
        peer.send(request).await;
        let got = peer.answer().await;
        assert_eq!((got.status, got.header("x-portcullis-error")), (502, Some("server-closed")));
        assert_eq!(got.head.matches("x-marked: once").count(), 1, "{}", got.head);
        assert_eq!(peer.get("/plain", "").await.text(), "fine");
    }
    assert_eq!(server.received().iter().filter(|it| it.body.len() == MIB).count(), 6);
}

/// What a server answers on each path, and the media type that the client gets.
const GUESSES: [(&str, &str, &[u8], Option<&str>); 9] = [
    ("/html", "", b"  <!doctype html><title>a</title>", Some("text/html; charset=utf-8")),
    ("/json", "", b"{\"a\": 1}", Some(TEXT)),
    ("/png", "", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", Some("image/png")),
    ("/text", "", b"words", Some(TEXT)),
    ("/bytes", "", b"\x00\x01\x02", Some("application/octet-stream")),
    ("/typed", "Content-Type: application/json\r\n", b"<html>", Some("application/json")),
    ("/empty-type", "Content-Type: \r\n", b"<html>", Some("")),
    ("/encoded", "Content-Encoding: gzip\r\n", b"\x1f\x8b\x08", None),
    ("/empty", "", b"", None),
];

fn guessed(it: &Received) -> Vec<Step> {
    let framing = it.target().split('?').nth(1).unwrap_or_default();
    let name = it.path().rsplit('/').next().unwrap_or_default();
    let Some((_, fields, body, _)) = GUESSES.iter().find(|(path, ..)| &path[1..] == name) else { return ok("fine") };
    let body: &[u8] = if it.method() == "HEAD" { b"" } else { body };
    match framing {
        "chunked" => {
            let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in body.chunks(20) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            if it.method() != "HEAD" {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            raw(bytes)
        }
        "close" => {
            let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}Connection: close\r\n\r\n").into_bytes();
            bytes.extend_from_slice(body);
            vec![Step::ReadBody, Step::Send(bytes), Step::Close]
        }
        _ => {
            let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend_from_slice(body);
            raw(bytes)
        }
    }
}

#[tokio::test]
async fn media_types_are_guessed_for_all_who_ask() {
    let server = Server::start(guessed).await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    let mut h2 = H2::connect(&gateway).await;
    for route in ["/guess", "/both"] {
        for (path, _, body, expected) in GUESSES {
            for framing in ["counted", "chunked", "close"] {
                let target = format!("{route}{path}?{framing}");
                let got = peer.get(&target, "").await;
                assert_eq!((got.status, got.header("content-type"), &got.body[..]), (200, expected, body), "{target}");
                assert_eq!(got.head.matches("x-marked: once").count(), usize::from(route == "/both"), "{target}");
                let (status, media_type, got) = h2.send("GET", &target, b"").await;
                assert_eq!((status, media_type.as_deref(), &got[..]), (200, expected, body), "h2 {target}");
                let (status, media_type, got) = h2.send("POST", &target, b"words").await;
                assert_eq!((status, media_type.as_deref(), &got[..]), (200, expected, body), "h2 POST {target}");
            }
        }
    }
    // Nothing is guessed where nobody asks for it, and nothing of a body that does not come.
    assert_eq!(peer.get("/plain/html", "").await.header("content-type"), None);
    for framing in ["counted", "chunked"] {
        let head = peer.request(&format!("HEAD /guess/html?{framing} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!((head.status, head.header("content-type")), (200, None));
        assert_eq!(peer.get("/guess/text", "").await.text(), "words", "after HEAD");
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_packed_by_us_is_not_guessed() {
    let server = Server::start(|_| ok("<html>".repeat(100))).await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    let got = peer.get("/packed", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((got.header("content-encoding"), got.header("content-type")), (Some("gzip"), None), "{}", got.head);
    assert_eq!(peer.get("/packed", "").await.header("content-type"), Some("text/html; charset=utf-8"));
}

#[tokio::test]
async fn answers_without_a_body_are_not_held() {
    let server = Server::start(|it| match it.path() {
        "/guess/204" => raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/guess/304" => raw("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        "/guess/hints" => {
            raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        }
        _ => ok(""),
    })
    .await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    for (path, status, expected) in [
        ("/guess/204", 204, None),
        ("/guess/304", 304, None),
        ("/guess/none", 200, None),
        ("/guess/hints", 200, Some(TEXT)),
    ] {
        let got = peer.get(path, "").await;
        assert_eq!((got.status, got.header("content-type")), (status, expected), "{path}");
    }
}

#[tokio::test]
async fn a_long_answer_flows_as_it_comes() {
    let server = Server::start(|_| {
        let mut steps =
            vec![Step::ReadBody, Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())];
        for piece in ["5\r\npiece\r\n", "5\r\npiece\r\n", "0\r\n\r\n"] {
            steps.extend([Step::WaitForTest, Step::Send(piece.as_bytes().to_vec())]);
        }
        steps
    })
    .await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    peer.send("GET /guess HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    server.until_count(1).await;
    server.go();
    assert_eq!(peer.head().await.unwrap().header("content-type"), Some(TEXT));
    assert_eq!(peer.bytes(10).await, b"5\r\npiece\r\n");
    server.go();
    assert_eq!(peer.bytes(10).await, b"5\r\npiece\r\n");
    server.go();
    assert_eq!(peer.bytes(5).await, b"0\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_request_along() {
    let server =
        Server::start(|_| vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec()), Step::Hang]).await;
    let gateway = before(&[&server]).await;
    for path in ["/guess", "/both"] {
        let mut peer = gateway.connect().await;
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        until(|| server.open() == 1).await;
        // With a reset: a client that only ends its own side might still wait for the answer.
        socket2::SockRef::from(&peer.into_stream()).set_linger(Some(Duration::ZERO)).unwrap();
        until(|| server.open() == 0).await;
    }
    // In the middle of its own body.
    let mut peer = gateway.connect().await;
    peer.send(&counted("POST", "/retry", &long_body(MIB))[..500_000]).await;
    until(|| server.open() == 1).await;
    drop(peer);
    until(|| server.open() == 0).await;
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn half_an_answer_never_looks_whole() {
    let server = Server::start(|it| {
        let head: &[u8] = match it.path() {
            "/guess/counted" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        };
        vec![Step::ReadBody, Step::Send(head.to_vec()), Step::Wait(Duration::from_millis(50)), Step::Close]
    })
    .await;
    let gateway = before(&[&server]).await;
    for path in ["/guess/counted", "/guess/chunked"] {
        let mut peer = gateway.connect().await;
        peer.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert!(peer.response_to("GET").await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn upgrades_pass_by() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
    let server = Server::start(move |_| vec![Step::Send(switch.clone()), Step::Echo]).await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    peer.send("GET /both HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(peer.head().await.unwrap().status, 101);
    peer.send("hello").await;
    assert_eq!(peer.bytes(5).await, b"hello");
}

#[tokio::test]
async fn requests_on_one_connection_are_kept_apart() {
    let server = Server::start(|it| answer(200, "", it.target())).await;
    let gateway = before(&[&server]).await;
    let mut peer = gateway.connect().await;
    let mut requests = Vec::new();
    for round in 0..4 {
        requests.extend(counted("POST", &format!("/both/{round}"), &long_body(100_000)));
        requests.extend(chunked("POST", &format!("/retry/{round}"), &long_body(100_000)));
        requests.extend(counted("GET", &format!("/plain/{round}"), b""));
    }
    peer.send(&requests).await;
    for round in 0..4 {
        for route in ["both", "retry", "plain"] {
            let got = peer.answer().await;
            assert_eq!((got.status, got.text()), (200, &*format!("/{route}/{round}")));
            assert_ne!(got.header("connection"), Some("close"));
        }
    }
    // A client that asks for the end gets it.
    let got = peer.get("/both/last", "Connection: close\r\n").await;
    assert_eq!((got.text(), got.header("connection")), ("/both/last", Some("close")));
    assert_eq!(peer.end().await, End::Closed);
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_used_up_connection_ends_with_its_answer() {
    let server = Server::says("fine").await;
    let setup = Gateway::setup().flag("entryPoints.web.transport.keepAliveMaxRequests=2").dynamic(format!(
        "http:
  routers: {{r: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [guess]}}}}
  middlewares: {{guess: {{contentType: {{}}}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}",
        server.url()
    ));
    let gateway = setup.start().await;
    let mut peer = gateway.connect().await;
    assert_ne!(peer.get("/", "").await.header("connection"), Some("close"));
    let last = peer.get("/", "").await;
    assert_eq!(
        (last.text(), last.header("connection"), last.header("content-type")),
        ("fine", Some("close"), Some(TEXT))
    );
    assert_eq!(peer.end().await, End::Closed);
}

#[tokio::test]
async fn a_client_that_waits_for_our_word_gets_it() {
    let servers = failing_first(|| answer(503, "", "later")).await;
    let gateway = before(&[&servers[0], &servers[1]]).await;
    let body = long_body(MIB);
    let mut peer = gateway.connect().await;
    let length = body.len();
    peer.send(format!(
        "PUT /both HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await;
    assert_eq!(peer.head().await.unwrap().status, 100);
    peer.send(&body).await;
    assert_eq!(peer.response_to("PUT").await.unwrap().text(), "done");
    assert_eq!(received(&servers).iter().filter(|it| it.body == body).count(), 2);
}

/// What a call of [`grpc`] saw at its server: whether trailers were wanted, and the message.
type Called = (Option<http::HeaderValue>, Vec<u8>);

/// A server that speaks HTTP/2 only. It refuses the first call once it has read it, and answers the second in gRPC's way.
async fn grpc() -> (std::net::SocketAddr, tokio::task::JoinHandle<Vec<Called>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut called = Vec::new();
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection =
            h2::server::Builder::new().initial_window_size(4 << 20).handshake::<_, Bytes>(stream).await.unwrap();
        let (seen, mut seeing) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                count += 1;
                let (seen, count) = (seen.clone(), count);
                tokio::spawn(async move {
                    let mut message = Vec::new();
                    while let Some(Ok(chunk)) = request.body_mut().data().await {
                        let _ = request.body_mut().flow_control().release_capacity(chunk.len());
                        message.extend_from_slice(&chunk);
                    }
                    seen.send((request.headers().get("te").cloned(), message)).await.unwrap();
                    let status = if count == 1 { 503 } else { 200 };
                    let head = http::Response::builder().status(status).body(()).unwrap();
                    let mut stream = respond.send_response(head, count == 1).unwrap();
                    if count > 1 {
                        stream.send_data(Bytes::from_static(b"<html> it is not"), false).unwrap();
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        stream.send_trailers(trailers).unwrap();
                    }
                });
            }
        });
        while called.len() < 2 {
            called.push(seeing.recv().await.unwrap());
        }
        called
    });
    (address, serving)
}

#[tokio::test]
async fn http2_servers_get_the_body_again_and_trailers_come_through() {
    let (address, serving) = grpc().await;
    let gateway = Gateway::with(format!(
        "http:
  routers: {{r: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [guess, retry]}}}}
  middlewares:
    retry: {{retry: {{attempts: 3, status: ['503'], retryNonIdempotentMethod: true}}}}
    guess: {{contentType: {{}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'h2c://{address}'}}]}}}}}}"
    ))
    .await;
    let mut client = soon(H2::connect(&gateway).await.0.ready()).await.unwrap();
    let request = Request::post("http://a.test/service/Method").header("te", "trailers").body(()).unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let message = long_body(MIB);
    stream.send_data(Bytes::from(message.clone()), true).unwrap();
    let mut response = soon(response).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(soon(response.body_mut().data()).await.unwrap().unwrap(), "<html> it is not");
    let trailers = soon(response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    for (te, got) in soon(serving).await.unwrap() {
        assert!(got == message, "{} bytes", got.len());
        assert_eq!(te.unwrap(), "trailers");
    }
}
