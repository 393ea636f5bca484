//! Traps of Pingora 0.9.1 that we have covered: one test each, through the whole program wherever it shows there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;

use crate::harness::gateway::{Gateway, Setup};
use crate::harness::peer::{End, Peer, soon, until};
use crate::harness::server::{Received, Server, Step, answer, ok};

/// A gateway in front of one server.
fn in_front_of(server: &Server) -> Setup {
    Gateway::setup().dynamic(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}}}",
        server.url()
    ))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

/// How long the connection stays open, which must be less than `most`.
async fn ends_within(mut peer: Peer, most: Duration) {
    let started = Instant::now();
    peer.end().await;
    assert!(started.elapsed() < most, "open for {:?}", started.elapsed());
}

/// Pingora keeps connections for ever after their first request.
#[tokio::test]
async fn t1_idle_connections_end() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server)
        .flag("entryPoints.web.transport.respondingTimeouts.idleTimeout=300ms")
        .flag("entryPoints.web.limits.headTimeout=300ms")
        .start()
        .await;
    let most = Duration::from_secs(3);
    let mut peer = gateway.connect().await;
    peer.get("/", "").await;
    ends_within(peer, most).await;
    let mut peer = gateway.connect().await;
    peer.get("/none", "").await;
    peer.send("GET /half").await;
    ends_within(peer, most).await;
    ends_within(gateway.connect().await, most).await;
    // After answers of ours as well.
    let empty = Gateway::setup().flag("entryPoints.web.transport.respondingTimeouts.idleTimeout=300ms").start().await;
    let mut peer = empty.connect().await;
    assert_eq!(peer.get("/", "").await.status, 404);
    ends_within(peer, most).await;
}

/// Pingora's deadline for a head starts anew with each byte.
#[tokio::test]
async fn t2_slow_heads_end() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).flag("entryPoints.web.limits.headTimeout=400ms").start().await;
    for proven in [false, true] {
        let mut peer = gateway.connect().await;
        if proven {
            peer.get("/", "").await;
        }
        let started = Instant::now();
        while peer.try_send("x").await {
            assert!(started.elapsed() < Duration::from_secs(4), "still open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(gateway.connect().await.get("/", "").await.text(), "ok");
}

/// Pingora takes heads of a megabyte and 256 fields before any hook.
#[tokio::test]
async fn t3_large_heads_are_refused() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).flag("entryPoints.web.http.maxHeaderBytes=16384").start().await;
    for (fields, status) in [
        (format!("X: {}\r\n", "x".repeat(15_000)), 200),
        (format!("X: {}\r\n", "x".repeat(17_000)), 431),
        ("A: b\r\n".repeat(90), 200),
        ("A: b\r\n".repeat(101), 431),
    ] {
        let got = gateway.connect().await.get("/", &fields).await;
        assert_eq!(got.status, status, "{} bytes", fields.len());
        assert_eq!(got.header("x-portcullis-error").is_some(), status == 431);
    }
    // Nor is an endless one read to its end.
    let mut peer = gateway.connect().await;
    peer.send("GET / HTTP/1.1\r\nX: ").await;
    let (piece, mut sent) = (vec![b'x'; 16384], 0);
    while sent < 64 << 20 && peer.try_send(&piece).await {
        sent += 16384;
    }
    assert!(sent < 64 << 20);
}

/// Pingora writes the last chunk twice when an HTTP/2 body ends in an empty frame: the second becomes the next request.
#[tokio::test]
async fn t4_bodies_end_once() {
    let server = Server::start(|received| ok(received.path())).await;
    let gateway = in_front_of(&server).start().await;
    let (client, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    let driver = tokio::spawn(connection);
    for round in 0..50 {
        let request = http::Request::post(format!("http://a.test/{round}")).body(()).unwrap();
        let mut client = soon(client.clone().ready()).await.unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        if round % 3 != 0 {
            body.send_data(Bytes::from_static(b"hello"), false).unwrap();
        }
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        body.send_data(Bytes::new(), true).unwrap();
        let mut response = soon(response).await.unwrap();
        assert_eq!(response.status(), 200);
        let text = soon(response.body_mut().data()).await.unwrap().unwrap();
        assert_eq!(text, format!("/{round}"));
        let victim = format!("/victim/{round}");
        assert_eq!(gateway.connect().await.get(&victim, "").await.text(), victim);
    }
    driver.abort();
    assert_eq!(server.violations(), Vec::<String>::new());
    let bodies: Vec<_> = server.received().into_iter().filter(|it| it.method() == "POST").collect();
    assert!(bodies.iter().enumerate().all(|(at, it)| it.body == if at % 3 == 0 { &b""[..] } else { b"hello" }));
    // A connection that carries more than one request has proved that nothing was left on it.
    assert!(server.connections() < 20, "{} connections", server.connections());
}

/// What Pingora takes although it can be read in two ways.
#[tokio::test]
async fn t5_ambiguous_heads_are_refused() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).start().await;
    let host = "Host: a.test\r\n";
    for request in [
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 5, 5\r\n\r\nhello"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        "GET / HTTP/1.1\nHost: a.test\n\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /#a HTTP/1.1\r\n{host}\r\n"),
        format!("GET /\u{e9} HTTP/1.1\r\n{host}\r\n"),
        format!("GET /a b HTTP/1.1\r\n{host}\r\n"),
    ] {
        let mut peer = gateway.connect().await;
        peer.send(&request).await;
        let got = peer.response_to("GET").await.unwrap();
        assert_eq!((got.status, got.header("connection")), (400, Some("close")), "{request:?}");
        assert_eq!(peer.end().await, End::Closed);
    }
    assert_eq!(server.count(), 0);
}

/// Pingora drops the name of a coding and keeps the coded bytes.
#[tokio::test]
async fn t6_other_codings_are_refused() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).start().await;
    for coding in ["gzip, chunked", "identity", "gzip", "x"] {
        let mut peer = gateway.connect().await;
        peer.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n")).await;
        assert_eq!(peer.response_to("POST").await.unwrap().status, 501, "{coding}");
    }
    assert_eq!(server.count(), 0);
}

/// Pingora lets `Connection` take away what we have set.
#[tokio::test]
async fn t7_connection_takes_away_nothing_of_ours() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).start().await;
    let managed = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Real-Ip",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "x-forwarded-FOR",
    ];
    for name in managed {
        let before = server.count();
        let got = gateway.connect().await.get("/", &format!("Connection: keep-alive, {name}\r\n")).await;
        if got.status == 400 {
            assert_eq!(server.count(), before, "{name}");
            continue;
        }
        assert_eq!(got.status, 200, "{name}");
        let received = server.last();
        for present in &managed[..6] {
            assert_eq!(received.all(present).len(), 1, "{present} after Connection: {name}: {}", received.head);
        }
    }
    gateway.connect().await.get("/", "Connection: Cookie, X-Mine\r\nCookie: a=b\r\nX-Mine: c\r\n").await;
    let received = server.last();
    assert_eq!((received.header("x-mine"), received.header("connection")), (None, None));
}

/// Pingora takes `te: trailers` away, which gRPC servers ask for.
#[tokio::test]
async fn t8_trailers_are_still_wanted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"message"), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        stream.send_trailers(trailers).unwrap();
        let te = request.headers().get("te").cloned();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        te
    });
    let gateway = Gateway::with(format!(
        "http: {{routers: {{all: {{rule: 'PathPrefix(`/`)', service: s}}}}, \
         services: {{s: {{loadBalancer: {{servers: [{{url: 'h2c://{address}'}}]}}}}}}}}"
    ))
    .await;
    let (client, connection) = soon(h2::client::handshake(gateway.connect().await.into_stream())).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://a.test/service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, _) = soon(client.ready()).await.unwrap().send_request(request, true).unwrap();
    let mut response = soon(response).await.unwrap();
    assert_eq!(soon(response.body_mut().data()).await.unwrap().unwrap(), "message");
    let trailers = soon(response.body_mut().trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(soon(seen).await.unwrap().unwrap(), "trailers");
}

/// A failed upgrade must not end the old process.
#[tokio::test]
async fn t9_a_bad_successor_changes_nothing() {
    let server = Server::says("ok").await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("portcullis");
    fs::hard_link(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
    let mut gateway = in_front_of(&server).program(&program).start().await;
    let mut peer = gateway.connect().await;
    assert_eq!(peer.get("/", "").await.text(), "ok");
    for script in ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nkill -9 $$\n", "no program at all"] {
        let bad = folder.path().join("bad");
        fs::write(&bad, script).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&bad, &program).unwrap();
        let said = gateway.command("upgrade").await;
        assert!(!said.trim().is_empty() && gateway.is_alive(), "{script}: {said}");
        assert_eq!(peer.get("/", "").await.text(), "ok");
        assert_eq!(gateway.connect().await.get("/", "").await.text(), "ok");
    }
}

/// Pingora's own hand-over has a socket in /tmp that everybody may write to.
#[tokio::test]
async fn t10_nobody_else_can_take_part() {
    let gateway = Gateway::with("").await;
    let control = gateway.folder().join("control");
    assert_eq!(fs::metadata(control).unwrap().permissions().mode() & 0o777, 0o600);
    let open = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!open.contains("pingora"), "{open}");
}

/// Pingora cuts idle connections and half heads when a drain begins.
#[tokio::test]
async fn t11_a_drain_serves_what_was_begun() {
    let server = Server::start(|received| match received.path() {
        "/held" => vec![Step::ReadBody, Step::WaitForTest, ok_bytes("held")],
        _ => ok("ok"),
    })
    .await;
    let mut gateway = in_front_of(&server).start().await;
    let mut half = gateway.connect().await;
    half.send("GET /half HTTP/1.1\r\nHo").await;
    let mut held = gateway.connect().await;
    held.send(get("/held")).await;
    server.until_count(1).await;
    gateway.signal(Signal::TERM);
    until(|| gateway.log().contains("\"draining\"")).await;
    half.send("st: a.test\r\n\r\n").await;
    let got = half.response_to("GET").await.unwrap();
    assert_eq!((got.text(), got.header("connection")), ("ok", Some("close")));
    server.go();
    assert_eq!(held.response_to("GET").await.unwrap().text(), "held");
    assert_eq!(gateway.ended().await, Some(0));
}

fn ok_bytes(text: &str) -> Step {
    Step::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes())
}

/// Pingora sleeps through the whole grace and ignores later signals.
#[tokio::test]
async fn t12_a_drain_ends_with_its_last_connection() {
    let server = Server::start(|_| vec![Step::ReadBody, Step::Hang]).await;
    let started = Instant::now();
    let mut idle = in_front_of(&server).flag("drain.timeout=60s").start().await;
    idle.signal(Signal::TERM);
    assert_eq!(idle.ended().await, Some(0));
    let mut busy = in_front_of(&server).flag("drain.timeout=60s").start().await;
    let mut peer = busy.connect().await;
    peer.send(get("/")).await;
    server.until_count(1).await;
    busy.signal(Signal::TERM);
    until(|| busy.log().contains("\"draining\"")).await;
    busy.signal(Signal::TERM);
    busy.ended().await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Pingora has no limit on connections and spins when descriptors run out.
#[tokio::test]
async fn t13_connections_have_a_limit() {
    let server = Server::says("ok").await;
    let gateway = in_front_of(&server).flag("entryPoints.web.limits.maxConnections=8").start().await;
    let mut first = gateway.connect().await;
    assert_eq!(first.get("/", "").await.text(), "ok");
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push(gateway.connect().await);
    }
    for _ in 0..20 {
        let mut refused = gateway.connect().await;
        match refused.response_to("GET").await {
            Ok(got) => assert_eq!((got.status, got.header("connection")), (503, Some("close"))),
            Err(end) => assert_eq!(end, End::Closed),
        }
    }
    assert_eq!(first.get("/", "").await.text(), "ok");
    drop(others);
    let by = Instant::now() + Duration::from_secs(8);
    loop {
        let mut peer = gateway.connect().await;
        peer.try_send(get("/")).await;
        if peer.response_to("GET").await.is_ok_and(|got| got.status == 200) {
            return;
        }
        assert!(Instant::now() < by, "no connection is taken again");
    }
}

/// Pingora tries sixteen times and waits for ever.
#[tokio::test]
async fn t14_a_request_is_sent_once() {
    let server = Server::start(|received| match received.path() {
        "/reset" => vec![Step::ReadBody, Step::Reset],
        _ => ok("ok"),
    })
    .await;
    let gateway = in_front_of(&server).start().await;
    for method in ["POST", "PATCH", "GET", "PUT"] {
        let before = server.count();
        let mut peer = gateway.connect().await;
        let request = format!("{method} /reset HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(peer.request(&request).await.status, 502);
        assert_eq!(server.count(), before + 1, "{method}");
    }
    // A pooled connection that the server has closed meanwhile: nobody has seen the request, unless it was sent.
    let closing = Server::start(|received: &Received| match received.turn {
        0 => ok("first"),
        _ => vec![Step::ReadBody, Step::Reset],
    })
    .await;
    let gateway = in_front_of(&closing).start().await;
    for _ in 0..5 {
        let mut peer = gateway.connect().await;
        assert_eq!(peer.get("/", "").await.text(), "first");
        let before = closing.count();
        let got = peer.request("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi").await;
        assert!(got.status == 502 || got.text() == "first", "{got:?}");
        assert_eq!(closing.count(), before + 1, "a POST was sent again");
    }
}

/// Pingora ends the connection with every error and drops pipelined requests.
#[tokio::test]
async fn t15_errors_keep_the_connection() {
    let server = Server::start(|received| match received.path() {
        "/reset" => vec![Step::ReadBody, Step::Reset],
        path => answer(200, "", path),
    })
    .await;
    let gateway = Gateway::with(format!(
        "http:
  routers:
    known: {{rule: 'PathPrefix(`/a`) || Path(`/reset`)', service: s}}
    guarded: {{rule: 'PathPrefix(`/a/guarded`)', priority: 100, service: s, middlewares: [login]}}
  middlewares:
    login: {{basicAuth: {{users: ['u:$2y$05$hEVFLmSCTJRlMQNGBQeVEezjQZyyJo/8iDDyvQ1T4fhLT8F6FZCW.']}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
",
        server.url()
    ))
    .await;
    let mut peer = gateway.connect().await;
    let requests = ["/a", "/none", "/a/guarded", "/reset", "/a/../a/b", "/none", "/a/c"];
    peer.send(requests.map(get).concat()).await;
    let mut statuses = Vec::new();
    for _ in requests {
        let got = peer.response_to("GET").await.unwrap();
        assert_eq!(got.header("connection"), Some("keep-alive"), "{}", got.head);
        statuses.push(got.status);
    }
    assert_eq!(statuses, [200, 404, 401, 502, 200, 404, 200]);
    assert_eq!(server.violations(), Vec::<String>::new());
}

/// Pingora closes at once, and the reset destroys the answer.
#[tokio::test]
async fn t16_whoever_still_sends_reads_the_answer() {
    let gateway = Gateway::with("").await;
    for round in 0..30 {
        let mut peer = gateway.connect().await;
        peer.send("POST /none HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\n\r\n").await;
        peer.try_send(vec![b'x'; 3_000_000]).await;
        assert_eq!(peer.response_to("POST").await.map(|got| got.status), Ok(404), "{round}");
    }
}

/// HTTP/2 settings of our own lose Pingora's limits.
#[tokio::test]
async fn t17_http2_settings_are_bounded() {
    let gateway = Gateway::with("").await;
    let mut peer = gateway.connect().await;
    peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let head = peer.bytes(9).await;
    assert_eq!(head[3], 4, "SETTINGS come first");
    let settings = peer.bytes(usize::from(head[1]) << 8 | usize::from(head[2])).await;
    let value = |id: u16| {
        settings
            .chunks(6)
            .find(|it| it[..2] == id.to_be_bytes())
            .map(|it| u32::from_be_bytes(it[2..].try_into().unwrap()))
    };
    assert!(value(3).is_some_and(|streams| streams <= 250), "MAX_CONCURRENT_STREAMS {:?}", value(3));
    assert!(value(6).is_some_and(|bytes| bytes <= 1 << 20), "MAX_HEADER_LIST_SIZE {:?}", value(6));
    assert!(value(5).is_none_or(|bytes| bytes <= 1 << 20), "MAX_FRAME_SIZE {:?}", value(5));
}

/// One feature of Pingora switches to a parser that checks nothing.
#[test]
fn t18_headers_are_parsed_with_checks() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What other platforms need was never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let core = nodes.iter().filter(|node| node["id"].as_str().unwrap().contains("pingora-core")).collect::<Vec<_>>();
    assert!(!core.is_empty());
    for node in nodes {
        let features = node["features"].as_array().unwrap();
        assert!(!features.iter().any(|feature| feature == "patched_http1"), "{}", node["id"]);
    }
}
