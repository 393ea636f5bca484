//! TLS to servers: which versions are spoken, who a server must be, and that nothing is shared between different demands.

use std::time::{Duration, Instant};

use crate::harness::gateway::Gateway;
use crate::harness::peer::{Peer, soon};
use crate::harness::server::{Server, Step, ok};
use crate::harness::tls::{Authority, Pair, quoted};

/// A server over TLS: a gateway in front of a plain one. Some of its names ask for more than others.
async fn secured(server: &Server, authority: &Authority) -> Gateway {
    let names = ["a.test", "old.test", "new.test", "known.test", "*.wild.test"];
    secured_with(server, authority, &authority.certify_with(&names, &["spiffe://a.test/b"])).await
}

/// One that shows this certificate.
async fn secured_with(server: &Server, authority: &Authority, pair: &Pair) -> Gateway {
    Gateway::with(format!(
        "http:
  routers:
    a: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}
    old: {{rule: 'Host(`old.test`)', service: s, tls: {{options: old}}}}
    new: {{rule: 'Host(`new.test`)', service: s, tls: {{options: new}}}}
    known: {{rule: 'Host(`known.test`)', service: s, tls: {{options: known}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  stores: {{default: {{defaultCertificate: {{certFile: {}, keyFile: {}}}}}}}
  options:
    old: {{maxVersion: VersionTLS12}}
    new: {{minVersion: VersionTLS13}}
    known: {{clientAuth: {{caFiles: [{}]}}}}
",
        server.url(),
        quoted(&pair.certificate),
        quoted(&pair.key),
        quoted(&authority.certificate),
    ))
    .await
}

/// A gateway with a router and a service for each of these transports, `/0`, `/1` and so on, all to one server.
async fn before(url: &str, transports: &[String], more: &str) -> Gateway {
    let each = |line: &dyn Fn(usize, &String) -> String| {
        transports.iter().enumerate().map(|(at, transport)| line(at, transport)).collect::<String>()
    };
    let routers = each(&|at, _| format!("    r{at}: {{rule: 'PathPrefix(`/{at}`)', service: s{at}}}\n"));
    let services = each(&|at, _| {
        format!("    s{at}: {{loadBalancer: {{servers: [{{url: '{url}'}}], serversTransport: t{at}{more}}}}}\n")
    });
    let transports = each(&|at, transport| format!("    t{at}: {{{transport}}}\n"));
    Gateway::with(format!("http:\n  routers:\n{routers}  services:\n{services}  serversTransports:\n{transports}"))
        .await
}

#[tokio::test]
async fn servers_are_who_they_must_be() {
    let (server, authority, stranger) = (Server::says("hello").await, Authority::new(), Authority::new());
    let inner = secured(&server, &authority).await;
    let ca = format!("rootCAs: [{}]", quoted(&authority.certificate));
    let strange = format!("rootCAs: [{}]", quoted(&stranger.certificate));
    let own = authority.certify(&["client.test"]);
    let own = format!("certificates: [{{certFile: {}, keyFile: {}}}]", quoted(&own.certificate), quoted(&own.key));
    let table = [
        ("a.test", ca.clone(), 200),
        ("a.test", strange.clone(), 502),
        ("a.test", format!("{ca}, peerCertURI: 'SPIFFE://a.test/b'"), 200),
        ("a.test", format!("{ca}, peerCertURI: 'spiffe://a.test/c'"), 502),
        ("a.test", format!("{strange}, peerCertURI: 'spiffe://a.test/b'"), 502),
        ("b.test", format!("{ca}, peerCertURI: 'spiffe://a.test/b'"), 502),
        // The name is not verified, everything else is.
        ("b.test", format!("{ca}, insecureSkipVerify: true, peerCertURI: 'spiffe://a.test/b'"), 200),
        ("b.test", format!("{ca}, insecureSkipVerify: true, peerCertURI: 'spiffe://a.test/c'"), 502),
        ("b.test", format!("{strange}, insecureSkipVerify: true, peerCertURI: 'spiffe://a.test/b'"), 502),
        (
            "a.test",
            format!("{ca}, peerCertSANs: [{{type: URI, value: 'x:y'}}, {{type: DNS, value: b.wild.test}}]"),
            200,
        ),
        ("a.test", format!("{ca}, peerCertSANs: [{{type: URI, value: 'x:y'}}, {{type: DNS, value: wild.test}}]"), 502),
        ("old.test", format!("{ca}, minVersion: VersionTLS13"), 502),
        ("old.test", format!("{ca}, maxVersion: VersionTLS12"), 200),
        ("new.test", format!("{ca}, maxVersion: VersionTLS12"), 502),
        ("new.test", format!("{ca}, minVersion: VersionTLS13"), 200),
        ("new.test", "insecureSkipVerify: true, minVersion: VersionTLS13".to_owned(), 200),
        ("old.test", format!("{ca}, cipherSuites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305]"), 200),
        ("old.test", format!("{ca}, cipherSuites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]"), 502),
        ("known.test", format!("{ca}, minVersion: VersionTLS13, {own}"), 200),
        ("known.test", format!("{ca}, minVersion: VersionTLS13"), 502),
        // The authorities of the system do not know it.
        ("a.test", "insecureSkipVerify: false".to_owned(), 502),
        // A wildcard stands for one label.
        ("b.wild.test", ca.clone(), 200),
        ("c.b.wild.test", ca.clone(), 502),
        ("wild.test", ca.clone(), 502),
    ];
    let transports: Vec<_> = table.iter().map(|(name, rest, _)| format!("serverName: {name}, {rest}")).collect();
    let outer = before(&format!("https://{}", inner.address()), &transports, "").await;
    // Again, when connections wait with those that were good.
    for turn in 0..2 {
        for (at, (name, _, expected)) in table.iter().enumerate() {
            let mut peer = outer.connect().await;
            peer.send(format!("GET /{at} HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
            let answer = peer.response_to("GET").await.unwrap();
            assert_eq!(answer.status, *expected, "turn {turn}: {}\n{}", transports[at], outer.log());
        }
    }
    let line = inner.logged(|line| line["RequestPath"] == "/16").await;
    assert_eq!(
        (&line["TLSVersion"], &line["TLSCipher"]),
        (&"1.2".into(), &"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256".into())
    );
}

/// Envoy CVE-2025-66220: a name that ends at a NUL for some readers, and is another's for the authority.
#[tokio::test]
async fn a_name_with_a_nul_in_it_is_not_the_one_before_it() {
    let (server, authority) = (Server::says("hello").await, Authority::new());
    for names in [&["a.test\0.evil.test"][..], &["evil.test", "a.test\0.evil.test"]] {
        let inner = secured_with(&server, &authority, &authority.certify(names)).await;
        let trusts = format!("rootCAs: [{}]", quoted(&authority.certificate));
        let transports =
            [format!("serverName: a.test, {trusts}"), "serverName: a.test, insecureSkipVerify: true".to_owned()];
        let outer = before(&format!("https://{}", inner.address()), &transports, "").await;
        for (path, expected) in [("/0", 502), ("/1", 200)] {
            assert_eq!(outer.connect().await.get(path, "").await.status, expected, "{names:?} {path}: {}", outer.log());
        }
    }
}

/// A server that takes a connection and says nothing costs the time for connecting, as one that does not take it.
#[tokio::test]
async fn a_server_that_says_nothing_in_the_handshake_costs_its_time_and_no_more() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silence = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let lax = |more: &str| format!("insecureSkipVerify: true, forwardingTimeouts: {{dialTimeout: 500ms}}{more}");
    let gateway = before(&format!("https://{address}"), &[lax(""), lax(", disableHTTP2: true")], "").await;
    for path in ["/0", "/1"] {
        let began = Instant::now();
        let answer = gateway.connect().await.get(path, "").await;
        let took = began.elapsed();
        assert_eq!((answer.status, answer.header("x-portcullis-error")), (504, Some("connect-timeout")), "{path}");
        assert!(took >= Duration::from_millis(490) && took < Duration::from_secs(5), "{path}: {took:?}");
    }
    let gateway = Gateway::with(format!(
        "tcp:\n  routers: {{t: {{rule: 'HostSNI(`*`)', service: t}}}}\n  \
         services: {{t: {{loadBalancer: {{servers: [{{address: '{address}', tls: true}}], serversTransport: t}}}}}}\n  \
         serversTransports: {{t: {{dialTimeout: 500ms, tls: {{insecureSkipVerify: true}}}}}}\n"
    ))
    .await;
    let began = Instant::now();
    let mut peer = gateway.connect().await;
    peer.send("data").await;
    assert_eq!(soon(peer.rest()).await.0, b"");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    silence.abort();
}

#[tokio::test]
async fn authorities_that_are_replaced_count_without_a_reload() {
    let (server, authority, stranger) = (Server::says("hello").await, Authority::new(), Authority::new());
    let inner = secured(&server, &authority).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, &stranger.certificate).unwrap();
    let transport = format!("serverName: a.test, rootCAs: [{path:?}]");
    let outer = before(&format!("https://{}", inner.address()), &[transport], "").await;
    let status = async || {
        let mut peer = outer.connect().await;
        peer.send("GET /0 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        peer.response_to("GET").await.unwrap().status
    };
    assert_eq!(status().await, 502);
    std::fs::write(&path, &authority.certificate).unwrap();
    soon(async {
        while status().await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // One that went bad leaves the last good one in force.
    std::fs::write(&path, "garbage").unwrap();
    soon(async {
        while !outer.log().contains("stays in force") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn websockets_and_probes_have_the_same_demands() {
    let server = Server::start(|seen| match seen.path() {
        "/0" => vec![
            Step::Send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            ),
            Step::Echo,
        ],
        _ => ok("well"),
    })
    .await;
    let authority = Authority::new();
    let inner = secured(&server, &authority).await;
    let ca = format!("serverName: a.test, rootCAs: [{}]", quoted(&authority.certificate));
    let transports = ["spiffe://a.test/b", "spiffe://a.test/c"]
        .map(|uri| format!("{ca}, peerCertURI: '{uri}', minVersion: VersionTLS13"));
    let url = format!("https://{}", inner.address());
    let outer = before(&url, &transports, ", healthCheck: {path: /health, interval: 100ms}").await;
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    // Which of two things came first was drawn by lot once.
    for _ in 0..10 {
        let mut peer = Peer::connect(outer.address()).await;
        peer.send(upgrade("/0")).await;
        assert_eq!(peer.response_to("GET").await.unwrap().status, 101, "{}", outer.log());
        peer.send("there and back").await;
        assert_eq!(peer.bytes(14).await, b"there and back");
    }
    // The probes see that the other one is somebody else.
    soon(async {
        loop {
            let mut peer = Peer::connect(outer.address()).await;
            peer.send(upgrade("/1")).await;
            match peer.response_to("GET").await.unwrap().status {
                502 => tokio::time::sleep(Duration::from_millis(20)).await,
                status => break assert_eq!(status, 503),
            }
        }
    })
    .await;
    let mut peer = Peer::connect(outer.address()).await;
    peer.send(upgrade("/0")).await;
    assert_eq!(peer.response_to("GET").await.unwrap().status, 101, "the good one stays");
}

/// Nginx CVE-2026-1642: what a server says before the handshake is nobody's answer.
#[tokio::test]
async fn a_server_that_speaks_before_the_handshake_is_not_heard() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let speaking = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                // It hears nothing.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    let transports =
        ["insecureSkipVerify: true".to_owned(), "insecureSkipVerify: true, disableHTTP2: false".to_owned()];
    let gateway = before(&format!("https://{address}"), &transports, "").await;
    for at in 0..transports.len() {
        let answer = gateway.connect().await.get(&format!("/{at}"), "").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(!answer.text().contains("evil"));
    }
    speaking.abort();
}
