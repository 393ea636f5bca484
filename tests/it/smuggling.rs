//! Requests that two parsers could read in two ways: each is refused, or read as exactly one request.

use portcullis::exchange::Fault;

use crate::harness::door::door;
use crate::harness::peer::{End, Peer};

/// What follows each vector on the same connection; it must never be seen after a refusal.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a.test\r\n\r\n")
}

fn host(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Vectors that are refused at the head, with the status (RFC 9112 §3, §5, §6 and RFC 9110 §7, §10).
fn refused() -> Vec<(String, u16)> {
    let mut vectors = vec![
        (post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 4", "5c\r\n"), 400),
        (post("Content-Length: 6\r\nConnection: close\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (post("Content-Length: 5\r\nContent-Length: 5", "hello"), 400),
        (post("Content-Length: 5\r\nContent-Length: 6", "hello"), 400),
        (post("Transfer-Encoding: chunked\r\nTransfer-encoding: cow", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding : chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 501),
        (post("Transfer-Encoding: identity", ""), 501),
        (post("Transfer-Encoding: xchunked", ""), 501),
        (post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding:\n chunked", "0\r\n\r\n"), 400),
        (post("X: y\r\n Transfer-Encoding: chunked", ""), 400),
        (post("X: x\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (post("X: x\rTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (post("X: a\0b", ""), 400),
        (post("X\0: a", ""), 400),
        (post(": x", ""), 400),
        (post("no colon", ""), 400),
        (post("Host: b.test", ""), 400),
        (post("Connection: host", ""), 400),
        (post("Connection: content-length\r\nContent-Length: 0", ""), 400),
        (post("Connection: X-Forwarded-For", ""), 400),
        (post("Expect: 200-ok", ""), 417),
        (line("GET / HTTP/1.1 HTTP/1.1"), 400),
        (line("GET /a b HTTP/1.1"), 400),
        (line("GET\t/ HTTP/1.1"), 400),
        (line("GET /#x HTTP/1.1"), 400),
        (line("GET /\u{fc} HTTP/1.1"), 400),
        (line("GET http://other.test/ HTTP/1.1"), 400),
        (line("GET / HTTP/3.0"), 505),
        (line("CONNECT a.test:443 HTTP/1.1"), 405),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: a.test\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a.test\n\r\n".to_owned(), 400),
        ("\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 400),
        ("\r\n".repeat(100), 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        (line(&format!("GET /{} HTTP/1.1", "a".repeat(64 << 10))), 414),
        (line(&format!("{} / HTTP/1.1", "A".repeat(100_000))), 400),
        (post(&format!("X: {}", "x".repeat(70_000)), ""), 431),
        (post(&["A: b"; 101].join("\r\n"), ""), 431),
    ];
    for value in ["", "+5", "-5", "0x5", "5_0", "5e0", "05", "5 5", "5, 5", "18446744073709551616", "5\u{b}"] {
        vectors.push((post(&format!("Content-Length: {value}"), "hello"), 400));
    }
    for value in ["", "a,b", "a:b:80", "a:x", "a:99999", "a/..", "u@a", "a%00b", "[::1%25eth0]", "::1"] {
        vectors.push((host(value), 400));
    }
    vectors
}

#[tokio::test]
async fn refused_heads_end_the_connection() {
    let door = door(|options| options.limits.head_bytes = 64 << 10);
    let vectors = refused();
    for (vector, status) in &vectors {
        let mut peer = Peer::connect(door.address()).await;
        peer.try_send(format!("{vector}{NEXT}")).await;
        let answer = peer.answer().await;
        assert_eq!(answer.status, *status, "{:.200}", vector.escape_debug());
        assert_eq!(answer.header("connection"), Some("close"));
        let (rest, end) = peer.rest().await;
        assert_eq!((rest.as_slice(), end), (&b""[..], End::Closed), "{:.200}", vector.escape_debug());
    }
    assert_eq!(door.app.count(), 0, "{:?}", door.app.seen.lock().unwrap());
    assert_eq!(door.faults().len(), vectors.len());
}

#[tokio::test]
async fn the_verdict_does_not_depend_on_segments() {
    let door = door(|options| options.limits.head_bytes = 64 << 10);
    for (vector, status) in refused().iter().filter(|(vector, _)| vector.len() < 200) {
        let mut peer = Peer::connect(door.address()).await;
        peer.drip(vector).await;
        assert_eq!(peer.answer().await.status, *status, "{}", vector.escape_debug());
    }
    assert_eq!(door.app.count(), 0);
}

#[tokio::test]
async fn broken_chunks_never_become_requests() {
    let door = door(|_| {});
    let bodies = [
        "\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n",
        "5_0\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "12345678901234567\r\n",
        "8000000000000000\r\n",
        "5;\r\nhello\r\n",
        "Z\r\n",
        "5;\nhello\r\n",
        "5;a\rb\r\n",
        "5\r\r;a\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXY0\r\n\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX : y\r\n\r\n",
    ];
    for body in bodies {
        let mut peer = Peer::connect(door.address()).await;
        peer.try_send(format!("{}{NEXT}", post("Transfer-Encoding: chunked", body))).await;
        let (rest, _) = peer.rest().await;
        assert!(rest.is_empty(), "{}: {}", body.escape_debug(), rest.escape_ascii());
    }
    assert_eq!(door.app.count(), 0, "{:?}", door.app.seen.lock().unwrap());
    let failures = door.app.read_failed.lock().unwrap();
    assert_eq!(*failures, vec![Some(Fault::BadRequest); bodies.len()]);
}

#[tokio::test]
async fn odd_but_clear_requests_are_read_once() {
    let door = door(|_| {});
    for (vector, body) in [
        (post("Transfer-Encoding: Chunked", "05\r\nhello\r\n00\r\n\r\n"), "hello"),
        (
            post("Transfer-Encoding:\tchunked ", "5;a=b\r\nhello\r\n0;c\r\nHost: b\r\nContent-Length: 9\r\n\r\n"),
            "hello",
        ),
        (post("Content-Length: 5", "GET /"), "GET /"),
        (format!("\r\n{}", post("Content-Length: 0", "")), ""),
        (host("A.test."), ""),
        (host("[::ffff:127.0.0.1]:80"), ""),
        (line("OPTIONS * HTTP/1.1"), ""),
        (format!("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{NEXT}", NEXT.len()), NEXT),
    ] {
        let before = door.app.count();
        let mut peer = Peer::connect(door.address()).await;
        peer.send(format!("{vector}{NEXT}")).await;
        assert_eq!(peer.answer().await.status, 200, "{}", vector.escape_debug());
        assert_eq!(peer.answer().await.text(), "GET /next 0", "{}", vector.escape_debug());
        let seen = door.app.seen.lock().unwrap();
        assert_eq!(seen.len(), before + 2);
        assert_eq!(seen[before].body, body.as_bytes());
    }
}

/// RFC 9110 §7.8: what follows a request to change the protocol waits for the answer to it.
#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_the_next_request() {
    let door = door(|_| {});
    let mut peer = Peer::connect(door.address()).await;
    peer.send(format!("GET /no HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n{NEXT}")).await;
    assert_eq!(peer.answer().await.text(), "GET /no 0");
    assert_eq!(peer.answer().await.text(), "GET /next 0");
}
