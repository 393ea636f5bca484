//! Where requests go: shares, stickiness, health, second attempts; and what passes on the way there and back.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Answer, PATIENCE, Peer, soon, until};
use crate::harness::server::{Server, Step, answer, ok, raw};

/// A gateway with one router for everything, whose service and middlewares are these (YAML below `loadBalancer:` and
/// `middlewares:` in flow style).
async fn gateway(balancer: &str, middlewares: &str) -> Gateway {
    Gateway::with(configuration(balancer, middlewares)).await
}

fn configuration(balancer: &str, middlewares: &str) -> String {
    let names: Vec<&str> =
        middlewares.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, _)| name).collect();
    let list = names.join(", ");
    let middlewares = if names.is_empty() { String::new() } else { format!("  middlewares:\n{middlewares}\n") };
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: all, middlewares: [{list}]}}
{middlewares}  services:
    all: {{loadBalancer: {{{balancer}}}}}
"
    )
}

/// `servers: [...]` of these.
fn servers(servers: &[&Server]) -> String {
    let list: Vec<String> = servers.iter().map(|server| format!("{{url: '{}'}}", server.url())).collect();
    format!("servers: [{}]", list.join(", "))
}

/// A port of the loopback where nobody listens.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// How often each text comes back.
async fn shares(gateway: &Gateway, requests: usize, fields: &str) -> BTreeMap<String, usize> {
    let mut peer = gateway.connect().await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(peer.get("/", fields).await.text().to_owned()).or_default() += 1;
    }
    counts
}

fn counted(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect()
}

#[tokio::test]
async fn weights_are_exact() {
    let (a, b, c) = (Server::says("a").await, Server::says("b").await, Server::says("c").await);
    let list = format!(
        "servers: [{{url: '{}', weight: 5}}, {{url: '{}', weight: 1}}, {{url: '{}', weight: 0}}]",
        a.url(),
        b.url(),
        c.url()
    );
    let gateway = gateway(&list, "").await;
    assert_eq!(shares(&gateway, 60, "").await, counted(&[("a", 50), ("b", 10)]));
    assert_eq!(c.connections(), 0);
}

#[tokio::test]
async fn a_canary_gets_its_tenth() {
    let (stable, canary) = (Server::says("stable").await, Server::says("canary").await);
    let gateway = Gateway::with(format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: both}}
  services:
    both: {{weighted: {{services: [{{name: stable, weight: 90}}, {{name: canary, weight: 10}}]}}}}
    stable: {{loadBalancer: {{{}}}}}
    canary: {{loadBalancer: {{{}}}}}
",
        servers(&[&stable]),
        servers(&[&canary])
    ))
    .await;
    assert_eq!(shares(&gateway, 100, "").await, counted(&[("stable", 90), ("canary", 10)]));
}

#[tokio::test]
async fn a_cookie_keeps_a_client_with_its_server() {
    let (a, b) = (Server::says("a").await, Server::says("b").await);
    let sticky = "sticky: {cookie: {name: lb, secure: true, httpOnly: true, sameSite: strict, maxAge: 60}}";
    let gateway = gateway(&format!("{}, {sticky}", servers(&[&a, &b])), "").await;
    let mut peer = gateway.connect().await;
    for _ in 0..3 {
        let first = peer.get("/", "").await;
        let set = first.header("set-cookie").expect("a cookie").to_owned();
        let lowered = set.to_lowercase();
        for part in ["lb=", "secure", "httponly", "samesite=strict", "max-age=60", "path=/"] {
            assert!(lowered.contains(part), "{part} in {set}");
        }
        let cookie = set.split(';').next().unwrap();
        let fields = format!("Cookie: other=1; {cookie}\r\n");
        for _ in 0..4 {
            let answer = peer.get("/", &fields).await;
            assert_eq!((answer.text(), answer.header("set-cookie")), (first.text(), None));
        }
    }
    assert!(a.count() > 0 && b.count() > 0, "new clients are spread");
    let stranger = peer.get("/", "Cookie: lb=made-up\r\n").await;
    assert!(stranger.header("set-cookie").is_some(), "an unknown value is replaced");
}

#[tokio::test]
async fn every_strategy_uses_every_server() {
    let (a, b) = (Server::says("a").await, Server::says("b").await);
    for strategy in ["wrr", "p2c", "hrw", "leasttime", "random", "ketama", "drr"] {
        let gateway = gateway(&format!("{}, strategy: {strategy}", servers(&[&a, &b])), "").await;
        let mut seen = BTreeMap::<String, usize>::new();
        for client in 1..60 {
            let mut peer = Peer::connect_from([127, 0, client, 1], gateway.address()).await;
            let answer = peer.get("/", "").await;
            assert_eq!(answer.status, 200, "{strategy}");
            *seen.entry(answer.text().to_owned()).or_default() += 1;
        }
        assert_eq!(seen.len(), 2, "{strategy}: {seen:?}");
    }
}

/// A server whose `/health` the test switches, and that counts the other requests.
async fn patient() -> (Server, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (health, count) = (well.clone(), asked.clone());
    let server = Server::start(move |received| {
        if received.path() == "/health" {
            return answer(if health.load(Ordering::SeqCst) { 200 } else { 500 }, "", "");
        }
        count.fetch_add(1, Ordering::SeqCst);
        ok("patient")
    })
    .await;
    (server, well, asked)
}

/// Waits until the API says this of the server.
async fn until_state(gateway: &Gateway, server: &Server, state: &str) {
    let by = Instant::now() + PATIENCE;
    let mut api = Peer::connect(gateway.address_of("traefik")).await;
    loop {
        let service: serde_json::Value =
            serde_json::from_slice(&api.get("/api/http/services/all@file", "").await.body).unwrap();
        if service["serverStatus"][server.url()] == state {
            return;
        }
        assert!(Instant::now() < by, "{} is not {state}: {service}", server.url());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn unhealthy_servers_are_left_alone_until_they_recover() {
    let (sick, well, asked) = patient().await;
    let fine = Server::says("fine").await;
    let check = "healthCheck: {path: /health, interval: 20ms, timeout: 1s}";
    let gateway = Gateway::setup()
        .entry_point("traefik")
        .flag("api.insecure=true")
        .dynamic(configuration(&format!("{}, {check}", servers(&[&sick, &fine])), ""))
        .start()
        .await;
    assert_eq!(shares(&gateway, 10, "").await, counted(&[("patient", 5), ("fine", 5)]));
    well.store(false, Ordering::SeqCst);
    until_state(&gateway, &sick, "DOWN").await;
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(shares(&gateway, 10, "").await, counted(&[("fine", 10)]));
    assert_eq!(asked.load(Ordering::SeqCst), before);
    well.store(true, Ordering::SeqCst);
    until_state(&gateway, &sick, "UP").await;
    assert_eq!(shares(&gateway, 10, "").await, counted(&[("patient", 5), ("fine", 5)]));
}

#[tokio::test]
async fn health_is_also_a_connection() {
    let fine = Server::says("fine").await;
    let gone = refusing();
    let list = format!("servers: [{{url: '{}'}}, {{url: '{gone}'}}]", fine.url());
    let gateway = gateway(&format!("{list}, healthCheck: {{mode: tcp, interval: 20ms, timeout: 1s}}"), "").await;
    let by = Instant::now() + PATIENCE;
    let mut peer = gateway.connect().await;
    let mut good = 0;
    while good < 6 {
        good = if peer.get("/", "").await.status == 200 { good + 1 } else { 0 };
        assert!(Instant::now() < by, "the server that is gone still gets requests");
    }
}

#[tokio::test]
async fn failures_take_a_server_out_for_a_while() {
    let failing = Server::start(|_| answer(500, "", "failing")).await;
    let fine = Server::says("fine").await;
    let passive = "passiveHealthCheck: {failureWindow: 10s, maxFailedAttempts: 2}";
    let gateway = gateway(&format!("{}, {passive}", servers(&[&failing, &fine])), "").await;
    assert_eq!(shares(&gateway, 20, "").await, counted(&[("failing", 2), ("fine", 18)]));
}

#[tokio::test]
async fn names_are_looked_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let host = String::from_utf8_lossy(&head[..read]).to_lowercase();
            let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
            let _ = stream
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{host}", host.len())
                        .as_bytes(),
                )
                .await;
        }
    });
    let list = format!("servers: [{{url: 'http://localhost:{port}'}}]");
    assert_eq!(gateway(&list, "").await.connect().await.get("/", "").await.text(), "a.test");
    let own = gateway(&format!("{list}, passHostHeader: false"), "").await;
    assert_eq!(own.connect().await.get("/", "").await.text(), format!("localhost:{port}"));
    let nowhere = gateway("servers: [{url: 'http://no-such-name.invalid:80'}]", "").await;
    let answer = nowhere.connect().await.get("/", "").await;
    assert!(matches!(answer.status, 502 | 503), "{}", answer.head);
}

#[tokio::test]
async fn a_refusal_is_tried_at_another_server() {
    let fine = Server::echo().await;
    let list = format!("servers: [{{url: '{}'}}, {{url: '{}'}}, {{url: '{}'}}]", refusing(), refusing(), fine.url());
    let gateway = gateway(&list, "    again: {retry: {attempts: 3}}").await;
    let mut peer = gateway.connect().await;
    for _ in 0..6 {
        assert_eq!(peer.get("/get", "").await.status, 200);
        // The server has seen nothing of it: it is safe even for POST.
        let answer = peer.request("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(answer.status, 200);
        assert_eq!(fine.last().text(), "hello");
    }
    let line = gateway.logged(|line| line["RetryAttempts"] == 2).await;
    assert_eq!(line["DownstreamStatus"], 200);
    assert_eq!(line["ServiceURL"], fine.url());
    assert_eq!(line["GatewayError"], serde_json::Value::Null);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let broken = Server::start(|_| vec![Step::ReadBody, Step::Reset]).await;
    let failing = Server::start(|_| answer(503, "", "no")).await;
    for (server, status) in [(&broken, 502), (&failing, 503)] {
        let again = "    again: {retry: {attempts: 4, status: ['503']}}";
        let gateway = gateway(&servers(&[server]), again).await;
        let mut peer = gateway.connect().await;
        for (method, attempts) in [("POST", 1), ("PATCH", 1), ("LOCK", 1), ("PUT", 4), ("DELETE", 4), ("GET", 4)] {
            let before = server.count();
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(peer.request(&request).await.status, status, "{method}");
            assert_eq!(server.count() - before, attempts, "{method} {status}");
        }
    }
    // Unless its author knows better.
    let anyway = "    again: {retry: {attempts: 2, status: ['503'], retryNonIdempotentMethod: true}}";
    let gateway = gateway(&servers(&[&failing]), anyway).await;
    let before = failing.count();
    gateway.connect().await.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(failing.count() - before, 2);
}

#[tokio::test]
async fn answers_are_tried_again_with_a_growing_pause() {
    let failing = Server::start(|_| answer(503, "", "no")).await;
    let fine = Server::says("fine").await;
    let again = "    again: {retry: {attempts: 2, status: ['500-503']}}";
    let one_of_two = gateway(&servers(&[&failing, &fine]), again).await;
    assert_eq!(shares(&one_of_two, 10, "").await, counted(&[("fine", 10)]));
    let slowly = "    again: {retry: {attempts: 3, initialInterval: 40ms, status: ['503']}}";
    let gateway = gateway(&servers(&[&failing]), slowly).await;
    let started = Instant::now();
    let answer = gateway.connect().await.get("/", "").await;
    // The last answer is the client's.
    assert_eq!((answer.status, answer.text()), (503, "no"));
    assert!(started.elapsed() >= Duration::from_millis(80), "{:?}", started.elapsed());
}

#[tokio::test]
async fn bodies_that_are_not_kept_are_sent_once() {
    let failing = Server::start(|_| answer(503, "", "no")).await;
    let again = "    again: {retry: {attempts: 2, status: ['503'], maxRequestBodyBytes: 10}}";
    let gateway = gateway(&servers(&[&failing]), again).await;
    let mut peer = gateway.connect().await;
    for (length, attempts) in [(10, 2), (11, 1)] {
        let before = failing.count();
        let body = "x".repeat(length);
        peer.request(&format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        assert_eq!(failing.count() - before, attempts, "{length} bytes");
    }
    let line = gateway.logged(|line| line["RequestContentSize"] == 10).await;
    assert_eq!(line["RetryAttempts"], 1);
}

#[tokio::test]
async fn servers_that_are_silent_are_given_up() {
    let silent = Server::start(|_| vec![Step::ReadBody, Step::Hang]).await;
    let gateway = Gateway::with(
        configuration(&format!("{}, serversTransport: hasty", servers(&[&silent])), "")
            + "  serversTransports:\n    hasty: {forwardingTimeouts: {responseHeaderTimeout: 50ms}}\n",
    )
    .await;
    let answer = gateway.connect().await.get("/", "").await;
    assert_eq!((answer.status, answer.header("x-portcullis-error")), (504, Some("server-timeout")));
}

#[tokio::test]
async fn websockets_pass_and_may_be_silent() {
    let echo = Server::start(|_| {
        vec![
            Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_vec()),
            Step::Echo,
        ]
    })
    .await;
    let gateway = Gateway::setup()
        .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=100ms")
        .flag("entryPoints.web.transport.respondingTimeouts.idleTimeout=100ms")
        .dynamic(configuration(&servers(&[&echo]), ""))
        .start()
        .await;
    let mut peer = websocket(&gateway).await;
    assert_eq!(echo.last().header("upgrade"), Some("websocket"));
    assert_eq!(echo.last().header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    for size in [1, 5000, 200_000] {
        peer.send(vec![b'w'; size]).await;
        assert_eq!(peer.bytes(size).await, vec![b'w'; size]);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    peer.send("still there?").await;
    assert_eq!(peer.bytes(12).await, b"still there?");
    drop(peer);
    until(|| echo.open() == 0).await;
}

/// A WebSocket through `web`.
async fn websocket(gateway: &Gateway) -> Peer {
    let mut peer = gateway.connect().await;
    peer.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let answer = peer.response_to("GET").await.expect("an answer");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")), "{}", answer.head);
    peer
}

/// A server that sends an event each time that the test says so.
pub(crate) async fn events() -> Server {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    Server::start(move |_| {
        vec![
            Step::Send(head.into()),
            Step::WaitForTest,
            Step::Send(b"9\r\ndata: 1\n\n\r\n".to_vec()),
            Step::WaitForTest,
            Step::Send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n".to_vec()),
        ]
    })
    .await
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let events = events().await;
    let gateway = gateway(&servers(&[&events]), "").await;
    let mut peer = gateway.connect().await;
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(peer.head().await.unwrap().status, 200);
    for number in 1..=2 {
        events.go();
        let expected = format!("9\r\ndata: {number}\n\n\r\n");
        assert_eq!(peer.bytes(expected.len()).await, expected.as_bytes());
    }
}

#[tokio::test]
async fn compression_does_not_hold_events_back() {
    let events = events().await;
    let gateway = gateway(&servers(&[&events]), "    small: {compress: {}}").await;
    let mut peer = gateway.connect().await;
    peer.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert_eq!(peer.head().await.unwrap().header("content-encoding"), Some("gzip"));
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    for number in 1..=2 {
        events.go();
        let expected: String = (1..=number).map(|number| format!("data: {number}\n\n")).collect();
        while decoder.get_ref() != expected.as_bytes() {
            let chunk = peer.chunk().await.expect("a chunk");
            decoder.write_all(&chunk).unwrap();
            decoder.flush().unwrap();
        }
    }
}

#[tokio::test]
async fn answers_are_compressed_as_clients_can_read() {
    let text: String = (0..2000).map(|line| format!("line {line}\n")).collect();
    let body = text.clone();
    let server = Server::start(move |_| answer(200, "Content-Type: text/plain\r\nETag: \"1\"\r\n", &body)).await;
    let gateway = gateway(&servers(&[&server]), "    small: {compress: {}}").await;
    let mut peer = gateway.connect().await;
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("br", Some("br")),
        ("zstd", Some("zstd")),
        ("gzip;q=0.1, br;q=0.9", Some("br")),
        ("identity", None),
        ("", None),
    ] {
        let answer = peer.get("/", &format!("Accept-Encoding: {accept}\r\n")).await;
        assert_eq!(answer.header("content-encoding"), coding, "{accept}: {}", answer.head);
        assert_eq!(decoded(&answer), text, "{accept}");
        if coding.is_some() {
            assert!(answer.body.len() < text.len() / 2);
            assert!(answer.header("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("accept-encoding")));
        }
    }
    // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    for connection in ["", "Connection: keep-alive\r\n"] {
        let request = format!("GET / HTTP/1.0\r\n{connection}Accept-Encoding: gzip\r\n\r\n");
        let answer = gateway.connect().await.request(&request).await;
        assert_eq!((answer.header("content-encoding"), answer.header("transfer-encoding")), (Some("gzip"), None));
        assert_eq!(decoded(&answer), text, "{connection}");
    }
    // A client that is not of ours.
    let Some(curl) = installed("curl") else { return };
    let url = format!("http://{}/", gateway.address());
    let output = tokio::process::Command::new(curl).args(["-sS", "--compressed", &url]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
}

fn decoded(answer: &Answer) -> String {
    let mut text = String::new();
    match answer.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(&*answer.body).read_to_string(&mut text).unwrap(),
        Some("br") => brotli_text(&answer.body, &mut text),
        Some("zstd") => zstd::Decoder::new(&*answer.body).unwrap().read_to_string(&mut text).unwrap(),
        _ => answer.text().read_to_string_into(&mut text),
    };
    text
}

fn brotli_text(bytes: &[u8], text: &mut String) -> usize {
    brotli::Decompressor::new(bytes, 4096).read_to_string(text).unwrap()
}

trait Plain {
    fn read_to_string_into(&self, text: &mut String) -> usize;
}

impl Plain for str {
    fn read_to_string_into(&self, text: &mut String) -> usize {
        text.push_str(self);
        self.len()
    }
}

/// A program of the system; `None`, with a word, if it is not there. On CI it has to be.
fn installed(name: &str) -> Option<&str> {
    let there = std::process::Command::new(name).arg("--version").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "{name} is not installed");
    if !there {
        eprintln!("skipped: {name} is not installed");
    }
    there.then_some(name)
}

#[tokio::test]
async fn clients_that_ask_first_are_told_to_go_on() {
    let server = Server::echo().await;
    let gateway = gateway(&servers(&[&server]), "").await;
    let mut peer = gateway.connect().await;
    for _ in 0..2 {
        peer.send("PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
        assert_eq!(peer.head().await.unwrap().status, 100);
        peer.send("hello").await;
        assert_eq!(peer.response_to("PUT").await.unwrap().status, 200);
        assert_eq!(server.last().text(), "hello");
    }
}

#[tokio::test]
async fn heads_have_no_bodies() {
    let server = Server::start(|received| {
        if received.method() == "HEAD" {
            return raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n");
        }
        match received.path() {
            "/204" => raw("HTTP/1.1 204 No Content\r\n\r\n"),
            "/304" => raw("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
            _ => ok("body"),
        }
    })
    .await;
    let gateway = gateway(&servers(&[&server]), "").await;
    let mut peer = gateway.connect().await;
    for _ in 0..3 {
        let head = peer.request("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(
            (head.status, head.header("content-length"), head.header("etag")),
            (200, Some("1000"), Some("\"x\""))
        );
        for (path, status) in [("/204", 204), ("/304", 304)] {
            assert_eq!(peer.get(path, "").await.status, status);
        }
        assert_eq!(peer.get("/", "").await.text(), "body");
    }
    assert_eq!(server.connections(), 1, "connections are kept");
}

/// 100 MB up and down; neither side may be asked to hold it.
#[tokio::test]
async fn large_bodies_flow() {
    const SIZE: usize = 100_000_000;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
        let mut head_ends = None;
        // The body of the upload, counted.
        while head_ends.is_none_or(|end: usize| read < end + SIZE) {
            let more = stream.read(&mut buffer).await.unwrap();
            assert!(more > 0);
            if head_ends.is_none() {
                let end = buffer[..more].windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a short head");
                head_ends = Some(read + end + 4);
            }
            read += more;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
        let chunk = vec![b'd'; 1 << 16];
        let mut left = SIZE;
        while left > 0 {
            let now = left.min(chunk.len());
            stream.write_all(&chunk[..now]).await.unwrap();
            left -= now;
        }
        let _ = stream.read(&mut buffer).await;
    });
    let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "").await;
    let mut stream = gateway.connect().await.into_stream();
    stream.write_all(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
    let chunk = vec![b'u'; 1 << 16];
    let mut left = SIZE;
    while left > 0 {
        let now = left.min(chunk.len());
        stream.write_all(&chunk[..now]).await.unwrap();
        left -= now;
    }
    let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
    while read < SIZE {
        let more = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(more > 0, "it ended after {read} bytes");
        read += more;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let peak: usize = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    assert!(peak < 90_000, "{peak} kB at its peak");
}

/// `h2c://`: HTTP/2 without TLS, to a server of another make.
#[tokio::test]
async fn servers_may_speak_http2() {
    let Some(nginx) = installed_nginx() else { return };
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let path = folder.path();
    std::fs::write(
        path.join("nginx.conf"),
        format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; worker_processes 1;
             events {{ worker_connections 64; }}
             http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/f;
                     uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
                     server {{ listen {address} http2; return 200 \"$server_protocol $request_method $host\"; }} }}",
            path.display()
        ),
    )
    .unwrap();
    let mut child = tokio::process::Command::new(nginx)
        .args(["-p", path.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let by = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < by && child.try_wait().unwrap().is_none(), "nginx does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gateway = gateway(&format!("servers: [{{url: 'h2c://{address}'}}]"), "").await;
    let mut peer = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(peer.get("/", "").await.text(), "HTTP/2.0 GET a.test");
    }
    let line = gateway.logged_path("/").await;
    assert_eq!(line["OriginStatus"], 200);
    let _ = child.kill().await;
}

fn installed_nginx() -> Option<&'static str> {
    ["/usr/sbin/nginx", "nginx"]
        .into_iter()
        .find(|name| std::process::Command::new(name).arg("-v").output().is_ok())
        .or_else(|| {
            assert!(std::env::var_os("CI").is_none(), "nginx is not installed");
            eprintln!("skipped: nginx is not installed");
            None
        })
}

#[tokio::test]
async fn many_clients_at_once_get_their_own_answers() {
    let server = Server::echo().await;
    let gateway = gateway(&servers(&[&server]), "").await;
    join_all((0..50).map(|client| {
        let gateway = &gateway;
        async move {
            let mut peer = gateway.connect().await;
            for turn in 0..10 {
                let answer = peer.get(&format!("/{client}/{turn}"), "").await;
                assert_eq!(answer.text(), format!("GET /{client}/{turn} HTTP/1.1"));
            }
        }
    }))
    .await;
    assert_eq!(server.count(), 500);
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// A server that closes an idle connection just as a request comes on it is not a broken one.
#[tokio::test]
async fn closed_idle_connections_say_nothing_of_a_servers_health() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        1 => vec![Step::Close],
        _ => ok("fine"),
    })
    .await;
    let gateway = gateway(&format!("{}, passiveHealthCheck: {{}}", servers(&[&server])), "").await;
    let mut peer = gateway.connect().await;
    for turn in 0..4 {
        assert_eq!(peer.get("/", "").await.status, 200, "turn {turn}");
    }
}

/// A server that pauses within an answer of known length until the test goes on.
async fn pausing() -> Server {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec();
    Server::start(move |_| {
        vec![Step::ReadBody, Step::Send(head.clone()), Step::WaitForTest, Step::Send(b"world".to_vec())]
    })
    .await
}

/// `responseForwarding.flushInterval`: what has come is passed on by then at the latest, and at once if it is below zero.
#[tokio::test]
async fn parts_of_answers_wait_no_longer_than_they_may() {
    for interval in ["-1ms", "100ms"] {
        let server = pausing().await;
        let forwarding = format!("responseForwarding: {{flushInterval: {interval}}}");
        let gateway = gateway(&format!("{}, {forwarding}", servers(&[&server])), "").await;
        let mut peer = gateway.connect().await;
        peer.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        // The server does not go on before this has come.
        assert_eq!(peer.head().await.unwrap().status, 200, "{interval}");
        assert_eq!(peer.bytes(5).await, b"hello", "{interval}");
        server.go();
        assert_eq!(peer.bytes(5).await, b"world", "{interval}");
    }
    let pause = Duration::from_millis(100);
    let part = |text: &str| Step::Send(text.as_bytes().to_vec());
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let server = Server::start(move |_| vec![Step::ReadBody, part(head), Step::Wait(pause), part("world")]).await;
    let forwarding = "responseForwarding: {flushInterval: 1h}";
    let gateway = gateway(&format!("{}, {forwarding}", servers(&[&server])), "").await;
    let mut peer = gateway.connect().await;
    let started = Instant::now();
    peer.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(peer.head().await.unwrap().status, 200);
    assert!(started.elapsed() >= pause, "the first part did not wait for the last");
    assert_eq!(peer.bytes(10).await, b"helloworld");
}

/// `responseHeaderTimeout` is for the head: an answer may pause for longer.
#[tokio::test]
async fn an_answer_that_has_begun_may_take_its_time() {
    let part = |text: &str| Step::Send(text.as_bytes().to_vec());
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let server =
        Server::start(move |_| vec![Step::ReadBody, part(head), Step::Wait(Duration::from_millis(300)), part("world")])
            .await;
    let gateway = Gateway::with(
        configuration(&format!("{}, serversTransport: hasty", servers(&[&server])), "")
            + "  serversTransports:\n    hasty: {forwardingTimeouts: {responseHeaderTimeout: 100ms}}\n",
    )
    .await;
    assert_eq!(gateway.connect().await.get("/", "").await.text(), "helloworld");
}

/// `idleConnTimeout`: what nobody uses is closed, and what is used is not.
#[tokio::test]
async fn idle_connections_to_servers_end_in_time() {
    let server = Server::says("fine").await;
    let gateway = Gateway::with(
        configuration(&format!("{}, serversTransport: brief", servers(&[&server])), "")
            + "  serversTransports:\n    brief: {forwardingTimeouts: {idleConnTimeout: 2s}}\n",
    )
    .await;
    let mut peer = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(peer.get("/", "").await.text(), "fine");
    }
    assert_eq!((server.connections(), server.open()), (1, 1));
    until(|| server.open() == 0).await;
    assert_eq!(peer.get("/", "").await.text(), "fine");
    assert_eq!(server.connections(), 2);
}

/// A status that is tried again is judged once: neither as a network error too, nor as a lost race on an idle connection.
#[tokio::test]
async fn statuses_are_tried_again_by_their_own_rule() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let server = Server::start(move |_| match counter.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => answer(503, "", "no"),
        _ => ok("fine"),
    })
    .await;
    let pause = Duration::from_millis(60);
    let again = "    again: {retry: {attempts: 2, initialInterval: 60ms, status: ['503'], \
                 disableRetryOnNetworkError: true, retryNonIdempotentMethod: true}}";
    let gateway = gateway(&servers(&[&server]), again).await;
    let mut peer = gateway.connect().await;
    for turn in 1..=3 {
        for request in
            ["GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"]
        {
            let started = Instant::now();
            peer.send(request).await;
            assert_eq!(peer.answer().await.text(), "fine", "{turn}: {request}");
            assert!(started.elapsed() >= pause, "{turn}: {request} did not wait");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 12);
}

/// A server that has closed its idle connections all at once is asked on a new one, not on the next that is closed.
#[tokio::test]
async fn a_lost_race_is_not_run_again() {
    let server = Server::start(|received| match received.turn {
        0 => [vec![Step::WaitForTest], ok("fine")].concat(),
        _ => vec![Step::Close],
    })
    .await;
    let gateway = gateway(&servers(&[&server]), "").await;
    let mut peers = join_all((0..5).map(|_| gateway.connect())).await;
    for peer in &mut peers {
        peer.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    }
    server.until_count(5).await;
    (0..6).for_each(|_| server.go());
    for peer in &mut peers {
        assert_eq!(peer.answer().await.text(), "fine");
    }
    assert_eq!(peers[0].get("/", "").await.text(), "fine");
    assert_eq!((server.count(), server.connections()), (7, 6), "one of five that are closed, then a new one");
}

/// What one server answered is not charged to the next, nor told of it.
#[tokio::test]
async fn each_attempt_has_an_outcome_of_its_own() {
    let server = Server::start(|received| match received.turn {
        _ if received.path() != "/left" => ok("fine"),
        _ if received.connection == 0 => answer(503, "", "busy"),
        _ => vec![Step::ReadBody, Step::Hang],
    })
    .await;
    let again = "    again: {retry: {attempts: 2, status: ['503']}}";
    let gateway = gateway(&servers(&[&server]), again).await;
    let mut peer = gateway.connect().await;
    peer.send("GET /left HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    server.until_count(2).await;
    drop(peer);
    let line = gateway.logged_path("/left").await;
    assert_eq!((&line["DownstreamStatus"], &line["RetryAttempts"]), (&499.into(), &1.into()), "{line}");
    assert!(line.get("OriginStatus").is_none_or(|status| *status == 0), "{line}");
}

#[tokio::test]
async fn absent_bodies_are_said_where_they_are_expected() {
    let server = Server::says("fine").await;
    let gateway = gateway(&servers(&[&server]), "").await;
    let mut peer = gateway.connect().await;
    for (method, length) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None)]
    {
        assert_eq!(peer.request(&format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n")).await.status, 200);
        assert_eq!(server.last().header("content-length"), length, "{method}");
    }
}

/// RFC 9110 §15.2.
#[tokio::test]
async fn http10_clients_get_no_informational_answers() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
    let server = Server::start(move |_| raw(early)).await;
    let gateway = gateway(&servers(&[&server]), "").await;
    for (version, first) in [("1.0", 200), ("1.1", 103)] {
        for request in [
            format!("GET / HTTP/{version}\r\nHost: a.test\r\n\r\n"),
            format!("POST / HTTP/{version}\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx"),
        ] {
            let mut peer = gateway.connect().await;
            peer.send(&request).await;
            assert_eq!(peer.head().await.unwrap().status, first, "{request}");
        }
    }
}
