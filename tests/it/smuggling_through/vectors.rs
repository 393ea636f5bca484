//! Requests that two parsers could read in two ways, by family.

/// What must become of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Refused, and the connection ends.
    Refused,
    /// One canonical request; the connection goes on.
    Once,
    /// Either of the two.
    Either,
}
pub(super) use Verdict::{Either, Once, Refused};

pub(super) struct Vector {
    pub(super) bytes: Vec<u8>,
    pub(super) verdict: Verdict,
}

pub(super) fn vector(bytes: impl AsRef<[u8]>, verdict: Verdict) -> Vector {
    Vector { bytes: bytes.as_ref().to_vec(), verdict }
}

/// A POST with these fields and this body. `{n}` in the path is filled in when it is sent.
pub(super) fn post(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>, verdict: Verdict) -> Vector {
    let head = b"POST /v{n} HTTP/1.1\r\nHost: a.test\r\n";
    vector([&head[..], fields.as_ref(), b"\r\n\r\n", body.as_ref()].concat(), verdict)
}

pub(super) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\nX: ";
pub(super) const CHUNKED: &str = "Transfer-Encoding: chunked";

/// Content-Length against Transfer-Encoding, both ways, in either order (RFC 9112 §6.1).
fn both_lengths() -> Vec<Vector> {
    let mut all = Vec::new();
    let whole = format!("0\r\n\r\n{SMUGGLED}");
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    for (length, body) in [(whole.len(), &whole), (4, &chunk), (0, &whole), (5, &whole), (chunk.len(), &chunk)] {
        for (first, second) in [("Content-Length: {l}", CHUNKED), (CHUNKED, "Content-Length: {l}")] {
            for extra in ["", "\r\nConnection: close", "\r\nConnection: keep-alive"] {
                let fields = format!("{first}\r\n{second}{extra}").replace("{l}", &length.to_string());
                all.push(post(fields, body, Refused));
            }
        }
    }
    all
}

fn lengths() -> Vec<Vector> {
    let long = "1".repeat(100);
    let zeros = format!("{}5", "0".repeat(20));
    let mut all = Vec::new();
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "0x5",
        "0o5",
        "5_0",
        "5e0",
        "5.0",
        "05",
        &zeros,
        "5 5",
        "5, 6",
        "5, 5",
        "5,5",
        ",5",
        "5,",
        "9223372036854775808",
        "18446744073709551616",
        &long,
        "5\u{b}",
        "5\u{c}",
        "\"5\"",
        "5;",
        "five",
        "\u{ff15}",
    ] {
        all.push(post(format!("Content-Length: {value}"), "hello", Refused));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length:\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 5",
        "Content-Length: 0\r\nContent-Length: 5",
    ] {
        all.push(post(fields, "hello", Refused));
    }
    all.push(post("Content-Length:\t5", "hello", Either));
    all.push(post("Content-Length: 5 ", "hello", Either));
    all.push(post("Content-Length:5", "hello", Once));
    // A body that looks like a request is a body.
    all.push(post(format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED, Once));
    all
}

fn codings() -> Vec<Vector> {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let mut all = Vec::new();
    for value in [
        "xchunked",
        "chunked x",
        "cow, chunked",
        "chunked, cow",
        "identity",
        "gzip, chunked",
        ",chunked",
        "chunked,",
        "chunked, chunked",
        "",
        "\"chunked\"",
        "'chunked'",
        "chunk",
        "chunked;q=1",
        "=?utf-8?B?Y2h1bmtlZA==?=",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{c}",
        "chunked\0",
        "\0chunked",
        "chunked\u{7f}",
        "\u{a0}chunked",
        "chunked\u{85}",
        "chunked\r",
        "identity, chunked",
        "chunked identity",
        "deflate",
        "x-chunked",
        "trailers",
        "chunked\u{2028}",
    ] {
        all.push(post(format!("Transfer-Encoding: {value}"), body, Refused));
    }
    for byte in [0x80_u8, 0xa0, 0xff] {
        all.push(post([b"Transfer-Encoding: ", &[byte][..], b"chunked"].concat(), body, Refused));
        all.push(post([b"Transfer-Encoding: chunked", &[byte][..]].concat(), body, Refused));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    ] {
        all.push(post(fields, body, Refused));
    }
    for value in ["Chunked", "CHUNKED", "chunked ", "\tchunked", "chunked\t"] {
        all.push(post(format!("Transfer-Encoding: {value}"), body, Once));
    }
    all.push(vector(format!("POST /v{{n}} HTTP/1.0\r\nHost: a.test\r\n{CHUNKED}\r\n\r\n{body}"), Refused));
    all
}

fn names() -> Vec<Vector> {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let mut all = Vec::new();
    for field in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding\u{b}: chunked",
        "Transfer-Encoding\0: chunked",
        "\0Transfer-Encoding: chunked",
        "\u{feff}Transfer-Encoding: chunked",
        "Transfer\u{a0}Encoding: chunked",
        "Transfer\u{ad}-Encoding: chunked",
        "Transfer-Encoding\u{85}: chunked",
        "Transfer\\-Encoding: chunked",
        ": x",
        " : x",
        "no colon",
        "Content-Length 10",
        "Content-Length",
        "\"Transfer-Encoding\": chunked",
        "Transfer-Encoding(: chunked",
        "Transfer/Encoding: chunked",
        "Transfer-Encoding: chunked\r\n : x",
        "{}: x",
        "X@Y: x",
    ] {
        all.push(post(field, body, Refused));
    }
    // Legal names that are not the one: the body is then no body, and what follows would be the next request.
    for field in ["Transfer_Encoding: chunked", "Transfer.Encoding: chunked", "Transfer-%45ncoding: chunked"] {
        all.push(post(field, "", Either));
    }
    all
}

fn line_ends() -> Vec<Vector> {
    let mut all = Vec::new();
    for whole in [
        "GET /v{n} HTTP/1.1\nHost: a.test\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\n\n",
        "GET /v{n} HTTP/1.1\nHost: a.test\n\n",
        "GET /v{n} HTTP/1.1\rHost: a.test\r\r",
        "GET /v{n} HTTP/1.1\r\r\nHost: a.test\r\n\r\n",
        "GET /v{n} HTTP/1.1\n\r\nHost: a.test\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost: a.test\r\nX: a\r\n\tb\r\n\r\n",
        "GET /v{n} HTTP/1.1\r\nHost:\r\n a.test\r\n\r\n",
        "POST /v{n} HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n 5\r\n\r\nhello",
        "POST /v{n} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "POST /v{n} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n",
        "POST /v{n} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20\r\n\nGET /smuggled HTTP/1.1\r\n\r\n",
    ] {
        all.push(vector(whole, Refused));
    }
    all
}

fn chunk_sizes() -> Vec<Vector> {
    let mut all = Vec::new();
    for size in [
        "",
        "0x5",
        "+5",
        "-5",
        "5_0",
        " 5",
        "5 ",
        "5\t",
        "12345678901234567",
        "8000000000000000",
        "ffffffffffffffff",
        "5;",
        "Z",
        "0_2e",
        "5G",
        "5,",
        "\u{ff15}",
        "5\0",
        "5\u{b}",
        "5 ;a",
        "5; a",
        "00000000000000005",
    ] {
        all.push(post(
            CHUNKED,
            format!("{size}\r\nhello\r\n0\r\n\r\n"),
            if size.contains(' ') { Either } else { Refused },
        ));
    }
    for body in [
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\r;a\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXY0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "0\n\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "5;a=\"\0\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\u{7f}\r\nhello\r\n0\r\n\r\n",
        "5;a=b\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n0\r\n\r\n",
        "2;\n05\r\nhello\r\n0\r\n\r\n",
    ] {
        all.push(post(CHUNKED, body, Refused));
    }
    let extension = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "x".repeat(65_536));
    all.push(post(CHUNKED, extension, Refused));
    for body in [
        "05\r\nhello\r\n00\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "0\r\n\r\n",
        "A\r\nGET / HTTP\r\n0\r\n\r\n",
        "a\r\nGET / HTTP\r\n0\r\n\r\n",
    ] {
        all.push(post(CHUNKED, body, Once));
    }
    for trailer in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: b.test",
        "Authorization: Basic eDp4",
        "Cookie: a=b",
        "X-Forwarded-For: 10.0.0.1",
        "Content-Type: text/html",
        "X-Trailer: y",
        "Connection: close",
        "Trailer: x",
    ] {
        all.push(post(CHUNKED, format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"), Either));
    }
    all.push(post(CHUNKED, format!("0\r\nX: {}\r\n\r\n", "x".repeat(66_560)), Refused));
    all
}

fn request_lines() -> Vec<Vector> {
    let mut all = Vec::new();
    let long = "A".repeat(100_000);
    let line = |line: &str, verdict| vector(format!("{line}\r\nHost: a.test\r\n\r\n"), verdict);
    for refused in [
        "GET /v{n}",
        "GET /v{n} HTTP/1.32",
        "GET /v{n} http/1.1",
        "GET /v{n} HTTP/01.1",
        "GET /v{n} HTTP/1.1 HTTP/1.1",
        "GET\t/v{n}\tHTTP/1.1",
        "GET  /v{n} HTTP/1.1",
        "GET /v{n}  HTTP/1.1",
        "GET /v{n} HTTP/1.1 ",
        " GET /v{n} HTTP/1.1",
        "GET /v{n} a HTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "/v{n} HTTP/1.1",
        "GET /v{n} HTTP/2.0",
        "GET /v{n} HTTP/3",
        "GET /v{n} HTTP/0.9",
        "GET /v{n} HTTPS/1.1",
        "GET /v{n} HTTP/1,1",
        "G\0T /v{n} HTTP/1.1",
        "G(T /v{n} HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /v{n}\u{b}HTTP/1.1",
        "GET /v{n} HTTP/1.1\0",
        // Targets.
        "GET /v{n}#f HTTP/1.1",
        "GET /v{n}\u{e9} HTTP/1.1",
        "GET /v{n}\0 HTTP/1.1",
        "GET /v{n}\u{7f} HTTP/1.1",
        "GET http://other.test/v{n} HTTP/1.1",
        "GET http:/\\a.test/v{n} HTTP/1.1",
        "GET http://u@a.test/v{n} HTTP/1.1",
        "GET http://a.test:80:80/v{n} HTTP/1.1",
        "GET a.test:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET v{n} HTTP/1.1",
        "GET ?v{n} HTTP/1.1",
        "CONNECT a.test:80 HTTP/1.1",
        "CONNECT /v{n} HTTP/1.1",
    ] {
        all.push(line(refused, Refused));
    }
    all.push(line(&format!("{long} /v{{n}} HTTP/1.1"), Refused));
    all.push(line(&format!("GET /v{{n}}{long} HTTP/1.1"), Refused));
    all.push(vector("GET /v{n}\r\n", Refused));
    all.push(vector("\r\nGET /v{n} HTTP/1.1\r\nHost: a.test\r\n\r\n", Once));
    all.push(vector(format!("{}GET /v{{n}} HTTP/1.1\r\nHost: a.test\r\n\r\n", "\r\n".repeat(100)), Refused));
    for once in ["get /v{n} HTTP/1.1", "GET http://a.test/v{n} HTTP/1.1", "GET HTTP://A.test/v{n} HTTP/1.1"] {
        all.push(line(once, Either));
    }
    for either in [
        "GET //evil.test/v{n} HTTP/1.1",
        "GET /v{n}%00 HTTP/1.1",
        "GET /v{n}%0d%0aX:%20y HTTP/1.1",
        "GET /v{n}%c0%af HTTP/1.1",
        "GET /v{n}\\..\\x HTTP/1.1",
        "GET /v{n};a=b HTTP/1.1",
        "GET /v{n}? HTTP/1.1",
        "GET /v{n}?a=%0d%0aX:%20y HTTP/1.1",
        "GET /v{n}?a b HTTP/1.1",
        "GET /v{n}% HTTP/1.1",
        "GET /v{n}<>\" HTTP/1.1",
        "GET /v{n}?<>\"|^` HTTP/1.1",
    ] {
        all.push(line(either, Either));
    }
    all
}

fn hosts() -> Vec<Vector> {
    let mut all = Vec::new();
    let host = |fields: &str, verdict| vector(format!("GET /v{{n}} HTTP/1.1\r\n{fields}\r\n"), verdict);
    all.push(host("", Refused));
    all.push(host("Host: a.test\r\nHost: a.test\r\n", Refused));
    all.push(host("Host: a.test\r\nhost: b.test\r\n", Refused));
    for value in [
        "",
        "a,b",
        "a:b:80",
        "a:x",
        "a:99999",
        "a/..",
        "u@a",
        "a%00b",
        "[::1%25eth0]",
        "::1",
        "a b",
        "a\tb",
        "a\\b",
        "a#b",
        "a?b",
        "http://a.test",
        "a:",
        "[::1",
        "::1]",
        "[g::1]",
        "\u{e9}.test",
        "a\"b",
        "a<b>",
    ] {
        all.push(host(&format!("Host: {value}\r\n"), if value == "a:" { Either } else { Refused }));
    }
    for value in
        ["A.TEST", "a.test.", "a.test:80", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]:80", "a:0", "xn--bcher-kva.test"]
    {
        all.push(host(&format!("Host: {value}\r\n"), Either));
    }
    all
}

fn bodies() -> Vec<Vector> {
    // A client of HTTP/1.0 need not name a host; what is sent on must.
    let mut all = vec![vector("GET /v{n} HTTP/1.0\r\n\r\n", Either)];
    for method in ["GET", "OPTIONS", "DELETE", "TRACE", "PUT", "PATCH", "PROPFIND"] {
        let with = |fields: &str, body: &str| {
            vector(format!("{method} /v{{n}} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}"), Once)
        };
        all.push(with(&format!("Content-Length: {}", SMUGGLED.len()), SMUGGLED));
        all.push(with(CHUNKED, &format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())));
        all.push(with("Content-Length: 0", ""));
    }
    for fields in ["Expect: 100-continue\r\nContent-Length: 5", "Expect: 100-Continue\r\nTransfer-Encoding: chunked"] {
        let body = if fields.contains("chunked") { "5\r\nhello\r\n0\r\n\r\n" } else { "hello" };
        all.push(post(fields, body, Either));
    }
    for fields in ["Expect: x 100-continue", "Expect: 200-ok", "Expect: 100-continue, x", "Expect:"] {
        all.push(post(format!("{fields}\r\nContent-Length: 5"), "hello", Either));
    }
    all.push(post("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5", "hello", Either));
    for fields in [
        "Upgrade: foo\r\nConnection: Upgrade",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Upgrade: websocket",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 777\r\nSec-WebSocket-Key: x",
        "Upgrade: TLS/1.0\r\nConnection: upgrade",
    ] {
        all.push(vector(format!("GET /v{{n}} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n"), Either));
        all.push(post(format!("{fields}\r\nContent-Length: 5"), "hello", Either));
    }
    for nominated in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Real-Ip",
        "content-LENGTH",
        "close, Content-Length",
        "keep-alive, host",
    ] {
        all.push(post(format!("Connection: {nominated}\r\nContent-Length: 5"), "hello", Refused));
    }
    for nominated in ["Cookie", "Authorization", "\"host\"", ":authority", "X-A, X-B", ",,,", "close"] {
        all.push(post(format!("Connection: {nominated}\r\nContent-Length: 5"), "hello", Either));
    }
    let many = (0..300).map(|at| format!("x-{at}")).collect::<Vec<_>>().join(", ");
    all.push(post(format!("Connection: {many}\r\nContent-Length: 5"), "hello", Either));
    all
}

pub(super) fn all_vectors() -> Vec<Vector> {
    [both_lengths(), lengths(), codings(), names(), line_ends(), chunk_sizes(), request_lines(), hosts(), bodies()]
        .into_iter()
        .flatten()
        .collect()
}
