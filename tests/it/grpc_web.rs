//! gRPC-Web (`grpcWeb`): clients written after the published protocol, in front of gRPC servers that know nothing of it.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request};
use tokio::net::TcpListener;

use crate::grpc::{Wire, counted, gateway, metrics, wire};
use crate::harness::calls::{Calls, message};
use crate::harness::gateway::Gateway;
use crate::harness::others::{Others, Program};
use crate::harness::peer::{Peer, soon, until};
use crate::harness::server::{Server, ok};
use crate::harness::tls::Authority;

/// How a client's bodies look.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Binary,
    Text,
}

impl Form {
    fn media_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        }
    }

    fn encode(self, frames: &[u8]) -> Bytes {
        match self {
            Self::Binary => Bytes::copy_from_slice(frames),
            Self::Text => STANDARD.encode(frames).into(),
        }
    }

    /// Takes padding wherever it stands between groups.
    fn decode(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Binary => body.to_vec(),
            Self::Text => {
                assert_eq!(body.len() % 4, 0, "whole groups");
                body.chunks(4).flat_map(|group| STANDARD.decode(group).expect("base64")).collect()
            }
        }
    }
}

/// An answer, taken apart.
#[derive(Debug)]
struct Told {
    status: u16,
    fields: HeaderMap,
    messages: Vec<Vec<u8>>,
    /// Those of the last frame.
    trailers: Option<HeaderMap>,
}

impl Told {
    fn new(status: u16, fields: HeaderMap, form: Form, body: &[u8]) -> Self {
        let mut told = Self { status, fields, messages: Vec::new(), trailers: None };
        let kind = told.field("content-type").unwrap_or_default();
        if !kind.starts_with("application/grpc") {
            return told;
        }
        let expected = form.media_type().trim_end_matches("+proto");
        assert_eq!(kind.split('+').next().unwrap(), expected);
        let body = form.decode(body);
        let mut rest = &body[..];
        while let [flags, a, b, c, d, behind @ ..] = rest {
            assert!(told.trailers.is_none(), "trailers are the last frame");
            let (content, behind) = behind.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            match flags {
                0 => told.messages.push(content.to_vec()),
                0x80 => told.trailers = Some(fields_of(std::str::from_utf8(content).expect("text"))),
                other => panic!("a frame of kind {other}"),
            }
            rest = behind;
        }
        assert!(rest.is_empty(), "half a frame: {rest:?}");
        told
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().expect("text"))
    }

    /// A trailer, wherever it stands.
    fn trailer(&self, name: &str) -> &str {
        let found = self.trailers.as_ref().unwrap_or(&self.fields).get(name);
        found.unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().expect("text")
    }
}

/// Lines of HTTP/1, each with its end. Names in lower case.
fn fields_of(lines: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split_terminator("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a line: {line:?}"));
        fields
            .append(HeaderName::from_lowercase(name.to_ascii_lowercase().as_bytes()).unwrap(), value.parse().unwrap());
    }
    fields
}

const MORE: &str = "X-Grpc-Web: 1\r\nX-User-Agent: grpc-web-javascript/0.1\r\nOrigin: https://page.test\r\n";

/// A call whose body goes out at once.
async fn call(wire: Box<dyn Wire>, protocol: &str, form: Form, path: &str, frames: &[u8]) -> Told {
    let body = form.encode(frames);
    if protocol == "h2" {
        let (mut client, connection) = soon(h2::client::handshake(wire)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::post(format!("http://a.test{path}"));
        *request.headers_mut().unwrap() = fields_of(MORE);
        let request = request.header("content-type", form.media_type()).body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(body, true).unwrap();
        let (head, mut stream) = soon(response).await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(data) = soon(stream.data()).await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        assert_eq!(soon(stream.trailers()).await.unwrap(), None, "browsers cannot read them");
        return Told::new(head.status.as_u16(), head.headers, form, &body);
    }
    let mut peer = Peer::of(wire);
    let (kind, length) = (form.media_type(), body.len());
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{MORE}\r\n"
    ))
    .await;
    peer.send(&body).await;
    let answer = peer.response_to("POST").await.unwrap();
    let (_, lines) = answer.head.split_once("\r\n").unwrap();
    Told::new(answer.status, fields_of(lines), form, &answer.body)
}

const FORMS: [Form; 2] = [Form::Binary, Form::Text];

/// A server that others wrote, with and without TLS; clients with and without TLS, over HTTP/1 and HTTP/2, in binary and in text.
#[tokio::test]
async fn every_client_and_a_server_of_others() {
    let authority = Authority::new();
    let pair = authority.certify(&["a.test"]);
    for server_pair in [None, Some(&pair)] {
        let Some(server) = Others::start(Program::Grpc, server_pair).await else { return };
        let url = format!("{}://{}", if server_pair.is_some() { "https" } else { "h2c" }, server.address());
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "browsers", &authority).await;
        for tls in [None, Some(&authority)] {
            for protocol in ["http/1.1", "h2"] {
                for form in FORMS {
                    let ask = async |path: &str, frames: &[u8]| {
                        call(wire(&gateway, tls, protocol).await, protocol, form, path, frames).await
                    };
                    let case = format!("{protocol} {form:?}, TLS: {} {url}", tls.is_some());

                    let told = ask("/t.T/Echo", &message(b"hello")).await;
                    assert_eq!(
                        (told.status, &told.messages),
                        (200, &vec![b"hello".to_vec()]),
                        "{case}\n{}",
                        gateway.log()
                    );
                    assert_eq!((told.trailer("grpc-status"), told.trailer("x-trailer")), ("0", "kept"), "{case}");
                    assert!(told.trailers.is_some() && told.field("content-length").is_none(), "{case}: {told:?}");
                    assert_eq!(told.field("access-control-allow-origin"), Some("https://page.test"), "{case}");

                    let told = ask("/t.T/Count", &message(b"n")).await;
                    assert_eq!(
                        told.messages,
                        ["n0", "n1", "n2", "n3", "n4"].map(|it| it.as_bytes().to_vec()),
                        "{case}"
                    );
                    assert_eq!(told.trailer("grpc-status"), "0", "{case}");

                    let large = vec![b'x'; 300 << 10];
                    let told = ask("/t.T/Echo", &message(&large)).await;
                    assert!(told.messages == [large], "{case}");

                    let told = ask("/t.T/Absent", &message(b"x")).await;
                    assert_eq!((told.status, told.messages.len()), (200, 0), "{case}");
                    assert_eq!(told.trailer("grpc-status"), "5", "{case}");
                    assert_eq!(told.trailer("grpc-message"), "n%C3%B6 such thing", "{case}");

                    let told = ask("/t.T/Unknown", &message(b"x")).await;
                    assert_eq!((told.trailer("grpc-status"), told.messages.len()), ("12", 0), "{case}");
                }
            }
        }
    }
}

/// Messages go both ways as they come, also where base64 is cut within a group; nothing waits for the next one.
#[tokio::test]
async fn messages_go_on_as_they_come() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let url = calls.start().await;
    let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "browsers", &authority).await;
    for form in FORMS {
        let mut peer = gateway.connect().await;
        let kind = form.media_type();
        peer.send(format!(
            "POST /t.T/Echo HTTP/1.1\r\nHost: a.test\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
        let mut answer = None;
        for round in [&b"1"[..], b"22", b"333"] {
            let sent = form.encode(&message(round));
            let (begin, rest) = sent.split_at(3);
            for part in [begin, rest] {
                peer.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).await;
            }
            if answer.is_none() {
                let head = peer.head().await.unwrap();
                assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
                answer = Some(head);
            }
            let mut heard = Vec::new();
            while heard != message(round) {
                heard.extend(form.decode(&peer.chunk().await.unwrap()));
            }
        }
        assert_eq!(calls.last.lock().unwrap()["te"], "trailers");
        peer.send("0\r\n\r\n").await;
        let last = form.decode(&peer.chunk().await.unwrap());
        assert_eq!(last[0], 0x80);
        assert_eq!(std::str::from_utf8(&last[5..]).unwrap(), "grpc-status: 0\r\nx-trailer: kept\r\n");
        assert_eq!(peer.chunk().await.unwrap(), b"");

        // Who hangs up is heard by the server.
        let before = calls.cancelled.load(Ordering::SeqCst);
        let mut peer = gateway.connect().await;
        let body = form.encode(&message(b"x"));
        let length = body.len();
        peer.send(format!(
            "POST /t.T/Endless HTTP/1.1\r\nHost: a.test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
        peer.send(&body).await;
        peer.head().await.unwrap();
        assert_eq!(form.decode(&peer.chunk().await.unwrap()), message(b"first"));
        drop(peer);
        until(|| calls.cancelled.load(Ordering::SeqCst) > before).await;
    }
}

/// An answer that is a head only says all in its fields; it is chunked, as nobody knows of the head that it is all there is.
#[tokio::test]
async fn a_status_without_messages_stands_in_the_head() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let url = calls.start().await;
    let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "browsers", &authority).await;
    for protocol in ["http/1.1", "h2"] {
        for form in FORMS {
            let told = call(wire(&gateway, None, protocol).await, protocol, form, "/t.T/Absent", &message(b"x")).await;
            assert!(told.trailers.is_none() && told.messages.is_empty(), "{told:?}");
            assert_eq!((told.field("grpc-status"), told.field("grpc-message")), (Some("5"), Some("no such thing")));
            let exposed = told.field("access-control-expose-headers").unwrap();
            assert!(exposed.contains("grpc-status") && exposed.contains("grpc-message"), "{exposed}");
        }
    }
    // The client's side is counted as it speaks, the server's as that one does.
    counted(&gateway, ("grpc-web", "grpc"), 5, 4).await;
    let router = "traefik_router_requests_total{code=\"5\",method=\"POST\",protocol=\"grpc-web\",router=\"all@file\",service=\"s@file\"} 4";
    let page = metrics(&gateway).await;
    assert!(page.contains(router), "{page}");
}

/// Pages of other origins, before and with a call; and what the gateway has to say itself.
#[tokio::test]
async fn pages_of_other_origins() {
    let authority = Authority::new();
    let gateway = gateway("servers: []", "browsers", &authority).await;
    let mut peer = gateway.connect().await;
    let mut ask = async |origin: &str, fields: &str| {
        let method = "Access-Control-Request-Method: POST";
        let head = format!("OPTIONS /t.T/Echo HTTP/1.1\r\nHost: a.test\r\nOrigin: {origin}\r\n{method}\r\n");
        peer.request(&format!("{head}Access-Control-Request-Headers: {fields}\r\n\r\n")).await
    };
    let granted = ask("https://page.test", "content-type,x-grpc-web,authorization").await;
    assert_eq!(granted.status, 204, "{}", granted.head);
    for (name, value) in [
        ("access-control-allow-origin", "https://page.test"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "content-type,x-grpc-web,authorization"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(granted.header(name), Some(value), "{}", granted.head);
    }
    let strange = ask("https://other.test", "x-grpc-web").await;
    assert_eq!((strange.status, strange.header("access-control-allow-origin")), (204, None), "{}", strange.head);
    // No preflight of a call: it goes to the server, of which there is none.
    assert_eq!(ask("https://page.test", "content-type").await.status, 503);

    // Clients read the status; a page may, too.
    for form in FORMS {
        let told = call(wire(&gateway, None, "h2").await, "h2", form, "/t.T/Echo", &message(b"x")).await;
        assert_eq!((told.status, told.field("content-type")), (503, Some("text/plain; charset=utf-8")));
        assert_eq!(told.field("access-control-allow-origin"), Some("https://page.test"));
        assert!(told.field("access-control-expose-headers").unwrap().contains("x-portcullis-error"));
    }
}

/// Text that is none gets an answer, and the server no end of a request that it could take for a whole one.
#[tokio::test]
async fn text_that_is_none() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let server = Server::start(|_| ok("heard")).await;
    for url in [calls.start().await, server.url()] {
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "browsers", &authority).await;
        for body in ["!!!!", "AAAAAAE", "AAAAAAFh="] {
            let mut peer = gateway.connect().await;
            let length = body.len();
            let answer = peer
                .request(&format!(
                    "POST /t.T/Join HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/grpc-web-text\r\nContent-Length: {length}\r\n\r\n{body}"
                ))
                .await;
            let code = answer.header("x-portcullis-error");
            assert_eq!((answer.status, code), (400, Some("bad-request")), "{body} {url}: {}", answer.head);
        }
    }
    until(|| server.received().iter().all(|request| !request.whole)).await;
}

/// What was read of a body for an attempt that failed is read anew for the next one, also if that one ended within a group of base64.
#[tokio::test]
async fn another_attempt_gets_the_same_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway::with(format!(
        "http:
  routers: {{all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [again, browsers]}}}}
  middlewares:
    again: {{retry: {{attempts: 2, retryNonIdempotentMethod: true}}}}
    browsers: {{grpcWeb: {{}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}}}
"
    ))
    .await;
    let body = Form::Text.encode(&message(b"abcd"));
    let (begin, rest) = body.split_at(7);
    let kind = Form::Text.media_type();
    let mut client = gateway.connect().await;
    client
        .send(format!(
            "POST /t.T/Echo HTTP/1.1\r\nHost: a.test\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    client.send(begin).await;
    // The whole group of what has been sent is here; then the server breaks.
    let mut first = Peer::of(soon(listener.accept()).await.unwrap().0);
    let head = first.request_head().await;
    assert_eq!(first.chunk().await.unwrap(), message(b"abcd")[..3]);
    let head = head.to_ascii_lowercase();
    for (line, is_there) in [
        ("content-type: application/grpc+proto", true),
        ("transfer-encoding: chunked", true),
        ("content-length", false),
    ] {
        assert_eq!(head.contains(&format!("\n{line}")), is_there, "{head}");
    }
    drop(first);
    let mut second = Peer::of(soon(listener.accept()).await.unwrap().0);
    client.send(rest).await;
    second.request_head().await;
    let mut heard = Vec::new();
    loop {
        match second.chunk().await.unwrap() {
            chunk if chunk.is_empty() => break,
            chunk => heard.extend(chunk),
        }
    }
    assert_eq!(heard, message(b"abcd"));
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.status, 200);
}
