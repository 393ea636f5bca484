use bytes::Bytes;

use super::*;
use crate::exchange::sample;
use crate::units::Name;

fn build(json: &str) -> Result<Compress, String> {
    let name = Name::from("a@file");
    Compress::build(&serde_json::from_str(json).unwrap(), &Kit { name: &name }).map_err(|problem| problem.to_string())
}

/// Sends a request and gives back what became of the response's head.
async fn pass(
    compress: &Compress,
    request: (&str, &[(&'static str, &'static str)]),
    response: (u16, &[(&'static str, &'static str)]),
) -> (ResponseHeader, Exchange) {
    let mut exchange = sample::exchange_for(request.0, "example.com");
    let mut head = sample::request(request.0, "/");
    for (name, value) in request.1 {
        head.append_header(*name, *value).unwrap();
    }
    assert!(matches!(compress.on_request(&mut head, &mut exchange).await, Flow::Continue));
    let mut answer = ResponseHeader::build(response.0, None).unwrap();
    for (name, value) in response.1 {
        answer.append_header(*name, *value).unwrap();
    }
    compress.on_response(&mut answer, &mut exchange);
    (answer, exchange)
}

const GZIP: (&str, &[(&str, &str)]) = ("GET", &[("Accept-Encoding", "gzip")]);
const HTML: (&str, &str) = ("Content-Type", "text/html; charset=utf-8");
const LONG: (&str, &str) = ("Content-Length", "1024");

#[tokio::test]
async fn the_head_tells_what_the_body_is() {
    let tagged = [HTML, LONG, ("ETag", "\"abc\""), ("Accept-Ranges", "bytes"), ("Vary", "Origin")];
    let (answer, mut exchange) = pass(&build("{}").unwrap(), GZIP, (200, &tagged)).await;
    for (name, value) in [("content-encoding", "gzip"), ("etag", "W/\"abc\""), ("transfer-encoding", "chunked")] {
        assert_eq!(answer.headers[name], value);
    }
    assert!(!answer.headers.contains_key("content-length") && !answer.headers.contains_key("accept-ranges"));
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Origin", "Accept-Encoding"]);
    let mut body = Some(Bytes::from_static(&[b'a'; 1024]));
    exchange.response_body.chunk(&mut body, true).unwrap();
    assert_eq!(&body.unwrap()[..2], [0x1f, 0x8b]);
}

#[tokio::test]
async fn encodes_only_what_may_be() {
    let plain = build("{}").unwrap();
    let only = build(r#"{"includedContentTypes":["text/html"]}"#).unwrap();
    let all_but = build(r#"{"excludedContentTypes":["Text/HTML;charset=x"],"minResponseBodyBytes":10}"#).unwrap();
    let default = build(r#"{"defaultEncoding":"br","encodings":["zstd","br"]}"#).unwrap();
    let none: &[(&str, &str)] = &[];
    // Middleware, request, response, coding, whether the answer varies.
    for (compress, request, response, coding, varies) in [
        (&plain, GZIP, (200, &[HTML, LONG][..]), Some("gzip"), true),
        (&plain, GZIP, (404, &[HTML, LONG]), Some("gzip"), true),
        (&plain, GZIP, (200, &[HTML]), Some("gzip"), true),
        (&plain, GZIP, (200, &[]), Some("gzip"), true),
        (&plain, GZIP, (200, &[HTML, ("Content-Length", "1023")]), None, true),
        (&plain, ("GET", none), (200, &[HTML, LONG]), None, true),
        (&plain, ("GET", &[("Accept-Encoding", "deflate")]), (200, &[HTML, LONG]), None, true),
        (&plain, ("HEAD", &[("Accept-Encoding", "gzip")]), (200, &[HTML, LONG]), None, true),
        (&plain, GZIP, (200, &[HTML, LONG, ("Content-Encoding", "br")]), None, true),
        (&plain, GZIP, (200, &[HTML, LONG, ("Content-Encoding", "identity")]), Some("gzip"), true),
        (&plain, GZIP, (206, &[HTML, LONG, ("Content-Range", "bytes 0-1023/9999")]), None, true),
        (&plain, GZIP, (304, &[HTML]), None, true),
        (&plain, GZIP, (204, &[]), None, false),
        (&plain, GZIP, (103, &[]), None, false),
        (&plain, GZIP, (101, &[]), None, false),
        (&plain, GZIP, (200, &[HTML, LONG, ("Cache-Control", "private, No-Transform")]), None, true),
        (&plain, GZIP, (200, &[HTML, LONG, ("Repr-Digest", "sha-256=:x:")]), None, true),
        (&plain, GZIP, (200, &[("Content-Type", "application/grpc+proto")]), None, false),
        (
            &default,
            ("POST", &[("Content-Type", "application/grpc")]),
            (502, &[("Content-Type", "text/plain"), LONG]),
            None,
            true,
        ),
        (&only, GZIP, (200, &[HTML, LONG]), Some("gzip"), true),
        (&only, GZIP, (200, &[("Content-Type", "text/plain"), LONG]), None, false),
        (&only, GZIP, (200, &[LONG]), None, false),
        (&all_but, GZIP, (200, &[HTML, LONG]), None, false),
        (&all_but, GZIP, (200, &[("Content-Type", "text/plain"), ("Content-Length", "10")]), Some("gzip"), true),
        (&default, ("GET", none), (200, &[HTML, LONG]), Some("br"), true),
        (&default, ("GET", &[("Accept-Encoding", "gzip, br, zstd")]), (200, &[HTML, LONG]), Some("zstd"), true),
        (
            &default,
            ("GET", &[("Accept-Encoding", "zstd;q=0.1"), ("Accept-Encoding", "br")]),
            (200, &[HTML, LONG]),
            Some("br"),
            true,
        ),
    ] {
        let (answer, exchange) = pass(compress, request, response).await;
        let found = answer.headers.get("content-encoding").and_then(|value| value.to_str().ok());
        let found = found.filter(|_| !exchange.response_body.is_empty());
        assert_eq!(found, coding, "{request:?} {response:?}");
        assert_eq!(answer.headers.contains_key("vary"), varies, "{request:?} {response:?}");
        assert_eq!(answer.headers.contains_key("content-length"), coding.is_none() && has_length(response.1));
    }
}

fn has_length(headers: &[(&str, &str)]) -> bool {
    headers.iter().any(|(name, _)| *name == "Content-Length")
}

#[tokio::test]
async fn events_go_out_at_once() {
    for response in [&[("Content-Type", "text/event-stream")][..], &[HTML]] {
        let (_, mut exchange) = pass(&build("{}").unwrap(), GZIP, (200, response)).await;
        let mut body = Some(Bytes::from_static(b"data: 1\n\n"));
        exchange.response_body.chunk(&mut body, false).unwrap();
        assert!(body.is_some_and(|body| body.len() > 10));
    }
}

#[test]
fn reads_traefiks_defaults_and_refuses_nonsense() {
    let settings: Settings = serde_json::from_str("{}").unwrap();
    assert_eq!((settings.min_response_body_bytes, settings.encodings.join(",")), (1024, "gzip,br,zstd".to_owned()));
    for (json, part) in [
        (r#"{"encodings":[]}"#, "encodings: is empty"),
        (r#"{"encodings":["gzip","deflate"]}"#, "encodings[1]: `deflate`"),
        (r#"{"defaultEncoding":"lzma"}"#, "defaultEncoding: `lzma`"),
        (r#"{"encodings":["gzip"],"defaultEncoding":"br"}"#, "defaultEncoding: is not one of"),
        (r#"{"minResponseBodyBytes":-1}"#, "minResponseBodyBytes: is negative"),
        (r#"{"excludedContentTypes":["text"]}"#, "excludedContentTypes[0]: `text`"),
        (r#"{"includedContentTypes":["text/html","a/b","a /c"]}"#, "includedContentTypes[2]"),
        (r#"{"includedContentTypes":["a/b"],"excludedContentTypes":["c/d"]}"#, "both set"),
    ] {
        let problem = build(json).unwrap_err();
        assert!(problem.contains(part), "{json}: {problem}");
    }
}
