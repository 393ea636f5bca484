//! gRPC through the gateway: streams in both directions, trailers, deadlines, cancellation, health, and what metrics tell of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::harness::calls::{Calls, message, status};
use crate::harness::gateway::Gateway;
use crate::harness::others::{Others, Program};
use crate::harness::peer::{Peer, soon, until};
use crate::harness::tls::{Authority, quoted, shake_hands};

/// A gateway whose `web` speaks with TLS and without, to servers of either kind.
pub(crate) async fn gateway(service: &str, middlewares: &str, authority: &Authority) -> Gateway {
    let pair = authority.certify(&["a.test"]);
    let ca = quoted(&authority.certificate);
    Gateway::setup()
        .entry_point("inside")
        .flag("metrics.prometheus.entryPoint=inside")
        .flag("metrics.prometheus.addRoutersLabels=true")
        .dynamic(format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}]}}
    secured: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [{middlewares}], tls: {{}}}}
  middlewares:
    small: {{compress: {{}}}}
    browsers: {{grpcWeb: {{allowOrigins: ['https://page.test']}}}}
  services: {{s: {{loadBalancer: {{{service}, serversTransport: t}}}}}}
  serversTransports: {{t: {{serverName: a.test, rootCAs: [{ca}], disableHTTP2: false}}}}
tls: {{stores: {{default: {{defaultCertificate: {{certFile: {}, keyFile: {}}}}}}}}}
",
            quoted(&pair.certificate),
            quoted(&pair.key),
        ))
        .start()
        .await
}

/// Something that a client speaks over.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection to `web`, with TLS if there is an authority, for `http/1.1` or `h2`.
pub(crate) async fn wire(gateway: &Gateway, tls: Option<&Authority>, protocol: &str) -> Box<dyn Wire> {
    let Some(authority) = tls else { return Box::new(gateway.connect().await.into_stream()) };
    let config = Arc::new(authority.client(&[protocol], None));
    let stream = shake_hands(&config, gateway.address(), "a.test").await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    Box::new(stream)
}

async fn client(gateway: &Gateway, tls: Option<&Authority>) -> SendRequest<Bytes> {
    let (client, connection) = soon(h2::client::handshake(wire(gateway, tls, "h2").await)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// On both sides of the gateway.
const GRPC: (&str, &str) = ("grpc", "grpc");

fn call(path: &str) -> Request<()> {
    let call = Request::post(format!("http://a.test{path}")).header("content-type", "application/grpc");
    call.header("te", "trailers").header("grpc-timeout", "7S").header("accept-encoding", "gzip").body(()).unwrap()
}

async fn next(body: &mut RecvStream) -> Option<Bytes> {
    let data = soon(body.data()).await?.unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    Some(data)
}

pub(crate) async fn metrics(gateway: &Gateway) -> String {
    Peer::connect(gateway.address_of("inside")).await.get("/metrics", "").await.text().to_owned()
}

/// Waits until so many calls with this code have been counted, in these protocols of the client and the server.
pub(crate) async fn counted(gateway: &Gateway, (asked, served): (&str, &str), code: u16, count: usize) {
    let line = format!("code=\"{code}\",method=\"POST\",protocol=\"{served}\",service=\"s@file\"}} {count}");
    let line = format!("traefik_service_requests_total{{{line}");
    let of_door = format!("code=\"{code}\",entrypoint=\"web\",method=\"POST\",protocol=\"{asked}\"}} {count}");
    let of_door = format!("traefik_entrypoint_requests_total{{{of_door}");
    let by = std::time::Instant::now() + crate::harness::peer::PATIENCE;
    loop {
        let page = metrics(gateway).await;
        if page.contains(&line) && page.contains(&of_door) {
            return;
        }
        let seen: Vec<_> = page.lines().filter(|line| line.starts_with("traefik_service_requests_total")).collect();
        assert!(std::time::Instant::now() < by, "{line}: {seen:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Messages go both ways as they come, whatever the middlewares; the status and what stands with it arrive unchanged.
#[tokio::test]
async fn calls_of_all_kinds() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let secured = authority.certify(&["a.test"]).server(&["h2"]);
    let (plain, secured) = (calls.start().await, calls.start_secured(secured).await);
    for (tls, url, middlewares) in [
        (None, &plain, ""),
        (None, &plain, "small"),
        (None, &secured, "small"),
        (Some(&authority), &plain, ""),
        (Some(&authority), &secured, ""),
    ] {
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), middlewares, &authority).await;
        let client = client(&gateway, tls).await;

        // Both sides stream: each message is answered before the next one is sent.
        let (response, mut send) =
            soon(client.clone().ready()).await.unwrap().send_request(call("/t.T/Echo"), false).unwrap();
        send.send_data(message(b"0"), false).unwrap();
        let mut response = soon(response).await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["x-timeout"]),
            (http::StatusCode::OK, &"7S".parse().unwrap())
        );
        assert_eq!(next(response.body_mut()).await.unwrap(), message(b"0"));
        for round in [&b"1"[..], b"22", b"333"] {
            send.send_data(message(round), false).unwrap();
            assert_eq!(next(response.body_mut()).await.unwrap(), message(round));
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(next(response.body_mut()).await, None);
        assert_eq!(soon(response.body_mut().trailers()).await.unwrap().unwrap(), status(0));
        counted(&gateway, GRPC, 0, 1).await;

        // One message each way, and a status without any.
        for (path, body, code) in [("/t.T/Broken", Some(message(b"half")), 13), ("/t.T/Absent", None, 5)] {
            let (response, mut send) =
                soon(client.clone().ready()).await.unwrap().send_request(call(path), false).unwrap();
            send.send_data(message(b"x"), true).unwrap();
            let mut response = soon(response).await.unwrap();
            assert_eq!(next(response.body_mut()).await, body, "{path}");
            let trailers = soon(response.body_mut().trailers()).await.unwrap();
            let told = trailers.as_ref().unwrap_or(response.headers());
            assert_eq!(told["grpc-status"], code.to_string(), "{path}");
            counted(&gateway, GRPC, code, 1).await;
        }

        // Who hangs up is heard by the server.
        let before = calls.cancelled.load(Ordering::SeqCst);
        let (response, mut send) =
            soon(client.clone().ready()).await.unwrap().send_request(call("/t.T/Endless"), false).unwrap();
        send.send_data(message(b"x"), true).unwrap();
        let mut response = soon(response).await.unwrap();
        assert_eq!(next(response.body_mut()).await.unwrap(), message(b"first"));
        send.send_reset(Reason::CANCEL);
        drop(response);
        until(|| calls.cancelled.load(Ordering::SeqCst) > before).await;
        counted(&gateway, GRPC, 2, 1).await;
    }
}

/// A server that answers before it has the whole request takes no more of it. A client over HTTP/1 that was told that its connection goes
/// on can send that, and its next request.
#[tokio::test]
async fn an_early_answer_keeps_the_connection() {
    let (calls, authority) = (Calls::default(), Authority::new());
    let url = calls.start().await;
    for middlewares in ["", "browsers"] {
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), middlewares, &authority).await;
        let mut peer = gateway.connect().await;
        for round in 0..3 {
            let kind = "application/grpc-web";
            peer.send(format!(
                "POST /t.T/Absent HTTP/1.1\r\nHost: a.test\r\nContent-Type: {kind}\r\nContent-Length: 2000\r\n\r\n"
            ))
            .await;
            let answer = peer.response_to("POST").await.unwrap();
            assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("5")), "{}", answer.head);
            assert_eq!(answer.header("connection"), Some("keep-alive"), "{}", answer.head);
            peer.send([b'x'; 1000]).await;
            peer.send([b'x'; 1000]).await;
            let after = peer.get("/text", "").await;
            assert_eq!((after.status, after.body.len()), (200, 5000), "round {round}: {}", gateway.log());
        }
    }
}

/// What the gateway has to say itself is plain HTTP, which clients map; gRPC knows no better word than 2 for it.
#[tokio::test]
async fn an_answer_of_the_gateway() {
    let gateway = gateway("servers: []", "", &Authority::new()).await;
    let (response, _) =
        soon(client(&gateway, None).await.ready()).await.unwrap().send_request(call("/t.T/Echo"), true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("grpc-status")), (503, None));
    counted(&gateway, GRPC, 2, 1).await;
}

/// Servers say by gRPC's own protocol whether they serve, with TLS and without.
#[tokio::test]
async fn servers_tell_their_health() {
    let authority = Authority::new();
    let pair = authority.certify(&["a.test"]);
    tell_their_health(&authority, async |calls| calls.start().await).await;
    tell_their_health(&authority, async |calls| calls.start_secured(pair.server(&["h2"])).await).await;
}

async fn tell_their_health(authority: &Authority, start: impl AsyncFn(&Calls) -> String) {
    let (well, other) = (Calls::default(), Calls::default());
    well.is_serving.store(true, Ordering::SeqCst);
    let (first, second) = (start(&well).await, start(&other).await);
    let service = format!(
        "servers: [{{url: '{first}'}}, {{url: '{second}'}}], healthCheck: {{mode: grpc, interval: 20ms, timeout: 5s}}"
    );
    let gateway = gateway(&service, "", authority).await;
    let up = |url: &str, up: u8| format!("traefik_service_server_up{{service=\"s@file\",url=\"{url}\"}} {up}");
    for (is_serving, expected) in [(false, 0), (true, 1), (false, 0)] {
        other.is_serving.store(is_serving, Ordering::SeqCst);
        let by = std::time::Instant::now() + crate::harness::peer::PATIENCE;
        loop {
            let page = metrics(&gateway).await;
            if page.contains(&up(&second, expected)) && page.contains(&up(&first, 1)) {
                break;
            }
            assert!(std::time::Instant::now() < by, "{expected}: {page}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    until(|| well.asked.load(Ordering::SeqCst) > 1 && other.asked.load(Ordering::SeqCst) > 1).await;
}

/// `compress` before an HTTP/2 server: a head that is all there is promises no coding, and trailers do not cut the body off.
#[tokio::test]
async fn encoded_answers_are_whole() {
    let url = Calls::default().start().await;
    let gateway = gateway(&format!("servers: [{{url: '{url}'}}]"), "small", &Authority::new()).await;
    let mut peer = gateway.connect().await;
    let empty = peer.get("/empty", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(
        (empty.status, empty.header("content-encoding"), &empty.body[..]),
        (200, None, &b""[..]),
        "{}",
        empty.head
    );
    let text = peer.get("/text", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((text.status, text.header("content-encoding")), (200, Some("gzip")), "{}", text.head);
    let mut plain = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&text.body[..]), &mut plain).unwrap();
    assert_eq!(plain, "text ".repeat(1000));
    let plain = peer.get("/text", "").await;
    assert_eq!((plain.header("content-encoding"), plain.text()), (None, &*"text ".repeat(1000)));
}

/// A client and a server that others wrote, with calls of all kinds, each side with TLS and without.
#[tokio::test]
async fn a_client_and_a_server_of_others() {
    let authority = Authority::new();
    let pair = authority.certify(&["a.test"]);
    for server_pair in [None, Some(&pair)] {
        let Some(server) = Others::start(Program::Grpc, server_pair).await else { return };
        let url = format!("{}://{}", if server_pair.is_some() { "https" } else { "h2c" }, server.address());
        let probe = "healthCheck: {mode: grpc, interval: 20ms, timeout: 5s}";
        let gateway = gateway(&format!("servers: [{{url: '{url}'}}], {probe}"), "small", &authority).await;
        for tls in [None, Some(&authority)] {
            let said = Program::Grpc.call(&gateway.address().to_string(), tls).await;
            let expected = "\
unary hello OK kept
large 3145728
status NOT_FOUND nö such thing
unknown UNIMPLEMENTED
deadline DEADLINE_EXCEEDED
left 3000
client streams abc
server streams n0 n1 n2 n3 n4
both stream 1 2 3
cancelled yes
";
            assert_eq!(said, expected, "TLS: {} {url}\n{}", tls.is_some(), gateway.log());
        }
    }
}
