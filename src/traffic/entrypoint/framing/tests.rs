use proptest::prelude::*;

use super::*;

fn verdict(head: &str) -> Result<Framing, Fault> {
    judge(head.as_bytes(), &Limits { target_bytes: 64, header_fields: 12, ..Limits::default() })
}

/// The verdict on a head with these lines between a good request line, a good Host and the end.
fn with(fields: &str) -> Result<Body, Fault> {
    verdict(&format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n")).map(|framing| framing.body)
}

fn line(line: &str) -> Result<(), Fault> {
    verdict(&format!("{line}\r\nHost: a.test\r\n\r\n")).map(|_| ())
}

fn host(host: &str) -> Result<(), Fault> {
    verdict(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).map(|_| ())
}

#[test]
fn bodies_are_counted_or_chunked() {
    for (fields, body) in [
        ("Accept: */*", Body::Length(0)),
        ("Content-Length: 0", Body::Length(0)),
        ("content-length:  42 ", Body::Length(42)),
        ("Content-Length: 9223372036854775807", Body::Length(i64::MAX as u64)),
        ("Transfer-Encoding: chunked", Body::Chunked),
        ("Transfer-Encoding: Chunked", Body::Chunked),
        ("Transfer-Encoding:\tchunked \t", Body::Chunked),
    ] {
        assert_eq!(with(fields), Ok(body), "{fields}");
    }
}

#[test]
fn lengths_are_plain_numbers() {
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
        "00000000000000000000",
        "5 5",
        "5, 6",
        "5, 5",
        "\t5",
        "9223372036854775808",
        "18446744073709551616",
        "5\u{b}",
        "five",
    ] {
        assert_eq!(with(&format!("Content-Length: {value}")), Err(Fault::BadRequest), "{value:?}");
    }
    for fields in
        ["Content-Length: 5\r\nContent-Length: 5", "Content-Length: \r\nContent-Length: 5", "Content_Length: 5"]
    {
        assert_eq!(with(fields), Err(Fault::BadRequest), "{fields:?}");
    }
}

#[test]
fn codings_are_chunked_or_refused() {
    use Fault::{BadRequest, TransferCoding};
    for (value, fault) in [
        ("xchunked", TransferCoding),
        ("chunked x", BadRequest),
        ("cow, chunked", TransferCoding),
        ("chunked, cow", BadRequest),
        ("identity", TransferCoding),
        ("gzip, chunked", TransferCoding),
        (",chunked", BadRequest),
        ("chunked,", BadRequest),
        ("chunked, chunked", BadRequest),
        ("", BadRequest),
        ("\"chunked\"", BadRequest),
        ("'chunked'", TransferCoding),
        ("chunk", TransferCoding),
        ("chunked;q=1", BadRequest),
        ("=?utf-8?B?Y2h1bmtlZA==?=", BadRequest),
        ("\u{b}chunked", BadRequest),
        ("chunked\u{c}", BadRequest),
        ("chunked\0", BadRequest),
        ("chunked\u{7f}", BadRequest),
        ("chunked\u{e9}", BadRequest),
        ("chunked\r", BadRequest),
    ] {
        assert_eq!(with(&format!("Transfer-Encoding: {value}")), Err(fault), "{value:?}");
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer_Encoding: chunked",
        "Transfer.Encoding: chunked",
    ] {
        assert_eq!(with(fields), Err(BadRequest), "{fields:?}");
    }
    assert_eq!(verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(BadRequest));
}

#[test]
fn names_are_tokens_without_tricks() {
    for fields in [
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: a\r\n Y: b",
        "X: a\r\n\tb",
        "Transfer Encoding: chunked",
        "Transfer-%45ncoding: chunked",
        "Transfer\\-Encoding: chunked",
        "X\0: a",
        "X\u{1}: a",
        "X\u{e9}: a",
        ": x",
        "Content-Length 10",
        "\u{feff}X: a",
        "X\u{a0}: a",
    ] {
        assert_eq!(with(fields), Err(Fault::BadRequest), "{fields:?}");
    }
    assert_eq!(with("X!#$&'*+-.^_`|~9: \u{e9}\t!"), Ok(Body::Length(0)));
}

#[test]
fn lines_end_with_crlf() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: x\nTE: chunked\r\n\r\n",
    ] {
        assert_eq!(verdict(head), Err(Fault::BadRequest), "{head:?}");
    }
}

#[test]
fn request_lines_have_one_reading() {
    use Fault::{BadRequest, HttpVersion, MethodRefused, TargetTooLong};
    let long_target = format!("GET /{} HTTP/1.1", "a".repeat(64));
    let long_method = format!("{} / HTTP/1.1", "A".repeat(33));
    for (request, expected) in [
        ("GET / HTTP/1.1", Ok(())),
        ("GET /?a=[{b:1}]|^`\\ HTTP/1.1", Ok(())),
        ("OPTIONS * HTTP/1.1", Ok(())),
        ("M-SEARCH / HTTP/1.1", Ok(())),
        ("GET //evil HTTP/1.1", Ok(())),
        ("GET http://a.test/x HTTP/1.1", Ok(())),
        ("GET HTTP://A.test?x HTTP/1.1", Ok(())),
        ("GET http://b.test/x HTTP/1.1", Err(BadRequest)),
        ("GET http://u@a.test/x HTTP/1.1", Err(BadRequest)),
        ("GET http:/a.test HTTP/1.1", Err(BadRequest)),
        ("GET ftp://a.test/ HTTP/1.1", Err(BadRequest)),
        ("GET /", Err(BadRequest)),
        ("GET / HTTP/1.32", Err(BadRequest)),
        ("GET / HTTP/1.2", Err(HttpVersion)),
        ("GET / HTTP/2.0", Err(HttpVersion)),
        ("GET / HTTP/0.9", Err(HttpVersion)),
        ("GET / http/1.1", Err(BadRequest)),
        ("GET / HTTP/01.1", Err(BadRequest)),
        ("GET / HTTP/1.1 HTTP/1.1", Err(BadRequest)),
        ("GET\t/ HTTP/1.1", Err(BadRequest)),
        ("GET  / HTTP/1.1", Err(BadRequest)),
        ("GET /  HTTP/1.1", Err(BadRequest)),
        ("GET /a b HTTP/1.1", Err(BadRequest)),
        ("GET HTTP/1.1", Err(BadRequest)),
        (" GET / HTTP/1.1", Err(BadRequest)),
        ("get / HTTP/1.1", Err(BadRequest)),
        ("G\u{1}T / HTTP/1.1", Err(BadRequest)),
        ("PRI * HTTP/2.0", Err(HttpVersion)),
        ("PRI * HTTP/1.1", Err(BadRequest)),
        ("GET * HTTP/1.1", Err(BadRequest)),
        ("GET a.test HTTP/1.1", Err(BadRequest)),
        ("CONNECT a.test:80 HTTP/1.1", Err(MethodRefused)),
        ("GET /#frag HTTP/1.1", Err(BadRequest)),
        ("GET /<a> HTTP/1.1", Err(BadRequest)),
        ("GET /?\"a\" HTTP/1.1", Err(BadRequest)),
        ("GET /`a` HTTP/1.1", Err(BadRequest)),
        ("GET /\u{e9} HTTP/1.1", Err(BadRequest)),
        ("GET /\u{7f} HTTP/1.1", Err(BadRequest)),
        (long_target.as_str(), Err(TargetTooLong)),
        (long_method.as_str(), Err(BadRequest)),
    ] {
        assert_eq!(line(request), expected, "{request:?}");
    }
}

#[test]
fn hosts_are_authorities() {
    for (text, good) in [
        ("a.test", true),
        ("A.Test.", true),
        ("a:1", true),
        ("a:65535", true),
        ("127.0.0.1:80", true),
        ("[::1]", true),
        ("[::1]:80", true),
        ("[::ffff:1.2.3.4]", true),
        ("a_b", true),
        ("", false),
        ("a,b", false),
        ("a:b:80", false),
        ("a:x", false),
        ("a:99999", false),
        ("a:0", false),
        ("a:", false),
        ("a/..", false),
        ("a@b", false),
        ("a%00b", false),
        ("[fe80::1%25eth0]", false),
        ("[::1", false),
        ("::1", false),
        ("a b", false),
        ("[::1]x", false),
        ("a\u{e9}", false),
        (":80", false),
        ("a?b", false),
        ("a#b", false),
    ] {
        let expected = if good { Ok(()) } else { Err(Fault::BadRequest) };
        assert_eq!(host(text), expected, "{text:?}");
    }
    assert_eq!(verdict("GET / HTTP/1.1\r\n\r\n"), Err(Fault::BadRequest));
    assert!(verdict("GET / HTTP/1.0\r\n\r\n").is_ok());
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Err(Fault::BadRequest));
}

#[test]
fn connection_names_nothing_that_must_stay() {
    for (value, good) in [
        ("close", true),
        ("keep-alive, Upgrade", true),
        ("x-custom, te", true),
        ("cookie", true),
        ("authorization", true),
        ("", true),
        ("host", false),
        ("Content-Length", false),
        ("transfer-encoding", false),
        ("X-Forwarded-For", false),
        ("x_forwarded_host", false),
        ("X-Forwarded-Tls-Client-Cert", false),
        ("X-Real-Ip", false),
        ("forwarded", false),
        (":path", false),
        ("\"close\"", false),
        ("a,b,c,d,e,f,g,h,i", true),
        ("a,b,c,d,e,f,g,h,i,j", false),
    ] {
        let expected = if good { Ok(Body::Length(0)) } else { Err(Fault::BadRequest) };
        assert_eq!(with(&format!("Connection: {value}")), expected, "{value:?}");
    }
}

#[test]
fn only_one_expectation_is_known() {
    assert_eq!(with("Expect: 100-Continue\r\nContent-Length: 5"), Ok(Body::Length(5)));
    for fields in
        ["Expect: x 100-continue", "Expect: 200-ok", "Expect: 100-continue\r\nExpect: 100-continue", "Expect:"]
    {
        assert_eq!(with(fields), Err(Fault::Expectation), "{fields:?}");
    }
    assert!(verdict("GET / HTTP/1.0\r\nExpect: x\r\n\r\n").is_ok());
}

#[test]
fn fields_are_counted() {
    assert_eq!(with(&["A: b"; 11].join("\r\n")), Ok(Body::Length(0)));
    assert_eq!(with(&["A: b"; 12].join("\r\n")), Err(Fault::HeadTooLarge));
}

#[test]
fn upgrades_need_both_fields() {
    let upgrade = |fields: &str| verdict(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")).unwrap().upgrade;
    assert!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket"));
    assert!(!upgrade("Upgrade: websocket"));
    assert!(!upgrade("Connection: upgrade"));
}

#[test]
fn connections_are_kept_by_version_and_wish() {
    for (version, connection, kept) in [
        ("1.1", "x", true),
        ("1.1", "Close", false),
        ("1.1", "keep-alive, close", false),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
        ("1.0", "keep-alive, close", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
        assert_eq!(verdict(&head).unwrap().keep_alive, kept, "{version} {connection}");
    }
}

#[test]
fn origin_form_is_the_head_without_the_authority() {
    for (target, origin) in
        [("http://a.test/x?y", "/x?y"), ("http://a.test?y", "?y"), ("https://a.test", ""), ("/x", "/x")]
    {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let range = verdict(&head).unwrap().authority.unwrap_or(4..4);
        let mut rest = head.clone();
        rest.replace_range(range, "");
        assert_eq!(rest, format!("GET {origin} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    }
}

proptest! {
    #[test]
    fn never_panics(head: Vec<u8>) {
        let _ = judge(&head, &Limits::default());
    }

    #[test]
    fn nor_on_near_misses(head in "(GET|POST|OPTIONS) (/|\\*|http://a)[a-z:/?@]{0,6} HTTP/1.[01]\r\n((Host|Connection|Transfer-Encoding|Content-Length|Expect):[ a-z0-9,:\\[\\]\t]{0,12}\r\n){0,4}\r\n") {
        let _ = judge(head.as_bytes(), &Limits::default());
    }
}
