//! WebSockets, with and without TLS on both sides: what is said on them, their first request, their end, and what they outlive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::grpc::{Wire, gateway, wire};
use crate::harness::gateway::Gateway;
use crate::harness::others::{Others, Program};
use crate::harness::peer::{Peer, until};
use crate::harness::server::{Server, Step, ok};
use crate::harness::tls::{Authority, quoted, shake_hands};

/// A client and a server that others wrote: messages of all kinds, extensions, and the codes by which both sides end.
#[tokio::test]
async fn a_client_and_a_server_of_others() {
    let authority = Authority::new();
    let pair = authority.certify(&["a.test"]);
    for server_pair in [None, Some(&pair)] {
        let Some(server) = Others::start(Program::WebSockets, server_pair).await else { return };
        let scheme = if server_pair.is_some() { "https" } else { "http" };
        let gateway = gateway(&format!("servers: [{{url: '{scheme}://{}'}}]", server.address()), "", &authority).await;
        for tls in [None, Some(&authority)] {
            let said = Program::WebSockets.call(&gateway.address().to_string(), tls).await;
            let expected = "\
subprotocol a extensions permessage-deflate
text hü
binary 1048576
fragments abc
pong
the server saw 4001 bye
the client saw 4002 enough
the client saw without a word
";
            assert_eq!(said, expected, "TLS: {} {scheme}\n{}", tls.is_some(), gateway.log());
        }
    }
}

/// A server that changes the protocol and then returns what it gets.
async fn echo() -> Server {
    Server::start(|request| {
        match request.path() {
            "/held" => return vec![Step::Hang],
            "/plain" => return ok("plain"),
            _ => {}
        }
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: a\r\n\r\n";
        vec![Step::Send(head.into()), Step::Echo]
    })
    .await
}

/// Opens one through `web`.
async fn open(gateway: &Gateway, tls: Option<&Authority>) -> Peer<Box<dyn Wire>> {
    let mut peer = Peer::of(wire(gateway, tls, "http/1.1").await);
    peer.send(
        "GET /ws?a=b HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nOrigin: https://page.test\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: b, a\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nCookie: c=d\r\nX-Forwarded-Proto: forged\r\n\r\n",
    )
    .await;
    let answer = peer.response_to("GET").await.expect("an answer");
    assert_eq!(
        (answer.status, answer.header("upgrade")),
        (101, Some("websocket")),
        "{}\n{}",
        answer.head,
        gateway.log()
    );
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.header("sec-websocket-protocol"), Some("a"));
    peer
}

async fn talk(peer: &mut Peer<Box<dyn Wire>>, text: &str) {
    peer.send(text).await;
    assert_eq!(peer.bytes(text.len()).await, text.as_bytes());
}

/// The first request says to the server how the client came: `ws` or `wss`, and all that the client wanted to be known.
#[tokio::test]
async fn the_server_knows_who_asks() {
    let (server, authority) = (echo().await, Authority::new());
    let gateway = gateway(&format!("servers: [{{url: '{}'}}]", server.url()), "", &authority).await;
    for (tls, proto, port) in [(None, "ws", "80"), (Some(&authority), "wss", "443")] {
        let mut peer = open(&gateway, tls).await;
        talk(&mut peer, "hello").await;
        let request = server.last();
        assert_eq!(request.line(), "GET /ws?a=b HTTP/1.1");
        for (name, value) in [
            ("host", "a.test"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("origin", "https://page.test"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "b, a"),
            ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
            ("cookie", "c=d"),
            ("x-forwarded-proto", proto),
            ("x-forwarded-port", port),
            ("x-forwarded-host", "a.test"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
        ] {
            assert_eq!(request.all(name), [value], "{name}: {}", request.head);
        }
    }
}

/// A server over TLS that would rather speak HTTP/2 is asked in HTTP/1.1 for another protocol.
#[tokio::test]
async fn a_server_that_prefers_http2() {
    let (server, authority) = (echo().await, Authority::new());
    let inner = gateway(&format!("servers: [{{url: '{}'}}]", server.url()), "", &authority).await;
    let outer = gateway(&format!("servers: [{{url: 'https://{}'}}]", inner.address()), "", &authority).await;
    assert_eq!(outer.connect().await.get("/plain", "").await.text(), "plain", "{}", outer.log());
    let line = inner.logged(|line| line["RequestPath"] == "/plain").await;
    assert_eq!(line["RequestProtocol"], "HTTP/2.0", "otherwise it gets its wish");
    for tls in [None, Some(&authority)] {
        let mut peer = open(&outer, tls).await;
        talk(&mut peer, "there and back").await;
        drop(peer);
    }
    // One waits for more like `/plain`.
    until(|| server.open() == 1).await;
}

/// Reloads take away its route and its certificate; it goes on.
#[tokio::test]
async fn secured_ones_outlive_route_and_certificate() {
    let (server, authority, stranger) = (echo().await, Authority::new(), Authority::new());
    let text = |authority: &Authority, router: &str| {
        let pair = authority.certify(&["a.test"]);
        let (certificate, key) = (quoted(&pair.certificate), quoted(&pair.key));
        format!(
            "http:
  routers: {{all: {{rule: '{router}', service: s, tls: {{}}}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
tls: {{certificates: [{{certFile: {certificate}, keyFile: {key}}}]}}
",
            server.url()
        )
    };
    let gateway = Gateway::with(text(&authority, "Path(`/ws`)")).await;
    let mut peer = open(&gateway, Some(&authority)).await;
    talk(&mut peer, "before").await;
    for (authority, router) in
        [(&authority, "Path(`/other`)"), (&stranger, "Path(`/ws`)"), (&stranger, "Path(`/none`)")]
    {
        gateway.apply(&text(authority, router)).await;
        talk(&mut peer, "after").await;
    }
    // New ones see what is new.
    let client = |authority: &Authority| Arc::new(authority.client(&["http/1.1"], None));
    assert!(shake_hands(&client(&authority), gateway.address(), "a.test").await.is_err());
    assert!(shake_hands(&client(&stranger), gateway.address(), "a.test").await.is_ok());
}

/// When the process stops, a WebSocket has its time, longer than that of requests; then it is cut.
#[tokio::test]
async fn a_stop_lets_them_have_their_time() {
    let (server, authority) = (echo().await, Authority::new());
    let pair = authority.certify(&["a.test"]);
    for tls in [None, Some(&authority)] {
        let mut gateway = Gateway::setup()
            .flag("drain.idleSpread=100ms")
            .flag("drain.timeout=100ms")
            .flag("drain.webSocketTimeout=1500ms")
            .dynamic(format!(
                "http:
  routers:
    plain: {{rule: 'PathPrefix(`/`)', service: s}}
    secured: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}}}
tls: {{stores: {{default: {{defaultCertificate: {{certFile: {}, keyFile: {}}}}}}}}}
",
                server.url(),
                quoted(&pair.certificate),
                quoted(&pair.key)
            ))
            .start()
            .await;
        let mut peer = open(&gateway, tls).await;
        let mut held = gateway.connect().await;
        held.send("GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        until(|| server.last().path() == "/held").await;
        let told = Instant::now();
        gateway.signal(Signal::TERM);
        held.end().await;
        talk(&mut peer, "still here when requests are cut").await;
        peer.end().await;
        assert!(told.elapsed() >= Duration::from_millis(1500), "after {:?}", told.elapsed());
        assert_eq!(gateway.ended().await, Some(0));
    }
}
