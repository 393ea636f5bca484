//! Requests with a body: both bodies flow at once, answers may come early, and whatever breaks breaks alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, PATIENCE, Peer, soon, until};
use crate::harness::server::{Server, Step, answer, ok};
use crate::harness::tls::{Authority, quoted, shake_hands};

/// Middlewares of the router: none, and those for which sessions are wrapped.
const WAYS: [&str; 2] = ["", "again, guess"];
const MIB: usize = 1 << 20;

/// A gateway with one service at this URL.
async fn before(url: &str, middlewares: &str) -> Gateway {
    with(url, middlewares, "", "").await
}

/// The same, with more settings of the service and of its transport.
async fn with(url: &str, middlewares: &str, service: &str, timeouts: &str) -> Gateway {
    Gateway::with(format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}
  middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{url}'}}], serversTransport: t{service}}}}}
  serversTransports:
    t: {{forwardingTimeouts: {{{timeouts}}}}}
"
    ))
    .await
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n")
}

fn send(text: impl AsRef<str>) -> Step {
    Step::Send(text.as_ref().as_bytes().to_vec())
}

/// A listener of the test's own, and its URL.
async fn listener() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Reads up to the end of a head; what came behind it.
async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return bytes.split_off(at + 4);
        }
        assert!(soon(stream.read_buf(&mut bytes)).await.unwrap() > 0, "{}", bytes.escape_ascii());
    }
}

async fn h2(gateway: &Gateway) -> SendRequest<Bytes> {
    let (send, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    tokio::spawn(connection);
    soon(send.ready()).await.unwrap()
}

/// Peak of the process's resident memory, in KiB.
fn peak(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Requests with and without bodies use the same idle connections.
#[tokio::test]
async fn all_requests_share_the_connections_to_a_server() {
    let server = Server::echo().await;
    for middlewares in WAYS {
        let gateway = before(&server.url(), middlewares).await;
        let connections = server.connections();
        let mut peer = gateway.connect().await;
        for turn in 0..3 {
            for request in [
                head("GET", "/", "A: b"),
                head("POST", "/", "Content-Length: 5") + "hello",
                head("PUT", "/", "Transfer-Encoding: chunked") + "3\r\nhel\r\n2;x\r\nlo\r\n0\r\nTrailing: x\r\n\r\n",
                head("POST", "/", "Transfer-Encoding: chunked") + "0\r\n\r\n",
                head("POST", "/", "Expect: 100-continue\r\nContent-Length: 5") + "hello",
            ] {
                assert_eq!(peer.request(&request).await.status, 200, "{turn}: {request}");
                let last = server.last();
                let expected = if request.contains("0\r\n\r\n") && !request.contains("hel") { "" } else { "hello" };
                assert_eq!(last.text(), if last.method() == "GET" { "" } else { expected }, "{request}");
                // Neither trailers nor expectations go any further.
                assert_eq!((last.trailers.as_str(), last.header("expect")), ("", None));
            }
        }
        assert_eq!((server.connections() - connections, server.open()), (1, 1), "{middlewares}");
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

/// An answer that comes before the request is whole is forwarded at once, and the rest of the request goes on.
#[tokio::test]
async fn early_answers_overtake_the_body() {
    for (early, reads) in [
        ("HTTP/1.1 413 X\r\nContent-Length: 5\r\n\r\nlarge", 5),
        ("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlarge\r\n0\r\n\r\n", 5),
        ("HTTP/1.1 204 X\r\n\r\n", 0),
    ] {
        let server = Server::start(move |it| match it.path() {
            "/early" => vec![send(early), Step::ReadBody],
            _ => ok("next"),
        })
        .await;
        for middlewares in WAYS {
            let gateway = before(&server.url(), middlewares).await;
            let connections = server.connections();
            for (fields, first, rest) in [
                ("Content-Length: 10", "hello", "world"),
                ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "5\r\nworld\r\n0\r\n\r\n"),
            ] {
                let mut peer = gateway.connect().await;
                peer.send(head("POST", "/early", fields) + first).await;
                let got = peer.response_to("POST").await.unwrap();
                assert_eq!((got.body.len(), got.status), (reads, early[9..12].parse().unwrap()), "{early} {fields}");
                peer.send(rest).await;
                until(|| server.last().whole).await;
                assert_eq!(server.last().text(), "helloworld", "{early} {fields}");
                // Nobody knows beforehand how long a chunked body will be, so its connection is not kept.
                if fields.starts_with("Content") {
                    assert_eq!(peer.get("/next", "").await.text(), "next");
                } else {
                    assert_eq!(peer.end().await, End::Closed);
                    assert_eq!(gateway.connect().await.get("/next", "").await.text(), "next");
                }
            }
            assert_eq!(server.connections() - connections, 1, "{middlewares}: both were whole");
        }
    }
}

/// The beginning of an answer is seen while server and client each wait for the other's next move.
#[tokio::test]
async fn the_beginning_of_an_early_answer_is_not_held_back() {
    for fields in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let part = if fields.starts_with("Content") { "hello" } else { "5\r\nhello\r\n" };
        let rest = if fields.starts_with("Content") { "world" } else { "5\r\nworld\r\n0\r\n\r\n" };
        let (listener, url) = listener().await;
        let (go, may_go) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = read_head(&mut stream).await.len();
            let early = format!("HTTP/1.1 200 X\r\n{fields}\r\n\r\n{part}");
            stream.write_all(early.as_bytes()).await.unwrap();
            // Nothing of the request is read before the client has seen that.
            may_go.await.unwrap();
            let mut buffer = vec![0; 1 << 16];
            while read < 32 * MIB {
                read += soon(stream.read(&mut buffer)).await.unwrap();
            }
            stream.write_all(rest.as_bytes()).await.unwrap();
            let _ = stream.read(&mut buffer).await;
        });
        let gateway = with(&url, "", ", responseForwarding: {flushInterval: 20ms}", "").await;
        let (mut read, mut write) = gateway.connect().await.into_stream().into_split();
        let sending = tokio::spawn(async move {
            let request = head("POST", "/", &format!("Content-Length: {}", 32 * MIB));
            write.write_all(request.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; 32 * MIB]).await.unwrap();
            write
        });
        let mut came = read_head(&mut read).await;
        while !String::from_utf8_lossy(&came).contains("hello") {
            assert!(soon(read.read_buf(&mut came)).await.unwrap() > 0);
        }
        assert!(!sending.is_finished(), "there is more than all buffers hold");
        go.send(()).unwrap();
        let _write = soon(sending).await.unwrap();
        while !String::from_utf8_lossy(&came).contains("world") {
            assert!(soon(read.read_buf(&mut came)).await.unwrap() > 0);
        }
    }
}

/// A server that returns what it gets as it gets it: each piece comes back before the next is sent.
#[tokio::test]
async fn both_bodies_flow_at_once() {
    let head_of_answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for middlewares in WAYS {
        let server = Server::start(move |_| vec![send(head_of_answer), Step::Echo]).await;
        let gateway = before(&server.url(), middlewares).await;
        let mut peer = gateway.connect().await;
        peer.send(head("POST", "/", "Transfer-Encoding: chunked")).await;
        for turn in 0..20 {
            let piece = format!("piece {turn}");
            peer.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
            if turn == 0 {
                assert_eq!(peer.head().await.unwrap().status, 200);
            }
            // The server may have read a part of it first.
            let mut came = Vec::new();
            while came.len() < piece.len() {
                came.extend(peer.chunk().await.unwrap());
            }
            assert_eq!(came, piece.as_bytes(), "{middlewares}");
        }
        peer.send("0\r\n\r\n").await;
        assert_eq!(peer.chunk().await.unwrap(), b"");

        let server = Server::start(move |_| vec![send(head_of_answer), Step::Echo]).await;
        let gateway = before(&server.url(), middlewares).await;
        let request = Request::builder().method("POST").uri("http://a.test/").body(()).unwrap();
        let (response, mut outgoing) = h2(&gateway).await.send_request(request, false).unwrap();
        outgoing.send_data(Bytes::from_static(b"first"), false).unwrap();
        let mut incoming = soon(response).await.unwrap().into_body();
        for turn in 0..20 {
            if turn > 0 {
                outgoing.send_data(Bytes::from_static(b"first"), false).unwrap();
            }
            let mut came = Vec::new();
            while came.len() < 5 {
                came.extend(soon(incoming.data()).await.unwrap().unwrap());
            }
            assert_eq!(came, b"first");
        }
        outgoing.send_data(Bytes::new(), true).unwrap();
        assert!(soon(incoming.data()).await.is_none_or(|last| last.unwrap().is_empty()));
        assert!(incoming.is_end_stream());
    }
}

/// A client that sends everything before it reads anything, and a server that answers much before it has read everything.
#[tokio::test]
async fn who_does_not_read_may_still_send() {
    let (listener, url) = listener().await;
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let mut came = read_head(&mut read).await.len();
        let writing = tokio::spawn(async move {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 24 * MIB);
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'd'; 24 * MIB]).await.unwrap();
            write
        });
        let mut buffer = vec![0; 1 << 16];
        while came < 24 * MIB {
            let more = read.read(&mut buffer).await.unwrap();
            assert!(more > 0);
            came += more;
        }
        let _write = writing.await.unwrap();
        let _ = read.read(&mut buffer).await;
    });
    let gateway = before(&url, "").await;
    let mut peer = gateway.connect().await;
    peer.send(head("POST", "/", &format!("Content-Length: {}", 24 * MIB))).await;
    peer.send(vec![b'u'; 24 * MIB]).await;
    let got = peer.response_to("POST").await.unwrap();
    assert_eq!((got.status, got.body.len()), (200, 24 * MIB));
    assert!(peak(&gateway) < 90_000, "{} KiB", peak(&gateway));
    drop(gateway);
    soon(serving).await.unwrap();
}

/// A server that answers, and does not want the rest: the answer is whole all the same, also when the end comes as a reset.
#[tokio::test]
async fn a_server_that_hangs_up_after_its_answer_has_answered() {
    let early = "HTTP/1.1 413 X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
    for end in [Step::Close, Step::Reset] {
        let server = Server::start({
            let end = end.clone();
            move |_| vec![send(early), end.clone()]
        })
        .await;
        for middlewares in WAYS {
            let gateway = before(&server.url(), middlewares).await;
            for round in 0..10 {
                let mut peer = gateway.connect().await;
                let path = format!("/{round}");
                peer.send(head("POST", &path, "Content-Length: 3000000")).await;
                // With a reset the server's answer may be lost before the gateway has read it, if bytes are on their way.
                if matches!(end, Step::Close) {
                    peer.try_send(vec![b'x'; 3_000_000]).await;
                }
                let got = peer.response_to("POST").await.unwrap();
                assert_eq!((got.status, got.text()), (413, "large"), "{middlewares} {round}");
                drop(peer);
                let line = gateway.logged_path(&path).await;
                assert_eq!((&line["DownstreamStatus"], line.get("GatewayError")), (&413.into(), None), "{line}");
            }
            until(|| server.open() == 0).await;
        }
    }
}

/// The same, while the gateway writes to that server: what has come of the answer is read all the same.
#[tokio::test]
async fn a_reset_behind_an_answer_does_not_destroy_it() {
    for middlewares in WAYS {
        let (listener, url) = listener().await;
        let gateway = before(&url, middlewares).await;
        for round in 0..20 {
            let (mut read, mut write) = gateway.connect().await.into_stream().into_split();
            let sending = tokio::spawn(async move {
                let _ = write.write_all(head("POST", "/", "Content-Length: 30000000").as_bytes()).await;
                let _ = write.write_all(&vec![b'x'; 30_000_000]).await;
            });
            let (mut server, _) = soon(listener.accept()).await.unwrap();
            let mut request = read_head(&mut server).await;
            // Bytes are on their way, and more are waiting.
            while request.len() < 100_000 {
                soon(server.read_buf(&mut request)).await.unwrap();
            }
            let early = format!("HTTP/1.1 413 X\r\nContent-Length: 40000\r\n\r\n{}", "y".repeat(40_000));
            server.write_all(early.as_bytes()).await.unwrap();
            socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            drop(server);
            let mut came = read_head(&mut read).await;
            while came.len() < 40_000 {
                assert!(
                    soon(read.read_buf(&mut came)).await.unwrap() > 0,
                    "{middlewares} {round}: {} bytes",
                    came.len()
                );
            }
            sending.abort();
        }
    }
}

/// A server that breaks within the request makes a 502, and the client's connection goes on.
#[tokio::test]
async fn a_server_that_breaks_within_the_body_ends_the_request() {
    let server = Server::start(|it| match it.path() {
        "/next" => ok("next"),
        _ => vec![Step::WaitForTest, Step::Reset],
    })
    .await;
    let gateway = before(&server.url(), "").await;
    for (fields, first, rest) in [
        ("Content-Length: 10", "hello", "world"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "5\r\nworld\r\n0\r\n\r\n"),
    ] {
        let before = server.count();
        let mut peer = gateway.connect().await;
        peer.send(head("POST", "/", fields) + first).await;
        server.until_count(before + 1).await;
        server.go();
        let got = peer.response_to("POST").await.unwrap();
        assert_eq!((got.status, got.header("x-portcullis-error")), (502, Some("server-closed")), "{fields}");
        assert_eq!(server.count(), before + 1, "it is sent once");
        if fields.starts_with("Content") {
            peer.send(rest).await;
            assert_eq!(peer.get("/next", "").await.text(), "next");
        } else {
            assert_eq!(peer.end().await, End::Closed);
        }
    }
}

/// A client that leaves within its body, or sends nonsense, ends the server's connection: what it got is no whole request.
#[tokio::test]
async fn what_breaks_off_is_no_request() {
    let server = Server::start(|it| match it.path() {
        "/next" => ok("next"),
        _ => vec![Step::ReadBody, Step::Send(b"never".to_vec())],
    })
    .await;
    for middlewares in WAYS {
        let gateway = before(&server.url(), middlewares).await;
        for (number, (fields, first, more, status, fault)) in [
            ("Content-Length: 10", "hello", "", 499, "client-gone"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "", 499, "client-gone"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "x\r\n", 400, "bad-request"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "5\r\nhelloworld", 400, "bad-request"),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(gateway.connect().await.get("/next", "").await.text(), "next");
            let (before, path) = (server.count(), format!("/{number}"));
            let mut peer = gateway.connect().await;
            peer.send(head("POST", &path, fields) + first).await;
            server.until_count(before + 1).await;
            if more.is_empty() {
                drop(peer);
            } else {
                peer.send(more).await;
                let got = peer.response_to("POST").await.unwrap();
                assert_eq!((got.status, got.header("x-portcullis-error")), (status, Some(fault)));
                assert_eq!(peer.end().await, End::Closed);
            }
            let line = gateway.logged_path(&path).await;
            assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&status.into(), &fault.into()), "{line}");
            until(|| server.open() == 0).await;
            assert!(!server.last().whole, "{fields}");
        }
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// A client that has its whole answer and leaves without sending the rest is no failure, but what the server got is no request.
#[tokio::test]
async fn who_leaves_with_the_answer_has_been_served() {
    let early = "HTTP/1.1 401 X\r\nContent-Length: 2\r\n\r\nno";
    let server = Server::start(move |_| vec![send(early), Step::ReadBody]).await;
    let gateway = Gateway::setup()
        .flag("entryPoints.inside.address=127.0.0.1:0")
        .flag("metrics.prometheus.entryPoint=inside")
        .dynamic(format!(
            "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
             services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
            server.url()
        ))
        .start()
        .await;
    for (path, fields, part) in
        [("/a", "Content-Length: 10", "hello"), ("/b", "Transfer-Encoding: chunked", "5\r\nhello\r\n")]
    {
        let mut peer = gateway.connect().await;
        peer.send(head("POST", path, fields) + part).await;
        assert_eq!(peer.response_to("POST").await.unwrap().text(), "no");
        drop(peer);
        let line = gateway.logged_path(path).await;
        assert_eq!((&line["DownstreamStatus"], line.get("GatewayError")), (&401.into(), None), "{line}");
        until(|| server.open() == 0).await;
        assert!(!server.last().whole);
    }
    let page = Peer::connect(gateway.address_of("inside")).await.get("/metrics", "").await;
    assert!(page.text().contains("_requests_total"));
    let errors = page.text().lines().filter(|line| line.starts_with("portcullis_gateway_errors_total{"));
    assert!(errors.clone().all(|line| line.ends_with(" 0")), "{:?}", errors.collect::<Vec<_>>());
}

/// A server that takes nothing for long costs no memory, and gets all of it in the end.
#[tokio::test]
async fn slow_servers_hold_the_client_back() {
    const SIZE: usize = 50_000_000;
    for fields in [format!("Content-Length: {SIZE}"), "Transfer-Encoding: chunked".to_owned()] {
        let (listener, url) = listener().await;
        let (go, may_go) = tokio::sync::oneshot::channel();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = read_head(&mut stream).await;
            may_go.await.unwrap();
            let (mut bytes, mut count) = (vec![0; 1 << 16], 0);
            // The chunked coding is followed elsewhere: here its payload is counted.
            while count < SIZE {
                count += read.iter().filter(|byte| **byte == b'x').count();
                if count < SIZE {
                    let more = soon(stream.read(&mut bytes)).await.unwrap();
                    assert!(more > 0, "{count}");
                    read = bytes[..more].to_vec();
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            let _ = stream.read(&mut bytes).await;
        });
        let gateway = before(&url, "").await;
        let before = peak(&gateway);
        let mut peer = gateway.connect().await;
        let is_chunked = fields.starts_with("Transfer");
        peer.send(head("POST", "/", &fields)).await;
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let sending = tokio::spawn(async move {
            let piece = vec![b'x'; 50_000];
            for _ in 0..SIZE / piece.len() {
                if is_chunked {
                    peer.send(format!("{:x}\r\n", piece.len())).await;
                }
                tokio::time::timeout(PATIENCE * 3, async {
                    for part in piece.chunks(10_000) {
                        peer.send(part).await;
                    }
                })
                .await
                .unwrap();
                if is_chunked {
                    peer.send("\r\n").await;
                }
                counter.fetch_add(piece.len(), Ordering::SeqCst);
            }
            if is_chunked {
                peer.send("0\r\n\r\n").await;
            }
            peer
        });
        // Until nothing moves any more.
        let mut last = (0, Instant::now());
        soon(async {
            while last.1.elapsed() < Duration::from_millis(500) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let now = sent.load(Ordering::SeqCst);
                if now != last.0 {
                    last = (now, Instant::now());
                }
            }
        })
        .await;
        assert!(last.0 < SIZE / 2, "{} bytes went nowhere", last.0);
        go.send(()).unwrap();
        let mut peer = soon(sending).await.unwrap();
        assert_eq!(peer.response_to("POST").await.unwrap().status, 200);
        assert!(peak(&gateway) < before + 20_000, "{before} KiB before, {} KiB at its peak", peak(&gateway));
        drop((peer, gateway));
        soon(serving).await.unwrap();
    }
}

/// `responseHeaderTimeout` is the wait for the answer's head once the request is sent: a slow upload is not cut, a silent server
/// is, and an answer may pause.
#[tokio::test]
async fn servers_are_waited_for_once_they_have_the_request() {
    let pause = Duration::from_millis(500);
    let server = Server::start(move |it| match it.path() {
        "/silent" => vec![Step::ReadBody, Step::Hang],
        "/pausing" => vec![
            Step::ReadBody,
            send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
            Step::Wait(pause),
            send("world"),
        ],
        _ => ok("fine"),
    })
    .await;
    for middlewares in WAYS {
        let gateway = with(&server.url(), middlewares, "", "responseHeaderTimeout: 200ms").await;
        let mut peer = gateway.connect().await;
        peer.send(head("POST", "/slow", "Content-Length: 4")).await;
        for byte in ["a", "b", "c", "d"] {
            tokio::time::sleep(Duration::from_millis(150)).await;
            peer.send(byte).await;
        }
        assert_eq!(peer.answer().await.text(), "fine", "{middlewares}");
        peer.send(head("POST", "/pausing", "Content-Length: 2") + "hi").await;
        assert_eq!(peer.answer().await.text(), "helloworld", "{middlewares}");
        let started = Instant::now();
        peer.send(head("POST", "/silent", "Transfer-Encoding: chunked") + "2\r\nhi\r\n0\r\n\r\n").await;
        let got = peer.answer().await;
        assert_eq!((got.status, got.header("x-portcullis-error")), (504, Some("server-timeout")), "{middlewares}");
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    }
}

/// `responseForwarding.flushInterval` acts for them as for others.
#[tokio::test]
async fn parts_of_answers_wait_for_each_other() {
    let pause = Duration::from_millis(100);
    let start = || {
        Server::start(move |_| {
            let first = send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            vec![Step::ReadBody, first, Step::Wait(pause), send("world"), Step::WaitForTest]
        })
    };
    for (interval, waits) in [("1h", true), ("-1ms", false)] {
        let server = start().await;
        let forwarding = format!(", responseForwarding: {{flushInterval: {interval}}}");
        let gateway = with(&server.url(), "", &forwarding, "").await;
        let mut peer = gateway.connect().await;
        let started = Instant::now();
        peer.send(head("POST", "/", "Content-Length: 2") + "hi").await;
        assert_eq!(peer.head().await.unwrap().status, 200);
        assert_eq!(started.elapsed() >= pause, waits, "{interval}: {:?}", started.elapsed());
        assert_eq!(peer.bytes(10).await, b"helloworld");
        server.go();
    }
}

/// HTTP/2 clients: a length that they name is the server's, others are chunked, and a wrong one is no request.
#[tokio::test]
async fn http2_bodies_are_framed_for_http1() {
    let server = Server::start(|_| ok("fine")).await;
    for middlewares in WAYS {
        let gateway = before(&server.url(), middlewares).await;
        let client = h2(&gateway).await;
        let post = |length: Option<&str>| {
            let mut request = Request::builder().method("POST").uri("http://a.test/");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            request.body(()).unwrap()
        };
        for (length, trailers) in [(Some("10"), false), (None, false), (None, true), (Some("10"), true)] {
            let mut client = soon(client.clone().ready()).await.unwrap();
            let (response, mut body) = client.send_request(post(length), false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), false).unwrap();
            tokio::task::yield_now().await;
            body.send_data(Bytes::from_static(b"world"), !trailers).unwrap();
            if trailers {
                body.send_trailers([("x-trailer".parse().unwrap(), "x".parse().unwrap())].into_iter().collect())
                    .unwrap();
            }
            assert_eq!(soon(response).await.unwrap().status(), 200, "{length:?} {trailers}");
            let last = server.last();
            let coding = if length.is_some() { None } else { Some("chunked") };
            assert_eq!(last.header("content-length"), length);
            assert_eq!(
                (last.header("transfer-encoding"), last.text(), last.trailers.as_str()),
                (coding, "helloworld", "")
            );
        }
        // Ends without a byte, behind the head.
        let mut ready = soon(client.clone().ready()).await.unwrap();
        let (response, mut body) = ready.send_request(post(None), false).unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), 200);
        assert!(
            server.last().whole && server.last().body.is_empty() || server.last().header("content-length") == Some("0")
        );
        for (length, ends) in [("4", true), ("9", true), ("4", false)] {
            let mut ready = soon(client.clone().ready()).await.unwrap();
            let (response, mut body) = ready.send_request(post(Some(length)), false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), ends).unwrap();
            assert!(soon(response).await.is_err(), "{length}");
        }
        assert!(server.received().iter().filter(|it| it.whole && !it.body.is_empty()).all(|it| it.body.len() == 10));
        let mut h1 = gateway.connect().await;
        assert_eq!(h1.get("/next", "").await.text(), "fine");
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// A server that had closed its idle connection: what may be repeated and is still in memory goes out again; all else is sent once.
#[tokio::test]
async fn a_lost_idle_connection_is_made_up_for_if_the_body_is_there() {
    for (method, length, status) in [("PUT", 10, 200), ("PUT", 60_000, 200), ("POST", 10, 502), ("PUT", 300_000, 502)] {
        for is_chunked in [false, true] {
            let server = Server::start(|it| match (it.connection, it.turn) {
                (0, 0) => ok("first"),
                (0, _) => vec![Step::ReadBody, Step::Close],
                _ => answer(200, "", "again"),
            })
            .await;
            let gateway = before(&server.url(), "").await;
            let mut peer = gateway.connect().await;
            assert_eq!(peer.get("/", "").await.text(), "first");
            let body = "x".repeat(length);
            let request = if is_chunked {
                head(method, "/", "Transfer-Encoding: chunked") + &format!("{length:x}\r\n{body}\r\n0\r\n\r\n")
            } else {
                head(method, "/", &format!("Content-Length: {length}")) + &body
            };
            peer.send(request).await;
            let got = peer.response_to(method).await.unwrap();
            assert_eq!(got.status, status, "{method} {length} {is_chunked}");
            let attempts = server.received().iter().filter(|it| it.method() == method).count();
            assert_eq!(attempts, if status == 200 { 2 } else { 1 }, "{method} {length} {is_chunked}");
            assert!(server.received()[1..].iter().all(|it| it.body == body.as_bytes()));
        }
    }
}

/// RFC 9112 §9.6.
#[tokio::test]
async fn a_client_that_only_ends_its_sending_half_gets_its_answer() {
    let server = Server::echo().await;
    let gateway = before(&server.url(), "").await;
    for fields in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let body = if fields.starts_with("Content") { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" };
        let mut peer: Peer = gateway.connect().await;
        peer.send(head("POST", "/", fields) + body).await;
        peer.half_close().await;
        assert_eq!(peer.answer().await.status, 200);
        assert_eq!(peer.end().await, End::Closed);
    }
}

/// TLS on both sides: what is written goes out of every layer, piece by piece and in bulk.
#[tokio::test]
async fn both_bodies_flow_at_once_over_tls() {
    let head_of_answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let server = Server::start(move |_| vec![send(head_of_answer), Step::Echo]).await;
    let authority = Authority::new();
    let pair = authority.certify(&["a.test"]);
    let certificate = format!("{{certFile: {}, keyFile: {}}}", quoted(&pair.certificate), quoted(&pair.key));
    let before = |url: String| {
        Gateway::with(format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{url}'}}], serversTransport: t}}}}
  serversTransports:
    t: {{serverName: a.test, rootCAs: [{}]}}
tls:
  certificates: [{certificate}]
",
            quoted(&authority.certificate)
        ))
    };
    let inner = before(server.url()).await;
    let outer = before(format!("https://{}", inner.address())).await;
    let client = Arc::new(authority.client(&["http/1.1"], None));
    let stream = shake_hands(&client, outer.address(), "a.test").await.unwrap();
    let mut peer = Peer::of(stream);
    peer.send(head("POST", "/", "Transfer-Encoding: chunked") + "5\r\nfirst\r\n").await;
    assert_eq!(peer.head().await.unwrap().status, 200);
    // The server may have read a part of it first, and then it comes back as two chunks.
    let mut first = Vec::new();
    while first.len() < 5 {
        first.extend(peer.chunk().await.unwrap());
    }
    assert_eq!(first, b"first");
    let (mut read, mut write) = tokio::io::split(peer.into_stream());
    let mut came = Vec::new();
    let sending = tokio::spawn(async move {
        for _ in 0..50 {
            write.write_all(&[b"186a0\r\n", &[b'x'; 100_000][..], b"\r\n"].concat()).await.unwrap();
        }
        write.write_all(b"0\r\n\r\n").await.unwrap();
        // Otherwise what the socket has no room for stays in the client's own layer of TLS.
        write.flush().await.unwrap();
        write
    });
    while !came.ends_with(b"\r\n0\r\n\r\n") {
        assert!(soon(read.read_buf(&mut came)).await.unwrap() > 0);
    }
    let _write = sending.await.unwrap();
    assert_eq!(came.iter().filter(|byte| **byte == b'x').count(), 5_000_000);
}
