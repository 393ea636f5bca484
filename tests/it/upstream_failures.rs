//! What clients get when servers fail: the status, the code, in time, and a connection that goes on.

use std::time::{Duration, Instant};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{End, Peer, until};
use crate::harness::server::{Received, Server, Step, answer, ok, raw};

/// Patience with servers, in every gateway of these tests.
const PATIENCE: Duration = Duration::from_millis(300);
/// What a deadline may be missed by on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Middlewares of the router: none, and those for which sessions are wrapped.
const WAYS: [&str; 2] = ["", "again, guess"];

/// A gateway with a service at this URL, another without servers, impatient with both.
async fn before(url: &str) -> Gateway {
    before_with(url, "").await
}

/// The same, with these middlewares on the router.
async fn before_with(url: &str, middlewares: &str) -> Gateway {
    Gateway::with(format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: servers, middlewares: [{middlewares}]}}
    none: {{rule: 'PathPrefix(`/none`)', service: nobody, middlewares: [{middlewares}]}}
  middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}
  services:
    servers: {{loadBalancer: {{servers: [{{url: '{url}'}}], serversTransport: hasty}}}}
    nobody: {{loadBalancer: {{servers: []}}}}
  serversTransports:
    hasty: {{forwardingTimeouts: {{dialTimeout: 300ms, responseHeaderTimeout: 300ms}}}}
"
    ))
    .await
}

/// A port of the loopback where nobody listens.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// One request fails with this status and code, in time, and the connection goes on to the next.
async fn fails(gateway: &Gateway, path: &str, status: u16, code: &str) {
    let mut peer = gateway.connect().await;
    for (name, request) in [
        ("GET", format!("GET {path}?get HTTP/1.1\r\nHost: a.test\r\n\r\n")),
        ("POST", format!("POST {path}?post HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello")),
        (
            "chunked",
            format!(
                "POST {path}?chunked HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            ),
        ),
        ("HEAD", format!("HEAD {path}?head HTTP/1.1\r\nHost: a.test\r\n\r\n")),
    ] {
        let started = Instant::now();
        let got = peer.request(&request).await;
        assert_eq!((got.status, got.header("x-portcullis-error")), (status, Some(code)), "{path} {name}: {}", got.head);
        assert!(started.elapsed() < PATIENCE + SLACK, "{path} {name} took {:?}", started.elapsed());
        assert_ne!(got.header("connection"), Some("close"), "{path} {name}");
    }
    let line = gateway.logged_path(path).await;
    assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&status.into(), &code.into()), "{path}");
}

#[tokio::test]
async fn nobody_to_ask() {
    let gateway = before(&refusing()).await;
    fails(&gateway, "/none", 503, "no-server").await;
    fails(&gateway, "/refused", 502, "connect-failed").await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.get("/none", "").await.text(), "no available server\n");
    let json = peer.get("/none", "Accept: application/json\r\n").await;
    assert_eq!(json.header("content-type"), Some("application/problem+json"));
    let details: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!((&details["status"], &details["code"]), (&503.into(), &"no-server".into()));
}

/// A listener whose queue is full answers no SYN, as a machine that is gone.
#[tokio::test]
async fn a_server_that_does_not_even_refuse() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let attempt = tokio::net::TcpStream::connect(address);
        waiting.extend(tokio::time::timeout(Duration::from_millis(100), attempt).await.ok());
    }
    let gateway = before(&format!("http://{address}")).await;
    fails(&gateway, "/blackhole", 504, "connect-timeout").await;
}

/// Servers that should speak TLS, and names that nobody knows.
#[tokio::test]
async fn servers_that_cannot_be_spoken_to() {
    let plain = Server::echo().await;
    let gateway = before(&plain.url().replace("http:", "https:")).await;
    fails(&gateway, "/plain", 502, "server-tls").await;
    let greeting = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", greeting.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = greeting.accept().await {
            let _ = stream.write_all(b"220 mail.test ESMTP\r\n").await;
        }
    });
    fails(&before(&url).await, "/greeting", 502, "server-tls").await;
    let gateway = before("http://no-such-host.invalid").await;
    let got = gateway.connect().await.get("/unknown", "").await;
    assert!([502, 503].contains(&got.status) && got.header("x-portcullis-error").is_some(), "{}", got.head);
}

/// What a server does on each path.
fn misbehave(received: &Received) -> Vec<Step> {
    let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
    match received.path() {
        "/silent" => vec![Step::ReadBody, Step::Hang],
        "/reset" => vec![Step::ReadBody, Step::Reset],
        "/closed" => vec![Step::ReadBody, Step::Close],
        "/half-head" => vec![Step::ReadBody, send(b"HTTP/1.1 200 OK\r\nContent-Le"), Step::Close],
        "/half-head-reset" => vec![Step::ReadBody, send(b"HTTP/1.1 200 OK\r\nContent-Le"), Step::Reset],
        "/stalled-head" => vec![Step::ReadBody, send(b"HTTP/1.1 200 OK\r\nContent-Le"), Step::Hang],
        "/garbage" => vec![Step::ReadBody, send(b"\x16\x03\x01 what is this\r\n\r\n"), Step::Hang],
        "/http09" => vec![Step::ReadBody, send(b"<html>hello</html>\r\n\r\n"), Step::Close],
        "/status-099" => raw("HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n"),
        "/status-1000" => raw("HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n"),
        "/two-lengths" => raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        "/odd-length" => raw("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
        "/obs-fold" => raw("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello"),
        "/nul" => raw("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello"),
        "/huge-head" => {
            let fields = format!("X-Filler: {}\r\n", "x".repeat(8000)).repeat(200);
            raw(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"))
        }
        "/many-fields" => raw(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(1000))),
        "/unasked-101" => raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbytes"),
        _ => ok("fine"),
    }
}

#[tokio::test]
async fn servers_that_give_no_answer() {
    let server = Server::start(misbehave).await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for (path, status, code) in [
            ("/silent", 504, "server-timeout"),
            ("/stalled-head", 504, "server-timeout"),
            ("/reset", 502, "server-closed"),
            ("/closed", 502, "server-closed"),
            ("/half-head", 502, "server-closed"),
            ("/half-head-reset", 502, "server-closed"),
        ] {
            fails(&gateway, path, status, code).await;
        }
        assert_eq!(gateway.connect().await.get("/", "").await.text(), "fine");
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn answers_that_are_not_http() {
    let server = Server::start(misbehave).await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for path in [
            "/garbage",
            "/http09",
            "/status-099",
            "/status-1000",
            "/two-lengths",
            "/odd-length",
            "/nul",
            "/huge-head",
            "/many-fields",
            "/unasked-101",
        ] {
            fails(&gateway, path, 502, "server-protocol").await;
            assert_eq!(gateway.connect().await.get("/", "").await.text(), "fine", "after {path}");
        }
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

/// A client must be able to tell half an answer from a whole one.
#[tokio::test]
async fn half_an_answer_never_looks_whole() {
    let server = Server::start(|received| {
        let head: &[u8] = match received.path() {
            "/counted" | "/counted-reset" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "/chunked" | "/chunked-reset" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "/chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf",
            "/bad-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
            _ => b"HTTP/1.1 200 OK\r\n\r\nhalf",
        };
        let end = if received.path().ends_with("reset") { Step::Reset } else { Step::Close };
        // The reset must not overtake the bytes.
        vec![Step::ReadBody, Step::Send(head.to_vec()), Step::Wait(Duration::from_millis(50)), end]
    })
    .await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for path in ["/counted", "/counted-reset", "/chunked", "/chunked-reset", "/chunk", "/bad-chunk", "/until-reset"]
        {
            let mut peer = gateway.connect().await;
            peer.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            let result = peer.response_to("GET").await;
            assert!(result.is_err(), "{path}: {result:?}");
        }
        // RFC 9112 §6.3: without a length the end of the connection is the end of the body.
        let mut peer = gateway.connect().await;
        assert_eq!(peer.get("/until-close", "").await.text(), "half");
    }
}

#[tokio::test]
async fn interim_answers_are_bounded_and_final_ones_arrive() {
    let server = Server::start(|received| {
        let count = if received.path() == "/flood" { 100_000 } else { 3 };
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(count);
        raw(format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"))
    })
    .await;
    let gateway = before(&server.url()).await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.get("/few", "").await.text(), "done");
    peer.send("GET /flood HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    // Whether it is cut or passed on, the gateway lives and serves others.
    let flooded = peer.response_to("GET").await;
    assert!(flooded.as_ref().map_or(true, |answer| [200, 502].contains(&answer.status)), "{flooded:?}");
    assert_eq!(gateway.connect().await.get("/few", "").await.text(), "done");
}

/// RFC 9112 §6.3, §9.2: bytes that no response accounts for are nobody's response.
#[tokio::test]
async fn leftover_bytes_reach_nobody() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let server = Server::start(move |received| match (received.method(), received.path()) {
        (_, "/excess") => raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{poison}")),
        (_, "/excess-chunked") => {
            raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{poison}"))
        }
        (_, "/204") => raw(format!("HTTP/1.1 204 No Content\r\n\r\n{poison}")),
        (_, "/204-counted") => raw(format!("HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n{poison}")),
        (_, "/304") => raw(format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n{poison}")),
        ("HEAD", _) => raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n{poison}")),
        (_, "/both") => raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison\r\n0\r\n\r\n",
        ),
        (_, "/continue-late") => raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n{poison}")),
        _ => answer(200, "", received.target()),
    })
    .await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for (method, path) in [
            ("GET", "/excess"),
            ("GET", "/excess-chunked"),
            ("GET", "/204"),
            ("GET", "/204-counted"),
            ("GET", "/304"),
            ("HEAD", "/head"),
            ("GET", "/both"),
            ("GET", "/continue-late"),
        ] {
            for round in 0..5 {
                let mut attacker = gateway.connect().await;
                attacker.send(format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
                let _ = attacker.response_to(method).await;
                let nonce = format!("/victim?{method}{path}{round}");
                assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce);
                assert_eq!(attacker_goes_on(attacker, &nonce).await, None);
            }
        }
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

/// What the next request on the attacker's own connection gets, if it is not its own answer.
async fn attacker_goes_on(mut peer: Peer, nonce: &str) -> Option<String> {
    if !peer.try_send(format!("GET {nonce} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await {
        return None;
    }
    match peer.response_to("GET").await {
        Err(_) => None,
        Ok(answer) => Some(answer.text().to_owned()).filter(|text| text != nonce),
    }
}

#[tokio::test]
async fn a_client_that_is_gone_is_logged_as_such() {
    let server = Server::start(|_| vec![Step::ReadBody, Step::Wait(Duration::from_millis(200)), Step::Hang]).await;
    for middlewares in WAYS {
        let gateway = Gateway::with(format!(
            "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}, \
             middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
            server.url()
        ))
        .await;
        let mut peer = gateway.connect().await;
        peer.send("GET /gone HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        server.until_count(1).await;
        drop(peer);
        let line = gateway.logged_path("/gone").await;
        assert_eq!((&line["DownstreamStatus"], &line["GatewayError"]), (&499.into(), &"client-gone".into()), "{line}");
        until(|| server.open() == 0).await;
    }
}

/// The header that names our own errors is ours alone.
#[tokio::test]
async fn servers_cannot_speak_in_our_name() {
    let server = Server::start(|received| {
        let status = received.path()[1..].parse().unwrap();
        answer(status, "X-Portcullis-Error: no-router\r\n", "its own")
    })
    .await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        let mut peer = gateway.connect().await;
        for status in [200, 404, 500, 502, 503, 504] {
            let got = peer.get(&format!("/{status}"), "Accept: application/json\r\n").await;
            assert_eq!((got.status, got.header("x-portcullis-error"), got.text()), (status, None, "its own"));
            let line = gateway.logged_path(&format!("/{status}")).await;
            assert_eq!(line.get("GatewayError"), None, "{line}");
        }
    }
}

/// D-EARLY: whoever is refused while sending still reads why.
#[tokio::test]
async fn uploads_that_are_refused_read_the_answer() {
    let gateway = before(&refusing()).await;
    for (path, status) in [("/none", 503), ("/refused", 502)] {
        for round in 0..20 {
            let mut peer = gateway.connect().await;
            peer.send(format!("POST {path}?{round} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\n\r\n")).await;
            // The gateway may stop reading; what matters is that its answer is not lost to a reset.
            peer.try_send(vec![b'x'; 3_000_000]).await;
            let answer = peer.response_to("POST").await;
            assert_eq!(answer.map(|answer| answer.status), Ok(status), "{path} {round}");
        }
    }
}

/// A server that answers before it has read the request: its answer arrives, and the connection is used by nobody else.
#[tokio::test]
async fn early_answers_end_the_servers_connection() {
    let server = Server::start(|received| match received.path() {
        "/early" => vec![Step::Send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_vec())],
        _ => answer(200, "", received.target()),
    })
    .await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for round in 0..10 {
            let mut peer = gateway.connect().await;
            peer.send("POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 60\r\n\r\nGET /smuggled HTTP/1.1\r\n")
                .await;
            assert_eq!(peer.response_to("POST").await.map(|answer| answer.status), Ok(403));
            let nonce = format!("/victim?{round}");
            assert_eq!(gateway.connect().await.get(&nonce, "").await.text(), nonce);
        }
        assert!(server.received().iter().all(|received| received.path() != "/smuggled"), "{:?}", server.received());
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_408() {
    let server = Server::echo().await;
    for middlewares in WAYS {
        let gateway = Gateway::setup()
            .flag("entryPoints.web.transport.respondingTimeouts.readTimeout=400ms")
            .dynamic(format!(
                "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}}}, \
             middlewares: {{again: {{retry: {{attempts: 2}}}}, guess: {{contentType: {{}}}}}}, \
             services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
                server.url()
            ))
            .start()
            .await;
        let mut peer = gateway.connect().await;
        peer.send("POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhello").await;
        let answer = peer.response_to("POST").await.unwrap();
        assert_eq!((answer.status, answer.header("x-portcullis-error")), (408, Some("body-timeout")));
        assert_eq!(peer.end().await, End::Closed);
        assert!(server.received().iter().all(|received| received.body.is_empty()));
    }
}

/// Servers that speak HTTP/2 fail in ways of their own.
#[tokio::test]
async fn failures_of_http2_servers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let path = request.uri().path().to_owned();
                    if path == "/silent" {
                        held.push((request, respond));
                        continue;
                    }
                    if path == "/goaway" {
                        connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
                        continue;
                    }
                    if path == "/refuse" {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    if path == "/reset" {
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                        continue;
                    }
                    let Ok(mut body) = respond.send_response(http::Response::new(()), false) else { continue };
                    let _ = body.send_data(bytes::Bytes::from_static(b"half"), path == "/fine");
                    if path == "/half" {
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(30)).await;
                            body.send_reset(h2::Reason::INTERNAL_ERROR);
                        });
                    }
                }
            });
        }
    });
    for middlewares in WAYS {
        let gateway = before_with(&url, middlewares).await;
        for (path, status, code) in [
            ("/silent", 504, "server-timeout"),
            ("/reset", 502, "server-"),
            ("/refuse", 502, "server-"),
            ("/goaway", 502, "server-"),
        ] {
            let mut peer = gateway.connect().await;
            let got = peer.get(path, "").await;
            let named = got.header("x-portcullis-error").unwrap_or_default();
            assert!(got.status == status && named.starts_with(code), "{path}: {}", got.head);
            assert_eq!(peer.get("/fine", "").await.text(), "half", "after {path}");
        }
        let mut peer = gateway.connect().await;
        peer.send("GET /half HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let result = peer.response_to("GET").await;
        assert!(result.is_err(), "{result:?}");
    }
}

/// Old servers and old clients: each gets what it can read.
#[tokio::test]
async fn versions_are_those_of_whoever_writes() {
    let server = Server::start(|received| match received.path() {
        "/old" => raw("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        "/old-close" => {
            let mut steps = raw("HTTP/1.0 200 OK\r\n\r\nhello");
            steps.push(Step::Close);
            steps
        }
        "/chunked" => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        _ => ok("hello"),
    })
    .await;
    for middlewares in WAYS {
        let gateway = before_with(&server.url(), middlewares).await;
        for path in ["/old", "/old-close", "/chunked", "/new"] {
            let mut peer = gateway.connect().await;
            let got = peer.get(path, "").await;
            assert!(got.head.starts_with("HTTP/1.1 200") && got.text() == "hello", "{path}: {}", got.head);
            for version in ["HTTP/1.0\r\n", "HTTP/1.0\r\nHost: a.test\r\n", "HTTP/1.0\r\nConnection: keep-alive\r\n"] {
                let mut peer = gateway.connect().await;
                let got = peer.request(&format!("GET {path} {version}\r\n")).await;
                assert_eq!(
                    (got.header("transfer-encoding"), got.text()),
                    (None, "hello"),
                    "{path} {version}: {}",
                    got.head
                );
            }
        }
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}
