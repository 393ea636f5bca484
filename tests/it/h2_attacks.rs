//! HTTP/2 without TLS as attackers speak it: what is sent on as HTTP/1, floods, and streams that stand still.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, Frames, HEADERS, PADDED, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, header_block, pour, request_block, resident,
};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::peer::{soon, until};
use crate::harness::server::{Server, Step, answer};

fn in_front_of(server: &Server) -> Setup {
    Gateway::setup().dynamic(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}, \
         dead: {{rule: 'Path(`/refused`)', priority: 100, service: dead}}, lost: {{rule: 'Path(`/none`)', priority: 100, service: nobody}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}, nobody: {{loadBalancer: {{servers: []}}}}, \
         dead: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:1'}}]}}}}}}}}",
        server.url()
    ))
}

/// Whoever shares the connections to the server gets his own answer.
async fn bystander(gateway: &Gateway, server: &Server, context: &str) {
    let nonce = format!("/victim?{}", server.count());
    assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce, "{context}");
    assert_eq!(server.violations(), Vec::<String>::new(), "{context}");
    assert!(server.received().iter().all(|it| it.path() != "/smuggled"), "{context}: {:?}", server.received());
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The fields of a good request with one of them replaced, or one more.
fn with<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    let mut fields: Fields<'_> =
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/attack")];
    match fields.iter_mut().find(|field| field.0 == name) {
        Some(field) => field.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

/// RFC 9113 §8.2, §8.3 and §10.3: what must not be sent on as HTTP/1.
#[tokio::test]
async fn malformed_heads_are_never_sent_on() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let gateway = in_front_of(&server).start().await;
    let mut vectors: Vec<Fields<'_>> = vec![
        with(b"x", b"a\r\nTransfer-Encoding: chunked"),
        with(b"x", b"a\nb"),
        with(b"x", b"a\rb"),
        with(b"x", b"a\0b"),
        with(b"x\r\ny", b"a"),
        with(b"x y", b"a"),
        with(b"x: y", b"a"),
        with(b"x:y", b"a"),
        with(b"", b"a"),
        with(b"X-Upper", b"a"),
        with(b"transfer-encoding", b"chunked"),
        with(b"transfer-encoding ", b"chunked"),
        with(b"connection", b"close"),
        with(b"keep-alive", b"x"),
        with(b"proxy-connection", b"keep-alive"),
        with(b"upgrade", b"websocket"),
        with(b"te", b"gzip"),
        with(b"content-length", b"5"),
        with(b":path", b""),
        with(b":path", b"attack"),
        with(b":path", b"/a b"),
        with(b":path", b"/attack HTTP/1.1\r\nX: y"),
        with(b":path", b"http://evil.test/attack"),
        with(b":path", b"/attack\x80"),
        with(b":path", b"/attack\0"),
        with(b":scheme", b""),
        with(b":scheme", b"http://a.test/x?"),
        with(b":scheme", b"ht tp"),
        with(b":method", b""),
        with(b":method", b"GET /smuggled HTTP/1.1\r\nX:"),
        with(b":method", b"GET /smuggled"),
        with(b":method", b"G\0T"),
        with(b":method", b"get"),
        with(b"transfer_encoding", b"chunked"),
        with(b"content.length", b"5"),
        with(b"transfer-%45ncoding", b"chunked"),
        with(b":authority", b"a.test\r\nX: y"),
        with(b":authority", b"a.test/smuggled"),
        with(b":authority", b"u@a.test"),
        with(b":authority", b"a b"),
        with(b":authority", b"a.test:x"),
        with(b":authority", b""),
        with(b"host", b"b.test"),
        with(b":unknown", b"x"),
        with(b":status", b"200"),
    ];
    let mut doubled = with(b"x", b"y");
    doubled.push((b":path", b"/smuggled"));
    vectors.push(doubled);
    let mut twice = with(b"content-length", b"0");
    twice.push((b"content-length", b"5"));
    vectors.push(twice);
    let mut hosts = with(b"host", b"a.test");
    hosts.push((b"host", b"a.test"));
    vectors.push(hosts);
    for missing in [b":method".as_slice(), b":path", b":scheme", b":authority"] {
        vectors.push(with(b"x", b"y").into_iter().filter(|field| field.0 != missing).collect());
    }
    for fields in vectors {
        let before = server.count();
        let shown = format!(
            "{:?}",
            fields
                .iter()
                .map(|(n, v)| (n.escape_ascii().to_string(), v.escape_ascii().to_string()))
                .collect::<Vec<_>>()
        );
        let mut attacker = Frames::connect(gateway.address(), &[]).await;
        attacker.send(HEADERS, END_HEADERS | END_STREAM, 1, &header_block(&fields)).await;
        let fate = attacker.fate(1).await;
        let arrived = server.received().split_off(before);
        assert!(fate != Fate::Answered(200) && arrived.is_empty(), "{shown}: {fate:?} {arrived:?}");
        bystander(&gateway, &server, &shown).await;
    }
    // What may look odd and is not.
    for fields in
        [with(b"te", b"trailers"), with(b"host", b"a.test"), with(b"x", b"\ty "), with(b"content-length", b"0")]
    {
        let mut client = Frames::connect(gateway.address(), &[]).await;
        client.send(HEADERS, END_HEADERS | END_STREAM, 1, &header_block(&fields)).await;
        let fate = client.fate(1).await;
        assert!(
            fate == Fate::Answered(200) || fields.last().is_some_and(|field| field.0 == b"x"),
            "{fields:?}: {fate:?}"
        );
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// How a body may be cut into frames, and what the server must see of it.
#[tokio::test]
async fn bodies_end_once_however_they_are_framed() {
    frame_bodies("").await;
}

#[tokio::test]
async fn bodies_end_once_in_the_lane_too() {
    frame_bodies("again, guess").await;
}

async fn frame_bodies(middlewares: &str) {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}, \
         middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
    .await;
    let data = |flags: u8, payload: &[u8]| frame(DATA, flags, 1, payload);
    let padding: &[u8] = b"\x05\0\0\0\0\0";
    let smuggled: &[u8] = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (frames, length, expected) in [
        (vec![data(END_STREAM, b"")], None, Some("")),
        (vec![data(0, b"hello"), data(END_STREAM, b"")], None, Some("hello")),
        (vec![data(0, b""), data(0, b"hello"), data(0, b""), data(END_STREAM, b"")], None, Some("hello")),
        (vec![data(PADDED, padding), data(END_STREAM | PADDED, padding)], None, Some("")),
        (vec![data(0, b"hello"), data(END_STREAM | PADDED, padding)], None, Some("hello")),
        (vec![data(0, b"hello"), data(END_STREAM, b"")], Some(5), Some("hello")),
        (vec![data(END_STREAM, b"hello")], Some(5), Some("hello")),
        (vec![data(0, b""), data(END_STREAM, b"")], Some(0), Some("")),
        // Lengths that are not the sum (RFC 9113 §8.1.1).
        (vec![data(END_STREAM, b"hello")], Some(4), None),
        (vec![data(END_STREAM, b"hello")], Some(6), None),
        (vec![data(0, b"hello"), data(END_STREAM, smuggled)], Some(5), None),
        (vec![data(END_STREAM, b"")], Some(5), None),
        // Ends that are none.
        (vec![data(0, b"hello"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], None, None),
        (vec![data(0, b"hello"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 0])], Some(10), None),
        (vec![data(END_STREAM, smuggled)], None, Some(std::str::from_utf8(smuggled).unwrap())),
    ] {
        for round in 0..4 {
            let path = format!("/attack{}", server.count());
            let text = length.map(|length: usize| length.to_string());
            let more: Vec<(&str, &str)> = text.iter().map(|text| ("content-length", text.as_str())).collect();
            let mut attacker = Frames::connect(gateway.address(), &[]).await;
            attacker.send(HEADERS, END_HEADERS, 1, &request_block("POST", &path, &more)).await;
            if round % 2 == 1 {
                // The head arrives alone.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for frame in &frames {
                attacker.send_raw(frame).await;
            }
            let context = format!("{frames:?} {length:?}");
            match expected {
                Some(body) => {
                    assert_eq!(attacker.fate(1).await, Fate::Answered(200), "{context}");
                    let received = server.received().into_iter().find(|it| it.path() == path).unwrap();
                    assert_eq!((received.text(), received.whole), (body, true), "{context}");
                }
                None => {
                    drop(attacker);
                    bystander(&gateway, &server, &context).await;
                    // What is too long may have been complete before it was too long.
                    let whole = server.received().into_iter().find(|it| it.path() == path && it.whole);
                    let whole = whole.filter(|it| Some(it.body.len()) != length);
                    assert_eq!(whole, None, "{context}");
                }
            }
            bystander(&gateway, &server, &context).await;
        }
    }
    // DATA after the end of the stream is the attacker's own trouble.
    let mut attacker = Frames::connect(gateway.address(), &[]).await;
    attacker.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("POST", "/after", &[])).await;
    attacker.send(DATA, END_STREAM, 1, smuggled).await;
    let _ = attacker.fate(1).await;
    bystander(&gateway, &server, "after the end").await;
    // CONNECT, and what looks like a tunnel.
    let mut attacker = Frames::connect(gateway.address(), &[]).await;
    let block = header_block(&[(b":method", b"CONNECT"), (b":authority", b"a.test:80")]);
    let before = server.count();
    attacker.send(HEADERS, END_HEADERS, 1, &block).await;
    attacker.send(DATA, 0, 1, smuggled).await;
    assert_ne!(attacker.fate(1).await, Fate::Answered(200));
    assert_eq!(server.count(), before);
    bystander(&gateway, &server, "connect").await;
}

#[tokio::test]
async fn cookie_crumbs_are_joined_and_legal_heads_pass() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let gateway = in_front_of(&server).start().await;
    let crumbs: Vec<(String, String)> =
        (0..150).map(|at| ("cookie".to_owned(), format!("c{at}={}", "x".repeat(40)))).collect();
    let more: Vec<(&str, &str)> = crumbs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut client = Frames::connect(gateway.address(), &[]).await;
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/crumbs", &more)).await;
    assert_eq!(client.fate(1).await, Fate::Answered(200));
    let received = server.last();
    assert_eq!(received.all("cookie").len(), 1, "{}", received.head);
    assert_eq!(received.header("cookie").unwrap().split("; ").count(), 150);
    assert_eq!((received.all("host"), received.all("x-forwarded-host")), (vec!["a.test"], vec!["a.test"]));
}

/// The same rules for our own answers as over HTTP/1.
#[tokio::test]
async fn errors_are_told_as_over_http1() {
    let server = Server::start(|received| match received.path() {
        "/reset" => vec![Step::ReadBody, Step::Reset],
        "/half" => vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
            Step::Wait(Duration::from_millis(50)),
            Step::Close,
        ],
        "/101" => {
            vec![Step::ReadBody, Step::Send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n".to_vec())]
        }
        "/own" => {
            answer(503, "X-Portcullis-Error: no-router\r\nConnection: x-a, close\r\nX-A: 1\r\nKeep-Alive: x\r\n", "own")
        }
        _ => answer(200, "", received.target()),
    })
    .await;
    let gateway = in_front_of(&server).start().await;
    let (client, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    tokio::spawn(connection);
    let ask = async |path: &str, accept: &str, body: Option<&'static [u8]>| {
        let request = Request::post(format!("http://a.test{path}")).header("accept", accept).body(()).unwrap();
        let mut client = soon(client.clone().ready()).await.unwrap();
        let (response, mut sending) = client.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            sending.send_data(Bytes::from_static(body), true).unwrap();
        }
        let mut response = soon(response).await.unwrap();
        let mut text = Vec::new();
        while let Some(data) = soon(response.body_mut().data()).await {
            match data {
                Ok(data) => text.extend_from_slice(&data),
                Err(error) => return (response, Err(error)),
            }
        }
        (response, Ok(String::from_utf8(text).unwrap()))
    };
    for (path, status, code) in [
        ("/none", 503, "no-server"),
        ("/refused", 502, "connect-failed"),
        ("/reset", 502, "server-closed"),
        ("/101", 502, "server-protocol"),
    ] {
        for body in [None, Some(b"hello".as_slice())] {
            let (response, text) = ask(path, "*/*", body).await;
            assert_eq!(
                (response.status().as_u16(), response.headers()["x-portcullis-error"].as_bytes()),
                (status, code.as_bytes()),
                "{path}"
            );
            assert!(!text.unwrap().is_empty());
            let (response, text) = ask(path, "application/json", body).await;
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert!(text.unwrap().contains(code));
        }
    }
    let (response, text) = ask("/own", "application/json", None).await;
    assert_eq!((response.status().as_u16(), text.unwrap().as_str()), (503, "own"));
    for name in ["x-portcullis-error", "connection", "x-a", "keep-alive", "transfer-encoding"] {
        assert_eq!(response.headers().get(name), None, "{name}");
    }
    let (_, half) = ask("/half", "*/*", None).await;
    assert!(half.is_err(), "half an answer looks whole: {half:?}");
    assert_eq!(ask("/fine", "*/*", None).await.1.unwrap(), "/fine");
    assert_eq!(gateway.logged_path("/fine").await["RequestProtocol"], "HTTP/2.0");
}

#[tokio::test]
async fn a_stream_that_is_reset_frees_the_server() {
    let server = Server::start(|_| vec![Step::ReadBody, Step::Hang]).await;
    let gateway = in_front_of(&server).start().await;
    let mut client = Frames::connect(gateway.address(), &[]).await;
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/gone", &[])).await;
    server.until_count(1).await;
    client.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
    until(|| server.open() == 0).await;
    let line = gateway.logged_path("/gone").await;
    assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&499.into(), &"client-gone".into()), "{line}");
}

/// Sends until the gateway has had enough: how many rounds that took. The gateway lives, serves others and does not grow.
async fn flood(
    name: &str,
    gateway: &mut Gateway,
    server: &Server,
    rounds: usize,
    round: impl Fn(usize) -> Vec<u8>,
) -> usize {
    let before = resident(gateway.pid());
    let attacker = Frames::connect(gateway.address(), &[]).await;
    let (mut write, over) = attacker.split();
    let mut sent = 0;
    for at in 0..rounds {
        if over.load(Ordering::SeqCst) || !pour(&mut write, &round(at)).await {
            break;
        }
        sent += 1;
        if at % 256 == 0 {
            bystander(gateway, server, name).await;
        }
    }
    bystander(gateway, server, name).await;
    let grown = resident(gateway.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "{name}: {grown} KiB more");
    assert!(gateway.is_alive());
    sent
}

/// CVE-2023-44487: requests that are taken back at once.
#[tokio::test]
async fn rapid_resets_are_bounded() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut gateway = in_front_of(&server).start().await;
    let sent = flood("reset", &mut gateway, &server, 4000, |at| {
        (0..10)
            .flat_map(|more| {
                let stream = u32::try_from(2 * (10 * at + more) + 1).unwrap();
                let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_block("GET", "/reset", &[]));
                bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
                bytes
            })
            .collect()
    })
    .await;
    assert!(sent < 4000, "all of it was taken");
    let asked = server.received().iter().filter(|it| it.path() == "/reset").count();
    assert!(asked < 2000, "{asked} requests were sent on");
}

/// CVE-2025-8671: frames that make the gateway reset streams itself.
#[tokio::test]
async fn resets_of_ours_are_bounded() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut gateway = in_front_of(&server).start().await;
    let sent = flood("made", &mut gateway, &server, 20_000, |at| {
        let stream = u32::try_from(2 * at + 1).unwrap();
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_block("GET", "/made", &[]));
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 0]));
        bytes
    })
    .await;
    assert!(sent < 20_000, "all of it was taken");
}

/// CVE-2024-27316: a head without end.
#[tokio::test]
async fn endless_heads_are_bounded() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut gateway = in_front_of(&server).start().await;
    let filler = "x".repeat(15_000);
    let more = header_block(&[(b"x-filler", filler.as_bytes())]);
    let sent = flood("continuation", &mut gateway, &server, 20_000, |at| match at {
        0 => frame(HEADERS, 0, 1, &request_block("GET", "/endless", &[])),
        _ => frame(CONTINUATION, 0, 1, &more),
    })
    .await;
    assert!(sent < 2000, "{sent} frames were taken");
    let sent = flood("empty continuation", &mut gateway, &server, 200_000, |at| match at {
        0 => frame(HEADERS, 0, 1, &request_block("GET", "/endless", &[])),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(50),
    })
    .await;
    assert!(sent < 200_000, "all of it was taken");
    assert!(server.received().iter().all(|it| it.path() != "/endless"));
}

/// CVE-2026-49975 and its kin: a small head that becomes a large one.
#[tokio::test]
async fn heads_that_blow_up_are_bounded() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut gateway = in_front_of(&server).start().await;
    // `a`, and `cookie`, whose crumbs are joined.
    for name in [&[0x40, 0x01, b'a'][..], &[0x60]] {
        flood("bomb", &mut gateway, &server, 100, |at| {
            let mut block = request_block("GET", "/bomb", &[]);
            // One entry of the dynamic table (RFC 7541 §6.2.1), and then its index again and again.
            block.extend(name);
            block.extend([0x7f, 0x80 | 33, 0x1e]);
            block.extend(vec![b'x'; 4000]);
            block.extend(vec![0xbe; 12_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, u32::try_from(2 * at + 1).unwrap(), &block)
        })
        .await;
    }
    assert!(server.received().iter().all(|it| it.path() != "/bomb"));
}

#[tokio::test]
async fn control_frames_are_bounded() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let mut gateway = in_front_of(&server).start().await;
    let ping = frame(PING, 0, 0, b"12345678").repeat(100);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100);
    let unknown = frame(0xee, 0xff, 0, &[0; 200]).repeat(100);
    let priority = frame(2, 0, 1, &[0, 0, 0, 3, 9]).repeat(100);
    for (name, bytes) in [("ping", ping), ("settings", settings), ("unknown", unknown), ("priority", priority)] {
        flood(name, &mut gateway, &server, 2000, |_| bytes.clone()).await;
    }
    // Nobody reads the answers: they must not pile up.
    let before = resident(gateway.pid());
    let mut deaf = Frames::connect(gateway.address(), &[]).await;
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    let by = Instant::now() + Duration::from_secs(5);
    while Instant::now() < by {
        let sending = deaf.send_raw(&pings);
        if !tokio::time::timeout(Duration::from_millis(500), sending).await.unwrap_or(false) {
            break;
        }
    }
    assert!(resident(gateway.pid()).saturating_sub(before) < 64 << 10);
    bystander(&gateway, &server, "deaf").await;
    // Empty DATA frames (RUSTSEC-2026-0258).
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    flood("empty data", &mut gateway, &server, 2000, |at| match at {
        0 => frame(HEADERS, END_HEADERS, 1, &request_block("POST", "/dribble", &[])),
        _ => empty.clone(),
    })
    .await;
}

#[tokio::test]
async fn idle_connections_and_standing_streams_end() {
    let server = Server::start(|received| match received.path() {
        "/large" => vec![
            Step::ReadBody,
            Step::Send([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".as_slice(), &[b'x'; 1_000_000]].concat()),
        ],
        _ => answer(200, "", received.target()),
    })
    .await;
    let gateway = in_front_of(&server)
        .flag("entryPoints.web.transport.respondingTimeouts.idleTimeout=600ms")
        .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=600ms")
        .flag("entryPoints.web.transport.respondingTimeouts.writeTimeout=600ms")
        .start()
        .await;
    let most = Duration::from_secs(5);
    let started = Instant::now();
    Frames::connect(gateway.address(), &[]).await.end().await;
    assert!(started.elapsed() < most, "idle for {:?}", started.elapsed());
    // Uploads that stop, a hundred over one connection.
    let mut stalled = Frames::connect(gateway.address(), &[]).await;
    let streams = || (0..100).map(|at| 2 * at + 1);
    let mut waiting: HashSet<u32> = streams().collect();
    for stream in streams() {
        stalled.send(HEADERS, END_HEADERS, stream, &request_block("POST", "/stalled", &[])).await;
        stalled.send(DATA, 0, stream, b"hello").await;
    }
    let started = Instant::now();
    bystander(&gateway, &server, "uploads that stop").await;
    while !waiting.is_empty() {
        match stalled.next().await {
            Ok(frame) if frame.kind == HEADERS || frame.kind == RST_STREAM => _ = waiting.remove(&frame.stream),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(started.elapsed() < most, "{:?}", started.elapsed());
    let line = gateway.logged(|line| line["RequestPath"] == "/stalled").await;
    assert_eq!(line["GatewayError"], "body-timeout", "{line}");
    // A client that opens no window for its answer.
    let mut deaf = Frames::connect(gateway.address(), &[(4, 0)]).await;
    deaf.send(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/large", &[])).await;
    let started = Instant::now();
    assert_eq!(deaf.fate(1).await, Fate::Answered(200));
    assert_ne!(deaf.fate(1).await, Fate::Answered(200));
    assert!(started.elapsed() < most, "{:?}", started.elapsed());
    until(|| server.open() <= 2).await;
    bystander(&gateway, &server, "standing").await;
}

/// Streams of one connection that are refused one after the other do not outlive the budget for nonsense.
#[tokio::test]
async fn nonsense_ends_the_connection_in_the_end() {
    let server = Server::start(|received| answer(200, "", received.target())).await;
    let gateway = in_front_of(&server).start().await;
    let mut attacker = Frames::connect(gateway.address(), &[]).await;
    for at in 0..20_000_u32 {
        let block = header_block(&with(b"connection", b"close"));
        if !attacker.send(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &block).await {
            break;
        }
    }
    assert!(!attacker.is_open().await);
    bystander(&gateway, &server, "nonsense").await;
}
